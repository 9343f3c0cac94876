//! `dfs du`: bytes below directories, as they are and times their replicas.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use dfs_client::ContentSummary;
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::format;
use crate::json::PathJson;
use crate::tree::{self, Links, Node};

/// Shows how many bytes files and directories hold.
///
/// A line holds the bytes of the files, the bytes with all replicas, and the path, as in HDFS. A file with several names
/// counts once in a line.
#[derive(Debug, Args)]
pub(crate) struct DuArgs {
    /// One line for each path, rather than for each entry of it
    #[arg(short = 's')]
    summary: bool,
    /// Sizes for people: 1.5 K, 128 M
    #[arg(short = 'h')]
    human: bool,
    /// A heading above the columns
    #[arg(short = 'v')]
    heading: bool,
    /// Accepted as in HDFS: there are no snapshots
    #[arg(short = 'x')]
    _without_snapshots: bool,
    /// Paths, which may be patterns; the home directory when there are none
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Serialize)]
struct UsagesJson {
    usages: Vec<UsageJson>,
}

#[derive(Serialize)]
struct UsageJson {
    #[serde(flatten)]
    path: PathJson,
    length: u64,
    space_consumed: u64,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: DuArgs) -> Outcome {
    let paths = if args.paths.is_empty() { vec![OsString::from(".")] } else { args.paths.clone() };
    let mut nodes = Vec::new();
    for node in tree::operands(ctx, &paths, Links::Follow).await? {
        if node.is_directory() && !args.summary {
            nodes.extend(ctx.tolerate(tree::list(ctx, &node).await)?.unwrap_or_default());
        } else {
            nodes.push(node);
        }
    }
    let mut usages = Vec::new();
    for node in nodes {
        if let Some(summary) = ctx.tolerate(summary_of(ctx, &node).await)? {
            usages.push((node, summary));
        }
    }
    if ctx.json() {
        let usages = usages.iter().map(|(node, summary)| UsageJson {
            path: (&node.path).into(),
            length: summary.length,
            space_consumed: summary.space_consumed,
        });
        return ctx.output.json(&UsagesJson { usages: usages.collect() });
    }
    let mut rows: Vec<[String; 2]> = Vec::with_capacity(usages.len() + 1);
    let mut names: Vec<&[u8]> = Vec::with_capacity(usages.len() + 1);
    if args.heading {
        rows.push(["SIZE".to_owned(), "DISK_SPACE_CONSUMED_WITH_ALL_REPLICAS".to_owned()]);
        names.push(b"FULL_PATH_NAME");
    }
    for (node, summary) in &usages {
        rows.push([summary.length, summary.space_consumed].map(|bytes| format::size(bytes, args.human)));
        names.push(node.path.as_bytes());
    }
    aligned(&rows, &names).into_iter().try_for_each(|line| ctx.output.line(line))
}

/// Totals below a node; those of anything but a directory are in its attributes.
///
/// # Errors
/// The NameNode's.
pub(crate) async fn summary_of(ctx: &Context, node: &Node) -> Outcome<ContentSummary> {
    if !node.is_directory() {
        let attr = &node.attr;
        let space_consumed = attr.length.saturating_mul(u64::from(attr.replication));
        return Ok(ContentSummary { length: attr.length, file_count: 1, directory_count: 0, space_consumed });
    }
    let summary = ctx.client.get_content_summary(&ctx.caller, node.attr.inode).await;
    summary.map_err(|error| Failure::dfs(&node.path, error))
}

fn aligned(rows: &[[String; 2]], names: &[&[u8]]) -> Vec<Vec<u8>> {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let line = |(row, name): (&[String; 2], &&[u8])| {
        [format!("{:<first$}  {:<second$}  ", row[0], row[1]).as_bytes(), *name].concat()
    };
    rows.iter().zip(names).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_keeps_columns_straight() {
        let rows = [["5".to_owned(), "15".to_owned()], ["12 K".to_owned(), "1".to_owned()]];
        assert_eq!(aligned(&rows, &[b"/a", b"/b"]), [b"5     15  /a".to_vec(), b"12 K  1   /b".to_vec()]);
    }
}
