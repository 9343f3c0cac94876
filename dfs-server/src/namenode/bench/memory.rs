//! Memory of this process.

use std::time::{Duration, Instant};

use dfs_common::error::{DfsError, Result};

/// Longer than the allocator keeps what was freed, which is ten seconds.
const SETTLED: Duration = Duration::from_secs(15);

/// What it has now.
pub(super) fn resident_bytes() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").map_err(|error| DfsError::io("read statm", error))?;
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    Ok(pages * rustix::param::page_size() as u64)
}

/// Resident memory once it shrinks no more: the allocator keeps what was freed for some seconds, and gives it back while it
/// is used.
pub(super) fn settled_bytes() -> Result<u64> {
    let (mut least, mut since) = (resident_bytes()?, Instant::now());
    while since.elapsed() < SETTLED {
        // Larger than what threads keep for themselves: only such use makes it give back.
        for _ in 0..2_000 {
            drop(std::hint::black_box(vec![0_u8; 64 << 10]));
        }
        std::thread::sleep(Duration::from_millis(20));
        let now = resident_bytes()?;
        if now < least {
            (least, since) = (now, Instant::now());
        }
    }
    Ok(least)
}
