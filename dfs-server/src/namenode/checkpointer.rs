//! The NameNode's own checkpoints: when one is made, and what is remembered of it in [`Checkpoints`](super::checkpoints).

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::error::Result;
use dfs_common::ids::TxId;
use dfs_common::retry::Backoff;

use super::namesystem::Namesystem;
use super::room::Room;
use crate::blocking::blocking;

/// How often it is asked how much room the device has.
const ROOM_TICK: Duration = Duration::from_secs(5);
/// Before a checkpoint that failed is tried again; doubled with each failure, up to the period.
const FIRST_PAUSE: Duration = Duration::from_secs(10);

/// When the NameNode makes a checkpoint of its own: a period after the last one, or once so many transactions have come. After a
/// failure it waits a little in any case, longer with each: a try reads and writes as much as the last one, and mostly fails for the
/// same reason.
#[derive(Debug)]
pub(super) struct Schedule {
    period: Duration,
    txns: u64,
    /// When the last one that was made began; at first, when the daemon started.
    last: Instant,
    /// Tries since the last one that succeeded.
    failures: u32,
    /// No try before this.
    not_before: Instant,
}

impl Schedule {
    pub(super) fn new(period: Duration, txns: u64) -> Self {
        let now = Instant::now();
        Self { period, txns, last: now, failures: 0, not_before: now }
    }

    /// Whether it is time, with `since` transactions that the newest image does not have.
    pub(super) fn is_due(&self, since: u64, now: Instant) -> bool {
        let is_old = now.saturating_duration_since(self.last) >= self.period;
        since > 0 && (is_old || since >= self.txns) && now >= self.not_before
    }

    /// A try came to its end.
    pub(super) fn on_tried(&mut self, is_made: bool, begun: Instant, ended: Instant) {
        if is_made {
            (self.last, self.failures) = (begun, 0);
            return;
        }
        let pauses = Backoff { first: FIRST_PAUSE, max: self.period };
        self.not_before = ended + pauses.delay(self.failures, &mut rand::rng());
        self.failures = self.failures.saturating_add(1);
    }
}

impl Namesystem {
    /// Makes an image of everything applied so far, and remembers what came of it.
    ///
    /// # Errors
    /// As of [`Journal::checkpoint`](super::journal::Journal::checkpoint).
    pub async fn checkpoint(&self) -> Result<TxId> {
        let made = self.journal().checkpoint().await;
        self.checkpoints().on_own(made.as_ref().err());
        made
    }

    /// Asks for the room on the device again and again, away from whoever tells of it: a device may not answer.
    pub(super) async fn watch_room(&self) {
        let mut ticks = tokio::time::interval(ROOM_TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let dir = Arc::clone(self.name_dir());
            let room = blocking("ask for room", move || Room::of(&dir)).await;
            self.checkpoints().on_room(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_that_failed_is_not_tried_at_once_however_many_changes_there_are() {
        let period = Duration::from_secs(3_600);
        let mut schedule = Schedule::new(period, 100);
        let mut now = schedule.last;
        assert!(schedule.is_due(100, now) && !schedule.is_due(99, now) && !schedule.is_due(0, now + period));
        let mut pauses = Vec::new();
        for _ in 0..20 {
            schedule.on_tried(false, now, now);
            let pause = schedule.not_before - now;
            assert!(!schedule.is_due(1_000_000, now + pause / 2) && schedule.is_due(1_000_000, now + pause));
            assert!(pause >= FIRST_PAUSE / 2 && pause <= period, "{pause:?}");
            pauses.push(pause);
            now += pause;
        }
        assert!(pauses.last().unwrap() >= &(period / 2), "{pauses:?}");
        schedule.on_tried(false, now, now);
        let pause = schedule.not_before - now;
        assert!(
            !schedule.is_due(1, now + pause / 2) && schedule.is_due(1, now + pause),
            "one that is due by time, too"
        );
        now += pause;
        schedule.on_tried(true, now, now);
        assert!(schedule.is_due(100, now) && !schedule.is_due(99, now) && schedule.is_due(1, now + period));
    }
}
