//! Where the bytes of one file are: its blocks as far as they were asked for, and its length.
//!
//! The length of a closed file is the NameNode's. While a file is being written, its last block's length is known to the
//! replicas only: one of them is asked for the bytes that every node of the pipeline has acknowledged. While none of them
//! answers, the NameNode's record is no end of the file: who opens it to read waits, as for bytes, and is refused then.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::attr::FileAttr;
use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::InodeId;
use dfs_common::retry::Backoff;
use dfs_proto::v1;
use futures::stream::{FuturesUnordered, StreamExt};
use parking_lot::Mutex;
use tracing::debug;

use super::replica_choice::choose_order;
use crate::caller::Caller;
use crate::client_core::{ClientCore, attr_of};
use crate::datanode::{Datanodes, Located, Node, Replica};
use crate::rpc::rpc;

/// Blocks asked for at once, HDFS's number: one call serves a gigabyte.
const BLOCKS_PER_CALL: u64 = 10;
/// Blocks remembered per file; beyond it the oldest in file order go. A hundred bytes each.
const BLOCKS_MAX: usize = 20_000;
/// How long a reader goes without its bytes to tell the NameNode of a bad replica.
const REPORT_DEADLINE: Duration = Duration::from_secs(3);
/// Silence of a node after which the next one is asked, too: a hung one must not hold up a stat.
const VISIBLE_LENGTH_PATIENCE: Duration = Duration::from_millis(300);
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

/// What a reader was shown of a file that was being written then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Bytes.
    pub length: u64,
    /// The file's modification time when it had that length for sure, in nanoseconds. While no DataNode tells a newer
    /// length, it stays behind the file's own.
    pub mtime_ns: i64,
}

