//! What a user is told when something fails: `dfs: ls: /x: no such file or directory`, and what to do about it.
//!
//! The words for each [`ErrorKind`] are here, once. The NameNode's own words are added where they say more than the kind.

use std::fmt;
use std::io;
use std::path::Path;

use dfs_common::{DfsError, ErrorKind};

use crate::path::DfsPath;

/// Result of a command or a step of it.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Why a command, or one operand of it, failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What was being dealt with; empty when it is not about one thing.
    subject: String,
    cause: Cause,
    /// What to do, when the command knows better than the kind of error.
    hint: Option<String>,
}

#[derive(Debug)]
enum Cause {
    Dfs(DfsError),
    Local(io::Error),
    Words(String),
    BrokenPipe,
}

impl Failure {
    /// The file system refused something about `path`.
    pub(crate) fn dfs(path: &DfsPath, error: DfsError) -> Self {
        Self { subject: path.to_string(), cause: Cause::Dfs(error), hint: None }
    }

    /// The file system refused something that is not about one path.
    pub(crate) fn cluster(error: DfsError) -> Self {
        Self { subject: String::new(), cause: Cause::Dfs(error), hint: None }
    }

    /// The NameNode refused something that those who run the cluster may ask for.
    pub(crate) fn admin(error: DfsError) -> Self {
        let failure = Self::cluster(error);
        match failure.error_kind() {
            Some(ErrorKind::NotPermitted) => failure.with_hint("run it as the superuser"),
            _ => failure,
        }
    }

    /// The file system, or we in its place, refused `path` for this reason.
    pub(crate) fn kind(path: &DfsPath, kind: ErrorKind) -> Self {
        Self::dfs(path, DfsError::new(kind, ""))
    }

    /// The local operating system refused something about `path`.
    pub(crate) fn local(path: &Path, error: io::Error) -> Self {
        Self { subject: path.display().to_string(), cause: Cause::Local(error), hint: None }
    }

    /// A refusal of our own, about `subject`.
    pub(crate) fn refused(subject: impl fmt::Display, words: impl Into<String>) -> Self {
        Self { subject: subject.to_string(), cause: Cause::Words(words.into()), hint: None }
    }

    /// Standard output could not be written.
    pub(crate) fn stdout(error: io::Error) -> Self {
        let cause = if error.kind() == io::ErrorKind::BrokenPipe { Cause::BrokenPipe } else { Cause::Local(error) };
        Self { subject: "standard output".to_owned(), cause, hint: None }
    }

    /// Replaces what the user is told to do.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether the reader of our output has gone: no reason to say anything.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self.cause, Cause::BrokenPipe)
    }

    /// The kind, when the file system said it.
    pub(crate) fn error_kind(&self) -> Option<ErrorKind> {
        match &self.cause {
            Cause::Dfs(error) => Some(error.kind()),
            Cause::Local(_) | Cause::Words(_) | Cause::BrokenPipe => None,
        }
    }

    /// Whether what was to be done was surely not done, and never will be.
    pub(crate) fn is_refusal(&self) -> bool {
        match &self.cause {
            Cause::Dfs(error) => error.is_refusal(),
            Cause::Words(_) => true,
            Cause::Local(_) | Cause::BrokenPipe => false,
        }
    }

    /// Whether going on with other files is pointless: each would fail the same way, after the same wait.
    pub(crate) fn is_fatal(&self) -> bool {
        match &self.cause {
            Cause::Dfs(error) => {
                let meets_all = matches!(
                    error.kind(),
                    ErrorKind::NoSpace | ErrorKind::ReadOnly | ErrorKind::WrongCluster | ErrorKind::Cancelled
                );
                // What took too long for one file, or on one DataNode, need not for the others.
                meets_all || error.is_unanswered()
            }
            Cause::Local(error) => {
                matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::ReadOnlyFilesystem)
            }
            Cause::BrokenPipe => true,
            Cause::Words(_) => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.subject.is_empty() {
            write!(f, "{}: ", self.subject)?;
        }
        let hint = match &self.cause {
            Cause::Dfs(error) => {
                let (words, detail, hint) = describe(error.kind());
                f.write_str(words)?;
                let chain = error.chain();
                if detail && !chain.is_empty() {
                    write!(f, " ({chain})")?;
                }
                hint
            }
            Cause::Local(error) => {
                f.write_str(&local_words(error))?;
                ""
            }
            Cause::Words(words) => {
                f.write_str(words)?;
                ""
            }
            Cause::BrokenPipe => {
                f.write_str("broken pipe")?;
                ""
            }
        };
        match self.hint.as_deref().unwrap_or(hint) {
            "" => Ok(()),
            hint => write!(f, "; {hint}"),
        }
    }
}

/// The system's words without the number that the standard library adds, in lower case like ours.
fn local_words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => "unknown error".to_owned(),
    }
}

