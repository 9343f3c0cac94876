//! Nodes that fail while they are written to: the pipeline is rebuilt, or the write fails and says why.

use std::time::Duration;

use dfs_common::error::ErrorKind;

use super::{BLOCK, bytes, caller, create, hsync, read_all, write_file};
use crate::fake_cluster::{FakeCluster, Fault};

#[tokio::test(flavor = "multi_thread")]
async fn append_goes_on_without_a_node_that_refuses() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let data = bytes(3000);
    let inode = write_file(&client, &data[..700]).await;
    cluster.set_fault(1, Fault::RefusesSetup);
    let writer = client.append(&caller(), inode, false).await.unwrap();
    writer.write(&data[700..]).await.unwrap();
    writer.complete().await.unwrap();
    assert_eq!(cluster.content(inode.0, 0), data);
    assert_eq!(cluster.content(inode.0, 1), data[..700], "left out");
    assert_eq!(cluster.world.lock().files[&inode.0].blocks.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipeline_that_breaks_is_rebuilt_without_the_node_to_blame() {
    for packets in 1..6 {
        let cluster = FakeCluster::start(3).await;
        let client = cluster.client().await;
        cluster.set_fault(0, Fault::HangsUpAfter(packets));
        let data = bytes(9000);
        let (attr, writer) = create(&client).await;
        writer.write(&data[..2048]).await.unwrap();
        writer.hflush().await.unwrap();
        writer.write(&data[2048..]).await.unwrap();
        hsync(&writer).await.unwrap();
        writer.complete().await.unwrap();
        assert!(cluster.content(attr.inode.0, 1) == data, "after {packets} packets");
        assert_eq!(cluster.calls("abandon_block"), 0);
        assert_eq!(cluster.calls("update_pipeline"), 1, "after {packets} packets");
        let world = cluster.world.lock();
        assert!((1..3).all(|node| {
            world
                .replicas
                .iter()
                .any(|((at, _), replica)| *at == node && replica.is_finalized && replica.synced == data.len())
        }));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replacement_that_is_filled_slowly_joins_the_pipeline() {
    let cluster = FakeCluster::start(4).await;
    cluster.world.lock().spares = 1;
    let client = cluster.client().await;
    cluster.set_fault(0, Fault::HangsUpAfter(1));
    let data = bytes(9000);
    let (attr, writer) = create(&client).await;
    writer.write(&data[..2048]).await.unwrap();
    writer.hflush().await.unwrap();
    writer.write(&data[2048..]).await.unwrap();
    writer.complete().await.unwrap();
    for node in 1..4 {
        assert!(cluster.content(attr.inode.0, node) == data, "node {node}");
    }
}

/// A NameNode that has begun anew has heard of one replica only, and names the holders of the others to be filled.
#[tokio::test(flavor = "multi_thread")]
async fn replacement_that_has_the_block_already_joins_the_pipeline() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let data = bytes(3000);
    let inode = write_file(&client, &data[..700]).await;
    {
        let mut world = cluster.world.lock();
        (world.unreported, world.spares) = ([1, 2].into(), 2);
    }
    let writer = client.append(&caller(), inode, false).await.unwrap();
    writer.write(&data[700..]).await.unwrap();
    writer.complete().await.unwrap();
    for node in 0..3 {
        assert!(cluster.content(inode.0, node) == data, "node {node}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn append_to_a_node_that_refuses_goes_on_in_a_new_block() {
    let cluster = FakeCluster::start(4).await;
    let client = cluster.client().await;
    let data = bytes(3000);
    let inode = write_file(&client, &data[..700]).await;
    cluster.world.lock().unreported = [1, 2].into();
    cluster.set_fault(0, Fault::RefusesSetup);
    let writer = client.append(&caller(), inode, false).await.unwrap();
    writer.write(&data[700..]).await.unwrap();
    writer.complete().await.unwrap();
    assert_eq!(read_all(&client, inode).await, data);
    let blocks = cluster.world.lock().files[&inode.0].blocks.clone();
    assert_eq!(blocks.iter().map(|block| block.length).collect::<Vec<_>>(), [700, 2300]);
}

/// A node that is not heard any more may have the block by its new stamp: no replica would count if it was closed by the old one.
#[tokio::test(flavor = "multi_thread")]
async fn append_that_may_have_begun_on_a_lost_node_leaves_the_block_to_recovery() {
    for fault in [Fault::Silent, Fault::HangsUp] {
        let cluster = FakeCluster::start(4).await;
        let client = cluster.client_with(|config| config.ack_timeout = Duration::from_millis(200)).await;
        let data = bytes(3000);
        let inode = write_file(&client, &data[..700]).await;
        let completed = cluster.calls("complete");
        (0..3).for_each(|node| cluster.set_fault(node, fault));
        let writer = client.append(&caller(), inode, false).await.unwrap();
        let outcome = async {
            writer.write(&data[700..]).await?;
            writer.hflush().await
        };
        outcome.await.unwrap_err();
        writer.abort().await;
        assert_eq!((cluster.calls("recover_lease"), cluster.calls("complete")), (1, completed), "{fault:?}");
        let blocks = cluster.world.lock().files[&inode.0].blocks.clone();
        assert_eq!(blocks.iter().map(|block| block.length).collect::<Vec<_>>(), [700], "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_fails_at_setup_is_replaced() {
    for fault in [Fault::RefusesSetup, Fault::HangsUp, Fault::HangsUpAfter(0)] {
        // Later nodes fail only in what the first one tells of them.
        let nodes = if fault == Fault::RefusesSetup { 0..3 } else { 0..1 };
        for node in nodes {
            let cluster = FakeCluster::start(4).await;
            let client = cluster.client().await;
            cluster.set_fault(node, fault);
            let data = bytes(BLOCK + 5000);
            let inode = write_file(&client, &data).await;
            // On three other nodes, or, when the failure came after the set-up was answered, on the two that were left.
            let whole = (0..4).filter(|other| cluster.content(inode.0, *other) == data).count();
            assert!(whole >= 2, "{fault:?} of node {node}: {whole} whole copies");
            assert!(cluster.content(inode.0, node) != data, "not used again");
            assert!(
                cluster.calls("abandon_block") <= 1,
                "{fault:?} of node {node}: {} blocks given up",
                cluster.calls("abandon_block")
            );
            assert_eq!(read_all(&client, inode).await, data, "{fault:?} of node {node}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_pipeline_without_acks_is_replaced() {
    let cluster = FakeCluster::start(4).await;
    let client = cluster.client_with(|config| config.ack_timeout = Duration::from_millis(200)).await;
    cluster.set_fault(0, Fault::Silent);
    let data = bytes(5000);
    let (attr, writer) = create(&client).await;
    writer.write(&data).await.unwrap();
    hsync(&writer).await.unwrap();
    writer.complete().await.unwrap();
    assert_eq!(cluster.content(attr.inode.0, 3), data);
    assert!(cluster.world.lock().replicas.values().all(|replica| replica.synced == replica.data.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_of_the_last_node_sticks_and_names_it() {
    let cluster = FakeCluster::start(1).await;
    let client = cluster.client().await;
    cluster.set_fault(0, Fault::HangsUpAfter(1));
    let (_, writer) = create(&client).await;
    writer.write(b"one").await.unwrap();
    writer.hflush().await.unwrap();
    writer.write(b"two").await.unwrap();
    let first = writer.hflush().await.unwrap_err();
    let address = format!("127.0.0.1:{}", cluster.world.lock().nodes[0].data_port);
    assert!(first.kind() == ErrorKind::Io && first.message().contains(&address), "{first:?}");
    for again in [writer.write(b"x").await.unwrap_err(), writer.complete().await.unwrap_err()] {
        assert_eq!((again.kind(), again.message()), (first.kind(), first.message()));
    }
    assert_eq!((writer.position(), writer.acked_len()), (6, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_node_left_tells_why() {
    let cluster = FakeCluster::start(2).await;
    let client = cluster.client_with(|config| config.absence_timeout = Duration::from_millis(500)).await;
    cluster.set_faults(Fault::RefusesSetup);
    let (_, writer) = create(&client).await;
    writer.write(b"words").await.unwrap();
    let error = writer.hflush().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    assert!(error.message().contains("refused") && error.message().contains("no other DataNode"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn write_waits_for_the_only_nodes_when_they_fail() {
    let cluster = FakeCluster::start(2).await;
    let client = cluster.client().await;
    cluster.set_faults(Fault::RefusesSetup);
    let data = bytes(5000);
    let (attr, writer) = create(&client).await;
    writer.write(&data).await.unwrap();
    let heal = async {
        while cluster.calls("abandon_block") < 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        cluster.set_fault(1, Fault::None);
    };
    let (closed, ()) = tokio::join!(writer.complete(), heal);
    closed.unwrap();
    assert_eq!(cluster.content(attr.inode.0, 1), data);
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_closed_in_the_pool_is_replaced_silently() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    cluster.set_faults(Fault::ClosesAfterOperation);
    for _ in 0..5 {
        let inode = write_file(&client, &bytes(3000)).await;
        assert_eq!(read_all(&client, inode).await, bytes(3000));
    }
    assert_eq!(cluster.calls("abandon_block"), 0);
}
