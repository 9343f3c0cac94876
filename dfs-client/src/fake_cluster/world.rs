//! What the cluster of a test consists of, what is wrong with it, and what it was asked.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use dfs_common::attr::FileKind;
use dfs_common::error::{DfsError, ErrorKind};
use dfs_common::ids::ROOT_INODE;
use dfs_proto::status::to_status;
use dfs_proto::v1;
use parking_lot::Mutex;
use tonic::Status;

pub(crate) const POOL: &str = "BP-1-127.0.0.1-1";
/// What a node does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// As the first of a pipeline: refuses; as a later one: is the bad link.
    RefusesSetup,
    /// Closes the connection at once after a request, and tells no length.
    HangsUp,
    /// Takes so many packets, then closes the connection.
    HangsUpAfter(usize),
    /// Takes everything, answers nothing.
    Silent,
    /// Sends a flipped bit in each read.
    Corrupt,
    /// Closes each connection after one operation, saying nothing.
    ClosesAfterOperation,
    /// Its disk takes no sync.
    FailsSync,
    /// Its disk ends no sync for as long as this lasts.
    HangsInSync,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeReplica {
    pub(crate) data: Vec<u8>,
    pub(crate) stamp: u64,
    pub(crate) is_finalized: bool,
    pub(crate) synced: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeFile {
    pub(crate) blocks: Vec<v1::Block>,
    pub(crate) is_open: bool,
    pub(super) block_size: u64,
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) files: HashMap<u64, FakeFile>,
    pub(crate) replicas: HashMap<(usize, u64), FakeReplica>,
    pub(crate) faults: HashMap<usize, Fault>,
    /// How often each call came.
    pub(crate) calls: HashMap<&'static str, usize>,
    /// The nodes, and who has told.
    pub(crate) bad_replicas: Vec<(String, u32)>,
    /// Nodes whose replicas the NameNode has not heard of.
    pub(crate) unreported: HashSet<usize>,
    pub(crate) seen_call_ids: HashSet<u64>,
    /// Outcomes that are kept until a client says that it has heard of them.
    pub(super) outcomes: BTreeSet<u64>,
    /// How many of them may be kept.
    pub(crate) outcomes_max: Option<usize>,
    pub(crate) connections: usize,
    /// Requests to write that came without the first packet behind them.
    pub(crate) writes_in_pieces: usize,
    pub(crate) read_bytes: u64,
    pub(super) next_block: u64,
    pub(super) next_stamp: u64,
    /// Sessions opened.
    pub(crate) incarnation: u64,
    pub(crate) is_session_dead: bool,
    /// So many changes are refused as if the NameNode were about to start.
    pub(crate) unavailable_answers: usize,
    pub(crate) nodes: Vec<v1::DatanodeId>,
    /// The last so many of them take the place of lost ones.
    pub(crate) spares: usize,
    /// Files are made with their first block.
    pub(crate) allocates_at_creation: bool,
    /// Modification time of all files.
    pub(crate) mtime_ns: i64,
    /// It has not heard all nodes since it started.
    pub(crate) awaits_reports: bool,
    /// These calls are made, but not answered.
    pub(crate) unanswered: HashSet<&'static str>,
    /// These are made, and answered once they are here no more.
    pub(crate) held_back: HashSet<&'static str>,
    /// These are refused for want of permission; a listing not to who was authorised before.
    pub(crate) refused: HashSet<&'static str>,
    /// Files that are found under the names that somebody wants to make.
    pub(crate) existing: HashMap<Vec<u8>, u64>,
    /// Files whose leases were taken from their writers: they are not to be completed.
    pub(crate) revoked: HashSet<u64>,
    /// Calls that were given up.
    pub(crate) settled: Vec<u64>,
    /// Leases by the calls that took them.
    pub(crate) leases: HashMap<u64, u64>,
    pub(crate) holds: HashMap<u64, u64>,
    /// Openings of sessions: of which process, and which.
    pub(super) last_opening: (u64, u64),
    /// The earlier lives that the last opening told of.
    pub(crate) awaited: Vec<v1::AwaitedLife>,
    /// What is said of a session that has ended, instead of that no call of it is made.
    pub(crate) has_forgotten: bool,
    /// Directories beside the root, by how many files stand in them.
    pub(crate) directories: HashMap<u64, u64>,
    /// How many entries each call for a listing asked for.
    pub(crate) listings_asked: Vec<u32>,
}

