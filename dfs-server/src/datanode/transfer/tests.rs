use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use dfs_common::block::ExtendedBlock;
use dfs_common::error::ErrorKind;
use dfs_common::ids::GenerationStamp;
use dfs_common::units::ByteCount;
use dfs_proto::data_transfer::{ChecksumKind, DataChecksum, encode_request};
use dfs_proto::hadoop::op_write_block_proto::BlockConstructionStage;
use dfs_proto::hadoop::{
    BaseHeaderProto, ClientOperationHeaderProto, OpBlockChecksumProto, OpCopyBlockProto, OpReadBlockProto, Status,
};
use md5::{Digest, Md5};
use tempfile::TempDir;

use super::test_client::*;
use super::{DataPlane, Turns, copy_block};
use crate::datanode::store::{EventKind, StoreSettings};

fn node() -> (TempDir, TestNode) {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(&store_settings(dir.path()));
    (dir, node)
}

fn nodes<const N: usize>() -> ([TempDir; N], [TestNode; N]) {
    let dirs = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let nodes = std::array::from_fn(|at: usize| {
        let dirs: &[TempDir; N] = &dirs;
        TestNode::start(&store_settings(dirs[at].path()))
    });
    (dirs, nodes)
}

fn with_length(block: &ExtendedBlock, length: u64, stamp: u64) -> ExtendedBlock {
    let mut block = block.clone();
    block.block.length = length;
    block.block.generation_stamp = GenerationStamp(stamp);
    block
}

#[test]
fn write_then_read_any_size() {
    let (dir, node) = node();
    let mut client = node.client();
    for (id, len) in [0, 1, 511, 512, 513, 4096, 65_536, 1 << 20, (3 << 20) + 77].into_iter().enumerate() {
        let (block, data) = (block(1_073_741_825 + id as u64), content(len));
        client.write(&block, &[], &data, 64 * 1024);
        assert_eq!(client.read(&block, 0, len as u64).unwrap(), data, "{len} bytes");
        if len > 1000 {
            assert_eq!(client.read(&block, 700, 100).unwrap(), data[700..800]);
            assert_eq!(client.read(&block, len as u64 - 3, 3).unwrap(), data[len - 3..]);
        }
    }
    let pool = dir.path().join("current").join(POOL).join("current");
    assert!(pool.join("finalized/subdir0/subdir0/blk_1073741825_1001.meta").exists());
    assert_eq!(std::fs::read_dir(pool.join("rbw")).unwrap().count(), 0);
}

#[test]
fn pipeline_of_three_writes_the_same_everywhere() {
    let (_dirs, nodes) = nodes::<3>();
    let targets = [nodes[1].info(), nodes[2].info()];
    let mut client = nodes[0].client();
    for (id, len, packet) in [(1, 4096, 65_536), (2, 5_000_000, 262_144), (3, 100_000, 1000), (4, 0, 512)] {
        let data = content(len);
        client.write(&block(id), &targets, &data, packet);
        for node in &nodes {
            assert_eq!(node.read(&block(id), 0, len as u64).unwrap(), data);
        }
    }
}

#[test]
fn pipeline_with_a_waiting_client_overlaps_packets_and_answers_heartbeats() {
    let (_dirs, nodes) = nodes::<3>();
    let mut client = nodes[0].client();
    let (block, data) = (block(7), content(3000));
    client.request(&write_request(&block, &[nodes[1].info(), nodes[2].info()]));
    assert_eq!(client.response().status(), Status::Success);
    client.send(&packet(0, 0, &data[..1000], false, false));
    assert_eq!(client.statuses(), (0, vec![Status::Success; 3]));
    client.send(&packet(-1, 0, &[], false, false));
    assert_eq!(client.statuses(), (-1, vec![Status::Success; 3]));
    for node in &nodes {
        assert_eq!(node.store.visible_length(&block).unwrap(), 1000);
        assert_eq!(node.read(&block, 0, 1000).unwrap(), data[..1000]);
    }
    // Continues inside a chunk, synced.
    client.send(&packet(1, 1000, &data[1000..2000], false, true));
    // Repeats the head of the last chunk, as Hadoop's client does after a flush.
    client.send(&packet(2, 1536, &data[1536..], false, false));
    client.send(&packet(3, 3000, &[], true, false));
    for seqno in 1..4 {
        assert_eq!(client.statuses(), (seqno, vec![Status::Success; 3]));
    }
    for node in &nodes {
        assert_eq!(node.read(&block, 0, 3000).unwrap(), data);
    }
}

