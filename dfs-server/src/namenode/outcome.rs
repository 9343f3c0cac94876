//! What an applied edit op gives back to its caller, small enough to be kept in the retry cache.

use dfs_common::block::Block;
use dfs_common::ids::{GenerationStamp, Incarnation, InodeId};

/// Result of a successful op.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more to say.
    Done,
    /// The inode made or changed.
    Inode(InodeId),
    /// A create without O_EXCL: the file and whether it is new.
    Created {
        /// The file.
        inode: InodeId,
        /// False when it was there before.
        created: bool,
    },
    /// A session's number.
    Session(Incarnation),
    /// A block allocated.
    Block(Block),
    /// A generation stamp for a pipeline.
    GenerationStamp(GenerationStamp),
    /// A lease taken: the last block, if it can be extended.
    Appended {
        /// The file.
        inode: InodeId,
        /// Its last block when that is not full.
        last: Option<Block>,
    },
    /// Whether a lease recovery left the file closed.
    Closed(bool),
}
