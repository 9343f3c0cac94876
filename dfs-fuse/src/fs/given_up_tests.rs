//! What calls leave behind that fail half-way, or that nobody waits for any more: nothing.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dfs_common::ids::{InodeId, ROOT_INODE};
use fuser::{Errno, OpenFlags};
use futures::poll;

use super::call_tests::{mounted, who, write_file};
use super::{AttrChange, FileSystem, NewInode};
use crate::caller::Asker;
use crate::fake_cluster::{FakeCluster, Fault};
use crate::handles::HandleId;
use crate::writer::Write;

const NAME: &[u8] = b"file";

async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it becomes true");
}

/// Waits until nothing of the file is open, here and at the NameNode.
async fn until_given_back(cluster: &FakeCluster, fs: &FileSystem, inode: InodeId) {
    until(|| fs.inodes.is_empty() && !cluster.world.lock().files[&inode.0].is_open).await;
}

fn create(fs: &Arc<FileSystem>, flags: i32) -> impl Future<Output = crate::errno::FsResult<super::files::Created>> {
    let fs = Arc::clone(fs);
    let new = NewInode { parent: ROOT_INODE, name: NAME, mode: 0o644, umask: 0 };
    async move { fs.create(&who(), new, OpenFlags(flags | libc::O_CREAT)).await }
}

pub(super) async fn append(fs: &FileSystem, handle: HandleId, offset: u64, data: &[u8]) {
    let by = Asker::new(0, 0, 0);
    let write = Write { offset, data, appends: false, syncs: false, keeps_set_id: true, by };
    fs.write(handle, write).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn open_for_nobody_is_closed() {
    let cluster = FakeCluster::start(1).await;
    let inode = write_file(&cluster, &[7; 3000]).await;
    let fs = mounted(&cluster).await;
    for flags in [libc::O_RDONLY, libc::O_RDWR, libc::O_WRONLY | libc::O_TRUNC] {
        drop(fs.open(&who(), inode, OpenFlags(flags)).await.unwrap());
        until_given_back(&cluster, &fs, inode).await;
        let handle = fs.open(&who(), inode, OpenFlags(flags)).await.unwrap().hand_over();
        assert!(!fs.inodes.is_empty(), "the kernel has it");
        fs.release(handle).await;
        until_given_back(&cluster, &fs, inode).await;
    }
}

/// The kernel asks for a creation without a check of rights to a file that is there: it has to look again.
#[tokio::test(flavor = "multi_thread")]
async fn create_of_a_name_that_is_there_opens_nothing() {
    let cluster = FakeCluster::start(1).await;
    let inode = write_file(&cluster, &[7; 3000]).await;
    let fs = mounted(&cluster).await;
    let (written, _handle) = being_written(&fs).await;
    for there in [inode, written] {
        cluster.world.lock().existing.insert(NAME.to_vec(), there.0);
        for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR | libc::O_TRUNC] {
            cluster.take_calls();
            let refused = create(&fs, flags).await.err().expect("it is there");
            assert_eq!(refused.errno(), Errno::ESTALE);
            assert_eq!(cluster.take_calls(), [("create", 1)]);
        }
    }
}

