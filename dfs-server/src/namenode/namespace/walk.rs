//! A walk over a tree, some inodes at a time: between two pages of it nobody holds the namespace's lock. So it sees each part
//! as it is when it comes there; what is added behind it is not seen, what is removed before it neither.

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::InodeId;

use super::Namespace;
use super::directory::Cookie;
use super::inode::Inode;

/// Inodes in a page: a third of a millisecond.
pub const WALK_PAGE: usize = 1_000;

/// Directories that a walk may stand in, one below the other. No tree grows nearly as deep (`depth`), but older ones may be.
const DEPTH_MAX: usize = 1 << 20;

/// Where a walk stands.
pub struct TreeWalk {
    /// The inode at the top, until it has been visited.
    top: Option<InodeId>,
    /// Directories from the top down, each with the entry visited last.
    path: Vec<(InodeId, Cookie)>,
}

impl TreeWalk {
    /// Begins at `top`.
    pub fn new(top: InodeId) -> Self {
        Self { top: Some(top), path: Vec::new() }
    }

    /// Visits up to `max` more inodes, a directory before its entries, each with the directory it was found in (none for
    /// the top); false when the walk is over. An inode with several names is visited at each.
    ///
    /// # Errors
    /// `Stale` when the top is gone; those of `visit`.
    pub fn go_on(
        &mut self,
        namespace: &Namespace,
        max: usize,
        visit: &mut impl FnMut(Option<&Inode>, InodeId, &Inode) -> Result<()>,
    ) -> Result<bool> {
        if let Some(top) = self.top.take() {
            let inode = namespace.inode(top)?;
            visit(None, top, inode)?;
            self.enter(top, inode)?;
        }
        let mut left = max;
        while let Some((id, cookie)) = self.path.last_mut() {
            // A directory that was removed meanwhile has nothing below it.
            let Ok(parent) = namespace.inode(*id) else {
                self.path.pop();
                continue;
            };
            let (after, mut below) = (*cookie, None);
            for (at, dentry) in parent.directory().into_iter().flat_map(|directory| directory.after(after)) {
                if left == 0 {
                    return Ok(true);
                }
                left -= 1;
                *cookie = at;
                let inode = namespace.inode(dentry.inode)?;
                visit(Some(parent), dentry.inode, inode)?;
                if inode.directory().is_some() {
                    below = Some((dentry.inode, inode));
                    break;
                }
            }
            match below {
                Some((id, inode)) => self.enter(id, inode)?,
                None => drop(self.path.pop()),
            }
        }
        Ok(false)
    }

    fn enter(&mut self, id: InodeId, inode: &Inode) -> Result<()> {
        if inode.directory().is_none() {
            return Ok(());
        }
        if self.path.len() >= DEPTH_MAX {
            return Err(DfsError::new(ErrorKind::NameTooLong, "the tree is too deep to be walked"));
        }
        self.path.push((id, 0));
        Ok(())
    }
}
