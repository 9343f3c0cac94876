//! Measures, on demand: bytes per block and replicas per second.
//! `cargo test --release -p dfs-server blocks::tests::bench -- --ignored --nocapture`

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dfs_common::ids::{BlockId, FIRST_BLOCK, InodeId};
use dfs_proto::v1;

use super::super::{BlockEvent, TargetRequest};
use super::{Cluster, block};

const BLOCKS: u64 = 1_000_000;
const PAGE: usize = 10_000;

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn report(cluster: &Cluster, at: usize, ids: &[u64]) {
    let node = &cluster.nodes[at];
    let pages = ids.len().div_ceil(PAGE);
    for (number, ids) in ids.chunks(PAGE).enumerate() {
        let is_last = number + 1 == pages;
        let page = v1::BlockReportPage {
            datanode_uuid: node.uuid.clone(),
            registration_id: node.registration,
            report_number: node.next_number,
            storage_uuid: node.storage.clone(),
            ids: ids.to_vec(),
            generation_stamps: vec![1_001; ids.len()],
            lengths: vec![4096; ids.len()],
            last_of_storage: is_last,
            last: is_last,
            ..Default::default()
        };
        cluster.blocks.block_report_page(&page).unwrap();
    }
}

/// A million blocks with three replicas, on `nodes` DataNodes.
fn measure(nodes: usize) {
    let racks = vec!["/a"; nodes];
    let mut cluster = Cluster::unregistered(&racks, &[]);
    (0..nodes).for_each(|at| cluster.register_only(at));
    let mut lists = vec![Vec::new(); nodes];
    for id in 0..BLOCKS {
        for replica in 0..3 {
            let at = (id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize + replica * (nodes / 3).max(1);
            lists[at % nodes].push(FIRST_BLOCK.0 + id);
        }
    }
    let before = resident_bytes();
    let started = Instant::now();
    cluster.blocks.on_events((0..BLOCKS).map(|id| BlockEvent::Loaded {
        block: block(FIRST_BLOCK.0 + id, 1_001, 4096),
        inode: InodeId(20_000 + id),
        replication: 3,
        under_construction: false,
    }));
    let loaded = started.elapsed();
    let rate = |count: u64, since: Instant| count as f64 / since.elapsed().as_secs_f64() / 1e6;
    let started = Instant::now();
    for (at, ids) in lists.iter().enumerate() {
        report(&cluster, at, ids);
        cluster.nodes[at].next_number += 1;
    }
    let first = rate(3 * BLOCKS, started);
    let bytes = (resident_bytes() - before) as f64 / BLOCKS as f64;
    let started = Instant::now();
    lists.iter().enumerate().for_each(|(at, ids)| report(&cluster, at, ids));
    let again = rate(3 * BLOCKS, started);
    let started = Instant::now();
    for id in 0..BLOCKS {
        assert_eq!(cluster.blocks.locate(BlockId(FIRST_BLOCK.0 + id), Some("10.0.0.1")).datanodes.len(), 3);
    }
    let located = rate(BLOCKS, started);
    let started = Instant::now();
    let request =
        TargetRequest { replication: 3, writer: Some("10.0.0.1"), exclude: &[], chosen: &[], block_size: 128 << 20 };
    for _ in 0..BLOCKS {
        assert_eq!(cluster.blocks.choose_targets(&request).unwrap().len(), 3);
    }
    let chosen = rate(BLOCKS, started);
    let (died, waited) = measure_death(&mut cluster);
    println!(
        "{nodes:4} nodes: {bytes:.0} bytes per block; loaded {:.2} M/s; replicas reported first {first:.2} M/s, \
         again {again:.2} M/s; located {located:.2} M/s; targets chosen {chosen:.2} M/s; a node's death taken in within {died:?}, \
         the lock waited for {waited:?} at most",
        BLOCKS as f64 / loaded.as_secs_f64() / 1e6,
    );
    assert_eq!(cluster.blocks.fs_stats().missing_blocks, 0);
}

/// Time of the tick that takes the first node for dead, with all its replicas, and the longest that a call waited for the
/// lock meanwhile.
fn measure_death(cluster: &mut Cluster) -> (Duration, Duration) {
    cluster.blocks.leave_safe_mode();
    cluster.blocks.tick();
    for _ in 0..70 {
        cluster.pass(Duration::from_secs(1));
        (1..cluster.nodes.len()).for_each(|at| drop(cluster.heartbeat(at)));
        let started = Instant::now();
        let (blocks, is_over) = (&cluster.blocks, &AtomicBool::new(false));
        let longest_wait = std::thread::scope(|scope| {
            let caller = scope.spawn(move || {
                let mut longest = Duration::ZERO;
                while !is_over.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    blocks.is_active();
                    longest = longest.max(asked.elapsed());
                }
                longest
            });
            blocks.tick();
            is_over.store(true, Ordering::Relaxed);
            caller.join().unwrap()
        });
        if cluster.blocks.fs_stats().dead_datanodes == 1 {
            return (started.elapsed(), longest_wait);
        }
    }
    panic!("the node did not die");
}

#[test]
#[ignore = "a measurement"]
fn three_nodes() {
    measure(3);
}

#[test]
#[ignore = "a measurement"]
fn three_hundred_nodes() {
    measure(300);
}
