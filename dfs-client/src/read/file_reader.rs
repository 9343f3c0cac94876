//! [`FileReader`]: one open file, read at any offset by any number of callers at once.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use dfs_common::attr::FileAttr;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::InodeId;
use futures::{StreamExt, TryStreamExt};
use tracing::{debug, warn};

use super::ahead::ReadAhead;
use super::block_reader::{BlockRange, ReadFailure, read_range};
use super::known_blocks::Shown;
use super::locations::{ABSENCE_BACKOFF, Locations};
use super::part::Part;
use super::prefetch::split;
use super::replica_choice::choose_order;
use crate::caller::Caller;
use crate::client_core::ClientCore;
use crate::datanode::{Located, Node, Replica};

/// Rounds over all replicas of a block, each with locations asked for anew: what HDFS does before it gives up.
const ROUNDS_MAX: u32 = 3;
/// Pieces of one read that are fetched side by side.
const PIECES_AT_ONCE: usize = 4;
/// A read longer than this is cut into pieces.
const PIECE_WHOLE_MAX: u64 = 4 * 1024 * 1024;
/// How often the last chunk of a replica being written is read again when its checksum does not fit yet: data and
/// checksum are two writes at the DataNode, microseconds apart.
const LAST_CHUNK_TRIES: u32 = 4;
const LAST_CHUNK_PAUSE: Duration = Duration::from_millis(5);

/// Reads one file. Bytes up to [`length`](Self::length) are there; what is added later needs
/// [`refresh_length`](Self::refresh_length).
pub struct FileReader {
    source: Arc<Source>,
    ahead: Arc<ReadAhead>,
}

impl FileReader {
    pub(crate) async fn open(
        core: &Arc<ClientCore>,
        caller: &Caller,
        inode: InodeId,
        shown: Option<Shown>,
    ) -> Result<(FileAttr, Arc<Self>)> {
        let (attr, locations) = Locations::open(core, caller, inode, shown).await?;
        let ahead = ReadAhead::new(core.config.prefetch_window as u64);
        Ok((attr, Arc::new(Self { source: Arc::new(Source { core: Arc::clone(core), locations }), ahead })))
    }

    /// Bytes in the file, as last known.
    pub fn length(&self) -> u64 {
        self.source.locations.length()
    }

    /// The length as last known, and the modification time that the file had with it.
    #[cfg(test)]
    pub(crate) fn shown(&self) -> Shown {
        self.source.locations.shown()
    }

    /// Asks for the length again; for a file that is being written, what readers may see of it by now.
    ///
    /// # Errors
    /// The NameNode's; `Stale` when the file has been replaced or cut.
    pub async fn refresh_length(&self) -> Result<u64> {
        self.source.locations.refresh_length().await
    }

    /// Takes over a length that another reader of the file was shown, while it had the same modification time: the replicas
    /// will have those bytes, if they do not show them yet.
    pub fn expect_length(&self, shown: Shown) {
        self.source.locations.expect_length(shown);
    }

    /// Reads `len` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// `Corrupt` when no replica has the bytes with good checksums, `Io` or `TimedOut` when none could be reached, `Stale`
    /// when the file has been replaced.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let file_len = self.length();
        let end = offset.saturating_add(len as u64).min(file_len);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let parts = self.plan(offset..end, file_len);
        let mut pieces = pieces_of(offset..end, &parts);
        if pieces.len() == 1
            && let Some(piece) = pieces.pop()
        {
            return self.source.fetch_piece(piece).await;
        }
        let fetches = pieces.into_iter().map(|piece| self.source.fetch_piece(piece));
        let mut whole = BytesMut::with_capacity((end - offset) as usize);
        let mut fetched = futures::stream::iter(fetches).buffered(PIECES_AT_ONCE);
        while let Some(bytes) = fetched.try_next().await? {
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    /// Whether bytes that were fetched ahead are still on their way: somebody must run the runtime for them, also while
    /// nobody reads.
    pub fn is_fetching_ahead(&self) -> bool {
        self.ahead.is_fetching()
    }

    /// Starts fetching ahead of a read, and gives the parts that have some of its bytes.
    fn plan(&self, range: Range<u64>, file_len: u64) -> Vec<Arc<Part>> {
        let fetch = |range| {
            let source = Arc::clone(&self.source);
            async move { source.fetch(range).await }
        };
        self.ahead.plan(range, file_len, &self.source.core.prefetch_budget, Instant::now(), fetch)
    }
}

impl Drop for FileReader {
    fn drop(&mut self) {
        self.source.core.prefetch_budget.unlist(&self.ahead);
    }
}

/// A piece of a read: on its way in a part, or still to be fetched.
struct Piece {
    range: Range<u64>,
    part: Option<Arc<Part>>,
}

/// Cuts `range` at the borders of `parts` (in file order, without overlap); long gaps into several pieces.
fn pieces_of(range: Range<u64>, parts: &[Arc<Part>]) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(2 * parts.len() + 1);
    let gap = |gap: Range<u64>, pieces: &mut Vec<Piece>| {
        if gap.end - gap.start > PIECE_WHOLE_MAX {
            pieces.extend(split(gap).map(|range| Piece { range, part: None }));
        } else if !gap.is_empty() {
            pieces.push(Piece { range: gap, part: None });
        }
    };
    let mut at = range.start;
    for part in parts {
        let (start, end) = (part.range.start.max(at), part.range.end.min(range.end));
        gap(at..start, &mut pieces);
        pieces.push(Piece { range: start..end, part: Some(Arc::clone(part)) });
        at = end;
    }
    gap(at..range.end, &mut pieces);
    pieces
}

