//! Errors on gRPC: every `DfsError` travels as a status whose details hold its kind, message and leader, so that the far
//! side gets back what was thrown, whatever the gRPC code.

use dfs_common::error::{DfsError, ErrorKind};
use prost::Message;
use tonic::{Code, Status};

use crate::v1::ErrorDetail;

/// The status that carries `error`. Causes are folded into the message: they mean nothing at the far side.
pub fn to_status(error: &DfsError) -> Status {
    let detail = ErrorDetail {
        kind: error.kind() as u32,
        message: error.chain(),
        leader: error.leader().unwrap_or_default().to_owned(),
    };
    Status::with_details(code_of(error.kind()), error.chain(), detail.encode_to_vec().into())
}

/// The error in a status, from our server or from the transport.
pub fn from_status(status: &Status) -> DfsError {
    if let Ok(detail) = ErrorDetail::decode(status.details())
        && let Some(kind) = ErrorKind::from_number(detail.kind)
    {
        let leader = Some(detail.leader).filter(|leader| !leader.is_empty());
        return DfsError::new(kind, detail.message).with_leader(leader);
    }
    DfsError::new(kind_of(status.code()), format!("gRPC {:?}: {}", status.code(), status.message()))
}

fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound | ErrorKind::NoAttribute => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::PermissionDenied | ErrorKind::NotPermitted => Code::PermissionDenied,
        ErrorKind::InvalidArgument
        | ErrorKind::NameTooLong
        | ErrorKind::Protocol
        | ErrorKind::AttributeTooLarge
        | ErrorKind::TooManySymlinks => Code::InvalidArgument,
        ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::DirectoryNotEmpty
        | ErrorKind::ReadOnly
        | ErrorKind::Busy
        | ErrorKind::Stale
        | ErrorKind::CrossDevice
        | ErrorKind::WrongCluster
        | ErrorKind::StaleGeneration => Code::FailedPrecondition,
        ErrorKind::TooManyLinks | ErrorKind::FileTooLarge => Code::OutOfRange,
        ErrorKind::NoSpace | ErrorKind::QuotaExceeded => Code::ResourceExhausted,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::LeaseLost => Code::Aborted,
        ErrorKind::NotLeader | ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::TimedOut => Code::DeadlineExceeded,
        ErrorKind::OutcomeUnknown => Code::Unknown,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Io | ErrorKind::Internal => Code::Internal,
        ErrorKind::Cancelled => Code::Cancelled,
    }
}

/// For a status without our details: it comes from the transport, or from a server that is not ours.
fn kind_of(code: Code) -> ErrorKind {
    match code {
        // tonic reports broken connections as Unknown, Cancelled or Unavailable; the call may or may not have happened.
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Aborted => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::TimedOut,
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => ErrorKind::InvalidArgument,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::PermissionDenied,
        Code::ResourceExhausted => ErrorKind::Unavailable,
        Code::Unimplemented => ErrorKind::Unsupported,
        Code::DataLoss => ErrorKind::Corrupt,
        Code::Internal | Code::Ok => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_status_gives_back_every_kind() {
        for &kind in ErrorKind::ALL {
            let error = DfsError::new(kind, "words").with_leader(Some("host:1".into()));
            let back = from_status(&to_status(&error));
            assert_eq!((back.kind(), back.message(), back.leader()), (kind, "words", Some("host:1")));
        }
    }

    #[test]
    fn from_status_takes_a_dropped_connection_as_unavailable() {
        assert_eq!(from_status(&Status::unknown("broken pipe")).kind(), ErrorKind::Unavailable);
    }
}
