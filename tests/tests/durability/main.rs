//! What was acknowledged survives: kill -9 of every daemon at random moments, power cut on every device, damaged and
//! lost replicas, full devices. Every case has a cluster of its own.

mod admin;
mod answers;
mod balancer;
mod checkpoint;
mod crash;
mod disks;
mod integrity;
mod pipeline;
mod recovery;
mod removal;
mod repair;
mod replicas;

use std::process::ExitCode;

use dfs_tests::suite::{self, Case, Nothing};

fn main() -> ExitCode {
    let groups: [&[Case<Nothing>]; 12] = [
        &admin::CASES,
        &answers::CASES,
        &crash::CASES,
        &checkpoint::CASES,
        &disks::CASES,
        &integrity::CASES,
        &pipeline::CASES,
        &recovery::CASES,
        &removal::CASES,
        &replicas::CASES,
        &repair::CASES,
        &balancer::CASES,
    ];
    suite::run(groups.concat())
}

/// The seed of a case: from `DFS_TEST_SEED` to repeat a failure, else a new one. Printed either way.
fn seed() -> u64 {
    let seed = std::env::var("DFS_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("DFS_TEST_SEED={seed}");
    seed
}
