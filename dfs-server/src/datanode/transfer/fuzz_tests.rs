//! Byte streams that no honest peer sends: the node closes them and goes on serving.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use dfs_proto::data_transfer::encode_request;
use dfs_proto::hadoop::ClientOperationHeaderProto;
use dfs_proto::hadoop::OpReadBlockProto;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::test_client::*;

const STREAMS: usize = 2048;

/// Valid conversations, to be damaged.
fn samples() -> Vec<Vec<u8>> {
    let mut write = Vec::new();
    encode_request(&write_request(&block(50), &[]), &mut write).unwrap();
    write.extend_from_slice(&packets(&content(3000), 1000).0);
    let mut append = Vec::new();
    encode_request(&append_request(&block(1), 1000, 1002), &mut append).unwrap();
    append.extend_from_slice(&packet(0, 1000, &content(100), true, false));
    let mut read = Vec::new();
    let request = OpReadBlockProto {
        header: ClientOperationHeaderProto::new(&block(1), None, "test"),
        offset: 0,
        len: 1000,
        send_checksums: None,
        caching_strategy: None,
    };
    encode_request(&request, &mut read).unwrap();
    vec![write, append, read]
}

fn damaged(random: &mut StdRng, sample: &[u8]) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..4) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = random.random(),
            2 => bytes.truncate(at.max(1)),
            _ => bytes.insert(at, random.random()),
        }
    }
    bytes
}

#[test]
fn random_and_damaged_streams_leave_the_node_serving() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start_with(&store_settings(dir.path()), 16, Duration::from_secs(2));
    node.client().write(&block(1), &[], &content(1000), 4096);
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let samples = samples();
    for stream in 0..STREAMS {
        let bytes = if stream % 4 == 0 {
            let len = random.random_range(1..2000);
            (0..len).map(|_| random.random()).collect()
        } else {
            damaged(&mut random, &samples[stream % samples.len()])
        };
        let mut socket = TcpStream::connect(node.service.address()).unwrap();
        // The node may close before it has read everything.
        let _ = socket.write_all(&bytes);
        let _ = socket.shutdown(Shutdown::Write);
        let _ = socket.read_to_end(&mut Vec::new());
    }
    let data = content(5000);
    node.client().write(&block(1 << 40), &[], &data, 1000);
    assert_eq!(node.read(&block(1 << 40), 0, 5000).unwrap(), data);
    let first = node.store.visible_length(&block(1)).map(|length| node.read(&block(1), 0, length.min(1000)));
    if let Ok(Ok(bytes)) = first {
        assert_eq!(bytes, content(1000)[..bytes.len()], "seed {seed}");
    }
}

#[test]
fn packet_that_claims_to_be_huge_gets_no_memory_before_it_sends() {
    let dir = tempfile::tempdir().unwrap();
    let node = TestNode::start(&store_settings(dir.path()));
    let mut client = node.client();
    client.request(&write_request(&block(2), &[]));
    client.response();
    // 16 MiB and one byte more than a packet may have.
    client.send(&(16u32 << 20).to_be_bytes());
    client.send(&[0, 27]);
    assert!(client.is_closed());
}
