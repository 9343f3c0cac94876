//! What becomes of calls, leases and holds that nobody waits for or wants any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::error::ErrorKind;
use dfs_common::ids::InodeId;
use dfs_proto::v1;

use crate::fake_cluster::{FakeCluster, new_file};
use crate::{Caller, CreatedFile, DfsClient};

/// A client that does not wait long for an answer.
async fn impatient(cluster: &FakeCluster) -> DfsClient {
    cluster.client_with(|config| config.retry_timeout = Duration::from_millis(200)).await
}

async fn try_create(client: &DfsClient) -> dfs_common::Result<CreatedFile> {
    client.create(&Caller::root(), new_file(b"file")).await
}

/// Asks again for as long as the client has too little patience for this machine.
async fn insist<T>(call: impl AsyncFn() -> dfs_common::Result<T>) -> T {
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Unavailable), "{error:?}"),
        }
    }
}

/// A file that nobody writes.
async fn closed_file(client: &DfsClient) -> InodeId {
    let file = try_create(client).await.unwrap();
    file.writer.unwrap().complete().await.unwrap();
    file.attr.inode
}

fn is_open(cluster: &FakeCluster, inode: InodeId) -> bool {
    cluster.world.lock().files[&inode.0].is_open
}

async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn set_unanswered(cluster: &FakeCluster, call: &'static str, is_unanswered: bool) {
    let mut world = cluster.world.lock();
    if is_unanswered {
        world.unanswered.insert(call)
    } else {
        world.unanswered.remove(call)
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn append_given_up_at_its_deadline_gives_the_lease_back() {
    let cluster = FakeCluster::start(3).await;
    let inode = closed_file(&cluster.client().await).await;
    let client = impatient(&cluster).await;
    set_unanswered(&cluster, "append", true);
    while cluster.calls("append") == 0 {
        let error = client.append(&Caller::root(), inode, false).await.err().unwrap();
        assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Unavailable), "{error:?}");
    }
    wait_until("the lease is given back", || !is_open(&cluster, inode)).await;
    assert!(!cluster.world.lock().settled.is_empty());
    set_unanswered(&cluster, "append", false);
    insist(async || client.append(&Caller::root(), inode, false).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn append_after_one_given_up_waits_for_its_lease() {
    let cluster = FakeCluster::start(3).await;
    let inode = closed_file(&cluster.client().await).await;
    let client = impatient(&cluster).await;
    set_unanswered(&cluster, "append", true);
    while cluster.calls("append") == 0 {
        assert!(client.append(&Caller::root(), inode, false).await.is_err());
    }
    set_unanswered(&cluster, "append", false);
    // Anything but a refusal.
    insist(async || client.append(&Caller::root(), inode, false).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_dropped_before_their_answers_are_settled() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let inode = closed_file(&client).await;
    for call in ["append", "create"] {
        set_unanswered(&cluster, call, true);
        let before = cluster.calls(call);
        let (again, who) = (client.clone(), Caller::root());
        let waiting = tokio::spawn(async move {
            match call {
                "append" => again.append(&who, inode, true).await.map(drop),
                _ => try_create(&again).await.map(drop),
            }
        });
        wait_until("the call was made", || cluster.calls(call) > before).await;
        waiting.abort();
        wait_until("every lease is given back", || cluster.world.lock().files.values().all(|file| !file.is_open)).await;
    }
    assert_eq!(cluster.world.lock().settled.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_that_nobody_keeps_give_their_files_back() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let made = try_create(&client).await.unwrap();
    let inode = made.attr.inode;
    drop(made);
    wait_until("the new file is given back", || !is_open(&cluster, inode)).await;
    drop(client.append(&Caller::root(), inode, false).await.unwrap());
    wait_until("the old file is given back", || !is_open(&cluster, inode)).await;
    // The right one: whoever has taken the file since keeps it.
    let writer = client.append(&Caller::root(), inode, false).await.unwrap();
    writer.complete().await.unwrap();
    drop(writer);
    let later = client.append(&Caller::root(), inode, false).await.unwrap();
    assert!(is_open(&cluster, inode));
    drop(later);
    wait_until("the file is given back again", || !is_open(&cluster, inode)).await;
    assert!(cluster.world.lock().settled.is_empty(), "every call was answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn hold_ends_with_its_owner_also_when_the_namenode_is_away() {
    let cluster = FakeCluster::start(3).await;
    let client = impatient(&cluster).await;
    let held = insist(async || client.hold(&Caller::root(), InodeId(7)).await).await;
    cluster.world.lock().unavailable_answers = 3;
    drop(held);
    wait_until("the hold has ended", || cluster.world.lock().holds.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn session_whose_opening_goes_unanswered_is_opened_once() {
    let cluster = FakeCluster::start(3).await;
    let client = impatient(&cluster).await;
    set_unanswered(&cluster, "open_session", true);
    while cluster.calls("open_session") < 2 {
        assert!(try_create(&client).await.is_err());
    }
    set_unanswered(&cluster, "open_session", false);
    insist(async || try_create(&client).await).await;
    assert_eq!(cluster.world.lock().incarnation, 1);
    cluster.world.lock().is_session_dead = true;
    insist(async || try_create(&client).await).await;
    assert_eq!(cluster.world.lock().incarnation, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn call_without_room_for_its_outcome_goes_on_when_an_earlier_one_is_answered() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client_with(|config| {
        config.metadata_deadline = Duration::from_millis(100);
        config.retry_timeout = Duration::from_secs(30);
    });
    let client = client.await;
    closed_file(&client).await;
    cluster.world.lock().outcomes_max = Some(2);
    set_unanswered(&cluster, "create", true);
    let before = cluster.calls("create");
    let first = tokio::spawn({
        let client = client.clone();
        async move { try_create(&client).await }
    });
    wait_until("the first call was made", || cluster.calls("create") > before).await;
    let _held = client.hold(&Caller::root(), InodeId(7)).await.unwrap();
    let before = cluster.calls("hold");
    let third = tokio::spawn({
        let client = client.clone();
        async move { client.hold(&Caller::root(), InodeId(8)).await }
    });
    wait_until("the third call was refused", || cluster.calls("hold") > before).await;
    set_unanswered(&cluster, "create", false);
    first.await.unwrap().unwrap();
    third.await.unwrap().expect("no other call comes after it");
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_dropped_half_way_gives_the_lease_back() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let made = try_create(&client).await.unwrap();
    let writer = made.writer.unwrap();
    cluster.world.lock().unavailable_answers = usize::MAX;
    let aborting = tokio::spawn({
        let writer = Arc::clone(&writer);
        async move { writer.abort().await }
    });
    wait_until("the NameNode was asked", || cluster.calls("complete") > 0).await;
    aborting.abort();
    assert!(aborting.await.unwrap_err().is_cancelled());
    cluster.world.lock().unavailable_answers = 0;
    wait_until("the lease is given back", || !is_open(&cluster, made.attr.inode)).await;
    assert!(writer.has_failed(), "somebody has it still");
}

#[tokio::test(flavor = "multi_thread")]
async fn next_session_is_told_of_calls_that_are_still_tried() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client_with(|config| config.metadata_deadline = Duration::from_secs(60)).await;
    closed_file(&client).await;
    set_unanswered(&cluster, "create", true);
    let before = cluster.calls("create");
    let again = client.clone();
    let tried = tokio::spawn(async move { try_create(&again).await });
    wait_until("the call was made", || cluster.calls("create") > before).await;
    let made = *cluster.world.lock().seen_call_ids.iter().max().unwrap();
    cluster.world.lock().is_session_dead = true;
    client.hold(&Caller::root(), InodeId(7)).await.unwrap();
    assert_eq!(cluster.calls("open_session"), 2);
    let awaited = cluster.world.lock().awaited.clone();
    assert_eq!(awaited, [v1::AwaitedLife { incarnation: 1, lowest_pending_call_id: made }]);
    tried.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn unanswered_call_of_a_forgotten_session_is_not_repeated() {
    let cluster = FakeCluster::start(3).await;
    let client = Arc::new(cluster.client_with(|config| config.metadata_deadline = Duration::from_millis(100)).await);
    closed_file(&client).await;
    set_unanswered(&cluster, "create", true);
    let again = Arc::clone(&client);
    let before = cluster.calls("create");
    let tried = tokio::spawn(async move { try_create(&again).await });
    wait_until("the call was made", || cluster.calls("create") > before).await;
    {
        let mut world = cluster.world.lock();
        world.is_session_dead = true;
        world.has_forgotten = true;
    }
    set_unanswered(&cluster, "create", false);
    assert_eq!(tried.await.unwrap().err().unwrap().kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(cluster.world.lock().incarnation, 1, "it may have been made, so it is not made again");
    // One that was never tried before was not made: it is, in a new session.
    cluster.world.lock().is_session_dead = true;
    try_create(&client).await.unwrap();
}
