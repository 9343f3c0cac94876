//! The one writer of a file on this mount, shared by all handles that have it open for writing.
//!
//! Operations run one at a time, in the order they arrive: a write while another one is being taken waits its turn, and so
//! does a flush. A write goes to the end of the file; the kernel sends the parts of a large one in order, and nothing of
//! another call between them (see [`wanted_capabilities`](crate::flags::wanted_capabilities)).
//! [`write_phase`](crate::write_phase) says when the file is completed.
//!
//! Promises:
//! - A failure is final: every later call of every handle of this writer gets the same error. Bytes that were accepted and
//!   could not be stored are never followed by others. The other handles of the file hear of them by their next sync
//!   ([`lost_writes`](crate::lost_writes)).
//! - The end of the lease is no failure, unless accepted bytes depend on it: the file is closed then, and whoever writes next takes
//!   the lease again. What else has become of the writer does not count.
//! - An fsync whose finished blocks are not on all disks in time is no such failure: their bytes are with their nodes.
//! - An operation that is given up (its deadline passed) is such a failure too: nobody knows how much of it was done. What
//!   readers and openers need of the writer is never given up with them.
//! - `end` only moves when bytes were accepted; what `length` says was accepted.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use dfs_client::{Caller, DfsClient, FileWriter, SetAttr, SyncLevel, TimeSet};
use dfs_common::error::{DfsError, ErrorKind};
use dfs_common::ids::InodeId;
use fuser::Errno;
use parking_lot::Mutex;
use tokio::sync::MutexGuard;
use tracing::{error, warn};

use crate::caller::Asker;
use crate::errno::{FsError, FsResult};
use crate::lost_writes::LostWrites;
use crate::privileges::{FilePrivileges, Loss};
use crate::write_phase::{FlushAction, WritePhase};
use crate::writer_view::{View, WriterView};

/// A write as the kernel sends it.
pub(crate) struct Write<'a> {
    pub(crate) offset: u64,
    pub(crate) data: &'a [u8],
    /// Goes to the end, whatever offset the kernel's idea of the size gave it.
    pub(crate) appends: bool,
    /// O_SYNC or O_DSYNC is set: to be durable before it is answered.
    pub(crate) syncs: bool,
    /// Its maker may keep set-id bits (CAP_FSETID).
    pub(crate) keeps_set_id: bool,
    pub(crate) by: Asker,
}

/// Writer of one file, from the first open for writing to the last release.
pub(crate) struct SharedWriter {
    client: DfsClient,
    inode: InodeId,
    /// Makes operations take turns; held across the calls to the cluster.
    state: tokio::sync::Mutex<State>,
    /// What is known without waiting for a turn; never held across an await.
    view: Mutex<View>,
    /// What the file has that writes take away.
    privileges: FilePrivileges,
    failure: OnceLock<DfsError>,
    losses: Arc<LostWrites>,
    /// Bytes were accepted since it was last completed, recorded or synced: a failure may have lost some of them.
    is_laden: AtomicBool,
    handles: AtomicUsize,
    has_warned: AtomicBool,
}

struct State {
    writer: Arc<FileWriter>,
    phase: WritePhase,
    /// What lies before the place where `writer` began is on disk: it is empty, or a sync has seen to it.
    is_prefix_durable: bool,
}

impl State {
    fn new(writer: Arc<FileWriter>) -> Self {
        let is_prefix_durable = writer.position() == 0;
        Self { writer, phase: WritePhase::opened(), is_prefix_durable }
    }
}

impl SharedWriter {
    /// Takes over a writer that was just opened, with one handle. What it loses goes on the file's record.
    pub(crate) fn new(client: DfsClient, writer: Arc<FileWriter>, losses: Arc<LostWrites>) -> Arc<Self> {
        let privileges = writer.privileges();
        Arc::new(Self {
            client,
            inode: writer.inode(),
            view: Mutex::new(View::new(Arc::clone(&writer))),
            state: tokio::sync::Mutex::new(State::new(writer)),
            privileges: FilePrivileges::new(privileges),
            failure: OnceLock::new(),
            losses,
            is_laden: AtomicBool::new(false),
            handles: AtomicUsize::new(1),
            has_warned: AtomicBool::new(false),
        })
    }

