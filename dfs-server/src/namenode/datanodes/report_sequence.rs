//! In which order the reports of a DataNode count.
//!
//! Full reports and incremental events of one registration carry numbers from one sequence and are applied in its order.
//! A full report states everything up to its number; events that arrive while it streams in wait until it is done, and are
//! then applied in steps, before any that come later. After a gap the events at hand are applied (they are true) and a full
//! report is asked for.
//!
//! What a full report does not name is forgotten, so it counts as a whole only. One that was given up cannot go on: its later
//! pages are refused, and the DataNode sends another one under a higher number.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use dfs_common::block::Block;
use dfs_common::ids::BlockId;
use dfs_proto::v1::ReplicaEventKind;
use roaring::RoaringTreemap;

use super::index::StorageIndex;

/// Events that wait while a full report streams in; beyond it they are dropped and another full report is asked for.
pub(crate) const QUEUED_EVENTS_MAX: usize = 100_000;

/// A DataNode reports by itself after registering; this long after it, it is asked to.
const FIRST_REPORT_GRACE: Duration = Duration::from_secs(30);

/// A report that was asked for and has not begun is asked for again after this.
const FULL_REPORT_ORDER_INTERVAL: Duration = Duration::from_secs(10);

/// Time for which a report that was asked for keeps others from being asked for: DataNodes give theirs no more either.
const ORDERED_REPORT_TIME: Duration = Duration::from_secs(120);

/// Position in a registration's one sequence of reports and events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReportNumber(pub u64);

impl ReportNumber {
    pub(crate) fn plus(self, count: usize) -> Self {
        Self(self.0.saturating_add(count as u64))
    }
}

/// What to do with a batch of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventsVerdict {
    /// Apply all but the first `skip`, which were applied before.
    Apply { skip: usize },
    /// All were applied before.
    Ignore,
    /// A full report streams in, or events that waited for one come first: keep them for later.
    Queue,
}

/// What to do with a page of a full report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageVerdict {
    Proceed,
    /// It states what was true before events that have been applied.
    Ignore,
    /// Its report was given up, or a younger one has taken its place.
    Refuse,
}

/// What a DataNode said of a replica, with the volume it lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VolumeEvent {
    pub storage: StorageIndex,
    pub kind: ReplicaEventKind,
    pub block: Block,
}

/// One volume's part of a full report.
pub(crate) struct StoragePass {
    pub storage: StorageIndex,
    /// Those of the replicas named so far that the volume is recorded to have. Only recorded ones can turn out to be missing,
    /// so others need not be remembered, whatever a DataNode names.
    pub seen: RoaringTreemap,
    /// The last finalized replica: their ids rise.
    pub last: Option<BlockId>,
}

impl StoragePass {
    pub(crate) fn new(storage: StorageIndex) -> Self {
        Self { storage, seen: RoaringTreemap::new(), last: None }
    }

    /// A recorded replica was named.
    pub(crate) fn note(&mut self, id: BlockId) {
        // Nearly always they come in order, and appending is much faster.
        if self.seen.try_push(id.0).is_err() {
            self.seen.insert(id.0);
        }
    }
}

/// A full report that streams in.
pub(crate) struct FullReport {
    number: ReportNumber,
    /// The volume whose pages are coming.
    pub pass: Option<StoragePass>,
    /// Volumes that are done.
    pub done: BTreeSet<StorageIndex>,
    /// It began before this NameNode began to lead: another leader's deletions may be missing from it.
    predates_activation: bool,
}

/// What is to be done when a full report has ended.
pub(crate) struct FullReportEnd {
    /// Volumes that it named.
    pub storages: BTreeSet<StorageIndex>,
    /// Whether it tells what the volumes hold since this NameNode leads.
    pub is_fresh: bool,
}

/// Where the sequence of one registration stands.
pub(crate) struct ReportSequence {
    /// Number of the next event; none before the first.
    next: Option<ReportNumber>,
    full: Option<FullReport>,
    /// The last report that was given up. None up to it goes on.
    given_up: Option<ReportNumber>,
    /// Events that have not been applied yet, in the order in which they came. None: it says nothing that can be used.
    waiting: VecDeque<(ReportNumber, Vec<Option<VolumeEvent>>)>,
    waiting_events: usize,
    had_full: bool,
    wants_full: bool,
    ordered_at: Option<Instant>,
    registered_at: Instant,
}

