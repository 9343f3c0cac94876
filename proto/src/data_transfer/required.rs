//! What proto2 demands and prost forgives.
//!
//! prost decodes an absent required field as zero, and its getters turn an unknown enum value into the first one: an
//! empty response would read as `SUCCESS`. So messages from the wire pass `check` after prost: required fields are
//! there, and required enums hold values that exist. (Java's parser says the same in other words: to it an unknown
//! value is an absent field.)

use super::error::WireError;
use crate::hadoop::{
    BlockOpResponseProto, ChecksumTypeProto, ClientReadStatusProto, DnTransferAckProto, OpBlockChecksumProto,
    OpCopyBlockProto, OpReadBlockProto, OpReplaceBlockProto, OpRequestShortCircuitAccessProto, OpTransferBlockProto,
    OpWriteBlockProto, PacketHeaderProto, PipelineAckProto, ReleaseShortCircuitAccessRequestProto,
    ReleaseShortCircuitAccessResponseProto, ShortCircuitShmRequestProto, ShortCircuitShmResponseProto, Status,
    op_write_block_proto::BlockConstructionStage,
};

/// A message that crosses a data connection on its own.
pub trait WireMessage: prost::Message + Default {
    /// The message's name, for errors.
    const NAME: &'static str;
    /// What must be in it.
    const SHAPE: &'static Shape;

    /// Decodes a whole message, required fields and all.
    fn decode_checked(body: &[u8]) -> Result<Self, WireError> {
        let message = Self::decode(body).map_err(|source| WireError::Protobuf { message: Self::NAME, source })?;
        check(body, Self::NAME, Self::SHAPE)?;
        Ok(message)
    }
}

/// The fields of a message that are worth a look: the required ones, and messages that have required ones.
pub type Shape = [Field];

/// One such field.
pub struct Field {
    tag: u32,
    name: &'static str,
    required: bool,
    inside: Inside,
}

enum Inside {
    Scalar,
    Enum(fn(i32) -> bool),
    Message(&'static str, &'static Shape),
}

const fn scalar(tag: u32, name: &'static str) -> Field {
    Field { tag, name, required: true, inside: Inside::Scalar }
}

const fn enumeration(tag: u32, name: &'static str, is_valid: fn(i32) -> bool) -> Field {
    Field { tag, name, required: true, inside: Inside::Enum(is_valid) }
}

const fn message(tag: u32, name: &'static str, of: &'static str, shape: &'static Shape) -> Field {
    Field { tag, name, required: true, inside: Inside::Message(of, shape) }
}

/// The same field, which may be absent.
const fn optional(field: Field) -> Field {
    Field { required: false, ..field }
}

const TOKEN: &Shape = &[scalar(1, "identifier"), scalar(2, "password"), scalar(3, "kind"), scalar(4, "service")];
const BLOCK: &Shape = &[scalar(1, "poolId"), scalar(2, "blockId"), scalar(3, "generationStamp")];
const BASE_HEADER: &Shape =
    &[message(1, "block", "ExtendedBlockProto", BLOCK), optional(message(2, "token", "TokenProto", TOKEN))];
const CLIENT_HEADER: &Shape = &[message(1, "baseHeader", "BaseHeaderProto", BASE_HEADER), scalar(2, "clientName")];
const CHECKSUM: &Shape = &[enumeration(1, "type", ChecksumTypeProto::is_valid), scalar(2, "bytesPerChecksum")];
const CHECKSUM_INFO: &Shape = &[message(1, "checksum", "ChecksumProto", CHECKSUM), scalar(2, "chunkOffset")];
const BLOCK_CHECKSUM: &Shape = &[scalar(1, "bytesPerCrc"), scalar(2, "crcPerBlock"), scalar(3, "blockChecksum")];
const SHM_ID: &Shape = &[scalar(1, "hi"), scalar(2, "lo")];
const SLOT: &Shape = &[message(1, "shmId", "ShortCircuitShmIdProto", SHM_ID), scalar(2, "slotIdx")];
const DATANODE_ID: &Shape = &[
    scalar(1, "ipAddr"),
    scalar(2, "hostName"),
    scalar(3, "datanodeUuid"),
    scalar(4, "xferPort"),
    scalar(5, "infoPort"),
    scalar(6, "ipcPort"),
];
const DATANODE: &Shape = &[message(1, "id", "DatanodeIDProto", DATANODE_ID)];