#[test]
fn corrupt_chunk_is_refused_by_whoever_verifies_and_not_stored() {
    let (_dirs, nodes) = nodes::<2>();
    let (block, data) = (block(9), content(200_000));
    let mut client = nodes[0].client();
    client.request(&write_request(&block, &[nodes[1].info()]));
    client.response();
    client.send(&packet(0, 0, &data[..100_352], false, false));
    assert_eq!(client.statuses(), (0, vec![Status::Success; 2]));
    let mut bad = packet(1, 100_352, &data[100_352..], false, false);
    *bad.last_mut().unwrap() ^= 1;
    client.send(&bad);
    assert_eq!(client.statuses(), (1, vec![Status::Success, Status::ErrorChecksum]), "the last node verifies");
    assert!(client.is_closed());
    assert_eq!(nodes[1].read(&block, 0, 100_352).unwrap(), data[..100_352]);
    assert_eq!(nodes[1].plane.metrics.corrupt_packets.get(), 1);
}

#[test]
fn corrupt_block_that_comes_whole_is_refused_and_not_finalized() {
    let (_dir, node) = node();
    let mut client = node.client();
    let mut message = Vec::new();
    encode_request(&write_request(&block(9), &[]), &mut message).unwrap();
    message.extend_from_slice(&packets(&content(3000), 4096).0);
    let data_at = message.len() - packets(&[], 1).0.len() - 3000;
    message[data_at] ^= 1;
    client.send(&message);
    assert_eq!(client.response().status(), Status::Success);
    assert_eq!(client.statuses(), (0, vec![Status::ErrorChecksum]));
    assert!(client.is_closed());
    assert_eq!(node.plane.metrics.corrupt_packets.get(), 1);
    assert_eq!(node.store.finalized(&block(9)), None);
}

#[test]
fn set_up_names_the_node_that_cannot_be_reached() {
    let (_dirs, nodes) = nodes::<2>();
    let bound_only = tokio::net::TcpSocket::new_v4().unwrap();
    bound_only.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut gone = nodes[0].info();
    gone.id.xfer_port = bound_only.local_addr().unwrap().port().into();
    let link = format!("127.0.0.1:{}", gone.id.xfer_port);
    let mut client = nodes[0].client();
    client.request(&write_request(&block(3), &[nodes[1].info(), gone]));
    let response = client.response();
    assert_eq!((response.status(), response.first_bad_link()), (Status::Error, link.as_str()));
    wait_until("nothing stays behind", || nodes.iter().all(|node| node.store.replica_count() == 0));
}

#[test]
fn loss_of_the_next_node_is_told_with_the_first_packet_that_misses_it() {
    let (_dirs, nodes) = nodes::<2>();
    let (block, data) = (block(4), content(2000));
    let mut client = nodes[0].client();
    client.request(&write_request(&block, &[nodes[1].info()]));
    client.response();
    client.send(&packet(0, 0, &data[..1000], false, false));
    assert_eq!(client.statuses(), (0, vec![Status::Success; 2]));
    nodes[1].service.stop(Duration::from_secs(5));
    client.send(&packet(1, 1000, &data[1000..], false, false));
    assert_eq!(client.statuses(), (1, vec![Status::Success, Status::Error]));
    assert!(client.is_closed());
    assert_eq!(nodes[0].store.visible_length(&block).unwrap(), 1000, "unacknowledged bytes are not visible");
}

#[test]
fn silent_next_node_is_given_up_after_the_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start_with(&store_settings(dir.path()), 16, Duration::from_millis(200));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut target = node.info();
    target.id.xfer_port = silent.local_addr().unwrap().port().into();
    let mut client = node.client();
    client.request(&write_request(&block(5), &[target.clone()]));
    let response = client.response();
    assert_eq!(response.status(), Status::Error);
    assert_eq!(response.first_bad_link(), format!("127.0.0.1:{}", target.id.xfer_port));
}

#[test]
fn vanished_writer_leaves_what_was_received() {
    let (dir, node) = node();
    let (block, data) = (block(6), content(1000));
    let mut client = node.client();
    client.request(&write_request(&block, &[]));
    client.response();
    client.send(&packet(0, 0, &data, false, false));
    client.statuses();
    drop(client);
    wait_until("the transfer ends", || node.service.active_transfers() == 0);
    assert_eq!(node.read(&block, 0, 1000).unwrap(), data);

    // After a restart it waits for recovery and still shows its bytes.
    let node = node.restart(&store_settings(dir.path()));
    assert_eq!(node.read(&block, 0, 1000).unwrap(), data);
    let mut client = node.client();
    client.request(&write_request(&block, &[]));
    assert_eq!(client.response().status(), Status::ErrorExists);
}

