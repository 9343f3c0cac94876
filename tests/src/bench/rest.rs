//! The machine brought to rest before something is measured, and its caches emptied.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Share of the processors' time that a machine at rest may use: daemons have their ticks.
const CALM: f64 = 0.2;
/// Between two looks at what the processors do.
const LOOK: Duration = Duration::from_millis(250);
/// How long to wait for calm, and how many calm looks in a row count as such.
const CALM_TIMEOUT: Duration = Duration::from_secs(15);
const CALM_LOOKS: u32 = 2;

/// Writes everything back and waits until the processors rest, so that no earlier work, of whichever target, is paid for by
/// what is measured next: every system here leaves work for later, deletion of replicas above all.
pub(super) fn settle() {
    rustix::fs::sync();
    let begun = Instant::now();
    let mut calm_looks = 0;
    let mut before = processor_times();
    while calm_looks < CALM_LOOKS && begun.elapsed() < CALM_TIMEOUT {
        std::thread::sleep(LOOK);
        let now = processor_times();
        let (Some((busy_before, all_before)), Some((busy, all))) = (before, now) else { return };
        let share = busy.saturating_sub(busy_before) as f64 / all.saturating_sub(all_before).max(1) as f64;
        calm_looks = if share <= CALM { calm_looks + 1 } else { 0 };
        before = now;
    }
}

/// Ticks that all processors together were busy, and ticks in all, since the machine started.
fn processor_times() -> Option<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    // cpu  user nice system idle iowait irq softirq steal ...
    let ticks: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).take(8).map_while(|t| t.parse().ok()).collect();
    let all: u64 = ticks.iter().sum();
    Some((all - ticks.get(3)? - ticks.get(4)?, all))
}

/// As [`settle`], and then nothing is cached.
pub(super) fn settle_cold() -> Result<()> {
    settle();
    drop_caches()
}

/// Empties the kernel's caches of pages, names and inodes. Tests do so while the machine is busy with other things.
///
/// # Errors
/// When not root.
pub fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("drop caches (needs root)")
}
