//! The same work on several mounted directories, side by side.
//!
//! A group is a piece of work that yields several figures, all rates, so that more is better everywhere. In each round
//! every group runs on every directory before the next group does: what the machine does meanwhile hits all of them. Before
//! each measurement that writes, everything is written back and the machine comes to rest.
//! Content is checked outside the measured time. "Cold" means after `sync` and dropping all of the kernel's caches, which
//! empties the mount's caches and those of the devices below (loop devices must have direct I/O on).

pub mod files;
pub mod report;
pub mod stream;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use report::Report;

/// A directory to be measured.
#[derive(Clone, Debug)]
pub struct Target {
    /// Heading of its column.
    pub name: String,
    /// Any directory on it.
    pub path: PathBuf,
}

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

/// What issue and README quote figures for.
pub const FULL: Scale = Scale {
    stream_bytes: 512 << 20,
    random_reads: 5_000,
    small_files: 2_000,
    directories: 1_000,
    appends: 500,
    listed_entries: 10_000,
    tree_files: 1_500,
};

/// A look in seconds.
pub const QUICK: Scale = Scale {
    stream_bytes: 64 << 20,
    random_reads: 1_000,
    small_files: 300,
    directories: 200,
    appends: 100,
    listed_entries: 2_000,
    tree_files: 200,
};

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
    target: &'a str,
    report: &'a mut Report,
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

/// A group of figures.
pub struct Group {
    /// What `--only` selects.
    pub name: &'static str,
    work: fn(&mut Run<'_>) -> Result<()>,
}

/// All groups, in the order of the table.
pub const GROUPS: &[Group] = &[
    Group { name: "stream", work: stream::stream },
    Group { name: "files-1", work: files::small_files_one_thread },
    Group { name: "files-8", work: files::small_files_eight_threads },
    Group { name: "directories", work: files::directories },
    Group { name: "append", work: stream::append },
    Group { name: "listing", work: files::listing },
    Group { name: "copy", work: files::copy_tree },
];

/// Runs the groups on all targets.
///
/// # Errors
/// When a target cannot be used at all; a group that fails is noted in the report.
pub fn run(targets: &[Target], groups: &[&Group], scale: Scale, rounds: usize) -> Result<Report> {
    let mut report = Report::new(targets.iter().map(|target| target.name.clone()).collect(), rounds);
    let mut roots = Vec::new();
    for target in targets {
        let root = target.path.join(format!("dfs-bench-{}", std::process::id()));
        fs::create_dir(&root).with_context(|| format!("make {}", root.display()))?;
        roots.push(root);
    }
    for round in 0..rounds {
        for group in groups {
            // Who comes second meets what the first has left to be written: it is not always the same.
            let mut order: Vec<_> = targets.iter().zip(&roots).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for (target, root) in order {
                eprintln!("round {}/{rounds}  {:12} {}", round + 1, group.name, target.name);
                if let Err(error) = run_group(group, target, root, scale, round, &mut report) {
                    eprintln!("  failed: {error:#}");
                    report.fail(group.name, &target.name, format!("{error:#}"));
                }
            }
        }
    }
    for root in roots {
        fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
    }
    Ok(report)
}

fn run_group(
    group: &Group,
    target: &Target,
    root: &Path,
    scale: Scale,
    round: usize,
    report: &mut Report,
) -> Result<()> {
    let dir = root.join(format!("{}-{round}", group.name));
    let keep = root.join(format!("{}-keep", group.name));
    fs::create_dir(&dir)?;
    fs::create_dir_all(&keep)?;
    let mut run = Run { dir: &dir, scale, round, keep: &keep, target: &target.name, report };
    let result = (group.work)(&mut run);
    // A failed group may leave files; they must not disturb the next one.
    fs::remove_dir_all(&dir)?;
    result
}

/// Share of the processors' time that a machine at rest may use: daemons have their ticks.
const CALM: f64 = 0.2;
/// Between two looks at what the processors do.
const LOOK: Duration = Duration::from_millis(250);
/// How long to wait for calm, and how many calm looks in a row count as such.
const CALM_TIMEOUT: Duration = Duration::from_secs(15);
const CALM_LOOKS: u32 = 2;

/// Writes everything back and waits until the processors rest, so that no earlier work, of whichever target, is paid for by
/// what is measured next: every system here leaves work for later, deletion of replicas above all.
pub fn settle() {
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
fn settle_cold() -> Result<()> {
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

/// As an amount of work.
pub(crate) fn amount(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