/// A file of this mount that is being written.
pub(super) async fn being_written(fs: &Arc<FileSystem>) -> (InodeId, HandleId) {
    let created = create(fs, libc::O_RDWR).await.unwrap();
    let (inode, handle) = (created.entry.attr.inode, created.opened.hand_over());
    append(fs, handle, 0, b"seen").await;
    assert_eq!(fs.read(handle, 0, 4).await.unwrap().bytes, b"seen"[..]);
    (inode, handle)
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_that_gives_up_does_not_end_the_writing_of_others() {
    let cluster = FakeCluster::start(1).await;
    let fs = mounted(&cluster).await;
    let (inode, handle) = being_written(&fs).await;
    let mut given_up = 0;
    // Bytes that have left by themselves meanwhile are read at once.
    for round in 1..=10 {
        append(&fs, handle, 4 * round, b"more").await;
        {
            let read = std::pin::pin!(fs.read(handle, 0, 1_000));
            given_up += usize::from(poll!(read).is_pending());
        }
        assert!(fs.inodes.writer(inode).is_some(), "the writer has not failed");
    }
    assert!(given_up > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_that_gives_up_emptying_does_not_end_the_writing_of_others() {
    let cluster = FakeCluster::start(1).await;
    let fs = mounted(&cluster).await;
    let (inode, _handle) = being_written(&fs).await;
    let open = fs.inodes.open(inode);
    let before = open.content_epoch();
    {
        let caller = who();
        let opening = std::pin::pin!(fs.open(&caller, inode, OpenFlags(libc::O_WRONLY | libc::O_TRUNC)));
        assert!(poll!(opening).is_pending());
    }
    assert!(fs.inodes.writer(inode).is_some(), "the writer has not failed");
    until(|| cluster.calls("append") > 0 && open.content_epoch() > before).await;
    assert!(fs.inodes.writer(inode).is_some(), "it goes on with a file that is empty");
    assert_eq!(open.writer().unwrap().length(), 0);
}

/// It goes on when its program is killed, and the file is another's by then.
#[tokio::test(flavor = "multi_thread")]
async fn late_end_of_a_write_does_not_undo_a_truncation() {
    let cluster = FakeCluster::start(1).await;
    let fs = mounted(&cluster).await;
    let (inode, _handle) = being_written(&fs).await;
    let writer = fs.inodes.writer(inode).unwrap();
    let write = |offset| Write {
        offset,
        data: b"late",
        appends: false,
        syncs: false,
        keeps_set_id: true,
        by: Asker::new(0, 0, 0),
    };
    let late = writer.write(&write(4), fs.options.sync).await.unwrap();
    writer.set_length(0, &who()).await.unwrap();
    writer.answered(&late, || panic!("the kernel takes the file for empty"));
    assert_eq!(writer.view().open_length, Some(0));
    let in_time = writer.write(&write(0), fs.options.sync).await.unwrap();
    let mut is_told = false;
    writer.answered(&in_time, || is_told = true);
    assert!(is_told && writer.view().open_length == Some(4));
}

/// What a program has closed stays when its mount is killed before the release.
#[tokio::test(flavor = "multi_thread")]
async fn close_is_answered_when_the_file_is_completed() {
    let cluster = FakeCluster::start(1).await;
    let fs = mounted(&cluster).await;
    let (_, handle) = being_written(&fs).await;
    assert_eq!(cluster.calls("complete"), 0);
    fs.flush(handle).await.unwrap();
    assert_eq!(cluster.calls("complete"), 1);
}

/// The kernel hears of lengths by answers, and a release has none.
#[tokio::test(flavor = "multi_thread")]
async fn release_tells_the_kernel_no_length() {
    let cluster = FakeCluster::start(1).await;
    let fs = mounted(&cluster).await;
    let (inode, handle) = being_written(&fs).await;
    fs.flush(handle).await.unwrap();
    // Another mount empties the file, and the kernel is told.
    fs.seen.emptied(inode);
    fs.release(handle).await;
    assert_eq!(fs.seen.told_length(inode), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_of_a_writer_whose_bytes_are_safe_is_no_loss() {
    for is_safe in [false, true] {
        let cluster = FakeCluster::start(1).await;
        let fs = mounted(&cluster).await;
        let (inode, handle) = being_written(&fs).await;
        if is_safe {
            fs.fsync(handle).await.unwrap();
        }
        give_up_closing(&fs, handle).await;
        assert!(fs.inodes.writer(inode).is_none(), "it has failed");
        assert_eq!(fs.inodes.find(inode).unwrap().losses().is_untold(), !is_safe);
    }
}

/// Its deadline is over: nobody knows how much of it was done.
async fn give_up_closing(fs: &FileSystem, handle: HandleId) {
    let closing = std::pin::pin!(fs.flush(handle));
    assert!(poll!(closing).is_pending());
}

#[tokio::test(flavor = "multi_thread")]
async fn truncation_disposes_of_a_writer_that_has_failed() {
    let cluster = FakeCluster::start(1).await;
    let fs = mounted(&cluster).await;
    let (inode, handle) = being_written(&fs).await;
    give_up_closing(&fs, handle).await;
    assert!(cluster.world.lock().files[&inode.0].is_open, "its handles are still there");
    let change = AttrChange { length: Some(2), ..AttrChange::default() };
    fs.setattr(&who(), inode, None, change).await.expect_err("this cluster cuts nothing");
    until(|| !cluster.world.lock().files[&inode.0].is_open).await;
}

/// What is stored can be read.
#[tokio::test(flavor = "multi_thread")]
async fn read_does_not_fail_with_the_writer_of_others() {
    let cluster = FakeCluster::start(1).await;
    cluster.set_fault(0, Fault::HangsUpAfter(1));
    let fs = mounted(&cluster).await;
    let (inode, writing) = being_written(&fs).await;
    let reading = fs.open(&who(), inode, OpenFlags(libc::O_RDONLY)).await.unwrap().hand_over();
    append(&fs, writing, 4, b"more").await;
    assert!(fs.read(reading, 0, 8).await.unwrap().bytes.starts_with(b"seen"));
    assert!(fs.inodes.writer(inode).is_none(), "it has failed meanwhile");
    assert!(fs.read(writing, 0, 8).await.is_err(), "who writes hears of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_that_fails_to_empty_a_file_forgets_nothing_that_the_kernel_was_told() {
    let cluster = FakeCluster::start(1).await;
    let inode = write_file(&cluster, &[7; 3000]).await;
    let fs = mounted(&cluster).await;
    fs.getattr(&who(), inode).await.unwrap();
    assert_eq!(fs.seen.told_length(inode), Some(3000));
    cluster.world.lock().files.get_mut(&inode.0).unwrap().is_open = true;
    let flags = OpenFlags(libc::O_WRONLY | libc::O_TRUNC);
    let refused = fs.open(&who(), inode, flags).await.err().expect("another one writes it");
    assert_eq!(refused.errno(), Errno::EBUSY);
    assert_eq!(fs.seen.told_length(inode), Some(3000));
    cluster.world.lock().files.get_mut(&inode.0).unwrap().is_open = false;
    let _opened = fs.open(&who(), inode, flags).await.unwrap();
    assert_eq!(fs.seen.told_length(inode), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn truncation_that_is_given_up_has_readers_look_again() {
    let cluster = FakeCluster::start(1).await;
    let inode = write_file(&cluster, &[7; 3000]).await;
    let fs = mounted(&cluster).await;
    let caller = who();
    let change = AttrChange { length: Some(5), ..AttrChange::default() };
    let mut truncation = Box::pin(fs.setattr(&caller, inode, None, change));
    assert!(poll!(&mut truncation).is_pending());
    let open = fs.inodes.find(inode).expect("whoever opens the file meets it");
    let before = open.content_epoch();
    drop(truncation);
    assert!(open.content_epoch() > before);
}

/// The NameNode may make it after somebody has opened the file.
#[tokio::test(flavor = "multi_thread")]
async fn unlink_that_is_given_up_has_files_held_until_it_is_settled() {
    let cluster = FakeCluster::start(1).await;
    let inode = write_file(&cluster, &[7; 3000]).await;
    let fs = mounted(&cluster).await;
    let open = async || fs.open(&who(), inode, OpenFlags(libc::O_RDONLY)).await.unwrap();
    cluster.world.lock().held_back.extend(["unlink", "settle_calls"]);
    let caller = who();
    tokio::select! {
        _ = fs.unlink(&caller, ROOT_INODE, NAME) => panic!("there is no answer"),
        () = until(|| cluster.calls("unlink") > 0) => {}
    }
    drop(open().await);
    assert_eq!(cluster.calls("hold"), 1);
    let created = create(&fs, libc::O_RDWR).await.unwrap();
    assert!(cluster.world.lock().holds.contains_key(&created.entry.attr.inode.0), "it may get the name");
    cluster.world.lock().held_back.clear();
    until(|| !fs.inodes.are_names_going()).await;
    drop(open().await);
    assert_eq!(cluster.calls("hold"), 2, "the name does not go any more");
}

#[tokio::test]
async fn name_whose_removal_is_refused_does_not_go_on_going() {
    let cluster = FakeCluster::start(1).await;
    let fs = mounted(&cluster).await;
    cluster.world.lock().refused.insert("unlink");
    fs.unlink(&who(), ROOT_INODE, NAME).await.unwrap_err();
    assert!(!fs.inodes.are_names_going());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_fail_or_are_given_up_are_noted() {
    let cluster = FakeCluster::start(1).await;
    let inode = write_file(&cluster, &[7; 3000]).await;
    let fs = mounted(&cluster).await;
    let before = fs.changes.now();
    let change = AttrChange { length: Some(5), ..AttrChange::default() };
    fs.setattr(&who(), inode, None, change).await.expect_err("this cluster cuts nothing");
    let failed = fs.changes.now();
    assert!(failed > before);
    cluster.world.lock().held_back.insert("unlink");
    let caller = who();
    tokio::select! {
        _ = fs.unlink(&caller, ROOT_INODE, NAME) => panic!("there is no answer"),
        () = until(|| cluster.calls("unlink") > 0) => {}
    }
    assert!(fs.changes.now() > failed);
}
