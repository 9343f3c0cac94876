//! What an error is called on the wire, and the response that carries it.

use dfs_common::error::{DfsError, ErrorKind};
use dfs_proto::data_transfer::{WireError, encode_delimited};
use dfs_proto::hadoop::{BlockOpResponseProto, Status};

/// Longest text of a response: the whole chain of causes fits, a runaway one does not.
const MESSAGE_MAX: usize = 2048;

/// The status that stands for an error.
pub(super) fn status_of(kind: ErrorKind) -> Status {
    match kind {
        ErrorKind::AlreadyExists => Status::ErrorExists,
        ErrorKind::Corrupt => Status::ErrorChecksum,
        ErrorKind::Unsupported => Status::ErrorUnsupported,
        ErrorKind::InvalidArgument | ErrorKind::Protocol => Status::ErrorInvalid,
        ErrorKind::PermissionDenied | ErrorKind::NotPermitted => Status::ErrorAccessToken,
        // The protocol has no finer words; the message has.
        ErrorKind::NotFound
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::DirectoryNotEmpty
        | ErrorKind::NameTooLong
        | ErrorKind::TooManyLinks
        | ErrorKind::FileTooLarge
        | ErrorKind::NoSpace
        | ErrorKind::QuotaExceeded
        | ErrorKind::ReadOnly
        | ErrorKind::Busy
        | ErrorKind::Stale
        | ErrorKind::NoAttribute
        | ErrorKind::AttributeTooLarge
        | ErrorKind::CrossDevice
        | ErrorKind::LeaseLost
        | ErrorKind::NotLeader
        | ErrorKind::Unavailable
        | ErrorKind::TimedOut
        | ErrorKind::Io
        | ErrorKind::Internal
        | ErrorKind::WrongCluster
        | ErrorKind::StaleGeneration
        | ErrorKind::TooManySymlinks
        | ErrorKind::Cancelled => Status::Error,
    }
}

/// A refusal.
pub(super) fn error_response(error: &DfsError) -> BlockOpResponseProto {
    let mut message = error.chain();
    if message.len() > MESSAGE_MAX {
        let end = (0..=MESSAGE_MAX).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
        message.truncate(end);
    }
    let full = (error.kind() == ErrorKind::NoSpace).then_some(true);
    BlockOpResponseProto { status: status_of(error.kind()).into(), message: Some(message), full, ..Default::default() }
}

/// The bytes of a response.
pub(super) fn encoded(response: &BlockOpResponseProto) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    encode_delimited(response, &mut out).expect("MESSAGE_MAX keeps responses below the longest message");
    out
}

/// A malformed request as an error for its sender.
pub(super) fn protocol_error(error: WireError) -> DfsError {
    let kind = match &error {
        WireError::UnsupportedOp(_) | WireError::UnsupportedChecksum(_) => ErrorKind::Unsupported,
        WireError::Io { .. } => ErrorKind::Io,
        WireError::Truncated { .. }
        | WireError::TooLong { .. }
        | WireError::Version { .. }
        | WireError::UnknownOp(_)
        | WireError::Protobuf { .. }
        | WireError::MissingField { .. }
        | WireError::BadValue { .. } => ErrorKind::Protocol,
    };
    DfsError::new(kind, "malformed data transfer request").with_source(error)
}