    /// Another handle joins; the lease is taken again if it was given back.
    ///
    /// # Errors
    /// `Busy` when another client has taken it meanwhile.
    pub(crate) async fn join(&self) -> FsResult<()> {
        let mut state = self.turn().await?;
        if state.phase.is_closed() {
            self.reopen(&mut state, None).await?;
        }
        self.handles.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Throws the content away for an open of `by`, and takes the lease again if it was given back. Not to be dropped half-way:
    /// see [`to_its_end`].
    ///
    /// # Errors
    /// As above.
    pub(crate) async fn empty_at_open(&self, by: &Caller) -> FsResult<()> {
        let mut state = self.turn().await?;
        self.empty(&mut state, by).await
    }

    /// What the file has that writes take away.
    pub(crate) fn privileges(&self) -> &FilePrivileges {
        &self.privileges
    }

    /// A handle is gone; true for the last one, after which [`finish`](Self::finish) is due.
    pub(crate) fn leave(&self) -> bool {
        self.handles.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// The error that ended this writer, also if it came between two calls.
    ///
    /// # Errors
    /// That one.
    pub(crate) fn check(&self) -> FsResult<()> {
        if let Some(failure) = self.failure.get() {
            return Err(self.told(failure));
        }
        self.unnoted_failure().map_or(Ok(()), |error| Err(self.fail(&error)))
    }

    /// Whether it has failed for good, even if nobody has been told yet: it may have failed between two calls.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.get().is_some() || self.unnoted_failure().is_some()
    }

    /// What has ended the writer, and nobody has been told.
    fn unnoted_failure(&self) -> Option<DfsError> {
        let view = self.view.lock();
        let open = view.open.as_ref()?;
        let failure = open.failure().or_else(|| open.lost_lease())?;
        (!self.is_let_go(open)).then_some(failure)
    }

    /// The lease is gone, and no byte depends on it.
    fn is_let_go(&self, open: &FileWriter) -> bool {
        !self.is_laden.load(Ordering::Acquire) && open.lost_lease().is_some()
    }

    #[cfg(test)]
    pub(crate) fn file_writer(&self) -> Option<Arc<FileWriter>> {
        self.view.lock().open.clone()
    }

    /// Bytes in the file as far as this mount knows.
    pub(crate) fn length(&self) -> u64 {
        self.view.lock().length()
    }

    /// What is to be known without waiting.
    pub(crate) fn view(&self) -> WriterView {
        self.view.lock().now()
    }

    /// A write is about to be answered: calls `tell`, and counts its bytes as known to the kernel. Not if the file has been cut,
    /// completed or opened anew since they were accepted. A write goes on when its program is killed, and the kernel lets others
    /// change the file then: what they made of it counts.
    pub(crate) fn answered(&self, done: &WriteDone, tell: impl FnOnce()) {
        let mut view = self.view.lock();
        if view.changes == done.changes {
            view.answered = view.answered.max(done.end);
            tell();
        }
    }

    /// Whether a write will look at who makes it. The answer may change only while the lease is not held.
    pub(crate) fn looks_at_maker(&self, write: &Write<'_>) -> bool {
        self.privileges.due(write.keeps_set_id).is_some() || self.view.lock().held().is_none()
    }

    /// Writes at the end, once it has its turn; with O_SYNC, as durable as `level` says.
    ///
    /// # Errors
    /// `EOPNOTSUPP` anywhere else, nothing changed.
    pub(crate) async fn write(&self, write: &Write<'_>, level: SyncLevel) -> FsResult<WriteDone> {
        let mut state = self.turn().await?;
        if state.phase.is_closed() {
            Box::pin(self.reopen_for(&mut state, write)).await?;
        }
        let at = self.length();
        if !write.appends && write.offset != at {
            return Err(self.refuse(write, at));
        }
        if let Some(loss) = self.privileges.due(write.keeps_set_id) {
            let by = write.by.caller();
            if !self.privileges.are_left_by(&by) {
                Box::pin(self.drop_privileges(loss, &by, None)).await?;
            }
        }
        let writer = Arc::clone(&state.writer);
        state.phase.written();
        self.is_laden.store(true, Ordering::Release);
        if write.syncs {
            self.guarded(writer.write_through(write.data, level)).await?;
            self.saw(writer.position());
            self.is_laden.store(false, Ordering::Release);
        } else {
            self.guarded(writer.write(write.data)).await?;
        }
        Ok(WriteDone { at, end: at + write.data.len() as u64, changes: self.view.lock().changes })
    }

    /// Takes the lease again for a write that may go to the end. Where that is only the NameNode knows: another mount may have
    /// written meanwhile.
    async fn reopen_for(&self, state: &mut State, write: &Write<'_>) -> FsResult<()> {
        if !write.appends {
            let attr = self.client.get_file_info(&Caller::root(), self.inode).await?;
            // While somebody else writes, it is the lease that is refused.
            if !attr.under_construction && write.offset != attr.length {
                return Err(self.refuse(write, attr.length));
            }
        }
        self.reopen(state, None).await
    }

    /// What `close` of a descriptor does.
    pub(crate) async fn flush(&self) -> FsResult<()> {
        let mut state = self.turn().await?;
        match state.phase.on_flush() {
            FlushAction::Nothing => Ok(()),
            FlushAction::Complete => self.complete(&mut state).await,
            FlushAction::Record => {
                let writer = Arc::clone(&state.writer);
                let end = writer.position();
                self.guarded(writer.record_length()).await?;
                state.phase.recorded();
                self.is_laden.store(false, Ordering::Release);
                self.saw(end);
                Ok(())
            }
        }
    }

    /// Makes the file visible or durable, what was written before this writer began included. What is with its nodes already
    /// can be asked for again: that it is not on their disks in time fails this call, not the writer.
    pub(crate) async fn sync(&self, level: SyncLevel) -> FsResult<()> {
        let mut state = self.turn().await?;
        if !state.phase.is_closed() {
            let writer = Arc::clone(&state.writer);
            self.sync_in_turn(&writer, level).await?;
            if level == SyncLevel::Hsync {
                writer.sync_finished_blocks().await?;
            }
            self.is_laden.store(false, Ordering::Release);
        }
        if level == SyncLevel::Hsync && (state.phase.is_closed() || !state.is_prefix_durable) {
            self.client.sync_file(&Caller::root(), self.inode).await?;
            state.is_prefix_durable = true;
        }
        Ok(())
    }

    /// Lets readers see the bytes up to `end`, as far as they were written.
    pub(crate) async fn make_visible(self: &Arc<Self>, end: u64) -> FsResult<()> {
        if self.view.lock().shows(end) {
            return Ok(());
        }
        let shared = Arc::clone(self);
        to_its_end(async move {
            let state = shared.turn().await?;
            if state.phase.is_closed() {
                return Ok(());
            }
            let writer = Arc::clone(&state.writer);
            shared.sync_in_turn(&writer, SyncLevel::Hflush).await
        })
        .await
    }

    /// Completes the file now, so that a later completion does not change its times.
    pub(crate) async fn settle(&self) -> FsResult<()> {
        let mut state = self.turn().await?;
        if state.phase.must_complete() { self.complete(&mut state).await } else { Ok(()) }
    }

    /// Cuts the file to `length`; true when bytes may have gone. The kernel has seen that `by` may.
    ///
    /// # Errors
    /// `EOPNOTSUPP` when it is shorter than that, nothing changed.
    pub(crate) async fn set_length(&self, length: u64, by: &Caller) -> FsResult<bool> {
        let mut state = self.turn().await?;
        if !state.phase.is_closed() {
            let end = self.length();
            if length == end {
                self.mark_cut(by).await?;
                return Ok(false);
            }
            if length > end {
                return Err(Errno::EOPNOTSUPP.into());
            }
        }
        if length == 0 {
            self.empty(&mut state, by).await?;
            return Ok(true);
        }
        if !state.phase.is_closed() {
            self.complete(&mut state).await?;
        }
        // Others may have changed it while it was closed: the NameNode knows.
        let attr = self.client.truncate(&by.authorised(), self.inode, length).await?;
        self.view.lock().closed(attr.length);
        Ok(true)
    }

    /// The last handle is gone, or the mount is: completes what is not completed.
    pub(crate) async fn finish(&self) -> FsResult<()> {
        let mut state = self.state.lock().await;
        if self.failure.get().is_some() {
            // What it lost is on record.
            state.writer.abort().await;
            return Ok(());
        }
        let outcome = match self.note_lost_lease(&mut state) {
            Ok(()) if state.phase.must_complete() => self.complete(&mut state).await,
            outcome => outcome,
        };
        if outcome.is_err() {
            // The lease must not stay with a writer that nobody has any more.
            state.writer.abort().await;
        }
        outcome
    }

    /// Waits for this operation's turn.
    async fn turn(&self) -> FsResult<MutexGuard<'_, State>> {
        self.check()?;
        let mut state = self.state.lock().await;
        self.note_lost_lease(&mut state)?;
        Ok(state)
    }

