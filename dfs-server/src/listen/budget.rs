//! Bytes of request bodies that a listener holds, and whose they are.
//!
//! A call holds one of its messages at a time, the longest so far. Small calls and large ones have budgets of their own, so
//! that neither many reports at once nor somebody who sends large calls slowly keeps heartbeats out.
//!
//! Of each budget one address may have a quarter, and one IPv6 network (/64) three quarters. A network may be a whole cluster:
//! a quarter would have all its reports wait for each other. But who has one has 2^64 addresses, so that a part for
//! each address alone would be no bound.
//!
//! A message has a time: [`GRACE`], and what its length takes at [`LEAST_RATE`]. Otherwise a few bytes now and then would keep its
//! part of the budget for as long as its peer likes. Only time in which we wait for the peer counts: between two messages
//! of a stream we may be at work on the first.
//!
//! Lock: each budget's; held for a few instructions.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dfs_proto::GRPC_MESSAGE_MAX;
use parking_lot::Mutex;

use super::door::neighbourhood;

/// Bytes up to which a call is small. Nearly all calls are.
const SMALL_CALL: usize = 16 * 1024;
/// Bytes of small calls: four thousand of the longest, a hundred thousand heartbeats.
const SMALL_BYTES_MAX: usize = 64 << 20;
/// Bytes of large ones: 64 messages of the greatest length.
const LARGE_BYTES_MAX: usize = 64 * GRPC_MESSAGE_MAX;
/// Length of a gRPC message's head: a flag, and the length of the rest in four bytes.
const HEAD: usize = 5;
/// Waiting that any message may cost: as long as a peer may be silent.
pub(super) const GRACE: Duration = Duration::from_secs(30);
/// Bytes per second that a message must come at beyond that: a minute for the longest. Links of a cluster are a thousand
/// times as fast.
pub(super) const LEAST_RATE: usize = 64 * 1024;

/// Bytes that may be held: in all, of one address and of one network.
#[derive(Debug)]
struct Budget {
    most: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    /// By address, and by network where that is more than one.
    parts: HashMap<IpAddr, usize>,
}

impl Budget {
    fn new(most: usize) -> Self {
        Self { most, held: Mutex::default() }
    }

    /// Takes bytes for an address; false when that is too much, and nothing is taken.
    fn take(&self, address: IpAddr, bytes: usize) -> bool {
        let mut held = self.held.lock();
        let has_room = |(whose, most)| held.parts.get(&whose).copied().unwrap_or(0) + bytes <= most;
        let fits = held.all + bytes <= self.most && self.parts(address).all(has_room);
        if fits && bytes > 0 {
            held.all += bytes;
            for (whose, _) in self.parts(address) {
                *held.parts.entry(whose).or_default() += bytes;
            }
        }
        fits
    }

    fn give_back(&self, address: IpAddr, bytes: usize) {
        let mut held = self.held.lock();
        held.all -= bytes;
        for (whose, _) in self.parts(address) {
            if let Some(part) = held.parts.get_mut(&whose) {
                *part -= bytes;
                if *part == 0 {
                    held.parts.remove(&whose);
                }
            }
        }
    }

    /// Whose parts an address's bytes count in, and how large they may be.
    fn parts(&self, address: IpAddr) -> impl Iterator<Item = (IpAddr, usize)> + use<> {
        let (of_address, of_network) = (self.most / 4, self.most - self.most / 4);
        let network = neighbourhood(address);
        [Some((address, of_address)), (network != address).then_some((network, of_network))].into_iter().flatten()
    }
}

/// The budgets of a listener.
#[derive(Debug)]
pub(super) struct Budgets {
    small: Budget,
    large: Budget,
}

impl Default for Budgets {
    fn default() -> Self {
        Self { small: Budget::new(SMALL_BYTES_MAX), large: Budget::new(LARGE_BYTES_MAX) }
    }
}

impl Budgets {
    fn of(&self, bytes: usize) -> &Budget {
        if bytes <= SMALL_CALL { &self.small } else { &self.large }
    }
}

/// What a call holds, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budgets: Arc<Budgets>,
    address: IpAddr,
    /// Bytes. Changed by the one task that reads the body.
    held: AtomicUsize,
}

