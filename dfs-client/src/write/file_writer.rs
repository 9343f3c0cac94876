//! [`FileWriter`]: the one writer of a file. Shared freely; calls on it take turns.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::attr::FileAttr;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{CallId, InodeId};
use tracing::{debug, warn};

use super::block_output::{BlockOutput, Start};
use super::questions::Questions;
use super::writer_status::{ServerClock, WriterStatus};
use crate::caller::Caller;
use crate::client_core::{ClientCore, Tended};
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
    status: Arc<WriterStatus>,
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

/// What upkeep can do for a writer that nobody is driving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chore {
    /// Send the partial packet, take in acks.
    Flush,
    /// Keep the pipeline alive.
    Heartbeat,
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
        let status = Arc::new(WriterStatus::new(length, clock));
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
        self.status.failure().is_some()
    }

    /// The error that every later call will return.
    pub fn failure(&self) -> Option<DfsError> {
        self.status.failure()
    }

    /// What every call to the NameNode will fail with, once it is known that the lease is gone: with its session, or because the
    /// NameNode has said so of this one.
    pub fn lost_lease(&self) -> Option<DfsError> {
        if self.session.is_dead() {
            return Some(self.session.lost_error());
        }
        self.status.failure().filter(|error| error.kind() == ErrorKind::LeaseLost)
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
        self.status.position()
    }

    /// When it has written last, by the NameNode's clock; none before it has.
    pub fn modified_ns(&self) -> Option<i64> {
        self.status.modified_ns().filter(|&at_ns| at_ns != 0)
    }

    /// Length of the file as far as every node of the pipeline has acknowledged it.
    pub(crate) fn acked_len(&self) -> u64 {
        self.status.acked()
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
        if let Some(attr) = self.status.completed() {
            return Ok(attr);
        }
        let attr = self.drive_locked(&mut output, async |output| output.complete().await).await?;
        self.status.complete(attr.clone());
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
            Ok(()) => _ = self.status.give_up_lease(),
            Err(error) => {
                debug!(inode = %self.inode, error = %error.chain(), "file not closed after its writer was aborted");
            }
        }
    }

    /// Has the lease given back behind the caller's back, if it may still be there.
    fn leave_lease(&self) {
        if self.status.may_hold_lease() && self.status.give_up_lease() {
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

    /// What upkeep should do; nothing while somebody is driving.
    fn choose_chore(&self, now: Instant) -> Option<Chore> {
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

impl Tended for FileWriter {
    fn is_open(&self) -> bool {
        self.status.is_open()
    }

    fn tend(self: Arc<Self>, now: Instant) {
        if let Some(chore) = self.choose_chore(now) {
            tokio::spawn(async move { self.do_chore(chore).await });
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
        if self.status.is_open() && self.position() > self.acked_len() {
            warn!(inode = %self.inode, lost = self.position() - self.acked_len(), "writer dropped with unsent bytes");
        }
        self.leave_lease();
    }
}
