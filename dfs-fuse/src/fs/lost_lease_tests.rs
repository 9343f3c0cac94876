//! Writers whose lease ends while programs have them open.

use dfs_common::ids::InodeId;
use fuser::{Errno, OpenFlags};

use super::call_tests::{mounted, who, write_file};
use super::given_up_tests::{append, being_written};
use super::{AttrChange, FileSystem};
use crate::caller::Asker;
use crate::fake_cluster::FakeCluster;
use crate::writer::Write;

fn at_4(data: &[u8]) -> Write<'_> {
    Write { offset: 4, data, appends: false, syncs: false, keeps_set_id: true, by: Asker::new(0, 0, 0) }
}

/// Ends the session, and has the NameNode close the file; the mount has learned it.
async fn end_session(cluster: &FakeCluster, fs: &FileSystem, inode: InodeId) {
    cluster.world.lock().is_session_dead = true;
    drop(fs.client.hold(&who(), inode).await.unwrap());
    close(cluster, inode);
}

/// The NameNode closes the file without its writer.
fn close(cluster: &FakeCluster, inode: InodeId) {
    let mut world = cluster.world.lock();
    world.files.get_mut(&inode.0).unwrap().is_open = false;
    world.replicas.values_mut().for_each(|replica| replica.is_finalized = true);
}

/// The NameNode refuses what the writer asks for while nobody calls it, as when it rebuilds a pipeline that a heartbeat has found
/// closed.
async fn fail_in_the_background(fs: &FileSystem, inode: InodeId) {
    let writer = fs.inodes.writer(inode).unwrap().file_writer().unwrap();
    writer.complete().await.unwrap_err();
    assert!(writer.has_failed());
}

#[tokio::test(flavor = "multi_thread")]
async fn writer_that_is_idle_survives_the_end_of_its_session() {
    let cluster = FakeCluster::start(1).await;
    let inode = write_file(&cluster, b"seen").await;
    let fs = mounted(&cluster).await;
    let handle = fs.open(&who(), inode, OpenFlags(libc::O_WRONLY)).await.unwrap().hand_over();
    end_session(&cluster, &fs, inode).await;
    append(&fs, handle, 4, b"more").await;
    fs.fsync(handle).await.unwrap();
    end_session(&cluster, &fs, inode).await;
    append(&fs, handle, 8, b"last").await;
    fs.flush(handle).await.unwrap();
    fs.release(handle).await;
    assert_eq!(cluster.content(inode.0, 0), b"seenmorelast");
}

#[tokio::test(flavor = "multi_thread")]
async fn writer_with_unsafe_bytes_accepts_no_more_after_the_end_of_its_session() {
    let cluster = FakeCluster::start(1).await;
    let fs = mounted(&cluster).await;
    let (inode, handle) = being_written(&fs).await;
    end_session(&cluster, &fs, inode).await;
    assert!(fs.inodes.writer(inode).is_none(), "it has failed");
    assert_eq!(fs.write(handle, at_4(b"more")).await.err().unwrap().errno(), Errno::EIO);
    assert!(fs.inodes.find(inode).unwrap().losses().is_untold());
}

#[tokio::test(flavor = "multi_thread")]
async fn file_of_an_idle_writer_is_as_others_leave_it_once_its_session_has_ended() {
    let cluster = FakeCluster::start(1).await;
    let inode = write_file(&cluster, b"seen").await;
    let fs = mounted(&cluster).await;
    let open = async |flags| fs.open(&who(), inode, OpenFlags(flags)).await.unwrap().hand_over();
    let (_writing, reading) = (open(libc::O_WRONLY).await, open(libc::O_RDONLY).await);
    assert_eq!(fs.read(reading, 0, 9).await.unwrap().bytes, b"seen"[..]);
    end_session(&cluster, &fs, inode).await;
    let other = cluster.client().await;
    let elsewhere = other.append(&who(), inode, false).await.unwrap();
    elsewhere.write(b"more").await.unwrap();
    elsewhere.hflush().await.unwrap();
    let length = async || fs.getattr(&who(), inode).await.unwrap().attr.length;
    assert_eq!(length().await, 8, "while it is written elsewhere");
    elsewhere.complete().await.unwrap();
    assert_eq!(length().await, 8);
    assert_eq!(fs.read(reading, 0, 9).await.unwrap().bytes, b"seenmore"[..]);
    let writer = fs.inodes.writer(inode).unwrap();
    assert!(writer.looks_at_maker(&at_4(b"")), "others may have made a program of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn writer_that_is_idle_survives_the_end_of_its_lease_whoever_learns_of_it() {
    for learns in ["heartbeat after renewal", "heartbeat", "heartbeat, the session lives", "close"] {
        let cluster = FakeCluster::start(1).await;
        let fs = mounted(&cluster).await;
        let (inode, handle) = being_written(&fs).await;
        fs.fsync(handle).await.unwrap();
        cluster.world.lock().is_session_dead = learns != "heartbeat, the session lives";
        match learns {
            "heartbeat after renewal" => {
                end_session(&cluster, &fs, inode).await;
                fail_in_the_background(&fs, inode).await;
            }
            "heartbeat" => {
                fail_in_the_background(&fs, inode).await;
                end_session(&cluster, &fs, inode).await;
            }
            "close" => {
                assert_eq!(fs.flush(handle).await.unwrap_err().errno(), Errno::EIO);
                end_session(&cluster, &fs, inode).await;
            }
            _ => {
                cluster.world.lock().revoked.insert(inode.0);
                fail_in_the_background(&fs, inode).await;
                cluster.world.lock().revoked.clear();
                close(&cluster, inode);
            }
        }
        append(&fs, handle, 4, b"more").await;
        assert!(fs.inodes.writer(inode).is_some(), "{learns}");
        fs.flush(handle).await.unwrap();
        fs.release(handle).await;
        assert_eq!(cluster.content(inode.0, 0), b"seenmore", "{learns}");
    }
}

/// Otherwise its descriptors would write past the mount: no sync of others would reach their bytes.
#[tokio::test(flavor = "multi_thread")]
async fn truncation_by_name_goes_through_an_idle_writer_that_has_lost_its_lease() {
    let cluster = FakeCluster::start(1).await;
    let fs = mounted(&cluster).await;
    let (inode, handle) = being_written(&fs).await;
    fs.fsync(handle).await.unwrap();
    end_session(&cluster, &fs, inode).await;
    fail_in_the_background(&fs, inode).await;
    let change = AttrChange { length: Some(0), ..AttrChange::default() };
    assert_eq!(fs.setattr(&who(), inode, None, change).await.unwrap().attr.length, 0);
    append(&fs, handle, 0, b"anew").await;
    let another = fs.open(&who(), inode, OpenFlags(libc::O_RDONLY)).await.unwrap().hand_over();
    fs.fsync(another).await.unwrap();
    assert_eq!(cluster.content(inode.0, 0), b"anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn writer_that_was_disposed_of_does_not_come_back_with_the_end_of_its_session() {
    let cluster = FakeCluster::start(1).await;
    let fs = mounted(&cluster).await;
    let (inode, handle) = being_written(&fs).await;
    fs.fsync(handle).await.unwrap();
    let open = fs.inodes.find(inode).unwrap();
    open.writer().unwrap().file_writer().unwrap().abort().await;
    let failed = open.take_failed_writer().expect("nobody knows of it yet");
    end_session(&cluster, &fs, inode).await;
    failed.finish().await.unwrap();
    assert_eq!(fs.write(handle, at_4(b"more")).await.unwrap_err().errno(), Errno::EIO);
}
