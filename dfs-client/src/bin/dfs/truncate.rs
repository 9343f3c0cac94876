//! `dfs truncate`: makes files shorter.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use dfs_common::units::ByteCount;
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::json::PathJson;
use crate::remote_file;
use crate::tree::{self, Links, Node};

/// Cuts files to a length.
#[derive(Debug, Args)]
pub(crate) struct TruncateArgs {
    /// Accepted as in HDFS: files are closed again when the command returns
    #[arg(short = 'w', long = "wait")]
    _wait: bool,
    /// Bytes that stay, like 0 or 64MiB
    #[arg(value_name = "LENGTH")]
    length: ByteCount,
    /// Files, which may be patterns
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Serialize)]
struct TruncatedJson {
    length: u64,
    truncated: Vec<PathJson>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: TruncateArgs) -> Outcome {
    let mut truncated = Vec::new();
    let outcome = async {
        for node in tree::operands(ctx, &args.paths, Links::Follow).await? {
            if ctx.tolerate(truncate(ctx, &node, &args).await)?.is_some() {
                if !ctx.json() {
                    let words = format!(" truncated to {}", args.length.0);
                    ctx.output.line([node.path.as_bytes(), words.as_bytes()].concat())?;
                }
                truncated.push(PathJson::from(&node.path));
            }
        }
        Ok(())
    }
    .await;
    ctx.conclude(outcome, &TruncatedJson { length: args.length.0, truncated })
}

async fn truncate(ctx: &Context, node: &Node, args: &TruncateArgs) -> Outcome {
    if let Some(failure) = remote_file::not_a_file(node, "name the files to be cut") {
        return Err(failure);
    }
    let cut = ctx.client.truncate(&ctx.caller, node.attr.inode, args.length.0).await;
    cut.map_err(|error| Failure::dfs(&node.path, error))?;
    Ok(())
}
