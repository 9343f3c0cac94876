//! Who is let in and who has to go: the places of one listener, counted in all and by address.
//!
//! Every connection holds a [`Pass`]. While it serves a call it is busy ([`Pass::busy`]); every step of a call is progress.
//! When all places are taken, a newcomer gets that of a connection nobody misses, in this order: those that never asked
//! for anything, idle ones, stalled calls; among equals the one that has been quiet longest. Who has to go may say farewell
//! first, and the newcomer asks again meanwhile: the door itself never waits, so nobody waits behind a newcomer that finds no
//! place. An address at its limit can only replace its own connections. The newcomer is refused
//! when none of those that it could get has to go: all are at work. Strangers that hold places and say nothing keep nobody out for
//! longer than it takes them to go.
//!
//! Lock: the table; it is held for moments. Hooks that end a connection are called under it and must not block or come back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

/// How many connections there may be, and how long they may be idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// In all.
    pub(crate) total: usize,
    /// Of one address.
    pub(crate) per_address: usize,
    /// Until the first request.
    pub(crate) first_request: Duration,
    /// Between requests.
    pub(crate) idle: Duration,
    /// How long a call may be without progress.
    pub(crate) calls: CallPatience,
}

/// How long a call may move nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallPatience {
    /// Whoever serves it sees to that.
    Its,
    /// After `stalled` it loses its place when places are short, after `hung` in any case.
    Ends { stalled: Duration, hung: Duration },
}

impl Limits {
    /// One address may have three quarters of all places: what is behind one, a host full of mounts or a gateway, may be most
    /// of the cluster, and is never all of it.
    pub(crate) fn of(total: usize, first_request: Duration, idle: Duration, calls: CallPatience) -> Self {
        Self { total, per_address: total - total / 4, first_request, idle, calls }
    }
}

/// A connection as the door sees it.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// It has asked for something.
    is_used: bool,
    /// A call is being served.
    is_busy: bool,
    /// Time since it was opened, or since anything moved.
    quiet: Duration,
}

impl Standing {
    /// The higher, the sooner its place goes to another; `None`: it stays.
    fn expendability(self, calls: CallPatience) -> Option<(u8, Duration)> {
        match (self.is_busy, self.is_used) {
            (false, false) => Some((2, self.quiet)),
            (false, true) => Some((1, self.quiet)),
            (true, _) => match calls {
                CallPatience::Ends { stalled, .. } if self.quiet >= stalled => Some((0, self.quiet)),
                CallPatience::Ends { .. } | CallPatience::Its => None,
            },
        }
    }

    /// Whether it goes although there is room.
    fn is_overdue(self, limits: &Limits) -> bool {
        let most = match (self.is_busy, self.is_used) {
            (false, false) => limits.first_request,
            (false, true) => limits.idle,
            (true, _) => match limits.calls {
                CallPatience::Ends { hung, .. } => hung,
                CallPatience::Its => return false,
            },
        };
        self.quiet >= most
    }
}

type EndHook = Box<dyn FnOnce() + Send>;

struct Entry {
    neighbourhood: IpAddr,
    opened: Instant,
    /// Milliseconds from `opened` to the last progress.
    progress: AtomicU64,
    /// Calls being served.
    calls: AtomicU32,
    is_used: AtomicBool,
    is_leaving: AtomicBool,
    end: Mutex<Option<EndHook>>,
}

impl Entry {
    fn on_progress(&self) {
        let since_opened = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress.store(since_opened, Ordering::Relaxed);
    }

    fn standing(&self, now: Instant) -> Standing {
        let quiet_since = Duration::from_millis(self.progress.load(Ordering::Relaxed));
        Standing {
            is_used: self.is_used.load(Ordering::Relaxed),
            is_busy: self.calls.load(Ordering::Relaxed) > 0,
            quiet: now.saturating_duration_since(self.opened).saturating_sub(quiet_since),
        }
    }

    fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
        if let Some(end) = self.end.lock().take() {
            end();
        }
    }
}

/// Connections of one neighbourhood.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    present: usize,
    /// Of these, those that were told to go.
    leaving: usize,
}

#[derive(Default)]
struct Table {
    entries: HashMap<u64, Arc<Entry>>,
    per_neighbourhood: HashMap<IpAddr, Tally>,
    /// Of all, those that were told to go: counted here, since each newcomer that waits asks again and again.
    leaving: usize,
    next: u64,
}