const HEADER: Field = message(1, "header", "BaseHeaderProto", BASE_HEADER);
const HEADER_OF_CLIENT: Field = message(1, "header", "ClientOperationHeaderProto", CLIENT_HEADER);
const STATUS: Field = enumeration(1, "status", Status::is_valid);

macro_rules! wire_messages {
    ($($message:ident $name:literal [$($field:expr),* $(,)?])*) => {
        $(impl WireMessage for $message {
            const NAME: &'static str = $name;
            const SHAPE: &'static Shape = &[$($field),*];
        })*
    };
}

wire_messages! {
    OpReadBlockProto "OpReadBlockProto" [HEADER_OF_CLIENT, scalar(2, "offset"), scalar(3, "len")]
    OpWriteBlockProto "OpWriteBlockProto" [
        HEADER_OF_CLIENT,
        optional(message(2, "targets", "DatanodeInfoProto", DATANODE)),
        optional(message(3, "source", "DatanodeInfoProto", DATANODE)),
        enumeration(4, "stage", BlockConstructionStage::is_valid),
        scalar(5, "pipelineSize"),
        scalar(6, "minBytesRcvd"),
        scalar(7, "maxBytesRcvd"),
        scalar(8, "latestGenerationStamp"),
        message(9, "requestedChecksum", "ChecksumProto", CHECKSUM),
    ]
    OpTransferBlockProto "OpTransferBlockProto" [
        HEADER_OF_CLIENT,
        optional(message(2, "targets", "DatanodeInfoProto", DATANODE)),
    ]
    OpReplaceBlockProto "OpReplaceBlockProto" [
        HEADER,
        scalar(2, "delHint"),
        message(3, "source", "DatanodeInfoProto", DATANODE),
    ]
    OpCopyBlockProto "OpCopyBlockProto" [HEADER]
    OpBlockChecksumProto "OpBlockChecksumProto" [HEADER]
    OpRequestShortCircuitAccessProto "OpRequestShortCircuitAccessProto" [
        HEADER,
        scalar(2, "maxVersion"),
        optional(message(3, "slotId", "ShortCircuitShmSlotProto", SLOT)),
    ]
    ReleaseShortCircuitAccessRequestProto "ReleaseShortCircuitAccessRequestProto" [
        message(1, "slotId", "ShortCircuitShmSlotProto", SLOT),
    ]
    ReleaseShortCircuitAccessResponseProto "ReleaseShortCircuitAccessResponseProto" [STATUS]
    ShortCircuitShmRequestProto "ShortCircuitShmRequestProto" [scalar(1, "clientName")]
    ShortCircuitShmResponseProto "ShortCircuitShmResponseProto" [
        STATUS,
        optional(message(3, "id", "ShortCircuitShmIdProto", SHM_ID)),
    ]
    PacketHeaderProto "PacketHeaderProto" [
        scalar(1, "offsetInBlock"),
        scalar(2, "seqno"),
        scalar(3, "lastPacketInBlock"),
        scalar(4, "dataLen"),
    ]
    PipelineAckProto "PipelineAckProto" [scalar(1, "seqno")]
    BlockOpResponseProto "BlockOpResponseProto" [
        STATUS,
        optional(message(3, "checksumResponse", "OpBlockChecksumResponseProto", BLOCK_CHECKSUM)),
        optional(message(4, "readOpChecksumInfo", "ReadOpChecksumInfoProto", CHECKSUM_INFO)),
    ]
    ClientReadStatusProto "ClientReadStatusProto" [STATUS]
    DnTransferAckProto "DNTransferAckProto" [STATUS]
}

/// Walks over the fields of `body`, which prost has decoded already, and over the messages in it that have a shape.
fn check(mut body: &[u8], name: &'static str, shape: &'static Shape) -> Result<(), WireError> {
    let mut seen = 0u32;
    while !body.is_empty() {
        let key = varint(&mut body, name)?;
        let at = shape.iter().position(|field| u64::from(field.tag) == key >> 3);
        let value = Value::take(&mut body, key & 7, name)?;
        let Some(at) = at else { continue };
        seen |= 1 << at;
        match (&shape[at].inside, value) {
            (Inside::Enum(is_valid), Value::Varint(value)) if !is_valid(value as i32) => {
                return Err(WireError::BadValue { what: shape[at].name, value: value as i64 });
            }
            (Inside::Message(name, shape), Value::Bytes(body)) => check(body, name, shape)?,
            _ => {}
        }
    }
    match shape.iter().enumerate().find(|(at, field)| field.required && seen & (1 << at) == 0) {
        Some((_, field)) => Err(WireError::MissingField { message: name, field: field.name }),
        None => Ok(()),
    }
}

