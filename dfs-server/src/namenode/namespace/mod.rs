//! The namespace: everything durable that the NameNode knows, in memory.
//!
//! Nouns: an [`inode::Inode`] has attributes and content; a [`directory::Directory`] maps names to inodes; a [`Lease`] is
//! the right of one client to write a file; a hold keeps an inode past its last name; a [`Session`] is one life of a client
//! with the outcomes of its unanswered calls. A *condemned* directory has lost its name together with all that is below
//! it, and is emptied in steps; a life is *over* when it has ended and its claims are taken from it in steps.
//!
//! Only `apply` changes it, one edit op after the other, live and in replay alike. Readers take it under a shared lock
//! ([`lock::NamespaceLock`]). Neither holds it for more than a few milliseconds, however large the namespace is.
//!
//! Invariants:
//! - `nlink` of a non-directory equals the number of directory entries that name it; a directory has exactly one, and
//!   `nlink` 2 plus its subdirectories.
//! - An inode with no link exists only while it is leased, held, or a directory with entries. The latter are the condemned.
//! - A file with an open block (allocated or reopened, length not committed) is leased.
//! - Ids come from counters that only grow.

pub mod claims;
pub mod depth;
pub mod digest;
pub mod directory;
pub mod heights;
pub mod inode;
pub mod lock;
pub mod lost_ids;
pub mod paged;
pub mod permission;
pub mod read;
pub mod restore;
pub mod sessions;
pub mod state_digest;
pub mod walk;

use std::collections::BTreeSet;

use dfs_common::attr::FileKind;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{
    BlockId, CallId, ClientId, FIRST_BLOCK, FIRST_GENERATION_STAMP, FIRST_INODE, GenerationStamp, Incarnation, InodeId,
    ROOT_INODE, TxId,
};

use self::claims::{Holds, LeaseChanges, Leases, Life};
use self::directory::{Directory, HashKey};
use self::inode::{Content, Inode};
use self::lost_ids::LostIds;
use self::paged::PagedTable;
use self::sessions::Sessions;
use self::state_digest::StateDigest;
use super::outcome::Outcome;

pub use self::claims::Lease;
pub use self::sessions::{FormerLife, Outcomes, RecordedError, Session};

/// Counters that only `apply` advances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Transaction applied last.
    pub last_txid: TxId,
    /// Next inode id.
    pub next_inode: InodeId,
    /// Next block id.
    pub next_block: BlockId,
    /// Next generation stamp.
    pub next_generation_stamp: GenerationStamp,
    /// Of everything applied so far.
    pub digest: StateDigest,
}

/// The durable state.
pub struct Namespace {
    pub(super) counters: Counters,
    /// Ids of which this namespace does not know what they stood for; empty unless it was restored from an older image.
    pub(super) lost: Vec<LostIds>,
    pub(super) hash_key: HashKey,
    pub(super) inodes: PagedTable<Inode>,
    pub(super) root: Inode,
    pub(super) leases: Leases,
    pub(super) holds: Holds,
    pub(super) sessions: Sessions,
    /// Directories without a name that still have entries. Not in an image: it shows them as they are.
    pub(super) condemned: BTreeSet<InodeId>,
    /// Lives that are over and still have leases or holds. Not in an image either.
    pub(super) over: BTreeSet<Life>,
    pub(super) file_count: u64,
    pub(super) directory_count: u64,
    pub(super) block_count: u64,
}

impl Namespace {
    /// A namespace with nothing but its root directory, owned by root, mode 0755.
    pub fn new(hash_key: HashKey, now_ns: i64) -> Self {
        Self {
            counters: Counters {
                last_txid: TxId(0),
                next_inode: FIRST_INODE,
                next_block: FIRST_BLOCK,
                next_generation_stamp: FIRST_GENERATION_STAMP,
                digest: StateDigest::default(),
            },
            lost: Vec::new(),
            hash_key,
            inodes: PagedTable::new(FIRST_INODE.0),
            root: Inode {
                mode: FileKind::Directory as u32 | 0o755,
                uid: 0,
                gid: 0,
                nlink: 2,
                atime_ns: now_ns,
                mtime_ns: now_ns,
                ctime_ns: now_ns,
                content: Content::Directory(Box::new(Directory::new(ROOT_INODE))),
                xattrs: None,
            },
            leases: Leases::default(),
            holds: Holds::default(),
            sessions: Sessions::default(),
            condemned: BTreeSet::new(),
            over: BTreeSet::new(),
            file_count: 0,
            directory_count: 1,
            block_count: 0,
        }
    }

    /// Where the counters stand.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The key of this namespace's cookies.
    pub fn hash_key(&self) -> HashKey {
        self.hash_key
    }

