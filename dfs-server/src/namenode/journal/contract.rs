//! What the journal wants of whoever keeps the state: to apply what was committed, and to make new images of old ones.

use std::path::Path;

use dfs_common::error::Result;
use dfs_common::ids::TxId;
use dfs_proto::v1::EditOp;

use super::edit_reader::EditReader;
use crate::namenode::image::format::ImageHeader;
use crate::namenode::namespace::state_digest::StateDigest;

/// What the journal applies committed operations to.
pub trait Machine: Send + Sync + 'static {
    /// What an applied operation answers.
    type Outcome: Send + 'static;

    /// Applies the operations of one log entry in order; `first_txid` numbers the first of them, `state_digest` is that of the
    /// state they were made for. Called by one thread at a time. Must depend on nothing but the state and the operations; a
    /// panic stops the process.
    ///
    /// # Errors
    /// When the state is another one: the process stops, too.
    fn apply(
        &self,
        first_txid: TxId,
        state_digest: Option<StateDigest>,
        ops: &[EditOp],
    ) -> Result<Applied<Self::Outcome>>;

    /// The last transaction applied; at start, that of the loaded image.
    fn last_applied_txid(&self) -> TxId;
}

/// What came of the operations of one log entry.
pub struct Applied<O> {
    /// One each.
    pub outcomes: Vec<Result<O>>,
    /// Of the state after them.
    pub state_digest: StateDigest,
}

/// Makes a new image of an old one and the edits after it.
pub trait Folder: Send + Sync + 'static {
    /// Writes the image described by `header` to `out`, durably, from `image` (none: the empty namespace) and all of `edits`; the digest
    /// in its header is that of the state it came to. Runs on a thread of its own and must not take the namespace's lock.
    ///
    /// # Errors
    /// `Corrupt` when `image` is damaged: an older one is tried; any other ends the checkpoint.
    fn fold(&self, image: Option<&Path>, edits: &mut EditReader, header: &ImageHeader, out: &Path) -> Result<()>;
}
