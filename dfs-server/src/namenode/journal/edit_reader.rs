//! The edit log read from outside: by a checkpoint, by the SecondaryNameNode from fetched files, by tools.

use std::path::Path;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::TxId;
use dfs_proto::v1::EditOp;

use super::log_index::{EntryReader, LogIndex};
use super::raft_types::{LogId, Payload, StoredMembership, position_of};
use crate::namenode::image::format::{ImageHeader, LogPosition};
use crate::namenode::namespace::state_digest::StateDigest;

/// Operations of one log entry.
#[derive(Clone, Debug)]
pub struct LoggedOps {
    /// The entry.
    pub position: LogPosition,
    /// Transaction of the first operation.
    pub first_txid: TxId,
    /// In order.
    pub ops: Vec<EditOp>,
    /// Of the state that they were made for; none in logs of layout 1.
    pub state_digest: Option<StateDigest>,
}

/// Reads the operations after an image, in order, and notices what an image of their result must say.
pub struct EditReader {
    entries: EntryReader,
    last: Option<LogId>,
    last_txid: TxId,
    membership: Option<StoredMembership>,
}

impl EditReader {
    /// Reads the segments in `directory`, from the entry after `image` to the end of the log. A torn last frame is left
    /// out.
    ///
    /// # Errors
    /// `Corrupt` when entries are missing or damaged; `WrongCluster`; `Io`.
    pub fn open(directory: &Path, namespace_id: u32, image: &ImageHeader) -> Result<Self> {
        let start = image.last_log.as_ref().map_or(0, |position| position.index + 1);
        let log = LogIndex::scan(directory, namespace_id, start)?.log;
        if log.next_index < start {
            return Err(DfsError::new(
                ErrorKind::Corrupt,
                format!(
                    "the edit log in {} ends at entry {}, before the image, which ends at {}",
                    directory.display(),
                    log.next_index,
                    start
                ),
            ));
        }
        let end = log.next_index;
        Ok(Self::of_index(&log, image.last_log, image.txid(), end))
    }

    /// Reads the entries after `after`, which ends with transaction `txid`, to before the entry `end`.
    pub(super) fn of_index(log: &LogIndex, after: Option<LogPosition>, txid: TxId, end: u64) -> Self {
        let (start, term) = after.map_or((0, 0), |position| (position.index + 1, position.term));
        Self { entries: log.entries(start, end).after_term(term), last: None, last_txid: txid, membership: None }
    }

    /// The operations of the next entry that has any; `None` at the end.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub fn next_ops(&mut self) -> Result<Option<LoggedOps>> {
        while let Some(entry) = self.entries.next_entry()? {
            self.last = Some(entry.log_id);
            match entry.payload {
                Payload::Blank => {}
                Payload::Membership(membership) => {
                    self.membership = Some(StoredMembership::new(Some(entry.log_id), membership));
                }
                Payload::Normal(batch) => {
                    let first_txid = self.last_txid.next();
                    self.last_txid = TxId(self.last_txid.0 + batch.ops.len() as u64);
                    let ops = std::sync::Arc::unwrap_or_clone(batch.ops);
                    let position = position_of(&entry.log_id);
                    return Ok(Some(LoggedOps { position, first_txid, ops, state_digest: batch.state_digest }));
                }
            }
        }
        Ok(None)
    }

    /// The header of an image of `image` and everything read so far, but for the digest of the state.
    pub fn header_after(&self, image: &ImageHeader) -> ImageHeader {
        ImageHeader {
            last_txid: self.last_txid.0,
            last_log: self.last.as_ref().map(position_of).or(image.last_log),
            membership: self.membership.as_ref().map_or_else(|| image.membership.clone(), encode_membership),
            state_digest: 0,
            ..image.clone()
        }
    }
}

/// The image header's form of a membership.
pub(super) fn encode_membership(membership: &StoredMembership) -> bytes::Bytes {
    // Numbers and strings in structs and maps with number keys: serde_json takes all of them.
    serde_json::to_vec(membership).expect("a membership is plain data").into()
}

/// The membership in an image header.
///
/// # Errors
/// `Corrupt` when it cannot be read.
pub(super) fn decode_membership(header: &ImageHeader) -> Result<StoredMembership> {
    if header.membership.is_empty() {
        return Ok(StoredMembership::default());
    }
    serde_json::from_slice(&header.membership).map_err(|error| {
        DfsError::new(ErrorKind::Corrupt, "the image's membership cannot be read; use an older image")
            .with_source(error)
    })
}