impl Table {
    fn tally(&self, neighbourhood: IpAddr) -> Tally {
        self.per_neighbourhood.get(&neighbourhood).copied().unwrap_or_default()
    }

    fn insert(&mut self, entry: Arc<Entry>) -> u64 {
        let id = self.next;
        self.next += 1;
        self.per_neighbourhood.entry(entry.neighbourhood).or_default().present += 1;
        self.entries.insert(id, entry);
        id
    }

    fn remove(&mut self, id: u64) {
        let Some(entry) = self.entries.remove(&id) else { return };
        let leaving = usize::from(entry.is_leaving());
        self.leaving -= leaving;
        if let Some(tally) = self.per_neighbourhood.get_mut(&entry.neighbourhood) {
            tally.present -= 1;
            tally.leaving -= leaving;
            if tally.present == 0 {
                self.per_neighbourhood.remove(&entry.neighbourhood);
            }
        }
    }

    /// Tells a connection to go.
    fn dismiss(&mut self, entry: &Entry) {
        if !entry.is_leaving() {
            self.leaving += 1;
            self.per_neighbourhood.entry(entry.neighbourhood).or_default().leaving += 1;
        }
        entry.leave();
    }

    /// Tells all those to go of which this is true.
    fn dismiss_all(&mut self, is_meant: impl Fn(&Entry) -> bool) {
        let meant: Vec<_> = self.entries.values().filter(|entry| is_meant(entry)).cloned().collect();
        for entry in meant {
            self.dismiss(&entry);
        }
    }

    /// Who goes next so that one more fits among all, or among those of `neighbourhood`.
    fn choose_leaver(&self, neighbourhood: Option<IpAddr>, calls: CallPatience) -> Option<&Arc<Entry>> {
        let now = Instant::now();
        let within = self.within(neighbourhood).filter(|entry| !entry.is_leaving());
        let candidates = within.filter_map(|entry| Some((entry.standing(now).expendability(calls)?, entry)));
        candidates.max_by_key(|(expendability, _)| *expendability).map(|(_, entry)| entry)
    }

    fn within(&self, neighbourhood: Option<IpAddr>) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values().filter(move |entry| neighbourhood.is_none_or(|it| it == entry.neighbourhood))
    }
}

/// See the module.
pub(crate) struct Door {
    limits: Limits,
    table: Mutex<Table>,
    /// Newcomers that found no place, where somebody wants to know.
    refused: Option<Counter>,
}

/// What becomes of a newcomer.
#[derive(Debug)]
pub(crate) enum Admission {
    In(Pass),
    /// Others have been told to go: it is to ask again in a moment.
    Later,
    /// All are at work.
    Full,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What counts as one address: of IPv6 a network (/64), since a host in it may take any of its 2^64 addresses. It may also be a whole
/// cluster, so that what is bounded by this leaves it most of the room.
pub(crate) fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

impl Door {
    /// `refused` counts newcomers that find no place.
    pub(crate) fn new(limits: Limits, refused: Option<Counter>) -> Arc<Self> {
        Arc::new(Self { limits, table: Mutex::default(), refused })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A newcomer goes away without a place.
    pub(crate) fn on_refused(&self) {
        if let Some(refused) = &self.refused {
            refused.inc();
        }
    }

    /// A place for a connection from `address`. When there is none, enough others are told to leave for all `newcomers` waiting
    /// now.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr, newcomers: usize) -> Admission {
        let neighbourhood = neighbourhood(address);
        let mut table = self.table.lock();
        let of_address = table.tally(neighbourhood);
        let is_over_its_share = of_address.present >= self.limits.per_address;
        if is_over_its_share || table.entries.len() >= self.limits.total {
            let scope = is_over_its_share.then_some(neighbourhood);
            let mut leaving = if is_over_its_share { of_address.leaving } else { table.leaving };
            while leaving < newcomers
                && let Some(leaver) = table.choose_leaver(scope, self.limits.calls).cloned()
            {
                table.dismiss(&leaver);
                leaving += 1;
            }
            return if leaving > 0 { Admission::Later } else { Admission::Full };
        }
        let entry = Arc::new(Entry {
            neighbourhood,
            opened: Instant::now(),
            progress: AtomicU64::new(0),
            calls: AtomicU32::new(0),
            is_used: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            end: Mutex::default(),
        });
        let id = table.insert(Arc::clone(&entry));
        Admission::In(Pass { door: Arc::clone(self), id, entry })
    }

