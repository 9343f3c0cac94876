//! Delimited messages: a protobuf message behind its own length as a varint.
//!
//! Over tokio, collect bytes until [`decode_delimited`] returns a message; over `std::io::Read`, use
//! [`read_delimited`]. Both refuse messages longer than [`MESSAGE_LEN_MAX`] before making room for them.

use std::io::{ErrorKind, Read};

use bytes::BufMut;

use super::error::WireError;
use super::required::WireMessage;

/// The longest message, in bytes. The longest honest one is a write request, at about 200 bytes for each node of the
/// pipeline: this leaves room for 300 nodes.
pub const MESSAGE_LEN_MAX: usize = 64 * 1024;

/// The longest varint that protobuf uses for a 32-bit length, in bytes.
pub const LEN_PREFIX_LEN_MAX: usize = 5;

/// A decoded length prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LenPrefix {
    /// Bytes that the prefix itself takes.
    pub prefix_len: usize,
    /// Bytes of the message behind it, at most [`MESSAGE_LEN_MAX`].
    pub message_len: usize,
}

impl LenPrefix {
    /// Prefix and message together, in bytes.
    pub fn total_len(self) -> usize {
        self.prefix_len + self.message_len
    }
}

/// Reads the length prefix at the start of `buf`; `None` means that more bytes are needed to know.
///
/// Fails with `TooLong` if the message would be longer than [`MESSAGE_LEN_MAX`] or the prefix longer than
/// [`LEN_PREFIX_LEN_MAX`].
pub fn decode_varint_prefix(buf: &[u8]) -> Result<Option<LenPrefix>, WireError> {
    let mut len = 0u64;
    for (i, byte) in buf.iter().take(LEN_PREFIX_LEN_MAX).enumerate() {
        len |= u64::from(byte & 0x7f) << (7 * i);
        if len > MESSAGE_LEN_MAX as u64 {
            return Err(WireError::TooLong { what: "message length", len, max: MESSAGE_LEN_MAX as u64 });
        }
        if byte & 0x80 == 0 {
            return Ok(Some(LenPrefix { prefix_len: i + 1, message_len: len as usize }));
        }
    }
    if buf.len() < LEN_PREFIX_LEN_MAX {
        return Ok(None);
    }
    let len = LEN_PREFIX_LEN_MAX as u64 + 1;
    Err(WireError::TooLong { what: "length of a message's length prefix", len, max: LEN_PREFIX_LEN_MAX as u64 })
}

/// Decodes the message at the start of `buf` and says how many bytes it took; `None` means that more bytes are needed.
pub fn decode_delimited<M: WireMessage>(buf: &[u8]) -> Result<Option<(M, usize)>, WireError> {
    let Some(prefix) = decode_varint_prefix(buf)? else {
        return Ok(None);
    };
    match buf.get(prefix.prefix_len..prefix.total_len()) {
        Some(body) => Ok(Some((M::decode_checked(body)?, prefix.total_len()))),
        None => Ok(None),
    }
}

/// Appends `message` behind its length to a buffer that grows (`Vec`, `BytesMut`). Fails with `TooLong`, writing nothing,
/// if the other side would refuse it.
pub fn encode_delimited<M: WireMessage>(message: &M, out: &mut impl BufMut) -> Result<(), WireError> {
    let len = message.encoded_len();
    if len > MESSAGE_LEN_MAX {
        return Err(WireError::TooLong { what: M::NAME, len: len as u64, max: MESSAGE_LEN_MAX as u64 });
    }
    prost::encode_length_delimiter(len, out).expect("`out` grows");
    message.encode_raw(out);
    Ok(())
}

/// Reads one message. The prefix is read byte by byte, so `input` should be buffered.
pub fn read_delimited<M: WireMessage>(input: &mut impl Read) -> Result<M, WireError> {
    M::decode_checked(&read_body(input, M::NAME)?)
}

/// Reads one message's bytes, without its length.
pub(super) fn read_body(input: &mut impl Read, what: &'static str) -> Result<Vec<u8>, WireError> {
    let mut bytes = [0; LEN_PREFIX_LEN_MAX];
    let mut filled = 0;
    let prefix = loop {
        input.read_exact(&mut bytes[filled..=filled]).map_err(|source| WireError::Io { what, source })?;
        filled += 1;
        // At LEN_PREFIX_LEN_MAX bytes it is complete or refused, so the index above stays in bounds.
        if let Some(prefix) = decode_varint_prefix(&bytes[..filled])? {
            break prefix;
        }
    };
    let mut body = vec![0; prefix.message_len];
    input.read_exact(&mut body).map_err(|source| WireError::Io { what, source })?;
    Ok(body)
}

