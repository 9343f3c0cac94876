//! What openraft calls its log storage: all entries in files, those that are not applied yet in memory, too.
//!
//! An append puts its entries into memory, writes and syncs them, and then calls openraft back; only then do they count. It
//! does so on openraft's own thread: a group of one has nothing else to do until the disk has them, and each wake-up of
//! another thread would cost a lone caller 10 to 30 us. What is rare and slow (votes, cutting, finishing a segment) has the
//! I/O thread. Applying reads what was just appended, so it finds it in memory. What has been applied is forgotten at the next
//! append, because operations in memory take several times their bytes. So memory holds two batches. Whoever wants an older entry (a restart) reads it from the files.
//!
//! A failed write or sync ends the process, by `OnFatal`: after it, nobody knows what is on the disk, and a NameNode that
//! went on could acknowledge what a restart does not find.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dfs_common::error::{DfsError, ErrorKind, Result};
use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader, StorageIOError};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::log_files::LogFiles;
use super::log_index::LogIndex;
use super::raft_types::{Entry, LogId, NodeId, StorageError, TypeConfig, Vote};
use super::write_watch::WriteWatch;

/// What happens when the log can no longer be written. Must not return in a serving NameNode.
pub type OnFatal = Arc<dyn Fn(DfsError) + Send + Sync>;

enum Request {
    SaveVote { vote: Vote, done: oneshot::Sender<Result<()>> },
    Truncate { since: u64, done: oneshot::Sender<Result<()>> },
    Purge { upto: LogId, done: oneshot::Sender<Result<()>> },
    Roll { done: oneshot::Sender<Result<()>> },
    Stop,
}

/// Shared between openraft's core, its readers and the I/O thread.
struct Shared {
    state: Mutex<State>,
    /// Entries below are applied.
    applied_end: Arc<AtomicU64>,
    index: Arc<Mutex<LogIndex>>,
}

struct State {
    /// The newest entries, without gaps: at least those that are not applied.
    recent: VecDeque<Entry>,
    /// Entries below this index are in the files.
    flushed_end: u64,
    last: Option<LogId>,
    purged: Option<LogId>,
    vote: Option<Vote>,
}

impl State {
    fn push(&mut self, entry: Entry) {
        self.last = Some(entry.log_id);
        self.recent.push_back(entry);
    }

    /// Forgets entries below `applied_end`, but never one that is not in the files yet. Gives them to be dropped where nobody waits.
    fn forget(&mut self, applied_end: u64) -> Vec<Entry> {
        let end = applied_end.min(self.flushed_end);
        let count = self.recent.iter().take_while(|entry| entry.log_id.index < end).count();
        self.recent.drain(..count).collect()
    }
}

/// openraft's log storage.
pub(super) struct LogStore {
    shared: Arc<Shared>,
    writer: Arc<Mutex<LogWriter>>,
    io: IoHandle,
}

/// Hands requests to the I/O thread, which ends when it is told to or when all handles are gone.
#[derive(Clone)]
pub(super) struct IoHandle {
    requests: mpsc::Sender<Request>,
    watch: Arc<WriteWatch>,
    /// Closed when the thread has ended.
    alive: tokio::sync::watch::Receiver<()>,
}

/// Opens the store over `files`; whoever applies entries raises `applied_end`.
///
/// # Errors
/// Of reading what the files hold or of starting the thread.
pub(super) fn open(
    files: LogFiles,
    applied_end: Arc<AtomicU64>,
    on_fatal: OnFatal,
) -> Result<(LogStore, IoHandle, JoinHandle<()>)> {
    let last = files.last_log_id()?;
    let stored_vote = files.vote()?;
    let index = files.index();
    let flushed_end = index.lock().next_index;
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            recent: VecDeque::new(),
            flushed_end,
            last,
            purged: files.purged(),
            vote: stored_vote,
        }),
        applied_end,
        index,
    });
    let watch = Arc::new(WriteWatch::new());
    let writer = Arc::new(Mutex::new(LogWriter { files, on_fatal, failed: None, watch: Arc::clone(&watch) }));
    let (requests, inbox) = mpsc::channel();
    let (lives, alive) = tokio::sync::watch::channel(());
    let thread = {
        let writer = writer.clone();
        let serve = move || {
            let _lives = lives;
            serve_requests(&writer, &inbox);
        };
        thread::Builder::new()
            .name("journal-io".into())
            .spawn(serve)
            .map_err(|error| DfsError::io("start the journal's I/O thread", error))?
    };
    let io = IoHandle { requests, watch, alive };
    Ok((LogStore { shared, writer, io: io.clone() }, io, thread))
}

