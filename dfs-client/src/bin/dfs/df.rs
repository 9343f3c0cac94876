//! `dfs df`: room in the cluster.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::format;
use crate::tree::{self, Links};

/// Shows capacity and free space of the cluster.
///
/// Bytes are raw: a file takes its length times its replicas.
#[derive(Debug, Args)]
pub(crate) struct DfArgs {
    /// Sizes for people: 1.5 K, 128 M
    #[arg(short = 'h')]
    human: bool,
    /// Accepted as in HDFS; there is one file system, whatever the path
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Serialize)]
struct SpaceJson {
    filesystem: String,
    capacity: u64,
    used: u64,
    remaining: u64,
    use_percent: u64,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: DfArgs) -> Outcome {
    tree::operands(ctx, &args.paths, Links::Follow).await?;
    let stats = ctx.client.get_fs_stats(&ctx.caller).await.map_err(Failure::cluster)?;
    let space = SpaceJson {
        filesystem: format!("dfs://{}", ctx.client.config().namenodes.join(",")),
        capacity: stats.capacity,
        used: stats.used,
        remaining: stats.remaining,
        use_percent: format::percent(stats.used, stats.capacity),
    };
    if ctx.json() {
        return ctx.output.json(&space);
    }
    table(&space, args.human).into_iter().try_for_each(|line| ctx.output.line(line))
}

fn table(space: &SpaceJson, human: bool) -> [String; 2] {
    let size = |bytes| format::size(bytes, human);
    let head = ["Filesystem", "Size", "Used", "Available", "Use%"].map(str::to_owned);
    let row = [
        space.filesystem.clone(),
        size(space.capacity),
        size(space.used),
        size(space.remaining),
        format!("{}%", space.use_percent),
    ];
    let widths: Vec<usize> = head.iter().zip(&row).map(|(head, cell)| head.len().max(cell.len())).collect();
    [head, row].map(|cells| {
        let others = cells[1..].iter().zip(&widths[1..]).map(|(cell, width)| format!("  {cell:>width$}"));
        format!("{:<width$}{}", cells[0], others.collect::<String>(), width = widths[0])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_hdfs_columns() {
        let space =
            SpaceJson { filesystem: "dfs://h:1".into(), capacity: 4096, used: 1024, remaining: 3072, use_percent: 25 };
        assert_eq!(
            table(&space, false),
            ["Filesystem  Size  Used  Available  Use%", "dfs://h:1   4096  1024       3072   25%"]
        );
        assert_eq!(table(&space, true)[1], "dfs://h:1    4 K   1 K        3 K   25%");
    }
}
