//! Checkpoints of the journal's own and images that were made elsewhere.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dfs_common::disk;
use dfs_common::error::{DfsError, ErrorKind};
use dfs_common::ids::TxId;

use super::super::log_files::LogFiles;
use super::*;
use crate::namenode::image::format::LogPosition;
use crate::namenode::storage_dir::{image_path, list_images, set_aside};
use crate::power_cut::Recorder;

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

/// Images of the numbers below 4 and below 8, and edits up to 10.
async fn with_two_images(root: &Path) -> TestJournal {
    let journal = TestJournal::open(root).await;
    for numbers in [0..4, 4..8] {
        journal.submit_all(numbers).await;
        journal.journal.checkpoint().await.unwrap();
    }
    journal.submit_all(8..10).await;
    journal
}

#[tokio::test]
async fn a_damaged_newest_image_costs_only_time() {
    let root = formatted();
    let journal = with_two_images(root.path()).await;
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

#[tokio::test]
async fn an_image_that_cannot_be_read_is_none_of_those_that_are_kept() {
    let root = formatted();
    let journal = with_two_images(root.path()).await;
    let newest = journal.dir.images().unwrap().remove(0);
    journal.close().await;
    make_unreadable(&newest.path);
    let journal = TestJournal::open(root.path()).await;
    assert_eq!(journal.numbers(), (0..10).collect::<Vec<_>>());
    assert_eq!(journal.journal.checkpoint().await.unwrap(), TxId(10));
    assert_eq!(load_numbers(&journal.dir.image_path(TxId(10))).unwrap().1, (0..10).collect::<Vec<_>>());
    let kept: Vec<_> = journal.dir.images().unwrap().iter().map(|image| image.txid.0).collect();
    assert_eq!(kept, [10, 4], "the one that has served is not removed for the one that has not");
    journal.close().await;
    // It costs time only as long as another one is there.
    for txid in [10, 4] {
        make_unreadable(&image_path(&root.path().join("current"), TxId(txid)));
    }
    let error = TestJournal::try_open(root.path()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.chain().contains("fsimage_0000000000000000010"), "{}", error.chain());
    assert_eq!(list_images(&root.path().join("current")).unwrap().len(), 2, "they are all that there is");
}

#[tokio::test]
async fn images_that_cannot_be_read_by_a_checkpoint_are_set_aside_once_another_has_served() {
    let root = formatted();
    let journal = with_two_images(root.path()).await;
    let images = journal.dir.images().unwrap();
    let away = root.path().join("away");
    std::fs::rename(&images[1].path, &away).unwrap();
    make_unreadable(&images[0].path);
    // The edits since the older image are there, those before it are not.
    assert_eq!(journal.journal.checkpoint().await.unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(journal.dir.images().unwrap(), images[..1], "none has served");
    std::fs::rename(&away, &images[1].path).unwrap();
    journal.journal.checkpoint().await.unwrap();
    let kept: Vec<_> = journal.dir.images().unwrap().iter().map(|image| image.txid.0).collect();
    assert_eq!(kept, [10, 4]);
    journal.close().await;
}

#[tokio::test]
async fn images_that_cannot_be_read_stay_when_the_edits_behind_an_older_one_are_damaged() {
    let root = formatted();
    let journal = with_two_images(root.path()).await;
    let images = journal.dir.images().unwrap();
    let (_, edits) =
        journal.journal.edit_files(None).into_iter().map(|file| (file.first_index, file.path)).max().unwrap();
    journal.close().await;
    let away = root.path().join("away");
    std::fs::copy(&images[0].path, &away).unwrap();
    make_unreadable(&images[0].path);
    let whole = std::fs::read(&edits).unwrap();
    let mut damaged = whole.clone();
    let last = damaged.iter().rposition(|&byte| byte != 0).unwrap();
    damaged[last] ^= 1;
    std::fs::write(&edits, damaged).unwrap();
    assert_eq!(TestJournal::try_open(root.path()).await.err().unwrap().kind(), ErrorKind::Corrupt);
    assert_eq!(list_images(&root.path().join("current")).unwrap(), images, "nothing has served");
    // All is mended, and the newest image serves.
    std::fs::write(&edits, whole).unwrap();
    std::fs::remove_dir_all(&images[0].path).unwrap();
    std::fs::copy(&away, &images[0].path).unwrap();
    let journal = TestJournal::open(root.path()).await;
    assert_eq!((journal.numbers(), journal.dir.images().unwrap()), ((0..10).collect(), images));
    journal.close().await;
}

#[tokio::test]
async fn an_image_of_no_use_does_not_take_the_one_of_its_name_aside() {
    let root = formatted();
    let journal = with_two_images(root.path()).await;
    let next = journal.dir.image_path(TxId(10));
    // Of a checkpoint whose caller gave up before it was published.
    std::fs::write(&next, "damaged since").unwrap();
    assert_eq!(journal.journal.checkpoint().await.unwrap(), TxId(10));
    assert_eq!(load_numbers(&next).unwrap().1, (0..10).collect::<Vec<_>>());
    let kept: Vec<_> = journal.dir.images().unwrap().iter().map(|image| image.txid.0).collect();
    assert_eq!(kept, [10, 8]);
    journal.close().await;
}

/// Reading a directory is an error, as reading a bad sector is. Its length is that of the names in it: enough for a header.
fn make_unreadable(image: &Path) {
    std::fs::remove_file(image).unwrap();
    std::fs::create_dir(image).unwrap();
    std::fs::write(image.join("x".repeat(200)), "").unwrap();
    assert_eq!(load_numbers(image).unwrap_err().kind(), ErrorKind::Io);
}

#[tokio::test]
async fn openraft_is_told_of_an_image_and_does_not_look_at_its_file() {
    let root = formatted();
    let journal = TestJournal::open(root.path()).await;
    let image = journal.dir.image_path(TxId(3));
    let remove = move |act: disk::Act<'_>| match act {
        disk::Act::Rename(_, to) if to == image => std::fs::remove_file(to).unwrap(),
        _ => {}
    };
    let watch = disk::watch(root.path(), Arc::new(remove));
    journal.submit_all(0..3).await;
    assert_eq!(journal.journal.checkpoint().await.unwrap(), TxId(3));
    drop(watch);
    journal.submit_all(3..5).await;
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
    // It is there now, and so it stays when there is a newer one, too: the other one still is not.
    for _ in 0..2 {
        image_of(skipped, digest_of(skipped).0);
        let error = journal.journal.adopt_image(&pushed).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.message().contains("another state"), "{}", error.message());
        image_of(&numbers, digest_of(&numbers).0);
        assert_eq!(journal.journal.adopt_image(&pushed).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
        journal.journal.checkpoint().await.unwrap();
    }
    journal.close().await;
}

#[tokio::test]
async fn an_image_overtaken_by_a_checkpoint_is_there_already_only_if_it_is_of_the_same_state() {
    let root = formatted();
    let journal = TestJournal::open(root.path()).await;
    journal.submit_all(0..3).await;
    journal.journal.checkpoint().await.unwrap();
    journal.submit_all(3..6).await;
    journal.journal.roll().await.unwrap();
    let (_fetched, _, header, pushed) = fold_elsewhere(&journal);
    journal.submit_all(6..8).await;
    assert_eq!(journal.journal.checkpoint().await.unwrap(), TxId(8));
    // The log still goes back to the image before.
    assert_eq!(journal.journal.adopt_image(&pushed).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    ImageWriter::create(&pushed, &ImageHeader { state_digest: 9, ..header }).unwrap().finish().unwrap();
    assert_eq!(journal.journal.adopt_image(&pushed).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
    journal.close().await;
}

#[tokio::test]
async fn an_image_whose_checkpoint_was_given_up_before_it_was_published_is_the_newest() {
    let root = formatted();
    let journal = TestJournal::retaining(1, root.path(), Arc::new(NumberFolder)).await.unwrap();
    journal.submit_all(0..3).await;
    journal.journal.roll().await.unwrap();
    let (_fetched, _, _, pushed) = fold_elsewhere(&journal);
    let older = journal.dir.current().join("older.tmp");
    std::fs::rename(&pushed, &older).unwrap();
    journal.submit_all(3..6).await;
    journal.journal.roll().await.unwrap();
    let (_fetched, _, _, pushed) = fold_elsewhere(&journal);
    std::fs::rename(&pushed, journal.dir.image_path(TxId(6))).unwrap();
    assert_eq!(journal.journal.adopt_image(&older).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(journal.journal.newest_image(), TxId(0), "nothing was published");
    assert_eq!(journal.journal.checkpoint().await.unwrap(), TxId(6));
    assert_eq!(journal.journal.newest_image(), TxId(6));
    let images: Vec<TxId> = journal.dir.images().unwrap().iter().map(|image| image.txid).collect();
    assert_eq!(images, [TxId(6)]);
    std::fs::remove_file(&older).unwrap();
    journal.close().await;
    let journal = TestJournal::open(root.path()).await;
    assert_eq!(journal.numbers(), (0..6).collect::<Vec<_>>());
    journal.close().await;
}

#[tokio::test]
async fn an_image_that_was_set_aside_is_made_again() {
    let root = formatted();
    let journal = TestJournal::open(root.path()).await;
    journal.submit_all(0..3).await;
    journal.journal.checkpoint().await.unwrap();
    journal.submit_all(3..5).await;
    journal.journal.checkpoint().await.unwrap();
    let newest = journal.dir.images().unwrap().remove(0);
    assert_eq!(newest.txid, TxId(5));
    set_aside(&vec![(newest.clone(), DfsError::new(ErrorKind::Corrupt, "it is damaged"))]).unwrap();
    assert_eq!(journal.journal.checkpoint().await.unwrap(), TxId(5));
    assert_eq!(load_numbers(&newest.path).unwrap().1, (0..5).collect::<Vec<_>>());
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

/// Folds when it is told.
#[derive(Default)]
struct SlowFolder {
    begun: tokio::sync::Notify,
    may_end: AtomicBool,
}

impl Folder for SlowFolder {
    fn fold(&self, image: Option<&Path>, edits: &mut EditReader, header: &ImageHeader, out: &Path) -> Result<()> {
        self.begun.notify_one();
        while !self.may_end.load(Ordering::Acquire) {
            std::thread::park_timeout(std::time::Duration::from_millis(1));
        }
        NumberFolder.fold(image, edits, header, out)
    }
}

#[tokio::test]
async fn a_checkpoint_that_was_given_up_keeps_the_next_one_waiting_until_its_thread_has_ended() {
    let root = formatted();
    let folder = Arc::new(SlowFolder::default());
    let journal = TestJournal::with_folder(root.path(), folder.clone()).await.unwrap();
    journal.submit_all(0..3).await;
    tokio::select! {
        _ = journal.journal.checkpoint() => panic!("the folder waits"),
        () = folder.begun.notified() => {}
    }
    assert!(journal.journal.checkpointing.try_lock().is_err());
    folder.may_end.store(true, Ordering::Release);
    assert_eq!(journal.journal.checkpoint().await.unwrap(), TxId(3));
    journal.close().await;
}

#[tokio::test]
async fn an_image_of_edits_without_digests_is_adopted_and_one_of_other_edits_is_not() {
    let root = formatted();
    TestJournal::open(root.path()).await.close().await;
    // As a program of layout 1 logged them.
    let dir = NameDir::open(root.path()).unwrap();
    let mut files = LogFiles::open(&dir.edits(), dir.info().namespace_id).unwrap();
    let last = files.last_log_id().unwrap().unwrap();
    files.append(&[entry(last.leader_id.term, last.index + 1, 0..3)]).unwrap();
    drop((files, dir));
    for later in [0, 2] {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(root.path(), copy.path());
        let journal = TestJournal::open(copy.path()).await;
        journal.journal.roll().await.unwrap();
        let (_fetched, _, header, pushed) = fold_elsewhere(&journal);
        assert_eq!((header.txid(), load_numbers(&pushed).unwrap().0.state_digest), (TxId(3), 0));
        journal.submit_all(3..3 + later).await;
        let image = std::fs::read(&pushed).unwrap();
        ImageWriter::create(&pushed, &ImageHeader { state_digest: 9, ..header.clone() }).unwrap().finish().unwrap();
        let error = journal.journal.adopt_image(&pushed).await.unwrap_err();
        assert!(error.message().contains("another state"), "{}", error.message());
        std::fs::write(&pushed, image).unwrap();
        assert_eq!(journal.journal.adopt_image(&pushed).await.unwrap(), TxId(3));
        journal.close().await;
    }
}
