//! [`FileWriter`]: the one writer of a file. Shared freely; calls on it take turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dfs_common::attr::FileAttr;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{CallId, InodeId};
use dfs_common::sys::time_since_boot;
use parking_lot::Mutex;
use tracing::{debug, warn};

use super::block_output::{BlockOutput, Start};
use super::questions::Questions;
use crate::caller::Caller;
use crate::client::ClientCore;
use crate::rpc::{Claim, PendingCall, Session};

/// How long a partial packet may wait for more bytes. With the upkeep's interval on top it leaves within a second.
const PARTIAL_PACKET_AGE: Duration = Duration::from_millis(700);
/// Silence of ours after which an idle pipeline gets a heartbeat: half of the shortest time after which anyone would
/// take us for dead.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// Writes one file, at its end. From [`create`](crate::DfsClient::create) or [`append`](crate::DfsClient::append).
///
/// A failure ends it: each later call returns it again. Only [`sync_finished_blocks`](Self::sync_finished_blocks) fails for
/// itself. Dropped before it was completed, it gives the file back as it is.
pub struct FileWriter {
    inode: InodeId,
    /// The session whose lease it writes under, and the call that took it.
    session: Arc<Session>,
    lease: CallId,
    /// What the file had when the lease was taken.
    privileges: Privileges,
    status: Arc<Status>,
    /// Whoever holds it drives the pipeline; held across awaits, by one call at a time.
    output: tokio::sync::Mutex<BlockOutput>,
}

/// What writing a file takes from it, or may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    /// It has the set-user-id or the set-group-id bit.
    pub set_id: bool,
    /// It has capabilities (`security.capability`).
    pub capabilities: bool,
}

impl Privileges {
    /// Set-user-id and set-group-id.
    pub const SET_ID: u32 = 0o6000;

    /// Whether there are any.
    pub fn any(self) -> bool {
        self.set_id || self.capabilities
    }
}

impl std::ops::BitOrAssign for Privileges {
    fn bitor_assign(&mut self, more: Self) {
        self.set_id |= more.set_id;
        self.capabilities |= more.capabilities;
    }
}

/// What the NameNode says of a file whose lease it has given.
pub(crate) struct Opened<'a> {
    pub(crate) attr: &'a FileAttr,
    pub(crate) has_capabilities: bool,
    pub(crate) clock: ServerClock,
}

/// How much a sync promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncLevel {
    /// At every node of the pipeline, visible to all.
    Hflush,
    /// On disk at every node of the pipeline.
    Hsync,
}

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
pub(super) struct Status {
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

/// What upkeep can do for a writer that nobody is driving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chore {
    /// Send the partial packet, take in acks.
    Flush,
    /// Keep the pipeline alive.
    Heartbeat,
}

impl Status {
    fn new(length: u64, clock: ServerClock) -> Self {
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

    pub(super) fn set_acked(&self, length: u64) {
        self.acked.fetch_max(length, Ordering::AcqRel);
    }

    /// The first failure counts.
    fn fail(&self, error: &DfsError) {
        let mut end = self.end.lock();
        if end.is_none() {
            *end = Some(End::Failed(error.duplicate()));
        }
    }

    fn check(&self) -> Result<()> {
        match &*self.end.lock() {
            None => Ok(()),
            Some(End::Failed(error)) => Err(error.duplicate()),
            Some(End::Completed(_)) => Err(DfsError::new(ErrorKind::InvalidArgument, "the file has been completed")),
        }
    }

    /// Whether the NameNode may think that the file is this writer's.
    fn may_hold_lease(&self) -> bool {
        let is_over = match &*self.end.lock() {
            None => false,
            Some(End::Completed(_)) => true,
            Some(End::Failed(error)) => error.kind() == ErrorKind::LeaseLost,
        };
        !is_over && !self.has_given_up.load(Ordering::Acquire)
    }

    /// For the time of a question whose answer changes what is true: being dropped before
    /// [`settle`](Uncertain::settle) fails the writer.
    pub(super) fn uncertain(self: &Arc<Self>) -> Uncertain {
        Uncertain { status: Arc::clone(self), is_settled: false }
    }
}

/// See [`Status::uncertain`].
pub(super) struct Uncertain {
    status: Arc<Status>,
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

impl FileWriter {
    /// For the lease that `claim` has taken.
    pub(crate) fn open(
        core: &Arc<ClientCore>,
        claim: PendingCall,
        caller: &Caller,
        opened: Opened<'_>,
        start: Start,
    ) -> Result<Arc<Self>> {
        let Opened { attr, has_capabilities, clock } = opened;
        let chunk = u64::from(core.defaults.bytes_per_checksum);
        if attr.block_size == 0 || !attr.block_size.is_multiple_of(chunk) {
            let words = format!("block size {} is not a multiple of the checksum's chunk", attr.block_size);
            return Err(DfsError::new(ErrorKind::InvalidArgument, words));
        }
        let length = match &start {
            Start::Reopen(last) => last.end(),
            Start::Allocated(_) | Start::Nowhere => attr.length,
        };
        let status = Arc::new(Status::new(length, clock));
        let (session, lease) = (Arc::clone(claim.session()), claim.id());
        let questions = Questions {
            core: Arc::clone(core),
            session: Arc::clone(&session),
            lease,
            caller: caller.clone(),
            inode: attr.inode,
            status: Arc::clone(&status),
            opened: attr.clone(),
        };
        let output = BlockOutput::new(questions, Arc::clone(&status), attr.block_size, length, start);
        let set_id = attr.permissions & Privileges::SET_ID != 0;
        let writer = Arc::new(Self {
            inode: attr.inode,
            session,
            lease,
            privileges: Privileges { set_id, capabilities: has_capabilities },
            status,
            output: tokio::sync::Mutex::new(output),
        });
        core.writers.add(&writer);
        claim.answered();
        Ok(writer)
    }