impl LogStore {
    /// Entries held in memory.
    #[cfg(test)]
    pub(super) fn recent_entries(&self) -> usize {
        self.shared.state.lock().recent.len()
    }

    /// Where the entries are in the files.
    pub(super) fn index(&self) -> Arc<Mutex<LogIndex>> {
        self.shared.index.clone()
    }
}

impl IoHandle {
    /// Finishes the current segment.
    ///
    /// # Errors
    /// Of writing.
    pub(super) async fn roll(&self) -> Result<()> {
        self.call(|done| Request::Roll { done }).await
    }

    /// For how long the present write of the log has been under way.
    pub(super) fn write_pending(&self) -> Option<Duration> {
        self.watch.pending()
    }

    /// Returns when the thread has ended: told to, or by a panic.
    pub(super) async fn ended(&self) {
        // Nothing is ever sent.
        let _ = self.alive.clone().changed().await;
    }

    /// Lets the thread end after what was asked for before.
    pub(super) fn stop(&self) {
        // Ended already otherwise.
        let _ = self.requests.send(Request::Stop);
    }

    async fn call(&self, request: impl FnOnce(oneshot::Sender<Result<()>>) -> Request) -> Result<()> {
        let (done, answer) = oneshot::channel();
        let sent = self.requests.send(request(done)).is_ok();
        match answer.await {
            Ok(result) if sent => result,
            _ => Err(stopped()),
        }
    }
}

fn stopped() -> DfsError {
    DfsError::new(ErrorKind::Unavailable, "the edit log has stopped")
}

/// Whoever holds its lock writes the log.
struct LogWriter {
    files: LogFiles,
    on_fatal: OnFatal,
    /// Set by the first failure; nothing is written after it.
    failed: Option<DfsError>,
    watch: Arc<WriteWatch>,
}

/// The I/O thread.
fn serve_requests(writer: &Mutex<LogWriter>, inbox: &mpsc::Receiver<Request>) {
    while let Ok(request) = inbox.recv() {
        let mut writer = writer.lock();
        // A caller that has gone away does not need the answer.
        match request {
            Request::SaveVote { vote, done } => {
                let _ = done.send(writer.attempt(|files| files.save_vote(&vote)));
            }
            Request::Truncate { since, done } => {
                let _ = done.send(writer.attempt(|files| files.truncate(since)));
            }
            Request::Purge { upto, done } => {
                let _ = done.send(writer.attempt(|files| files.purge(upto)));
            }
            Request::Roll { done } => {
                let _ = done.send(writer.attempt(LogFiles::roll_if_used));
            }
            Request::Stop => return,
        }
    }
}

impl LogWriter {
    fn attempt(&mut self, action: impl FnOnce(&mut LogFiles) -> Result<()>) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.duplicate());
        }
        self.watch.begin();
        let done = action(&mut self.files);
        self.watch.end();
        done.inspect_err(|error| {
            self.failed = Some(error.duplicate());
            (self.on_fatal)(error.duplicate());
        })
    }
}

/// Reads the log while the store writes it.
#[derive(Clone)]
pub(super) struct LogReader {
    shared: Arc<Shared>,
}

