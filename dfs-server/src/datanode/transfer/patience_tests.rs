//! Nodes that are slow, talk too much, or say what no node says.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dfs_common::error::ErrorKind;
use dfs_proto::data_transfer::packet::{HEARTBEAT_SEQNO, UNKNOWN_SEQNO};
use dfs_proto::data_transfer::patience::SET_UP_CALL_MAX;
use dfs_proto::data_transfer::{PipelineAck, Reply, SlowNode, encode_delimited};
use dfs_proto::hadoop::{BlockOpResponseProto, DatanodeIdProto, DatanodeInfoProto, Status};

use super::connection::Connection;
use super::copy_block;
use super::test_client::{TestNode, block, connect, content, packet, store_settings, wait_until, write_request};
use super::upstream::{Pulse, Upstream};

/// A node that a test plays: what `serve` does with the first connection.
fn played(serve: impl FnOnce(TcpStream) + Send + 'static) -> (DatanodeInfoProto, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let xfer_port = listener.local_addr().unwrap().port().into();
    let served = std::thread::spawn(move || serve(listener.accept().unwrap().0));
    let id = DatanodeIdProto { ip_addr: "127.0.0.1".into(), xfer_port, ..Default::default() };
    (DatanodeInfoProto { id, ..Default::default() }, served)
}

fn response(response: &BlockOpResponseProto) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_delimited(response, &mut bytes).unwrap();
    bytes
}

fn status(status: Status) -> Vec<u8> {
    response(&BlockOpResponseProto { status: status.into(), ..Default::default() })
}

fn acks(seqnos: impl Iterator<Item = i64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for seqno in seqnos {
        let slow = if seqno == HEARTBEAT_SEQNO { SlowNode::Slow } else { SlowNode::Disabled };
        let replies = vec![Reply { slow, ..Reply::new(Status::Success) }];
        PipelineAck { seqno, replies, downstream_ack_time_nanos: 0 }.encode(&mut bytes).unwrap();
    }
    bytes
}

fn node(timeout: Duration) -> (tempfile::TempDir, TestNode) {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start_with(&store_settings(dir.path()), 16, timeout);
    (dir, node)
}

#[test]
fn refusal_with_endless_words_is_passed_on_in_short_and_leaves_nothing() {
    let (_dir, node) = node(Duration::from_secs(10));
    let (target, served) = played(|mut socket| {
        let words = "é".repeat(15_000);
        let refusal = BlockOpResponseProto {
            status: Status::Error.into(),
            first_bad_link: Some(words.clone()),
            message: Some(words),
            ..Default::default()
        };
        socket.write_all(&response(&refusal)).unwrap();
        // Until the other side is done with it.
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let mut client = node.client();
    client.request(&write_request(&block(1), &[target]));
    let refusal = client.response();
    assert_eq!(refusal.status(), Status::Error);
    assert!(refusal.first_bad_link().starts_with('é') && refusal.first_bad_link().len() <= 300);
    assert!(client.is_closed());
    served.join().unwrap();
    wait_until("nothing stays behind", || {
        node.store.replica_count() == 0 && node.plane.metrics.active_transfers.get() == 0
    });
}

#[test]
fn target_with_an_endless_name_is_refused_in_short() {
    let (_dir, node) = node(Duration::from_secs(10));
    let id = DatanodeIdProto { ip_addr: "a".repeat(60_000), xfer_port: 1, ..Default::default() };
    let mut client = node.client();
    client.request(&write_request(&block(2), &[DatanodeInfoProto { id, ..Default::default() }]));
    assert!(client.response().first_bad_link().len() <= 300);
}

#[test]
fn flood_of_life_signs_reaches_the_writer_as_a_few_and_keeps_nobody_from_work() {
    let (_dir, node) = node(Duration::from_secs(10));
    let (target, served) = played(|mut socket| {
        socket.write_all(&status(Status::Success)).unwrap();
        let flood = acks(std::iter::repeat_n(HEARTBEAT_SEQNO, 1000));
        while socket.write_all(&flood).is_ok() {}
    });
    let mut client = node.client();
    client.request(&write_request(&block(3), &[target]));
    assert_eq!(client.response().status(), Status::Success);
    client.send(&packet(0, 0, &content(1000), false, false));
    let begun = Instant::now();
    let mut signs = 0;
    while begun.elapsed() < Duration::from_secs(1) {
        assert_eq!(client.ack().seqno, HEARTBEAT_SEQNO);
        signs += 1;
    }
    assert!(signs < 20, "{signs} signs of life in a second");
    let written = || node.plane.metrics.bytes_written.get() == 1000;
    wait_until("the packet is written here meanwhile", written);
    drop(client);
    served.join().unwrap();
    wait_until("the write ends", || node.service.active_transfers() == 0);
}

#[test]
fn copy_waits_for_a_target_that_says_it_is_slow() {
    let timeout = Duration::from_millis(500);
    let (_dir, node) = node(timeout);
    let (block, data) = (block(4), content(6 << 20));
    node.client().write(&block, &[], &data, 65_536);
    let (target, served) = played(move |mut socket| {
        // Its disk takes four times as long as anybody would wait in silence, before and after the set-up.
        for sign in [status(Status::InProgress), acks([HEARTBEAT_SEQNO].into_iter())] {
            for _ in 0..8 {
                socket.write_all(&sign).unwrap();
                std::thread::sleep(timeout / 2);
            }
            if sign == status(Status::InProgress) {
                socket.write_all(&status(Status::Success)).unwrap();
            }
        }
        socket.write_all(&acks(0..7)).unwrap();
        let mut taken = Vec::new();
        let _ = socket.read_to_end(&mut taken);
        assert!(taken.len() > 6 << 20);
    });
    copy_block(&node.plane, &block, &[target], &[], None).unwrap();
    // The connection is kept for the next copy: its end is the node's.
    drop(node);
    served.join().unwrap();
}

#[test]
fn copy_counts_acks_of_packets_only() {
    let (_dir, node) = node(Duration::from_secs(10));
    node.client().write(&block(5), &[], &content(1000), 4096);
    let (target, served) = played(|mut socket| {
        // Of two packets one is acknowledged; then the node says that it is about to restart, and does.
        socket.write_all(&[status(Status::Success), acks([0, UNKNOWN_SEQNO].into_iter())].concat()).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let error = copy_block(&node.plane, &block(5), &[target], &[], None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{}", error.chain());
    served.join().unwrap();
}

#[test]
fn set_up_that_waits_for_a_disk_gives_signs_to_those_that_take_them() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut writer = connect(&listener.local_addr().unwrap().to_string());
    let near = Connection::new(Arc::new(listener.accept().unwrap().0)).unwrap();
    let pulse = Pulse::start().unwrap();
    let upstream = Arc::new(Upstream::new(near.socket_handle(), true, SET_UP_CALL_MAX));
    pulse.watch(&upstream);
    let (heard, disk) = mpsc::channel::<()>();
    let set_up = std::thread::spawn(move || {
        upstream.while_busy(|| disk.recv_timeout(Duration::from_secs(20)).unwrap());
        upstream.push_response(&status(Status::Success));
        upstream.flush().unwrap();
    });
    assert_eq!(writer.response().status(), Status::InProgress);
    heard.send(()).unwrap();
    while writer.response().status() == Status::InProgress {}
    set_up.join().unwrap();
}
