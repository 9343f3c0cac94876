//! The directory of a volume: taken for this process alone, known to be ours or empty, and written to as a probe.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use dfs_common::error::{DfsError, ErrorKind, Result};
use rustix::fs::FlockOperation;

use super::disk::{self, DiskFile};
use super::faults::is_full;
use super::layout::{CURRENT, LOCK_FILE};

/// Name of the file that a check writes; the suffix makes it recognisable as left-over.
pub(super) const PROBE_FILE: &str = "probe.tmp";
/// What a new file system has in its root before we touch it.
const HARMLESS_ENTRIES: [&str; 2] = ["lost+found", LOCK_FILE];

pub(super) fn lock(root: &Path) -> Result<File> {
    let path = root.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| DfsError::io(format!("open {}", path.display()), error))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        DfsError::new(ErrorKind::Busy, format!("{} is in use by another DataNode", root.display()))
            .with_source(io::Error::from(error))
    })?;
    Ok(file)
}

/// A directory without VERSION must be empty: what lies in it may be someone's data.
pub(super) fn refuse_foreign_entries(root: &Path) -> Result<()> {
    let list = || -> io::Result<Option<String>> {
        for entry in fs::read_dir(root)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // `current` without VERSION: a format that did not get to its end.
            if name == CURRENT {
                let mut inside = fs::read_dir(root.join(CURRENT))?;
                if inside.all(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().ends_with(".tmp"))) {
                    continue;
                }
            }
            if !HARMLESS_ENTRIES.contains(&name.as_str()) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    };
    match list() {
        Ok(None) => Ok(()),
        Ok(Some(name)) => Err(DfsError::new(
            ErrorKind::InvalidArgument,
            format!("{} has no VERSION but holds {name:?}; a new volume must be an empty directory", root.display()),
        )),
        Err(error) => Err(DfsError::io(format!("list {}", root.display()), error)),
    }
}

pub(super) fn place_of(root: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(root)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A full volume is no broken one: what lies on it can be read, and deleted.
pub(super) fn probe(root: &Path) -> io::Result<()> {
    let path = root.join(PROBE_FILE);
    match write_probe(&path) {
        Err(error) if is_full(&error) => {}
        written => written?,
    }
    // It is not there if there was no room for its name.
    disk::remove_if_there(&path)
}

fn write_probe(path: &Path) -> io::Result<()> {
    let file = DiskFile::create(path)?;
    file.write_all_at(b"probe", 0)?;
    file.sync_data()
}