impl Charge {
    pub(super) fn new(budgets: &Arc<Budgets>, address: IpAddr) -> Self {
        Self { budgets: Arc::clone(budgets), address: address.to_canonical(), held: AtomicUsize::new(0) }
    }

    /// The call holds a message of which so much has arrived; false when that is too much, and nothing has changed.
    pub(super) fn raise_to(&self, bytes: usize) -> bool {
        let before = self.held.load(Ordering::Relaxed);
        if bytes <= before {
            return true;
        }
        let (from, to) = (self.budgets.of(before), self.budgets.of(bytes));
        let moves = !std::ptr::eq(from, to);
        if !to.take(self.address, if moves { bytes } else { bytes - before }) {
            return false;
        }
        if moves {
            from.give_back(self.address, before);
        }
        self.held.store(bytes, Ordering::Relaxed);
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let held = self.held.load(Ordering::Relaxed);
        if held > 0 {
            self.budgets.of(held).give_back(self.address, held);
        }
    }
}

/// Follows a body from one message to the next.
#[derive(Debug, Default)]
pub(super) struct MessageMeter {
    /// Bytes of the current message that have arrived, its head included.
    arrived: usize,
    /// The part of its length that is known.
    length: u32,
    /// Time for which more of it was awaited.
    waited: Duration,
}

impl MessageMeter {
    /// More of the body has arrived; gives how many bytes of the current message are there now.
    pub(super) fn pass(&mut self, mut data: &[u8]) -> usize {
        while let Some(&first) = data.first() {
            if self.arrived >= HEAD && self.left() == 0 {
                *self = Self::default();
            }
            let step = if self.arrived < HEAD {
                if self.arrived > 0 {
                    self.length = self.length << 8 | u32::from(first);
                }
                1
            } else {
                self.left().min(data.len())
            };
            self.arrived += step;
            data = &data[step..];
        }
        self.arrived
    }

    /// More of the body was awaited for so long.
    pub(super) fn on_waited(&mut self, time: Duration) {
        if self.is_in_a_message() {
            self.waited += time;
        }
    }

    /// How much longer the rest of the current message may be awaited, or the beginning of the next.
    pub(super) fn patience(&self) -> Duration {
        if !self.is_in_a_message() {
            return GRACE;
        }
        // Who announces more than it may send is refused for that.
        let length = (self.length as usize).min(GRPC_MESSAGE_MAX);
        let most = GRACE + Duration::from_millis((length * 1000 / LEAST_RATE) as u64);
        most.saturating_sub(self.waited)
    }

    fn is_in_a_message(&self) -> bool {
        self.arrived > 0 && (self.arrived < HEAD || self.left() > 0)
    }

