//! `dfs setrep`: how many replicas files should have.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use dfs_client::BlockHealth;
use dfs_common::ErrorKind;
use dfs_common::attr::FileKind;
use serde::Serialize;

use crate::context::Context;
use crate::each::each;
use crate::failure::{Failure, Outcome};
use crate::json::PathJson;
use crate::remote_file;
use crate::tree::{self, Links, Node};

/// Time between looks with `-w`.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

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
            // Named, it is a mistake. In a directory it is no file to be changed.
            if let Some(failure) = (!node.is_directory()).then(|| remote_file::not_a_file(&node, "")).flatten() {
                ctx.report(&failure);
                continue;
            }
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
                ctx.tolerate(wait_for(ctx, node).await)?;
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

async fn wait_for(ctx: &Context, node: &Node) -> Outcome {
    while !has_replicas(ctx, node).await? {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

/// Whether every block of a file has the replicas that it should have now, by the rules that make the NameNode copy them.
async fn has_replicas(ctx: &Context, node: &Node) -> Outcome<bool> {
    let mut first_block = 0;
    loop {
        let answer = ctx.client.check_files(&ctx.caller, &[node.attr.inode], first_block, false).await;
        let answer = answer.map_err(|error| Failure::dfs(&node.path, error))?;
        let file = match answer.files.first() {
            Some(file) if file.is_gone => return Err(Failure::kind(&node.path, ErrorKind::NotFound)),
            Some(file) if file.is_denied => return Err(Failure::kind(&node.path, ErrorKind::PermissionDenied)),
            Some(file) => file,
            None => return Err(Failure::kind(&node.path, ErrorKind::Protocol)),
        };
        if !file.blocks.iter().all(is_as_wanted) {
            return Ok(false);
        }
        if answer.next_block <= first_block {
            return Ok(true);
        }
        first_block = answer.next_block;
    }
}

/// Replicas on nodes that are leaving do not count, as for the NameNode. A block that is being written has its writer's, perhaps
/// for hours; once it is written, its replicas are waited for.
fn is_as_wanted(block: &BlockHealth) -> bool {
    if block.is_open {
        return block.pending == 0;
    }
    block.live > 0 && !block.is_under_replicated && !block.is_over_replicated
}

#[cfg(test)]
mod tests {
    use dfs_common::block::Block;
    use dfs_common::ids::{BlockId, GenerationStamp};

    use super::*;

    #[test]
    fn is_as_wanted_asks_the_namenode_and_does_not_count() {
        let block = BlockHealth {
            block: Block { id: BlockId(1), generation_stamp: GenerationStamp(2), length: 10 },
            wanted: 2,
            live: 2,
            corrupt: 0,
            decommissioning: 0,
            in_maintenance: 0,
            is_open: false,
            is_under_replicated: false,
            is_over_replicated: false,
            is_misplaced: false,
            pending: 0,
            replicas: Vec::new(),
        };
        // A third replica is on a node that is being decommissioned.
        assert!(is_as_wanted(&BlockHealth { live: 3, decommissioning: 1, ..block.clone() }));
        assert!(!is_as_wanted(&BlockHealth { decommissioning: 1, is_under_replicated: true, ..block.clone() }));
        assert!(!is_as_wanted(&BlockHealth { live: 3, is_over_replicated: true, ..block.clone() }));
        // What has none is missing, and the NameNode has nothing to copy.
        assert!(!is_as_wanted(&BlockHealth { live: 0, ..block.clone() }));
        let open = BlockHealth { is_open: true, live: 0, ..block.clone() };
        assert!(is_as_wanted(&open) && !is_as_wanted(&BlockHealth { pending: 2, ..open }));
        assert!(is_as_wanted(&block));
    }
}
