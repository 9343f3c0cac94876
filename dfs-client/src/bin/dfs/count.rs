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
/// A line holds directories (the path itself included), files, bytes and the path, as in HDFS. A file with several names
/// counts once.
#[derive(Debug, Args)]
pub(crate) struct CountArgs {
    /// Quotas before the counts; there are none yet, so they are `none` and `inf`
    #[arg(short = 'q')]
    quotas: bool,
    /// Quotas only
    #[arg(short = 'u')]
    quotas_only: bool,
    /// Sizes and counts for people: 1.5 K, 128 M
    #[arg(short = 'h')]
    human: bool,
    /// A heading above the columns
    #[arg(short = 'v')]
    heading: bool,
    /// Accepted as in HDFS: there are no snapshots
    #[arg(short = 'x')]
    _without_snapshots: bool,
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
        let quotas = ["QUOTA", "REM_QUOTA", "SPACE_QUOTA", "REM_SPACE_QUOTA"];
        ctx.output.line(line(&args, quotas, ["DIR_COUNT", "FILE_COUNT", "CONTENT_SIZE"], b"PATHNAME"))?;
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
        let counts = [summary.directory_count, summary.file_count, summary.length];
        let counts = counts.map(|count| format::size(count, args.human));
        let counts = counts.each_ref().map(String::as_str);
        ctx.output.line(line(&args, ["none", "inf", "none", "inf"], counts, node.path.as_bytes()))?;
    }
    if ctx.json() { ctx.output.json(&CountsJson { counts }) } else { Ok(()) }
}

/// A line of those columns that are asked for.
fn line(args: &CountArgs, quotas: [&str; 4], counts: [&str; 3], path: &[u8]) -> Vec<u8> {
    let mut line = String::new();
    if args.quotas || args.quotas_only {
        let [names, names_left, space, space_left] = quotas;
        line.push_str(&format!("{names:>12} {names_left:>15} {space:>15} {space_left:>15} "));
    }
    if !args.quotas_only {
        let [directories, files, length] = counts;
        line.push_str(&format!("{directories:>12} {files:>12} {length:>18} "));
    }
    [line.as_bytes(), path].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_hdfs_widths() {
        let args = |quotas, quotas_only| CountArgs {
            quotas,
            quotas_only,
            human: false,
            heading: false,
            _without_snapshots: false,
            paths: Vec::new(),
        };
        let line =
            |args| String::from_utf8(line(&args, ["none", "inf", "none", "inf"], ["1", "2", "3"], b"/a")).unwrap();
        let (counts, quotas) = (
            "           1            2                  3 /a",
            "        none             inf            none             inf ",
        );
        assert_eq!(line(args(false, false)), counts);
        assert_eq!(line(args(true, false)), [quotas, counts].concat());
        assert_eq!(line(args(false, true)), [quotas, "/a"].concat());
        assert_eq!(line(args(true, true)), [quotas, "/a"].concat());
    }
}