/// A field's value as far as `check` cares.
enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

impl<'a> Value<'a> {
    /// Takes the value of a field of this wire type off the front of `body`.
    fn take(body: &mut &'a [u8], wire_type: u64, name: &'static str) -> Result<Self, WireError> {
        match wire_type {
            0 => varint(body, name).map(Value::Varint),
            1 => bytes(body, 8, name).map(|_| Value::Fixed),
            2 => {
                let len = varint(body, name)?;
                bytes(body, len, name).map(Value::Bytes)
            }
            5 => bytes(body, 4, name).map(|_| Value::Fixed),
            // 3 and 4 are groups: prost would skip them, but no message of ours or Hadoop's has any.
            other => Err(WireError::BadValue { what: "wire type", value: other as i64 }),
        }
    }
}

fn varint(body: &mut &[u8], name: &'static str) -> Result<u64, WireError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes(body, 1, name)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(WireError::BadValue { what: "varint", value: value as i64 })
}

fn bytes<'a>(body: &mut &'a [u8], len: u64, name: &'static str) -> Result<&'a [u8], WireError> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let Some((taken, rest)) = body.split_at_checked(len) else {
        return Err(WireError::Truncated { what: name, needed: len, got: body.len() });
    };
    *body = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::hadoop::{ChecksumProto, ReadOpChecksumInfoProto};

    #[test]
    fn decode_checked_empty_message_is_no_success() {
        let error = BlockOpResponseProto::decode_checked(&[]).unwrap_err();
        assert!(matches!(error, WireError::MissingField { message: "BlockOpResponseProto", field: "status" }));
        assert!(ClientReadStatusProto::decode_checked(&[]).is_err());
        assert!(DnTransferAckProto::decode_checked(&[]).is_err());
        assert!(PipelineAckProto::decode_checked(&[]).is_err());
    }

    #[test]
    fn decode_checked_unknown_status_is_refused() {
        let error = ClientReadStatusProto::decode_checked(&[0x08, 14]).unwrap_err();
        assert!(matches!(error, WireError::BadValue { what: "status", value: 14 }));
        assert!(ClientReadStatusProto::decode_checked(&[0x08, 13]).is_ok());
    }

    #[test]
    fn decode_checked_nested_field_missing_is_refused() {
        let mut response = BlockOpResponseProto {
            read_op_checksum_info: Some(ReadOpChecksumInfoProto {
                checksum: ChecksumProto { r#type: 2, bytes_per_checksum: 512 },
                chunk_offset: 0,
            }),
            ..Default::default()
        }
        .encode_to_vec();
        assert!(BlockOpResponseProto::decode_checked(&response).is_ok());
        // Fields: 08 00 | 22 07 [0a 05 [08 02 10 80 04]] 10 00, of which the last is chunkOffset.
        let short = response.len() - 2;
        response.truncate(short);
        response[3] -= 2;
        let error = BlockOpResponseProto::decode_checked(&response).unwrap_err();
        assert!(
            matches!(error, WireError::MissingField { message: "ReadOpChecksumInfoProto", field: "chunkOffset" }),
            "{error}"
        );
    }

    #[test]
    fn decode_checked_unknown_fields_are_skipped() {
        // Field 1000 of every wire type but groups, then the status.
        let body = [
            &[0xc0, 0x3e, 0x05][..],
            &[0xc1, 0x3e, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0xc2, 0x3e, 0x02, 0xff, 0xff],
            &[0xc5, 0x3e, 1, 2, 3, 4],
            &[0x08, 0x01],
        ]
        .concat();
        assert_eq!(ClientReadStatusProto::decode_checked(&body).unwrap().status(), Status::Error);
    }

    proptest::proptest! {
        #[test]
        fn decode_checked_any_bytes_never_panics(body in proptest::collection::vec(0u8.., 0..100)) {
            let _ = OpWriteBlockProto::decode_checked(&body);
            let _ = check(&body, OpWriteBlockProto::NAME, OpWriteBlockProto::SHAPE);
        }
    }
}
