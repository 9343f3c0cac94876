//! A local tree as `put` walks it: on a blocking thread, each directory before its entries, links not followed.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::failure::{Failure, Outcome};

/// Entries found ahead of the transfers.
const QUEUED_ENTRIES: usize = 256;

/// Something in the tree.
#[derive(Debug)]
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

    #[tokio::test]
    async fn walk_of_nothing_is_a_failure() {
        let mut entries = walk("/no/such/place".into());
        assert!(entries.recv().await.unwrap().is_err());
        assert!(entries.recv().await.is_none());
    }
}
