//! Making a directory that may be there already, for `mkdir -p` and for trees that are copied.

use dfs_common::ErrorKind;
use dfs_common::attr::FileKind;
use dfs_common::ids::InodeId;

use crate::context::Context;
use crate::destination::Target;
use crate::failure::{Failure, Outcome};
use crate::kept_mode::SET_ID_BITS;
use crate::tree;

/// A directory that is there now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    /// Which.
    pub(crate) inode: InodeId,
    /// We made it: it was not there before.
    pub(crate) is_new: bool,
    /// The set-group-id bit that a new one has from the directory above: whoever sets its mode keeps it.
    pub(crate) inherited: u32,
}

/// Makes the directory, or finds it, or a link to one.
///
/// # Errors
/// `NotADirectory` when something else has the name; those of mkdir.
pub(crate) async fn make(ctx: &Context, target: &Target, mode: u32) -> Outcome<Made> {
    let refused = match ctx.client.mkdir(&ctx.caller, target.parent, &target.name, mode).await {
        Ok(attr) => {
            let inherited = attr.permissions & SET_ID_BITS;
            return Ok(Made { inode: attr.inode, is_new: true, inherited });
        }
        Err(error) => error,
    };
    // In a directory that we may not write to, or that nobody may, the one we want can be there all the same.
    if !matches!(refused.kind(), ErrorKind::AlreadyExists | ErrorKind::PermissionDenied | ErrorKind::ReadOnly) {
        return Err(Failure::dfs(&target.path, refused));
    }
    // Looked up in the directory itself, whose path may lead elsewhere by now; a link, too.
    let there = match ctx.client.lookup(&ctx.caller, target.parent, &target.name).await {
        Ok(there) if there.kind == FileKind::Symlink => {
            let followed = ctx.client.resolve_in(&ctx.caller, target.parent, &target.name).await;
            tree::found(followed.map_err(|error| Failure::dfs(&target.path, error)))?
        }
        Ok(there) => Some(there),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(Failure::dfs(&target.path, error)),
    };
    match there {
        Some(attr) if attr.kind == FileKind::Directory => Ok(Made { inode: attr.inode, is_new: false, inherited: 0 }),
        Some(_) => Err(Failure::kind(&target.path, ErrorKind::NotADirectory)),
        None => Err(Failure::dfs(&target.path, refused)),
    }
}
