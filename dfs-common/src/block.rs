//! A block by name: (id, generation stamp, length), in its pool.

use std::fmt;

use crate::ids::{BlockId, GenerationStamp};

/// The logical unit of a file's content. `length` is in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block {
    /// Unique in the pool.
    pub id: BlockId,
    /// Version of the block.
    pub generation_stamp: GenerationStamp,
    /// Bytes in the block, as its speaker knows them.
    pub length: u64,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blk_{}_{} ({} bytes)", self.id, self.generation_stamp, self.length)
    }
}

/// A block and the pool it belongs to, as data transfer names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExtendedBlock {
    /// `BP-...` of the namespace that owns the block.
    pub pool: String,
    /// The block in that pool.
    pub block: Block,
}

impl fmt::Display for ExtendedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pool, self.block)
    }
}
