//! Telling the kernel that what it remembers is out of date.

use std::sync::OnceLock;

use dfs_common::ids::InodeId;
use fuser::{INodeNo, Notifier};
use tracing::debug;

/// The way to the kernel's caches; connected once the mount is there.
pub(crate) struct KernelCaches {
    notifier: OnceLock<Notifier>,
}

impl KernelCaches {
    pub(crate) fn new() -> Self {
        Self { notifier: OnceLock::new() }
    }

    pub(crate) fn connect(&self, notifier: Notifier) {
        // Connected once, by the session; a second call would mean the same mount.
        let _ = self.notifier.set(notifier);
    }

    /// Lets the kernel ask for an inode's attributes again. Only attributes (offset -1): a notification that drops pages
    /// deadlocks when sent while a request for the same inode is being answered.
    pub(crate) fn drop_attributes(&self, inode: InodeId) {
        let Some(notifier) = self.notifier.get() else { return };
        if let Err(error) = notifier.inval_inode(INodeNo(inode.0), -1, 0) {
            // ENOENT: the kernel does not have the inode, so it has nothing to drop.
            debug!(%inode, %error, "attributes not dropped");
        }
    }
}
