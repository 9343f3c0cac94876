//! Acks: one per packet, travelling up the pipeline, each node putting its own reply in front of those behind it.
//!
//! A reply is a status and, since Hadoop 2.6, a flag that repeats the status and adds two hints:
//!
//! ```text
//! bit    8 7     6 5    4         3 2 1 0
//!        slow    ecn    reserved  status
//! ```
//!
//! A node without room says so in a field of ours, `full`, beside its ERROR: the writer tells its application.
//!
//! We always write flags, as Hadoop does, and read acks without them. The ack of a heartbeat has seqno
//! [`HEARTBEAT_SEQNO`](super::packet::HEARTBEAT_SEQNO); one that answers no packet (a DataNode that restarts) has
//! [`UNKNOWN_SEQNO`](super::packet::UNKNOWN_SEQNO) and an `Oob…` status.

use bytes::BufMut;

use super::error::WireError;
use super::frame::{decode_delimited, encode_delimited, read_delimited};
use crate::hadoop::{PipelineAckProto, Status};

/// The longest pipeline: HDFS's greatest replication.
pub const PIPELINE_LEN_MAX: usize = 512;

const STATUS_BITS: u32 = 0xf;
const ECN_SHIFT: u32 = 5;
const SLOW_SHIFT: u32 = 7;

/// Explicit congestion notification: whether a node asks the writer to back off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ecn {
    /// The node does not tell.
    #[default]
    Disabled = 0,
    /// The node would tell, and is not congested.
    Supported = 1,
    /// The same; the second code point is kept apart in HDFS.
    Supported2 = 2,
    /// The node is congested.
    Congested = 3,
}

/// Whether a node holds up the pipeline by its own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowNode {
    /// The node does not tell.
    #[default]
    Disabled = 0,
    /// It does not.
    Normal = 1,
    /// It does.
    Slow = 2,
    /// Without meaning so far.
    Reserved = 3,
}

/// One node's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// How the packet went.
    pub status: Status,
    /// Congestion hint.
    pub ecn: Ecn,
    /// Slowness hint.
    pub slow: SlowNode,
    /// It failed for lack of space.
    pub full: bool,
}

impl Reply {
    /// A reply without hints.
    pub const fn new(status: Status) -> Self {
        Self { status, ecn: Ecn::Disabled, slow: SlowNode::Disabled, full: false }
    }

    /// The flag's bits.
    pub fn to_flag(self) -> u32 {
        self.status as u32 | (self.ecn as u32) << ECN_SHIFT | (self.slow as u32) << SLOW_SHIFT
    }

    /// Reads the flag's bits; those without meaning are ignored. Fails with `BadValue` on an unknown status.
    pub fn from_flag(flag: u32) -> Result<Self, WireError> {
        let ecn = match flag >> ECN_SHIFT & 3 {
            0 => Ecn::Disabled,
            1 => Ecn::Supported,
            2 => Ecn::Supported2,
            _ => Ecn::Congested,
        };
        let slow = match flag >> SLOW_SHIFT & 3 {
            0 => SlowNode::Disabled,
            1 => SlowNode::Normal,
            2 => SlowNode::Slow,
            _ => SlowNode::Reserved,
        };
        Ok(Self { status: status_of((flag & STATUS_BITS) as i32)?, ecn, slow, full: false })
    }
}

/// What comes back for a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineAck {
    /// The packet's seqno.
    pub seqno: i64,
    /// In pipeline order, the sender of this ack first. At most [`PIPELINE_LEN_MAX`].
    pub replies: Vec<Reply>,
    /// How long the sender waited for the ack from the node behind it, in nanoseconds; 0 at the end of the pipeline.
    pub downstream_ack_time_nanos: u64,
}

impl PipelineAck {
    /// Whether every node succeeded.
    pub fn is_success(&self) -> bool {
        self.replies.iter().all(|reply| reply.status == Status::Success)
    }

    /// The nearest node that did not succeed, by its place in the pipeline.
    pub fn first_failure(&self) -> Option<usize> {
        self.replies.iter().position(|reply| reply.status != Status::Success)
    }

