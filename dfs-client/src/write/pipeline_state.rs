//! What is known of a block under way, without its connection: packets sent and not acknowledged. Pure.
//!
//! ```text
//! seqno   0 .. acked | acked .. sent             | sent .. queued        | not yet
//!         forgotten  | kept, on the wire         | kept, to be sent      |
//! ```
//!
//! Invariants: packets are kept in the order of their seqnos without gaps; they are sent and acknowledged in that order;
//! a packet is forgotten only by its ack.

use std::collections::VecDeque;
use std::io::IoSlice;

use dfs_proto::data_transfer::PipelineAck;
use dfs_proto::data_transfer::packet::HEARTBEAT_SEQNO;
use dfs_proto::hadoop::Status;

use super::packet::Packet;

/// Packets kept at once, whatever their size: each costs its acks' room in socket buffers on the way back.
pub(crate) const PACKETS_MAX: usize = 1024;
/// Buffers of acknowledged packets kept for the next ones.
const SPARE_BUFFERS_MAX: usize = 8;
/// Slices in one vectored write: more gains nothing once a write is large.
const SLICES_MAX: usize = 64;

/// Packets of one block on their way.
#[derive(Debug, Default)]
pub(crate) struct PipelineState {
    /// Not acknowledged, in order.
    kept: VecDeque<Packet>,
    /// How many of `kept` are on the wire.
    sent: usize,
    /// Bytes of the next one that are on the wire already.
    partly_sent: usize,
    next_seqno: i64,
    /// Data bytes in `kept`.
    in_flight: usize,
    /// Where the acknowledged data ends in the block.
    acked: u64,
    /// Whether any packet of this pipeline was acknowledged.
    has_acks: bool,
    spare: Vec<Vec<u8>>,
}

/// What an ack meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AckOutcome {
    /// The oldest packet is on every node.
    Acknowledged,
    /// Every node is there; no packet is meant. The node at this place, if any, says that it waits for its disk.
    Alive(Option<usize>),
    /// The node at this place of the pipeline failed; `is_full` for lack of space.
    NodeFailed { place: usize, status: Status, is_full: bool },
    /// No packet we wait for has this seqno, or the number of replies is not that of the nodes.
    OutOfStep,
}

impl PipelineState {
    /// For a block that has `length` bytes already.
    pub(crate) fn new(length: u64) -> Self {
        Self { acked: length, ..Self::default() }
    }

    pub(crate) fn next_seqno(&self) -> i64 {
        self.next_seqno
    }

    /// Queues a packet made with [`next_seqno`](Self::next_seqno).
    pub(crate) fn enqueue(&mut self, packet: Packet) {
        assert_eq!(packet.seqno, self.next_seqno, "packets are queued in order");
        self.next_seqno += 1;
        self.in_flight += packet.data.len();
        self.kept.push_back(packet);
    }

    /// Where the acknowledged data ends in the block.
    pub(crate) fn acked(&self) -> u64 {
        self.acked
    }

    pub(crate) fn has_acks(&self) -> bool {
        self.has_acks
    }

    pub(crate) fn is_all_acked(&self) -> bool {
        self.kept.is_empty()
    }

    pub(crate) fn is_all_sent(&self) -> bool {
        self.sent == self.kept.len()
    }

    /// Whether another packet may be queued when at most `max_in_flight` bytes may be kept. One always may.
    pub(crate) fn has_room(&self, max_in_flight: usize) -> bool {
        self.kept.is_empty() || (self.in_flight < max_in_flight && self.kept.len() < PACKETS_MAX)
    }

    /// A buffer for the next packet.
    pub(crate) fn take_spare(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Adds what is to be sent next to `slices`, up to [`SLICES_MAX`].
    pub(crate) fn unsent<'a>(&'a self, slices: &mut Vec<IoSlice<'a>>) {
        let mut skip = self.partly_sent;
        for packet in self.kept.range(self.sent..) {
            for bytes in [&packet.head, &packet.data] {
                if slices.len() == SLICES_MAX {
                    return;
                }
                let skipped = skip.min(bytes.len());
                skip -= skipped;
                if skipped < bytes.len() {
                    slices.push(IoSlice::new(&bytes[skipped..]));
                }
            }
        }
    }

    /// Takes note that `len` more bytes of what [`unsent`](Self::unsent) gave are on the wire.
    pub(crate) fn on_sent(&mut self, len: usize) {
        self.partly_sent += len;
        while let Some(packet) = self.kept.get(self.sent) {
            if self.partly_sent < packet.wire_len() {
                break;
            }
            self.partly_sent -= packet.wire_len();
            self.sent += 1;
        }
        assert!(self.sent < self.kept.len() || self.partly_sent == 0, "more was sent than there is");
    }

    /// Takes in an ack of a pipeline of `nodes` nodes.
    pub(crate) fn on_ack(&mut self, ack: &PipelineAck, nodes: usize) -> AckOutcome {
        if let Some(place) = ack.first_failure() {
            let reply = ack.replies[place];
            return AckOutcome::NodeFailed { place: place.min(nodes - 1), status: reply.status, is_full: reply.full };
        }
        if ack.seqno == HEARTBEAT_SEQNO {
            return AckOutcome::Alive(ack.first_slow().filter(|place| *place < nodes));
        }
        let is_oldest = self.kept.front().is_some_and(|packet| packet.seqno == ack.seqno) && self.sent > 0;
        if !is_oldest || ack.replies.len() != nodes {
            return AckOutcome::OutOfStep;
        }
        if let Some(packet) = self.kept.pop_front() {
            self.sent -= 1;
            self.in_flight -= packet.data.len();
            self.acked = self.acked.max(packet.end);
            self.has_acks = true;
            if self.spare.len() < SPARE_BUFFERS_MAX && packet.data.capacity() > 0 {
                self.spare.push(packet.data);
            }
        }
        AckOutcome::Acknowledged
    }

    /// Everything not acknowledged is to be sent again, on another connection.
    pub(crate) fn rewind(&mut self) {
        self.sent = 0;
        self.partly_sent = 0;
    }

    /// Where the data queued so far ends in the block.
    pub(crate) fn end(&self) -> u64 {
        self.kept.back().map_or(self.acked, |packet| packet.end.max(self.acked))
    }

    /// Whether the block's last packet is among those not acknowledged.
    pub(crate) fn is_ending(&self) -> bool {
        self.kept.back().is_some_and(|packet| packet.kind.last_in_block)
    }

    /// Whether all data is acknowledged and the last packet is not.
    pub(crate) fn lacks_only_end(&self) -> bool {
        self.kept.len() == 1 && self.is_ending() && self.in_flight == 0
    }

    /// The last packet is not needed any more: the nodes have ended the block without it.
    pub(crate) fn drop_end(&mut self) {
        assert!(self.lacks_only_end(), "only the end of a block can be spared");
        self.kept.clear();
        self.rewind();
    }

    /// The packets not acknowledged, to be written elsewhere.
    pub(crate) fn into_unacked(self) -> VecDeque<Packet> {
        self.kept
    }
}

#[cfg(test)]
#[path = "pipeline_state_tests.rs"]
mod tests;
