//! How fast the data plane is, with three nodes in this process: run with
//! `cargo test --release -p dfs-server --lib bench_ -- --ignored --nocapture`. `DFS_BENCH_DIRS` names the directories of the
//! nodes, separated by commas; else they are temporary ones.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use dfs_proto::data_transfer::encode_request;
use dfs_proto::hadoop::Status;

use super::test_client::*;

/// Bytes sent and not answered, as our client's default.
const IN_FLIGHT: usize = 16 << 20;

struct Cluster {
    nodes: Vec<TestNode>,
    _temporary: Vec<tempfile::TempDir>,
}

fn cluster() -> Cluster {
    let named = std::env::var("DFS_BENCH_DIRS").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = named.split(',').filter(|dir| !dir.is_empty()).map(PathBuf::from).collect();
    let mut temporary = Vec::new();
    while dirs.len() < 3 {
        temporary.push(tempfile::tempdir().unwrap());
        dirs.push(temporary.last().unwrap().path().to_owned());
    }
    let nodes = dirs.iter().map(|dir| TestNode::start(&store_settings(dir))).collect();
    Cluster { nodes, _temporary: temporary }
}

fn first_id() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
}

#[test]
#[ignore = "a measurement"]
fn bench_stream_through_three_nodes() {
    let rounds = std::env::var("DFS_BENCH_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap());
    for packet_size in [256 << 10, 64 << 10, 1 << 20] {
        for round in 0..rounds {
            let cluster = cluster();
            let before = cpu_time();
            let rate = stream(&cluster, packet_size, 8, 128 << 20);
            let cpu = (cpu_time() - before).as_secs_f64();
            println!("packets of {packet_size}, round {round}: {rate:.0} MB/s, {cpu:.2} core-seconds for 1 GiB");
        }
    }
}

/// Of this process so far: unlike rates it hardly depends on what else the machine does.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Writes blocks one after another; MB/s.
fn stream(cluster: &Cluster, packet_size: usize, blocks: usize, block_len: usize) -> f64 {
    let nodes = &cluster.nodes;
    let targets = [nodes[1].info(), nodes[2].info()];
    let data = content(packet_size);
    let mut client = nodes[0].client();
    let first = first_id();
    let started = Instant::now();
    for at in 0..blocks {
        client.request(&write_request(&block(first + at as u64), &targets));
        assert_eq!(client.response().status(), Status::Success);
        let count = block_len / packet_size;
        let template = packet(0, 0, &data, false, false);
        let mut packet_bytes = template.clone();
        let (mut sent, mut acked) = (0, 0);
        while sent < count {
            while (sent - acked) * packet_size >= IN_FLIGHT {
                assert!(client.ack().is_success());
                acked += 1;
            }
            patch(&mut packet_bytes, sent as i64, (sent * packet_size) as i64);
            client.send(&packet_bytes);
            sent += 1;
        }
        client.send(&packet(count as i64, block_len as u64, &[], true, false));
        while acked <= count {
            assert!(client.ack().is_success());
            acked += 1;
        }
    }
    (blocks * block_len) as f64 / started.elapsed().as_secs_f64() / 1e6
}

/// Changes offset and seqno of an encoded packet.
fn patch(bytes: &mut [u8], seqno: i64, offset: i64) {
    bytes[7..15].copy_from_slice(&offset.to_le_bytes());
    bytes[16..24].copy_from_slice(&seqno.to_le_bytes());
}

#[test]
#[ignore = "a measurement"]
fn bench_small_blocks_to_three_nodes() {
    let cluster = cluster();
    let targets = [cluster.nodes[1].info(), cluster.nodes[2].info()];
    let data = content(4096);
    let mut client = cluster.nodes[0].client();
    let first = first_id();
    for (label, sync) in [("not synced", false), ("synced", true)] {
        let mut times = Vec::new();
        for at in 0..3000 {
            let id = first + at + if sync { 1 << 20 } else { 0 };
            let started = Instant::now();
            let mut bytes = Vec::new();
            encode_request(&write_request(&block(id), &targets), &mut bytes).unwrap();
            bytes.extend_from_slice(&packet(0, 0, &data, true, sync));
            client.send(&bytes);
            client.expect_written(1, 3);
            times.push(started.elapsed());
        }
        print_times(&format!("4 KiB block, {label}"), &mut times);
    }
    let mut times = Vec::new();
    for at in 0..3000 {
        let started = Instant::now();
        client.read(&block(first + at), 0, 4096).unwrap();
        times.push(started.elapsed());
    }
    print_times("4 KiB read", &mut times);
}

#[test]
#[ignore = "a measurement"]
fn bench_read_of_one_block() {
    let cluster = cluster();
    let (block, len) = (block(first_id()), 128 << 20);
    cluster.nodes[0].client().write(&block, &[], &content(len), 256 << 10);
    let mut client = cluster.nodes[0].client();
    for round in 0..5 {
        let (before, started) = (cpu_time(), Instant::now());
        for _ in 0..8 {
            client.read_and_forget(&block, len as u64);
        }
        let rate = 8.0 * len as f64 / started.elapsed().as_secs_f64() / 1e6;
        let cpu = (cpu_time() - before).as_secs_f64();
        println!("read, round {round}: {rate:.0} MB/s, {cpu:.2} core-seconds for 1 GiB");
    }
}

fn print_times(label: &str, times: &mut [Duration]) {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{label}: p50 {:?}, p90 {:?}, p99 {:?}", at(0.5), at(0.9), at(0.99));
}
