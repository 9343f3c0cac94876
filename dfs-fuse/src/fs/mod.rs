//! POSIX semantics over the client library: what each call of the kernel means. Knows nothing of requests and replies, so it
//! can be driven without a mount.
//!
//! ```text
//! metadata.rs     names and attributes      directories.rs  reading directories
//! files.rs        open, create, release     data.rs         read, write, flush, fsync
//! tail.rs         the last page of a file that grows
//! xattrs.rs       extended attributes
//! ```
//!
//! What holds in all of it:
//! - The NameNode decides. What is remembered here of names is what it has told: entries fetched ahead of a listing, for a second
//!   at most, and the names in directories that this mount has made and nobody else may add to. The kernel caches for the
//!   time-to-live that an answer gives.
//! - A file that this mount writes is as long as its answered writes made it; one written elsewhere has the length its replicas
//!   show, and that is not to be cached. No answer tells less of it than an earlier one, unless it was cut: the kernel would
//!   drop pages that programs have mapped.
//! - An inode's number is the NameNode's, the generation always 0: numbers are never used twice.

mod data;
mod directories;
mod files;
mod metadata;
mod tail;
mod xattrs;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dfs_client::{Caller, DfsClient, FsStats, SyncLevel};
use dfs_common::attr::{FileAttr, FileKind};
use dfs_common::error::{DfsError, ErrorKind};
use dfs_common::ids::{InodeId, ROOT_INODE};
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use tracing::{error, warn};

use crate::cache::{Dated, Floor, KernelView, StatsCache};
use crate::changes::Changes;
use crate::errno::FsResult;
use crate::handles::Handles;
use crate::inodes::Inodes;
use crate::kernel::KernelCaches;
use crate::writer::SharedWriter;

pub(crate) use data::Read;
pub(crate) use directories::Listed;
pub(crate) use files::Opened;
pub(crate) use metadata::{AttrChange, NewInode};

/// How long `df` waits for totals, and for the mount point's attributes, before it gets the last known ones.
const STATS_PATIENCE: Duration = Duration::from_millis(500);

/// Files completed side by side at the end of the mount: enough to be quick though some wait for a slow node, and few enough that
/// the NameNode goes on serving others.
const FINISHED_AT_ONCE: usize = 64;

/// What the mount was asked to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FsOptions {
    /// How long the kernel may believe attributes.
    pub(crate) attr_ttl: Duration,
    /// How long the kernel may believe names.
    pub(crate) entry_ttl: Duration,
    /// What fsync promises.
    pub(crate) sync: SyncLevel,
    /// Replicas of new files; 0: as the cluster does.
    pub(crate) replication: u32,
    /// Bytes per block of new files; 0: as the cluster does.
    pub(crate) block_size: u64,
}

/// Attributes with the time the kernel may believe them and their name.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) attr: FileAttr,
    /// See [`Dated`].
    length_mtime_ns: Option<i64>,
    pub(crate) attr_ttl: Duration,
    pub(crate) entry_ttl: Duration,
}

/// Notes a change when its call ends, which is before it is answered. Also when it has failed or is given up: it may have been made
/// all the same.
struct Changing<'a, const N: usize> {
    changes: &'a Changes,
    inodes: [InodeId; N],
    takes_names: bool,
}

impl<const N: usize> Drop for Changing<'_, N> {
    fn drop(&mut self) {
        if self.takes_names {
            self.changes.note_names_taken(&self.inodes);
        } else {
            self.changes.note(&self.inodes);
        }
    }
}

/// The mounted file system.
pub(crate) struct FileSystem {
    client: DfsClient,
    options: FsOptions,
    inodes: Arc<Inodes>,
    handles: Handles,
    seen: KernelView,
    kernel: KernelCaches,
    stats: StatsCache,
    /// The root's attributes as last heard, and when: `df` asks for them, too. Never held across an await.
    root: Mutex<(FileAttr, Instant)>,
    /// Entries fetched ahead are judged by it.
    changes: Changes,
    is_stopping: AtomicBool,
}

impl FileSystem {
    /// Asks the cluster for its totals and its root: without an answer there is nothing to mount.
    ///
    /// # Errors
    /// The NameNode's.
    pub(crate) async fn new(client: DfsClient, options: FsOptions) -> Result<Arc<Self>, DfsError> {
        let stats = client.get_fs_stats(&Caller::root()).await?;
        let root = client.get_file_info(&Caller::root(), ROOT_INODE).await?;
        Ok(Arc::new(Self {
            inodes: Inodes::new(),
            client,
            options,
            handles: Handles::new(),
            seen: KernelView::new(),
            kernel: KernelCaches::new(),
            stats: StatsCache::new(stats),
            root: Mutex::new((root, Instant::now())),
            changes: Changes::new(),
            is_stopping: AtomicBool::new(false),
        }))
    }

