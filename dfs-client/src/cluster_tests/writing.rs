//! Files written, appended to, and read back.

use std::time::Duration;

use dfs_common::error::ErrorKind;

use super::{BLOCK, bytes, caller, create, hsync, read_all, write_file};
use crate::fake_cluster::{FakeCluster, Fault};

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
