//! What follows the failure of a pipeline: the decision table. Pure.
//!
//! ```text
//! bytes on the nodes count?   nodes left   what is missing          then
//! no                          -            -                        another block on other nodes, if tries are left
//! yes                         some         only the block's end     PIPELINE_CLOSE_RECOVERY
//! yes                         some         of an append: its start  PIPELINE_SETUP_APPEND_RECOVERY
//! yes                         some         anything else            PIPELINE_SETUP_STREAMING_RECOVERY
//! yes, but the append has     none         -                        the block stays as it was; the next one follows
//!   begun nowhere
//! yes                         none         -                        the write has failed
//! ```
//!
//! An append has begun nowhere if it was never announced and no node can have taken its generation stamp. If one may have, the
//! block must not be closed under the old stamp: the write fails, and the NameNode has the block recovered, which settles it.
//!
//! Bytes count once every node has acknowledged them, or when the block had them before. Everything is bounded: blocks by
//! [`BLOCK_TRIES_MAX`], pipelines of one block that bring nothing forward by [`REBUILDS_MAX`].

use dfs_proto::hadoop::op_write_block_proto::BlockConstructionStage;

/// How a pipeline came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// For a block just allocated.
    Create,
    /// For a block that had bytes before.
    Append,
}

/// A pipeline that failed, without the node to blame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failed {
    pub(crate) origin: Origin,
    /// The NameNode knows the block by this pipeline's generation stamp.
    pub(crate) is_announced: bool,
    /// A node may have the block by a stamp that the NameNode was not told of.
    pub(crate) may_be_newer: bool,
    /// Packets of this block were acknowledged.
    pub(crate) has_acks: bool,
    /// All data is acknowledged, the last packet is not.
    pub(crate) lacks_only_end: bool,
    /// Nodes left.
    pub(crate) survivors: usize,
    /// Blocks that failed for the same bytes.
    pub(crate) blocks_tried: u32,
    /// Pipelines of this block that failed since a byte was last acknowledged.
    pub(crate) rebuilds: u32,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// The block never came to be: give it up and write its bytes to a new one, without the bad node.
    ReplaceBlock,
    /// The block stays as it was before: go on in a new one behind it.
    StartNextBlock,
    /// Set a pipeline up over the nodes that are left, in this stage.
    Rebuild(BlockConstructionStage),
    /// No node that has the bytes is left.
    GiveUp,
}

/// New blocks tried for the same bytes. HDFS tries 3; each costs one node that fails, and a cluster may lose more at once.
pub(crate) const BLOCK_TRIES_MAX: u32 = 8;
/// Pipelines set up in a row for one block without another byte acknowledged. HDFS gives up after 5; here every failure
/// takes a node away, so that the number only bounds replacements that fail in turn.
pub(crate) const REBUILDS_MAX: u32 = 12;

/// See the module's table.
pub(crate) fn choose_recovery(failed: &Failed) -> Recovery {
    use BlockConstructionStage as Stage;
    let has_tries = failed.blocks_tried < BLOCK_TRIES_MAX;
    if failed.origin == Origin::Create && !failed.has_acks {
        return if has_tries { Recovery::ReplaceBlock } else { Recovery::GiveUp };
    }
    if failed.survivors > 0 && failed.rebuilds < REBUILDS_MAX {
        return Recovery::Rebuild(if failed.lacks_only_end {
            Stage::PipelineCloseRecovery
        } else if failed.origin == Origin::Append && !failed.has_acks {
            Stage::PipelineSetupAppendRecovery
        } else {
            Stage::PipelineSetupStreamingRecovery
        });
    }
    let has_begun = failed.is_announced || failed.may_be_newer;
    if !has_begun && has_tries { Recovery::StartNextBlock } else { Recovery::GiveUp }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choose_recovery_table() {
        use BlockConstructionStage as Stage;
        use Origin::{Append, Create};
        use Recovery::{GiveUp, Rebuild, ReplaceBlock, StartNextBlock};
        let streaming = Rebuild(Stage::PipelineSetupStreamingRecovery);
        let append = Rebuild(Stage::PipelineSetupAppendRecovery);
        let close = Rebuild(Stage::PipelineCloseRecovery);
        // origin, announced, maybe newer, acks, only the end missing, survivors, blocks tried, rebuilds
        for (facts, expected) in [
            ((Create, true, false, false, false, 2, 0, 0), ReplaceBlock),
            ((Create, true, false, false, true, 0, 7, 0), ReplaceBlock),
            ((Create, true, false, false, false, 2, 8, 0), GiveUp),
            ((Create, true, false, true, false, 2, 0, 0), streaming),
            ((Create, true, false, true, false, 1, 8, 11), streaming),
            ((Create, true, false, true, true, 1, 0, 0), close),
            ((Create, true, false, true, false, 0, 0, 0), GiveUp),
            ((Create, true, false, true, false, 2, 0, 12), GiveUp),
            ((Append, false, false, false, false, 2, 0, 0), append),
            ((Append, false, false, false, false, 0, 0, 2), StartNextBlock),
            ((Append, false, false, false, false, 0, 8, 2), GiveUp),
            ((Append, false, false, false, false, 1, 0, 12), StartNextBlock),
            ((Append, false, true, false, false, 2, 0, 0), append),
            ((Append, false, true, false, false, 0, 0, 2), GiveUp),
            ((Append, false, true, false, false, 1, 0, 12), GiveUp),
            ((Append, true, false, false, false, 2, 0, 0), append),
            ((Append, true, false, true, false, 2, 0, 0), streaming),
            ((Append, true, false, true, true, 2, 0, 0), close),
            ((Append, true, false, false, false, 0, 0, 0), GiveUp),
            ((Append, true, false, true, false, 0, 0, 0), GiveUp),
        ] {
            let (origin, is_announced, may_be_newer, has_acks, lacks_only_end, survivors, blocks_tried, rebuilds) =
                facts;
            let failed = Failed {
                origin,
                is_announced,
                may_be_newer,
                has_acks,
                lacks_only_end,
                survivors,
                blocks_tried,
                rebuilds,
            };
            assert_eq!(choose_recovery(&failed), expected, "{failed:?}");
        }
    }
}
