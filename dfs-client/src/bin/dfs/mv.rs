//! `dfs mv`: gives files and directories other names or places, atomically each.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use dfs_client::RenameFlag;
use dfs_common::ErrorKind;
use dfs_common::ids::InodeId;
use serde::Serialize;

use crate::context::Context;
use crate::destination::{self, Destination, Target};
use crate::failure::{Failure, Outcome};
use crate::identity::{self, Apart};
use crate::json;
use crate::path::DfsPath;
use crate::taken::Taken;
use crate::tree::{self, Links, Node};

/// Moves files and directories within the cluster.
///
/// Moving into a directory keeps the name. What has the new name already stays, unless -f is given.
#[derive(Debug, Args)]
pub(crate) struct MvArgs {
    /// Replace what has the new name: a file, or an empty directory by a directory
    #[arg(short = 'f', long)]
    force: bool,
    /// Sources, which may be patterns, then the destination
    #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "DESTINATION"])]
    paths: Vec<OsString>,
}

#[derive(Serialize)]
struct MovedJson {
    moved: Vec<MoveJson>,
}

#[derive(Serialize)]
struct MoveJson {
    from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_base64: Option<String>,
    to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_base64: Option<String>,
}

impl MoveJson {
    fn new(from: &DfsPath, to: &DfsPath) -> Self {
        let ((from, from_base64), (to, to_base64)) = (json::text_of(from.as_bytes()), json::text_of(to.as_bytes()));
        Self { from, from_base64, to, to_base64 }
    }
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: MvArgs) -> Outcome {
    let (sources, destination) = destination::split_arguments(args.paths)?;
    let flag = if args.force { RenameFlag::Replace } else { RenameFlag::NoReplace };
    let mut moved = Vec::new();
    let outcome = async {
        let sources = tree::operands(ctx, &sources, Links::Keep).await?;
        if sources.nodes.is_empty() {
            return Ok(());
        }
        let destination = Destination::look_up(ctx, &destination, sources.are_several(), Links::Keep).await?;
        let mut taken = Taken::new(sources.are_several());
        for node in sources {
            if let Some(target) = ctx.tolerate(rename(ctx, &node, &destination, flag, &mut taken).await)? {
                moved.push(MoveJson::new(&node.path, &target.path));
            }
        }
        Ok(())
    }
    .await;
    ctx.conclude(outcome, &MovedJson { moved })
}

async fn rename(
    ctx: &Context,
    node: &Node,
    destination: &Destination,
    flag: RenameFlag,
    taken: &mut Taken<InodeId>,
) -> Outcome<Target> {
    let Some(name) = node.path.file_name() else {
        return Err(Failure::refused(&node.path, "the root cannot be moved"));
    };
    let target = destination.target(name);
    let place = (target.parent, target.name.as_slice());
    // rename(2) would do nothing and call it done.
    identity::refuse_same(ctx, (node.attr.inode, &node.path), place, &target.path).await?;
    taken.take(&node.path, target.parent, &target.name, &target.path)?;
    let moved = rename_to(ctx, node, &target, flag).await;
    if moved.as_ref().is_err_and(Failure::is_refusal) {
        // Nothing of ours came there, or will.
        taken.give_back(target.parent, &target.name);
    }
    moved.map(|()| target)
}

async fn rename_to(ctx: &Context, node: &Node, target: &Target, flag: RenameFlag) -> Outcome {
    let source = Target::look_up(ctx, node.path.clone()).await?;
    let (from, to) = ((source.parent, source.name.as_slice()), (target.parent, target.name.as_slice()));
    match ctx.client.rename(&ctx.caller, from, to, flag).await {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(Failure::dfs(&target.path, error).with_hint("use -f to replace it"))
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            Err(Failure::dfs(&node.path, error))
        }
        Err(error) => {
            // The NameNode has refused it; we only find better words.
            if error.kind() == ErrorKind::InvalidArgument && node.is_directory() {
                let mut apart = Apart::default();
                apart.write(ctx, target.parent, &target.path).await?;
                apart.read(node.attr.inode, &node.path)?;
            }
            Err(Failure::dfs(&target.path, error))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_that_are_no_text_keep_their_bytes() {
        let at = |path: &[u8]| DfsPath::parse(path).unwrap();
        let value = |from: &[u8], to: &[u8]| serde_json::to_value(MoveJson::new(&at(from), &at(to))).unwrap();
        assert_eq!(value(b"/a", b"/b"), json!({ "from": "/a", "to": "/b" }));
        let expected = json!({ "from": "/a", "to": "/a\u{fffd}", "to_base64": "L2H/" });
        assert_eq!(value(b"/a", b"/a\xff"), expected);
    }
}
