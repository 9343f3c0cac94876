//! What an error is called on the wire, and the response that carries it.

use dfs_common::error::{DfsError, ErrorKind};
use dfs_proto::data_transfer::{WireError, encode_delimited};
use dfs_proto::hadoop::{BlockOpResponseProto, Status};

/// Longest text of a response: the whole chain of causes fits, a runaway one does not.
const MESSAGE_MAX: usize = 2048;
/// Longest `host:port` of a node: names of hosts have 253 bytes.
const LINK_MAX: usize = 300;

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
        | ErrorKind::Cancelled
        | ErrorKind::OutcomeUnknown => Status::Error,
    }
}

/// A refusal.
pub(super) fn error_response(error: &DfsError) -> BlockOpResponseProto {
    let full = (error.kind() == ErrorKind::NoSpace).then_some(true);
    let message = Some(shortened(error.chain(), MESSAGE_MAX));
    BlockOpResponseProto { status: status_of(error.kind()).into(), message, full, ..Default::default() }
}

/// A refusal because of the node behind `link`. Both texts may be a stranger's.
pub(super) fn link_refusal(status: Status, link: &str, message: String, full: bool) -> BlockOpResponseProto {
    BlockOpResponseProto {
        status: status.into(),
        first_bad_link: Some(shortened(link.to_owned(), LINK_MAX)),
        message: Some(shortened(message, MESSAGE_MAX)),
        full: full.then_some(true),
        ..Default::default()
    }
}

/// At most `max` bytes of a text, whole characters.
fn shortened(mut text: String, max: usize) -> String {
    let end = text.floor_char_boundary(max);
    text.truncate(end);
    text
}

/// The bytes of a response, whose texts are made here.
pub(super) fn encoded(response: &BlockOpResponseProto) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    encode_delimited(response, &mut out).expect("MESSAGE_MAX and LINK_MAX keep responses below the longest message");
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