#[test]
fn append_extends_under_a_new_generation_stamp() {
    let (dir, node) = node();
    let (block, data) = (block(8), content(5000));
    let mut client = node.client();
    client.write(&block, &[], &data[..1300], 4096);
    client.request(&append_request(&block, 1300, 1002));
    assert_eq!(client.response().status(), Status::Success);
    assert_eq!(node.read(&block, 0, 1300).unwrap(), data[..1300], "readable while it is being extended");
    client.send(&packet(0, 1300, &data[1300..3000], false, true));
    assert_eq!(client.statuses(), (0, vec![Status::Success]));
    client.send(&packet(1, 3000, &data[3000..], true, false));
    assert_eq!(client.statuses(), (1, vec![Status::Success]));
    let extended = with_length(&block, 5000, 1002);
    assert_eq!(node.read(&extended, 0, 5000).unwrap(), data);
    assert_eq!(node.read(&block, 0, 1300).unwrap(), data[..1300], "readers of the old version see its prefix");
    assert_eq!(node.read(&with_length(&block, 0, 1003), 0, 1).unwrap_err().status(), Status::Error);
    let used = || node.store.volumes().reports()[0].space.used;
    assert_eq!(used(), 5000 + 7 + 10 * 4);

    let node = node.restart(&store_settings(dir.path()));
    assert_eq!(node.read(&extended, 0, 5000).unwrap(), data);
}

#[test]
fn append_to_another_version_or_length_is_refused_and_leaves_the_replica() {
    let (_dir, node) = node();
    let (block, data) = (block(8), content(1300));
    node.client().write(&block, &[], &data, 4096);
    let refusals = [
        (append_request(&with_length(&block, 0, 1000), 1300, 1002), Status::Error),
        (append_request(&block, 1300, 1001), Status::Error),
        (append_request(&block, 1200, 1002), Status::ErrorInvalid),
    ];
    for (request, status) in refusals {
        let mut client = node.client();
        client.request(&request);
        assert_eq!(client.response().status(), status);
    }
    // A pipeline that cannot be set up is undone.
    let mut request = append_request(&block, 1300, 1002);
    let mut gone = node.info();
    gone.id.xfer_port = 1;
    request.targets = vec![gone];
    let mut client = node.client();
    client.request(&request);
    assert_eq!(client.response().status(), Status::Error);
    wait_until("the replica is finalized again", || {
        let mut client = node.client();
        client.request(&append_request(&block, 1300, 1002));
        client.response().status() == Status::Success
    });
}

#[test]
fn copy_block_passes_a_replica_on() {
    let (_dirs, nodes) = nodes::<3>();
    for (id, len) in [(1, 0), (2, 1000), (3, 1 << 20), (4, (5 << 20) + 1)] {
        let (block, data) = (block(id), content(len));
        nodes[0].client().write(&block, &[], &data, 65_536);
        let targets = [nodes[1].info(), nodes[2].info()];
        copy_block(&nodes[0].plane, &block, &targets, &[], None).unwrap();
        for node in &nodes {
            assert_eq!(node.read(&block, 0, len as u64).unwrap(), data);
        }
        let error = copy_block(&nodes[0].plane, &block, &targets, &[], None).unwrap_err();
        assert!(error.message().contains("is here already"), "{error}");
    }
}

/// A copy, at a pace or without one, of a replica whose bit at byte 100 is wrong.
fn copy_of_wrong_bytes(length: usize, limit: Option<u64>) {
    let (dirs, nodes) = nodes::<2>();
    let (block, data) = (block(1), content(length));
    nodes[0].client().write(&block, &[], &data, 65_536);
    let (volume, pool) = (nodes[0].store.volume_of(&block).unwrap(), POOL.into());
    let path = dirs[0].path().join("current").join(POOL).join("current/finalized/subdir0/subdir0/blk_1");
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[data[100] ^ 1], 100).unwrap();
    let pace = &nodes[0].plane.balance_pace;
    let turns = limit.map(|limit| Turns { pace, limit });
    let error = copy_block(&nodes[0].plane, &block, &[nodes[1].info()], &[], turns).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(nodes[0].store.suspects().is_waiting(volume, &pool, block.block.id));
    // The target answers first and clears up after.
    wait_until("nothing stays at the target", || nodes[1].store.replica_count() == 0);
}

#[test]
fn copy_in_which_the_target_finds_wrong_checksums_has_its_source_verified() {
    copy_of_wrong_bytes((5 << 20) + 1, None);
}