pub(super) type Shared = Arc<Mutex<World>>;

impl World {
    pub(super) fn attr(&self, inode: u64) -> Result<v1::FileAttr, Status> {
        if inode == ROOT_INODE.0 || self.directories.contains_key(&inode) {
            let mode = FileKind::Directory as u32 | 0o755;
            return Ok(v1::FileAttr { inode, mode, nlink: 2, ..Default::default() });
        }
        let gone = || to_status(&DfsError::new(ErrorKind::Stale, "no such inode"));
        let file = self.files.get(&inode).ok_or_else(gone)?;
        Ok(v1::FileAttr {
            inode,
            mode: FileKind::File as u32 | 0o644,
            nlink: 1,
            length: file.blocks.iter().map(|block| block.length).sum(),
            replication: 3,
            block_size: file.block_size,
            under_construction: file.is_open,
            mtime_ns: self.mtime_ns,
            block_count: file.blocks.len() as u32,
            ..Default::default()
        })
    }

    pub(super) fn located(&self, block: &v1::Block, offset: u64, open: bool) -> v1::LocatedBlock {
        let has = |node: &usize| self.replicas.contains_key(&(*node, block.id)) && !self.unreported.contains(node);
        let mut nodes: Vec<usize> = (0..self.nodes.len()).filter(has).collect();
        if open && nodes.is_empty() {
            nodes.extend((0..self.nodes.len()).take(3));
        }
        v1::LocatedBlock {
            block: Some(*block),
            offset,
            locations: nodes.iter().map(|node| self.nodes[*node].clone()).collect(),
            storage_uuids: nodes.iter().map(|node| format!("volume-{node}")).collect(),
            under_construction: open,
            awaits_reports: self.awaits_reports,
            ..Default::default()
        }
    }

    /// A page of a directory whose files are numbered from its own number on; cookies begin at 3.
    pub(super) fn listing(&self, request: &v1::GetListingRequest) -> v1::GetListingResponse {
        let count = self.directories[&request.inode];
        let after = request.cookie.saturating_sub(2);
        let last = count.min(after + u64::from(request.max_entries));
        let entry = |number| {
            let (inode, mode) = (request.inode + number, FileKind::File as u32);
            let attr = v1::FileAttr { inode, mode, nlink: 1, ..Default::default() };
            v1::DirEntry {
                name: format!("file-{number}").into(),
                inode,
                cookie: number + 2,
                file_type: mode,
                attr: request.with_attrs.then_some(attr),
            }
        };
        let entries = (after + 1..=last).map(entry).collect();
        v1::GetListingResponse { entries, at_end: last == count, parent: ROOT_INODE.0, txid: 0 }
    }

    /// The next block of a file, on up to three nodes; none when no node is left.
    pub(super) fn allocate(&mut self, inode: u64, exclude: &[String]) -> Option<v1::LocatedBlock> {
        let nodes = self.nodes.iter().filter(|node| !exclude.contains(&node.uuid));
        let locations: Vec<_> = nodes.take(3).cloned().collect();
        if locations.is_empty() {
            return None;
        }
        self.next_block += 1;
        self.next_stamp += 1;
        let block = v1::Block { id: self.next_block, generation_stamp: self.next_stamp, length: 0 };
        self.files.get_mut(&inode).unwrap().blocks.push(block);
        Some(v1::LocatedBlock { block: Some(block), locations, ..Default::default() })
    }

    /// A block that stayed empty goes.
    pub(super) fn commit(&mut self, inode: u64, last: Option<&v1::Block>) {
        let Some(given) = last else { return };
        let blocks = &mut self.files.get_mut(&inode).unwrap().blocks;
        let Some(known) = blocks.last_mut() else {
            return assert_eq!(given.length, 0, "only an empty block is gone already");
        };
        assert_eq!((known.id, known.generation_stamp), (given.id, given.generation_stamp), "the last block is meant");
        known.length = given.length;
        if given.length == 0 {
            blocks.pop();
        }
    }
}
