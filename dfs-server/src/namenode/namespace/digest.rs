//! A number that two copies of the namespace share when they have come the same way.
//!
//! Each applied operation is mixed into it: its transaction, what it answered, and where the counters and counts stood after it.
//! So a program that skipped an operation, refused one that the NameNode had carried out, or gave out another id has another
//! digest from there on. The log carries the digest that its writer had before each batch, and an image the one of its state:
//! replay, fold and the taking of an image compare.
//!
//! A digest of 0 is not known: the state is that of an image of layout 1, or of a new namespace. The first batch that says one
//! begins it, for every reader at the same operation.
//!
//! Kinds and words of refusals are not mixed in: a version may word them anew and still replay an older log. Nor are attributes;
//! a digest is no checksum of the content. It costs some ten multiplications an operation.

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};

use super::Namespace;
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

    fn with_all(self, numbers: impl IntoIterator<Item = u64>) -> Self {
        numbers.into_iter().fold(self, Self::with)
    }

    /// Takes in what an operation answered. The numbers of the kinds are part of logs and images.
    fn with_outcome(self, outcome: &Result<Outcome>) -> Self {
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

impl Namespace {
    /// Refuses operations that were made for another state than this one. `logged` is what their batch says; none in logs of
    /// layout 1.
    ///
    /// # Errors
    /// `Internal`: not `Corrupt`, because neither log nor image is damaged, and an older image would lead to the same state.
    pub fn meet_digest(&mut self, logged: Option<StateDigest>) -> Result<()> {
        let Some(logged) = logged else { return Ok(()) };
        if self.counters.digest.is_known() && self.counters.digest != logged {
            return Err(DfsError::new(
                ErrorKind::Internal,
                format!(
                    "the edits up to transaction {} gave another state than they gave the NameNode that logged them: this \
                     program does not apply them as that one did; use that program, or make a checkpoint with it first",
                    self.counters.last_txid
                ),
            ));
        }
        self.counters.digest = logged;
        Ok(())
    }

    /// Takes the operation just applied into the digest.
    pub(in crate::namenode) fn digest_outcome(&mut self, outcome: &Result<Outcome>) {
        let counters = &self.counters;
        if !counters.digest.is_known() {
            return;
        }
        let digest = counters.digest.with_outcome(outcome).with_all([
            counters.last_txid.0,
            counters.next_inode.0,
            counters.next_block.0,
            counters.next_generation_stamp.0,
            self.file_count,
            self.directory_count,
            self.block_count,
        ]);
        // A digest that comes to 0 by chance is known all the same.
        self.counters.digest = digest.or_first();
    }
}

#[cfg(test)]
mod tests {
    use dfs_common::ids::InodeId;

    use super::*;

    #[test]
    fn a_refusal_and_every_other_answer_give_another_digest() {
        let refused = || Err(DfsError::new(ErrorKind::NotFound, "words"));
        let answers = [
            refused(),
            Ok(Outcome::Done),
            Ok(Outcome::Inode(InodeId(1))),
            Ok(Outcome::Inode(InodeId(2))),
            Ok(Outcome::Closed(true)),
        ];
        let digests: std::collections::BTreeSet<u64> =
            answers.iter().map(|answer| StateDigest::default().with_outcome(answer).0).collect();
        assert_eq!(digests.len(), answers.len());
        let reworded = Err(DfsError::new(ErrorKind::InvalidArgument, "other words"));
        assert_eq!(StateDigest(5).with_outcome(&refused()), StateDigest(5).with_outcome(&reworded));
    }
}
