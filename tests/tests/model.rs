//! Random operations on a mount and on a local directory: the same answers, the same errors, the same tree.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::ExitCode;

use dfs_tests::cases;
use dfs_tests::checkers::tree::compare;
use dfs_tests::cluster::Cluster;
use dfs_tests::mount::Mount;
use dfs_tests::suite::{self, Shared};
use dfs_tests::workload::Pattern;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps, renameat_with, utimensat};

struct Mounted {
    mount: Mount,
    cluster: Cluster,
}

impl Shared for Mounted {
    fn set_up() -> Self {
        let cluster = Cluster::builder().set("dfs.blocksize=1MiB").start();
        Self { mount: cluster.mount("mount"), cluster }
    }

    fn diagnostics(&self) -> String {
        [self.cluster.diagnostics(), self.mount.diagnostics()].join("\n")
    }
}

/// One operation, with paths below the root of either side.
#[derive(Clone, Debug)]
enum Op {
    Mkdir(String),
    Rmdir(String),
    CreateNew(String),
    Replace(String, Pattern, u64),
    Append(String, Pattern, u64),
    /// To a share of its length, in hundredths.
    Truncate(String, u64),
    Unlink(String),
    Rename(String, String),
    RenameNoReplace(String, String),
    RenameExchange(String, String),
    Link(String, String),
    Symlink(String, String),
    Chmod(String, u32),
    Chown(String, u32, u32),
    SetTimes(String, i64, i64),
    Read(String),
    List(String),
    ReadLink(String),
    Stat(String),
}

/// Few names, three levels: so that operations meet.
fn random_path(rng: &mut SmallRng) -> String {
    let depth = rng.random_range(1..=3);
    let names: Vec<String> = (0..depth).map(|_| ["a", "b", "c", "d"][rng.random_range(0..4)].to_owned()).collect();
    names.join("/")
}

fn random_op(rng: &mut SmallRng) -> Op {
    let path = random_path(rng);
    let pattern = Pattern::new(rng.random());
    let length = match rng.random_range(0..4) {
        0 => 0,
        1 => rng.random_range(1..600),
        2 => rng.random_range(1..70_000),
        _ => rng.random_range(1..2_500_000),
    };
    match rng.random_range(0..32) {
        0..=3 => Op::Mkdir(path),
        4 => Op::Rmdir(path),
        5..=6 => Op::CreateNew(path),
        7..=10 => Op::Replace(path, pattern, length),
        11..=13 => Op::Append(path, pattern, length),
        14 => Op::Truncate(path, rng.random_range(0..=100)),
        15..=16 => Op::Unlink(path),
        17..=19 => Op::Rename(path, random_path(rng)),
        20 => Op::RenameNoReplace(path, random_path(rng)),
        21 => Op::RenameExchange(path, random_path(rng)),
        22 => Op::Link(path, random_path(rng)),
        23 => Op::Symlink(random_path(rng), path),
        24 => Op::Chmod(path, rng.random_range(0..0o10000)),
        25 => Op::Chown(path, rng.random_range(0..5), rng.random_range(0..5)),
        26 => Op::SetTimes(path, rng.random_range(0..1_000_000), rng.random_range(0..1_000_000_000)),
        27..=28 => Op::Read(path),
        29 => Op::List(path),
        30 => Op::ReadLink(path),
        _ => Op::Stat(path),
    }
}

