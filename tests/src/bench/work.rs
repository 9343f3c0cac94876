//! One group at work in one directory: how much it does, and where it tells what it measured.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::report::Report;

/// How much work is done.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Bytes of the streamed file.
    pub stream_bytes: u64,
    /// Random reads.
    pub random_reads: usize,
    /// 4 KiB files.
    pub small_files: usize,
    /// Directories made and renamed.
    pub directories: usize,
    /// Appends with fsync.
    pub appends: usize,
    /// Entries of the listed directory.
    pub listed_entries: usize,
    /// Files of the copied tree.
    pub tree_files: usize,
}

/// Where a group works and tells what it measured.
pub struct Run<'a> {
    /// An empty directory of the target.
    pub dir: &'a Path,
    /// How much to do.
    pub scale: Scale,
    /// Differs between rounds, so that no cache knows the content.
    pub round: usize,
    /// A directory that stays from round to round, for what is dear to prepare.
    pub keep: &'a Path,
    pub(super) target: &'a str,
    pub(super) report: &'a mut Report,
}

impl Run<'_> {
    /// Measures `work`, and notes `amount` per second.
    ///
    /// # Errors
    /// Of the work.
    pub fn rate<T>(
        &mut self,
        case: &str,
        unit: &'static str,
        amount: f64,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let begun = Instant::now();
        let result = work().with_context(|| case.to_owned())?;
        self.note(case, unit, amount, begun.elapsed());
        Ok(result)
    }

    fn note(&mut self, case: &str, unit: &'static str, amount: f64, took: Duration) {
        self.report.add(case, unit, self.target, amount / took.as_secs_f64().max(1e-9));
    }
}

/// As an amount of work.
pub(super) fn amount(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
