//! Requests: version, op code, and the op's message.
//!
//! The sender names the message's type ([`encode_request`]), the receiver gets whichever came ([`Request`]).

use std::io::Read;

use bytes::BufMut;

use super::error::WireError;
use super::frame::{decode_varint_prefix, encode_delimited, read_body, read_first_byte};
use super::op_code::{DATA_TRANSFER_VERSION, Op};
use super::required::WireMessage;
use crate::hadoop::{
    OpBlockChecksumProto, OpCopyBlockProto, OpReadBlockProto, OpReplaceBlockProto, OpRequestShortCircuitAccessProto,
    OpTransferBlockProto, OpWriteBlockProto, ReleaseShortCircuitAccessRequestProto, ShortCircuitShmRequestProto,
};

/// Bytes before a request's message: version and op code.
pub const REQUEST_PREFIX_LEN: usize = 3;

impl Op {
    /// Fails with `UnknownOp`.
    pub fn from_code(code: u8) -> Result<Self, WireError> {
        Self::ALL.into_iter().find(|op| op.code() == code).ok_or(WireError::UnknownOp(code))
    }
}

/// A message that is a request.
pub trait RequestMessage: WireMessage {
    /// The op code that goes before it.
    const OP: Op;
}

/// A received request.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// [`Op::WriteBlock`]; boxed, being the largest by far.
    WriteBlock(Box<OpWriteBlockProto>),
    /// [`Op::ReadBlock`]
    ReadBlock(OpReadBlockProto),
    /// [`Op::ReplaceBlock`]
    ReplaceBlock(Box<OpReplaceBlockProto>),
    /// [`Op::CopyBlock`]
    CopyBlock(OpCopyBlockProto),
    /// [`Op::BlockChecksum`]
    BlockChecksum(OpBlockChecksumProto),
    /// [`Op::TransferBlock`]
    TransferBlock(OpTransferBlockProto),
    /// [`Op::RequestShortCircuitFds`]
    RequestShortCircuitFds(OpRequestShortCircuitAccessProto),
    /// [`Op::ReleaseShortCircuitFds`]
    ReleaseShortCircuitFds(ReleaseShortCircuitAccessRequestProto),
    /// [`Op::RequestShortCircuitShm`]
    RequestShortCircuitShm(ShortCircuitShmRequestProto),
}

/// Ties each request message to its op, in both directions at once.
macro_rules! requests {
    ($($op:ident($message:ident)),* $(,)?) => {
        $(
            impl RequestMessage for $message {
                const OP: Op = Op::$op;
            }

            impl From<$message> for Request {
                fn from(message: $message) -> Self {
                    Self::$op(message.into())
                }
            }
        )*

        impl Request {
            /// What it asks for.
            pub fn op(&self) -> Op {
                match self {
                    $(Self::$op(_) => Op::$op,)*
                }
            }

            /// Decodes the message that belongs to `op`. Fails with `UnsupportedOp` if none does.
            fn decode(op: Op, body: &[u8]) -> Result<Self, WireError> {
                match op {
                    $(Op::$op => $message::decode_checked(body).map(Into::into),)*
                    Op::ReadMetadata | Op::BlockGroupChecksum | Op::Custom => Err(WireError::UnsupportedOp(op)),
                }
            }
        }
    };
}

requests! {
    WriteBlock(OpWriteBlockProto),
    ReadBlock(OpReadBlockProto),
    ReplaceBlock(OpReplaceBlockProto),
    CopyBlock(OpCopyBlockProto),
    BlockChecksum(OpBlockChecksumProto),
    TransferBlock(OpTransferBlockProto),
    RequestShortCircuitFds(OpRequestShortCircuitAccessProto),
    ReleaseShortCircuitFds(ReleaseShortCircuitAccessRequestProto),
    RequestShortCircuitShm(ShortCircuitShmRequestProto),
}

/// Appends a whole request. Fails with `TooLong` if the other side would refuse it; then `out` is as it was.
pub fn encode_request<R: RequestMessage>(request: &R, out: &mut Vec<u8>) -> Result<(), WireError> {
    let start = out.len();
    out.put_u16(DATA_TRANSFER_VERSION);
    out.put_u8(R::OP.code());
    encode_delimited(request, out).inspect_err(|_| out.truncate(start))
}

/// Decodes the request at the start of `buf` and says how many bytes it took; `None` means that more bytes are needed.
pub fn decode_request(buf: &[u8]) -> Result<Option<(Request, usize)>, WireError> {
    let Some((prefix, rest)) = buf.split_first_chunk() else {
        return Ok(None);
    };
    let op = decode_prefix(*prefix)?;
    let Some(len) = decode_varint_prefix(rest)? else {
        return Ok(None);
    };
    match rest.get(len.prefix_len..len.total_len()) {
        Some(body) => Ok(Some((Request::decode(op, body)?, REQUEST_PREFIX_LEN + len.total_len()))),
        None => Ok(None),
    }
}