/// Where bytes come from, for the foreground and for parts.
struct Source {
    core: Arc<ClientCore>,
    locations: Locations,
}

impl Source {
    async fn fetch_piece(&self, piece: Piece) -> Result<Bytes> {
        if let Some(part) = &piece.part
            && let Some(bytes) = part.bytes(piece.range.clone()).await
        {
            return Ok(bytes);
        }
        self.fetch(piece.range).await
    }

    /// All bytes of a range that is not empty and within the file.
    async fn fetch(&self, range: Range<u64>) -> Result<Bytes> {
        let len = (range.end - range.start) as usize;
        let first = self.fetch_in_block(range.clone()).await?;
        if first.len() == len {
            return Ok(first);
        }
        let mut whole = BytesMut::with_capacity(len);
        whole.extend_from_slice(&first);
        while whole.len() < len {
            let at = range.start + whole.len() as u64;
            whole.extend_from_slice(&self.fetch_in_block(at..range.end).await?);
        }
        Ok(whole.freeze())
    }

    /// Bytes from the start of `range` to its end or the end of the block they are in.
    async fn fetch_in_block(&self, range: Range<u64>) -> Result<Bytes> {
        let begun = Instant::now();
        let mut round = 0;
        loop {
            let located = self.locations.locate(range.start, round > 0).await?;
            let in_block = range.start - located.offset..range.end.min(located.end()) - located.offset;
            let error = match self.read_from_any(&located, in_block, round).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            // Bad replicas do not get better; absent ones may come.
            let is_absent = error.kind() != ErrorKind::Corrupt || self.locations.may_have_more(&located);
            round += 1;
            if round >= ROUNDS_MAX && !(is_absent && begun.elapsed() < self.core.config.absence_timeout) {
                return Err(error);
            }
            let pause = ABSENCE_BACKOFF.delay(round - 1, &mut rand::rng());
            tokio::time::sleep(pause).await;
        }
    }

    /// One round over the replicas; each round has more patience with slow disks than the one before.
    async fn read_from_any(&self, located: &Located, range: Range<u64>, round: u32) -> Result<Bytes> {
        if located.replicas.is_empty() {
            let words = format!("no DataNode has {}: its replicas are lost or not reported yet", located.block);
            return Err(DfsError::new(ErrorKind::Corrupt, words));
        }
        let silence = self.core.config.read_timeout * 3u32.pow(round.min(ROUNDS_MAX - 1));
        let mut failures: Vec<String> = Vec::new();
        let mut all_corrupt = true;
        for index in choose_order(&located.replicas, |node| self.core.datanodes.is_suspect(node)) {
            let replica = &located.replicas[index];
            match self.read_from(located, replica, range.clone(), silence).await {
                Ok(bytes) => return Ok(bytes),
                Err(ReadFailure::Checksum { offset }) => {
                    warn!(block = %located.block, datanode = %replica.node.data_address, offset, "corrupt replica");
                    failures.push(format!("{}: bad checksum at offset {offset}", replica.node.data_address));
                }
                Err(ReadFailure::Node(error)) => {
                    debug!(block = %located.block, datanode = %replica.node.data_address, error = %error.chain());
                    self.on_node_failure(&replica.node, &error);
                    all_corrupt = false;
                    failures.push(format!("{}: {}", replica.node.data_address, error.chain()));
                }
            }
        }
        let kind = if all_corrupt { ErrorKind::Corrupt } else { ErrorKind::Io };
        Err(DfsError::new(kind, format!("no replica of {} could be read ({})", located.block, failures.join("; "))))
    }

    /// A node that could not be reached or was silent is asked last for a while; one that refused this replica is not.
    fn on_node_failure(&self, node: &Node, error: &DfsError) {
        if std::error::Error::source(error).is_some() || error.kind() == ErrorKind::TimedOut {
            self.core.datanodes.suspect(node);
        }
    }

    async fn read_from(
        &self,
        located: &Located,
        replica: &Replica,
        range: Range<u64>,
        silence: Duration,
    ) -> Result<Bytes, ReadFailure> {
        let wanted = BlockRange { block: &located.block, offset: range.start, len: (range.end - range.start) as usize };
        for _ in 1..LAST_CHUNK_TRIES {
            match read_range(&self.core.datanodes, &replica.node, wanted, &self.core.client_name, silence).await {
                Err(ReadFailure::Checksum { offset }) if self.may_be_in_motion(located, offset) => {
                    tokio::time::sleep(LAST_CHUNK_PAUSE).await;
                }
                Err(ReadFailure::Checksum { offset }) => {
                    let (block, storage) = (located.block.block, replica.storage_uuid.as_str());
                    self.locations.report_bad(block, &replica.node, storage).await;
                    return Err(ReadFailure::Checksum { offset });
                }
                outcome => return outcome,
            }
        }
        read_range(&self.core.datanodes, &replica.node, wanted, &self.core.client_name, silence).await
    }

    /// Whether the chunk at `offset` is the last one of a replica being written: its checksum is about to follow.
    fn may_be_in_motion(&self, located: &Located, offset: u64) -> bool {
        let chunk = u64::from(self.core.defaults.bytes_per_checksum);
        located.is_under_construction && offset + chunk >= located.block.block.length
    }
}
