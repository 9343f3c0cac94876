//! Paths to inodes, for those who have paths: component by component, as the kernel does it for a mount.

use std::collections::VecDeque;

use dfs_common::attr::{FileAttr, FileKind};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{InodeId, ROOT_INODE};

use super::DfsClient;
use crate::caller::Caller;

/// Linux's PATH_MAX.
const PATH_MAX: usize = 4096;
/// Symlinks followed in one walk, Linux's MAXSYMLINKS.
const SYMLINKS_MAX: usize = 40;

impl DfsClient {
    /// The inode at an absolute path. A symlink at its end is followed only with `follow_last` or a slash behind it.
    ///
    /// # Errors
    /// `InvalidArgument` for a relative path, `NotFound`, `NotADirectory`, `TooManySymlinks`, and those of
    /// [`lookup`](Self::lookup).
    pub async fn resolve(&self, caller: &Caller, path: &[u8], follow_last: bool) -> Result<FileAttr> {
        let must_be_directory = path.ends_with(b"/");
        let root = self.get_file_info(caller, ROOT_INODE).await?;
        let attr = self.walk(caller, root, components_of(path)?, follow_last || must_be_directory).await?;
        if must_be_directory && attr.kind != FileKind::Directory {
            return Err(not_a_directory(path));
        }
        Ok(attr)
    }

    /// The inode that has a name in a directory; of a symlink, what it leads to from there.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub async fn resolve_in(&self, caller: &Caller, directory: InodeId, name: &[u8]) -> Result<FileAttr> {
        let start = self.get_file_info(caller, directory).await?;
        self.walk(caller, start, VecDeque::from([name.to_vec()]), true).await
    }

    /// The directory that holds the last component of an absolute path, and that component, which need not exist.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no last component (`/`, or one of dots); else as [`resolve`](Self::resolve).
    pub async fn resolve_parent(&self, caller: &Caller, path: &[u8]) -> Result<(InodeId, Vec<u8>)> {
        let mut components = components_of(path)?;
        let name = match components.pop_back() {
            Some(name) if name != b".." && name != b"." => name,
            Some(_) | None => {
                let path = String::from_utf8_lossy(path);
                return Err(DfsError::new(ErrorKind::InvalidArgument, format!("{path} does not end in a name")));
            }
        };
        if components.is_empty() {
            return Ok((ROOT_INODE, name));
        }
        let root = self.get_file_info(caller, ROOT_INODE).await?;
        let parent = self.walk(caller, root, components, true).await?;
        if parent.kind != FileKind::Directory {
            return Err(not_a_directory(path));
        }
        Ok((parent.inode, name))
    }

    async fn walk(
        &self,
        caller: &Caller,
        start: FileAttr,
        mut todo: VecDeque<Vec<u8>>,
        follow_last: bool,
    ) -> Result<FileAttr> {
        // From the start to where the walk stands, for "..".
        let mut trail = vec![start];
        let mut symlinks = 0;
        while let Some(name) = todo.pop_front() {
            if name == b"." {
                continue;
            }
            if name == b".." {
                if trail.len() > 1 {
                    trail.pop();
                } else if trail[0].inode != ROOT_INODE {
                    trail = vec![self.lookup(caller, trail[0].inode, b"..").await?];
                }
                continue;
            }
            let here = &trail[trail.len() - 1];
            if here.kind != FileKind::Directory {
                return Err(not_a_directory(&name));
            }
            let found = self.lookup(caller, here.inode, &name).await?;
            if found.kind == FileKind::Symlink && (follow_last || !todo.is_empty()) {
                symlinks += 1;
                if symlinks > SYMLINKS_MAX {
                    let words = format!("more than {SYMLINKS_MAX} symbolic links on the way");
                    return Err(DfsError::new(ErrorKind::TooManySymlinks, words));
                }
                let target = self.get_link_target(caller, found.inode).await?;
                if target.starts_with(b"/") {
                    trail.truncate(1);
                    if trail[0].inode != ROOT_INODE {
                        trail = vec![self.get_file_info(caller, ROOT_INODE).await?];
                    }
                }
                for component in split(&target).into_iter().rev() {
                    todo.push_front(component);
                }
            } else {
                trail.push(found);
            }
        }
        Ok(trail.swap_remove(trail.len() - 1))
    }
}

fn components_of(path: &[u8]) -> Result<VecDeque<Vec<u8>>> {
    if path.len() > PATH_MAX {
        let words = format!("path has {} bytes, at most {PATH_MAX} are allowed", path.len());
        return Err(DfsError::new(ErrorKind::NameTooLong, words));
    }
    if !path.starts_with(b"/") {
        let path = String::from_utf8_lossy(path);
        return Err(DfsError::new(ErrorKind::InvalidArgument, format!("path {path:?} is not absolute")));
    }
    Ok(split(path))
}

fn split(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect()
}

fn not_a_directory(path: &[u8]) -> DfsError {
    let path = String::from_utf8_lossy(path);
    DfsError::new(ErrorKind::NotADirectory, format!("{path} is not a directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_of_drops_empty_parts_and_keeps_dots() {
        let parts = |path: &[u8]| components_of(path).unwrap().into_iter().collect::<Vec<_>>();
        assert!(parts(b"/").is_empty());
        assert_eq!(parts(b"//a/./b//../c/"), [&b"a"[..], b".", b"b", b"..", b"c"]);
        assert_eq!(components_of(b"a/b").unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(components_of(&[b'/'; 4097]).unwrap_err().kind(), ErrorKind::NameTooLong);
    }
}
