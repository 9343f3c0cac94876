//! Where the bytes of one file are: its blocks as far as they were asked for, and its length.
//!
//! The length of a closed file is the NameNode's. While a file is being written, its last block's length is known to the
//! replicas only: one of them is asked for the bytes that every node of the pipeline has acknowledged. While none of them
//! answers, the NameNode's record is no end of the file: who opens it to read waits, as for bytes, and is refused then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::attr::FileAttr;
use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::InodeId;
use dfs_common::retry::Backoff;
use dfs_proto::v1;
use parking_lot::Mutex;
use tracing::debug;

use super::known_blocks::{Known, Page, Shown};
use super::visible_length::{Silence, first_visible_length, longest_visible_length};
use crate::caller::Caller;
use crate::client_core::{ClientCore, attr_of};
use crate::datanode::{Located, Node};
use crate::rpc::rpc;

/// Blocks asked for at once, HDFS's number: one call serves a gigabyte.
const BLOCKS_PER_CALL: u64 = 10;
/// How long a reader goes without its bytes to tell the NameNode of a bad replica.
const REPORT_DEADLINE: Duration = Duration::from_secs(3);
/// Pause before absent replicas are asked for again: a DataNode that restarts, or a replica about to be reported, needs a
/// moment.
pub(super) const ABSENCE_BACKOFF: Backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(1) };

/// One copy of a block, for those who want to know.
#[derive(Clone, Debug)]
pub struct ReplicaLocation {
    /// Identity of the DataNode.
    pub datanode_uuid: String,
    /// Its data transfer address.
    pub data_address: String,
    /// Its gRPC address.
    pub grpc_address: String,
    /// Its network location.
    pub rack: String,
    /// The volume there; empty when not known.
    pub storage_uuid: String,
}

/// A block of a file, for those who want to know.
#[derive(Clone, Debug)]
pub struct BlockLocation {
    /// The block in its pool.
    pub block: ExtendedBlock,
    /// Where its first byte lies in the file.
    pub offset: u64,
    /// Its copies, nearest first.
    pub replicas: Vec<ReplicaLocation>,
    /// All known copies are corrupt.
    pub is_corrupt: bool,
    /// It is still being written.
    pub is_under_construction: bool,
}

impl From<&Located> for BlockLocation {
    fn from(located: &Located) -> Self {
        let replicas = located.replicas.iter().map(|replica| ReplicaLocation {
            datanode_uuid: replica.node.uuid.clone(),
            data_address: replica.node.data_address.clone(),
            grpc_address: replica.node.grpc_address.clone(),
            rack: replica.node.id.rack.clone(),
            storage_uuid: replica.storage_uuid.clone(),
        });
        Self {
            block: located.block.clone(),
            offset: located.offset,
            replicas: replicas.collect(),
            is_corrupt: located.is_corrupt,
            is_under_construction: located.is_under_construction,
        }
    }
}

/// The blocks that hold bytes of a range, at most 1,000 of them.
pub(crate) async fn locate_page(
    core: &ClientCore,
    caller: &Caller,
    inode: InodeId,
    offset: u64,
    length: u64,
) -> Result<Vec<Located>> {
    Ok(fetch(core, caller, inode, offset, length).await?.blocks)
}

async fn fetch(core: &ClientCore, caller: &Caller, inode: InodeId, offset: u64, length: u64) -> Result<Page> {
    let header = Some(v1::RequestHeader { caller: Some(caller.into()), retry: None });
    let request = v1::GetBlockLocationsRequest { header, inode: inode.0, offset, length };
    let answer = core.query(request, rpc!(get_block_locations)).await?;
    let attr = attr_of(answer.attr)?;
    let located = answer.blocks.unwrap_or_default();
    let pool = located.block_pool_id;
    let blocks = located.blocks.into_iter().map(|block| Located::new(&core.datanodes, block, &pool));
    Ok(Page {
        blocks: blocks.collect::<Result<_>>()?,
        file_length: located.file_length,
        is_under_construction: located.under_construction,
        attr,
    })
}

