//! What fsync and writes that go through to the disks promise.

use std::sync::Arc;
use std::time::Duration;

use dfs_common::error::ErrorKind;

use super::{BLOCK, bytes, caller, create, hsync, write_file};
use crate::SyncLevel;
use crate::fake_cluster::{FakeCluster, FakeReplica, Fault};

#[tokio::test(flavor = "multi_thread")]
async fn hsync_reaches_every_block_and_records_each_once() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let (attr, writer) = create(&client).await;
    writer.write(&bytes(2 * BLOCK + 100)).await.unwrap();
    hsync(&writer).await.unwrap();
    assert_eq!(cluster.calls("sync_replica"), 3, "all nodes of the finished blocks");
    assert_eq!(cluster.calls("fsync"), 1);
    for _ in 0..5 {
        writer.write(&bytes(10)).await.unwrap();
        hsync(&writer).await.unwrap();
    }
    assert_eq!((cluster.calls("sync_replica"), cluster.calls("fsync")), (3, 1), "the replicas know the rest");
    let world = cluster.world.lock();
    assert!(world.replicas.values().all(|replica| replica.synced == replica.data.len()));
    assert_eq!(world.files[&attr.inode.0].blocks.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn hsync_after_hflush_sends_an_empty_sync_packet() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let (_, writer) = create(&client).await;
    writer.write(b"words").await.unwrap();
    writer.hflush().await.unwrap();
    assert!(cluster.world.lock().replicas.values().all(|replica| replica.synced == 0));
    hsync(&writer).await.unwrap();
    assert!(cluster.world.lock().replicas.values().all(|replica| replica.synced == 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn sync_file_reaches_every_block_of_a_closed_file() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let inode = write_file(&client, &bytes(3 * BLOCK + 5)).await;
    assert!(cluster.world.lock().replicas.values().all(|replica| replica.synced == 0));
    client.sync_file(&caller(), inode).await.unwrap();
    assert!(cluster.world.lock().replicas.values().all(|replica| replica.synced == replica.data.len()));
}

/// Another client has opened it and not written yet: there is a block, and no node has anything of it.
#[tokio::test(flavor = "multi_thread")]
async fn sync_file_does_not_wait_for_a_block_that_was_not_begun() {
    let cluster = FakeCluster::start(3).await;
    cluster.world.lock().allocates_at_creation = true;
    let (writing, syncing) = (cluster.client().await, cluster.client().await);
    let (attr, writer) = create(&writing).await;
    let who = caller();
    let sync = || tokio::time::timeout(Duration::from_secs(30), syncing.sync_file(&who, attr.inode));
    sync().await.expect("at once").unwrap();
    writer.write(b"words").await.unwrap();
    writer.hflush().await.unwrap();
    sync().await.expect("at once").unwrap();
    assert!(cluster.world.lock().replicas.values().all(|replica| replica.synced == 5));
}

/// A node whose disk fails must sync later, or its replica must not count any more, before a sync is over.
#[tokio::test(flavor = "multi_thread")]
async fn sync_of_finished_blocks_waits_for_every_node_that_counts() {
    let is_synced = |cluster: &FakeCluster, at: usize| {
        let world = cluster.world.lock();
        world.replicas.iter().filter(|((node, _), _)| *node == at).all(|(_, replica)| replica.synced > 0)
    };
    for (writes, recovers, fault) in [
        (true, true, Fault::FailsSync),
        (true, false, Fault::FailsSync),
        (true, false, Fault::HangsInSync),
        (false, true, Fault::FailsSync),
        (false, false, Fault::FailsSync),
    ] {
        let cluster = FakeCluster::start(3).await;
        let client = cluster.client().await;
        let (attr, writer) = create(&client).await;
        writer.write(&bytes(2 * BLOCK + 5)).await.unwrap();
        if !writes {
            writer.complete().await.unwrap();
        }
        cluster.set_fault(1, fault);
        let syncing = tokio::spawn({
            let (client, writer) = (client.clone(), Arc::clone(&writer));
            async move { if writes { hsync(&writer).await } else { client.sync_file(&caller(), attr.inode).await } }
        });
        // Who fails is asked again, and where the blocks are, too; the others are asked once.
        let looked = cluster.calls("get_block_locations");
        while cluster.calls("get_block_locations") < looked + 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(!syncing.is_finished() && is_synced(&cluster, 0) && is_synced(&cluster, 2));
        if recovers {
            cluster.set_fault(1, Fault::None);
        } else {
            cluster.world.lock().replicas.retain(|(node, _), _| *node != 1);
        }
        syncing.await.unwrap().unwrap();
        assert!(is_synced(&cluster, 1), "on the disk of every node that counts");
        let calls = cluster.calls("sync_replica");
        assert!(if fault == Fault::HangsInSync { calls == 3 } else { calls >= 4 }, "{calls} calls");
    }
}

/// As if the NameNode had just started and had not heard some of the nodes.
fn hide_finished(cluster: &FakeCluster, nodes: &[usize]) -> Vec<((usize, u64), FakeReplica)> {
    let mut world = cluster.world.lock();
    let is_hidden = |(node, _): &(usize, u64), replica: &mut FakeReplica| replica.is_finalized && nodes.contains(node);
    let hidden: Vec<_> = world.replicas.extract_if(is_hidden).collect();
    world.awaits_reports = true;
    hidden
}

#[tokio::test(flavor = "multi_thread")]
async fn sync_of_finished_blocks_waits_for_nodes_that_the_namenode_has_not_heard_yet() {
    for writes in [true, false] {
        let cluster = FakeCluster::start(3).await;
        let client = cluster.client().await;
        let (attr, writer) = create(&client).await;
        writer.write(&bytes(2 * BLOCK + 5)).await.unwrap();
        if !writes {
            writer.complete().await.unwrap();
        }
        let hidden = hide_finished(&cluster, &[1, 2]);
        // So that the writer asks where its blocks are.
        cluster.set_fault(0, Fault::FailsSync);
        let syncing = tokio::spawn({
            let (client, writer) = (client.clone(), Arc::clone(&writer));
            async move { if writes { hsync(&writer).await } else { client.sync_file(&caller(), attr.inode).await } }
        });
        let wait_looks = async |count| {
            let looked = cluster.calls("get_block_locations");
            while cluster.calls("get_block_locations") < looked + count {
                assert!(!syncing.is_finished(), "one of three nodes is known");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        wait_looks(2).await;
        cluster.set_fault(0, Fault::None);
        wait_looks(4).await;
        {
            let mut world = cluster.world.lock();
            world.replicas.extend(hidden);
            world.awaits_reports = false;
        }
        syncing.await.unwrap().unwrap();
        let world = cluster.world.lock();
        assert!(world.replicas.values().all(|replica| replica.synced > 0), "on the disk of every node");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sync_of_finished_blocks_waits_for_disks_longer_than_for_absent_nodes() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client_with(|config| config.retry_timeout = Duration::from_millis(200)).await;
    let (_, writer) = create(&client).await;
    writer.write(&bytes(2 * BLOCK + 5)).await.unwrap();
    cluster.set_faults(Fault::HangsInSync);
    let syncing = tokio::spawn({
        let writer = Arc::clone(&writer);
        async move { hsync(&writer).await }
    });
    // It looks whether the nodes still count: by then that patience has ended.
    while cluster.calls("get_block_locations") == 0 {
        assert!(!syncing.is_finished(), "all nodes are at work");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    cluster.set_faults(Fault::None);
    syncing.await.unwrap().unwrap();
    assert!(cluster.world.lock().replicas.values().all(|replica| replica.synced > 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sync_of_finished_blocks_that_fails_leaves_the_writer_as_it_is() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client_with(|config| config.retry_timeout = Duration::from_millis(200)).await;
    let (attr, writer) = create(&client).await;
    writer.write(&bytes(2 * BLOCK + 5)).await.unwrap();
    cluster.set_faults(Fault::FailsSync);
    assert_eq!(hsync(&writer).await.unwrap_err().kind(), ErrorKind::Io);
    writer.write(&bytes(100)).await.unwrap();
    cluster.set_faults(Fault::None);
    hsync(&writer).await.unwrap();
    assert!(cluster.world.lock().replicas.values().all(|replica| replica.synced == replica.data.len()));
    writer.complete().await.unwrap();
    assert_eq!(cluster.content(attr.inode.0, 1).len(), 2 * BLOCK + 105);
}

#[tokio::test(flavor = "multi_thread")]
async fn write_through_returns_when_every_byte_is_on_disk() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let (attr, writer) = create(&client).await;
    let data = bytes(2 * BLOCK);
    let mut at = 0;
    // Within a block, over its end, and in the next one.
    for len in [10, 1, BLOCK + 5, 700] {
        writer.write_through(&data[at..at + len], SyncLevel::Hsync).await.unwrap();
        at += len;
        assert_eq!(writer.acked_len(), at as u64);
        let world = cluster.world.lock();
        assert!(world.replicas.values().all(|replica| replica.synced == replica.data.len()), "{at} bytes");
    }
    writer.write_through(&data[at..], SyncLevel::Hflush).await.unwrap();
    assert_eq!(writer.acked_len(), data.len() as u64, "all nodes have it");
    assert_eq!(cluster.content(attr.inode.0, 1), data);
    assert!(cluster.world.lock().replicas.values().any(|replica| replica.synced < replica.data.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn write_through_that_fails_ends_the_writer() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client_with(|config| config.retry_timeout = Duration::from_millis(200)).await;
    let (_, writer) = create(&client).await;
    cluster.set_faults(Fault::FailsSync);
    assert_eq!(writer.write_through(&bytes(BLOCK + 1), SyncLevel::Hsync).await.unwrap_err().kind(), ErrorKind::Io);
    cluster.set_faults(Fault::None);
    assert_eq!(writer.write(b"the same again").await.unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(writer.position(), BLOCK as u64 + 1);
}
