//! `dfs setrep`: how many replicas files should have.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use dfs_common::attr::FileKind;
use serde::Serialize;

use crate::context::Context;
use crate::each::each;
use crate::failure::{Failure, Outcome};
use crate::json::PathJson;
use crate::tree::{self, Links, Node};

/// Time between looks with `-w`.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Blocks asked for at once: the most that the NameNode answers.
const BLOCKS_PER_LOOK: u64 = 1000;

/// Sets how many replicas files have; of a directory, those of all files below it.
#[derive(Debug, Args)]
pub(crate) struct SetrepArgs {
    /// Accepted as in HDFS: directories are always walked
    #[arg(short = 'R')]
    _recursive: bool,
    /// Wait until every block has its replicas
    #[arg(short = 'w', long)]
    wait: bool,
    /// Replicas of each block
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    replication: u32,
    /// Paths, which may be patterns
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Serialize)]
struct ChangedJson {
    replication: u32,
    changed: Vec<PathJson>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: SetrepArgs) -> Outcome {
    let mut changed = Vec::new();
    let outcome = async {
        for node in tree::operands(ctx, &args.paths, Links::Follow).await? {
            let set = async |node: Node| {
                if node.attr.kind != FileKind::File {
                    return Ok(None);
                }
                match ctx.client.set_replication(&ctx.caller, node.attr.inode, args.replication).await {
                    Ok(_) => Ok(Some(node)),
                    Err(error) => Err(Failure::dfs(&node.path, error)),
                }
            };
            let done = |node: Option<Node>| {
                let Some(node) = node else { return Ok(()) };
                if !ctx.json() {
                    let words = format!("Replication {} set: ", args.replication);
                    ctx.output.line([words.as_bytes(), node.path.as_bytes()].concat())?;
                }
                changed.push(node);
                Ok(())
            };
            each(ctx, node, true, set, done).await?;
        }
        if args.wait {
            ctx.output.flush()?;
            warn_if_impossible(ctx, args.replication).await?;
            for node in &changed {
                ctx.tolerate(wait_for(ctx, node, args.replication).await)?;
            }
        }
        Ok(())
    }
    .await;
    let changed = changed.iter().map(|node| PathJson::from(&node.path)).collect();
    ctx.conclude(outcome, &ChangedJson { replication: args.replication, changed })
}

/// A wait for more replicas than there are nodes ends only when nodes are added: say so rather than hang silently.
async fn warn_if_impossible(ctx: &Context, replication: u32) -> Outcome {
    let stats = ctx.client.get_fs_stats(&ctx.caller).await.map_err(Failure::cluster)?;
    if stats.live_datanodes < replication {
        let live = stats.live_datanodes;
        ctx.progress.say(&format!("dfs: setrep: only {live} DataNodes are live: waiting for more of them"));
    }
    Ok(())
}

async fn wait_for(ctx: &Context, node: &Node, replication: u32) -> Outcome {
    while !has_replicas(ctx, node, replication).await? {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

async fn has_replicas(ctx: &Context, node: &Node, replication: u32) -> Outcome<bool> {
    let mut offset = 0;
    loop {
        let length = node.attr.block_size.max(1).saturating_mul(BLOCKS_PER_LOOK);
        let blocks = ctx.client.get_block_locations(&ctx.caller, node.attr.inode, offset, length).await;
        let blocks = blocks.map_err(|error| Failure::dfs(&node.path, error))?;
        if blocks.iter().any(|block| block.replicas.len() != replication as usize) {
            return Ok(false);
        }
        match blocks.last().map(|last| last.offset + last.block.block.length) {
            Some(end) if end > offset && end < node.attr.length => offset = end,
            _ => return Ok(true),
        }
    }
}