    /// The nearest node that holds up the pipeline by its own account.
    pub fn first_slow(&self) -> Option<usize> {
        self.places(|reply| reply.slow == SlowNode::Slow).next()
    }

    fn places(&self, is_meant: impl Fn(&Reply) -> bool) -> impl Iterator<Item = usize> {
        self.replies.iter().enumerate().filter(move |(_, reply)| is_meant(reply)).map(|(place, _)| place)
    }

    /// Appends the ack with its length. Fails with `TooLong` if the pipeline is longer than [`PIPELINE_LEN_MAX`].
    pub fn encode(&self, out: &mut impl BufMut) -> Result<(), WireError> {
        check_replies(self.replies.len())?;
        let proto = PipelineAckProto {
            seqno: self.seqno,
            reply: self.replies.iter().map(|reply| reply.status.into()).collect(),
            downstream_ack_time_nanos: Some(self.downstream_ack_time_nanos),
            flag: self.replies.iter().map(|reply| reply.to_flag()).collect(),
            full: self.places(|reply| reply.full).map(|place| place as u32).collect(),
        };
        encode_delimited(&proto, out)
    }

    /// Decodes the ack at the start of `buf` and says how many bytes it took; `None` means that more are needed.
    pub fn decode(buf: &[u8]) -> Result<Option<(Self, usize)>, WireError> {
        match decode_delimited(buf)? {
            Some((proto, len)) => Ok(Some((Self::from_proto(&proto)?, len))),
            None => Ok(None),
        }
    }

    /// Reads one ack; `input` should be buffered.
    pub fn read(input: &mut impl std::io::Read) -> Result<Self, WireError> {
        Self::from_proto(&read_delimited(input)?)
    }

    /// Fails on unknown statuses, on flags that are not one per reply, and on flags that say otherwise than the replies.
    fn from_proto(proto: &PipelineAckProto) -> Result<Self, WireError> {
        check_replies(proto.reply.len())?;
        let statuses = proto.reply.iter().map(|&status| status_of(status));
        let mut replies = if proto.flag.is_empty() {
            statuses.map(|status| status.map(Reply::new)).collect::<Result<Vec<_>, _>>()?
        } else if proto.flag.len() == proto.reply.len() {
            statuses.zip(&proto.flag).map(|(status, &flag)| reply_of(status?, flag)).collect::<Result<Vec<_>, _>>()?
        } else {
            return Err(WireError::BadValue { what: "number of flags in an ack", value: proto.flag.len() as i64 });
        };
        for &place in &proto.full {
            let reply = replies.get_mut(place as usize);
            let reply = reply.ok_or(WireError::BadValue { what: "place of a full node", value: place.into() })?;
            reply.full = true;
        }
        let downstream_ack_time_nanos = proto.downstream_ack_time_nanos();
        Ok(Self { seqno: proto.seqno, replies, downstream_ack_time_nanos })
    }
}

fn reply_of(status: Status, flag: u32) -> Result<Reply, WireError> {
    let reply = Reply::from_flag(flag)?;
    if reply.status != status {
        return Err(WireError::BadValue { what: "flag of a reply with another status", value: flag.into() });
    }
    Ok(reply)
}

fn status_of(number: i32) -> Result<Status, WireError> {
    Status::try_from(number).map_err(|_| WireError::BadValue { what: "status in an ack", value: number.into() })
}