/// Words for a kind, whether the error's own message says more, and what to do in general.
fn describe(kind: ErrorKind) -> (&'static str, bool, &'static str) {
    match kind {
        ErrorKind::NotFound => ("no such file or directory", false, ""),
        ErrorKind::AlreadyExists => ("file exists", false, ""),
        ErrorKind::NotADirectory => ("not a directory", false, ""),
        ErrorKind::IsADirectory => ("is a directory", false, ""),
        ErrorKind::DirectoryNotEmpty => ("directory not empty", false, ""),
        ErrorKind::PermissionDenied => ("permission denied", true, ""),
        ErrorKind::NotPermitted => ("operation not permitted", true, "only the owner or the superuser may do it"),
        ErrorKind::InvalidArgument => ("invalid argument", true, ""),
        ErrorKind::NameTooLong => ("name too long", true, ""),
        ErrorKind::TooManyLinks => ("too many links", true, ""),
        ErrorKind::FileTooLarge => ("file too large", true, "give the file a larger block size"),
        ErrorKind::NoSpace => {
            ("no space left in the cluster", true, "`dfs admin report` shows what each DataNode has left")
        }
        ErrorKind::QuotaExceeded => ("quota exceeded", true, ""),
        ErrorKind::ReadOnly => ("the file system is read-only", true, "`dfs admin safemode get` tells why"),
        ErrorKind::Busy => ("file is being written", true, "wait until its writer has closed it"),
        ErrorKind::Stale => ("file or session is gone", true, "run the command again"),
        ErrorKind::Unsupported => ("not supported", true, ""),
        ErrorKind::NoAttribute => ("no such attribute", false, ""),
        ErrorKind::AttributeTooLarge => ("attribute too large", true, ""),
        ErrorKind::CrossDevice => ("in another file system", true, "copy it instead"),
        ErrorKind::LeaseLost => ("the right to write the file was lost", true, "run the command again"),
        ErrorKind::NotLeader | ErrorKind::Unavailable => (
            "cluster not reachable",
            true,
            "check that it runs and that --namenode or DFS_NAMENODES names its NameNode",
        ),
        ErrorKind::TimedOut => ("no answer in time", true, "`dfs admin report` shows which DataNodes answer"),
        ErrorKind::Corrupt => ("no good replica", true, "`dfs admin report` shows which DataNodes are missing"),
        ErrorKind::Io => ("input/output error", true, ""),
        ErrorKind::Internal => ("internal error", true, "please report it"),
        ErrorKind::WrongCluster => ("another cluster answers", true, ""),
        ErrorKind::Protocol => ("unexpected answer", true, "check that client and cluster are of the same version"),
        ErrorKind::StaleGeneration => ("replica is outdated", true, "run the command again"),
        ErrorKind::TooManySymlinks => ("too many levels of symbolic links", false, ""),
        ErrorKind::Cancelled => ("interrupted", false, ""),
        ErrorKind::OutcomeUnknown => ("it is not known whether it was done", true, "look, and run the command again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> DfsPath {
        DfsPath::parse(path.as_bytes()).unwrap()
    }

    #[test]
    fn display_says_what_and_what_to_do() {
        let gone = Failure::dfs(&at("/x"), DfsError::new(ErrorKind::NotFound, "no entry x in inode 1"));
        assert_eq!(gone.to_string(), "/x: no such file or directory");
        let taken = Failure::kind(&at("/x"), ErrorKind::AlreadyExists).with_hint("use -f to replace it");
        assert_eq!(taken.to_string(), "/x: file exists; use -f to replace it");
        let away = Failure::cluster(DfsError::new(ErrorKind::Unavailable, "connect 127.0.0.1:1: refused")).to_string();
        assert!(away.starts_with("cluster not reachable (connect 127.0.0.1:1: refused); check"), "{away}");
    }

    #[test]
    fn admin_tells_who_may() {
        let refused = Failure::admin(DfsError::new(ErrorKind::NotPermitted, "only root administers the cluster"));
        let words = "operation not permitted (only root administers the cluster); run it as the superuser";
        assert_eq!(refused.to_string(), words);
        let away = Failure::admin(DfsError::new(ErrorKind::Unavailable, "connect 127.0.0.1:1: refused")).to_string();
        assert!(away.contains("; check that it runs"), "{away}");
    }

    #[test]
    fn display_takes_the_number_off_local_errors() {
        let failure = Failure::local(Path::new("/nowhere"), io::Error::from_raw_os_error(2));
        assert_eq!(failure.to_string(), "/nowhere: no such file or directory");
    }

    #[test]
    fn is_fatal_of_a_namenode_that_does_not_answer_but_not_of_one_file_that_takes_long() {
        use dfs_common::error::CallFate;
        let slow = || DfsError::new(ErrorKind::TimedOut, "still open after 1 s");
        assert!(!Failure::dfs(&at("/x"), slow()).is_fatal());
        assert!(Failure::dfs(&at("/x"), slow().with_fate(CallFate::Unanswered)).is_fatal());
        assert!(Failure::kind(&at("/x"), ErrorKind::ReadOnly).is_fatal());
    }

    #[test]
    fn every_kind_has_words() {
        for &kind in ErrorKind::ALL {
            let text = Failure::kind(&at("/x"), kind).to_string();
            assert!(text.len() > "/x: ".len() && !text.contains("()"), "{text}");
        }
    }

    #[test]
    fn stdout_knows_a_broken_pipe() {
        assert!(Failure::stdout(io::ErrorKind::BrokenPipe.into()).is_broken_pipe());
        assert!(!Failure::stdout(io::ErrorKind::StorageFull.into()).is_broken_pipe());
    }
}
