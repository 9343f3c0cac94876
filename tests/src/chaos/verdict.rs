//! What is held against the file system, and what is excused.
//!
//! While a mount is away, the programs on it get errors and wait longer than they should: their operations' outcomes are unknown,
//! and that is excused. An answer is judged always, whatever is away: a [`Violation`] is never excused.

use std::fmt::Display;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::violation::Violation;

/// Longest that one operation of a program may take while faults come and go: a restarted NameNode, a DataNode found dead.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a mount is there: odd while it is away, and larger with every change.
#[derive(Debug, Default)]
pub(super) struct MountState(AtomicU64);

impl MountState {
    /// It is about to go.
    pub(super) fn go(&self) {
        self.0.fetch_or(1, Ordering::SeqCst);
    }

    /// It is back.
    pub(super) fn come(&self) {
        if !self.is_there() {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub(super) fn is_there(&self) -> bool {
        self.0.load(Ordering::SeqCst).is_multiple_of(2)
    }

    /// Begins an operation.
    pub(super) fn begin(&self) -> Begun<'_> {
        Begun { mount: self, number: self.0.load(Ordering::SeqCst), at: Instant::now() }
    }
}

/// An operation under way.
#[derive(Debug)]
pub(super) struct Begun<'a> {
    mount: &'a MountState,
    number: u64,
    at: Instant,
}

impl Begun<'_> {
    /// Whether its mount was away at any moment since.
    fn is_excused(&self) -> bool {
        !self.number.is_multiple_of(2) || self.mount.0.load(Ordering::SeqCst) != self.number
    }
}

/// How an operation ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome<T> {
    /// With an answer that nothing is wrong with.
    Answered(T),
    /// With an error, because its mount went: nobody knows whether it happened.
    Unknown,
    /// It must not have ended so. It is noted.
    Bad,
}

/// What went wrong, and how slow it was; shared by all threads.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    errors: Mutex<Vec<String>>,
    slowest_ms: AtomicU64,
    operations: AtomicU64,
    excused: AtomicU64,
}

impl Verdict {
    /// Judges one operation of a program.
    pub(super) fn judge<T>(&self, what: impl Display, begun: &Begun<'_>, outcome: io::Result<T>) -> Outcome<T> {
        let took = begun.at.elapsed();
        let is_excused = begun.is_excused();
        if !is_excused {
            self.slowest_ms.fetch_max(took.as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
            if took > PATIENCE {
                self.note(format!("{what} took {took:?}"));
            }
        }
        self.judge_untimed(what, begun, outcome)
    }

    /// Judges many operations at once.
    pub(super) fn judge_untimed<T>(&self, what: impl Display, begun: &Begun<'_>, outcome: io::Result<T>) -> Outcome<T> {
        self.operations.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(value) => Outcome::Answered(value),
            Err(error) if begun.is_excused() && !Violation::is(&error) => {
                self.excused.fetch_add(1, Ordering::Relaxed);
                Outcome::Unknown
            }
            Err(error) => {
                self.note(format!("{what} after {:?}: {error}", begun.at.elapsed()));
                Outcome::Bad
            }
        }
    }

    /// Notes something that must not be.
    pub(super) fn note(&self, what: impl Into<String>) {
        self.errors.lock().expect("no holder panics").push(what.into());
    }

    /// The verdict: figures, or also what was wrong.
    pub(super) fn pronounce(&self) -> Result<String, String> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let figures = format!(
            "{} operations, the slowest {} ms, {} ended with their mount",
            count(&self.operations),
            count(&self.slowest_ms),
            count(&self.excused)
        );
        let errors = self.errors.lock().expect("no holder panics");
        if errors.is_empty() { Ok(figures) } else { Err(format!("{figures}; {}", errors.join("; "))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOTCONN))
    }

    fn violation() -> io::Result<()> {
        Err(Violation::error("wrong byte"))
    }

    #[test]
    fn judge_excuses_errors_of_a_mount_that_was_away_and_nothing_else() {
        let (mount, verdict) = (MountState::default(), Verdict::default());
        let begun = mount.begin();
        assert_eq!(verdict.judge("a call", &begun, Ok(7)), Outcome::Answered(7));
        mount.go();
        assert_eq!(verdict.judge("a call", &begun, failure()), Outcome::Unknown, "it went meanwhile");
        assert_eq!(verdict.judge("a call", &mount.begin(), failure()), Outcome::Unknown, "it is away");
        let begun_away = mount.begin();
        mount.come();
        assert_eq!(verdict.judge("a call", &begun_away, failure()), Outcome::Unknown, "it was away at the beginning");
        assert_eq!(verdict.judge("a call", &begun, failure()), Outcome::Unknown, "it was away in between");
        verdict.pronounce().unwrap();
        assert_eq!(verdict.judge("a call", &mount.begin(), failure()), Outcome::Bad);
        assert!(verdict.pronounce().unwrap_err().contains("a call"));
    }

    #[test]
    fn judge_never_excuses_a_violation() {
        let (mount, verdict) = (MountState::default(), Verdict::default());
        let begun = mount.begin();
        mount.go();
        assert_eq!(verdict.judge("a read", &begun, violation()), Outcome::Bad);
        assert_eq!(verdict.judge_untimed("a check", &mount.begin(), violation()), Outcome::Bad);
        let why = verdict.pronounce().unwrap_err();
        assert!(why.contains("a read") && why.contains("a check"), "{why}");
    }

    #[test]
    fn judge_notes_what_took_too_long() {
        let (mount, verdict) = (MountState::default(), Verdict::default());
        let Some(long_ago) = Instant::now().checked_sub(PATIENCE * 2) else { return };
        let begun = |mount| Begun { at: long_ago, ..MountState::begin(mount) };
        let late = begun(&mount);
        mount.go();
        assert_eq!(verdict.judge("a call", &late, Ok(())), Outcome::Answered(()));
        verdict.pronounce().unwrap();
        mount.come();
        assert_eq!(verdict.judge("a call", &begun(&mount), Ok(())), Outcome::Answered(()));
        assert!(verdict.pronounce().unwrap_err().contains("took"));
    }

    #[test]
    fn mount_goes_and_comes_once() {
        let mount = MountState::default();
        mount.come();
        assert!(mount.is_there());
        mount.go();
        mount.go();
        assert!(!mount.is_there());
        mount.come();
        mount.come();
        assert!(mount.is_there());
    }
}
