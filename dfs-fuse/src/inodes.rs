//! The inodes that handles of this mount have open: who writes them, whether they are held past their last name.
//!
//! The kernel's lookup counts are not kept: an inode's number means the same at the NameNode for ever, so there is nothing
//! to free when the kernel forgets one.
//!
//! An entry goes with its last [`OpenRef`]. What outlives it is only the record of lost writes that nobody was told of.
//!
//! A file that a program has opened outlives its last name. For that either the unlink (or rename over the name) or the open
//! holds the inode at the NameNode:
//!
//! ```text
//!   unlink   says that a name is going | asks whose it is | holds the inode, if it has an entry | removes the name
//!   open     makes the entry | holds the inode, if a name is going | asks the cluster to open the file
//!   create   has the cluster make the file | makes the entry | holds the inode, if a name is going
//! ```
//!
//! Names going and entries are noted under the table's lock. So an open that comes first is found, and one that comes second knows.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dfs_client::{Caller, DfsClient, HeldInode, Shown};
use dfs_common::ids::InodeId;
use lru::LruCache;
use parking_lot::Mutex;

use crate::errno::FsResult;
use crate::lost_writes::LostWrites;
use crate::writer::SharedWriter;

/// Files that nobody has open and whose lost writes nobody was told of; some hundred bytes each. Beyond it the oldest are
/// forgotten: they are in the log.
const UNTOLD_MAX: NonZeroUsize = NonZeroUsize::new(1 << 14).unwrap();

/// Pages that the kernel may have read when the file ended in them; see `fs::tail`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tail {
    /// Where they begin.
    pub(crate) offset: Option<u64>,
    /// What the kernel is being told of: reads must reach it.
    pub(crate) coming: Option<Shown>,
    /// Counts the reads that may have reached the end.
    reads: u64,
}

/// One inode with handles.
pub(crate) struct OpenInode {
    pub(crate) id: InodeId,
    /// Serialises taking and giving back the lease. Taken before the writer's own turn; held across calls to the cluster.
    pub(crate) writing: tokio::sync::Mutex<()>,
    /// The writer that new handles join; never held across an await.
    writer: Mutex<Option<Arc<SharedWriter>>>,
    /// Shared with its writers.
    losses: Arc<LostWrites>,
    /// Raised when content was thrown away: readers must ask for locations anew.
    content_epoch: AtomicU64,
    /// Keeps the inode past its last name. Held across the call that takes it.
    held: tokio::sync::Mutex<Option<HeldInode>>,
    /// Never held while anything else is done.
    tail: Mutex<Tail>,
    /// Serialises what is done before the kernel hears that the file has grown.
    growing: Arc<tokio::sync::Mutex<()>>,
    /// Somebody has waited for that in vain.
    growth_hangs: AtomicBool,
    count: AtomicU64,
}

impl OpenInode {
    fn new(id: InodeId, losses: Arc<LostWrites>) -> Self {
        Self {
            id,
            losses,
            writing: tokio::sync::Mutex::new(()),
            writer: Mutex::new(None),
            content_epoch: AtomicU64::new(0),
            held: tokio::sync::Mutex::new(None),
            tail: Mutex::new(Tail::default()),
            growing: Arc::default(),
            growth_hangs: AtomicBool::new(false),
            count: AtomicU64::new(0),
        }
    }

    /// The writer of this mount, unless it has failed.
    pub(crate) fn writer(&self) -> Option<Arc<SharedWriter>> {
        self.writer.lock().as_ref().filter(|writer| !writer.has_failed()).cloned()
    }

    /// What its writers have lost, the one at work included: it may have failed between two calls.
    pub(crate) fn losses(&self) -> &Arc<LostWrites> {
        if let Some(writer) = &*self.writer.lock() {
            // What it says is for its own handles; what it has lost is on record now.
            let _ = writer.check();
        }
        &self.losses
    }

    /// The writer that has failed and still keeps the lease. To be called with `writing` held.
    pub(crate) fn take_failed_writer(&self) -> Option<Arc<SharedWriter>> {
        // From here on for good: were its handles to write again, through a writer that is not here, nobody else would know of it.
        self.writer.lock().take_if(|writer| writer.check().is_err())
    }

