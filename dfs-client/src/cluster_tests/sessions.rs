//! Sessions that end, writers that are given up, calls that are made again.

use std::time::Duration;

use dfs_common::error::ErrorKind;
use dfs_common::ids::InodeId;

use super::{BLOCK, bytes, create, write_file};
use crate::Turn;
use crate::client::HANDOVER;
use crate::client_core::QUESTIONS_MAX;
use crate::fake_cluster::{FakeCluster, Fault};
use crate::write::Chore;

#[tokio::test(flavor = "multi_thread")]
async fn dead_session_fails_its_writers_and_later_calls_open_a_new_one() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let (_, writer) = create(&client).await;
    writer.write(b"words").await.unwrap();
    cluster.world.lock().is_session_dead = true;
    let error = writer.hflush().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);
    assert_eq!(writer.complete().await.unwrap_err().kind(), ErrorKind::LeaseLost);
    // Somebody else may have the file by now.
    writer.abort().await;
    let asked = ["recover_lease", "abandon_block", "complete"].map(|call| cluster.calls(call));
    assert_eq!(asked, [0; 3]);
    write_file(&client, b"later").await;
    assert_eq!(cluster.calls("open_session"), 2);
}

/// A pipeline that was silent for long is closed by its nodes, and the heartbeat finds out.
#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_that_fails_in_a_dead_session_tells_that_the_lease_is_lost() {
    let cluster = FakeCluster::start(3).await;
    cluster.set_fault(0, Fault::HangsUpAfter(1));
    let client = cluster.client().await;
    let (_, writer) = create(&client).await;
    writer.write(b"words").await.unwrap();
    writer.hflush().await.unwrap();
    assert!(writer.lost_lease().is_none());
    cluster.world.lock().is_session_dead = true;
    let begun = std::time::Instant::now();
    while !writer.has_failed() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the pipeline is closed");
        writer.do_chore(Chore::Heartbeat).await;
    }
    assert_eq!(writer.failure().unwrap().kind(), ErrorKind::LeaseLost);
    assert!(writer.lost_lease().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn lease_that_was_taken_from_its_writer_is_lost_though_the_session_lives() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let (attr, writer) = create(&client).await;
    cluster.world.lock().revoked.insert(attr.inode.0);
    assert!(writer.lost_lease().is_none(), "nobody has said so");
    writer.complete().await.unwrap_err();
    assert!(writer.lost_lease().is_some());
    write_file(&client, b"other").await;
    assert_eq!(cluster.calls("open_session"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_closes_the_file_without_what_was_not_acknowledged() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let (attr, writer) = create(&client).await;
    writer.write(&bytes(BLOCK)).await.unwrap();
    writer.hflush().await.unwrap();
    writer.write(&bytes(1)).await.unwrap();
    writer.abort().await;
    assert_eq!(writer.write(b"x").await.unwrap_err().kind(), ErrorKind::Cancelled);
    let world = cluster.world.lock();
    assert!(!world.files[&attr.inode.0].is_open);
    assert_eq!(world.files[&attr.inode.0].blocks.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_gives_the_lease_back_once_the_namenode_answers() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client_with(|config| config.retry_timeout = Duration::from_millis(300)).await;
    let (attr, writer) = create(&client).await;
    writer.write(&bytes(BLOCK)).await.unwrap();
    writer.hflush().await.unwrap();
    writer.write(&bytes(1)).await.unwrap();
    cluster.world.lock().unavailable_answers = usize::MAX;
    writer.abort().await;
    drop(writer);
    assert!(cluster.world.lock().files[&attr.inode.0].is_open);
    cluster.world.lock().unavailable_answers = 0;
    let begun = std::time::Instant::now();
    while cluster.world.lock().files[&attr.inode.0].is_open {
        assert!(begun.elapsed() < Duration::from_secs(20), "the lease was not given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_call_keeps_its_call_id() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    cluster.world.lock().unavailable_answers = 2;
    let (_, writer) = create(&client).await;
    assert_eq!(cluster.calls("create"), 3);
    assert_eq!(cluster.world.lock().seen_call_ids.len(), 1);
    cluster.world.lock().unavailable_answers = 3;
    writer.write(b"words").await.unwrap();
    writer.complete().await.unwrap();
    assert_eq!(cluster.calls("add_block"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn soft_client_gives_up_in_time() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client_with(|config| config.retry_timeout = Duration::from_millis(300)).await;
    let (_, writer) = create(&client).await;
    writer.write(b"words").await.unwrap();
    cluster.world.lock().unavailable_answers = usize::MAX;
    let start = std::time::Instant::now();
    assert_eq!(writer.hflush().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(2));
}

/// A NameNode takes only so many calls of a client at once: those that wait must leave room for the others.
#[tokio::test(flavor = "multi_thread")]
async fn many_who_wait_for_files_keep_no_call_from_the_namenode() {
    let cluster = FakeCluster::start(1).await;
    let client = cluster.client().await;
    write_file(&client, b"first").await;
    cluster.world.lock().held_back.insert("await_file");
    let wait = |inode: usize| {
        let mut turn = client.turn(InodeId(50_000 + inode as u64));
        tokio::spawn(async move { turn.comes().await })
    };
    let for_one_file = (0..100).map(|_| wait(0));
    let waiting: Vec<_> = for_one_file.chain((0..QUESTIONS_MAX * 2).map(wait)).collect();
    let begun = std::time::Instant::now();
    while cluster.calls("await_file") < QUESTIONS_MAX {
        assert!(begun.elapsed() < Duration::from_secs(5), "nobody asks");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    write_file(&client, b"second").await;
    assert_eq!(cluster.calls("await_file"), QUESTIONS_MAX, "the others share a question, or wait for a place");
    // Longer than a file is waited for: a NameNode that does not answer has not said that another client has it.
    tokio::time::sleep(HANDOVER + Duration::from_millis(200)).await;
    cluster.world.lock().held_back.clear();
    for turn in futures::future::join_all(waiting).await {
        assert_eq!(turn.unwrap(), Turn::Now);
    }
}
