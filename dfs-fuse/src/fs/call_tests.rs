//! What the calls of the kernel cost in calls to the NameNode: a whole file system against a cluster in this process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_client::{Caller, SyncLevel};
use dfs_common::ids::{InodeId, ROOT_INODE};
use fuser::{Errno, OpenFlags};

use super::{FileSystem, FsOptions};
use crate::cache::tests::attr;
use crate::dirs::PAGE_AGE_MAX;
use crate::fake_cluster::{FakeCluster, new_file};
use crate::handles::HandleId;

/// Entries with attributes that fit into the buffer of 32 KiB that glibc reads a directory by.
const BUFFER: usize = 190;
/// Directories of the fake cluster: their files are numbered from here on.
const HERE: InodeId = InodeId(100_000);
const ELSEWHERE: InodeId = InodeId(200_000);

pub(super) fn who() -> Caller {
    Caller::root()
}

pub(super) async fn mounted(cluster: &FakeCluster) -> Arc<FileSystem> {
    let second = Duration::from_secs(1);
    let options =
        FsOptions { attr_ttl: second, entry_ttl: second, sync: SyncLevel::Hsync, replication: 0, block_size: 0 };
    let fs = FileSystem::new(cluster.client().await, options).await.unwrap();
    cluster.take_calls();
    fs
}

pub(super) async fn write_file(cluster: &FakeCluster, bytes: &[u8]) -> InodeId {
    let client = cluster.client().await;
    let made = client.create(&who(), new_file(b"file")).await.unwrap();
    let writer = made.writer.unwrap();
    writer.write(bytes).await.unwrap();
    writer.complete().await.unwrap();
    made.attr.inode
}

/// As the kernel lists a directory: one buffer from `offset` on, and where the next one begins; none at the end.
async fn list_buffer(fs: &FileSystem, handle: HandleId, offset: u64) -> Option<u64> {
    let listed = fs.readdir(handle, offset, true).await.unwrap();
    listed.entries().take(BUFFER).last().map(|entry| entry.cookie)
}

#[tokio::test(flavor = "multi_thread")]
async fn open_for_reading_costs_one_call_and_reading_a_small_file_none() {
    let cluster = FakeCluster::start(1).await;
    let inode = write_file(&cluster, &[7; 3000]).await;
    let fs = mounted(&cluster).await;
    for is_first in [true, false] {
        let opened = fs.open(&who(), inode, OpenFlags(libc::O_RDONLY)).await.unwrap();
        assert_eq!(opened.keep_pages, !is_first, "the attributes that came with the answer are judged");
        let handle = opened.hand_over();
        let read = fs.read(handle, 0, 4096).await.unwrap();
        assert!(read.bytes == [7; 3000][..] && !read.fetches_ahead);
        fs.flush(handle).await.unwrap();
        fs.release(handle).await;
        assert_eq!(cluster.take_calls(), [("get_block_locations", 1)]);
    }
}

