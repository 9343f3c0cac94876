//! Pipelines that go on: the stages of recovery and the copies for replacements, as a writer sees them.

use dfs_common::block::ExtendedBlock;
use dfs_common::ids::GenerationStamp;
use dfs_proto::hadoop::op_write_block_proto::BlockConstructionStage as Stage;
use dfs_proto::hadoop::{
    ClientOperationHeaderProto, DatanodeInfoProto, OpTransferBlockProto, OpWriteBlockProto, Status,
};

use super::test_client::*;
use crate::datanode::store::EventKind;
use crate::datanode::store::watch::{Call, Watch};

/// The set-up of a rebuilt pipeline of a writer that knows of `bytes` acknowledged and sent.
fn recovery(stage: Stage, bytes: (u64, u64), new_stamp: u64, targets: &[DatanodeInfoProto]) -> OpWriteBlockProto {
    let mut old = block(1);
    old.block.length = bytes.0;
    OpWriteBlockProto {
        stage: stage.into(),
        min_bytes_rcvd: bytes.0,
        max_bytes_rcvd: bytes.1,
        latest_generation_stamp: new_stamp,
        ..write_request(&old, targets)
    }
}

fn stamped(stamp: u64) -> ExtendedBlock {
    let mut block = block(1);
    block.block.generation_stamp = GenerationStamp(stamp);
    block
}

fn node() -> (tempfile::TempDir, TestNode) {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(&store_settings(dir.path()));
    (dir, node)
}

/// A replica being written with `len` acknowledged bytes; its writer still connected.
fn begun(node: &TestNode, data: &[u8]) -> Client {
    let mut client = node.client();
    client.request(&write_request(&block(1), &[]));
    assert_eq!(client.response().status(), Status::Success);
    client.send(&packet(0, 0, data, false, false));
    assert_eq!(client.statuses(), (0, vec![Status::Success]));
    client
}

#[test]
fn streaming_recovery_stops_the_old_writer_and_goes_on() {
    let (dir, node) = node();
    let data = content(5000);
    let mut old = begun(&node, &data[..1300]);
    let mut client = node.client();
    client.request(&recovery(Stage::PipelineSetupStreamingRecovery, (1300, 3000), 1002, &[]));
    assert_eq!(client.response().status(), Status::Success);
    assert!(old.is_closed(), "the writer before is out");
    client.send(&packet(7, 1300, &data[1300..], false, true));
    client.send(&packet(8, 5000, &[], true, false));
    assert_eq!(client.statuses(), (7, vec![Status::Success]));
    assert_eq!(client.statuses(), (8, vec![Status::Success]));
    assert_eq!(node.read(&stamped(1002), 0, 5000).unwrap(), data);
    let finalized = dir.path().join("current").join(POOL).join("current/finalized/subdir0/subdir0");
    assert!(finalized.join("blk_1_1002.meta").exists() && !finalized.join("blk_1_1001.meta").exists());
}

#[test]
fn streaming_recovery_cuts_what_was_not_acknowledged() {
    let data = content(5000);
    // Where the acknowledged bytes end in their chunk, and what the node has beyond them.
    for (acked, received) in [(1300, 1400), (1300, 2000), (1024, 1500), (1300, 1536), (1024, 4096)] {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [first, second] = dirs.each_ref().map(|dir| TestNode::start(&store_settings(dir.path())));
        let mut client = first.client();
        client.request(&write_request(&block(1), &[second.info()]));
        client.response();
        client.send(&packet(0, 0, &data[..acked], false, false));
        assert_eq!(client.statuses(), (0, vec![Status::Success; 2]));
        second.service.stop(std::time::Duration::from_secs(5));
        client.send(&packet(1, acked as u64, &data[acked..received], false, false));
        assert_eq!(client.statuses(), (1, vec![Status::Success, Status::Error]));
        let mut client = first.client();
        client.request(&recovery(Stage::PipelineSetupStreamingRecovery, (acked as u64, received as u64), 1002, &[]));
        assert_eq!(client.response().status(), Status::Success, "{acked} of {received}");
        assert_eq!(first.store.visible_length(&stamped(1002)).unwrap(), acked as u64);
        assert_eq!(first.read(&stamped(1002), 0, acked as u64).unwrap(), data[..acked]);
        // A restart now finds a whole replica.
        drop(client);
        let first = first.restart(&store_settings(dirs[0].path()));
        assert_eq!(first.read(&stamped(1002), 0, acked as u64).unwrap(), data[..acked], "{acked} of {received}");
    }
}

#[test]
fn streaming_recovery_refuses_what_does_not_fit() {
    let (_dir, node) = node();
    let _old = begun(&node, &content(1300));
    for (bytes, stamp, why) in [
        ((1301, 2000), 1002, "more was acknowledged than is here"),
        ((0, 1299), 1002, "more is here than was sent"),
        ((1300, 1300), 1001, "the stamp is no newer"),
    ] {
        let mut client = node.client();
        client.request(&recovery(Stage::PipelineSetupStreamingRecovery, bytes, stamp, &[]));
        assert_ne!(client.response().status(), Status::Success, "{why}");
    }
    assert_eq!(node.store.visible_length(&block(1)).unwrap(), 1300, "it is as it was");
}

#[test]
fn recovery_of_a_finalized_replica_reopens_it() {
    let (_dir, node) = node();
    let data = content(3000);
    node.client().write(&block(1), &[], &data[..1300], 4096);
    let mut client = node.client();
    client.request(&recovery(Stage::PipelineSetupStreamingRecovery, (1024, 1300), 1003, &[]));
    assert_eq!(client.response().status(), Status::Success);
    client.send(&packet(2, 1024, &data[1024..], false, false));
    client.send(&packet(3, 3000, &[], true, false));
    assert_eq!(client.statuses(), (2, vec![Status::Success]));
    assert_eq!(client.statuses(), (3, vec![Status::Success]));
    assert_eq!(node.read(&stamped(1003), 0, 3000).unwrap(), data);
}

