//! What a copy in the cluster gets besides its content.

use dfs_client::{Caller, DfsClient, SetAttr, XAttrSetFlag};
use dfs_common::ids::InodeId;

use crate::failure::{Failure, Outcome};
use crate::path::DfsPath;

/// Extended attributes that everybody may set on his own files.
pub(crate) const USER_PREFIX: &[u8] = b"user.";

/// What one copy gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Mode, owner, times.
    pub(crate) attributes: SetAttr,
    /// Names and values.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Kept {
    /// Whether there is nothing to do.
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Gives it to the copy. The user's own extended attributes come first, because they need the right to write, which
    /// the mode may not give; a new owner takes capabilities away, so they and their like come last.
    ///
    /// # Errors
    /// The NameNode's.
    pub(crate) async fn apply(&self, client: &DfsClient, caller: &Caller, inode: InodeId, path: &DfsPath) -> Outcome {
        let failed = |error| Failure::dfs(path, error);
        let (own, other): (Vec<_>, Vec<_>) = self.xattrs.iter().partition(|(name, _)| name.starts_with(USER_PREFIX));
        let set = async |(name, value): &(Vec<u8>, Vec<u8>)| {
            client.set_xattr(caller, inode, name, value, XAttrSetFlag::Any).await.map_err(failed)
        };
        for xattr in own {
            set(xattr).await?;
        }
        if self.attributes != SetAttr::default() {
            client.set_attr(caller, inode, self.attributes).await.map_err(failed)?;
        }
        for xattr in other {
            set(xattr).await?;
        }
        Ok(())
    }
}