impl LogReader {
    fn read(&self, start: u64, end: u64) -> Result<Vec<Entry>> {
        let (from_files, mut from_memory) = {
            let state = self.shared.state.lock();
            let log_end = state.last.map_or(0, |log_id| log_id.index + 1);
            let log_start = state.purged.map_or(0, |log_id| log_id.index + 1);
            let (start, end) = (start.max(log_start), end.min(log_end));
            let recent_start = state.recent.front().map_or(log_end, |entry| entry.log_id.index);
            let first = usize::try_from(start.saturating_sub(recent_start)).unwrap_or(usize::MAX);
            let count = usize::try_from(end.saturating_sub(start.max(recent_start))).unwrap_or(usize::MAX);
            let from_memory: Vec<Entry> = state.recent.iter().skip(first).take(count).cloned().collect();
            (start..end.min(recent_start), from_memory)
        };
        if from_files.is_empty() {
            return Ok(from_memory);
        }
        let log = self.shared.index.lock().clone();
        let mut reader = log.entries(from_files.start, from_files.end);
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            entries.push(entry);
        }
        entries.append(&mut from_memory);
        Ok(entries)
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end.saturating_add(1),
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

fn any_error(error: DfsError) -> openraft::AnyError {
    openraft::AnyError::new(&error)
}

fn read_error(error: DfsError) -> StorageError {
    StorageIOError::read_logs(any_error(error)).into()
}

fn write_error(error: DfsError) -> StorageError {
    StorageIOError::write_logs(any_error(error)).into()
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> std::result::Result<Vec<Entry>, StorageError> {
        let (start, end) = bounds(&range);
        self.read(start, end).map_err(read_error)
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> std::result::Result<Vec<Entry>, StorageError> {
        let (start, end) = bounds(&range);
        LogReader { shared: self.shared.clone() }.read(start, end).map_err(read_error)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> std::result::Result<LogState<TypeConfig>, StorageError> {
        let state = self.shared.state.lock();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { shared: self.shared.clone() }
    }

    async fn save_vote(&mut self, vote: &Vote) -> std::result::Result<(), StorageError> {
        let vote = *vote;
        self.io
            .call(|done| Request::SaveVote { vote, done })
            .await
            .map_err(|error| StorageError::from(StorageIOError::<NodeId>::write_vote(any_error(error))))?;
        self.shared.state.lock().vote = Some(vote);
        Ok(())
    }

    /// The stored vote, never below the term of the last entry (a NameNode restored from an image has no vote), and never as
    /// leader: each life of the process leads in a term of its own.
    async fn read_vote(&mut self) -> std::result::Result<Option<Vote>, StorageError> {
        let state = self.shared.state.lock();
        let of_log = state.last.map(|log_id| Vote { leader_id: log_id.leader_id, committed: false });
        let stored = state.vote.map(|vote| Vote { committed: false, ..vote });
        Ok(match (stored, of_log) {
            (Some(stored), Some(of_log)) if of_log.leader_id > stored.leader_id => Some(of_log),
            (Some(stored), _) => Some(stored),
            // The very first entry is written in term 0, before any vote.
            (None, of_log) => of_log,
        })
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> std::result::Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let forgotten = {
            let mut state = self.shared.state.lock();
            for entry in &entries {
                state.push(entry.clone());
            }
            state.forget(self.shared.applied_end.load(Ordering::Acquire))
        };
        let end = entries.last().map_or(0, |entry| entry.log_id.index + 1);
        let written = self.writer.lock().attempt(|files| files.append(&entries));
        if written.is_ok() {
            self.shared.state.lock().flushed_end = end;
        }
        callback.log_io_completed(written.map_err(io::Error::other));
        drop(forgotten);
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> std::result::Result<(), StorageError> {
        let since = log_id.index;
        self.io.call(|done| Request::Truncate { since, done }).await.map_err(write_error)?;
        let before = since.checked_sub(1);
        let mut state = self.shared.state.lock();
        while state.recent.back().is_some_and(|entry| entry.log_id.index >= since) {
            state.recent.pop_back();
        }
        state.flushed_end = since;
        let in_memory = state.recent.back().map(|entry| entry.log_id);
        drop(state);
        let last = match (in_memory, before) {
            (Some(log_id), _) => Some(log_id),
            (None, Some(index)) => {
                let log = self.shared.index.lock().clone();
                log.entries(index, since).next_entry().map_err(read_error)?.map(|entry| entry.log_id)
            }
            (None, None) => None,
        };
        let mut state = self.shared.state.lock();
        state.last = last.max(state.purged);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> std::result::Result<(), StorageError> {
        self.io.call(|done| Request::Purge { upto: log_id, done }).await.map_err(write_error)?;
        let mut state = self.shared.state.lock();
        state.purged = state.purged.max(Some(log_id));
        if state.last < state.purged {
            state.last = state.purged;
            state.flushed_end = log_id.index + 1;
        }
        while state.recent.front().is_some_and(|entry| entry.log_id.index <= log_id.index) {
            state.recent.pop_front();
        }
        Ok(())
    }
}
