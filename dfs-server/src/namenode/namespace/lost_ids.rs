//! Ids that a NameNode gave out which was lost: nobody knows what became of them (`restore` says more).

use std::ops::Range;

use dfs_common::ids::{BlockId, GenerationStamp};

/// Ids that a lost NameNode may have given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostIds {
    /// Block ids.
    pub blocks: Range<BlockId>,
    /// Generation stamps.
    pub generation_stamps: Range<GenerationStamp>,
}

/// Whether the block's id may have been given out in lost time.
pub fn is_lost_block(lost: &[LostIds], id: BlockId) -> bool {
    lost.iter().any(|lost| lost.blocks.contains(&id))
}

/// Whether the generation stamp may have been given out in lost time.
pub fn is_lost_stamp(lost: &[LostIds], stamp: GenerationStamp) -> bool {
    lost.iter().any(|lost| lost.generation_stamps.contains(&stamp))
}
