//! From files to a running journal: check that image and log fit, replay, start openraft on its own thread.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use dfs_common::error::{DfsError, ErrorKind, Result};
use openraft::{BasicNode, Config, SnapshotMeta, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::batcher::Batcher;
use super::contract::Machine;
use super::edit_reader::decode_membership;
use super::log_files::LogFiles;
use super::log_index::LogIndex;
use super::log_store::{self, IoHandle, LogStore};
use super::network::NoNetwork;
use super::options::JournalOptions;
use super::raft_types::{LONE_NODE, Payload, Raft, log_id_of};
use super::state_machine::{AppliedTo, CurrentImage, MachineState, StateMachine};
use crate::namenode::image::format::ImageHeader;
use crate::namenode::namespace::state_digest::StateDigest;
use crate::namenode::storage_dir::{NameDir, raise_layout, set_aside};
use crate::start_progress::StartProgress;

/// Timers matter only between members; openraft's default of 50 ms would wake an idle NameNode for nothing.
const HEARTBEAT_MS: u64 = 500;
const ELECTION_MIN_MS: u64 = 1_500;
const ELECTION_MAX_MS: u64 = 3_000;

/// The parts of a started journal.
pub(super) struct Started {
    /// openraft's handle.
    pub raft: Raft,
    /// The I/O thread's.
    pub io: IoHandle,
    /// Where entries are.
    pub index: Arc<Mutex<LogIndex>>,
    /// Dropped to stop.
    pub stop: oneshot::Sender<()>,
    /// To join.
    pub threads: Vec<JoinHandle<()>>,
}

/// The state as of the loaded image.
///
/// # Errors
/// `Internal` when the machine does not hold the image; `Corrupt` when its membership cannot be read.
pub(super) fn initial_state<M: Machine>(
    machine: Arc<M>,
    loaded: Option<&ImageHeader>,
    options: &JournalOptions,
) -> Result<MachineState<M>> {
    let header = loaded.cloned().unwrap_or_default();
    if machine.last_applied_txid() != header.txid() {
        return Err(DfsError::new(
            ErrorKind::Internal,
            format!("the image ends at transaction {}, the state at {}", header.txid(), machine.last_applied_txid()),
        ));
    }
    let membership = decode_membership(&header)?;
    let log_id = header.last_log.as_ref().map(log_id_of);
    let image = log_id.map(|log_id| CurrentImage {
        meta: SnapshotMeta {
            last_log_id: Some(log_id),
            last_membership: membership.clone(),
            snapshot_id: header.last_txid.to_string(),
        },
        txid: header.txid(),
    });
    Ok(MachineState {
        machine,
        applied: Mutex::new(AppliedTo {
            log_id,
            txid: header.txid(),
            digest: StateDigest(header.state_digest),
            membership,
        }),
        applied_end: Arc::default(),
        waiters: Mutex::default(),
        image: Mutex::new(image),
        on_fatal: options.on_fatal.clone(),
    })
}

/// Starts the threads and waits until the log is replayed and openraft runs.
///
/// # Errors
/// Of opening and replaying the log.
pub(super) async fn start<M: Machine>(
    dir: &NameDir,
    state: Arc<MachineState<M>>,
    batcher: Batcher<M>,
    options: JournalOptions,
) -> Result<Started> {
    let (report, reported) = oneshot::channel();
    let (stop, stopped) = oneshot::channel();
    let (current, edits, namespace_id) = (dir.current(), dir.edits(), dir.info().namespace_id);
    let body = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                // Nobody listens only when the start was given up.
                let _ = report.send(Err(DfsError::io("make the journal's runtime", error)));
                return;
            }
        };
        runtime.block_on(async {
            options.progress.begin("reading the edit log");
            let opened = LogFiles::open(&edits, namespace_id)
                .and_then(|files| log_store::open(files, state.applied_end.clone(), options.on_fatal.clone()));
            let (store, io, io_thread) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    let _ = report.send(Err(error));
                    return;
                }
            };
            let index = store.index();
            match run_openraft(&current, store, state, &options).await {
                Ok(raft) => {
                    let _ = report.send(Ok((raft.clone(), io.clone(), index, io_thread)));
                    serve(raft, batcher, stopped).await;
                }
                Err(error) => {
                    let _ = report.send(Err(error));
                }
            }
            io.stop();
        });
    };
    let thread = thread::Builder::new()
        .name("journal-raft".into())
        .spawn(body)
        .map_err(|error| DfsError::io("start the journal's thread", error))?;
    match reported.await {
        Ok(Ok((raft, io, index, io_thread))) => Ok(Started { raft, io, index, stop, threads: vec![thread, io_thread] }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(DfsError::new(ErrorKind::Internal, "the journal's thread died while starting")),
    }
}

