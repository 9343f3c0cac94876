//! The one error that crosses crates: what went wrong for the caller (`kind`), in words (`message`), and why (`source`).
//!
//! The kind is closed: errno, gRPC code and retry class are each one `match` over it without a wildcard. A message says
//! what was refused and what to do; it never repeats its source. Whoever handles an error logs it once with `chain`.

use std::error::Error as StdError;
use std::fmt;

/// Result with the shared error.
pub type Result<T, E = DfsError> = std::result::Result<T, E>;

macro_rules! error_kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What the caller can do about it. Numbers are the wire's and are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum ErrorKind { $($(#[$doc])* $name = $number,)* }

        impl ErrorKind {
            /// Every kind, for tests that enumerate them.
            pub const ALL: &[ErrorKind] = &[$(ErrorKind::$name,)*];

            /// The kind with this wire number.
            pub fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

error_kinds! {
    /// No such name or inode.
    NotFound = 1,
    /// The name is taken.
    AlreadyExists = 2,
    /// A path component is not a directory.
    NotADirectory = 3,
    /// A directory where something else is needed.
    IsADirectory = 4,
    /// Directory still has entries.
    DirectoryNotEmpty = 5,
    /// Mode bits forbid it.
    PermissionDenied = 6,
    /// Only the owner or root may.
    NotPermitted = 7,
    /// The request makes no sense.
    InvalidArgument = 8,
    /// Name above 255 bytes or path above 4,096.
    NameTooLong = 9,
    /// Too many hard links.
    TooManyLinks = 10,
    /// The file would have too many blocks.
    FileTooLarge = 11,
    /// No DataNode has room.
    NoSpace = 12,
    /// A quota would be exceeded.
    QuotaExceeded = 13,
    /// Safe mode by command, or a read-only mount.
    ReadOnly = 14,
    /// Another writer has the file.
    Busy = 15,
    /// The inode or session is gone.
    Stale = 16,
    /// Not possible with write-once blocks, or not yet.
    Unsupported = 17,
    /// No such extended attribute.
    NoAttribute = 18,
    /// Extended attribute above its limits.
    AttributeTooLarge = 19,
    /// Across file systems.
    CrossDevice = 20,
    /// The writer's lease was taken away: its unflushed data is lost.
    LeaseLost = 21,
    /// This NameNode does not lead; ask another one.
    NotLeader = 22,
    /// Could not be reached or is not ready; worth another try.
    Unavailable = 23,
    /// No answer within the deadline.
    TimedOut = 24,
    /// Every replica at hand is corrupt or lost.
    Corrupt = 25,
    /// A device or a socket failed.
    Io = 26,
    /// A bug or a broken invariant.
    Internal = 27,
    /// Storage or peer of another cluster.
    WrongCluster = 28,
    /// The peer broke the protocol.
    Protocol = 29,
    /// The replica has another generation stamp than the one asked for.
    StaleGeneration = 30,
    /// A symbolic link loop or too many of them.
    TooManySymlinks = 31,
    /// Stopped on request.
    Cancelled = 32,
    /// Nobody knows any more whether the call was made.
    OutcomeUnknown = 33,
}

/// How a caller should go on after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryClass {
    /// The answer is final.
    Never,
    /// The same server may answer later.
    Later,
    /// Another NameNode of the group may answer.
    OtherServer,
}

