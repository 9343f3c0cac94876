//! The journal: the NameNode's edit log as a replicated log, and the images that shorten it.
//!
//! Every durable change is an `EditOp` in this log. openraft keeps it (quorum, election and fencing in one library); a lone
//! NameNode is a group of one.
//!
//! A change's journey:
//!
//! ```text
//! submit            batcher.rs        waits with others; all that wait become one entry, one at a time is under way
//!   openraft                          numbers the entry, appends it
//!   append          log_store.rs      into memory
//!   write + sync    log_files.rs      one frame (frame.rs) into the current segment (segment.rs, spares.rs)
//!   openraft                          the entry is committed once a quorum has it: here, at once
//!   apply           state_machine.rs  transactions are numbered, the Machine applies them, outcomes go to the callers
//! outcome           batcher.rs
//! ```
//!
//! A start: scan the segments (log_index.rs), cut a torn last frame, replay what the loaded image does not have, raise the
//! directory's layout to this program's, become leader in a new term. A checkpoint (checkpoint.rs): finish the segment, fold
//! image + edits into a new image on a thread of its own, tell openraft, throw away what no kept image needs. edit_reader.rs
//! reads the log from outside. contract.rs is what the journal wants of whoever keeps the state.
//!
//! Promises:
//! - `submit` returns an outcome only after the operation is on disk and applied.
//! - Operations are applied in the order of the log, each exactly once per replay, and their transaction ids follow from
//!   their position alone.
//! - When the log cannot be written, or applying fails, the process stops (`OnFatal`); it never goes on. Nor does it when the
//!   journal ends in another way (`Journal::ended`).
//! - A damaged log is refused with file and offset; only a frame that was never acknowledged is cut.
//! - What a newer version logged ends the replay; it is never skipped. Each batch says which state its operations met, and
//!   replay and fold stop where theirs is another one.
//!
//! openraft runs on a current-thread runtime of its own (measured faster than sharing the server's), beside the I/O thread.

mod aligned;
mod batcher;
mod checkpoint;
mod contract;
mod edit_reader;
mod frame;
mod log_files;
mod log_index;
mod log_store;
mod network;
mod options;
mod raft_types;
mod segment;
mod spares;
mod start;
mod state_file;
mod state_machine;
mod write_watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::TxId;
use dfs_proto::v1::EditOp;
use openraft::RaftMetrics;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::image::format::{ImageHeader, LogPosition};
use super::storage_dir::NameDir;
pub use contract::{Applied, Folder, Machine};
pub use edit_reader::{EditReader, LoggedOps};
use log_index::LogIndex;
pub use log_store::OnFatal;
pub use options::JournalOptions;
use raft_types::{NodeId, Raft};
use state_machine::MachineState;
pub use state_machine::Token;

/// A write of the log that takes longer is on a device that does not answer, as far as anybody can tell. Longer than a slow
/// disk under load takes, shorter than people wait before they look.
const LOG_SILENCE: Duration = Duration::from_secs(10);

/// A finished file of the edit log; it changes no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditFile {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes that hold frames; the file may be longer, with zeros.
    pub length: u64,
    /// First log entry written to it.
    pub first_index: u64,
}