    /// The way to the kernel's caches, to be connected once there is a mount.
    pub(crate) fn kernel(&self) -> &KernelCaches {
        &self.kernel
    }

    /// Totals; the last known ones when the NameNode does not answer at once.
    pub(crate) async fn statfs(&self) -> FsStats {
        if let Some(stats) = self.stats.fresh() {
            return stats;
        }
        match tokio::time::timeout(STATS_PATIENCE, self.client.get_fs_stats(&Caller::root())).await {
            Ok(Ok(stats)) => self.stats.set(stats),
            Ok(Err(error)) => warn!(error = %error.chain(), "statfs answers with old totals"),
            Err(_) => warn!("statfs answers with old totals: no answer within {STATS_PATIENCE:?}"),
        }
        self.stats.any()
    }

    /// Completes every file that is being written; afterwards nothing can be written any more.
    pub(crate) async fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        let finish = |writer: Arc<SharedWriter>| async move { writer.finish().await };
        let mut finished = stream::iter(self.inodes.writers()).map(finish).buffer_unordered(FINISHED_AT_ONCE);
        while let Some(outcome) = finished.next().await {
            if let Err(failure) = outcome {
                error!(?failure, "a file open at the end of the mount could not be completed");
            }
        }
    }

    /// Ends the session at the NameNode; leases and holds that are left go with it.
    pub(crate) async fn close_session(&self) {
        self.client.clone().close().await;
    }

    fn check_not_stopping(&self) -> FsResult<()> {
        if self.is_stopping.load(Ordering::Acquire) {
            return Err(DfsError::new(ErrorKind::Cancelled, "the mount is being stopped").into());
        }
        Ok(())
    }

    /// To be kept by a call that changes these inodes, or names in these directories, until it ends.
    fn changing<const N: usize>(&self, inodes: [InodeId; N]) -> Changing<'_, N> {
        Changing { changes: &self.changes, inodes, takes_names: false }
    }

    /// The same for one that takes names out of these directories.
    fn taking_names<const N: usize>(&self, directories: [InodeId; N]) -> Changing<'_, N> {
        Changing { takes_names: true, ..self.changing(directories) }
    }

    /// Attributes as an answer, with what this mount knows better, and noted as told.
    fn entry(&self, attr: impl Into<Dated>) -> Entry {
        let entry = self.entry_unnoted(attr);
        self.note_told(&entry);
        entry
    }

    /// The same for a file that may have grown since the kernel heard of it.
    async fn announced_entry(&self, attr: impl Into<Dated>) -> Entry {
        let mut dated = attr.into();
        let announced = self.announce(&mut dated).await;
        let entry = self.entry_unnoted(dated);
        self.note_told(&entry);
        drop(announced);
        entry
    }

    /// The kernel gets these attributes.
    pub(crate) fn note_told(&self, entry: &Entry) {
        self.seen.told(&entry.attr, self.grows_elsewhere(&entry.attr), entry.length_mtime_ns);
    }

    /// Whether another mount may be writing it: then its length changes without our knowing.
    fn grows_elsewhere(&self, attr: &FileAttr) -> bool {
        attr.kind == FileKind::File
            && attr.under_construction
            && self.inodes.writer(attr.inode).is_none_or(|writer| writer.view().open_length.is_none())
    }

    fn entry_unnoted(&self, attr: impl Into<Dated>) -> Entry {
        let Dated { mut attr, mut length_mtime_ns } = attr.into();
        let mut attr_ttl = self.options.attr_ttl;
        if attr.kind == FileKind::File {
            let writer = self.inodes.writer(attr.inode);
            let is_written_here = writer.is_some_and(|writer| writer.view().fill_in(&mut attr));
            if !is_written_here && attr.under_construction {
                attr_ttl = Duration::ZERO;
                if let Floor::At(length) = self.seen.floor(&attr) {
                    (attr.length, length_mtime_ns) = (length, Some(attr.mtime_ns));
                }
            }
        }
        Entry { attr, length_mtime_ns, attr_ttl, entry_ttl: self.options.entry_ttl }
    }
}

#[cfg(test)]
mod call_tests;
#[cfg(test)]
mod given_up_tests;
#[cfg(test)]
mod lost_lease_tests;