/// Does an operation below `root`; what it answered as text, or its errno.
fn perform(root: &Path, op: &Op) -> Result<String, i32> {
    let at = |path: &String| root.join(path);
    let done = |result: io::Result<()>| result.map(|()| String::new());
    let rename = |from: &String, to: &String, flags| Ok(renameat_with(CWD, at(from), CWD, at(to), flags)?);
    let result = match op {
        Op::Mkdir(path) => done(fs::create_dir(at(path))),
        Op::Rmdir(path) => done(fs::remove_dir(at(path))),
        Op::CreateNew(path) => done(File::create_new(at(path)).map(drop)),
        Op::Replace(path, pattern, length) => {
            done(File::create(at(path)).and_then(|file| pattern.write(file, 0, *length)))
        }
        Op::Append(path, pattern, length) => done(append(&at(path), *pattern, *length)),
        Op::Truncate(path, share) => done(truncate(&at(path), *share)),
        Op::Unlink(path) => done(fs::remove_file(at(path))),
        Op::Rename(from, to) => done(fs::rename(at(from), at(to))),
        Op::RenameNoReplace(from, to) => done(rename(from, to, RenameFlags::NOREPLACE)),
        Op::RenameExchange(from, to) => done(rename(from, to, RenameFlags::EXCHANGE)),
        Op::Link(from, to) => done(fs::hard_link(at(from), at(to))),
        Op::Symlink(target, path) => done(symlink(target, at(path))),
        Op::Chmod(path, mode) => done(fs::set_permissions(at(path), Permissions::from_mode(*mode))),
        Op::Chown(path, uid, gid) => done(chown(at(path), Some(*uid), Some(*gid))),
        Op::SetTimes(path, seconds, nanoseconds) => done(set_times(&at(path), *seconds, *nanoseconds)),
        Op::Read(path) => fs::read(at(path)).map(|bytes| format!("{} bytes, sum {}", bytes.len(), sum(&bytes))),
        Op::List(path) => list(&at(path)),
        Op::ReadLink(path) => fs::read_link(at(path)).map(|target| target.display().to_string()),
        Op::Stat(path) => stat(&at(path)),
    };
    result.map_err(|error| error.raw_os_error().unwrap_or(0))
}

fn append(path: &Path, pattern: Pattern, length: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    let bytes = pattern.bytes(usize::try_from(length).map_err(io::Error::other)?);
    for piece in bytes.chunks(100_001) {
        file.write_all(piece)?;
    }
    Ok(())
}

fn truncate(path: &Path, share: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(file.metadata()?.len() * share / 100)
}

fn set_times(path: &Path, seconds: i64, nanoseconds: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    Ok(utimensat(CWD, path, &Timestamps { last_access: time, last_modification: time }, AtFlags::empty())?)
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
}

fn list(path: &Path) -> io::Result<String> {
    let mut names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(format!("{names:?}"))
}

fn stat(path: &Path) -> io::Result<String> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::symlink_metadata(path)?;
    let length = if meta.is_dir() { 0 } else { meta.len() };
    Ok(format!("{:o} {} {} {} {length}", meta.mode(), meta.uid(), meta.gid(), meta.nlink()))
}

/// One walk of random operations from a seed.
fn walk(mounted: &Mounted, seed: u64, steps: usize) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let local = tempfile::tempdir().expect("make local directory");
    let remote = mounted.mount.new_dir(&format!("walk-{seed}"));
    for directory in ["a", "b", "a/b"] {
        fs::create_dir(local.path().join(directory)).expect("mkdir");
        fs::create_dir(remote.join(directory)).expect("mkdir");
    }
    for step in 0..steps {
        let op = random_op(&mut rng);
        let (expected, actual) = (perform(local.path(), &op), perform(&remote, &op));
        assert_eq!(actual, expected, "seed {seed}, step {step}: {op:?} (left: mount, right: local)");
        if step % 50 == 49 {
            compare(&remote, local.path()).unwrap_or_else(|why| panic!("seed {seed}, after step {step} {op:?}: {why}"));
        }
    }
    compare(&remote, local.path()).unwrap_or_else(|why| panic!("seed {seed}, at the end: {why}"));
}

/// Walks that once found something; they run for ever.
fn regression_walks(mounted: &Mounted) {
    for (seed, steps) in [(1, 1000), (2, 1000), (3, 1000), (2989203339156196429, 1101)] {
        walk(mounted, seed, steps);
    }
}

fn new_walks(mounted: &Mounted) {
    let given = std::env::var("DFS_TEST_SEED").ok().and_then(|text| text.parse().ok());
    for _ in 0..4 {
        let seed = given.unwrap_or_else(|| rand::random_range(1_000..u64::MAX));
        eprintln!("DFS_TEST_SEED={seed}");
        walk(mounted, seed, 1500);
        if given.is_some() {
            break;
        }
    }
}

fn main() -> ExitCode {
    suite::run(cases![regression_walks, new_walks])
}
