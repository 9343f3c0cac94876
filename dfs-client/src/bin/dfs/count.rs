//! `dfs count`: directories, files and bytes below paths.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::du;
use crate::failure::Outcome;
use crate::format;
use crate::json::PathJson;
use crate::tree::{self, Links};

/// Counts directories, files and bytes.
///
/// A line holds directories (the path itself included), files, bytes and the path, as in HDFS.
#[derive(Debug, Args)]
pub(crate) struct CountArgs {
    /// Sizes for people: 1.5 K, 128 M
    #[arg(short = 'h')]
    human: bool,
    /// A heading above the columns
    #[arg(short = 'v')]
    heading: bool,
    /// Paths, which may be patterns
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Serialize)]
struct CountsJson {
    counts: Vec<CountJson>,
}

#[derive(Serialize)]
struct CountJson {
    #[serde(flatten)]
    path: PathJson,
    directories: u64,
    files: u64,
    length: u64,
    space_consumed: u64,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: CountArgs) -> Outcome {
    let mut counts = Vec::new();
    if args.heading && !ctx.json() {
        ctx.output.line(line("DIR_COUNT", "FILE_COUNT", "CONTENT_SIZE", b"PATHNAME"))?;
    }
    for node in tree::operands(ctx, &args.paths, Links::Follow).await? {
        let Some(summary) = ctx.tolerate(du::summary_of(ctx, &node).await)? else { continue };
        if ctx.json() {
            counts.push(CountJson {
                path: (&node.path).into(),
                directories: summary.directory_count,
                files: summary.file_count,
                length: summary.length,
                space_consumed: summary.space_consumed,
            });
            continue;
        }
        ctx.output.line(line(
            &summary.directory_count.to_string(),
            &summary.file_count.to_string(),
            &format::size(summary.length, args.human),
            node.path.as_bytes(),
        ))?;
    }
    if ctx.json() { ctx.output.json(&CountsJson { counts }) } else { Ok(()) }
}

fn line(directories: &str, files: &str, length: &str, path: &[u8]) -> Vec<u8> {
    [format!("{directories:>12} {files:>12} {length:>18} ").as_bytes(), path].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_hdfs_widths() {
        assert_eq!(line("1", "2", "3", b"/a"), b"           1            2                  3 /a");
    }
}