    /// Whether every later call will fail. It may have happened between two calls, when bytes left by themselves.
    pub fn has_failed(&self) -> bool {
        matches!(&*self.status.end.lock(), Some(End::Failed(_)))
    }

    /// The error that every later call will return.
    pub fn failure(&self) -> Option<DfsError> {
        match &*self.status.end.lock() {
            Some(End::Failed(error)) => Some(error.duplicate()),
            Some(End::Completed(_)) | None => None,
        }
    }

    /// The file being written.
    pub fn inode(&self) -> InodeId {
        self.inode
    }

    /// What the file had that writing takes away, when it was opened: no other client has given it more since.
    pub fn privileges(&self) -> Privileges {
        self.privileges
    }

    /// Adds `data` to the end. Returns when all of it is taken and whole packets are on their way.
    ///
    /// # Errors
    /// `NoSpace`, `FileTooLarge`, `LeaseLost`, `Io` naming the DataNode; the same from then on.
    pub async fn write(&self, data: &[u8]) -> Result<()> {
        self.drive(async |output| output.write(data).await).await
    }

    /// Length of the file with all accepted bytes.
    pub fn position(&self) -> u64 {
        self.status.position.load(Ordering::Acquire)
    }

    /// When it has written last, by the NameNode's clock; none before it has.
    pub fn modified_ns(&self) -> Option<i64> {
        self.status.modified_ns().filter(|&at_ns| at_ns != 0)
    }

    /// Length of the file as far as every node of the pipeline has acknowledged it.
    pub fn acked_len(&self) -> u64 {
        self.status.acked.load(Ordering::Acquire)
    }

    /// Returns when every accepted byte is with every node of the pipeline: new readers see it.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn hflush(&self) -> Result<()> {
        self.drive(async |output| output.flush(false).await).await
    }

    /// Adds `data` to the end and returns when everything up to there is as `level` promises: a write with O_SYNC.
    ///
    /// # Errors
    /// As [`write`](Self::write), also when it is finished blocks that are not on disk in time: who is told that would write
    /// the bytes again, and no more may follow these.
    pub async fn write_through(&self, data: &[u8], level: SyncLevel) -> Result<()> {
        self.drive(async |output| {
            output.write(data).await?;
            output.flush(level == SyncLevel::Hsync).await?;
            if level == SyncLevel::Hsync {
                Box::pin(output.sync_finished()).await?;
            }
            Ok(())
        })
        .await
    }

    /// The first half of HDFS's hsync: as [`hflush`](Self::hflush), and the bytes of the block under way are on the disks of
    /// its nodes. [`sync_finished_blocks`](Self::sync_finished_blocks) is the second.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn hsync_open_block(&self) -> Result<()> {
        self.drive(async |output| output.flush(true).await).await
    }

