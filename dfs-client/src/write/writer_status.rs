//! What can be asked of a writer without waiting for its turn: how far it is, and how it ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use dfs_common::attr::FileAttr;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::sys::time_since_boot;
use parking_lot::Mutex;

/// The NameNode's clock, as far as a writer can tell: no later than it is, unless that one was set back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerClock {
    told_ns: i64,
    /// By the clock that goes on while the machine sleeps.
    since: Duration,
}

impl ServerClock {
    /// As an answer told it that has just come.
    pub(crate) fn told(told_ns: i64) -> Self {
        Self { told_ns, since: time_since_boot() }
    }

    fn now_ns(&self) -> i64 {
        let passed = time_since_boot().saturating_sub(self.since);
        self.told_ns.saturating_add(i64::try_from(passed.as_nanos()).unwrap_or(i64::MAX))
    }
}

/// What can be asked of a writer without waiting for its turn.
pub(super) struct WriterStatus {
    clock: ServerClock,
    /// When bytes were accepted last; 0 before any were.
    modified_ns: AtomicI64,
    position: AtomicU64,
    acked: AtomicU64,
    /// Protects how the writer ended; never held across an await.
    end: Mutex<Option<End>>,
    /// The lease has been given back, or left to be.
    has_given_up: AtomicBool,
}

enum End {
    Completed(FileAttr),
    Failed(DfsError),
}

impl WriterStatus {
    pub(super) fn new(length: u64, clock: ServerClock) -> Self {
        Self {
            clock,
            modified_ns: AtomicI64::new(0),
            position: AtomicU64::new(length),
            acked: AtomicU64::new(length),
            end: Mutex::new(None),
            has_given_up: AtomicBool::new(false),
        }
    }

    pub(super) fn accept(&self, bytes: u64) {
        self.modified_ns.store(self.clock.now_ns(), Ordering::Release);
        self.position.fetch_add(bytes, Ordering::AcqRel);
    }

    /// When it has written last, as the NameNode is told; none when that has not told its clock.
    pub(super) fn modified_ns(&self) -> Option<i64> {
        (self.clock.told_ns != 0).then(|| self.modified_ns.load(Ordering::Acquire))
    }

    /// Bytes accepted.
    pub(super) fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// Bytes that every node of the pipeline has acknowledged.
    pub(super) fn acked(&self) -> u64 {
        self.acked.load(Ordering::Acquire)
    }

    pub(super) fn set_acked(&self, length: u64) {
        self.acked.fetch_max(length, Ordering::AcqRel);
    }

    /// Neither completed nor failed.
    pub(super) fn is_open(&self) -> bool {
        self.end.lock().is_none()
    }

    /// The file as it was closed.
    pub(super) fn completed(&self) -> Option<FileAttr> {
        match &*self.end.lock() {
            Some(End::Completed(attr)) => Some(attr.clone()),
            Some(End::Failed(_)) | None => None,
        }
    }

    pub(super) fn complete(&self, attr: FileAttr) {
        *self.end.lock() = Some(End::Completed(attr));
    }

    pub(super) fn failure(&self) -> Option<DfsError> {
        match &*self.end.lock() {
            Some(End::Failed(error)) => Some(error.duplicate()),
            Some(End::Completed(_)) | None => None,
        }
    }

    /// The first failure counts.
    pub(super) fn fail(&self, error: &DfsError) {
        let mut end = self.end.lock();
        if end.is_none() {
            *end = Some(End::Failed(error.duplicate()));
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        match &*self.end.lock() {
            None => Ok(()),
            Some(End::Failed(error)) => Err(error.duplicate()),
            Some(End::Completed(_)) => Err(DfsError::new(ErrorKind::InvalidArgument, "the file has been completed")),
        }
    }

    /// Whether the NameNode may think that the file is this writer's.
    pub(super) fn may_hold_lease(&self) -> bool {
        let is_over = match &*self.end.lock() {
            None => false,
            Some(End::Completed(_)) => true,
            Some(End::Failed(error)) => error.kind() == ErrorKind::LeaseLost,
        };
        !is_over && !self.has_given_up.load(Ordering::Acquire)
    }

    /// Notes that the lease is given back, or left to be; true for the first to say so.
    pub(super) fn give_up_lease(&self) -> bool {
        !self.has_given_up.swap(true, Ordering::AcqRel)
    }

    /// For the time of a question whose answer changes what is true: being dropped before
    /// [`settle`](Uncertain::settle) fails the writer.
    pub(super) fn uncertain(self: &Arc<Self>) -> Uncertain {
        Uncertain { status: Arc::clone(self), is_settled: false }
    }
}

/// See [`WriterStatus::uncertain`].
pub(super) struct Uncertain {
    status: Arc<WriterStatus>,
    is_settled: bool,
}

impl Uncertain {
    pub(super) fn settle(mut self) {
        self.is_settled = true;
    }
}

impl Drop for Uncertain {
    fn drop(&mut self) {
        if !self.is_settled {
            let words = "a write was given up in the middle of a question to the NameNode";
            self.status.fail(&DfsError::new(ErrorKind::Cancelled, words));
        }
    }
}
