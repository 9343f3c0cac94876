//! How deep directories stand in each other. Whoever goes up from a directory to the root, as renames do, holds the
//! namespace's lock meanwhile; so the way is bounded.
//!
//! A directory that moves takes all below it along, so each directory knows its height: how many directories stand below it,
//! one in the other. It counts its subdirectories by theirs, and a change goes up as far as it changes a height. Heights
//! follow from the tree alone: an image does not have them, and every copy of the namespace has the same.
//!
//! Ops logged before there was a bound are replayed as they were applied. Trees from then that are too deep stay usable:
//! directories in them may move within their directory, and to less deep places of which the bound tells the depth.

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{InodeId, ROOT_INODE};

use super::Namespace;
use super::heights::DEPTH_MAX;

impl Namespace {
    /// A subdirectory of `parent` has another height than before; none: it is not (or no more) there.
    pub(in crate::namenode) fn change_height(
        &mut self,
        parent: InodeId,
        mut before: Option<u16>,
        mut after: Option<u16>,
    ) -> Result<()> {
        let mut id = parent;
        while before != after {
            let directory = self.directory_mut(id)?;
            let was = directory.heights.height();
            directory.heights.replace(before, after);
            (before, after) = (Some(was), Some(directory.heights.height()));
            if id == ROOT_INODE {
                break;
            }
            id = directory.parent;
        }
        Ok(())
    }

    /// Works out the heights of a namespace just loaded, from the lowest directories up.
    pub(in crate::namenode) fn find_heights(&mut self) {
        let is_lowest = |nlink| nlink == 2;
        let directories = self.all_inodes().filter(|(_, inode)| inode.directory().is_some());
        let mut complete: Vec<InodeId> =
            directories.filter(|(_, inode)| is_lowest(inode.nlink)).map(|(id, _)| id).collect();
        while let Some(id) = complete.pop() {
            let Ok(directory) = self.directory(id) else { continue };
            let (height, parent) = (directory.heights.height(), directory.parent);
            if id == ROOT_INODE {
                continue;
            }
            let Ok(inode) = self.inode_mut(parent) else { continue };
            let subdirectories = inode.nlink.saturating_sub(2);
            let Some(directory) = inode.directory_mut() else { continue };
            directory.heights.replace(None, Some(height));
            if directory.heights.count() == subdirectories {
                complete.push(parent);
            }
        }
    }

    /// Refuses to put a directory of `height` into `to`, where that makes it too deep. `from`: where it stands now.
    ///
    /// # Errors
    /// `NameTooLong`.
    pub fn check_depth(&self, height: u16, to: InodeId, from: Option<InodeId>) -> Result<()> {
        let depth_of = |id| self.way_up(id).take(DEPTH_MAX + 1).count() - 1;
        let depth = depth_of(to);
        let is_no_deeper = |from| depth < DEPTH_MAX && depth <= depth_of(from);
        if depth + 1 + usize::from(height) <= DEPTH_MAX || from.is_some_and(is_no_deeper) {
            return Ok(());
        }
        Err(DfsError::new(ErrorKind::NameTooLong, format!("directories stand in each other {DEPTH_MAX} deep at most")))
    }
}
