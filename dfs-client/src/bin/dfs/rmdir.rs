//! `dfs rmdir`: removes empty directories.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use dfs_common::ErrorKind;

use crate::context::Context;
use crate::destination::Target;
use crate::failure::{Failure, Outcome};
use crate::json::PathJson;
use crate::rm::RemovedJson;
use crate::tree::{self, Links, Node};

/// Removes directories that are empty.
#[derive(Debug, Args)]
pub(crate) struct RmdirArgs {
    /// A directory with something in it stays, and is no error
    #[arg(long)]
    ignore_fail_on_non_empty: bool,
    /// Directories, which may be patterns
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: RmdirArgs) -> Outcome {
    let mut removed = Vec::new();
    let outcome = async {
        for node in tree::operands(ctx, &args.paths, Links::Keep).await? {
            match remove(ctx, &node).await {
                Err(failure)
                    if args.ignore_fail_on_non_empty && failure.error_kind() == Some(ErrorKind::DirectoryNotEmpty) => {}
                outcome => removed.extend(ctx.tolerate(outcome)?.map(|()| PathJson::from(&node.path))),
            }
        }
        Ok(())
    }
    .await;
    ctx.conclude(outcome, &RemovedJson { removed })
}

async fn remove(ctx: &Context, node: &Node) -> Outcome {
    if node.path.is_root() {
        return Err(Failure::refused(&node.path, "the root cannot be removed"));
    }
    if !node.is_directory() {
        return Err(Failure::kind(&node.path, ErrorKind::NotADirectory));
    }
    let target = Target::look_up(ctx, node.path.clone()).await?;
    let removed = ctx.client.rmdir(&ctx.caller, target.parent, &target.name).await;
    removed.map_err(|error| Failure::dfs(&node.path, error))
}