impl ErrorKind {
    /// Whether trying again can help.
    pub fn retry_class(self) -> RetryClass {
        match self {
            Self::NotLeader => RetryClass::OtherServer,
            // A deadline leaves it open whether the call happened; the retry cache makes a repeat safe.
            Self::Unavailable | Self::TimedOut => RetryClass::Later,
            Self::NotFound
            | Self::AlreadyExists
            | Self::NotADirectory
            | Self::IsADirectory
            | Self::DirectoryNotEmpty
            | Self::PermissionDenied
            | Self::NotPermitted
            | Self::InvalidArgument
            | Self::NameTooLong
            | Self::TooManyLinks
            | Self::FileTooLarge
            | Self::NoSpace
            | Self::QuotaExceeded
            | Self::ReadOnly
            | Self::Busy
            | Self::Stale
            | Self::Unsupported
            | Self::NoAttribute
            | Self::AttributeTooLarge
            | Self::CrossDevice
            | Self::LeaseLost
            | Self::Corrupt
            | Self::Io
            | Self::Internal
            | Self::WrongCluster
            | Self::Protocol
            | Self::StaleGeneration
            | Self::TooManySymlinks
            | Self::Cancelled
            | Self::OutcomeUnknown => RetryClass::Never,
        }
    }
}

/// What is known of the call to a NameNode that an error tells of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CallFate {
    /// The call may have been made; also of errors that tell of no call.
    #[default]
    Unknown,
    /// It was not made and never will be.
    Refused,
    /// It may have been made. The NameNode has not answered for as long as patience lasted, and would not answer others either.
    Unanswered,
}

/// The shared error. Cheap to move: one pointer.
pub struct DfsError(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    leader: Option<String>,
    fate: CallFate,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl DfsError {
    /// An error without a cause below it.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), leader: None, fate: CallFate::default(), source: None }))
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds where the leader is (for `NotLeader`).
    #[must_use]
    pub fn with_leader(mut self, leader: Option<String>) -> Self {
        self.0.leader = leader;
        self
    }

    /// Adds what is known of the call. To be said by whoever made it; without it, nothing is.
    #[must_use]
    pub fn with_fate(mut self, fate: CallFate) -> Self {
        self.0.fate = fate;
        self
    }

    /// An I/O error; a full device becomes `NoSpace`.
    pub fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            std::io::ErrorKind::TimedOut => ErrorKind::TimedOut,
            _ => ErrorKind::Io,
        };
        Self::new(kind, doing).with_source(source)
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The outermost words, without causes.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Address of the leader, when a follower named it.
    pub fn leader(&self) -> Option<&str> {
        self.0.leader.as_deref()
    }

    /// Whether the call that failed was surely not made.
    pub fn is_refusal(&self) -> bool {
        self.0.fate == CallFate::Refused
    }

    /// Whether the NameNode has not answered for as long as patience lasted: other calls would go the same way.
    pub fn is_unanswered(&self) -> bool {
        self.0.fate == CallFate::Unanswered
    }

    /// A copy for a second listener: same kind and fate, the whole chain as its message.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self::new(self.kind(), self.chain()).with_leader(self.0.leader.clone()).with_fate(self.0.fate)
    }

    /// Message and all causes in one line, for the log.
    pub fn chain(&self) -> String {
        let mut line = self.0.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line
    }
}

impl fmt::Display for DfsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for DfsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.chain())
    }
}

impl StdError for DfsError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_number_finds_every_kind() {
        for &kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_number(kind as u32), Some(kind));
        }
        assert_eq!(ErrorKind::from_number(0), None);
    }

    #[test]
    fn duplicate_keeps_what_is_known_of_the_call() {
        for (fate, refusal, unanswered) in
            [(CallFate::Unknown, false, false), (CallFate::Refused, true, false), (CallFate::Unanswered, false, true)]
        {
            let error = DfsError::new(ErrorKind::NotFound, "").with_fate(fate).duplicate();
            assert_eq!((error.is_refusal(), error.is_unanswered()), (refusal, unanswered), "{fate:?}");
        }
        assert!(!DfsError::new(ErrorKind::NotFound, "").is_refusal(), "nobody has said so");
    }

    #[test]
    fn chain_names_every_cause_once() {
        let io = std::io::Error::other("disk gone");
        let error = DfsError::new(ErrorKind::Io, "write block").with_source(io);
        assert_eq!(error.chain(), "write block: disk gone");
        assert_eq!(error.to_string(), "write block");
    }
}