impl ReportSequence {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            next: None,
            full: None,
            given_up: None,
            waiting: VecDeque::new(),
            waiting_events: 0,
            had_full: false,
            wants_full: false,
            ordered_at: None,
            registered_at: now,
        }
    }

    /// `count` events from `first` on have arrived.
    pub(crate) fn on_events(&mut self, first: ReportNumber, count: usize) -> EventsVerdict {
        match &self.full {
            Some(full) if first.plus(count) <= full.number => EventsVerdict::Ignore,
            Some(_) => EventsVerdict::Queue,
            None if !self.waiting.is_empty() => EventsVerdict::Queue,
            None => self.place(first, count),
        }
    }

    /// Puts events where they belong in the sequence: now is their turn.
    fn place(&mut self, first: ReportNumber, count: usize) -> EventsVerdict {
        let end = first.plus(count);
        let next = self.next.unwrap_or(first);
        if end <= next {
            return EventsVerdict::Ignore;
        }
        self.next = Some(end);
        if first > next {
            self.wants_full = true;
        }
        EventsVerdict::Apply { skip: usize::try_from(next.0.saturating_sub(first.0)).unwrap_or(count) }
    }

    /// Keeps events until it is their turn.
    pub(crate) fn queue(&mut self, first: ReportNumber, events: Vec<Option<VolumeEvent>>) {
        if self.waiting_events + events.len() > QUEUED_EVENTS_MAX {
            self.wants_full = true;
            return;
        }
        self.waiting_events += events.len();
        self.waiting.push_back((first, events));
    }

    /// Whether events wait for nothing but their turn.
    pub(crate) fn has_due(&self) -> bool {
        self.full.is_none() && !self.waiting.is_empty()
    }

    /// The next of the events whose turn it is, without what was applied before.
    pub(crate) fn next_due(&mut self) -> Option<Vec<Option<VolumeEvent>>> {
        if self.full.is_some() {
            return None;
        }
        let (first, mut events) = self.waiting.pop_front()?;
        self.waiting_events -= events.len();
        match self.place(first, events.len()) {
            EventsVerdict::Apply { skip } => drop(events.drain(..skip)),
            EventsVerdict::Ignore | EventsVerdict::Queue => events.clear(),
        }
        Some(events)
    }

    /// A page of full report `number` has arrived. Also right for a DataNode whose report bears the number of the last
    /// event that it includes.
    pub(crate) fn on_full_page(&mut self, number: ReportNumber) -> PageVerdict {
        match &self.full {
            Some(full) if full.number == number => return PageVerdict::Proceed,
            Some(full) if full.number > number => return PageVerdict::Refuse,
            _ if self.given_up.is_some_and(|given_up| number <= given_up) => return PageVerdict::Refuse,
            _ => {}
        }
        if self.next.is_some_and(|next| number.plus(1) < next) {
            self.wants_full = true;
            return PageVerdict::Ignore;
        }
        // A younger report takes the place of one that came no further.
        self.abort_full();
        // What is asked for from here on, this one cannot know.
        self.wants_full = false;
        self.full = Some(FullReport { number, pass: None, done: BTreeSet::new(), predates_activation: false });
        PageVerdict::Proceed
    }

    /// The report that streams in, if it is this one.
    pub(crate) fn full_report(&mut self, number: ReportNumber) -> Option<&mut FullReport> {
        self.full.as_mut().filter(|full| full.number == number)
    }

    /// The last page has been taken in.
    pub(crate) fn on_full_end(&mut self) -> Option<FullReportEnd> {
        let full = self.full.take()?;
        let after = full.number.plus(1);
        self.next = Some(self.next.map_or(after, |next| next.max(after)));
        self.had_full = true;
        self.wants_full |= full.predates_activation;
        self.ordered_at = None;
        Some(FullReportEnd { storages: full.done, is_fresh: !full.predates_activation })
    }

    /// The report that streams in is given up: a new one is needed. The turn of events that waited for its end has come.
    pub(crate) fn abort_full(&mut self) {
        if let Some(full) = self.full.take() {
            self.given_up = Some(full.number);
            self.wants_full = true;
            self.ordered_at = None;
        }
    }

    /// A full report has come since the registration.
    pub(crate) fn has_told(&self) -> bool {
        self.had_full
    }

    /// Asks for a full report with the next heartbeat.
    pub(crate) fn request_full(&mut self) {
        self.wants_full = true;
    }

    /// This NameNode begins to lead: what streams in now is not new enough.
    pub(crate) fn on_activated(&mut self) {
        self.wants_full = true;
        if let Some(full) = &mut self.full {
            full.predates_activation = true;
        }
    }

    /// Whether a full report is on its way: it streams in, or was ordered just now.
    fn is_full_under_way(&self, now: Instant) -> bool {
        self.full.is_some() || self.was_ordered_within(FULL_REPORT_ORDER_INTERVAL, now)
    }

    /// Whether a report that was ordered takes one of the places that there are for such.
    pub(crate) fn has_ordered_under_way(&self, now: Instant) -> bool {
        let patience = if self.full.is_some() { ORDERED_REPORT_TIME } else { FULL_REPORT_ORDER_INTERVAL };
        self.was_ordered_within(patience, now)
    }

    fn was_ordered_within(&self, interval: Duration, now: Instant) -> bool {
        self.ordered_at.is_some_and(|at| !is_over(at, interval, now))
    }

    /// Whether a full report is to be ordered.
    pub(crate) fn is_full_due(&self, now: Instant) -> bool {
        let is_late = !self.had_full && is_over(self.registered_at, FIRST_REPORT_GRACE, now);
        (self.wants_full || is_late) && !self.is_full_under_way(now)
    }

    /// The order is on its way.
    pub(crate) fn on_full_ordered(&mut self, now: Instant) {
        self.ordered_at = Some(now);
    }
}

fn is_over(since: Instant, interval: Duration, now: Instant) -> bool {
    now.saturating_duration_since(since) >= interval
}
