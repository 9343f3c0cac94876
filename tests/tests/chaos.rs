//! Seeded storms of faults under a workload, with every invariant checked after them. A short run here; longer ones by hand,
//! of which the first are those of seeds that found something once:
//! `DFS_CHAOS_SECONDS=60 DFS_CHAOS_RUNS=100 cargo test --release --workspace --test chaos`.

use std::process::ExitCode;
use std::time::Duration;

use dfs_tests::cases;
use dfs_tests::chaos::scenario::Chaos;
use dfs_tests::network::enter_own_network;
use dfs_tests::suite::{self, Nothing};

/// Long enough for a storm or two.
const SECONDS: u64 = 30;

/// What they found is mended. A seed says which faults come and where they hit, not when: the same may need several runs.
const FOUND: [u64; 9] =
    [4, 5, 6, 7, 8, 10, 16_101_664_165_241_459_556, 9_141_040_605_584_463_593, 8_025_704_915_999_028_150];

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn storms_violate_nothing(_: &Nothing) {
    let length = Duration::from_secs(setting("DFS_CHAOS_SECONDS").unwrap_or(SECONDS));
    let given = setting("DFS_TEST_SEED");
    let seeds: Vec<u64> = match (given, setting("DFS_CHAOS_RUNS")) {
        (Some(seed), _) => vec![seed],
        (None, None) => vec![rand::random()],
        (None, Some(runs)) => {
            FOUND.into_iter().chain(std::iter::repeat_with(rand::random)).take(runs as usize).collect()
        }
    };
    for seed in seeds {
        eprintln!("DFS_TEST_SEED={seed}");
        Chaos::new(seed).run(length);
    }
}

fn main() -> ExitCode {
    enter_own_network();
    suite::run(cases![storms_violate_nothing])
}
