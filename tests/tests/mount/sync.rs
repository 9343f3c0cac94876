//! fsync: who hears of bytes that were lost.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use dfs_tests::wait::wait_until;

use super::{Case, Mounts, assert_errno, cases};
use rustix::io::Errno;

pub(super) const CASES: [Case<Mounts>; 2] = cases![
    fsync_tells_every_open_descriptor_of_a_failed_writer_once,
    fsync_of_a_later_descriptor_tells_what_nobody_was_told,
];

/// Longer than the second after which bytes leave by themselves, with room for a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Lets the writer of a file of the directory `dir` lose bytes that it has accepted, and hear nothing of it.
fn lose_bytes(mounts: &Mounts, dir: &str, mut file: &File) {
    let recover = || mounts.cluster.dfs(&["admin", "recover-lease", &format!("/{dir}/file")]);
    file.write_all(b"kept").unwrap();
    // A command that starts closes its copies of all descriptors, which completes the file: from the next write on it
    // stays open.
    recover();
    file.write_all(b"kept").unwrap();
    file.sync_all().unwrap();
    recover();
    let inode = format!("inode={}", file.metadata().unwrap().ino());
    // It may be told at once; else the bytes are taken, and fail when they leave by themselves.
    if file.write_all(b"lost").is_ok() {
        let has_failed = |line: &str| {
            let failed = line.contains("writer failed in the background") || line.contains("writing failed");
            failed && line.split([' ', ',']).any(|word| word.trim_end_matches(['}', ':']) == inode)
        };
        wait_until(SOON, "the writer to fail", || mounts.mount.log_text().lines().any(has_failed));
    }
}

fn assert_lost(file: &File) {
    assert_errno(file.sync_all(), Errno::IO);
}

fn file_in(mounts: &Mounts, dir: &str) -> (std::path::PathBuf, File) {
    let path = mounts.mount.new_dir(dir).join("file");
    let file = File::create(&path).unwrap();
    (path, file)
}

fn open(path: &Path) -> File {
    File::open(path).unwrap()
}

fn fsync_tells_every_open_descriptor_of_a_failed_writer_once(mounts: &Mounts) {
    let (path, writer) = file_in(mounts, "sync-told");
    let readers = [open(&path), open(&path)];
    lose_bytes(mounts, "sync-told", &writer);
    for reader in &readers {
        assert_lost(reader);
        reader.sync_all().expect("it was told");
    }
    open(&path).sync_all().expect("somebody was told");
    // Who wrote hears of it until he closes.
    assert_lost(&writer);
    assert_lost(&writer);
    drop(writer);
    open(&path).sync_all().expect("somebody was told");
    assert_eq!(fs::read(&path).unwrap(), b"keptkept");
}

fn fsync_of_a_later_descriptor_tells_what_nobody_was_told(mounts: &Mounts) {
    let (path, writer) = file_in(mounts, "sync-untold");
    lose_bytes(mounts, "sync-untold", &writer);
    // Nobody looks at what close says, and nothing of the file is open any more.
    drop(writer);
    let readers = [open(&path), open(&path)];
    assert_lost(&readers[0]);
    readers[0].sync_all().expect("it was told");
    open(&path).sync_all().expect("somebody was told");
    assert_lost(&readers[1]);
}
