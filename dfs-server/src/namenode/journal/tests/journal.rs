//! The journal as the NameNode uses it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dfs_common::error::ErrorKind;
use dfs_common::ids::TxId;
use dfs_common::storage_info::{NAMENODE_LAYOUT, StorageInfo};
use futures::future::join_all;
use openraft::RaftLogReader;
use openraft::storage::RaftLogStorageExt;

use super::super::log_files::LogFiles;
use super::super::raft_types::{self, Entry};
use super::super::state_machine::{ImageSource, MachineState};
use super::super::{batcher, log_store};
use super::*;

#[tokio::test]
async fn submitted_operations_are_applied_in_order_and_survive_many_restarts() {
    let root = formatted();
    for life in 0..8_u64 {
        let journal = TestJournal::open(root.path()).await;
        assert_eq!(journal.numbers(), (0..life * 3).collect::<Vec<_>>());
        for number in life * 3..life * 3 + 3 {
            assert_eq!(journal.journal.submit(op(number)).await.unwrap(), TxId(number + 1));
        }
        assert!(journal.journal.is_leader());
        assert_eq!(journal.journal.last_applied_txid(), TxId(life * 3 + 3));
        journal.close().await;
    }
}

#[tokio::test]
async fn a_crash_loses_nothing_that_was_answered() {
    let root = formatted();
    let journal = TestJournal::open(root.path()).await;
    for number in 0..12 {
        journal.submit_all([number]).await;
        let crashed = tempfile::tempdir().unwrap();
        copy_tree(root.path(), crashed.path());
        let revived = TestJournal::open(crashed.path()).await;
        assert_eq!(revived.numbers(), (0..=number).collect::<Vec<_>>());
        revived.submit_all([99]).await;
        revived.close().await;
    }
    journal.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_entries_and_each_gets_its_own_outcome() {
    let root = formatted();
    let journal = Arc::new(TestJournal::open(root.path()).await);
    let callers = (0..64_u64).map(|caller| {
        let journal = journal.clone();
        tokio::spawn(async move {
            let mut outcomes = Vec::new();
            for round in 0..40 {
                let number = caller * 1_000 + round;
                outcomes.push((number, journal.journal.submit(op(number)).await.unwrap()));
            }
            outcomes
        })
    });
    let outcomes: Vec<(u64, TxId)> = join_all(callers).await.into_iter().flat_map(|joined| joined.unwrap()).collect();
    let applied = journal.numbers();
    assert_eq!(applied.len(), 64 * 40);
    for (number, txid) in outcomes {
        assert_eq!(applied[txid.0 as usize - 1], number);
    }
    let entries = journal.journal.state.applied.lock().log_id.unwrap().index;
    assert!(entries < 64 * 40, "{entries} entries for {} operations", 64 * 40);
    Arc::into_inner(journal).unwrap().close().await;
}

/// An operation of a version to come, and one of today's with a field more.
#[derive(Clone, PartialEq, Message)]
struct LaterOp {
    #[prost(sint64, tag = "3")]
    time_ns: i64,
    #[prost(message, optional, tag = "30")]
    release_hold: Option<ReleaseHoldOp>,
    #[prost(uint64, tag = "900")]
    later: u64,
}

#[derive(Clone, PartialEq, Message)]
struct LaterBatch {
    #[prost(message, repeated, tag = "1")]
    ops: Vec<LaterOp>,
}

#[test]
fn what_a_newer_version_logged_is_refused_as_what_it_is() {
    let decode = |op: LaterOp| raft_types::Batch::decode(&LaterBatch { ops: vec![op] }.encode_to_vec());
    let known = LaterOp { release_hold: Some(ReleaseHoldOp { inode: 7, call_id: 0 }), ..LaterOp::default() };
    assert_eq!(decode(known.clone()).unwrap().ops.len(), 1);
    // Another kind; a field that is not known; no kind at all.
    for later in [LaterOp { later: 1, ..LaterOp::default() }, LaterOp { later: 1, ..known }, LaterOp::default()] {
        assert_eq!(decode(later).err().map(|error| error.kind()), Some(ErrorKind::Unsupported));
    }
    let removal = dfs_proto::v1::RemoveOp { kind: 77, ..Default::default() };
    let batch = raft_types::Batch::of(vec![EditOp { op: Some(Op::Remove(removal)), ..EditOp::default() }]);
    let mut bytes = Vec::new();
    batch.encode(&mut bytes);
    assert_eq!(raft_types::Batch::decode(&bytes).err().map(|error| error.kind()), Some(ErrorKind::Unsupported));
}

#[tokio::test]
async fn an_operation_of_an_unknown_kind_ends_replay_and_fold() {
    let root = formatted();
    let journal = TestJournal::open(root.path()).await;
    journal.submit_all(0..2).await;
    let (edits, namespace_id) = (journal.dir.edits(), journal.dir.info().namespace_id);
    let base = journal.dir.image_header();
    journal.close().await;
    append_unknown(root.path());
    let error = TestJournal::try_open(root.path()).await.err().expect("a newer version wrote the log");
    assert!(error.chain().contains("not known to this program"), "{}", error.chain());
    let mut reader = EditReader::open(&edits, namespace_id, &base).unwrap();
    let error = std::iter::repeat_with(|| reader.next_ops()).take(9).find_map(Result::err).unwrap();
    assert!(error.chain().contains("not known to this program"), "{}", error.chain());
}

#[tokio::test]
async fn an_image_without_its_edits_is_refused() {
    let root = formatted();
    let journal = TestJournal::open(root.path()).await;
    journal.submit_all(0..6).await;
    journal.journal.checkpoint().await.unwrap();
    let edits = journal.dir.edits();
    journal.close().await;
    std::fs::remove_dir_all(&edits).unwrap();
    set_layout(root.path(), 1);
    let error = TestJournal::try_open(root.path()).await.err().expect("edits are missing");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(layout(root.path()), 1, "the older program could not start any more");
}

/// The layout that VERSION says.
fn set_layout(root: &Path, layout_version: u32) {
    let path = root.join("current/VERSION");
    let info = StorageInfo::load(&path).unwrap().unwrap();
    StorageInfo { layout_version, ..info }.store(&path).unwrap();
}

fn layout(root: &Path) -> u32 {
    StorageInfo::load(&root.join("current/VERSION")).unwrap().unwrap().layout_version
}

#[tokio::test]
async fn the_layout_is_raised_once_everything_was_read_and_not_before() {
    let root = formatted();
    let journal = TestJournal::open(root.path()).await;
    journal.submit_all(0..6).await;
    let path = journal.dir.edits().join("edits_0000000000000000000");
    journal.close().await;
    set_layout(root.path(), 1);
    let good = std::fs::read(&path).unwrap();
    let mut damaged = good.clone();
    damaged[4096 + 600] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    let names = || std::fs::read_dir(path.parent().unwrap()).unwrap().map(|item| item.unwrap().file_name());
    let before: BTreeSet<_> = names().collect();
    assert_eq!(TestJournal::try_open(root.path()).await.err().map(|error| error.kind()), Some(ErrorKind::Corrupt));
    assert_eq!(layout(root.path()), 1, "the older program could not start any more");
    // Nor is it when the files are whole and their content is not understood.
    std::fs::write(&path, good).unwrap();
    append_unknown(root.path());
    assert!(TestJournal::try_open(root.path()).await.is_err());
    assert_eq!(layout(root.path()), 1);
    let segments = |names: &BTreeSet<std::ffi::OsString>| {
        names.iter().filter(|name| name.to_str().unwrap().starts_with("edits_")).count()
    };
    assert_eq!(segments(&names().collect()), segments(&before), "no segment was begun");
    let root = formatted();
    set_layout(root.path(), 1);
    TestJournal::open(root.path()).await.close().await;
    assert_eq!(layout(root.path()), NAMENODE_LAYOUT);
}

/// Appends an operation of a kind that is not known.
fn append_unknown(root: &Path) {
    let dir = NameDir::open(root).unwrap();
    let mut files = LogFiles::open(&dir.edits(), dir.info().namespace_id).unwrap();
    let next = files.index().lock().next_index;
    let term = files.last_log_id().unwrap().unwrap().leader_id.term;
    let unknown = raft_types::Batch::of(vec![EditOp::default()]);
    let log_id = raft_types::LogId::new(openraft::LeaderId::new(term, 1), next);
    files.append(&[Entry { log_id, payload: raft_types::Payload::Normal(unknown) }]).unwrap();
}

#[tokio::test]
async fn a_damaged_log_is_not_started() {
    let root = formatted();
    let journal = TestJournal::open(root.path()).await;
    journal.submit_all(0..6).await;
    let path = journal.dir.edits().join("edits_0000000000000000000");
    journal.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096 + 600] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = TestJournal::try_open(root.path()).await.err().expect("a damaged frame");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("offset"), "{}", error.message());
}

