//! The namespace: everything durable that the NameNode knows, in memory.
//!
//! Nouns: an [`inode::Inode`] has attributes and content; a [`directory::Directory`] maps names to inodes; a [`Lease`] is
//! the right of one client to write a file; a hold keeps an inode past its last name; a [`Session`] is one life of a client
//! with the outcomes of its unanswered calls.
//!
//! Only `apply` changes it, one edit op after the other, live and in replay alike. Readers take it under a shared lock.
//!
//! Invariants:
//! - `nlink` of a non-directory equals the number of directory entries that name it; a directory has exactly one, and
//!   `nlink` 2 plus its subdirectories.
//! - An inode with no link exists only while it is leased or held.
//! - A file with an open block (allocated or reopened, length not committed) is leased.
//! - Ids come from counters that only grow.

pub mod digest;
pub mod directory;
pub mod inode;
pub mod paged;
pub mod permission;
pub mod read;
pub mod restore;

use std::collections::{BTreeMap, BTreeSet};

use dfs_common::attr::FileKind;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{
    BlockId, CallId, ClientId, FIRST_BLOCK, FIRST_GENERATION_STAMP, FIRST_INODE, GenerationStamp, Incarnation, InodeId,
    ROOT_INODE, TxId,
};

use self::digest::StateDigest;
use self::directory::{Directory, HashKey};
use self::inode::{Content, Inode};
use self::paged::PagedTable;
use self::restore::LostIds;
use super::outcome::Outcome;

/// The right to write a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who writes. A client whose session ended keeps the lease until the file is recovered.
    pub client: ClientId,
    /// The life of the client that took it.
    pub incarnation: Incarnation,
    /// The last block has been allocated or reopened and its length is not committed.
    pub open_block: Option<BlockId>,
    /// DataNodes and volumes of the open block: a hint for retries and readers, never in an image.
    pub targets: Vec<(String, String)>,
    /// The writer is gone with a block open, or the block is being cut: the file waits for block recovery.
    pub needs_recovery: bool,
    /// The recovery begun last: a generation stamp. Only this one may close the file.
    pub recovery_id: Option<GenerationStamp>,
    /// The recovery is to cut the open block to its recorded length.
    pub is_truncating: bool,
}

impl Lease {
    /// A lease just taken: nothing is open yet.
    pub fn taken_by(client: ClientId, incarnation: Incarnation) -> Self {
        Self {
            client,
            incarnation,
            open_block: None,
            targets: Vec::new(),
            needs_recovery: false,
            recovery_id: None,
            is_truncating: false,
        }
    }
}

/// One life of a client.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Which life.
    pub incarnation: Incarnation,
    /// Host and mount point, or command: for people.
    pub name: String,
    /// Time in the client's last op, nanoseconds since the epoch.
    pub last_op_ns: i64,
    /// Calls below are forgotten: each has been answered.
    pub lowest_pending: CallId,
    /// Outcomes of calls from `lowest_pending` on: the retry cache.
    pub outcomes: BTreeMap<CallId, Result<Outcome, RecordedError>>,
    /// The session ended; late calls of it are refused.
    pub ended: bool,
}

/// Longest message kept of a refusal, bytes: a session keeps thousands, and names in them come from clients.
const RECORDED_MESSAGE_MAX: usize = 512;

/// A refusal in the retry cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedError {
    /// Kind of the error.
    pub kind: ErrorKind,
    /// Its words.
    pub message: String,
}

impl RecordedError {
    /// What to keep of `error`.
    pub fn of(error: &DfsError) -> Self {
        let mut message = error.chain();
        message.truncate(message.floor_char_boundary(RECORDED_MESSAGE_MAX));
        Self { kind: error.kind(), message }
    }

    /// The error again.
    pub fn to_error(&self) -> DfsError {
        DfsError::new(self.kind, self.message.clone())
    }
}

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
    pub(super) leases: BTreeMap<InodeId, Lease>,
    /// (inode, client): the client has the inode open and somebody may remove its last name.
    pub(super) holds: BTreeSet<(InodeId, ClientId)>,
    pub(super) sessions: BTreeMap<ClientId, Session>,
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
            leases: BTreeMap::new(),
            holds: BTreeSet::new(),
            sessions: BTreeMap::new(),
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

    /// The lease of a file being written.
    pub fn lease(&self, id: InodeId) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// All leases, for monitors.
    pub fn leases(&self) -> impl Iterator<Item = (InodeId, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    /// All sessions, for monitors.
    pub fn sessions(&self) -> impl Iterator<Item = (ClientId, &Session)> {
        self.sessions.iter().map(|(id, session)| (*id, session))
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
        let session = self.sessions.get(&client).filter(|session| session.incarnation == incarnation)?;
        session.outcomes.get(&call).cloned()
    }

    /// Every inode with its number, root first.
    pub fn all_inodes(&self) -> impl Iterator<Item = (InodeId, &Inode)> {
        std::iter::once((ROOT_INODE, &self.root)).chain(self.inodes.iter().map(|(id, inode)| (InodeId(id), inode)))
    }
}

fn gone(id: InodeId) -> DfsError {
    DfsError::new(ErrorKind::Stale, format!("inode {id} does not exist any more"))
}