/// The kernel drops pages when the answer reaches the program that opens, and the next open may overtake that.
#[tokio::test(flavor = "multi_thread")]
async fn open_lets_the_kernel_keep_pages_once_it_has_dropped_older_ones() {
    let cluster = FakeCluster::start(1).await;
    let inode = write_file(&cluster, &[7; 3000]).await;
    let fs = mounted(&cluster).await;
    let open = async || fs.open(&who(), inode, OpenFlags(libc::O_RDONLY)).await.unwrap();
    let first = open().await.hand_over();
    let second = open().await;
    assert!(!second.keep_pages, "the first one may still have to drop them");
    drop(second);
    fs.read(first, 0, 4096).await.unwrap();
    assert!(open().await.keep_pages);
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_of_the_root_that_were_heard_long_ago_are_not_to_be_believed_for_long() {
    let cluster = FakeCluster::start(0).await;
    let fs = mounted(&cluster).await;
    assert!(fs.getattr(&who(), ROOT_INODE).await.unwrap().attr_ttl > Duration::ZERO);
    cluster.world.lock().unanswered.insert("get_file_info");
    fs.root.lock().1 -= Duration::from_secs(1);
    assert_eq!(fs.getattr(&who(), ROOT_INODE).await.unwrap().attr_ttl, Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_of_a_file_that_is_gone_costs_one_call() {
    let cluster = FakeCluster::start(1).await;
    let fs = mounted(&cluster).await;
    let refused = fs.open(&who(), InodeId(12_345), OpenFlags(libc::O_RDONLY)).await.err().unwrap();
    assert_eq!(refused.errno(), Errno::ESTALE);
    assert_eq!(cluster.take_calls(), [("get_block_locations", 1)]);
}

/// The unlink may have looked before the open began, and the name gone before it ended.
#[tokio::test(flavor = "multi_thread")]
async fn open_costs_a_hold_while_a_name_is_going() {
    let cluster = FakeCluster::start(1).await;
    let inode = write_file(&cluster, &[7; 3000]).await;
    let fs = mounted(&cluster).await;
    cluster.world.lock().held_back.insert("unlink");
    let unlinking = {
        let fs = Arc::clone(&fs);
        tokio::spawn(async move { fs.unlink(&who(), ROOT_INODE, b"another").await })
    };
    while cluster.calls("unlink") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDONLY | libc::O_TRUNC] {
        cluster.take_calls();
        let opened = fs.open(&who(), inode, OpenFlags(flags)).await.unwrap();
        assert!(cluster.world.lock().holds.contains_key(&inode.0), "{flags:x}");
        assert_eq!(cluster.calls("hold"), 1);
        drop(opened);
        while !fs.inodes.is_empty() || !cluster.world.lock().holds.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    cluster.world.lock().held_back.clear();
    unlinking.await.unwrap().unwrap();
    cluster.take_calls();
    let _opened = fs.open(&who(), inode, OpenFlags(libc::O_RDONLY)).await.unwrap();
    assert_eq!(cluster.take_calls(), [("get_block_locations", 1)]);
}

/// Lists a directory from its start to its end.
async fn list(fs: &FileSystem, directory: InodeId) -> u64 {
    let handle = fs.opendir(who(), directory).unwrap();
    let mut offset = 0;
    while let Some(next) = list_buffer(fs, handle, offset).await {
        offset = next;
    }
    offset
}

/// Does it in less time than pages are kept for.
async fn in_time<T>(listing: impl AsyncFn() -> T) -> T {
    for _ in 0..10 {
        let begun = Instant::now();
        let outcome = listing().await;
        if begun.elapsed() < PAGE_AGE_MAX {
            return outcome;
        }
    }
    panic!("this machine takes longer than {PAGE_AGE_MAX:?} for a few calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn readdir_lists_most_directories_by_one_call_and_large_ones_by_a_thousand() {
    let cluster = FakeCluster::start(0).await;
    let fs = mounted(&cluster).await;
    let cases: [(u64, &[u32]); 4] =
        [(1, &[256]), (256, &[256]), (257, &[256, 1_000]), (2_500, &[256, 1_000, 1_000, 1_000])];
    for (count, expected) in cases {
        cluster.world.lock().directories.insert(HERE.0, count);
        let (last, asked) = in_time(async || {
            cluster.world.lock().listings_asked.clear();
            let last = list(&fs, HERE).await;
            (last, cluster.world.lock().listings_asked.clone())
        })
        .await;
        assert_eq!(last, count + 2, "all were listed");
        assert_eq!(asked, expected, "{count} entries");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_is_read_on_by_who_was_allowed_to_begin() {
    let cluster = FakeCluster::start(0).await;
    cluster.world.lock().directories.insert(HERE.0, 600);
    let fs = mounted(&cluster).await;
    let handle = fs.opendir(who(), HERE).unwrap();
    fs.readdir(handle, 0, true).await.unwrap();
    cluster.world.lock().refused.insert("get_listing");
    fs.readdir(handle, 258, true).await.unwrap();
    let another = fs.opendir(who(), HERE).unwrap();
    assert_eq!(fs.readdir(another, 0, true).await.err().unwrap().errno(), Errno::EACCES);
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_fetched_ahead_is_kept_while_other_directories_change() {
    let cluster = FakeCluster::start(0).await;
    cluster.world.lock().directories.extend([(HERE.0, 250), (ELSEWHERE.0, 250)]);
    let fs = mounted(&cluster).await;
    for (changed, expected) in [(ELSEWHERE, vec![]), (HERE, vec![("get_listing", 1)])] {
        let calls = in_time(async || {
            let handle = fs.opendir(who(), HERE).unwrap();
            let offset = list_buffer(&fs, handle, 0).await.unwrap();
            fs.unlink(&who(), changed, b"file-1").await.unwrap();
            cluster.take_calls();
            list_buffer(&fs, handle, offset).await.unwrap();
            cluster.take_calls()
        });
        assert_eq!(calls.await, expected, "after a change of {changed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_all_that_was_listed_costs_one_listing() {
    let cluster = FakeCluster::start(0).await;
    cluster.world.lock().directories.insert(HERE.0, 20);
    let fs = mounted(&cluster).await;
    let calls = in_time(async || {
        cluster.take_calls();
        let handle = fs.opendir(who(), HERE).unwrap();
        let end = list_buffer(&fs, handle, 0).await.unwrap();
        for number in 1..=20 {
            fs.unlink(&who(), HERE, format!("file-{number}").as_bytes()).await.unwrap();
        }
        assert_eq!(list_buffer(&fs, handle, end).await, None);
        cluster.take_calls()
    });
    let without_session = calls.await.into_iter().filter(|(call, _)| *call != "open_session");
    assert_eq!(without_session.collect::<Vec<_>>(), [("get_listing", 1), ("unlink", 20)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_asks_once_for_a_file_that_the_kernel_knows_as_longer() {
    let cluster = FakeCluster::start(0).await;
    let longer = InodeId(HERE.0 + 200);
    {
        let mut world = cluster.world.lock();
        world.directories.insert(HERE.0, 250);
        world.files.entry(longer.0).or_default();
    }
    let fs = mounted(&cluster).await;
    let asked = in_time(async || {
        cluster.take_calls();
        fs.seen.told(&attr(longer.0, 20, 1), false, Some(5));
        let handle = fs.opendir(who(), HERE).unwrap();
        for offset in [0, 12, 22, 32] {
            fs.readdir(handle, offset, true).await.unwrap();
        }
        cluster.calls("get_file_info")
    });
    assert_eq!(asked.await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_that_was_under_way_when_its_directory_changed_is_not_kept() {
    let cluster = FakeCluster::start(0).await;
    cluster.world.lock().directories.insert(HERE.0, 250);
    let fs = mounted(&cluster).await;
    let handle = fs.opendir(who(), HERE).unwrap();
    cluster.world.lock().held_back.insert("get_listing");
    let listing = {
        let fs = Arc::clone(&fs);
        tokio::spawn(async move { list_buffer(&fs, handle, 0).await })
    };
    while cluster.calls("get_listing") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fs.unlink(&who(), HERE, b"file-1").await.unwrap();
    cluster.world.lock().held_back.clear();
    let offset = listing.await.unwrap().unwrap();
    cluster.take_calls();
    list_buffer(&fs, handle, offset).await.unwrap();
    assert_eq!(cluster.take_calls(), [("get_listing", 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_fetched_ahead_goes_though_its_handle_stays_open() {
    let cluster = FakeCluster::start(0).await;
    cluster.world.lock().directories.insert(HERE.0, 250);
    let fs = mounted(&cluster).await;
    let handle = fs.opendir(who(), HERE).unwrap();
    list_buffer(&fs, handle, 0).await.unwrap();
    let dir = fs.handles.dir(handle).unwrap();
    while dir.pages.lock().has_page() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
