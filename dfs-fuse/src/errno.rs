//! From what went wrong to the errno a program sees. The only place that chooses one for an error of the cluster.

use std::fmt;

use dfs_common::error::{DfsError, ErrorKind};
use fuser::Errno;

use crate::lost_writes::Telling;

/// Why a request failed: the errno for the program, the words for the log.
pub(crate) struct FsError {
    errno: Errno,
    cause: Option<DfsError>,
    tells_loss: bool,
    /// To be noted when a program gets this.
    telling: Option<Telling>,
}

/// Result of everything the kernel may ask for.
pub(crate) type FsResult<T> = Result<T, FsError>;

impl FsError {
    /// Accepted bytes were lost, and who gets this is to be told.
    pub(crate) fn of_untold((cause, telling): (DfsError, Telling)) -> Self {
        Self::of_loss(&cause).to(telling)
    }

    /// Accepted bytes were lost.
    pub(crate) fn of_loss(cause: &DfsError) -> Self {
        Self { tells_loss: true, ..Self::from(cause.duplicate()).on_handle() }
    }

    /// Whether a program that gets this learns that accepted bytes were lost.
    pub(crate) fn tells_loss(&self) -> bool {
        self.tells_loss
    }

    /// For who is to be told by it that bytes were lost.
    #[must_use]
    pub(crate) fn to(self, told: Telling) -> Self {
        Self { telling: Some(told), ..self }
    }

    /// What a program sees that gets this now; see [`lost_writes`](crate::lost_writes).
    pub(crate) fn tell(self) -> Errno {
        if let Some(telling) = self.telling {
            telling.arrives();
        }
        self.errno
    }

    /// What a program would see.
    pub(crate) fn errno(&self) -> Errno {
        self.errno
    }

    /// What the cluster said, if it was asked.
    pub(crate) fn cause(&self) -> Option<&DfsError> {
        self.cause.as_ref()
    }

    /// Kind of the cluster's answer, if it was asked.
    pub(crate) fn kind(&self) -> Option<ErrorKind> {
        self.cause.as_ref().map(DfsError::kind)
    }

    /// For calls on a handle: the file was there at open, so its absence is not the absence of a name.
    #[must_use]
    pub(crate) fn on_handle(mut self) -> Self {
        if self.errno == Errno::ENOENT {
            self.errno = Errno::ESTALE;
        }
        self
    }
}

impl From<Errno> for FsError {
    fn from(errno: Errno) -> Self {
        Self { errno, cause: None, tells_loss: false, telling: None }
    }
}

impl From<DfsError> for FsError {
    fn from(error: DfsError) -> Self {
        Self { errno: errno_of(error.kind()), cause: Some(error), tells_loss: false, telling: None }
    }
}

impl fmt::Debug for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Some(cause) => write!(f, "errno {}: {cause:?}", self.errno.code()),
            None => write!(f, "errno {}", self.errno.code()),
        }
    }
}

