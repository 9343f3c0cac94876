//! `dfs rm`: removes files and trees; there is no trash.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use dfs_common::ErrorKind;
use serde::Serialize;

use crate::context::Context;
use crate::destination::Target;
use crate::failure::{Failure, Outcome};
use crate::json::PathJson;
use crate::tree::{self, Links, Node};

/// Removes files, and with -r directories with everything in them.
///
/// A directory goes in one step. There is no trash: what is removed is gone.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Directories too, with everything in them
    #[arg(short = 'r', short_alias = 'R', long)]
    recursive: bool,
    /// What does not exist is no error
    #[arg(short = 'f', long)]
    force: bool,
    /// Accepted as in HDFS: there is no trash
    #[arg(long = "skipTrash")]
    _skip_trash: bool,
    /// Paths, which may be patterns
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// What was removed.
#[derive(Serialize)]
pub(crate) struct RemovedJson {
    /// In the order of the removals.
    pub(crate) removed: Vec<PathJson>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: RmArgs) -> Outcome {
    let mut removed = Vec::new();
    for arg in &args.paths {
        let nodes = tree::expand(ctx, arg, Links::Keep).await;
        let nodes = if args.force { tree::found(nodes).map(Option::unwrap_or_default) } else { nodes };
        for node in ctx.tolerate(nodes)?.unwrap_or_default() {
            if ctx.tolerate(remove(ctx, &node, &args).await)?.is_some() {
                if !ctx.json() {
                    ctx.output.line([b"Deleted ", node.path.as_bytes()].concat())?;
                }
                removed.push(PathJson::from(&node.path));
            }
        }
    }
    if ctx.json() { ctx.output.json(&RemovedJson { removed }) } else { Ok(()) }
}

async fn remove(ctx: &Context, node: &Node, args: &RmArgs) -> Outcome {
    if node.path.is_root() {
        return Err(Failure::refused(&node.path, "the root cannot be removed"));
    }
    if node.is_directory() && !args.recursive {
        return Err(Failure::kind(&node.path, ErrorKind::IsADirectory).with_hint("use -r to remove it with all in it"));
    }
    let target = Target::look_up(ctx, node.path.clone()).await?;
    let removed = if node.is_directory() {
        ctx.client.delete(&ctx.caller, target.parent, &target.name).await
    } else {
        ctx.client.unlink(&ctx.caller, target.parent, &target.name).await
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound && args.force => Ok(()),
        removed => removed.map_err(|error| Failure::dfs(&node.path, error)),
    }
}
