//! The whole client against a cluster in this process: what is written is read, and faults are met as promised.

use std::sync::Arc;
use std::time::Duration;

use dfs_common::attr::FileAttr;
use dfs_common::error::{ErrorKind, Result};
use dfs_common::ids::{InodeId, ROOT_INODE};
use futures::FutureExt;

use crate::fake_cluster::{FakeCluster, FakeReplica, Fault, new_file};
use crate::{Caller, CreateOptions, DfsClient, FileWriter, Shown, SyncLevel};

const BLOCK: usize = 16_384;

fn caller() -> Caller {
    Caller::root()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

async fn create(client: &DfsClient) -> (FileAttr, Arc<FileWriter>) {
    let created = client.create(&caller(), new_file(b"file")).await.unwrap();
    assert!(created.is_new);
    (created.attr, created.writer.unwrap())
}

/// As an fsync of the mount.
async fn hsync(writer: &FileWriter) -> Result<()> {
    writer.hsync_open_block().await?;
    writer.sync_finished_blocks().await
}

async fn write_file(client: &DfsClient, data: &[u8]) -> InodeId {
    let (attr, writer) = create(client).await;
    writer.write(data).await.unwrap();
    assert_eq!(writer.complete().await.unwrap().length, data.len() as u64);
    attr.inode
}

async fn read_all(client: &DfsClient, inode: InodeId) -> Vec<u8> {
    let reader = client.open_reader(&caller(), inode).await.unwrap();
    reader.read_at(0, usize::MAX >> 1).await.unwrap().to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn write_then_read_files_of_all_sizes() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    for len in [0, 1, 511, 512, 2047, 2048, 2049, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 777] {
        let data = bytes(len);
        let inode = write_file(&client, &data).await;
        assert_eq!(read_all(&client, inode).await, data, "{len} bytes");
        for node in 0..3 {
            assert_eq!(cluster.content(inode.0, node), data, "{len} bytes on node {node}");
        }
    }
    assert_eq!(cluster.calls("open_session"), 1);
    assert_eq!(cluster.calls("abandon_block"), 0);
    client.close().await;
    assert_eq!(cluster.calls("close_session"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn block_made_with_the_file_is_used_for_its_first_bytes() {
    let cluster = FakeCluster::start(3).await;
    cluster.world.lock().allocates_at_creation = true;
    let client = cluster.client().await;
    for (len, more_blocks) in [(0, 0), (1000, 0), (2 * BLOCK + 1, 2)] {
        let before = cluster.calls("add_block");
        let data = bytes(len);
        let inode = write_file(&client, &data).await;
        assert_eq!(read_all(&client, inode).await, data, "{len} bytes");
        assert_eq!(cluster.calls("add_block") - before, more_blocks, "{len} bytes");
        assert_eq!(cluster.world.lock().files[&inode.0].blocks.len(), len.div_ceil(BLOCK), "no empty block stays");
    }
    assert_eq!(cluster.calls("abandon_block"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn block_made_with_the_file_is_replaced_when_its_nodes_fail() {
    let cluster = FakeCluster::start(4).await;
    cluster.world.lock().allocates_at_creation = true;
    cluster.set_fault(1, Fault::RefusesSetup);
    let client = cluster.client().await;
    let data = bytes(1000);
    let inode = write_file(&client, &data).await;
    assert_eq!(read_all(&client, inode).await, data);
    assert_eq!((cluster.calls("abandon_block"), cluster.calls("add_block")), (1, 1));
    // A writer that is given up leaves nothing behind.
    let (attr, writer) = create(&client).await;
    writer.abort().await;
    assert!(cluster.world.lock().files[&attr.inode.0].blocks.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_leave_in_one_message_each_on_one_connection() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    for _ in 0..50 {
        write_file(&client, &bytes(1000)).await;
    }
    let world = cluster.world.lock();
    assert_eq!((world.connections, world.writes_in_pieces), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_any_sizes_with_flushes_give_the_same_bytes() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let data = bytes(3 * BLOCK + 100);
    let (attr, writer) = create(&client).await;
    let mut at = 0;
    for step in (0..).map(|turn: usize| turn * 37 % 1500 + 1) {
        let end = data.len().min(at + step);
        writer.write(&data[at..end]).await.unwrap();
        at = end;
        assert_eq!(writer.position(), at as u64);
        match step % 4 {
            0 => writer.hflush().await.unwrap(),
            1 => hsync(&writer).await.unwrap(),
            2 => writer.record_length().await.unwrap(),
            _ => continue,
        }
        assert_eq!(writer.acked_len(), at as u64);
        if at == data.len() {
            break;
        }
    }
    writer.complete().await.unwrap();
    assert_eq!(cluster.content(attr.inode.0, 2), data);
    assert_eq!(read_all(&client, attr.inode).await, data);
}

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
async fn partial_packet_leaves_without_a_call() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let (_, writer) = create(&client).await;
    writer.write(b"words").await.unwrap();
    assert_eq!(writer.acked_len(), 0);
    let acked = async {
        while writer.acked_len() < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_millis(1500), acked).await.expect("sent in the background");
}

#[tokio::test(flavor = "multi_thread")]
async fn append_extends_the_last_block_in_place() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let data = bytes(BLOCK + 3000);
    let inode = write_file(&client, &data[..700]).await;
    let mut at = 700;
    for step in [1, 323, 1, 5000, 10_000] {
        let writer = client.append(&caller(), inode, false).await.unwrap();
        assert_eq!(writer.position(), at as u64);
        writer.write(&data[at..at + step]).await.unwrap();
        at += step;
        assert_eq!(writer.complete().await.unwrap().length, at as u64);
    }
    let writer = client.append(&caller(), inode, false).await.unwrap();
    writer.write(&data[at..]).await.unwrap();
    writer.complete().await.unwrap();
    assert_eq!(cluster.content(inode.0, 1), data);
    assert_eq!(cluster.world.lock().files[&inode.0].blocks.len(), 2);
    assert_eq!(read_all(&client, inode).await, data);
}

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

#[tokio::test(flavor = "multi_thread")]
async fn append_to_nodes_that_refuse_goes_on_in_a_new_block() {
    let cluster = FakeCluster::start(4).await;
    let client = cluster.client().await;
    let data = bytes(3000);
    let inode = write_file(&client, &data[..700]).await;
    for node in 0..3 {
        cluster.set_fault(node, Fault::RefusesSetup);
    }
    let writer = client.append(&caller(), inode, false).await.unwrap();
    writer.write(&data[700..]).await.unwrap();
    writer.complete().await.unwrap();
    assert_eq!(read_all(&client, inode).await, data);
    let blocks = cluster.world.lock().files[&inode.0].blocks.clone();
    assert_eq!(blocks.iter().map(|block| block.length).collect::<Vec<_>>(), [700, 2300]);
}

#[tokio::test(flavor = "multi_thread")]
async fn append_to_an_open_file_is_busy_and_truncate_empties() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let (attr, writer) = create(&client).await;
    let refused = client.append(&caller(), attr.inode, false).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    writer.write(b"old words").await.unwrap();
    writer.complete().await.unwrap();
    let writer = client.append(&caller(), attr.inode, true).await.unwrap();
    writer.write(b"new").await.unwrap();
    writer.complete().await.unwrap();
    assert_eq!(read_all(&client, attr.inode).await, b"new");
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
async fn open_file_is_read_up_to_what_was_flushed() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let data = bytes(2 * BLOCK);
    let (attr, writer) = create(&client).await;
    let reader = client.open_reader(&caller(), attr.inode).await.unwrap();
    assert_eq!(reader.length(), 0);
    let mut at = 0;
    for step in [100, 1, 4000, BLOCK, 2000] {
        writer.write(&data[at..at + step]).await.unwrap();
        writer.hflush().await.unwrap();
        at += step;
        assert_eq!(reader.refresh_length().await.unwrap(), at as u64);
        assert_eq!(reader.read_at(0, at + 1000).await.unwrap(), data[..at]);
    }
}

/// Replicas may show different lengths for a moment. What was shown stays visible, also when somebody has set the file's
/// times; unless it was cut.
#[tokio::test(flavor = "multi_thread")]
async fn length_of_an_open_file_never_shrinks_unless_it_was_cut() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let (attr, writer) = create(&client).await;
    writer.write(&bytes(5000)).await.unwrap();
    writer.hflush().await.unwrap();
    let set_length = |nodes: &[usize], length| {
        let mut world = cluster.world.lock();
        let replicas = world.replicas.iter_mut().filter(|((node, _), _)| nodes.contains(node));
        replicas.for_each(|(_, replica)| replica.data.truncate(length));
    };
    let reader = client.open_reader(&caller(), attr.inode).await.unwrap();
    assert_eq!(reader.length(), 5000);
    // Those that are asked first lag behind.
    set_length(&[0, 1], 3000);
    assert_eq!(reader.refresh_length().await.unwrap(), 5000);
    let shown = Some(Shown { length: 5000, mtime_ns: 0 });
    cluster.world.lock().mtime_ns = 1;
    assert_eq!(reader.refresh_length().await.unwrap(), 5000);
    let again = client.open_reader_again(&caller(), attr.inode, shown).await.unwrap();
    assert_eq!(again.length(), 5000);
    assert_eq!(reader.read_at(0, 9000).await.unwrap(), bytes(5000));
    cluster.world.lock().mtime_ns = 2;
    set_length(&[2], 2000);
    assert_eq!(reader.refresh_length().await.unwrap(), 3000);
    let again = client.open_reader_again(&caller(), attr.inode, shown).await.unwrap();
    assert_eq!(again.length(), 3000);
}

/// What was shown stays while no replica tells a length, but is not taken for the length of the content that is there now.
#[tokio::test(flavor = "multi_thread")]
async fn length_of_an_open_file_that_no_replica_confirmed_is_asked_again() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let (attr, writer) = create(&client).await;
    writer.write(&bytes(5000)).await.unwrap();
    writer.hflush().await.unwrap();
    let reader = client.open_reader(&caller(), attr.inode).await.unwrap();
    let before = Shown { length: 5000, mtime_ns: 0 };
    assert_eq!(reader.shown(), before);
    cluster.world.lock().mtime_ns = 1;
    cluster.set_faults(Fault::HangsUp);
    assert_eq!(reader.refresh_length().await.unwrap(), 5000);
    let again = client.open_reader_again(&caller(), attr.inode, Some(before)).await.unwrap();
    assert_eq!((reader.shown(), again.shown()), (before, before));
    cluster.set_faults(Fault::None);
    cluster.world.lock().replicas.values_mut().for_each(|replica| replica.data.truncate(3000));
    let after = Shown { length: 3000, mtime_ns: 1 };
    for reader in [reader, again] {
        reader.refresh_length().await.unwrap();
        assert_eq!(reader.shown(), after, "it was cut while nobody answered");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_replica_is_reported_and_another_one_read() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let inode = write_file(&client, &bytes(10_000)).await;
    cluster.set_fault(0, Fault::Corrupt);
    let who = Caller { uid: 1000, ..caller() };
    let reader = client.open_reader(&who, inode).await.unwrap();
    assert_eq!(reader.read_at(0, 10_000).await.unwrap(), bytes(10_000));
    let told = cluster.world.lock().bad_replicas.clone();
    assert_eq!(told, [("node-0".to_owned(), 1000)], "by whoever has opened the file");
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_replicas_are_left_for_good_ones() {
    for fault in [Fault::HangsUp, Fault::Silent] {
        let cluster = FakeCluster::start(3).await;
        let client = cluster.client_with(|config| config.read_timeout = Duration::from_millis(200)).await;
        let inode = write_file(&client, &bytes(10_000)).await;
        cluster.set_fault(0, fault);
        cluster.set_fault(1, fault);
        assert_eq!(read_all(&client, inode).await, bytes(10_000), "{fault:?}");
        assert!(cluster.world.lock().bad_replicas.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn read_without_a_good_replica_says_why() {
    let cluster = FakeCluster::start(2).await;
    let client = cluster.client_with(|config| config.absence_timeout = Duration::ZERO).await;
    let inode = write_file(&client, &bytes(1000)).await;
    cluster.set_faults(Fault::Corrupt);
    let reader = client.open_reader(&caller(), inode).await.unwrap();
    assert_eq!(reader.read_at(0, 1000).await.unwrap_err().kind(), ErrorKind::Corrupt);
    cluster.set_fault(1, Fault::HangsUp);
    let error = reader.read_at(0, 1000).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Io && error.message().contains("checksum"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn read_waits_for_replicas_that_come_back() {
    let cluster = FakeCluster::start(1).await;
    let client = cluster.client().await;
    let inode = write_file(&client, &bytes(1000)).await;
    let lost = std::mem::take(&mut cluster.world.lock().replicas);
    let reader = client.open_reader(&caller(), inode).await.unwrap();
    let reading = tokio::spawn(async move { reader.read_at(0, 1000).await });
    // More rounds than bad replicas get.
    while cluster.calls("get_block_locations") < 6 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.world.lock().replicas = lost;
    assert_eq!(reading.await.unwrap().unwrap(), bytes(1000));
}

/// The only replica that is known is damaged, and the others are on nodes that the NameNode has not heard of for a while.
#[tokio::test(flavor = "multi_thread")]
async fn read_of_a_bad_replica_waits_for_others_that_come_back() {
    let cluster = FakeCluster::start(2).await;
    let client = cluster.client().await;
    let inode = write_file(&client, &bytes(1000)).await;
    cluster.set_fault(0, Fault::Corrupt);
    let take = |(node, _): &(usize, u64)| *node == 1;
    let mut lost = std::collections::HashMap::new();
    {
        let mut world = cluster.world.lock();
        lost.extend(world.replicas.extract_if(|key, _| take(key)));
    }
    let reader = client.open_reader(&caller(), inode).await.unwrap();
    let reading = tokio::spawn(async move { reader.read_at(0, 1000).await });
    // More rounds than bad replicas get.
    while cluster.calls("get_block_locations") < 6 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.world.lock().replicas.extend(lost);
    assert_eq!(reading.await.unwrap().unwrap(), bytes(1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn random_reads_fetch_what_they_need() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client_with(|config| config.packet_size = 65_536).await;
    let data = bytes(64 * BLOCK);
    let inode = write_file(&client, &data).await;
    let reader = client.open_reader(&caller(), inode).await.unwrap();
    cluster.world.lock().read_bytes = 0;
    for turn in 0..50usize {
        let at = turn * 7_654_321 % (data.len() - 4096);
        assert_eq!(reader.read_at(at as u64, 4096).await.unwrap(), data[at..at + 4096]);
    }
    let fetched = cluster.world.lock().read_bytes;
    assert!(fetched <= 50 * (4096 + 1024), "{fetched} bytes fetched for {}", 50 * 4096);
    assert!(reader.read_at(data.len() as u64, 10).await.unwrap().is_empty());
    assert_eq!(reader.read_at(data.len() as u64 - 5, 10).await.unwrap().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn sequential_reads_in_and_out_of_order_fetch_each_byte_about_once() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client_with(|config| config.packet_size = 65_536).await;
    let data = bytes(4 << 20);
    let inode = {
        let options = CreateOptions { block_size: 1 << 20, ..new_file(b"big") };
        let created = client.create(&caller(), options).await.unwrap();
        let writer = created.writer.unwrap();
        writer.write(&data).await.unwrap();
        writer.complete().await.unwrap();
        created.attr.inode
    };
    const STEP: usize = 100_000;
    for order in [[0, 1, 2, 3], [0, 2, 1, 3], [1, 0, 3, 2]] {
        let reader = client.open_reader(&caller(), inode).await.unwrap();
        cluster.world.lock().read_bytes = 0;
        for group in 0..data.len().div_ceil(4 * STEP) {
            let reads = order.map(|place| {
                let at = ((group * 4 + place) * STEP).min(data.len());
                let reader = &reader;
                async move { (at, reader.read_at(at as u64, STEP).await.unwrap()) }
            });
            for (at, read) in futures::future::join_all(reads).await {
                assert_eq!(read, data[at..data.len().min(at + STEP)]);
            }
        }
        let fetched = cluster.world.lock().read_bytes;
        assert!(fetched < data.len() as u64 * 5 / 4, "{order:?}: {fetched} bytes fetched");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn file_that_is_opened_and_read_costs_one_call() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let data = bytes(3000);
    let inode = write_file(&client, &data).await;
    cluster.take_calls();
    let (attr, reader) = client.open_for_reading(&caller(), inode, None).await.unwrap();
    assert_eq!((attr.inode, attr.length, reader.length()), (inode, 3000, 3000));
    assert_eq!(reader.read_at(0, 4096).await.unwrap(), data);
    assert!(reader.read_at(3000, 4096).await.unwrap().is_empty());
    assert!(!reader.is_fetching_ahead(), "a file that is read once leaves nothing under way");
    drop(reader);
    assert_eq!(cluster.take_calls(), [("get_block_locations", 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn read_of_bytes_that_are_here_waits_for_nothing() {
    const STEP: usize = 128 << 10;
    let cluster = FakeCluster::start(1).await;
    let client = cluster.client_with(|config| config.packet_size = 65_536).await;
    let data = bytes(4 * STEP);
    let inode = write_file(&client, &data).await;
    let reader = client.open_reader(&caller(), inode).await.unwrap();
    // The second one goes on where the first ended, and has the rest fetched.
    for at in [0, STEP] {
        assert_eq!(reader.read_at(at as u64, STEP).await.unwrap(), data[at..at + STEP]);
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while reader.is_fetching_ahead() {
        assert!(std::time::Instant::now() < deadline, "what is fetched ahead does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.set_faults(Fault::HangsUp);
    for at in [2 * STEP, 3 * STEP] {
        let read = reader.read_at(at as u64, STEP).now_or_never().expect("it is here");
        assert_eq!(read.unwrap(), data[at..at + STEP]);
    }
    let end = reader.read_at(data.len() as u64, STEP).now_or_never().expect("there is nothing to read");
    assert!(end.unwrap().is_empty());
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

#[tokio::test(flavor = "multi_thread")]
async fn heartbeat_leaves_the_pipeline_as_it_is() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let (attr, writer) = create(&client).await;
    for _ in 0..3 {
        writer.write(&bytes(700)).await.unwrap();
        writer.hflush().await.unwrap();
        writer.do_chore(crate::write::Chore::Heartbeat).await;
    }
    writer.complete().await.unwrap();
    assert!(cluster.content(attr.inode.0, 0) == [bytes(700), bytes(700), bytes(700)].concat());
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

/// Calls run in tasks: their futures must be `Send`.
#[allow(dead_code)]
fn futures_are_send(client: &DfsClient, writer: &Arc<FileWriter>, reader: &crate::FileReader) {
    fn check(_: impl Send) {}
    let who = caller();
    check(DfsClient::connect(client.config().clone()));
    check(client.lookup(&who, ROOT_INODE, b"x"));
    check(client.mkdir(&who, ROOT_INODE, b"x", 0));
    check(client.resolve(&who, b"/", true));
    check(client.append(&who, ROOT_INODE, false));
    check(client.truncate(&who, ROOT_INODE, 0));
    check(client.hold(&who, ROOT_INODE));
    check(client.open_reader(&who, ROOT_INODE));
    check(writer.write(b""));
    check(writer.write_through(b"", SyncLevel::Hsync));
    check(writer.hsync_open_block());
    check(writer.sync_finished_blocks());
    check(writer.complete());
    check(writer.abort());
    check(reader.read_at(0, 0));
    check(reader.refresh_length());
    check(client.clone().close());
}