/// What the NameNode says of a range of a file.
struct Page {
    blocks: Vec<Located>,
    file_length: u64,
    is_under_construction: bool,
    /// Of the file.
    attr: FileAttr,
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

#[derive(Default)]
struct Known {
    /// By offset in the file; blocks without bytes are left out.
    blocks: BTreeMap<u64, Arc<Located>>,
    length: u64,
    block_size: u64,
    replication: u32,
    /// It was being written when the length was asked for.
    is_growing: bool,
    /// When the file had this length for sure. A truncation changes it.
    mtime_ns: i64,
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
            self.longest_visible_length(last, &mut silence).await
        } else {
            self.first_visible_length(last, &mut silence).await
        };
        if visible.is_some() || last.is_unbegun(silence.without_it) {
            return Ok(visible);
        }
        Err(silence.into_error(last))
    }

    /// The first answer. Another replica is asked when one fails or takes long; nodes that did so lately come last.
    async fn first_visible_length(&self, last: &Located, silence: &mut Silence) -> Option<u64> {
        let datanodes = &self.core.datanodes;
        let mut unasked = choose_order(&last.replicas, |node| datanodes.is_suspect(node)).into_iter();
        let mut asked = FuturesUnordered::new();
        loop {
            let next = unasked.next().map(|index| &last.replicas[index].node);
            asked.extend(next.map(|node| visible_length(datanodes, node, last)));
            tokio::select! {
                answer = asked.next() => match answer {
                    Some(Ok(length)) => return Some(length),
                    Some(Err(error)) => silence.note(&error),
                    None => return None,
                },
                () = tokio::time::sleep(VISIBLE_LENGTH_PATIENCE), if next.is_some() => {
                    next.into_iter().for_each(|node| datanodes.note_slow(node));
                }
            }
        }
    }

    /// The greatest answer of all replicas. Nodes that hang are waited for only until another one has answered, and those that
    /// did so lately not at all then.
    async fn longest_visible_length(&self, last: &Located, silence: &mut Silence) -> Option<u64> {
        let datanodes = &self.core.datanodes;
        let ask = |replica: &Replica| {
            let node = Arc::clone(&replica.node);
            async move { (visible_length(datanodes, &node, last).await, node) }
        };
        let mut asked: FuturesUnordered<_> = last.replicas.iter().map(ask).collect();
        let mut silent: Vec<Arc<Node>> = last.replicas.iter().map(|replica| Arc::clone(&replica.node)).collect();
        let mut longest = None;
        let mut patience = pin!(tokio::time::sleep(VISIBLE_LENGTH_PATIENCE));
        loop {
            if longest.is_some() && silent.iter().all(|node| datanodes.is_suspect(node)) {
                return longest;
            }
            tokio::select! {
                answer = asked.next() => {
                    let Some((answer, node)) = answer else { return longest };
                    silent.retain(|other| !Arc::ptr_eq(other, &node));
                    match answer {
                        Ok(length) => longest = longest.max(Some(length)),
                        Err(error) => silence.note(&error),
                    }
                }
                () = &mut patience, if longest.is_some() => {
                    silent.iter().for_each(|node| datanodes.note_slow(node));
                    return longest;
                }
            }
        }
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

/// Bytes that readers may see of the last block of a file at a node.
async fn visible_length(datanodes: &Datanodes, node: &Node, last: &Located) -> Result<u64> {
    datanodes.visible_length(node, &last.block).await.and_then(|length| last.checked_length(length))
}

/// What replicas answered that told no length.
#[derive(Default)]
struct Silence {
    /// These are DataNodes that have nothing of the block.
    without_it: usize,
    failures: Vec<String>,
}

impl Silence {
    fn note(&mut self, error: &DfsError) {
        if error.kind() == ErrorKind::NotFound {
            self.without_it += 1;
        }
        self.failures.push(error.chain().to_string());
    }

    fn into_error(self, last: &Located) -> DfsError {
        let mut words = format!("no DataNode tells the length of {}, which is being written", last.block);
        if !self.failures.is_empty() {
            words = format!("{words} ({})", self.failures.join("; "));
        }
        debug!("{words}");
        DfsError::new(ErrorKind::Io, words)
    }
}

impl Known {
    fn find(&self, offset: u64) -> Option<Arc<Located>> {
        let (_, located) = self.blocks.range(..=offset).next_back()?;
        (offset < located.end()).then(|| Arc::clone(located))
    }

    /// From where to ask for the end of the file: so that the last block that is known here comes with it.
    fn end_to_ask_for(&self) -> u64 {
        let last = self.blocks.last_key_value().map_or(u64::MAX, |(&offset, _)| offset);
        self.length.saturating_sub(1).min(last)
    }

    /// Whether the file has another block now where one is known.
    fn is_refuted_by(&self, located: &Located) -> bool {
        let Some((&offset, known)) = self.blocks.range(..=located.offset).next_back() else { return false };
        let overlaps = offset == located.offset || known.end() > located.offset;
        overlaps && (offset, known.block.block.id) != (located.offset, located.block.block.id)
    }

    /// Whether a page that was asked for from [`end_to_ask_for`](Self::end_to_ask_for) on is of the content that is known here.
    fn has_last_in_common(&self, page: &Page) -> bool {
        let Some((&offset, last)) = self.blocks.last_key_value() else { return true };
        let is_it = |located: &Located| (located.offset, located.block.block.id) == (offset, last.block.block.id);
        page.blocks.iter().any(is_it)
    }

    /// Whether bytes that were shown may have gone, for all that the NameNode says. A truncation sets the modification time;
    /// but others set it, too.
    fn may_have_been_cut(&self, page: &Page) -> bool {
        self.is_growing && self.mtime_ns != page.attr.mtime_ns
    }

    /// Bytes to be had of the last block of `page`, when it is being written: what a replica shows, at least what is on
    /// record, and no less than before, unless the file may have been cut. Replicas may differ for a moment, when one
    /// hangs or a pipeline is rebuilt.
    fn last_length(&self, page: &Page, visible: Option<u64>) -> Option<u64> {
        let last = page.blocks.last().filter(|last| last.is_under_construction)?;
        // What the NameNode has logged is on the replicas, whichever is asked.
        let shown = last.block.block.length.max(visible.unwrap_or(0));
        let is_same = self.is_growing && (visible.is_none() || !self.may_have_been_cut(page));
        Some(if is_same { shown.max(self.length.saturating_sub(last.offset)) } else { shown })
    }

    /// Takes in a page that reaches the end of the file, and the bytes that a replica shows of its last block.
    fn learn(&mut self, page: Page, visible: Option<u64>) {
        let last_length = self.last_length(&page, visible);
        let is_taken_over = last_length.is_some() && visible.is_none() && self.may_have_been_cut(&page);
        // A length that nobody has confirmed stays that of the content before, so that it is asked for again.
        if !is_taken_over {
            self.mtime_ns = page.attr.mtime_ns;
        }
        self.length = match (page.blocks.last(), last_length) {
            (Some(last), Some(length)) => last.offset + length,
            _ => page.file_length,
        };
        self.is_growing = page.is_under_construction;
        self.block_size = page.attr.block_size.max(1);
        self.insert(page, last_length);
    }

    /// Takes in blocks; the last one with the length that readers may see, when it is being written.
    fn insert(&mut self, page: Page, visible: Option<u64>) {
        let count = page.blocks.len();
        self.replication = page.attr.replication;
        for (index, mut located) in page.blocks.into_iter().enumerate() {
            if let (true, Some(visible)) = (index + 1 == count, visible) {
                located.block.block.length = visible;
            }
            if located.block.block.length > 0 {
                self.blocks.insert(located.offset, Arc::new(located));
            }
        }
        while self.blocks.len() > BLOCKS_MAX {
            self.blocks.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use dfs_common::attr::FileKind;
    use dfs_common::ids::{BlockId, GenerationStamp};

    use super::*;

    fn located(offset: u64, length: u64, is_under_construction: bool) -> Located {
        let block = Block { id: BlockId(offset + 1), generation_stamp: GenerationStamp(1), length };
        let block = ExtendedBlock { pool: "BP-1".into(), block };
        Located { block, offset, replicas: Vec::new(), is_corrupt: false, is_under_construction, awaits_reports: false }
    }

    fn page(blocks: Vec<Located>) -> Page {
        let attr = v1::FileAttr {
            mode: FileKind::File as u32,
            block_size: 10,
            replication: 1,
            mtime_ns: 7,
            ..v1::FileAttr::default()
        };
        let attr = FileAttr::try_from(&attr).unwrap();
        Page { blocks, file_length: 0, is_under_construction: false, attr }
    }

    #[test]
    fn find_knows_blocks_of_any_length() {
        let mut known = Known { block_size: 10, ..Known::default() };
        known.insert(page(vec![located(0, 10, false), located(10, 3, false), located(13, 10, false)]), None);
        let offset = |at| known.find(at).map(|found| found.offset);
        assert_eq!([0, 9, 10, 12, 13, 22].map(offset), [Some(0), Some(0), Some(10), Some(10), Some(13), Some(13)]);
        assert_eq!(offset(23), None);
    }

    #[test]
    fn content_that_was_replaced_is_told_by_its_blocks() {
        let mut known = Known { block_size: 10, length: 15, ..Known::default() };
        assert!(known.has_last_in_common(&page(vec![])), "nothing is known yet");
        known.insert(page(vec![located(0, 10, false), located(10, 5, false)]), None);
        assert_eq!(known.end_to_ask_for(), 10);
        assert!(known.has_last_in_common(&page(vec![located(10, 10, false), located(20, 3, true)])), "it has grown");
        assert!(!known.has_last_in_common(&page(vec![])), "it was cut");
        let another = |offset, length| {
            let mut another = located(offset, length, false);
            another.block.block.id = BlockId(77);
            another
        };
        assert!(!known.has_last_in_common(&page(vec![another(10, 5)])));
        // (the block that the file has now, expected)
        for (now, expected) in [
            (located(10, 10, false), false),
            (located(15, 10, false), false),
            (another(10, 5), true),
            (another(12, 5), true),
            (another(0, 20), true),
            (another(15, 5), false),
        ] {
            assert_eq!(known.is_refuted_by(&now), expected, "{now:?}");
        }
    }

    #[test]
    fn insert_gives_the_last_block_its_visible_length() {
        let mut known = Known { block_size: 10, ..Known::default() };
        known.insert(page(vec![located(0, 10, false), located(10, 0, true)]), Some(0));
        assert!(known.find(10).is_none(), "no byte is visible yet");
        known.insert(page(vec![located(10, 0, true)]), Some(7));
        assert_eq!(known.find(16).unwrap().end(), 17);
        assert!(known.find(17).is_none());
    }

    #[test]
    fn learn_asks_again_for_a_length_that_nobody_confirmed() {
        let mut known = Known { block_size: 10, length: 17, is_growing: true, mtime_ns: 6, ..Known::default() };
        let open = || Page { is_under_construction: true, ..page(vec![located(10, 2, true)]) };
        known.learn(open(), None);
        assert_eq!((known.length, known.mtime_ns), (17, 6), "nobody says that it was cut");
        assert!(known.may_have_been_cut(&open()), "nor that it was not");
        known.learn(open(), Some(5));
        assert_eq!((known.length, known.mtime_ns), (15, 7));
        known.learn(open(), None);
        assert_eq!((known.length, known.mtime_ns), (15, 7));
        known.learn(Page { file_length: 12, ..page(vec![located(10, 2, false)]) }, None);
        assert_eq!((known.length, known.mtime_ns), (12, 7), "what the NameNode says of a closed file");
    }

    #[test]
    fn last_length_never_shrinks_while_the_content_is_the_same() {
        let mut known = Known { block_size: 10, length: 17, is_growing: true, mtime_ns: 7, ..Known::default() };
        let open = |recorded| page(vec![located(10, recorded, true)]);
        assert_eq!(known.last_length(&open(2), Some(9)), Some(9));
        assert_eq!(known.last_length(&open(2), Some(5)), Some(7), "a replica that lags");
        assert_eq!(known.last_length(&open(2), None), Some(7), "no replica answers");
        known.mtime_ns = 6;
        assert_eq!(known.last_length(&open(2), Some(5)), Some(5), "it may have been cut");
        assert_eq!(known.last_length(&open(2), None), Some(7), "nobody says that it was");
        known.is_growing = false;
        assert_eq!(known.last_length(&open(2), None), Some(2));
        assert_eq!(known.last_length(&page(vec![located(10, 2, false)]), None), None);
    }
}
