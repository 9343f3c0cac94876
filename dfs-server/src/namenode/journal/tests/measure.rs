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

/// Median of writing and syncing one frame by the I/O path alone, once the segment made ahead is there.
fn raw_write_latency(root: &Path) -> Duration {
    let mut files = LogFiles::open(root, 1).unwrap();
    let mut latencies = Vec::new();
    for index in 0..2_000 {
        let frame = [entry(1, index, [index])];
        let begin = Instant::now();
        files.append(&frame).unwrap();
        latencies.push(begin.elapsed());
    }
    // The first half runs beside the thread that writes the spare's zeros.
    let mut settled = latencies.split_off(1_000);
    settled.sort();
    percentile(&settled, 0.5)
}

fn entries_logged(journal: &TestJournal) -> u64 {
    journal.journal.state.applied.lock().log_id.map_or(0, |log_id| log_id.index)
}

/// Frames written so far: each is one write and one sync.
fn frames_written(journal: &TestJournal) -> u64 {
    journal.journal.index.lock().next_sequence - 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn journal_throughput() {
    let root = bench_root();
    NameDir::format(root.path(), None, |_, _| Ok(())).unwrap();
    let begin = Instant::now();
    let journal = Arc::new(TestJournal::open(root.path()).await);
    println!("start of a new journal: {:?}", begin.elapsed());
    // Raw writes and submissions by turns, because other work on the device changes from second to second.
    for round in 0..3 {
        let raw_root = bench_root();
        let raw = raw_write_latency(raw_root.path());
        let before = frames_written(&journal);
        let mut latencies = Vec::new();
        for number in 0..2_000 {
            let begin = Instant::now();
            journal.journal.submit(op(number)).await.unwrap();
            latencies.push(begin.elapsed());
        }
        assert_eq!(frames_written(&journal) - before, 2_000, "a lone operation is one write and one sync");
        latencies.sort();
        println!(
            "round {round}: raw p50 {raw:?}; 1 caller p50 {:?}, p99 {:?}, max {:?}",
            percentile(&latencies, 0.5),
            percentile(&latencies, 0.99),
            percentile(&latencies, 1.0)
        );
    }
    for callers in [4_u64, 16, 64, 256, 1_024] {
        let each = (200_000 / callers).min(2_000);
        let before = frames_written(&journal);
        let begin = Instant::now();
        let tasks: Vec<_> = (0..callers)
            .map(|_| {
                let journal = journal.clone();
                tokio::spawn(async move { journal.submit_all(0..each).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let elapsed = begin.elapsed();
        let frames = frames_written(&journal) - before;
        println!(
            "{callers} callers: {:.0} operations/s; {:.1} operations a frame, {:?} a frame",
            (callers * each) as f64 / elapsed.as_secs_f64(),
            (callers * each) as f64 / frames as f64,
            elapsed / u32::try_from(frames).unwrap()
        );
    }
    assert_eq!(frames_written(&journal), entries_logged(&journal) + 1, "entries count from 0");
    // What was answered is what a crash at this instant leaves.
    let expected = journal.numbers();
    let crashed = tempfile::tempdir_in(root.path().parent().unwrap()).unwrap();
    copy_tree(root.path(), crashed.path());
    let revived = TestJournal::open(crashed.path()).await;
    assert!(revived.numbers() == expected, "{} of {} survived", revived.numbers().len(), expected.len());
    revived.close().await;
    let begin = Instant::now();
    journal.journal.checkpoint().await.unwrap();
    println!("checkpoint of {} operations: {:?}", expected.len(), begin.elapsed());
    Arc::into_inner(journal).unwrap().close().await;
}

#[tokio::test]
#[ignore = "a measurement"]
async fn journal_replay() {
    let root = bench_root();
    NameDir::format(root.path(), None, |_, _| Ok(())).unwrap();
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