/// The errno of a kind of error. Reasons stand where POSIX left a choice.
pub(crate) fn errno_of(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::NotFound => Errno::ENOENT,
        ErrorKind::AlreadyExists => Errno::EEXIST,
        ErrorKind::NotADirectory => Errno::ENOTDIR,
        ErrorKind::IsADirectory => Errno::EISDIR,
        ErrorKind::DirectoryNotEmpty => Errno::ENOTEMPTY,
        ErrorKind::PermissionDenied => Errno::EACCES,
        ErrorKind::NotPermitted => Errno::EPERM,
        ErrorKind::InvalidArgument => Errno::EINVAL,
        ErrorKind::NameTooLong => Errno::ENAMETOOLONG,
        ErrorKind::TooManyLinks => Errno::EMLINK,
        ErrorKind::FileTooLarge => Errno::EFBIG,
        ErrorKind::NoSpace => Errno::ENOSPC,
        ErrorKind::QuotaExceeded => Errno::EDQUOT,
        ErrorKind::ReadOnly => Errno::EROFS,
        // Another mount writes the file. ETXTBSY is about programs, EAGAIN would make callers spin.
        ErrorKind::Busy => Errno::EBUSY,
        // The kernel answers ESTALE on a path by walking it again without its caches, which is what is needed.
        ErrorKind::Stale => Errno::ESTALE,
        // Not ENOSYS: the kernel would never ask again, for any file.
        ErrorKind::Unsupported => Errno::EOPNOTSUPP,
        ErrorKind::NoAttribute => Errno::ENODATA,
        // setxattr(2): the value is beyond what the file system takes. ENOSPC would send users looking for room.
        ErrorKind::AttributeTooLarge => Errno::E2BIG,
        ErrorKind::CrossDevice => Errno::EXDEV,
        // Data that was accepted is gone: the errno that programs take as exactly that.
        ErrorKind::LeaseLost => Errno::EIO,
        // The client has tried for as long as the mount allows. Never ENOENT, never an empty answer.
        ErrorKind::NotLeader | ErrorKind::Unavailable | ErrorKind::TimedOut => Errno::ETIMEDOUT,
        // What a program makes of ETIMEDOUT, too: it may have been done, look before doing it again.
        ErrorKind::OutcomeUnknown => Errno::ETIMEDOUT,
        ErrorKind::Corrupt | ErrorKind::Io => Errno::EIO,
        ErrorKind::Internal => Errno::EIO,
        // A cluster or a peer that is not what it should be: nothing a program could act upon.
        ErrorKind::WrongCluster | ErrorKind::Protocol | ErrorKind::StaleGeneration => Errno::EIO,
        ErrorKind::TooManySymlinks => Errno::ELOOP,
        // The mount is being stopped. EINTR would make programs try again against a mount that is about to go.
        ErrorKind::Cancelled => Errno::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_of_an_outage_is_never_an_absence() {
        for kind in [ErrorKind::NotLeader, ErrorKind::Unavailable, ErrorKind::TimedOut, ErrorKind::Internal] {
            let errno = errno_of(kind);
            assert!(errno != Errno::ENOENT && errno != Errno::ESTALE && errno != Errno::ENOSYS, "{kind:?}");
        }
    }

    #[test]
    fn errno_of_never_disables_an_operation_for_good() {
        for &kind in ErrorKind::ALL {
            assert_ne!(errno_of(kind), Errno::ENOSYS, "{kind:?}");
        }
    }

    #[test]
    fn errno_of_keeps_refusals_apart_that_programs_tell_apart() {
        let table = [
            (ErrorKind::NotFound, libc::ENOENT),
            (ErrorKind::PermissionDenied, libc::EACCES),
            (ErrorKind::NotPermitted, libc::EPERM),
            (ErrorKind::NameTooLong, libc::ENAMETOOLONG),
            (ErrorKind::NoSpace, libc::ENOSPC),
            (ErrorKind::Busy, libc::EBUSY),
            (ErrorKind::Unsupported, libc::EOPNOTSUPP),
            (ErrorKind::ReadOnly, libc::EROFS),
            (ErrorKind::NoAttribute, libc::ENODATA),
        ];
        for (kind, errno) in table {
            assert_eq!(errno_of(kind).code(), errno, "{kind:?}");
        }
    }

    #[test]
    fn on_handle_turns_only_enoent() {
        let gone: FsError = DfsError::new(ErrorKind::NotFound, "gone").into();
        assert_eq!(gone.on_handle().errno(), Errno::ESTALE);
        let lost = FsError::of_loss(&DfsError::new(ErrorKind::NotFound, "gone"));
        assert_eq!(lost.errno(), Errno::ESTALE, "whoever lost bytes had the file open");
        let refused: FsError = DfsError::new(ErrorKind::PermissionDenied, "no").into();
        assert_eq!(refused.on_handle().errno(), Errno::EACCES);
    }
}
