//! What a reported replica means: that depends on the block it claims to be a copy of. [`choose_disposition`] is the table.

use dfs_common::ids::GenerationStamp;
use dfs_proto::v1::ReplicaState;

use super::block_map::{BlockInfo, BlockState};

/// A replica as its DataNode describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReportedReplica {
    pub state: ReplicaState,
    pub generation_stamp: GenerationStamp,
    /// Bytes.
    pub length: u64,
    /// Its DataNode has found that it does not match its checksums.
    pub is_corrupt: bool,
}

/// What makes a replica bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadReason {
    /// Its bytes do not match their checksums: its DataNode has found that.
    Corrupt,
    /// It missed an append or a pipeline recovery.
    StaleGeneration,
    /// Its length is not the block's.
    WrongLength,
    /// The block is complete, but this copy was left unfinished by a restart.
    NotFinalized,
}

/// What a reported replica means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// A good replica.
    Accept,
    /// One of a block being written: judged when the block is committed.
    RecordOpen,
    /// A bad replica, to be replaced and then deleted.
    MarkBad(BadReason),
    /// Nobody's: the block was allocated once and is gone.
    Invalidate,
    /// Of the future: the log that explains it has not been applied here yet, or never will. Kept, never deleted.
    SetAside,
    /// Says nothing new: a later report follows.
    Ignore,
}

/// Judges a replica. `known` is the block in the map; `was_allocated` whether its id lies below the allocation counter.
pub(crate) fn choose_disposition(
    reported: &ReportedReplica,
    known: Option<&BlockInfo>,
    was_allocated: bool,
) -> Disposition {
    let Some(block) = known else {
        return if was_allocated { Disposition::Invalidate } else { Disposition::SetAside };
    };
    if block.state() == BlockState::UnderConstruction {
        return Disposition::RecordOpen;
    }
    if reported.generation_stamp > block.generation_stamp {
        return Disposition::SetAside;
    }
    if reported.generation_stamp < block.generation_stamp {
        return Disposition::MarkBad(BadReason::StaleGeneration);
    }
    match reported.state {
        ReplicaState::Finalized if reported.is_corrupt => Disposition::MarkBad(BadReason::Corrupt),
        ReplicaState::Finalized if reported.length == block.length => Disposition::Accept,
        ReplicaState::Finalized => Disposition::MarkBad(BadReason::WrongLength),
        ReplicaState::Rwr => Disposition::MarkBad(BadReason::NotFinalized),
        // Sent before the replica was finalized; the event that says so follows.
        ReplicaState::Rbw | ReplicaState::Rur | ReplicaState::Temporary => Disposition::Ignore,
    }
}