/// The blocks of one file, as far as known.
pub(crate) struct Locations {
    core: Arc<ClientCore>,
    /// Who opened the file.
    caller: Caller,
    inode: InodeId,
    /// Protects what is known; never held across an await.
    known: Mutex<Known>,
}

impl Locations {
    /// Asks for the first blocks, the length and the attributes, in the name of `caller`. Later questions are root's: reading
    /// was authorised by this one, whatever the permissions are by then. `shown` is what readers were shown of the file before;
    /// without it, a length that no replica tells is waited for.
    pub(crate) async fn open(
        core: &Arc<ClientCore>,
        caller: &Caller,
        inode: InodeId,
        shown: Option<Shown>,
    ) -> Result<(FileAttr, Self)> {
        let begun = Instant::now();
        let mut round = 0;
        loop {
            // Each round begins anew: nothing was read yet that what the file is by now would have to agree with.
            let locations = Self::new(core, caller, inode, shown);
            let (attr, untold) = locations.begin().await?;
            match untold {
                Some(error) if shown.is_none() && begun.elapsed() >= core.config.absence_timeout => return Err(error),
                Some(_) if shown.is_none() => {
                    let pause = ABSENCE_BACKOFF.delay(round, &mut rand::rng());
                    tokio::time::sleep(pause).await;
                    round += 1;
                }
                Some(_) | None => return Ok((attr, locations)),
            }
        }
    }

    /// The length at this moment, for who only wants to know: where no replica tells it, what was shown before, or else the
    /// NameNode's record.
    pub(crate) async fn look(
        core: &Arc<ClientCore>,
        caller: &Caller,
        inode: InodeId,
        shown: Option<Shown>,
    ) -> Result<Shown> {
        let locations = Self::new(core, caller, inode, shown);
        locations.begin().await?;
        Ok(locations.shown())
    }

    fn new(core: &Arc<ClientCore>, caller: &Caller, inode: InodeId, shown: Option<Shown>) -> Self {
        let mut known = Known { block_size: core.defaults.block_size, ..Known::default() };
        if let Some(shown) = shown {
            (known.is_growing, known.length, known.mtime_ns) = (true, shown.length, shown.mtime_ns);
        }
        Self { core: Arc::clone(core), caller: caller.clone(), inode, known: Mutex::new(known) }
    }

    /// Asks for the first blocks; gives why no replica has told the length, if that is so.
    async fn begin(&self) -> Result<(FileAttr, Option<DfsError>)> {
        let length = self.core.defaults.block_size.saturating_mul(BLOCKS_PER_CALL);
        let page = fetch(&self.core, &self.caller, self.inode, 0, length).await?;
        let attr = page.attr.clone();
        Ok((attr, self.learn(page).await?))
    }

    /// Bytes, as last known.
    pub(crate) fn length(&self) -> u64 {
        self.known.lock().length
    }

    /// The length, and what it is the length of.
    pub(crate) fn shown(&self) -> Shown {
        let known = self.known.lock();
        Shown { length: known.length, mtime_ns: known.mtime_ns }
    }

    /// Takes over a length that another reader was shown, if it is of the same content.
    pub(crate) fn expect_length(&self, Shown { length, mtime_ns }: Shown) {
        let mut known = self.known.lock();
        if !known.is_growing || known.mtime_ns != mtime_ns || length <= known.length {
            return;
        }
        if let Some(last) = known.blocks.last_entry()
            && last.get().is_under_construction
        {
            let mut located = Located::clone(last.get());
            located.block.block.length = length.saturating_sub(located.offset);
            *last.into_mut() = Arc::new(located);
            known.length = length;
        }
    }

    /// Whether a block may have replicas that are not known now: on nodes that the NameNode takes for dead, or has not heard of
    /// since it started.
    pub(crate) fn may_have_more(&self, located: &Located) -> bool {
        located.awaits_reports || located.replicas.len() < self.known.lock().replication as usize
    }

    /// Asks for the length again; `Stale` when the content is another by now.
    pub(crate) async fn refresh_length(&self) -> Result<u64> {
        let from = self.known.lock().end_to_ask_for();
        let page = self.fetch(from, u64::MAX / 2).await?;
        self.learn(page).await?;
        Ok(self.length())
    }

