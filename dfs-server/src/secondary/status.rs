//! What the SecondaryNameNode has done, for its page.

use std::time::{Duration, Instant};

use dfs_common::ids::TxId;
use parking_lot::Mutex;

use super::checkpoint_dir::LastCheckpoint;

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
    /// The last checkpoint's transaction, and when it was made, as far as the clock reaches back.
    pub(super) last: Option<(TxId, Option<Instant>)>,
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
        known.last = last.map(|last| (last.txid, now.checked_sub(last.age)));
    }

    pub(super) fn on_begun(&self) {
        self.known.lock().is_at_work = true;
    }

    /// A checkpoint of all up to this transaction is here.
    pub(super) fn on_checkpoint(&self, txid: TxId) {
        self.known.lock().last = Some((txid, Some(Instant::now())));
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
    /// Age of the last checkpoint; none when there is none, or it is older than the machine is up.
    pub(super) fn age(&self) -> Option<Duration> {
        Some(self.last?.1?.elapsed())
    }

    /// Changes that a loss of the NameNode would cost, as far as the NameNode has told.
    pub(super) fn behind(&self) -> Option<u64> {
        let ((_, applied), (last, _)) = (self.answered?, self.last?);
        Some(applied.0.saturating_sub(last.0))
    }
}