#[tokio::test]
async fn a_failed_log_write_is_fatal_and_nothing_is_written_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = LogFiles::open(dir.path(), 1).unwrap();
    files.append(&[entry(1, 0, [1])]).unwrap();
    files.break_device();
    let fatals = Fatals::default();
    let (mut store, io, thread) = log_store::open(files, Arc::default(), fatals.hook()).unwrap();
    let lost: Vec<Entry> = vec![entry(1, 1, [2])];
    assert!(store.blocking_append(lost).await.is_err());
    assert_eq!(fatals.0.lock().len(), 1);
    assert!(fatals.0.lock()[0].contains("edits_"), "{:?}", fatals.0.lock());
    assert!(io.roll().await.is_err());
    assert_eq!(fatals.0.lock().len(), 1);
    io.stop();
    thread.join().unwrap();
    let reopened = LogFiles::open(dir.path(), 1).unwrap();
    assert_eq!(reopened.last_log_id().unwrap().unwrap().index, 0);
}

#[tokio::test]
async fn entries_leave_memory_once_they_are_applied_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let applied_end = Arc::new(AtomicU64::new(0));
    let files = LogFiles::open(dir.path(), 1).unwrap();
    let (mut store, io, thread) = log_store::open(files, applied_end.clone(), Fatals::default().hook()).unwrap();
    for index in 0..100 {
        store.blocking_append([entry(1, index, [index])]).await.unwrap();
    }
    assert_eq!(store.recent_entries(), 100);
    for index in 100..200 {
        applied_end.store(index, Ordering::Release);
        store.blocking_append([entry(1, index, [index])]).await.unwrap();
        assert_eq!(store.recent_entries(), 1);
    }
    let all = store.try_get_log_entries(0..200).await.unwrap();
    assert!(all.iter().map(|entry| entry.log_id.index).eq(0..200));
    io.stop();
    thread.join().unwrap();
}