    /// The block that holds the byte at `offset`, which must be below the length; with `again`, asked for anew.
    pub(crate) async fn locate(&self, offset: u64, again: bool) -> Result<Arc<Located>> {
        if !again && let Some(located) = self.known.lock().find(offset) {
            return Ok(located);
        }
        let length = self.known.lock().block_size.saturating_mul(BLOCKS_PER_CALL);
        let page = self.fetch(offset, length).await?;
        let visible = self.visible_last_length(&page).await.unwrap_or(None);
        let mut known = self.known.lock();
        if page.blocks.iter().any(|located| known.is_refuted_by(located)) {
            return Err(self.replaced());
        }
        let last_length = known.last_length(&page, visible);
        known.insert(page, last_length);
        known.find(offset).ok_or_else(|| {
            // The file was cut, or its blocks replaced, after it was opened.
            let words = format!("inode {} no longer has a byte at offset {offset}", self.inode);
            DfsError::new(ErrorKind::Stale, words)
        })
    }

    async fn fetch(&self, offset: u64, length: u64) -> Result<Page> {
        fetch(&self.core, &Caller::root(), self.inode, offset, length).await
    }

    /// Takes in a page from which the length of the file can be told. Gives why no replica has told that of the last block, if
    /// that is so.
    async fn learn(&self, mut page: Page) -> Result<Option<DfsError>> {
        let reaches_end = |page: &Page| page.blocks.last().is_some_and(|last| last.is_under_construction);
        if page.is_under_construction && !reaches_end(&page) && page.file_length > 0 {
            // The last block is beyond this page.
            let tail = self.fetch(page.file_length - 1, u64::MAX / 2).await?;
            page.file_length = tail.file_length;
            page.blocks.extend(tail.blocks);
        }
        let (visible, untold) = match self.visible_last_length(&page).await {
            Ok(visible) => (visible, None),
            Err(error) => (None, Some(error)),
        };
        let mut known = self.known.lock();
        if !known.has_last_in_common(&page) {
            return Err(self.replaced());
        }
        known.learn(page, visible);
        Ok(untold)
    }

    /// Bytes read so far are of a content that is gone; the rest must not come from another.
    fn replaced(&self) -> DfsError {
        DfsError::new(ErrorKind::Stale, format!("inode {} was written anew since it was opened", self.inode))
    }

    /// Bytes that readers may see of the last block of `page`, when it is being written and was begun.
    ///
    /// # Errors
    /// No replica told them.
    async fn visible_last_length(&self, page: &Page) -> Result<Option<u64>> {
        let Some(last) = page.blocks.last().filter(|last| last.is_under_construction) else { return Ok(None) };
        let mut silence = Silence::default();
        let visible = if self.known.lock().may_have_been_cut(page) {
            longest_visible_length(&self.core.datanodes, last, &mut silence).await
        } else {
            first_visible_length(&self.core.datanodes, last, &mut silence).await
        };
        if visible.is_some() || last.is_unbegun(silence.without_it) {
            return Ok(visible);
        }
        Err(silence.into_error(last))
    }

    /// Tells the NameNode that a replica is bad. Best effort: the reader has another one.
    pub(crate) async fn report_bad(&self, block: Block, node: &Node, storage_uuid: &str) {
        let replica = v1::BadReplica {
            block: Some(block.into()),
            datanode_uuid: node.uuid.clone(),
            storage_uuid: storage_uuid.to_owned(),
        };
        let header = Some(v1::RequestHeader { caller: Some((&self.caller).into()), retry: None });
        let request = v1::ReportBadBlocksRequest { header, replicas: vec![replica] };
        let patience = crate::rpc::Patience { total: REPORT_DEADLINE, ..self.core.patience() };
        if let Err(failed) = self.core.namenode.call(patience, request, rpc!(report_bad_blocks)).await {
            let error = DfsError::from(failed);
            debug!(%block, error = %error.chain(), "bad replica not reported");
        }
    }
}
