//! A full block report, page by page: replicas of one volume after another, in id order.
//!
//! The map is locked for one page at a time. What changes meanwhile is safe: every change is an event numbered after the
//! report, applying it again changes nothing, and a page shows the state at some moment after the report's number.

use dfs_common::block::Block;
use dfs_common::ids::BlockId;
use dfs_proto::v1::ReplicaState;

use super::replica::{Condition, Entry, OpenKind};
use super::volume::VolumeIndex;

/// Replicas in a page: about 240 KB on the wire, well below the largest message.
pub(super) const PAGE_MAX: usize = 10_000;

/// Where a report goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The volume being reported.
    pub(crate) volume: VolumeIndex,
    /// The last block of the page before.
    pub(crate) after: Option<BlockId>,
}

/// A replica in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageItem {
    /// Id, generation stamp, length.
    pub(crate) block: Block,
    /// `None` when finalized.
    pub(crate) open: Option<ReplicaState>,
    /// Known not to match its checksums.
    pub(crate) is_corrupt: bool,
}

/// Up to [`PAGE_MAX`] replicas of one volume; fewer, or none, where others lie between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReportPage {
    /// In id order.
    pub(crate) items: Vec<PageItem>,
    /// Where the next page begins; `None` when the volume has no more.
    pub(crate) next: Option<BlockId>,
}

/// What a report says of an entry on `volume`; copies on their way in are nobody's business yet.
pub(super) fn page_item(id: BlockId, entry: &Entry, volume: VolumeIndex) -> Option<PageItem> {
    match entry {
        Entry::Finalized(finalized) if finalized.volume == volume => {
            let block = Block { id, generation_stamp: finalized.generation_stamp, length: finalized.length };
            Some(PageItem { block, open: None, is_corrupt: finalized.condition == Condition::Corrupt })
        }
        Entry::Open(replica) if replica.volume.index() == volume => {
            let state = match replica.kind {
                OpenKind::Rbw => ReplicaState::Rbw,
                OpenKind::Waiting => ReplicaState::Rwr,
                OpenKind::Temporary => return None,
            };
            Some(PageItem { block: replica.block(), open: Some(state), is_corrupt: false })
        }
        Entry::Finalized(_) | Entry::Open(_) | Entry::Deleting(_) => None,
    }
}
