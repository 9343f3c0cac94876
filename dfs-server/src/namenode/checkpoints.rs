//! How checkpoints go, for the page, its verdict and `/status`: the NameNode's own, and those of the SecondaryNameNode, which
//! tells with each look what became of its last try. All of it is soft: known since the start.
//!
//! A checkpoint that fails costs nothing at once: image and edits stay. But the edit log grows until one succeeds, and what the
//! SecondaryNameNode does not have is lost with the NameNode's device.

use std::time::{Duration, Instant};

use dfs_common::error::{DfsError, Result};
use dfs_common::ids::TxId;
use dfs_proto::v1;
use parking_lot::Mutex;

use super::room::Room;

/// Bytes of a failure's words that are kept: they come from another machine.
const WORDS_MAX: usize = 1_000;
/// A device that has not answered for so long hangs.
const ROOM_SILENCE: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub struct Checkpoints {
    /// Held for a few instructions; no other lock is taken under it.
    known: Mutex<Known>,
}

/// A look at it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// When the NameNode's own last try failed and why; none after one that did not, its own or another's.
    pub(crate) own_failure: Option<(Instant, String)>,
    /// Room on the device, or why that is not known, and when it was told: a device that hangs tells nothing.
    pub(crate) room: Option<(Instant, Result<Room, String>)>,
    /// The configuration says that there is to be a SecondaryNameNode.
    pub(crate) expects_secondary: bool,
    /// The SecondaryNameNode, once it has been heard.
    pub(crate) secondary: Option<Secondary>,
}

/// What is known of the SecondaryNameNode.
#[derive(Clone, Debug)]
pub(crate) struct Secondary {
    /// When it was heard last.
    pub(crate) heard: Instant,
    /// It has begun a checkpoint, and may be silent while it merges.
    pub(crate) is_at_work: bool,
    /// What it has told: an older program tells nothing.
    pub(crate) told: Told,
    /// When its checkpoint had last everything that there was.
    pub(crate) in_step: Option<Instant>,
}

/// What a SecondaryNameNode tells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// Time between its checkpoints.
    pub(crate) period: Duration,
    /// Its last checkpoint.
    pub(crate) last: Option<Last>,
    /// When its last try failed and why; none after one that did not.
    pub(crate) failure: Option<(Instant, String)>,
}

/// The SecondaryNameNode's last checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Last {
    pub(crate) txid: TxId,
    /// How old it was when it was told of. None where the SecondaryNameNode's clock says nothing of it.
    age: Option<(Duration, Instant)>,
}

impl Checkpoints {
    /// The configuration names the SecondaryNameNode's directory: there is to be one.
    pub fn expect_secondary(&self) {
        self.known.lock().expects_secondary = true;
    }

    pub(crate) fn known(&self) -> Known {
        self.known.lock().clone()
    }

    /// What a try of the NameNode came to.
    pub(super) fn on_own(&self, failure: Option<&DfsError>) {
        self.known.lock().own_failure = failure.map(|error| (Instant::now(), error.chain()));
    }

    /// An image of the SecondaryNameNode is the newest now: the edit log is short again.
    pub(super) fn on_adopted(&self) {
        self.known.lock().own_failure = None;
    }

    pub(super) fn on_room(&self, room: Result<Room>) {
        self.known.lock().room = Some((Instant::now(), room.map_err(|error| error.chain())));
    }

    /// The SecondaryNameNode is at work on a checkpoint.
    pub(super) fn on_work(&self) {
        let mut known = self.known.lock();
        let secondary = known.secondary.get_or_insert_with(Secondary::new);
        (secondary.heard, secondary.is_at_work) = (Instant::now(), true);
    }

    /// The SecondaryNameNode looks whether a checkpoint is due, and tells of the last one; `applied` is where the NameNode is.
    pub(super) fn on_look(&self, report: Option<&v1::CheckpointReport>, applied: TxId) {
        let now = Instant::now();
        let mut known = self.known.lock();
        let secondary = known.secondary.get_or_insert_with(Secondary::new);
        (secondary.heard, secondary.is_at_work) = (now, false);
        let Some(report) = report else { return };
        let told = Told::of(report, now);
        if told.last.is_some_and(|last| last.txid >= applied) {
            secondary.in_step = Some(now);
        }
        // Right after its start it does not know yet.
        let last = told.last.or(secondary.told.last);
        secondary.told = Told { last, ..told };
    }
}