/// Reads one byte, or `None` if the peer closed the connection before it.
pub(super) fn read_first_byte(input: &mut impl Read, what: &'static str) -> Result<Option<u8>, WireError> {
    let mut byte = [0];
    loop {
        match input.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(source) => return Err(WireError::Io { what, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::hadoop::{BlockOpResponseProto, ChecksumProto, ReadOpChecksumInfoProto, Status};

    fn response() -> BlockOpResponseProto {
        BlockOpResponseProto {
            status: Status::Success.into(),
            read_op_checksum_info: Some(ReadOpChecksumInfoProto {
                checksum: ChecksumProto { r#type: 2, bytes_per_checksum: 512 },
                chunk_offset: 1024,
            }),
            message: Some("m".repeat(200)),
            ..Default::default()
        }
    }

    fn encoded() -> Vec<u8> {
        let mut buf = Vec::new();
        encode_delimited(&response(), &mut buf).unwrap();
        buf
    }

    #[test]
    fn delimited_round_trips_with_bytes_behind_it() {
        let mut buf = encoded();
        let len = buf.len();
        buf.extend_from_slice(b"next");
        let (message, used) = decode_delimited::<BlockOpResponseProto>(&buf).unwrap().unwrap();
        assert_eq!((message, used), (response(), len));
        let mut cursor = Cursor::new(&buf);
        assert_eq!(read_delimited::<BlockOpResponseProto>(&mut cursor).unwrap(), response());
        assert_eq!(cursor.position() as usize, len);
    }

    #[test]
    fn delimited_every_truncation_needs_more() {
        let buf = encoded();
        for end in 0..buf.len() {
            assert!(decode_delimited::<BlockOpResponseProto>(&buf[..end]).unwrap().is_none(), "at {end}");
            let error = read_delimited::<BlockOpResponseProto>(&mut &buf[..end]).unwrap_err();
            assert!(matches!(error, WireError::Io { ref source, .. } if source.kind() == ErrorKind::UnexpectedEof));
        }
    }

    #[test]
    fn varint_prefix_limits() {
        let prefix = |bytes: &[u8]| decode_varint_prefix(bytes);
        assert_eq!(prefix(&[]).unwrap(), None);
        assert_eq!(prefix(&[0x80]).unwrap(), None);
        assert_eq!(prefix(&[0x00]).unwrap(), Some(LenPrefix { prefix_len: 1, message_len: 0 }));
        let at_limit = Some(LenPrefix { prefix_len: 3, message_len: MESSAGE_LEN_MAX });
        assert_eq!(prefix(&[0x80, 0x80, 0x04]).unwrap(), at_limit);
        assert!(matches!(prefix(&[0x81, 0x80, 0x04]), Err(WireError::TooLong { len: 65537, .. })));
        assert!(matches!(prefix(&[0xff; 4]), Err(WireError::TooLong { .. })));
        // Padded with zeros: legal up to five bytes, endless beyond.
        assert_eq!(prefix(&[0x81, 0x80, 0x80, 0x80]).unwrap(), None);
        assert!(prefix(&[0x81, 0x80, 0x80, 0x80, 0x00]).unwrap().is_some());
        assert!(matches!(prefix(&[0x80; 5]), Err(WireError::TooLong { .. })));
    }

    #[test]
    fn encode_delimited_oversize_is_refused() {
        let message = BlockOpResponseProto { message: Some("x".repeat(MESSAGE_LEN_MAX)), ..response() };
        let mut out = Vec::new();
        assert!(matches!(encode_delimited(&message, &mut out), Err(WireError::TooLong { .. })));
        assert!(out.is_empty());
    }

    #[test]
    fn decode_delimited_flipped_bit_is_never_the_same() {
        for bit in 0..encoded().len() * 8 {
            let mut buf = encoded();
            buf[bit / 8] ^= 1 << (bit % 8);
            if let Ok(Some((message, _))) = decode_delimited::<BlockOpResponseProto>(&buf) {
                assert_ne!(message, response(), "bit {bit}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn decode_delimited_any_bytes_never_panics(buf in proptest::collection::vec(0u8.., 0..200)) {
            let _ = decode_delimited::<BlockOpResponseProto>(&buf);
            let _ = read_delimited::<BlockOpResponseProto>(&mut &buf[..]);
        }
    }
}