#[test]
fn copy_at_a_pace_hears_that_the_target_finds_wrong_checksums() {
    // Sent in full only long after the target has hung up.
    copy_of_wrong_bytes(6 << 20, Some(1 << 20));
}

#[test]
fn verdict_may_come_with_the_next_request_or_never() {
    let (_dir, node) = node();
    let data = content(5000);
    node.client().write(&block(1), &[], &data, 4096);
    let mut client = node.client();
    client.request(&read_request(&block(1), 0, 5000));
    assert_eq!(client.read_answer(0, 5000).unwrap(), data);
    let mut both = verdict();
    encode_request(&read_request(&block(1), 1000, 100), &mut both).unwrap();
    client.send(&both);
    assert_eq!(client.read_answer(1000, 100).unwrap(), data[1000..1100]);
    // A verdict alone, and a request later.
    client.send(&verdict()[..1]);
    client.send(&verdict()[1..]);
    assert_eq!(client.read(&block(1), 0, 10).unwrap(), data[..10]);
    drop(client);
    wait_until("the connection ends", || node.plane.metrics.connections.get() == 0);
    assert_eq!(node.plane.metrics.operations_failed.get(), 0);
}

#[test]
fn read_refusals_say_what_is_wrong() {
    let (_dir, node) = node();
    let block = block(2);
    node.client().write(&block, &[], &content(1000), 4096);
    let mut client = node.client();
    let cases = [
        (block.clone(), 0, 1001, Status::ErrorInvalid, "1000 bytes can be read"),
        (block.clone(), u64::MAX, 2, Status::ErrorInvalid, "out of the range"),
        (super::test_client::block(99), 0, 1, Status::Error, "no replica"),
        (with_length(&block, 0, 2000), 0, 1, Status::Error, "older generation stamp"),
        (ExtendedBlock { pool: "BP-other".into(), ..block.clone() }, 0, 1, Status::Error, "BP-other"),
    ];
    for (block, offset, len, status, words) in cases {
        let response = client.read(&block, offset, len).unwrap_err();
        assert_eq!(response.status(), status);
        assert!(response.message().contains(words), "{}", response.message());
    }
    assert_eq!(client.read(&block, 0, 1000).unwrap().len(), 1000, "the connection lives on");
}