    /// Bytes of the current message that are still to come; its head is there.
    fn left(&self) -> usize {
        (HEAD + self.length as usize).saturating_sub(self.arrived)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn host(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    #[test]
    fn large_calls_leave_room_for_small_ones_and_for_other_addresses() {
        let budgets = Arc::new(Budgets::default());
        let call = |last| Charge::new(&budgets, host(last));
        let full = |last| {
            let call = call(last);
            // As it arrives.
            let is_in = (SMALL_CALL / 2..=GRPC_MESSAGE_MAX).step_by(SMALL_CALL / 2).all(|len| call.raise_to(len));
            is_in.then_some(call)
        };
        let mut held: Vec<Charge> = (0..16).map_while(|_| full(1)).collect();
        assert_eq!(held.len(), 16, "a quarter");
        for _ in 0..100 {
            assert!(full(1).is_none(), "its quarter is taken");
        }
        held.extend([2, 3, 4].into_iter().flat_map(|last| (0..16).map_while(move |_| full(last))));
        assert_eq!(held.len(), 64, "what was refused does not count");
        for last in 1..=5 {
            assert!(full(last).is_none(), "all of it is taken");
            let heartbeats: Vec<Charge> = (0..100).map(|_| call(last)).collect();
            assert!(heartbeats.iter().all(|call| call.raise_to(300)));
        }
        drop(held);
        assert!(full(1).is_some());
        for budget in [&budgets.small, &budgets.large] {
            let held = budget.held.lock();
            assert!(held.all == 0 && held.parts.is_empty(), "{held:?}");
        }
    }

    #[test]
    fn small_calls_of_one_address_leave_room_for_others() {
        let budgets = Arc::new(Budgets::default());
        let call = |last| Some(Charge::new(&budgets, host(last))).filter(|call| call.raise_to(SMALL_CALL));
        let held: Vec<Charge> = (0..).map_while(|_| call(1)).collect();
        assert_eq!(held.len(), SMALL_BYTES_MAX / 4 / SMALL_CALL);
        assert!(call(2).is_some());
    }

    #[test]
    fn ipv6_network_has_more_than_one_address_and_less_than_all() {
        let budgets = Arc::new(Budgets::default());
        let call = |network, last| {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, last);
            Some(Charge::new(&budgets, address.into())).filter(|call| call.raise_to(GRPC_MESSAGE_MAX))
        };
        let of_host = |last| (0..).map_while(|_| call(7, last)).collect::<Vec<Charge>>();
        let held: Vec<_> = (1..=9).map(of_host).collect();
        let lens: Vec<_> = held.iter().map(Vec::len).collect();
        assert_eq!(lens, [16, 16, 16, 0, 0, 0, 0, 0, 0]);
        assert!(call(8, 1).is_some(), "another network has room");
        drop(held);
        assert!(call(7, 9).is_some());
        assert!(budgets.large.held.lock().parts.is_empty());
        // An IPv4 host is the same in both notations.
        let mapped = Charge::new(&budgets, "::ffff:10.0.0.1".parse().unwrap());
        assert_eq!(mapped.address, host(1));
    }

    #[test]
    fn message_that_trickles_has_an_end() {
        let second = Duration::from_secs(1);
        let mut meter = MessageMeter::default();
        let head = |length: usize| [&[0][..], &u32::try_from(length).unwrap().to_be_bytes()].concat();
        // Whoever is asked nothing may be silent as before.
        meter.on_waited(29 * second);
        assert_eq!(meter.patience(), GRACE);
        meter.pass(&head(10 * LEAST_RATE));
        assert_eq!(meter.patience(), GRACE + 10 * second);
        let mut waits = 0;
        while !meter.patience().is_zero() {
            meter.on_waited(second);
            meter.pass(&[1]);
            waits += 1;
        }
        assert_eq!(waits, 40);
        // All of it has come: the next one has its own time, and its head alone is no message.
        meter.pass(&vec![1; 10 * LEAST_RATE - waits]);
        assert_eq!(meter.patience(), GRACE);
        meter.on_waited(60 * second);
        meter.pass(&[0, 0]);
        assert_eq!(meter.patience(), GRACE);
        meter.on_waited(10 * second);
        meter.pass(&[0, 0, 1]);
        assert_eq!(meter.patience(), GRACE - 10 * second);
        // No announcement buys more time than the longest message has.
        let mut meter = MessageMeter::default();
        meter.pass(&[0, 255, 255, 255, 255]);
        assert_eq!(meter.patience(), GRACE + 64 * second);
    }

    #[test]
    fn stream_holds_the_longest_of_its_messages_however_they_are_cut() {
        let lengths = [3_usize, 0, 1_000, 10, 0, 0, 999];
        let mut body = Vec::new();
        for len in lengths {
            body.push(0);
            body.extend(u32::try_from(len).unwrap().to_be_bytes());
            body.resize(body.len() + len, 7);
        }
        for piece in [1, 2, 5, 6, 333, body.len()] {
            let mut meter = MessageMeter::default();
            let longest = body.chunks(piece).map(|data| meter.pass(data)).max();
            let last = HEAD + lengths[lengths.len() - 1];
            assert_eq!(meter.arrived, last, "pieces of {piece}");
            assert!(longest >= Some(last) && longest <= Some(HEAD + 1_000), "pieces of {piece}: {longest:?}");
        }
        // One that never ends.
        let mut meter = MessageMeter::default();
        meter.pass(&[0, 255, 255, 255, 255]);
        assert_eq!(meter.pass(&[0; 10_000]), 10_000 + HEAD);
    }
}