#[test]
fn close_recovery_finalizes_without_packets() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first, second] = dirs.each_ref().map(|dir| TestNode::start(&store_settings(dir.path())));
    let data = content(1300);
    let _old = begun(&first, &data);
    // One has finalized it already.
    second.client().write(&block(1), &[], &data, 4096);
    let mut client = first.client();
    client.request(&recovery(Stage::PipelineCloseRecovery, (1300, 1300), 1002, &[second.info()]));
    assert_eq!(client.response().status(), Status::Success);
    for node in [&first, &second] {
        assert_eq!(node.read(&stamped(1002), 0, 1300).unwrap(), data);
    }
    assert_eq!(client.read(&stamped(1002), 0, 1300).unwrap(), data, "the connection serves on");
}

#[test]
fn transfer_fills_a_replacement_which_joins_the_pipeline() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first, second] = dirs.each_ref().map(|dir| TestNode::start(&store_settings(dir.path())));
    let data = content(5000);
    let _old = begun(&first, &data[..1300]);
    let mut wanted = block(1);
    wanted.block.length = 1300;
    let mut request = OpTransferBlockProto {
        header: ClientOperationHeaderProto::new(&wanted, None, "test"),
        targets: vec![second.info()],
        ..Default::default()
    };
    let mut client = first.client();
    client.request(&request);
    assert_eq!(client.response().status(), Status::Success);
    assert_eq!(second.store.visible_length(&block(1)).unwrap(), 1300);
    client.request(&recovery(Stage::PipelineSetupStreamingRecovery, (1300, 1300), 1002, &[second.info()]));
    assert_eq!(client.response().status(), Status::Success);
    client.send(&packet(1, 1300, &data[1300..], false, false));
    client.send(&packet(2, 5000, &[], true, false));
    assert_eq!(client.statuses(), (1, vec![Status::Success; 2]));
    assert_eq!(client.statuses(), (2, vec![Status::Success; 2]));
    for node in [&first, &second] {
        assert_eq!(node.read(&stamped(1002), 0, 5000).unwrap(), data);
    }
    wanted.block.length = 6000;
    wanted.block.generation_stamp = GenerationStamp(1002);
    request.header = ClientOperationHeaderProto::new(&wanted, None, "test");
    client.request(&request);
    assert_eq!(client.response().status(), Status::ErrorInvalid, "more than is here");
}

/// What a writer asks of a survivor whose replica has `length` acknowledged bytes.
fn transfer_request(length: usize, target: &TestNode) -> OpTransferBlockProto {
    let mut wanted = block(1);
    wanted.block.length = length as u64;
    OpTransferBlockProto {
        header: ClientOperationHeaderProto::new(&wanted, None, "test"),
        targets: vec![target.info()],
        takes_signs_of_life: Some(true),
        ..Default::default()
    }
}

#[test]
fn transfer_is_told_to_the_namenodes_although_no_pipeline_goes_on_with_it() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first, second] = dirs.each_ref().map(|dir| TestNode::start(&store_settings(dir.path())));
    let _old = begun(&first, &content(1300));
    let events = second.store.subscribe();
    let mut client = first.client();
    client.request(&transfer_request(1300, &second));
    assert_eq!(client.response().status(), Status::Success);
    let (events, _) = events.take();
    let told: Vec<_> = events.iter().map(|event| (event.kind, event.block)).collect();
    let mut filled = block(1).block;
    filled.length = 1300;
    assert_eq!(told, [(EventKind::Receiving, filled)]);
}

#[test]
fn transfer_that_cannot_be_synced_leaves_nothing() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first, second] = dirs.each_ref().map(|dir| TestNode::start(&store_settings(dir.path())));
    let _old = begun(&first, &content(1300));
    let watch = Watch::begin(dirs[1].path());
    watch.fail(Call::Sync, "rbw/blk_1", libc::EIO, 1);
    let mut client = first.client();
    client.request(&transfer_request(1300, &second));
    assert_eq!(client.response().status(), Status::Error);
    wait_until("nothing stays at the target", || second.store.replica_count() == 0);
    let rbw = dirs[1].path().join("current").join(POOL).join("current/rbw");
    wait_until("nor its files", || std::fs::read_dir(&rbw).unwrap().count() == 0);
    client = first.client();
    client.request(&transfer_request(1300, &second));
    assert_eq!(client.response().status(), Status::Success, "nothing stands in its way");
}

#[test]
fn transfer_from_a_disk_that_is_slow_says_that_it_is_under_way() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first, second] = dirs.each_ref().map(|dir| TestNode::start(&store_settings(dir.path())));
    let _old = begun(&first, &content(1300));
    let watch = Watch::begin(dirs[0].path());
    watch.hang(Call::Read, "rbw/blk_1");
    let mut client = first.client();
    client.request(&transfer_request(1300, &second));
    // The disk answers once the writer has heard that it does not.
    assert_eq!(client.response().status(), Status::InProgress);
    watch.heal();
    let outcome = std::iter::repeat_with(|| client.response().status()).find(|status| *status != Status::InProgress);
    assert_eq!(outcome, Some(Status::Success));
    assert_eq!(second.store.visible_length(&block(1)).unwrap(), 1300);
    let again = transfer_request(1300, &second);
    client.request(&OpTransferBlockProto { takes_signs_of_life: None, ..again });
    assert_eq!(client.response().status(), Status::ErrorExists, "the connection serves on");
}