async fn serve<M: Machine>(raft: Raft, batcher: Batcher<M>, stopped: oneshot::Receiver<()>) {
    tokio::select! {
        () = batcher.run(raft.clone()) => {}
        // Never sent to: it ends when its sender is dropped.
        _ = stopped => {}
    }
    if let Err(error) = raft.shutdown().await {
        warn!(%error, "openraft did not end cleanly");
    }
}

async fn run_openraft<M: Machine>(
    current: &Path,
    store: LogStore,
    state: Arc<MachineState<M>>,
    options: &JournalOptions,
) -> Result<Raft> {
    replay(&store, &state, &options.progress)?;
    // All was read and understood. What is written from here on is of this program's layout.
    raise_layout(current)?;
    set_aside(&options.useless_images)?;
    let config = Config {
        cluster_name: "namenodes".into(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MIN_MS,
        election_timeout_max: ELECTION_MAX_MS,
        // Checkpoints are made by the journal, and it alone knows which edits kept images need.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    };
    let config = config
        .validate()
        .map_err(|error| DfsError::new(ErrorKind::Internal, "configure openraft").with_source(error))?;
    let is_new = state.applied.lock().log_id.is_none();
    let raft = Raft::new(LONE_NODE, Arc::new(config), NoNetwork, store, StateMachine(state))
        .await
        .map_err(|error| DfsError::new(ErrorKind::Io, "start openraft").with_source(error))?;
    if is_new {
        let members = BTreeMap::from([(LONE_NODE, BasicNode::new(&options.address))]);
        raft.initialize(members)
            .await
            .map_err(|error| DfsError::new(ErrorKind::Internal, "form a group of one").with_source(error))?;
    } else {
        // At once, instead of at the next tick.
        raft.trigger()
            .elect()
            .await
            .map_err(|error| DfsError::new(ErrorKind::Internal, "become leader").with_source(error))?;
    }
    Ok(raft)
}

/// Applies what the image does not have. In a group of one all that is durable is committed; the log of a larger group may
/// hold entries that never were, so it is refused until this program can ask the others.
fn replay<M: Machine>(store: &LogStore, state: &MachineState<M>, progress: &StartProgress) -> Result<()> {
    let log = store.index().lock().clone();
    let image = state.applied.lock().clone();
    let start = image.log_id.map_or(0, |log_id| log_id.index + 1);
    check_members(&image)?;
    if start > log.next_index {
        return Err(DfsError::new(
            ErrorKind::Corrupt,
            format!(
                "the edit log ends before entry {}, but the image at transaction {} ends with entry {}: edits are missing; \
                 restore the edits directory from a copy, or move the directory away and import the SecondaryNameNode's: \
                 dfs-server import-checkpoint",
                log.next_index,
                image.txid,
                start - 1
            ),
        ));
    }
    let begin = std::time::Instant::now();
    let term = image.log_id.map_or(0, |log_id| log_id.leader_id.term);
    progress.begin_counted("replaying the edit log", "entries", log.next_index - start);
    let mut entries = log.entries(start, log.next_index).after_term(term);
    while let Some(entry) = entries.next_entry()? {
        state.apply(&entry)?;
        progress.advance_to(entry.log_id.index + 1 - start);
        if matches!(entry.payload, Payload::Membership(_)) {
            check_members(&state.applied.lock())?;
        }
    }
    let applied = state.applied.lock();
    info!(
        from_txid = image.txid.0,
        to_txid = applied.txid.0,
        entries = log.next_index - start,
        elapsed_ms = begin.elapsed().as_millis(),
        "edit log replayed"
    );
    Ok(())
}

fn check_members(applied: &AppliedTo) -> Result<()> {
    let mut voters = applied.membership.voter_ids();
    let alone = voters.all(|voter| voter == LONE_NODE) && applied.membership.nodes().count() <= 1;
    if alone {
        return Ok(());
    }
    Err(DfsError::new(
        ErrorKind::Unsupported,
        format!("the journal belongs to several NameNodes ({}); this program runs one", applied.membership),
    ))
}