    /// A file whose lease is gone counts as completed, unless that has ended this writer: bytes that were accepted now would fail
    /// later.
    fn note_lost_lease(&self, state: &mut State) -> FsResult<()> {
        // Looked at first: a lease that goes after the check was not judged by it.
        let is_gone = !state.phase.is_closed() && state.writer.lost_lease().is_some();
        self.check()?;
        if is_gone {
            state.phase.completed();
            let length = self.length();
            self.view.lock().closed(length);
        }
        Ok(())
    }

    /// Of the block under way only.
    async fn sync_in_turn(&self, writer: &FileWriter, level: SyncLevel) -> FsResult<()> {
        let end = writer.position();
        match level {
            SyncLevel::Hflush => self.guarded(writer.hflush()).await?,
            SyncLevel::Hsync => self.guarded(writer.hsync_open_block()).await?,
        }
        self.saw(end);
        Ok(())
    }

    async fn complete(&self, state: &mut State) -> FsResult<()> {
        let writer = Arc::clone(&state.writer);
        let attr = self.guarded(writer.complete()).await?;
        state.phase.completed();
        self.is_laden.store(false, Ordering::Release);
        self.view.lock().closed(attr.length);
        Ok(())
    }

    /// Takes the lease again, and has `cut_by` empty the file. A refusal changes nothing: no byte was accepted that depends on it.
    /// The right to write was proven at open (design D10), so it is not asked for again.
    async fn reopen(&self, state: &mut State, cut_by: Option<&Caller>) -> FsResult<()> {
        let by = cut_by.map_or_else(Caller::root, Caller::authorised);
        let asked = self.privileges.ask();
        let writer = self.client.append(&by, self.inode, cut_by.is_some()).await?;
        self.privileges.learn(asked, writer.privileges());
        *state = State { phase: state.phase, ..State::new(Arc::clone(&writer)) };
        state.phase.reopened();
        self.view.lock().reopened(writer);
        Ok(())
    }

