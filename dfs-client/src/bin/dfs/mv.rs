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
use crate::just_created::JustCreated;
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
    to: String,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: MvArgs) -> Outcome {
    let (sources, destination) = destination::split_arguments(args.paths)?;
    let nodes = tree::operands(ctx, &sources, Links::Keep).await?;
    if nodes.is_empty() {
        return Ok(());
    }
    let destination = Destination::look_up(ctx, &destination, nodes.len() > 1, Links::Keep).await?;
    let flag = if args.force { RenameFlag::Replace } else { RenameFlag::NoReplace };
    let mut just_created = JustCreated::new(nodes.len() > 1);
    let mut moved = Vec::new();
    for node in nodes {
        if let Some(target) = ctx.tolerate(rename(ctx, &node, &destination, flag, &mut just_created).await)? {
            moved.push(MoveJson { from: node.path.to_string(), to: target.path.to_string() });
        }
    }
    if ctx.json() { ctx.output.json(&MovedJson { moved }) } else { Ok(()) }
}

async fn rename(
    ctx: &Context,
    node: &Node,
    destination: &Destination,
    flag: RenameFlag,
    just_created: &mut JustCreated<InodeId>,
) -> Outcome<Target> {
    let Some(name) = node.path.file_name() else {
        return Err(Failure::refused(&node.path, "the root cannot be moved"));
    };
    let target = destination.target(name);
    let place = (target.parent, target.name.as_slice());
    // rename(2) would do nothing and call it done.
    identity::refuse_same(ctx, (node.attr.inode, &node.path), place, &target.path).await?;
    just_created.take(&node.path, target.parent, &target.name, &target.path)?;
    let source = Target::look_up(ctx, node.path.clone()).await?;
    let from = (source.parent, source.name.as_slice());
    match ctx.client.rename(&ctx.caller, from, place, flag).await {
        Ok(()) => Ok(target),
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