fn check_replies(len: usize) -> Result<(), WireError> {
    if len > PIPELINE_LEN_MAX {
        let (len, max) = (len as u64, PIPELINE_LEN_MAX as u64);
        return Err(WireError::TooLong { what: "number of replies in an ack", len, max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_transfer::packet::{HEARTBEAT_SEQNO, UNKNOWN_SEQNO};

    fn ack(seqno: i64) -> PipelineAck {
        PipelineAck {
            seqno,
            replies: vec![
                Reply { status: Status::Success, ecn: Ecn::Congested, slow: SlowNode::Normal, full: false },
                Reply { status: Status::ErrorChecksum, ecn: Ecn::Supported, slow: SlowNode::Slow, full: true },
                Reply::new(Status::Success),
            ],
            downstream_ack_time_nanos: 123_456_789,
        }
    }

    fn encoded(ack: &PipelineAck) -> Vec<u8> {
        let mut out = Vec::new();
        ack.encode(&mut out).unwrap();
        out
    }

    #[test]
    fn ack_round_trips() {
        for seqno in [0, 1, i64::MAX, i64::MIN, HEARTBEAT_SEQNO, UNKNOWN_SEQNO] {
            let bytes = encoded(&ack(seqno));
            assert_eq!(PipelineAck::decode(&bytes).unwrap().unwrap(), (ack(seqno), bytes.len()));
            assert_eq!(PipelineAck::read(&mut &bytes[..]).unwrap(), ack(seqno));
        }
        assert_eq!(ack(0).first_failure(), Some(1));
        assert!(!ack(0).is_success());
    }

    #[test]
    fn ack_every_truncation_needs_more() {
        let bytes = encoded(&ack(7));
        for end in 0..bytes.len() {
            assert!(PipelineAck::decode(&bytes[..end]).unwrap().is_none(), "at {end}");
        }
    }

    #[test]
    fn decode_without_flags_takes_the_statuses() {
        // seqno 1 (zigzag), replies SUCCESS and ERROR: an ack as older nodes send it.
        let (ack, _) = PipelineAck::decode(&[6, 0x08, 0x02, 0x10, 0x00, 0x10, 0x01]).unwrap().unwrap();
        assert_eq!(ack.replies, [Reply::new(Status::Success), Reply::new(Status::Error)]);
        assert_eq!(ack.downstream_ack_time_nanos, 0);
    }

    #[test]
    fn decode_contradictions_are_refused() {
        for (body, why) in [
            (&[0x08, 0x02, 0x10, 0x0e][..], "status 14"),
            (&[0x08, 0x02, 0x10, 0x00, 0x22, 0x02, 0x00, 0x00], "two flags for one reply"),
            (&[0x08, 0x02, 0x10, 0x00, 0x22, 0x01, 0x01], "the flag says ERROR"),
            (&[0x10, 0x00], "no seqno"),
        ] {
            let bytes = [&[body.len() as u8][..], body].concat();
            assert!(PipelineAck::decode(&bytes).is_err(), "{why}");
        }
    }

    #[test]
    fn replies_are_bounded() {
        let too_many = PipelineAck { replies: vec![Reply::new(Status::Success); PIPELINE_LEN_MAX + 1], ..ack(0) };
        assert!(matches!(too_many.encode(&mut Vec::new()), Err(WireError::TooLong { .. })));
        let body = [&[0x08, 0x02][..], &[0x10, 0x00].repeat(PIPELINE_LEN_MAX + 1)].concat();
        let mut bytes = Vec::new();
        prost::encode_length_delimiter(body.len(), &mut bytes).unwrap();
        bytes.extend(body);
        assert!(matches!(PipelineAck::decode(&bytes), Err(WireError::TooLong { .. })));
    }

    #[test]
    fn flag_bits_round_trip() {
        for flag in 0..1 << 9 {
            match Reply::from_flag(flag) {
                Ok(reply) => assert_eq!(reply.to_flag(), flag & !0x10, "all but the reserved bit"),
                Err(_) => assert!(flag & STATUS_BITS > 13),
            }
        }
    }

    #[test]
    fn decode_flipped_bit_is_never_the_same() {
        let len = encoded(&ack(7)).len();
        for bit in 0..len * 8 {
            let mut bytes = encoded(&ack(7));
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(Some((decoded, _))) = PipelineAck::decode(&bytes) {
                // The flags, five bytes before the four that name a full node, have bits that mean nothing.
                assert!((len - 9..len - 4).contains(&(bit / 8)) || decoded != ack(7), "bit {bit}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn decode_any_bytes_never_panics(bytes in proptest::collection::vec(0u8.., 0..64)) {
            let _ = PipelineAck::decode(&bytes);
        }
    }
}