    /// The second half: the blocks finished since the last one. These are with their nodes, and a node that does not bring
    /// them to disk is no reason to end the writer.
    ///
    /// # Errors
    /// Why they are not on the disks of all nodes that count. It ends this call only: another one tries again.
    pub async fn sync_finished_blocks(&self) -> Result<()> {
        let mut output = self.output.lock().await;
        self.status.check()?;
        Box::pin(output.sync_finished()).await
    }

    /// Sends everything and has the NameNode know the length; writing may go on.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn record_length(&self) -> Result<()> {
        self.drive(async |output| output.record_length().await).await
    }

    /// Ends the file: everything is sent, acknowledged, and the file closed at the NameNode. Completing again gives the same
    /// answer.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn complete(&self) -> Result<FileAttr> {
        let mut output = self.output.lock().await;
        if let Some(End::Completed(attr)) = &*self.status.end.lock() {
            return Ok(attr.clone());
        }
        let attr = self.drive_locked(&mut output, async |output| output.complete().await).await?;
        *self.status.end.lock() = Some(End::Completed(attr.clone()));
        Ok(attr)
    }

    /// Gives the file up: what was not acknowledged is lost, and the file is closed if that is possible without recovery.
    /// A lease that is no longer this writer's is left alone: somebody else may write by now.
    /// While the NameNode does not answer, it is asked again behind the caller's back.
    pub async fn abort(&self) {
        // At once: a call that is dropped half-way ends the writer, too, which somebody may keep.
        self.status.fail(&DfsError::new(ErrorKind::Cancelled, "the writer was aborted"));
        let _giving_up = GiveUp(self);
        let mut output = self.output.lock().await;
        if !self.status.may_hold_lease() {
            return;
        }
        match output.abort().await {
            Ok(()) => self.status.has_given_up.store(true, Ordering::Release),
            Err(error) => {
                debug!(inode = %self.inode, error = %error.chain(), "file not closed after its writer was aborted");
            }
        }
    }

    /// Has the lease given back behind the caller's back, if it may still be there.
    fn leave_lease(&self) {
        if self.status.may_hold_lease() && !self.status.has_given_up.swap(true, Ordering::AcqRel) {
            self.session.leave(Claim::Lease { inode: self.inode, call: self.lease });
        }
    }

    /// Takes its turn, unless the writer has ended; a failure ends it.
    async fn drive<T>(&self, step: impl AsyncFnOnce(&mut BlockOutput) -> Result<T>) -> Result<T> {
        let mut output = self.output.lock().await;
        self.drive_locked(&mut output, step).await
    }

    async fn drive_locked<T>(
        &self,
        output: &mut BlockOutput,
        step: impl AsyncFnOnce(&mut BlockOutput) -> Result<T>,
    ) -> Result<T> {
        self.status.check()?;
        let outcome = step(output).await;
        if let Err(error) = &outcome {
            self.status.fail(error);
            output.hang_up();
        }
        outcome
    }

    /// Neither completed nor failed.
    pub(super) fn is_open(&self) -> bool {
        self.status.end.lock().is_none()
    }

    /// What upkeep should do; nothing while somebody is driving.
    pub(super) fn choose_chore(&self, now: Instant) -> Option<Chore> {
        let output = self.output.try_lock().ok()?;
        let age = |since: Instant| now.saturating_duration_since(since);
        if output.unflushed_since().is_some_and(|since| age(since) >= PARTIAL_PACKET_AGE) {
            return Some(Chore::Flush);
        }
        let is_quiet = output.pipeline_last_sent().is_some_and(|since| age(since) >= HEARTBEAT_INTERVAL);
        is_quiet.then_some(Chore::Heartbeat)
    }

    pub(crate) async fn do_chore(&self, chore: Chore) {
        let outcome = match chore {
            Chore::Flush => self.hflush().await,
            Chore::Heartbeat => self.drive(async |output| output.heartbeat().await).await,
        };
        // Nothing is to be done for one that was completed meanwhile.
        if let Err(error) = outcome
            && self.has_failed()
        {
            warn!(inode = %self.inode, ?chore, error = %error.chain(), "writer failed in the background");
        }
    }
}

/// Leaves the lease of a writer that is being aborted, also when the call is dropped half-way.
struct GiveUp<'a>(&'a FileWriter);

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.0.leave_lease();
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if self.is_open() && self.position() > self.acked_len() {
            warn!(inode = %self.inode, lost = self.position() - self.acked_len(), "writer dropped with unsent bytes");
        }
        self.leave_lease();
    }
}