#[tokio::test]
async fn a_machine_that_panics_stops_the_journal() {
    let root = formatted();
    let journal = TestJournal::open(root.path()).await;
    journal.submit_all(0..2).await;
    assert_eq!(journal.journal.submit(op(POISON)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(journal.fatals.0.lock().len(), 1);
    assert_eq!(journal.journal.submit(op(3)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(!journal.journal.is_leader());
    assert_eq!(journal.journal.wait_ready().await.unwrap_err().kind(), ErrorKind::Unavailable);
    journal.journal.shutdown().await.unwrap();
}

#[tokio::test]
async fn submitting_after_shutdown_is_refused() {
    let root = formatted();
    let journal = TestJournal::open(root.path()).await;
    journal.journal.shutdown().await.unwrap();
    assert_eq!(journal.journal.submit(op(3)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(journal.journal.roll().await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn an_operation_that_waits_does_not_keep_the_message_it_came_in() {
    let root = formatted();
    let journal = TestJournal::open(root.path()).await;
    let message = bytes::Bytes::from(vec![7; 1 << 20]);
    let xattr = dfs_proto::v1::SetXAttrOp { name: message.slice(10..20), ..Default::default() };
    let retry = dfs_proto::v1::RetryId { client_id: message.slice(30..46), ..Default::default() };
    let op = EditOp { op: Some(Op::SetXattr(xattr)), retry: Some(retry), ..EditOp::default() };
    // The journal's machine does not know the operation: only the queue sees it.
    let (queue, batcher) = batcher::new(journal.journal.state.clone());
    let mut submission = Box::pin(queue.submit(op, None));
    assert!(futures::poll!(&mut submission).is_pending());
    assert!(message.is_unique());
    drop(batcher);
    assert_eq!(submission.await.unwrap_err().kind(), ErrorKind::Unavailable);
    journal.close().await;
}

#[tokio::test]
async fn a_journal_that_ends_says_so_however_it_came_to_that() {
    let root = formatted();
    let journal = TestJournal::open(root.path()).await;
    let mut ended = Box::pin(journal.journal.ended());
    assert!(futures::poll!(&mut ended).is_pending());
    // As by a panic.
    journal.journal.io.stop();
    assert_eq!(ended.await.kind(), ErrorKind::Internal);
    journal.journal.shutdown().await.unwrap();
    drop(journal);
    let journal = TestJournal::open(root.path()).await;
    let mut ended = Box::pin(journal.journal.ended());
    assert!(futures::poll!(&mut ended).is_pending());
    journal.journal.raft.shutdown().await.unwrap();
    let error = ended.await;
    assert!(error.chain().contains("no change can be made any more: "), "{}", error.chain());
    journal.journal.shutdown().await.unwrap();
}

#[test]
fn an_image_source_that_panics_is_fatal() {
    let fatals = Fatals::default();
    let state = idle_state(&fatals);
    drop(ImageSource(state.clone()));
    assert!(fatals.0.lock().is_empty());
    let panicking = std::thread::spawn(move || {
        let _source = ImageSource(state);
        panic!("openraft's task");
    });
    panicking.join().unwrap_err();
    assert_eq!(fatals.0.lock().len(), 1);
}

/// Of a journal that was not started.
fn idle_state(fatals: &Fatals) -> Arc<MachineState<Numbers>> {
    Arc::new(MachineState {
        machine: Arc::new(Numbers::default()),
        applied: Mutex::default(),
        applied_end: Arc::default(),
        waiters: Mutex::default(),
        image: Mutex::default(),
        on_fatal: fatals.hook(),
    })
}

#[tokio::test]
async fn a_full_queue_and_an_oversized_operation_are_refused() {
    let (queue, batcher) = batcher::new(idle_state(&Fatals::default()));
    let room = batcher::QUEUE_BYTES_MAX / (batcher::WAITING_OP_BYTES + raft_types::encoded_op_len(&op(1)));
    let mut waiting: Vec<_> = (0..room).map(|_| Box::pin(queue.submit(op(1), None))).collect();
    for submission in &mut waiting {
        assert!(futures::poll!(submission).is_pending());
    }
    assert_eq!(queue.submit(op(1), None).await.unwrap_err().kind(), ErrorKind::Unavailable);
    let xattr = dfs_proto::v1::SetXAttrOp { value: vec![0; 17 << 20].into(), ..Default::default() };
    let oversized = EditOp { op: Some(Op::SetXattr(xattr)), ..EditOp::default() };
    assert_eq!(queue.submit(oversized, None).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    drop(batcher);
    assert_eq!(waiting.remove(0).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn leadership_comes_at_once() {
    let root = formatted();
    for _ in 0..3 {
        let begin = std::time::Instant::now();
        let journal = TestJournal::open(root.path()).await;
        let elapsed = begin.elapsed();
        journal.close().await;
        // A tick of openraft would take 750 ms; the rest of the margin is for a busy machine.
        assert!(elapsed.as_millis() < 700, "{elapsed:?}");
    }
}
