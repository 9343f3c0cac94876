//! The journal as the NameNode uses it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dfs_common::disk;
use dfs_common::error::ErrorKind;
use dfs_common::ids::TxId;
use futures::future::join_all;
use openraft::RaftLogReader;
use openraft::storage::RaftLogStorageExt;

use super::super::log_files::LogFiles;
use super::super::raft_types::{self, Entry};
use super::super::state_machine::MachineState;
use super::super::{batcher, log_store};
use super::*;
use crate::namenode::image::format::LogPosition;
use crate::power_cut::Recorder;

#[tokio::test]
async fn submitted_operations_are_applied_in_order_and_survive_many_restarts() {
    let root = formatted();
    for life in 0..8_u64 {
        let journal = TestJournal::open(root.path()).await;
        assert_eq!(journal.numbers(), (0..life * 3).collect::<Vec<_>>());
        for number in life * 3..life * 3 + 3 {
            assert_eq!(journal.journal.submit(op(number)).await.unwrap(), TxId(number + 1));
        }
        assert!(journal.journal.is_leader_confirmed());
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

#[tokio::test]
async fn checkpoint_and_restart_give_the_same_state() {
    let root = formatted();
    let mut expected = 0;
    for life in 0..5 {
        let journal = TestJournal::open(root.path()).await;
        assert_eq!(journal.numbers(), (0..expected).collect::<Vec<_>>());
        journal.submit_all(expected..expected + 5).await;
        assert_eq!(journal.journal.checkpoint().await.unwrap(), TxId(expected + 5));
        // Nothing new: the same image.
        assert_eq!(journal.journal.checkpoint().await.unwrap(), TxId(expected + 5));
        journal.submit_all(expected + 5..expected + 7).await;
        expected += 7;
        let images: Vec<u64> = journal.dir.images().unwrap().iter().map(|image| image.txid.0).collect();
        assert_eq!(images.len(), (life + 1).min(2), "{images:?}");
        journal.close().await;
    }
    // Edits before the older kept image are gone, later ones are there.
    let journal = TestJournal::open(root.path()).await;
    let oldest = journal.dir.images().unwrap().pop().unwrap();
    let (header, numbers) = load_numbers(&oldest.path).unwrap();
    let files = journal.journal.edit_files(None);
    assert!(files[0].first_index > 0 && files[0].first_index <= header.last_log.unwrap().index + 1, "{files:?}");
    let mut edits = EditReader::open(&journal.dir.edits(), journal.dir.info().namespace_id, &header).unwrap();
    let mut replayed = numbers;
    while let Some(logged) = edits.next_ops().unwrap() {
        replayed.extend(logged.ops.iter().map(number));
    }
    assert_eq!(replayed, journal.numbers());
    assert_eq!(edits.header_after(&header).last_txid, expected);
    journal.close().await;
}

#[tokio::test]
async fn a_damaged_newest_image_costs_only_time() {
    let root = formatted();
    let journal = TestJournal::open(root.path()).await;
    journal.submit_all(0..4).await;
    journal.journal.checkpoint().await.unwrap();
    journal.submit_all(4..8).await;
    journal.journal.checkpoint().await.unwrap();
    journal.submit_all(8..10).await;
    let newest = journal.dir.images().unwrap()[0].path.clone();
    journal.close().await;
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let journal = TestJournal::open(root.path()).await;
    assert_eq!(journal.numbers(), (0..10).collect::<Vec<_>>());
    // The next checkpoint passes over it too.
    assert_eq!(journal.journal.checkpoint().await.unwrap(), TxId(10));
    assert_eq!(load_numbers(&journal.dir.image_path(TxId(10))).unwrap().1, (0..10).collect::<Vec<_>>());
    journal.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_go_on_during_a_checkpoint() {
    let root = formatted();
    let journal = Arc::new(TestJournal::open(root.path()).await);
    journal.submit_all(0..50).await;
    let writer = {
        let journal = journal.clone();
        tokio::spawn(async move { journal.submit_all(50..400).await })
    };
    let mut txids = BTreeSet::new();
    while !writer.is_finished() {
        txids.insert(journal.journal.checkpoint().await.unwrap());
    }
    writer.await.unwrap();
    for image in journal.dir.images().unwrap() {
        assert_eq!(load_numbers(&image.path).unwrap().1, (0..image.txid.0).collect::<Vec<_>>());
    }
    Arc::into_inner(journal).unwrap().close().await;
    let journal = TestJournal::open(root.path()).await;
    assert_eq!(journal.numbers(), (0..400).collect::<Vec<_>>());
    journal.close().await;
}

/// What a SecondaryNameNode does: fetch finished files, fold, push. Gives what it fetched, the header before and after, and where
/// the image is.
fn fold_elsewhere(journal: &TestJournal) -> (tempfile::TempDir, ImageHeader, ImageHeader, std::path::PathBuf) {
    let fetched = tempfile::tempdir().unwrap();
    for file in journal.journal.edit_files(None) {
        std::fs::copy(&file.path, fetched.path().join(file.path.file_name().unwrap())).unwrap();
    }
    let newest = journal.dir.images().unwrap().into_iter().next();
    let base = newest.as_ref().map_or_else(|| journal.dir.image_header(), |image| load_numbers(&image.path).unwrap().0);
    let namespace_id = journal.dir.info().namespace_id;
    let mut edits = EditReader::open(fetched.path(), namespace_id, &base).unwrap();
    while edits.next_ops().unwrap().is_some() {}
    let header = edits.header_after(&base);
    let mut edits = EditReader::open(fetched.path(), namespace_id, &base).unwrap();
    let pushed = journal.dir.current().join("pushed.tmp");
    NumberFolder.fold(newest.as_ref().map(|image| image.path.as_path()), &mut edits, &header, &pushed).unwrap();
    (fetched, base, header, pushed)
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
    let (base, next) = (journal.dir.image_header(), entries_logged(&journal) + 1);
    journal.close().await;
    let mut files = LogFiles::open(&edits, namespace_id).unwrap();
    let unknown = raft_types::Batch::of(vec![EditOp::default()]);
    let log_id = raft_types::LogId::new(openraft::LeaderId::new(1, 1), next);
    files.append(&[Entry { log_id, payload: raft_types::Payload::Normal(unknown) }]).unwrap();
    drop(files);
    let error = TestJournal::try_open(root.path(), false).await.err().expect("a newer version wrote the log");
    assert!(error.chain().contains("not known to this program"), "{}", error.chain());
    let mut reader = EditReader::open(&edits, namespace_id, &base).unwrap();
    let error = std::iter::repeat_with(|| reader.next_ops()).take(9).find_map(Result::err).unwrap();
    assert!(error.chain().contains("not known to this program"), "{}", error.chain());
}

fn entries_logged(journal: &TestJournal) -> u64 {
    journal.journal.state.applied.lock().log_id.map_or(0, |log_id| log_id.index)
}

#[tokio::test]
async fn checkpoints_and_images_touch_no_file_on_the_thread_that_serves() {
    let root = formatted();
    let journal = TestJournal::open(root.path()).await;
    let recorder = Recorder::new(root.path());
    let here = || recorder.done_by(std::thread::current().id());
    for round in 0..4 {
        journal.submit_all(2 * round..2 * round + 2).await;
        assert_eq!(journal.journal.checkpoint().await.unwrap(), TxId(2 * round + 2));
        assert_eq!(journal.journal.newest_image(), TxId(2 * round + 2));
    }
    assert_eq!(here(), Vec::<String>::new());
    assert!(recorder.moment() > 0);
    journal.submit_all(8..10).await;
    journal.journal.roll().await.unwrap();
    let (_fetched, _, _, pushed) = fold_elsewhere(&journal);
    let before = here();
    journal.journal.adopt_image(&pushed).await.unwrap();
    assert_eq!(here(), before);
    journal.close().await;
}

/// Has the journal take an image that was made elsewhere; its writer did not sync it.
pub(super) async fn push_from_elsewhere(journal: &TestJournal) {
    let (fetched, _, header, folded) = fold_elsewhere(journal);
    let pushed = journal.dir.current().join("received.tmp");
    let bytes = std::fs::read(&folded).unwrap();
    disk::remove_file(&folded).unwrap();
    disk::DiskFile::create(&pushed).unwrap().write_all_at(&bytes, 0).unwrap();
    assert_eq!(journal.journal.adopt_image(&pushed).await.unwrap(), header.txid());
    drop(fetched);
}

#[tokio::test]
async fn an_image_of_another_state_is_not_adopted() {
    let root = formatted();
    let journal = TestJournal::open(root.path()).await;
    journal.submit_all(0..6).await;
    journal.journal.roll().await.unwrap();
    let (_fetched, _, header, pushed) = fold_elsewhere(&journal);
    let (_, numbers) = load_numbers(&pushed).unwrap();
    let image_of = |numbers: &[u64], state_digest| {
        let mut writer = ImageWriter::create(&pushed, &ImageHeader { state_digest, ..header.clone() }).unwrap();
        writer.begin_section(Section::Inodes).unwrap();
        for &number in numbers {
            writer.record(&NumberRecord { number }).unwrap();
        }
        writer.finish().unwrap();
    };
    // The last operation was skipped, as by a program that does not know it; or the program knows no digests.
    let skipped = &numbers[..5];
    for later in [0, 3] {
        journal.submit_all(6..6 + later).await;
        for digest in [digest_of(skipped).0, 0] {
            image_of(skipped, digest);
            let error = journal.journal.adopt_image(&pushed).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.message().contains("another state"), "{}", error.message());
        }
    }
    image_of(&numbers, digest_of(&numbers).0);
    assert_eq!(journal.journal.adopt_image(&pushed).await.unwrap(), TxId(6));
    journal.close().await;
}

#[tokio::test]
async fn an_image_made_elsewhere_is_adopted_only_when_it_is_ours_and_newer() {
    let root = formatted();
    let journal = TestJournal::open(root.path()).await;
    journal.submit_all(0..6).await;
    assert_eq!(journal.journal.roll().await.unwrap(), TxId(6));
    let (fetched, base, header, pushed) = fold_elsewhere(&journal);
    assert_eq!(header.txid(), TxId(6));
    let namespace_id = journal.dir.info().namespace_id;
    let copy = std::fs::read(&pushed).unwrap();
    assert_eq!(journal.journal.adopt_image(&pushed).await.unwrap(), TxId(6));
    assert!(journal.dir.image_path(TxId(6)).exists());
    // The same edits do not follow an image of a later leader.
    let mut later = base.clone();
    later.last_log = Some(LogPosition { term: 1 << 20, node: 1, index: 0 });
    let mut edits = EditReader::open(fetched.path(), namespace_id, &later).unwrap();
    assert_eq!(edits.next_ops().unwrap_err().kind(), ErrorKind::Corrupt);
    // Again: not newer. Then: ahead of us. Then: of a log that is not ours. Then: damaged.
    std::fs::write(&pushed, &copy).unwrap();
    assert_eq!(journal.journal.adopt_image(&pushed).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    journal.submit_all(6..8).await;
    let mut ahead = ImageHeader { last_txid: 60, ..header.clone() };
    ImageWriter::create(&pushed, &ahead).unwrap().finish().unwrap();
    assert_eq!(journal.journal.adopt_image(&pushed).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    ahead.last_txid = 8;
    ImageWriter::create(&pushed, &ahead).unwrap().finish().unwrap();
    assert_eq!(journal.journal.adopt_image(&pushed).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    let position = ahead.last_log.as_mut().unwrap();
    (position.term, position.index) = (position.term + 1, position.index + 1);
    ImageWriter::create(&pushed, &ahead).unwrap().finish().unwrap();
    assert_eq!(journal.journal.adopt_image(&pushed).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    std::fs::write(&pushed, &copy[..copy.len() - 1]).unwrap();
    assert_eq!(journal.journal.adopt_image(&pushed).await.unwrap_err().kind(), ErrorKind::Corrupt);
    journal.close().await;
    let journal = TestJournal::open(root.path()).await;
    assert_eq!(journal.numbers(), (0..8).collect::<Vec<_>>());
    journal.close().await;
}

#[tokio::test]
async fn an_image_without_its_edits_is_refused_unless_told() {
    let root = formatted();
    let journal = TestJournal::open(root.path()).await;
    journal.submit_all(0..6).await;
    journal.journal.checkpoint().await.unwrap();
    let edits = journal.dir.edits();
    journal.close().await;
    std::fs::remove_dir_all(&edits).unwrap();
    let error = TestJournal::try_open(root.path(), false).await.err().expect("edits are missing");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let journal = TestJournal::try_open(root.path(), true).await.unwrap();
    assert_eq!(journal.numbers(), (0..6).collect::<Vec<_>>());
    journal.submit_all(6..9).await;
    journal.close().await;
    let journal = TestJournal::open(root.path()).await;
    assert_eq!(journal.numbers(), (0..9).collect::<Vec<_>>());
    assert_eq!(journal.journal.checkpoint().await.unwrap(), TxId(9));
    journal.close().await;
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
    let error = TestJournal::try_open(root.path(), true).await.err().expect("a damaged frame");
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
    assert!(!journal.journal.is_leader_confirmed());
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
async fn a_full_queue_and_an_oversized_operation_are_refused() {
    let fatals = Fatals::default();
    let state = Arc::new(MachineState {
        machine: Arc::new(Numbers::default()),
        applied: Mutex::default(),
        applied_end: Arc::default(),
        waiters: Mutex::default(),
        image: Mutex::default(),
        on_fatal: fatals.hook(),
    });
    let (queue, batcher) = batcher::new(state);
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
