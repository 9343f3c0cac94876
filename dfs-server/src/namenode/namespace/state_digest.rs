//! The number itself; `digest` says what goes into it.

use dfs_common::block::Block;
use dfs_common::error::Result;

use crate::namenode::outcome::Outcome;

/// The digest; 0 when it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateDigest(pub u64);

impl StateDigest {
    /// What the first batch says.
    const FIRST: Self = Self(1);

    /// Whether any batch has said it.
    pub fn is_known(self) -> bool {
        self.0 != 0
    }

    /// What a batch says that is made for the state of this digest.
    pub fn or_first(self) -> Self {
        if self.is_known() { self } else { Self::FIRST }
    }

    /// Takes in one number. Different numbers give different digests (the finalizer of splitmix64, a bijection).
    #[must_use]
    pub fn with(self, number: u64) -> Self {
        let mut mixed = (self.0 ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(mixed ^ (mixed >> 31))
    }

    pub(super) fn with_all(self, numbers: impl IntoIterator<Item = u64>) -> Self {
        numbers.into_iter().fold(self, Self::with)
    }

    /// Takes in what an operation answered. The numbers of the kinds are part of logs and images.
    pub(super) fn with_outcome(self, outcome: &Result<Outcome>) -> Self {
        let block = |block: &Block| [block.id.0, block.generation_stamp.0, block.length];
        match outcome {
            Err(_) => self.with(0),
            Ok(Outcome::Done) => self.with(1),
            Ok(Outcome::Inode(inode)) => self.with(2).with(inode.0),
            Ok(Outcome::Created { inode, created }) => self.with(3).with(inode.0).with(u64::from(*created)),
            Ok(Outcome::Session(incarnation)) => self.with(4).with(incarnation.0),
            Ok(Outcome::Block(new)) => self.with(5).with_all(block(new)),
            Ok(Outcome::GenerationStamp(stamp)) => self.with(6).with(stamp.0),
            Ok(Outcome::Appended { inode, last }) => self.with(7).with(inode.0).with_all(last.iter().flat_map(block)),
            Ok(Outcome::Closed(closed)) => self.with(8).with(u64::from(*closed)),
        }
    }
}
