//! A local tree as `put` walks it: on a blocking thread, each directory before its entries, links not followed.
//!
//! Between the walk and the copy of a file, somebody may put something else in its place: a link out of the tree, a fifo
//! that never ends. What is opened must be what the walk has found.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::failure::{Failure, Outcome};
use crate::local_id::LocalId;

/// Entries found ahead of the transfers.
const QUEUED_ENTRIES: usize = 256;

/// Something in the tree.
#[derive(Clone, Debug)]
pub(crate) struct LocalEntry {
    /// Its path, usable as it is.
    pub(crate) path: PathBuf,
    /// The same, from the top of the tree; empty for the top.
    pub(crate) relative: PathBuf,
    /// What it is; of a link, the link's own.
    pub(crate) metadata: Metadata,
}

impl LocalEntry {
    /// Whether it is what the user named.
    pub(crate) fn is_top(&self) -> bool {
        self.relative.as_os_str().is_empty()
    }

    /// Opens it to be read, and says what it is now. Opening a fifo that was named waits for a writer.
    ///
    /// # Errors
    /// When it is not the file that was found; those of open and fstat.
    pub(crate) fn open(&self) -> Outcome<(File, Metadata)> {
        let failed = |error| Failure::local(&self.path, error);
        let changed = || Failure::refused(self.path.display(), "changed while it was copied");
        let must_be_same = self.metadata.is_file();
        let mut flags = libc::O_NOCTTY;
        if must_be_same {
            flags |= libc::O_NONBLOCK;
        }
        if !self.is_top() {
            flags |= libc::O_NOFOLLOW;
        }
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&self.path) {
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) && !self.is_top() => return Err(changed()),
            opened => opened.map_err(failed)?,
        };
        let is = file.metadata().map_err(failed)?;
        if must_be_same && LocalId::of(&is) != LocalId::of(&self.metadata) { Err(changed()) } else { Ok((file, is)) }
    }
}

/// Walks the tree at `top`; the entries arrive in order of name. What cannot be read arrives as a failure, and the walk
/// goes on.
pub(crate) fn walk(top: PathBuf) -> mpsc::Receiver<Outcome<LocalEntry>> {
    let (sender, receiver) = mpsc::channel(QUEUED_ENTRIES);
    tokio::task::spawn_blocking(move || {
        let mut pending = vec![(top, PathBuf::new())];
        while let Some((path, relative)) = pending.pop() {
            // The top is what the user named: a link there stands for what it points to.
            let metadata =
                if relative.as_os_str().is_empty() { fs::metadata(&path) } else { fs::symlink_metadata(&path) };
            let metadata = match metadata {
                Ok(metadata) => metadata,
                Err(error) => match sender.blocking_send(Err(Failure::local(&path, error))) {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            let children = if metadata.is_dir() { children(&path, &relative) } else { Ok(Vec::new()) };
            let complaint = children.map(|children| pending.extend(children.into_iter().rev()));
            let complaint = complaint.map_err(|error| Failure::local(&path, error));
            if sender.blocking_send(Ok(LocalEntry { path, relative, metadata })).is_err() {
                return;
            }
            if let Err(failure) = complaint
                && sender.blocking_send(Err(failure)).is_err()
            {
                return;
            }
        }
    });
    receiver
}

fn children(path: &Path, relative: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let mut children = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        children.push((entry.path(), relative.join(entry.file_name())));
    }
    children.sort_unstable();
    Ok(children)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn walk_gives_directories_before_their_entries() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("b/c")).unwrap();
        fs::write(dir.path().join("b/c/f"), "").unwrap();
        fs::write(dir.path().join("a"), "").unwrap();
        std::os::unix::fs::symlink("..", dir.path().join("b/loop")).unwrap();
        let mut entries = walk(dir.path().to_owned());
        let mut found = Vec::new();
        while let Some(entry) = entries.recv().await {
            found.push(entry.unwrap().relative.display().to_string());
        }
        assert_eq!(found, ["", "a", "b", "b/c", "b/c/f", "b/loop"]);
    }

    #[test]
    fn open_takes_only_what_the_walk_has_found() {
        use rustix::fs::{CWD, FileType, mknodat};
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let found = |name: &str, relative: &str| LocalEntry {
            path: at(name),
            relative: relative.into(),
            metadata: fs::metadata(at(name)).unwrap(),
        };
        fs::write(at("file"), "text").unwrap();
        fs::write(at("other"), "secret").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        assert!(found("file", "file").open().is_ok() && found("file", "").open().is_ok());
        assert!(found("link", "").open().is_ok(), "what was named may be a link");
        let (named, below) = (found("file", ""), found("file", "file"));
        let refused = |told: &str| {
            for entry in [&named, &below] {
                let failure = entry.open().unwrap_err().to_string();
                assert!(failure.ends_with("file: changed while it was copied"), "{told}: {failure}");
            }
        };
        // Kept, so that nothing else gets its inode.
        fs::rename(at("file"), at("kept")).unwrap();
        std::os::unix::fs::symlink("other", at("file")).unwrap();
        refused("a link");
        fs::remove_file(at("file")).unwrap();
        mknodat(CWD, at("file"), FileType::Fifo, 0o600.into(), 0).unwrap();
        refused("a fifo that nobody writes to");
        fs::remove_file(at("file")).unwrap();
        fs::rename(at("other"), at("file")).unwrap();
        refused("another file");
        // The same file by a link is the same only where links are followed.
        fs::remove_file(at("file")).unwrap();
        std::os::unix::fs::symlink("kept", at("file")).unwrap();
        assert!(named.open().is_ok() && below.open().is_err());
    }

    #[tokio::test]
    async fn walk_of_nothing_is_a_failure() {
        let mut entries = walk("/no/such/place".into());
        assert!(entries.recv().await.unwrap().is_err());
        assert!(entries.recv().await.is_none());
    }
}
