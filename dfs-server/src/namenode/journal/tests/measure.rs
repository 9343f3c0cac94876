//! Measurements, run by hand; `JOURNAL_BENCH_DIR` names the directory (a device) to measure:
//!
//! ```text
//! cargo test --release -p dfs-server journal_throughput -- --ignored --nocapture
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::log_files::LogFiles;
use super::*;

fn bench_root() -> tempfile::TempDir {
    let parent = std::env::var_os("JOURNAL_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    tempfile::tempdir_in(parent).unwrap()
}

fn percentile(sorted: &[Duration], share: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

fn raw_write_latency(root: &Path) -> Duration {
    let mut files = LogFiles::open(root, 1).unwrap();
    let mut latencies = Vec::new();
    for index in 0..3_000 {
        let frame = [entry(1, index, [index])];
        let begin = Instant::now();
        files.append(&frame).unwrap();
        latencies.push(begin.elapsed());
    }
    latencies.sort();
    percentile(&latencies, 0.5)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn journal_throughput() {
    let raw_root = bench_root();
    println!("one frame written and synced: p50 {:?}", raw_write_latency(raw_root.path()));
    let root = bench_root();
    NameDir::format(root.path(), &FormatOptions::default()).unwrap();
    let begin = Instant::now();
    let journal = Arc::new(TestJournal::open(root.path()).await);
    println!("start of a new journal: {:?}", begin.elapsed());
    let mut latencies = Vec::new();
    for number in 0..5_000 {
        let begin = Instant::now();
        journal.journal.submit(op(number)).await.unwrap();
        latencies.push(begin.elapsed());
    }
    latencies.sort();
    println!(
        "1 caller: p50 {:?}, p99 {:?}, max {:?}",
        percentile(&latencies, 0.5),
        percentile(&latencies, 0.99),
        percentile(&latencies, 1.0)
    );
    for callers in [4_u64, 16, 64, 256, 1_024] {
        let operations = (callers * 2_000).min(200_000);
        let begin = Instant::now();
        let tasks: Vec<_> = (0..callers)
            .map(|_| {
                let journal = journal.clone();
                tokio::spawn(async move { journal.submit_all(0..operations / callers).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        println!("{callers} callers: {:.0} operations/s", operations as f64 / begin.elapsed().as_secs_f64());
    }
    let total = journal.numbers().len();
    let begin = Instant::now();
    journal.journal.checkpoint().await.unwrap();
    println!("checkpoint of {total} operations: {:?}", begin.elapsed());
    Arc::into_inner(journal).unwrap().close().await;
    for image in NameDir::open(root.path()).unwrap().images().unwrap() {
        std::fs::remove_file(image.path).unwrap();
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn journal_replay() {
    let root = bench_root();
    NameDir::format(root.path(), &FormatOptions::default()).unwrap();
    let journal = TestJournal::open(root.path()).await;
    for part in 0..200_u64 {
        let submissions = (part * 5_000..(part + 1) * 5_000).map(|number| journal.journal.submit(op(number)));
        for outcome in futures::future::join_all(submissions).await {
            outcome.unwrap();
        }
    }
    journal.close().await;
    let begin = Instant::now();
    let journal = TestJournal::open(root.path()).await;
    println!("start with 1,000,000 operations to replay: {:?}", begin.elapsed());
    journal.close().await;
}
