//! Seeded storms of faults under a workload, with every invariant checked after them. A short run here; longer ones by hand:
//! `DFS_CHAOS_SECONDS=60 DFS_CHAOS_RUNS=100 cargo test --release --workspace --test chaos`.

use std::process::ExitCode;
use std::time::Duration;

use dfs_tests::cases;
use dfs_tests::chaos::scenario::Chaos;
use dfs_tests::network::enter_own_network;
use dfs_tests::suite::{self, Nothing};

/// Long enough for a storm or two.
const SECONDS: u64 = 30;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn storms_violate_nothing(_: &Nothing) {
    let length = Duration::from_secs(setting("DFS_CHAOS_SECONDS").unwrap_or(SECONDS));
    let given = setting("DFS_TEST_SEED");
    let runs = if given.is_some() { 1 } else { setting("DFS_CHAOS_RUNS").unwrap_or(1) };
    for _ in 0..runs {
        let seed = given.unwrap_or_else(rand::random);
        eprintln!("DFS_TEST_SEED={seed}");
        Chaos::new(seed).run(length);
    }
}

fn main() -> ExitCode {
    enter_own_network();
    suite::run(cases![storms_violate_nothing])
}