    /// Ends connections that have been idle too long.
    pub(crate) fn sweep(&self, now: Instant) {
        self.table.lock().dismiss_all(|entry| entry.standing(now).is_overdue(&self.limits));
    }

    /// Ends all connections.
    pub(crate) fn end_all(&self) {
        self.table.lock().dismiss_all(|_| true);
    }

    /// Connections that serve a call.
    pub(crate) fn busy(&self) -> usize {
        let table = self.table.lock();
        table.entries.values().filter(|entry| entry.calls.load(Ordering::Relaxed) > 0).count()
    }
}

/// A connection's place, free again when this is dropped.
pub(crate) struct Pass {
    door: Arc<Door>,
    id: u64,
    entry: Arc<Entry>,
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pass").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Pass {
    /// Says how the connection is ended from outside. Called once, soon, if it has to go; must not block.
    pub(crate) fn on_end(&self, hook: impl FnOnce() + Send + 'static) {
        *self.entry.end.lock() = Some(Box::new(hook));
        if self.entry.is_leaving.load(Ordering::Relaxed) {
            self.entry.leave();
        }
    }

    /// A call is being served until the answer is dropped.
    pub(crate) fn busy(&self) -> Busy {
        self.entry.calls.fetch_add(1, Ordering::Relaxed);
        self.entry.is_used.store(true, Ordering::Relaxed);
        self.entry.on_progress();
        Busy(Arc::clone(&self.entry))
    }

    /// An answer is on its way to the peer, whatever made it.
    pub(crate) fn writing(&self) -> Busy {
        self.entry.calls.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(&self.entry))
    }

    /// Something has moved.
    pub(crate) fn on_progress(&self) {
        self.entry.on_progress();
    }

    /// Whether it has asked for anything yet.
    pub(crate) fn is_used(&self) -> bool {
        self.entry.is_used.load(Ordering::Relaxed)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.door.table.lock().remove(self.id);
    }
}

/// A call under way on a connection.
pub(crate) struct Busy(Arc<Entry>);