#[test]
fn read_without_checksums_sends_none() {
    let (_dir, node) = node();
    let block = block(2);
    node.client().write(&block, &[], &content(1000), 4096);
    let mut client = node.client();
    client.request(&OpReadBlockProto {
        header: ClientOperationHeaderProto::new(&block, None, "test"),
        offset: 600,
        len: 10,
        send_checksums: Some(false),
        caching_strategy: None,
    });
    let info = client.response().read_op_checksum_info.unwrap();
    assert_eq!((info.checksum.r#type, info.chunk_offset), (0, 512));
}

#[test]
fn unsupported_operations_and_stages_are_refused() {
    let (_dir, node) = node();
    let mut client = node.client();
    client.request(&OpCopyBlockProto { header: BaseHeaderProto::new(&block(1), None) });
    assert_eq!(client.response().status(), Status::ErrorUnsupported);
    for stage in [BlockConstructionStage::PipelineClose, BlockConstructionStage::DataStreaming] {
        let mut client = node.client();
        let mut request = write_request(&block(1), &[]);
        request.set_stage(stage);
        client.request(&request);
        assert_eq!(client.response().status(), Status::ErrorUnsupported);
    }
}

#[test]
fn write_with_other_checksums_is_refused_and_leaves_nothing() {
    let (_dir, node) = node();
    for (kind, bytes) in [(ChecksumKind::Null, 512), (ChecksumKind::Crc32c, 4096)] {
        let mut client = node.client();
        let mut request = write_request(&block(1), &[]);
        request.requested_checksum = DataChecksum::new(kind, bytes).unwrap().to_proto();
        client.request(&request);
        let response = client.response();
        assert_eq!(response.status(), Status::ErrorUnsupported, "{kind:?} of {bytes}");
        assert!(response.message().contains("CRC32C of 512 bytes"), "{}", response.message());
    }
    assert_eq!(node.store.replica_count(), 0);
}

#[test]
fn block_checksum_is_the_md5_of_the_stored_checksums() {
    let (dir, node) = node();
    let (block, data) = (block(2), content(1300));
    node.client().write(&block, &[], &data, 4096);
    let meta = dir.path().join("current").join(POOL).join("current/finalized/subdir0/subdir0/blk_2_1001.meta");
    let meta = std::fs::read(meta).unwrap();
    let mut client = node.client();
    client.request(&OpBlockChecksumProto { header: BaseHeaderProto::new(&block, None), block_checksum_options: None });
    let answer = client.response().checksum_response.unwrap();
    assert_eq!((answer.bytes_per_crc, answer.crc_per_block), (512, 3));
    assert_eq!(&answer.block_checksum[..], &Md5::digest(&meta[7..])[..]);
}

#[test]
fn full_volume_refuses_before_it_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let settings = StoreSettings { reserved: ByteCount(u64::MAX / 2), ..store_settings(dir.path()) };
    let node = TestNode::start(&settings);
    let mut client = node.client();
    client.request(&write_request(&block(1), &[]));
    let response = client.response();
    assert_eq!(response.status(), Status::Error);
    assert!(response.message().contains("dfs.datanode.du.reserved"), "{}", response.message());
}

#[test]
fn events_tell_of_long_writes_short_ones_and_deletions() {
    let (_dir, node) = node();
    let queue = node.store.subscribe();
    node.client().write(&block(1), &[], &content(100), 4096);
    let mut client = node.client();
    client.request(&write_request(&block(2), &[]));
    client.response();
    wait_until("the writer is announced", || {
        let (events, _) = queue.take();
        events.iter().any(|event| (event.kind, event.block.id.0) == (EventKind::Receiving, 2))
    });
    node.store.invalidate(&with_length(&block(1), 0, 1001)).unwrap();
    let (events, _) = queue.take();
    assert_eq!(
        events.iter().map(|event| (event.kind, event.block.id.0)).collect::<Vec<_>>(),
        [(EventKind::Deleted, 1)]
    );
    assert_eq!(node.read(&block(1), 0, 1).unwrap_err().status(), Status::Error);
}

#[test]
fn idle_connection_makes_room_when_all_threads_are_taken_and_busy_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start_with(&store_settings(dir.path()), 2, Duration::from_secs(10));
    let mut idle = node.client();
    idle.write(&block(1), &[], &content(10), 4096);
    wait_until("the first connection is idle", || node.service.active_transfers() == 0);
    let mut busy = node.client();
    busy.request(&write_request(&block(2), &[]));
    assert_eq!(busy.response().status(), Status::Success);
    let mut third = node.client();
    assert_eq!(third.read(&block(1), 0, 10).unwrap(), content(10));
    assert!(idle.is_closed());
    // The third one is idle now: make it busy too, then nobody can be closed.
    third.request(&write_request(&block(3), &[]));
    assert_eq!(third.response().status(), Status::Success);
    let mut refused = node.client();
    assert!(refused.is_closed());
    assert_eq!(node.plane.metrics.connections_refused.get(), 1);
}

#[test]
fn short_file_behind_a_replica_is_an_error_for_its_reader_only() {
    let (dir, node) = node();
    let block = block(2);
    node.client().write(&block, &[], &content(1000), 4096);
    let path = dir.path().join("current").join(POOL).join("current/finalized/subdir0/subdir0/blk_2");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(10).unwrap();
    let queue = node.store.subscribe();
    let mut client = node.client();
    client.request(&OpReadBlockProto {
        header: ClientOperationHeaderProto::new(&block, None, "test"),
        offset: 0,
        len: 1000,
        send_checksums: None,
        caching_strategy: None,
    });
    assert_eq!(client.response().status(), Status::ErrorChecksum);
    assert_eq!(queue.take().0[0].kind, EventKind::Corrupt);
    // Its files gone altogether: it is not there any more.
    std::fs::remove_file(&path).unwrap();
    assert_eq!(node.read(&block, 0, 10).unwrap_err().status(), Status::Error);
    assert_eq!(queue.take().0[0].kind, EventKind::Deleted);
    assert_eq!(node.store.replica_count(), 0);
    let again = super::test_client::block(3);
    node.client().write(&again, &[], &content(10), 4096);
    assert_eq!(node.read(&again, 0, 10).unwrap(), content(10));
}

#[test]
fn bit_rot_reaches_the_reader_with_the_checksum_that_betrays_it() {
    let (dir, node) = node();
    let block = block(2);
    node.client().write(&block, &[], &content(1000), 4096);
    let path = dir.path().join("current").join(POOL).join("current/finalized/subdir0/subdir0/blk_2");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[!content(1)[0]], 0).unwrap();
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| node.read(&block, 0, 1000)));
    let words = read.expect_err("the test's reader verifies and panics");
    let words = words.downcast_ref::<String>().expect("a panic with words");
    assert!(words.contains("a checksum does not fit"), "{words}");
}

#[test]
fn plane_can_be_shared_between_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<DataPlane>();
}
