//! Damage that nobody has met yet is found and repaired while there is one good replica.

use std::fs;
use std::time::{Duration, Instant};

use dfs_tests::bench::drop_caches;
use dfs_tests::cases;
use dfs_tests::checkers::replicas::check_identical;
use dfs_tests::cluster::Cluster;
use dfs_tests::fault::{flip_bit, replica_files};
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::wait::{REPAIR, wait_until};
use dfs_tests::workload::Pattern;

pub(super) const CASES: [Case<Nothing>; 1] = cases![all_replicas_but_one_of_100_blocks_are_damaged];

const BLOCKS: u64 = 100;
const LENGTH: u64 = 200_001;
/// From the first read or scan to the last replica replaced.
const REPLACED_WITHIN: Duration = Duration::from_secs(120);

fn all_replicas_but_one_of_100_blocks_are_damaged(_: &Nothing) {
    let cluster = Cluster::builder().start();
    let mount = cluster.mount("mount");
    fs::create_dir(mount.join("files")).unwrap();
    for seed in 0..BLOCKS {
        Pattern::new(seed).make_file(&mount.join(format!("files/{seed}")), LENGTH);
    }
    wait_until(REPAIR, "three identical replicas", || check_identical(&cluster, 3).is_ok());
    for datanode in 0..3 {
        for (at, path) in replica_files(&cluster, datanode).iter().enumerate() {
            // The same block has the same place in every node's list: each node keeps a third of them whole.
            if at % 3 != datanode {
                flip_bit(path, (at as u64 * 1_999) % LENGTH).unwrap();
            }
        }
    }
    drop_caches().unwrap();
    let begun = Instant::now();
    for node in &cluster.datanodes {
        node.scan();
    }
    for seed in 0..BLOCKS {
        Pattern::new(seed).check_file(&mount.join(format!("files/{seed}")), LENGTH);
    }
    wait_until(REPLACED_WITHIN.saturating_sub(begun.elapsed()), "every damaged replica replaced", || {
        check_identical(&cluster, 3).is_ok()
    });
    cluster.wait_fully_replicated();
    drop_caches().unwrap();
    for seed in 0..BLOCKS {
        Pattern::new(seed).check_file(&mount.join(format!("files/{seed}")), LENGTH);
    }
}