impl Busy {
    /// Something has moved.
    pub(crate) fn on_progress(&self) {
        self.0.on_progress();
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.on_progress();
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const CALLS: CallPatience =
        CallPatience::Ends { stalled: Duration::from_secs(120), hung: Duration::from_secs(1200) };

    fn door(total: usize, per_address: usize) -> Arc<Door> {
        let hour = Duration::from_secs(3600);
        let limits = Limits { total, per_address, first_request: hour, idle: hour, calls: CALLS };
        Door::new(limits, None)
    }

    /// Asks until there is an answer.
    fn enter(door: &Arc<Door>, address: IpAddr) -> Option<Pass> {
        loop {
            match door.admit(address, 1) {
                Admission::In(pass) => return Some(pass),
                Admission::Later => std::thread::yield_now(),
                Admission::Full => return None,
            }
        }
    }

    fn host(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    /// Ends as a connection does: the pass is dropped when the door says so, by another thread.
    fn hold(pass: Pass) {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        pass.on_end(move || drop(end));
        std::thread::spawn(move || {
            let _ = ended.recv();
            drop(pass);
        });
    }

    #[test]
    fn expendability_table() {
        let standing = |is_busy, is_used, seconds| {
            Standing { is_used, is_busy, quiet: Duration::from_secs(seconds) }.expendability(CALLS)
        };
        let in_order = [
            standing(true, true, 119),
            standing(true, true, 120),
            standing(true, true, 900),
            standing(false, true, 0),
            standing(false, true, 900),
            standing(false, false, 0),
            standing(false, false, 1),
        ];
        assert_eq!(in_order[0], None, "a call that moves is never broken off");
        assert!(in_order.is_sorted(), "{in_order:?}");
    }

    #[test]
    fn admit_full_of_idle_strangers_makes_room_and_never_exceeds_the_limit() {
        let door = door(8, 8);
        for number in 0..100 {
            hold(enter(&door, host(number)).expect("idle ones make room"));
            assert!(door.table.lock().entries.len() <= 8);
        }
    }

    #[test]
    fn admit_keeps_those_that_asked_before_strangers() {
        let door = door(4, 4);
        let client = enter(&door, host(1)).unwrap();
        drop(client.busy());
        for number in 0..20 {
            hold(enter(&door, host(number)).expect("strangers make room"));
        }
        assert!(!client.entry.is_leaving());
    }

    #[test]
    fn admit_all_at_work_is_refused() {
        let door = door(2, 2);
        let passes = [1, 2].map(|number| enter(&door, host(number)).unwrap());
        let busy = passes.each_ref().map(Pass::busy);
        assert_eq!(door.busy(), 2);
        assert!(enter(&door, host(3)).is_none());
        drop(busy);
        drop(passes);
        assert_eq!(door.busy(), 0);
        assert!(enter(&door, host(3)).is_some());
    }

    #[test]
    fn admit_one_address_leaves_room_for_others() {
        let door = door(4, 3);
        let greedy: Vec<_> = (0..3).map(|_| enter(&door, host(1)).unwrap()).collect();
        let _busy: Vec<_> = greedy.iter().map(Pass::busy).collect();
        assert!(enter(&door, host(1)).is_none());
        assert!(enter(&door, host(2)).is_some());
    }

    #[test]
    fn admit_lets_others_in_while_an_address_waits_for_its_own_that_do_not_go() {
        let door = door(8, 4);
        let slow: Vec<_> = (0..4).map(|_| enter(&door, host(1)).unwrap()).collect();
        let leaving = || slow.iter().filter(|pass| pass.entry.is_leaving()).count();
        for (newcomers, expected) in [(1, 1), (1, 1), (3, 3), (9, 4), (9, 4)] {
            assert!(matches!(door.admit(host(1), newcomers), Admission::Later));
            assert_eq!(leaving(), expected, "as many go as want to come");
        }
        assert!(matches!(door.admit(host(2), 9), Admission::In(_)));
        drop(slow);
        assert!(matches!(door.admit(host(1), 1), Admission::In(_)));
    }

    #[test]
    fn neighbourhood_of_an_ipv6_site_is_one() {
        let site = |last| neighbourhood(Ipv6Addr::new(0x2001, 0xdb8, 0, 7, 0, 0, 0, last).into());
        assert_eq!(site(1), site(2));
        assert_eq!(neighbourhood("::ffff:10.0.0.1".parse().unwrap()), host(1));
    }

    #[test]
    fn the_number_that_leaves_is_kept_as_connections_come_and_go() {
        let door = door(4, 3);
        let counted = || {
            let table = door.table.lock();
            let leaving = |scope| table.within(scope).filter(|entry| entry.is_leaving()).count();
            assert_eq!(table.leaving, leaving(None));
            for (address, tally) in &table.per_neighbourhood {
                assert_eq!(
                    (tally.present, tally.leaving),
                    (table.within(Some(*address)).count(), leaving(Some(*address)))
                );
            }
            (table.leaving, table.per_neighbourhood.len())
        };
        let mut passes: Vec<_> = [1, 1, 1, 2].map(|last| enter(&door, host(last)).unwrap()).into();
        assert_eq!(counted(), (0, 2));
        // Two of the address that has its share; then one more among all.
        assert!(matches!(door.admit(host(1), 2), Admission::Later));
        assert_eq!(counted(), (2, 2));
        assert!(matches!(door.admit(host(3), 3), Admission::Later));
        assert_eq!(counted(), (3, 2));
        assert!(matches!(door.admit(host(3), 3), Admission::Later));
        assert_eq!(counted(), (3, 2), "nobody is told twice");
        door.sweep(Instant::now() + Duration::from_secs(7_200));
        door.end_all();
        assert_eq!(counted(), (4, 2));
        while passes.pop().is_some() {
            counted();
        }
        assert_eq!(counted(), (0, 0));
    }

    #[test]
    fn sweep_ends_what_is_overdue() {
        let second = Duration::from_secs(1);
        let limits = Limits { total: 9, per_address: 9, first_request: second, idle: 60 * second, calls: CALLS };
        let door = Door::new(limits, None);
        let [silent, used, busy] = [1, 2, 3].map(|number| enter(&door, host(number)).unwrap());
        drop(used.busy());
        let call = busy.busy();
        let is_leaving = |pass: &Pass| pass.entry.is_leaving();
        let after = |seconds: u64| door.sweep(Instant::now() + Duration::from_secs(seconds));
        after(2);
        assert_eq!([&silent, &used, &busy].map(is_leaving), [true, false, false]);
        after(61);
        assert_eq!([&silent, &used, &busy].map(is_leaving), [true, true, false]);
        after(1201);
        assert!(is_leaving(&busy));
        drop(call);
    }
}
