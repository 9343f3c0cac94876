//! Loss of power. What an answer promises is on disk when it is given: asked of a record behind the store's files.
//!
//! And played by an XFS file system that is shut down without flushing its log. That needs root and a device, so it runs by
//! hand, in two halves with a remount between them:
//!
//! ```text
//! mkfs.xfs -f DEVICE; mount DEVICE DIR; mkdir DIR/data
//! DFS_POWER_DIR=DIR/data cargo test ... lost_power_before -- --ignored
//! umount DIR; mount DEVICE DIR
//! DFS_POWER_DIR=DIR/data cargo test ... lost_power_after -- --ignored
//! ```

use std::path::PathBuf;
use std::process::Command;

use dfs_proto::data_transfer::encode_request;
use dfs_proto::hadoop::{ClientOperationHeaderProto, OpTransferBlockProto, Status};

use super::copy_block;
use super::test_client::*;
use crate::datanode::store::watch::Watch;

/// Replicas of each kind.
const EACH: u64 = 20;
const SYNCED_AT_CLOSE: u64 = 1000;
const SYNCED_IN_THE_MIDDLE: u64 = 2000;
const SYNCED_AFTERWARDS: u64 = 3000;
const SYNCED_THEN_CLOSED: u64 = 4000;
const APPENDED: u64 = 5000;

fn dir() -> PathBuf {
    PathBuf::from(std::env::var("DFS_POWER_DIR").expect("DFS_POWER_DIR names a directory on XFS"))
}

fn data(id: u64) -> Vec<u8> {
    content(10_000 + id as usize % 777)
}

/// Bytes promised of a replica that was synced in the middle of a chunk.
fn promised(id: u64) -> usize {
    3000 + id as usize % 500
}

const LENGTH: usize = 3000;

/// Two nodes, the second one's disk recorded.
fn recorded() -> (tempfile::TempDir, [TestNode; 2], std::sync::Arc<Watch>) {
    let dir = tempfile::tempdir().unwrap();
    let nodes = ["1", "2"].map(|name| {
        let dir = dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        TestNode::start(&store_settings(&dir))
    });
    let watch = Watch::begin(&dir.path().join("2"));
    (dir, nodes, watch)
}

#[test]
fn synced_packet_is_on_disk_when_it_is_acknowledged() {
    let (_dir, [_, node], watch) = recorded();
    let mut client = node.client();
    client.request(&write_request(&block(1), &[]));
    client.send(&packet(0, 0, &content(LENGTH), false, true));
    client.expect_written(1, 1);
    assert_eq!(watch.durable("rbw/blk_1"), Some(content(LENGTH)));
    assert!(watch.durable("rbw/blk_1_1001.meta").is_some_and(|meta| meta.len() == 7 + 4 * LENGTH.div_ceil(512)));
}

#[test]
fn synced_last_packet_is_on_disk_when_it_is_acknowledged() {
    let (_dir, [_, node], watch) = recorded();
    let mut client = node.client();
    client.request(&write_request(&block(1), &[]));
    client.send(&packet(0, 0, &content(LENGTH)[..1024], false, false));
    client.expect_written(1, 1);
    client.send(&packet(1, 1024, &content(LENGTH)[1024..], true, true));
    assert_eq!(client.statuses(), (1, vec![Status::Success]));
    assert_eq!(watch.durable("subdir0/blk_1"), Some(content(LENGTH)));
}

#[test]
fn synced_block_that_comes_whole_is_on_disk_when_it_is_acknowledged() {
    for last in [&packet(0, 0, &content(LENGTH), true, true)[..], &whole_and_end()] {
        let (_dir, [_, node], watch) = recorded();
        let mut client = node.client();
        let mut message = Vec::new();
        encode_request(&write_request(&block(1), &[]), &mut message).unwrap();
        message.extend_from_slice(last);
        client.send(&message);
        assert_eq!(client.response().status(), Status::Success);
        client.statuses();
        assert_eq!(watch.durable("subdir0/blk_1"), Some(content(LENGTH)));
    }
}

/// Data, and an end that asks for a sync.
fn whole_and_end() -> Vec<u8> {
    [packet(0, 0, &content(LENGTH), false, false), packet(1, LENGTH as u64, &[], true, true)].concat()
}