    /// Files and other leaves, directories, blocks.
    pub fn counts(&self) -> (u64, u64, u64) {
        (self.file_count, self.directory_count, self.block_count)
    }

    /// An inode.
    ///
    /// # Errors
    /// `Stale` when it does not exist (any more).
    pub fn inode(&self, id: InodeId) -> Result<&Inode> {
        if id == ROOT_INODE { Some(&self.root) } else { self.inodes.get(id.0) }.ok_or_else(|| gone(id))
    }

    pub(super) fn inode_mut(&mut self, id: InodeId) -> Result<&mut Inode> {
        if id == ROOT_INODE { Some(&mut self.root) } else { self.inodes.get_mut(id.0) }.ok_or_else(|| gone(id))
    }

    /// A directory's entries.
    ///
    /// # Errors
    /// `Stale` or `NotADirectory`.
    pub fn directory(&self, id: InodeId) -> Result<&Directory> {
        self.inode(id)?
            .directory()
            .ok_or_else(|| DfsError::new(ErrorKind::NotADirectory, format!("inode {id} is not a directory")))
    }

    pub(super) fn directory_mut(&mut self, id: InodeId) -> Result<&mut Directory> {
        self.inode_mut(id)?
            .directory_mut()
            .ok_or_else(|| DfsError::new(ErrorKind::NotADirectory, format!("inode {id} is not a directory")))
    }

    /// A directory and those above it, as far as they exist.
    pub fn way_up(&self, id: InodeId) -> impl Iterator<Item = InodeId> {
        let above = |id: &InodeId| {
            let parent = self.directory(*id).ok()?.parent;
            Some(parent).filter(|parent| parent != id)
        };
        std::iter::successors(Some(id), above)
    }

    /// The lease of a file being written.
    pub fn lease(&self, id: InodeId) -> Option<&Lease> {
        self.leases.get(id)
    }

    /// All leases, for monitors.
    pub fn leases(&self) -> impl Iterator<Item = (InodeId, &Lease)> {
        self.leases.iter()
    }

    /// Files that wait for recovery, in an order of their own, those after `after`; for monitors.
    pub fn waiting_after(&self, after: Option<(ClientId, InodeId)>) -> impl Iterator<Item = (ClientId, InodeId)> {
        self.leases.waiting_after(after)
    }

    /// What has become of leases since this was asked last.
    pub fn take_lease_changes(&mut self) -> LeaseChanges {
        self.leases.take_changes()
    }

    /// All sessions, for monitors.
    pub fn sessions(&self) -> impl Iterator<Item = (ClientId, &Session)> {
        self.sessions_after(None)
    }

    /// Sessions of the clients after `after`: for monitors that look at some at a time.
    pub fn sessions_after(&self, after: Option<ClientId>) -> impl Iterator<Item = (ClientId, &Session)> {
        self.sessions.after(after)
    }

    /// Whether a session or a former life is remembered that ended before `time_ns`.
    pub fn remembers_any_ended_before(&self, time_ns: i64) -> bool {
        self.sessions.ended_before(time_ns).next().is_some()
    }

    /// Whether something is removed or over whose parts are still to be taken away.
    pub fn has_leftovers(&self) -> bool {
        !self.condemned.is_empty() || !self.over.is_empty()
    }

    /// Whether this life is the client's present one and has not ended.
    pub fn is_alive(&self, (client, incarnation): Life) -> bool {
        self.sessions.get(&client).is_some_and(|session| session.incarnation == incarnation && !session.ended)
    }

    /// A client's current life.
    pub fn session(&self, client: ClientId) -> Option<&Session> {
        self.sessions.get(&client)
    }

    /// The outcome of a call that has been applied already.
    pub fn recorded_outcome(
        &self,
        client: ClientId,
        incarnation: Incarnation,
        call: CallId,
    ) -> Option<Result<Outcome, RecordedError>> {
        let session = self.sessions.get(&client)?;
        if session.incarnation == incarnation {
            return session.outcomes.get(&call).cloned();
        }
        session.former(incarnation)?.outcomes.get(&call).cloned()
    }

    /// Every inode with its number, root first.
    pub fn all_inodes(&self) -> impl Iterator<Item = (InodeId, &Inode)> {
        std::iter::once((ROOT_INODE, &self.root)).chain(self.inodes.iter().map(|(id, inode)| (InodeId(id), inode)))
    }
}

/// What is said of an inode that does not exist.
pub(super) fn gone(id: InodeId) -> DfsError {
    DfsError::new(ErrorKind::Stale, format!("inode {id} does not exist any more"))
}