/// The running journal. Dropping it stops it without waiting; `shutdown` waits.
pub struct Journal<M: Machine> {
    queue: batcher::Queue<M::Outcome>,
    raft: Raft,
    metrics: watch::Receiver<RaftMetrics<NodeId, openraft::BasicNode>>,
    state: Arc<MachineState<M>>,
    io: log_store::IoHandle,
    index: Arc<Mutex<LogIndex>>,
    dir: Arc<NameDir>,
    options: JournalOptions,
    /// One checkpoint at a time.
    checkpointing: Arc<tokio::sync::Mutex<()>>,
    stop: Mutex<Option<oneshot::Sender<()>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<M: Machine> Journal<M> {
    /// Opens the log in `dir`, has `machine` (which holds the state of the image `loaded`, or none) apply what follows, and
    /// starts. Returns when everything in the log is applied; `wait_ready` when changes are taken.
    ///
    /// # Errors
    /// `Corrupt` with file and offset; `WrongCluster`; `Unsupported` for a log of several members; `Io`.
    pub async fn start(
        dir: Arc<NameDir>,
        machine: Arc<M>,
        loaded: Option<ImageHeader>,
        options: JournalOptions,
    ) -> Result<Self> {
        let state = Arc::new(start::initial_state(machine, loaded.as_ref(), &options)?);
        let (queue, batcher) = batcher::new(state.clone());
        let started = start::start(&dir, state.clone(), batcher, options.clone()).await?;
        Ok(Self {
            queue,
            metrics: started.raft.metrics(),
            raft: started.raft,
            state,
            io: started.io,
            index: started.index,
            dir,
            options,
            checkpointing: Arc::default(),
            stop: Mutex::new(Some(started.stop)),
            threads: Mutex::new(started.threads),
        })
    }

    /// Has `op` logged, synced and applied, and returns its outcome.
    ///
    /// # Errors
    /// The outcome's own; `Unavailable` when too many wait or the journal has stopped; `NotLeader`; `InvalidArgument` when it
    /// is too large.
    pub async fn submit(&self, op: EditOp) -> Result<M::Outcome> {
        self.submit_holding(op, None).await
    }

    /// As [`submit`](Self::submit); `token` is dropped when the op has been applied, or nothing can come of it any more.
    ///
    /// # Errors
    /// As `submit`.
    pub async fn submit_holding(&self, op: EditOp, token: Token) -> Result<M::Outcome> {
        self.queue.submit(op, token).await
    }

    /// Waits until this member leads and has applied an entry of its own term, so that it knows of everything committed
    /// before.
    ///
    /// # Errors
    /// `Unavailable` when the journal has stopped.
    pub async fn wait_ready(&self) -> Result<()> {
        let mut metrics = self.metrics.clone();
        let ready = metrics.wait_for(|metrics| leads(metrics) || metrics.running_state.is_err()).await;
        match ready {
            Ok(metrics) if leads(&metrics) => Ok(()),
            _ => Err(DfsError::new(ErrorKind::Unavailable, "the journal has stopped")),
        }
    }

    /// Whether this member leads.
    #[cfg(test)]
    fn is_leader(&self) -> bool {
        leads(&self.metrics.borrow())
    }

    /// The last transaction applied.
    pub fn last_applied_txid(&self) -> TxId {
        self.state.applied.lock().txid
    }

    /// Finishes the current segment; everything up to the returned transaction is in finished files then.
    ///
    /// # Errors
    /// Of writing; the process is stopping then.
    pub async fn roll(&self) -> Result<TxId> {
        let txid = self.last_applied_txid();
        self.io.roll().await?;
        Ok(txid)
    }

    /// Bytes of all frames that are in the log's files.
    pub fn log_bytes(&self) -> u64 {
        let log = self.index.lock();
        log.segments.iter().map(|segment| segment.end - segment::SEGMENT_HEADER_BYTES as u64).sum()
    }

    /// The finished files of the edit log that hold entries behind `after` (none: all of them), oldest first.
    pub fn edit_files(&self, after: Option<LogPosition>) -> Vec<EditFile> {
        let log = self.index.lock();
        let finished = log.segments.len().saturating_sub(1);
        let contained = after.map_or(0, |position| log.segments_through(position.index));
        let file = |segment: &log_index::SegmentIndex| EditFile {
            path: segment.path.clone(),
            length: segment.end,
            first_index: segment.header.first_index,
        };
        log.segments.iter().take(finished).skip(contained).map(file).collect()
    }

    /// For how long the log's device has not answered a write; none while it works.
    pub fn log_silence(&self) -> Option<Duration> {
        self.io.write_pending().filter(|pending| *pending >= LOG_SILENCE)
    }

    /// Returns when the journal has come to an end that nobody asked for, and says why. It may have done so without `OnFatal`: by a
    /// panic, or by an error that is openraft's own. Nothing can be changed any more then.
    pub async fn ended(&self) -> DfsError {
        let mut metrics = self.metrics.clone();
        let ended = DfsError::new(ErrorKind::Internal, "the journal has ended: no change can be made any more");
        tokio::select! {
            seen = metrics.wait_for(|metrics| metrics.running_state.is_err()) => {
                match seen.ok().and_then(|seen| seen.running_state.clone().err()) {
                    Some(fatal) => ended.with_source(fatal),
                    // The sender is gone without a word: a panic, which is on standard error.
                    None => ended,
                }
            }
            () = self.io.ended() => ended,
        }
    }

    /// Stops: threads are joined, and changes that wait are refused. Those under way may be made or not; who waits for them is told so.
    ///
    /// A device that hangs is waited for without end: who calls this gives up in time.
    ///
    /// # Errors
    /// `Internal` when one of the journal's threads panicked.
    pub async fn shutdown(&self) -> Result<()> {
        drop(self.stop.lock().take());
        let threads = std::mem::take(&mut *self.threads.lock());
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().try_for_each(JoinHandle::join)).await;
        match joined {
            Ok(Ok(())) => Ok(()),
            _ => Err(DfsError::new(ErrorKind::Internal, "a thread of the journal panicked")),
        }
    }
}

/// Prepares an empty edit log in `directory` that goes on after the entry `last`.
///
/// # Errors
/// Of writing.
pub fn begin_after(directory: &Path, last: &LogPosition) -> Result<()> {
    state_file::store(&directory.join(log_files::PURGED), &raft_types::log_id_of(last))
}

/// The entry that the log in `directory` was told to go on after.
#[cfg(test)]
pub(super) fn begun_after(directory: &Path) -> Result<Option<LogPosition>> {
    let purged: Option<raft_types::LogId> = state_file::load(&directory.join(log_files::PURGED))?;
    Ok(purged.as_ref().map(raft_types::position_of))
}

fn leads(metrics: &RaftMetrics<NodeId, openraft::BasicNode>) -> bool {
    metrics.running_state.is_ok()
        && metrics.current_leader == Some(metrics.id)
        && metrics.last_applied.is_some_and(|log_id| log_id.leader_id.term == metrics.current_term)
}

#[cfg(test)]
mod tests;
