//! What the SecondaryNameNode has done, for its page.

use std::time::{Duration, Instant};

use dfs_common::ids::TxId;
use dfs_proto::v1;
use parking_lot::Mutex;

use super::checkpoint_dir::LastCheckpoint;
use crate::namenode::checkpoints::lag;

/// Characters of a failure that the NameNode is told.
const WORDS_MAX: usize = 1_000;

/// What is known, all of it since the start.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// Held for a few instructions.
    known: Mutex<Known>,
}

/// A look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The cluster of the NameNode, once that has answered.
    pub(super) cluster: Option<String>,
    /// When the NameNode answered last, and the transaction it was at.
    pub(super) answered: Option<(Instant, TxId)>,
    /// The last checkpoint's transaction, and how old it was when it was looked at, unless the clock says nothing of that.
    pub(super) last: Option<(TxId, Option<(Instant, Duration)>)>,
    /// When the last checkpoint had last everything that there was.
    pub(super) in_step: Option<Instant>,
    /// A checkpoint is being made.
    pub(super) is_at_work: bool,
    /// When the last try failed and why; none after one that did not.
    pub(super) failure: Option<(Instant, String)>,
}

impl Status {
    /// The NameNode has said where it is; the last checkpoint is this one.
    pub(super) fn on_looked(&self, cluster: &str, applied: TxId, last: Option<&LastCheckpoint>) {
        let now = Instant::now();
        let mut known = self.known.lock();
        known.cluster = Some(cluster.to_owned());
        known.answered = Some((now, applied));
        known.last = last.map(|last| (last.txid, last.age.map(|age| (now, age))));
        if last.is_some_and(|last| last.txid >= applied) {
            known.in_step = Some(now);
        }
    }

    pub(super) fn on_begun(&self) {
        self.known.lock().is_at_work = true;
    }

    /// A checkpoint of all up to this transaction is here.
    pub(super) fn on_checkpoint(&self, txid: TxId) {
        self.known.lock().last = Some((txid, Some((Instant::now(), Duration::ZERO))));
    }

    /// A try is over, whatever it came to.
    pub(super) fn on_tried(&self, failure: Option<String>) {
        let mut known = self.known.lock();
        known.is_at_work = false;
        known.failure = failure.map(|why| (Instant::now(), why));
    }

    pub(super) fn known(&self) -> Known {
        self.known.lock().clone()
    }
}

impl Known {
    /// Age of the last checkpoint; none when there is none, or its file is of the future.
    pub(super) fn age(&self) -> Option<Duration> {
        let (looked, age) = self.last?.1?;
        Some(age.saturating_add(looked.elapsed()))
    }

    /// How long there have been changes that the last checkpoint does not have, as far as is known.
    pub(super) fn lag(&self) -> Option<Duration> {
        lag(self.behind()?, self.age(), self.in_step).map(|(_, since)| since)
    }

    /// What the NameNode is told; one checkpoint is to be made every `period`.
    pub(super) fn report(&self, period: Duration) -> v1::CheckpointReport {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let words = self.failure.as_ref().map(|(_, why)| why.chars().take(WORDS_MAX).collect());
        v1::CheckpointReport {
            period_ms: ms(period),
            checkpoint_txid: self.last.map(|(txid, _)| txid.0),
            checkpoint_age_ms: self.age().map(ms),
            failure: words.unwrap_or_default(),
            failed_ms_ago: self.failure.as_ref().map_or(0, |(at, _)| ms(at.elapsed())),
        }
    }

    /// Changes that a loss of the NameNode would cost, as far as the NameNode has told.
    pub(super) fn behind(&self) -> Option<u64> {
        let ((_, applied), (last, _)) = (self.answered?, self.last?);
        Some(applied.0.saturating_sub(last.0))
    }
}
