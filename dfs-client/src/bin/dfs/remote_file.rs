//! Files of the cluster as operands: what is none is refused, what is one is opened to be read.

use std::sync::Arc;

use dfs_client::FileReader;
use dfs_common::ErrorKind;
use dfs_common::attr::FileKind;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::tree::Node;

/// A reader for what must be a file.
///
/// # Errors
/// When it is none, or may not be read.
pub(crate) async fn open(ctx: &Context, node: &Node) -> Outcome<Arc<FileReader>> {
    if let Some(failure) = not_a_file(node, "`dfs get` copies directories") {
        return Err(failure);
    }
    ctx.client.open_reader(&ctx.caller, node.attr.inode).await.map_err(|error| Failure::dfs(&node.path, error))
}

/// Why a node is no file; of a directory, with what to do instead.
pub(crate) fn not_a_file(node: &Node, hint_at_directory: &str) -> Option<Failure> {
    match node.attr.kind {
        FileKind::File => None,
        FileKind::Directory => Some(Failure::kind(&node.path, ErrorKind::IsADirectory).with_hint(hint_at_directory)),
        FileKind::Symlink => Some(Failure::refused(&node.path, "the symbolic link leads nowhere")),
        FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
            Some(Failure::refused(&node.path, "not a regular file"))
        }
    }
}