impl Known {
    /// For how long the device has not said how much room there is, if that is too long. None before it has said so for the first time.
    pub(crate) fn room_silence(&self) -> Option<Duration> {
        let (told, _) = self.room.as_ref()?;
        Some(told.elapsed()).filter(|silence| *silence >= ROOM_SILENCE)
    }

    /// Bytes free on the device, as it said last; none when it never did, could not say, or has been silent for too long.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        let (_, room) = self.room.as_ref().filter(|_| self.room_silence().is_none())?;
        room.as_ref().ok().map(|room| room.free)
    }
}

impl Secondary {
    fn new() -> Self {
        Self { heard: Instant::now(), is_at_work: false, told: Told::default(), in_step: None }
    }

    /// Changes that its checkpoint does not have, and for how long that has been so, as far as is known.
    pub(crate) fn lag(&self, applied: TxId) -> Option<(u64, Duration)> {
        let last = self.told.last?;
        lag(applied.0.saturating_sub(last.txid.0), last.age(), self.in_step)
    }
}

/// How many changes a checkpoint does not have, and for how long that has been so, as far as is known: since it was made, or since it
/// had last everything that there was.
pub(crate) fn lag(behind: u64, age: Option<Duration>, in_step: Option<Instant>) -> Option<(u64, Duration)> {
    let since = [age, in_step.map(|at| at.elapsed())].into_iter().flatten().min()?;
    (behind > 0).then_some((behind, since))
}

impl Last {
    /// Its age now.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.age.map(|(age, told)| age.saturating_add(told.elapsed()))
    }
}

impl Told {
    fn of(report: &v1::CheckpointReport, now: Instant) -> Self {
        let age = report.checkpoint_age_ms.map(|ms| (Duration::from_millis(ms), now));
        let failed = now.checked_sub(Duration::from_millis(report.failed_ms_ago)).unwrap_or(now);
        let words: String = report.failure.chars().take(WORDS_MAX).collect();
        let last = report.checkpoint_txid.map(|txid| Last { txid: TxId(txid), age });
        let failure = (!words.is_empty()).then_some((failed, words));
        Self { period: Duration::from_millis(report.period_ms), last, failure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(txid: u64, age_ms: u64) -> v1::CheckpointReport {
        v1::CheckpointReport {
            period_ms: 1_000,
            checkpoint_txid: Some(txid),
            checkpoint_age_ms: Some(age_ms),
            ..v1::CheckpointReport::default()
        }
    }

    #[test]
    fn lag_counts_from_when_all_was_there() {
        let checkpoints = Checkpoints::default();
        let lag = |applied| checkpoints.known().secondary.unwrap().lag(TxId(applied));
        checkpoints.on_look(None, TxId(9));
        assert_eq!(lag(9), None, "it has told nothing");
        checkpoints.on_look(Some(&report(7, 50)), TxId(9));
        let (behind, since) = lag(9).unwrap();
        assert!(behind == 2 && since >= Duration::from_millis(50), "{behind} {since:?}");
        // An hour without changes: what comes now is not late.
        checkpoints.on_look(Some(&report(9, 3_600_000)), TxId(9));
        assert_eq!(lag(9), None);
        let (behind, since) = lag(10).unwrap();
        assert!(behind == 1 && since < Duration::from_secs(60), "{behind} {since:?}");
    }

    #[test]
    fn failures_stay_until_a_try_succeeds() {
        let checkpoints = Checkpoints::default();
        let full = DfsError::new(dfs_common::error::ErrorKind::NoSpace, "the device is full");
        checkpoints.on_own(Some(&full));
        assert!(checkpoints.known().own_failure.unwrap().1.contains("the device is full"));
        checkpoints.on_own(None);
        assert!(checkpoints.known().own_failure.is_none());
        checkpoints.on_own(Some(&full));
        checkpoints.on_adopted();
        assert!(checkpoints.known().own_failure.is_none(), "the other's image is as good");

        let failure = "x".repeat(2 * WORDS_MAX);
        checkpoints.on_look(Some(&v1::CheckpointReport { failure, ..report(7, 0) }), TxId(7));
        checkpoints.on_work();
        let secondary = checkpoints.known().secondary.unwrap();
        assert!(secondary.is_at_work && secondary.told.failure.unwrap().1.len() == WORDS_MAX);
        checkpoints.on_look(Some(&report(8, 0)), TxId(8));
        let secondary = checkpoints.known().secondary.unwrap();
        assert!(!secondary.is_at_work && secondary.told.failure.is_none());
    }
}