#[test]
fn copies_are_on_disk_when_they_are_acknowledged() {
    let (_dir, [source, target], watch) = recorded();
    source.client().write(&block(1), &[], &content(LENGTH), 65_536);
    copy_block(&source.plane, &block(1), &[target.info()], &[], None).unwrap();
    assert_eq!(watch.durable("subdir0/blk_1"), Some(content(LENGTH)));
}

#[test]
fn copy_for_a_pipeline_is_on_disk_when_it_is_acknowledged() {
    let (_dir, [source, target], watch) = recorded();
    let mut writer = source.client();
    writer.request(&write_request(&block(1), &[]));
    writer.send(&packet(0, 0, &content(LENGTH), false, false));
    writer.expect_written(1, 1);
    let mut wanted = block(1);
    wanted.block.length = LENGTH as u64;
    let mut client = source.client();
    client.request(&OpTransferBlockProto {
        header: ClientOperationHeaderProto::new(&wanted, None, "test"),
        targets: vec![target.info()],
        ..Default::default()
    });
    assert_eq!(client.response().status(), Status::Success);
    assert_eq!(watch.durable("rbw/blk_1"), Some(content(LENGTH)));
}

#[test]
#[ignore = "needs a device, see the module"]
fn lost_power_before() {
    let node = TestNode::start(&store_settings(&dir()));
    let mut open = Vec::new();
    for n in 0..EACH {
        let mut client = node.client();
        let id = SYNCED_AT_CLOSE + n;
        client.request(&write_request(&block(id), &[]));
        client.send(&packet(0, 0, &data(id), true, true));
        client.expect_written(1, 1);

        let id = SYNCED_AFTERWARDS + n;
        client.write(&block(id), &[], &data(id), 4096);
        node.store.sync(&block(id)).unwrap();

        let id = SYNCED_THEN_CLOSED + n;
        client.request(&write_request(&block(id), &[]));
        client.send(&packet(0, 0, &data(id), false, true));
        client.send(&packet(1, data(id).len() as u64, &[], true, false));
        client.expect_written(2, 1);

        let id = APPENDED + n;
        client.write(&block(id), &[], &data(id)[..promised(id)], 4096);
        client.request(&append_request(&block(id), promised(id) as u64, 1002));
        client.send(&packet(0, promised(id) as u64, &data(id)[promised(id)..], true, true));
        client.expect_written(1, 1);

        let id = SYNCED_IN_THE_MIDDLE + n;
        client.request(&write_request(&block(id), &[]));
        let (data, promised) = (data(id), promised(id));
        client.send(&packet(0, 0, &data[..promised], false, true));
        client.send(&packet(1, promised as u64, &data[promised..], false, false));
        client.expect_written(2, 1);
        open.push(client);
    }
    let root = dir().parent().unwrap().to_owned();
    let status = Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(root).status().unwrap();
    assert!(status.success());
    let mut client = node.client();
    client.request(&write_request(&block(9000), &[]));
    assert_eq!(client.response().status(), Status::Error);
    assert!(node.store.check_volumes(false), "the volume is taken out");
    assert_eq!(node.store.replica_count(), 0);
}

#[test]
#[ignore = "needs a device, see the module"]
fn lost_power_after() {
    let node = TestNode::start(&store_settings(&dir()));
    for n in 0..EACH {
        for (kind, stamp) in
            [(SYNCED_AT_CLOSE, 1001), (SYNCED_AFTERWARDS, 1001), (SYNCED_THEN_CLOSED, 1001), (APPENDED, 1002)]
        {
            let mut block = block(kind + n);
            block.block.generation_stamp.0 = stamp;
            let expected = data(kind + n);
            let length = node.store.visible_length(&block).unwrap_or_else(|error| panic!("{block}: {}", error.chain()));
            assert_eq!(length, expected.len() as u64, "{block}");
            assert_eq!(node.read(&block, 0, length).unwrap(), expected, "{block}");
        }
        let id = SYNCED_IN_THE_MIDDLE + n;
        let length = node.store.visible_length(&block(id)).unwrap();
        assert!(length >= promised(id) as u64, "{length} of {} bytes of {id}", promised(id));
        assert_eq!(node.read(&block(id), 0, length).unwrap(), data(id)[..length as usize]);
    }
}
