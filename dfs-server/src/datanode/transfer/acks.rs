//! Which packets are answered, with what, and when: the pure part of a pipeline's acks.
//!
//! A packet is answered when this node has done what the packet asks for, and the node behind has answered for itself and
//! all behind it; always in the order of the packets. The first answer that is no success ends the pipeline: whoever
//! writes must build a new one.

use std::collections::VecDeque;

use dfs_proto::data_transfer::packet::HEARTBEAT_SEQNO;
use dfs_proto::data_transfer::{PipelineAck, Reply};
use dfs_proto::hadoop::Status;

/// A packet that this node is done with, and that is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) seqno: i64,
    /// Bytes of the block up to the packet's end; visible to readers once answered.
    pub(super) end: u64,
    /// How it went here.
    pub(super) reply: Reply,
    /// The block ends with it.
    pub(super) last: bool,
}

/// The node behind this one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// There is none.
    Nobody,
    /// It has not answered the oldest packet.
    Silent,
    /// Its answer to the oldest packet.
    Answered(PipelineAck),
    /// It cannot be reached any more.
    Lost,
}

/// An answer to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) ack: PipelineAck,
    /// What the ack was for.
    pub(super) packet: Pending,
    /// No answer follows.
    pub(super) ends: bool,
}

/// The node behind answered something else than it was asked.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("ack of packet {got} where {expected:?} was due")]
pub(super) struct OutOfStep {
    got: i64,
    expected: Option<i64>,
}

/// Packets on their way to being answered.
#[derive(Debug, Default)]
pub(super) struct AckQueue {
    pending: VecDeque<Pending>,
}

impl AckQueue {
    pub(super) fn push(&mut self, packet: Pending) {
        self.pending.push_back(packet);
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether an ack of the node behind answers no packet, and only says that the node lives: it waits for its disk. The
    /// answer to a heartbeat looks the same; it is one when a heartbeat is the next to be answered.
    pub(super) fn is_life_sign(&self, ack: &PipelineAck) -> bool {
        let is_awaited = self.pending.front().is_some_and(|packet| packet.seqno == HEARTBEAT_SEQNO);
        ack.seqno == HEARTBEAT_SEQNO && ack.is_success() && !is_awaited
    }

    /// The next answer, if one is due.
    pub(super) fn answer(&mut self, behind: Behind) -> Result<Option<Answer>, OutOfStep> {
        let Some(&packet) = self.pending.front() else {
            return match behind {
                Behind::Answered(ack) => Err(OutOfStep { got: ack.seqno, expected: None }),
                Behind::Nobody | Behind::Silent | Behind::Lost => Ok(None),
            };
        };
        let replies = match behind {
            // What failed here is said at once: nothing that the others say can mend it.
            _ if packet.reply.status != Status::Success => vec![packet.reply],
            Behind::Nobody => vec![Reply::new(Status::Success)],
            Behind::Lost => vec![Reply::new(Status::Success), Reply::new(Status::Error)],
            Behind::Silent => return Ok(None),
            Behind::Answered(ack) if ack.seqno != packet.seqno => {
                return Err(OutOfStep { got: ack.seqno, expected: Some(packet.seqno) });
            }
            Behind::Answered(ack) => [vec![Reply::new(Status::Success)], ack.replies].concat(),
        };
        self.pending.pop_front();
        let ack = PipelineAck { seqno: packet.seqno, replies, downstream_ack_time_nanos: 0 };
        let ends = packet.last || !ack.is_success();
        Ok(Some(Answer { ack, packet, ends }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(seqno: i64, status: Status) -> Pending {
        Pending { seqno, end: 0, reply: Reply::new(status), last: false }
    }

    fn ack(seqno: i64, statuses: &[Status]) -> Behind {
        let replies = statuses.iter().copied().map(Reply::new).collect();
        Behind::Answered(PipelineAck { seqno, replies, downstream_ack_time_nanos: 0 })
    }

    fn statuses(answer: &Answer) -> Vec<Status> {
        answer.ack.replies.iter().map(|reply| reply.status).collect()
    }

    #[test]
    fn answer_table() {
        use Status::{Error, ErrorChecksum, Success};
        let cases = [
            (Success, Behind::Nobody, Some((vec![Success], false))),
            (Success, Behind::Silent, None),
            (Success, Behind::Lost, Some((vec![Success, Error], true))),
            (Success, ack(7, &[Success, Success]), Some((vec![Success, Success, Success], false))),
            (Success, ack(7, &[ErrorChecksum]), Some((vec![Success, ErrorChecksum], true))),
            (Error, Behind::Nobody, Some((vec![Error], true))),
            (Error, Behind::Silent, Some((vec![Error], true))),
            (Error, Behind::Lost, Some((vec![Error], true))),
            (Error, ack(7, &[Success]), Some((vec![Error], true))),
        ];
        for (here, behind, expected) in cases {
            let mut queue = AckQueue::default();
            queue.push(packet(7, here));
            let label = format!("{here:?} {behind:?}");
            let answer = queue.answer(behind).unwrap();
            assert_eq!(answer.as_ref().map(|answer| (statuses(answer), answer.ends)), expected, "{label}");
            assert_eq!(queue.is_empty(), expected.is_some(), "{label}");
        }
    }

    #[test]
    fn answer_last_packet_ends() {
        let mut queue = AckQueue::default();
        queue.push(Pending { last: true, ..packet(3, Status::Success) });
        assert!(queue.answer(Behind::Nobody).unwrap().unwrap().ends);
    }

    #[test]
    fn life_sign_is_told_from_the_ack_of_a_heartbeat() {
        let sign = |status| PipelineAck {
            seqno: HEARTBEAT_SEQNO,
            replies: vec![Reply::new(status)],
            downstream_ack_time_nanos: 0,
        };
        let mut queue = AckQueue::default();
        assert!(queue.is_life_sign(&sign(Status::Success)), "nothing is awaited");
        queue.push(packet(4, Status::Success));
        assert!(queue.is_life_sign(&sign(Status::Success)), "packet 4 is awaited");
        assert!(!queue.is_life_sign(&sign(Status::Error)), "a failure is an answer");
        let mut queue = AckQueue::default();
        queue.push(packet(HEARTBEAT_SEQNO, Status::Success));
        assert!(!queue.is_life_sign(&sign(Status::Success)), "a heartbeat is awaited");
    }

    #[test]
    fn answer_out_of_step_is_refused() {
        let mut queue = AckQueue::default();
        assert!(queue.answer(ack(1, &[Status::Success])).is_err());
        queue.push(packet(2, Status::Success));
        assert!(queue.answer(ack(1, &[Status::Success])).is_err());
    }
}
