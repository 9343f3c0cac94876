//! Telling the kernel that what it remembers is out of date.

use std::io;
use std::sync::{Arc, OnceLock};

use dfs_common::ids::InodeId;
use fuser::{INodeNo, Notifier};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

/// Notifications that wait in the kernel at a time, each on a thread: half of those that tokio has for what blocks. The rest is for
/// looks at who is being killed and for the names of hosts, which must not wait for reads that a cluster does not answer.
const WAITING_MAX: usize = 256;

/// The way to the kernel's caches; connected once the mount is there.
pub(crate) struct KernelCaches {
    notifier: OnceLock<Notifier>,
    waiting: Waiting,
}

impl KernelCaches {
    pub(crate) fn new() -> Self {
        Self { notifier: OnceLock::new(), waiting: Waiting::new() }
    }

    pub(crate) fn connect(&self, notifier: Notifier) {
        // Connected once, by the session; a second call would mean the same mount.
        let _ = self.notifier.set(notifier);
    }

    /// Lets the kernel ask for an inode's attributes again. It does not wait for reads: only attributes go (offset -1).
    pub(crate) fn drop_attributes(&self, inode: InodeId) {
        let Some(notifier) = self.notifier.get() else { return };
        // That the kernel does not have the inode is no error here.
        if let Err(error) = notifier.inval_inode(INodeNo(inode.0), -1, 0) {
            debug!(%inode, %error, "attributes not dropped");
        }
    }

    /// Has the kernel drop an inode's pages from `offset` on. It waits for reads of them that are under way, whose answers
    /// must not wait for the caller's. `kept` comes back when it has done so or has refused, and is dropped then if nobody waits
    /// any more.
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
        send: impl FnOnce(Notifier) -> io::Result<()> + Send + 'static,
    ) -> Option<T> {
        let Some(notifier) = self.notifier.get().cloned() else { return Some(kept) };
        self.waiting.send(failure, kept, move || send(notifier)).await
    }
}

/// Notifications that may wait in the kernel.
struct Waiting {
    room: Arc<Semaphore>,
}

impl Waiting {
    fn new() -> Self {
        Self { room: Arc::new(Semaphore::new(WAITING_MAX)) }
    }

    /// Sends one on a thread, once there is room. It is sent also if nobody waits for it any more.
    async fn send<T: Send + 'static>(
        &self,
        failure: &'static str,
        kept: T,
        send: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Option<T> {
        let room = Arc::clone(&self.room);
        let sent = tokio::spawn(async move {
            // Never closed.
            let permit = room.acquire_owned().await;
            let sending = tokio::task::spawn_blocking(move || {
                if let Err(error) = send() {
                    // Told by the next answer, as if there had been nothing to drop.
                    debug!(%error, "{failure}");
                }
                drop(permit);
                kept
            });
            sending.await
        });
        sent.await.and_then(|sent| sent).inspect_err(|error| warn!(%error, "{failure}")).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use parking_lot::Mutex;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn notifications_that_wait_leave_threads_to_others_and_are_all_sent() {
        const COUNT: usize = 600;
        let waiting = Arc::new(Waiting::new());
        let (go, gone) = mpsc::channel::<()>();
        let gone = Arc::new(Mutex::new(gone));
        let send = |number| {
            let (waiting, gone) = (Arc::clone(&waiting), Arc::clone(&gone));
            let hang = move || gone.lock().recv().map_err(io::Error::other);
            tokio::spawn(async move { waiting.send("not sent", number, hang).await })
        };
        let sent: Vec<_> = (0..COUNT).map(send).collect();
        while waiting.room.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let others = tokio::task::spawn_blocking(|| ());
        timeout(Duration::from_secs(60), others).await.expect("there are threads").unwrap();
        // The hanging ones end, with a failure.
        drop(go);
        for (number, sent) in sent.into_iter().enumerate() {
            assert_eq!(sent.await.unwrap(), Some(number));
        }
    }
}