    /// To be called with `writing` held.
    pub(crate) fn set_writer(&self, writer: Option<Arc<SharedWriter>>) {
        *self.writer.lock() = writer;
    }

    /// Forgets `writer`, unless another one has taken its place. To be called with `writing` held.
    pub(crate) fn forget_writer(&self, writer: &Arc<SharedWriter>) {
        let mut current = self.writer.lock();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, writer)) {
            *current = None;
        }
    }

    pub(crate) fn content_epoch(&self) -> u64 {
        self.content_epoch.load(Ordering::Acquire)
    }

    /// Bytes of the file went.
    pub(crate) fn content_dropped(&self) {
        self.content_epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// The same, by somebody who has looked at the content since `epoch`. Gives the epoch of what he saw: the new one, unless
    /// bytes went in between; then it is over already.
    pub(crate) fn content_dropped_since(&self, epoch: u64) -> u64 {
        // Raised in any case: who has raised it in between knows nothing of what was seen here, and may have seen older content.
        if self.content_epoch.fetch_add(1, Ordering::AcqRel) == epoch { epoch + 1 } else { epoch }
    }

    /// A read may reach the end of the file, which is not before `offset`. To be called before it looks how long the file is.
    pub(crate) fn note_tail(&self, offset: u64) {
        let page = offset - offset % rustix::param::page_size() as u64;
        let mut tail = self.tail.lock();
        tail.offset = Some(tail.offset.map_or(page, |noted| noted.min(page)));
        tail.reads += 1;
    }

    /// The kernel is about to hear that the file is as long as this. Gives whether there are pages to be dropped before.
    pub(crate) fn note_coming(&self, shown: Shown) -> bool {
        let mut tail = self.tail.lock();
        if tail.coming.is_none_or(|coming| coming.mtime_ns != shown.mtime_ns || coming.length < shown.length) {
            tail.coming = Some(shown);
        }
        tail.offset.is_some()
    }

    /// The kernel has heard of this much.
    pub(crate) fn came(&self, shown: Shown) {
        let is_there = |coming: &mut Shown| coming.mtime_ns != shown.mtime_ns || coming.length <= shown.length;
        self.tail.lock().coming.take_if(is_there);
    }

    /// Pages to be dropped before the kernel hears that the file has grown.
    pub(crate) fn tail(&self) -> Tail {
        *self.tail.lock()
    }

    /// They were dropped, and there are none if nothing was read since.
    pub(crate) fn dropped_tail(&self, dropped: Tail) {
        let mut tail = self.tail.lock();
        if tail.reads == dropped.reads {
            tail.offset = None;
        }
    }

    /// Waits until nobody else tells the kernel of growth. `None` when somebody has waited for that in vain, and it is not over.
    pub(crate) async fn growth_turn(&self) -> Option<GrowthTurn> {
        if self.growth_hangs.load(Ordering::Acquire) {
            let turn = Arc::clone(&self.growing).try_lock_owned().ok()?;
            self.growth_hangs.store(false, Ordering::Release);
            return Some(GrowthTurn { _guard: turn });
        }
        Some(GrowthTurn { _guard: Arc::clone(&self.growing).lock_owned().await })
    }

    /// The turn that was waited for, or the one that was had, has not ended in time.
    pub(crate) fn growth_hangs(&self) {
        self.growth_hangs.store(true, Ordering::Release);
    }

    /// Keeps the inode alive at the NameNode past its last name, until the last handle is closed.
    pub(crate) async fn hold(&self, client: &DfsClient) -> FsResult<()> {
        let mut held = self.held.lock().await;
        if held.as_ref().is_none_or(HeldInode::is_lost) {
            *held = Some(client.hold(&Caller::root(), self.id).await?);
        }
        Ok(())
    }
}

/// The right to tell the kernel of growth. Stays with a call into the kernel until that returns, whoever waits for it.
pub(crate) struct GrowthTurn {
    _guard: tokio::sync::OwnedMutexGuard<()>,
}

/// Keeps an entry of the table.
pub(crate) struct OpenRef {
    inode: Arc<OpenInode>,
    table: Arc<Inodes>,
}

