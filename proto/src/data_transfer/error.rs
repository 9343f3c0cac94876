//! What can be wrong with bytes from the other side of a data connection, or with a block's metadata file.

use std::io;

use super::op_code::{DATA_TRANSFER_VERSION, Op};

/// Why bytes were refused. After any of these the connection is out of step and must be closed.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection or file failed, or ended inside `what` (then the source is `UnexpectedEof`).
    #[error("could not read {what}")]
    Io {
        /// The part being read.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// Fewer bytes than `what` needs, where no more can come.
    #[error("{what} is cut short: {got} of {needed} bytes")]
    Truncated {
        /// The part that is short.
        what: &'static str,
        /// Bytes it takes.
        needed: usize,
        /// Bytes there are.
        got: usize,
    },
    /// A length or count above its limit; nothing was allocated for it.
    #[error("{what} is {len}, the limit is {max}")]
    TooLong {
        /// The length that is too large.
        what: &'static str,
        /// As received, or as about to be sent.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// The two bytes before an op code are not our version: another protocol, or a connection out of step.
    #[error("data transfer version {got}, expected {}", DATA_TRANSFER_VERSION)]
    Version {
        /// As received.
        got: u16,
    },
    /// An op code that stands for nothing.
    #[error("unknown data transfer op {0}")]
    UnknownOp(u8),
    /// An op of Hadoop's whose request we have no use for.
    #[error("data transfer op {0:?} is not supported")]
    UnsupportedOp(Op),
    /// Bytes that are no protobuf, or not of this message.
    #[error("malformed {message}")]
    Protobuf {
        /// The message's name.
        message: &'static str,
        /// prost's reason.
        source: prost::DecodeError,
    },
    /// A required field is absent.
    #[error("{message} lacks its required field {field}")]
    MissingField {
        /// The message's name, the innermost one.
        message: &'static str,
        /// The field's name.
        field: &'static str,
    },
    /// Well-formed bytes with an impossible value.
    #[error("{what} cannot be {value}")]
    BadValue {
        /// The field.
        what: &'static str,
        /// Its value.
        value: i64,
    },
    /// A checksum algorithm that exists in Hadoop and not here.
    #[error("checksum type {0} is not supported, only CRC32C and NULL are")]
    UnsupportedChecksum(&'static str),
}
