//! Safe mode: no repair and no deletion while the NameNode does not yet know where the replicas are.
//!
//! ```text
//!            loaded            share of blocks reported        extension over
//!  Loading ---------> Waiting <------------------------> Extension ----------> Off
//! ```
//!
//! The automatic part runs once, from the start of the process; a change of leader does not enter it. It holds back repair
//! and deletion only: files can be written meanwhile. Safe mode by command comes on top of it, holds back the same and
//! makes the namespace read-only, until it is left by command; leaving ends the automatic part too. A namespace restored from
//! an older image begins in the latter, so that somebody looks at it before anything is decided by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The namespace is not complete yet.
    Loading,
    /// Too few blocks have their minimum of replicas.
    Waiting,
    /// Enough have, since then.
    Extension(Instant),
    Off,
}

/// Why the namespace is read-only until somebody says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manual {
    Command,
    Restored,
}

/// The state of safe mode.
pub(crate) struct SafeMode {
    phase: Phase,
    manual: Option<Manual>,
    /// Whether `manual` is set, for every change of the namespace to look at without the block manager's lock.
    read_only: Arc<AtomicBool>,
    /// Share of the blocks that must have their minimum of replicas.
    threshold: f64,
    extension: Duration,
}

impl SafeMode {
    pub(crate) fn new(threshold: f64, extension: Duration) -> Self {
        Self { phase: Phase::Loading, manual: None, read_only: Arc::default(), threshold, extension }
    }

    /// Neither the automatic part nor a command holds repair and deletion back.
    pub(crate) fn is_off(&self) -> bool {
        self.phase == Phase::Off && self.manual.is_none()
    }

    /// The automatic part has ended.
    pub(crate) fn has_started_up(&self) -> bool {
        self.phase == Phase::Off
    }

    /// Entered by command, or to be left by one.
    pub(crate) fn is_manual(&self) -> bool {
        self.manual.is_some()
    }

    /// Follows [`SafeMode::is_manual`].
    pub(crate) fn read_only(&self) -> &Arc<AtomicBool> {
        &self.read_only
    }

    fn set_manual(&mut self, manual: Option<Manual>) {
        self.manual = manual;
        self.read_only.store(manual.is_some(), Ordering::Release);
    }

    /// The whole namespace is known: counting begins.
    pub(crate) fn on_loaded(&mut self) {
        if self.phase == Phase::Loading {
            self.phase = Phase::Waiting;
        }
    }

    /// Looks at the counts: `safe` of `total` blocks have their minimum of replicas.
    pub(crate) fn on_counts(&mut self, safe: u64, total: u64, now: Instant) {
        let reached = safe >= self.needed(total);
        self.phase = match self.phase {
            Phase::Loading | Phase::Off => self.phase,
            // A namespace without blocks has nothing to wait for.
            Phase::Waiting if total == 0 => Phase::Off,
            Phase::Waiting if reached => Phase::Extension(now),
            Phase::Waiting => Phase::Waiting,
            Phase::Extension(_) if !reached => Phase::Waiting,
            Phase::Extension(since) if now.saturating_duration_since(since) >= self.extension => Phase::Off,
            Phase::Extension(since) => Phase::Extension(since),
        };
        if let Phase::Extension(_) = self.phase
            && self.extension.is_zero()
        {
            self.phase = Phase::Off;
        }
    }

    /// Blocks of `total` that must have their minimum of replicas.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    pub(crate) fn needed(&self, total: u64) -> u64 {
        // A share of a count of blocks: far below 2^52, where doubles are exact.
        (total as f64 * self.threshold).ceil() as u64
    }

    pub(crate) fn enter(&mut self) {
        self.set_manual(self.manual.or(Some(Manual::Command)));
    }

    pub(crate) fn on_restored(&mut self) {
        self.set_manual(Some(Manual::Restored));
    }

    pub(crate) fn leave(&mut self) {
        self.set_manual(None);
        self.phase = Phase::Off;
    }

    /// One line for people.
    pub(crate) fn status(&self, safe: u64, total: u64, now: Instant) -> String {
        match self.manual {
            Some(Manual::Command) => {
                return "Safe mode is on by command: the namespace is read-only, nothing is repaired or deleted. \
                        Leave it with: dfs admin safemode leave"
                    .to_owned();
            }
            Some(Manual::Restored) => {
                return format!(
                    "Safe mode is on because the namespace was restored from a checkpoint: it is read-only, nothing is \
                     repaired or deleted. {safe} of {total} blocks have their replicas reported. When all DataNodes are \
                     there (dfs admin report) and it is what you want (dfs fsck /), go on with: dfs admin safemode leave"
                );
            }
            None => {}
        }
        match self.phase {
            Phase::Loading => "Safe mode is on: the namespace is being loaded.".to_owned(),
            Phase::Waiting => format!(
                "Safe mode is on: {safe} of {total} blocks have their replicas reported, {} are needed. \
                 Files can be read and written; repair and deletion wait.",
                self.needed(total)
            ),
            Phase::Extension(since) => {
                let left = self.extension.saturating_sub(now.saturating_duration_since(since));
                format!(
                    "Safe mode is on for another {} s: {safe} of {total} blocks have their replicas reported.",
                    left.as_secs_f64().ceil()
                )
            }
            Phase::Off => "Safe mode is off.".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_counts_follows_the_drawing() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut mode = SafeMode::new(0.999, Duration::from_secs(30));
        mode.on_counts(1_000, 1_000, at(0));
        assert_eq!(mode.phase, Phase::Loading);
        mode.on_loaded();
        // (safe, total, second, phase after)
        for (safe, total, second, expected) in [
            (998, 1_000, 1, Phase::Waiting),
            (999, 1_000, 2, Phase::Extension(at(2))),
            (998, 1_000, 3, Phase::Waiting),
            (999, 1_000, 4, Phase::Extension(at(4))),
            (1_000, 1_000, 33, Phase::Extension(at(4))),
            (1_000, 1_000, 34, Phase::Off),
            (0, 1_000, 35, Phase::Off),
        ] {
            mode.on_counts(safe, total, at(second));
            assert_eq!(mode.phase, expected, "{safe} of {total} at {second} s");
        }
    }

    #[test]
    fn on_counts_of_an_empty_namespace_leaves_at_once() {
        let mut mode = SafeMode::new(0.999, Duration::from_secs(30));
        mode.on_loaded();
        mode.on_counts(0, 0, Instant::now());
        assert!(mode.is_off());
    }

    #[test]
    fn leave_ends_both_kinds() {
        let mut mode = SafeMode::new(1.0, Duration::ZERO);
        mode.enter();
        assert!(mode.is_manual() && !mode.is_off());
        mode.leave();
        assert!(!mode.is_manual() && mode.is_off());
        assert_eq!(mode.status(0, 0, Instant::now()), "Safe mode is off.");
    }
}