impl std::ops::Deref for OpenRef {
    type Target = OpenInode;

    fn deref(&self) -> &OpenInode {
        &self.inode
    }
}

impl Drop for OpenRef {
    fn drop(&mut self) {
        self.table.close(&self.inode);
    }
}

/// A name is going, perhaps the last one of its file.
pub(crate) struct NameGoing {
    table: Arc<Inodes>,
}

impl Drop for NameGoing {
    fn drop(&mut self) {
        self.table.open.lock().names_going -= 1;
    }
}

#[derive(Default)]
struct Open {
    inodes: HashMap<InodeId, Arc<OpenInode>>,
    names_going: usize,
}

/// The table.
pub(crate) struct Inodes {
    /// Never held across an await.
    open: Mutex<Open>,
    /// Of inodes that are not open. Locked inside `open`.
    untold: Mutex<LruCache<InodeId, Arc<LostWrites>>>,
}

impl Inodes {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), untold: Mutex::new(LruCache::new(UNTOLD_MAX)) })
    }

    /// Enters an inode, or counts one more user of it.
    pub(crate) fn open(self: &Arc<Self>, id: InodeId) -> OpenRef {
        self.open_by_program(id).0
    }

    /// The same for a program that opens the file. True when names are going: before it is opened, the inode must be
    /// [held](OpenInode::hold).
    pub(crate) fn open_by_program(self: &Arc<Self>, id: InodeId) -> (OpenRef, bool) {
        let mut open = self.open.lock();
        let inode = Arc::clone(open.inodes.entry(id).or_insert_with(|| {
            let losses = self.untold.lock().pop(&id).unwrap_or_default();
            Arc::new(OpenInode::new(id, losses))
        }));
        inode.count.fetch_add(1, Ordering::AcqRel);
        (OpenRef { inode, table: Arc::clone(self) }, open.names_going > 0)
    }

    /// A name is going until the result is dropped. True when inodes are open: the name may be one of theirs.
    pub(crate) fn name_goes(self: &Arc<Self>) -> (NameGoing, bool) {
        let mut open = self.open.lock();
        open.names_going += 1;
        (NameGoing { table: Arc::clone(self) }, !open.inodes.is_empty())
    }

    /// Counts one more user of an inode that is open.
    pub(crate) fn find(self: &Arc<Self>, id: InodeId) -> Option<OpenRef> {
        let open = self.open.lock();
        let inode = Arc::clone(open.inodes.get(&id)?);
        inode.count.fetch_add(1, Ordering::AcqRel);
        Some(OpenRef { inode, table: Arc::clone(self) })
    }

    /// The writer of an inode, if this mount has one.
    pub(crate) fn writer(&self, id: InodeId) -> Option<Arc<SharedWriter>> {
        self.open.lock().inodes.get(&id)?.writer()
    }

    #[cfg(test)]
    pub(crate) fn are_names_going(&self) -> bool {
        self.open.lock().names_going > 0
    }

    /// Whether nothing is open.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.open.lock().inodes.is_empty()
    }

    /// Every writer there is.
    pub(crate) fn writers(&self) -> Vec<Arc<SharedWriter>> {
        self.open.lock().inodes.values().filter_map(|inode| inode.writer()).collect()
    }

    /// With its last user goes the entry, and with that its hold.
    fn close(&self, inode: &Arc<OpenInode>) {
        let mut open = self.open.lock();
        if inode.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            open.inodes.remove(&inode.id);
            if inode.losses().is_untold() {
                self.untold.lock().put(inode.id, Arc::clone(&inode.losses));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_dropped_since_leaves_nobody_with_what_another_may_not_have_seen() {
        let open = Inodes::new().open(InodeId(5));
        let epoch = open.content_epoch();
        let first = open.content_dropped_since(epoch);
        assert_eq!(first, open.content_epoch(), "nobody else has looked");
        let second = open.content_dropped_since(epoch);
        let now = open.content_epoch();
        assert!(first != now && second != now, "who was first may have seen older content than who was second");
        assert_eq!(open.content_dropped_since(now), open.content_epoch());
    }
}
