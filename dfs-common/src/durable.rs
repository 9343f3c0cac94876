//! Small files that are whole or absent after a crash, and directories whose entries are on disk.
//!
//! The recipe: write a sibling with a temporary name, sync it, rename it over the target, sync the directory. A file
//! replaced this way is never seen half-written. Callers add their own checksum where a flipped bit must be noticed.

use std::io::{self, Write};
use std::path::Path;

use crate::disk::{self, DiskFile};
pub use crate::disk::{sync_dir, sync_file};

/// Suffix of files not yet renamed into place; whatever carries it at start is left-over and may be removed.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// Replaces `path` by `content`, durably and atomically.
///
/// # Errors
/// Of any step; the old file is then still there, whole.
pub fn write_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    let temporary = Path::new(&name);
    let mut file = DiskFile::create(temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    rename(temporary, path)
}

/// Renames and makes the new name durable. The file itself must be synced already. After a power cut the old name may be there,
/// too, if it was in another directory.
///
/// # Errors
/// Of rename or of the directory's fsync.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    disk::rename(from, to)?;
    sync_dir(parent_of(to))
}

/// Creates a directory and its missing parents; what it creates is durable. A directory that was there already may still be
/// on its way to the device.
///
/// # Errors
/// Of mkdir or fsync.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    create_dir_all(parent)?;
    match disk::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error),
    }
    sync_dir(parent)
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn write_file_replaces_whole_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/VERSION");
        create_dir_all(path.parent().unwrap()).unwrap();
        write_file(&path, b"one").unwrap();
        write_file(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