/// Reads the next request of a connection, or `None` if the peer closed it after the last one. `input` should be
/// buffered, and keep what it has buffered for the packets that follow.
pub fn read_request(input: &mut impl Read) -> Result<Option<Request>, WireError> {
    let mut prefix = [0; REQUEST_PREFIX_LEN];
    match read_first_byte(input, "request")? {
        Some(byte) => prefix[0] = byte,
        None => return Ok(None),
    }
    input.read_exact(&mut prefix[1..]).map_err(|source| WireError::Io { what: "request", source })?;
    let op = decode_prefix(prefix)?;
    let body = read_body(input, "request")?;
    Request::decode(op, &body).map(Some)
}

fn decode_prefix([v0, v1, code]: [u8; REQUEST_PREFIX_LEN]) -> Result<Op, WireError> {
    match u16::from_be_bytes([v0, v1]) {
        DATA_TRANSFER_VERSION => Op::from_code(code),
        got => Err(WireError::Version { got }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::super::op_code::FIRST_OWN_OP;
    use super::*;
    use crate::hadoop::{BaseHeaderProto, ClientOperationHeaderProto, ExtendedBlockProto, TokenProto};

    fn read_block() -> OpReadBlockProto {
        OpReadBlockProto {
            header: ClientOperationHeaderProto {
                base_header: BaseHeaderProto {
                    block: ExtendedBlockProto {
                        pool_id: "BP-1-127.0.0.1-1".into(),
                        block_id: 1_073_741_825,
                        generation_stamp: 1001,
                        num_bytes: Some(1 << 27),
                    },
                    token: Some(TokenProto::default()),
                    trace_info: None,
                },
                client_name: "client".into(),
            },
            offset: 4096,
            len: 1 << 20,
            send_checksums: Some(true),
            caching_strategy: None,
        }
    }

    fn encoded() -> Vec<u8> {
        let mut out = Vec::new();
        encode_request(&read_block(), &mut out).unwrap();
        out
    }

    #[test]
    fn request_round_trips_with_bytes_behind_it() {
        let mut bytes = encoded();
        let len = bytes.len();
        bytes.extend_from_slice(b"packet");
        let request = Request::from(read_block());
        assert_eq!(request.op(), Op::ReadBlock);
        assert_eq!(decode_request(&bytes).unwrap().unwrap(), (request.clone(), len));
        let mut input = &bytes[..];
        assert_eq!(read_request(&mut input).unwrap().unwrap(), request);
        assert_eq!(input, b"packet");
    }

    #[test]
    fn request_every_truncation_needs_more() {
        let bytes = encoded();
        assert!(read_request(&mut &[][..]).unwrap().is_none(), "closed between requests");
        for end in 0..bytes.len() {
            assert!(decode_request(&bytes[..end]).unwrap().is_none(), "at {end}");
            if end > 0 {
                let error = read_request(&mut &bytes[..end]).unwrap_err();
                assert!(matches!(error, WireError::Io { ref source, .. } if source.kind() == ErrorKind::UnexpectedEof));
            }
        }
    }

    #[test]
    fn decode_request_wrong_prefix_is_refused_before_the_message() {
        assert!(matches!(decode_request(&[0, 27, 81]), Err(WireError::Version { got: 27 })));
        assert!(matches!(decode_request(b"GET / HTTP/1.1"), Err(WireError::Version { .. })));
        assert!(matches!(decode_request(&[0, 28, 79]), Err(WireError::UnknownOp(79))));
        assert!(matches!(decode_request(&[0, 28, FIRST_OWN_OP]), Err(WireError::UnknownOp(200))));
        for op in [Op::ReadMetadata, Op::BlockGroupChecksum, Op::Custom] {
            assert!(matches!(decode_request(&[0, 28, op.code(), 0]), Err(WireError::UnsupportedOp(o)) if o == op));
        }
        assert!(matches!(decode_request(&[0, 28, 81, 0xff, 0xff, 0xff]), Err(WireError::TooLong { .. })));
        assert!(matches!(decode_request(&[0, 28, 81, 0]), Err(WireError::MissingField { .. })));
    }

    #[test]
    fn encode_request_oversize_leaves_nothing() {
        let mut request = read_block();
        request.header.client_name = "x".repeat(1 << 16);
        let mut out = vec![1];
        assert!(matches!(encode_request(&request, &mut out), Err(WireError::TooLong { .. })));
        assert_eq!(out, [1]);
    }

    #[test]
    fn op_codes_round_trip() {
        let known: Vec<u8> = (0..=255).filter(|&code| Op::from_code(code).is_ok()).collect();
        assert_eq!(known, [80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 127]);
        assert!(known.iter().all(|&code| Op::from_code(code).unwrap().code() == code));
    }

    #[test]
    fn decode_request_flipped_bit_is_never_the_same() {
        let len = encoded().len();
        for bit in 0..len * 8 {
            let mut bytes = encoded();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // The last byte is `sendChecksums`, and to protobuf every number but 0 is true.
            let still_true = bit / 8 == len - 1 && bytes[len - 1] != 0;
            if let Ok(Some((request, _))) = decode_request(&bytes) {
                assert!(still_true || request != Request::from(read_block()), "bit {bit}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn decode_request_any_message_never_panics(op in 80u8..91, body in proptest::collection::vec(0u8.., 0..120)) {
            let bytes = [&[0, 28, op, body.len() as u8][..], &body].concat();
            let _ = decode_request(&bytes);
        }
    }
}
