//! Telling the kernel that what it remembers is out of date.

use std::sync::OnceLock;

use dfs_common::ids::InodeId;
use fuser::{INodeNo, Notifier};
use tracing::{debug, warn};

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

    /// Lets the kernel ask for an inode's attributes again. Only attributes (offset -1): to drop pages it may have to wait.
    pub(crate) fn drop_attributes(&self, inode: InodeId) {
        let Some(notifier) = self.notifier.get() else { return };
        if let Err(error) = notifier.inval_inode(INodeNo(inode.0), -1, 0) {
            // ENOENT: the kernel does not have the inode, so it has nothing to drop.
            debug!(%inode, %error, "attributes not dropped");
        }
    }

    /// Has the kernel drop an inode's pages from `offset` on. It waits for reads of them that are under way, whose answers
    /// must not wait for the caller's. `kept` comes back when it has done so, and is dropped then if nobody waits any more.
    pub(crate) async fn drop_pages<T: Send + 'static>(&self, inode: InodeId, offset: u64, kept: T) -> Option<T> {
        let offset = i64::try_from(offset).unwrap_or(i64::MAX);
        self.notify("pages not dropped", kept, move |notifier| notifier.inval_inode(INodeNo(inode.0), offset, 0)).await
    }

    /// Gives the kernel the byte at `offset`: a file that ended before it ends behind it now.
    pub(crate) async fn store<T: Send + 'static>(&self, inode: InodeId, offset: u64, byte: u8, kept: T) -> Option<T> {
        self.notify("size not told", kept, move |notifier| notifier.store(INodeNo(inode.0), offset, &[byte])).await
    }

    async fn notify<T: Send + 'static>(
        &self,
        failure: &'static str,
        kept: T,
        send: impl FnOnce(Notifier) -> std::io::Result<()> + Send + 'static,
    ) -> Option<T> {
        let Some(notifier) = self.notifier.get().cloned() else { return Some(kept) };
        let sent = tokio::task::spawn_blocking(move || {
            if let Err(error) = send(notifier) {
                // Told by the next answer, as if there had been nothing to drop.
                debug!(%error, "{failure}");
            }
            kept
        });
        sent.await.inspect_err(|error| warn!(%error, "{failure}")).ok()
    }
}
