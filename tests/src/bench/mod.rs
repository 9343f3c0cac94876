//! The same work on several mounted directories, side by side.
//!
//! A group is a piece of work that yields several figures, all rates, so that more is better everywhere. In each round
//! every group runs on every directory before the next group does: what the machine does meanwhile hits all of them. Before
//! each measurement that writes, everything is written back and the machine comes to rest.
//! Content is checked outside the measured time. "Cold" means after `sync` and dropping all of the kernel's caches, which
//! empties the mount's caches and those of the devices below (loop devices must have direct I/O on).

pub mod files;
pub mod report;
mod rest;
pub mod stream;
mod work;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use report::Report;
pub use rest::drop_caches;
pub use work::{Run, Scale};

/// A directory to be measured.
#[derive(Clone, Debug)]
pub struct Target {
    /// Heading of its column.
    pub name: String,
    /// Any directory on it.
    pub path: PathBuf,
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