    async fn empty(&self, state: &mut State, by: &Caller) -> FsResult<()> {
        if !state.phase.is_closed() {
            if self.length() == 0 {
                return self.mark_cut(by).await;
            }
            self.complete(state).await?;
        }
        self.reopen(state, Some(by)).await?;
        // A file written anew: its first flush completes it.
        state.phase = WritePhase::opened();
        Ok(())
    }

    /// A truncation that takes no byte away does to the file what others do.
    async fn mark_cut(&self, by: &Caller) -> FsResult<()> {
        let loss = if by.uid == 0 { Loss::Capabilities } else { Loss::All };
        self.drop_privileges(loss, by, Some(TimeSet::Now)).await
    }

    /// Takes from the file what writing takes from a program.
    async fn drop_privileges(&self, loss: Loss, by: &Caller, mtime: Option<TimeSet>) -> FsResult<()> {
        let asked = self.privileges.ask();
        let (kill_privileges, kill_capabilities) = (loss == Loss::All, loss == Loss::Capabilities);
        let change = SetAttr { mtime, kill_privileges, kill_capabilities, ..SetAttr::default() };
        let attr = self.client.set_attr(&by.authorised(), self.inode, change).await?;
        self.privileges.lost(asked, loss, by, &attr);
        Ok(())
    }

    fn saw(&self, end: u64) {
        let mut view = self.view.lock();
        view.visible = view.visible.max(end);
    }

    /// Runs a step of the writer; its failure, or its being given up, ends this writer.
    async fn guarded<T>(&self, step: impl Future<Output = Result<T, DfsError>>) -> FsResult<T> {
        let mut fuse = Fuse { writer: self, is_lit: true };
        let outcome = step.await;
        fuse.is_lit = false;
        outcome.map_err(|error| self.fail(&error))
    }

    fn fail(&self, error: &DfsError) -> FsError {
        let is_let_go = self.view.lock().open.as_ref().is_some_and(|open| self.is_let_go(open));
        if !is_let_go && self.failure.set(error.duplicate()).is_ok() {
            error!(inode = %self.inode, error = %error.chain(), "writing failed; all handles of the file get this error");
            if self.is_laden.load(Ordering::Acquire) {
                self.losses.add(error);
            }
        }
        self.told(error)
    }

    fn told(&self, failure: &DfsError) -> FsError {
        let is_loss = self.is_laden.load(Ordering::Acquire);
        if is_loss { FsError::of_loss(failure) } else { FsError::from(failure.duplicate()).on_handle() }
    }

    fn refuse(&self, write: &Write<'_>, end: u64) -> FsError {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            warn!(
                inode = %self.inode, offset = write.offset, bytes = write.data.len(), end,
                "write refused: files grow at their end only (said once per open file)"
            );
        }
        Errno::EOPNOTSUPP.into()
    }
}

/// In a task, which goes on when the request that waits for it is given up: a read, or an open, may be of another program than
/// those that write, and half of this step would end their writing.
pub(crate) async fn to_its_end(step: impl Future<Output = FsResult<()>> + Send + 'static) -> FsResult<()> {
    let failed = |error| DfsError::new(ErrorKind::Internal, "a step of a file's writer").with_source(error);
    tokio::spawn(step).await.map_err(failed)?
}

/// What a write did.
pub(crate) struct WriteDone {
    /// Where its first byte went.
    pub(crate) at: u64,
    /// Behind its last one.
    pub(crate) end: u64,
    /// Of the [view](View) when the bytes were accepted.
    changes: u64,
}

/// Ends the writer when dropped lit: the step it guards was given up half-way.
struct Fuse<'a> {
    writer: &'a SharedWriter,
    is_lit: bool,
}

impl Drop for Fuse<'_> {
    fn drop(&mut self) {
        if self.is_lit {
            let words = "a write or flush was not finished within its deadline and was given up";
            self.writer.fail(&DfsError::new(ErrorKind::TimedOut, words));
        }
    }
}
