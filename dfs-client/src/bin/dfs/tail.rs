//! `dfs tail`: the end of a file, and with `-f` what is added to it.

use std::ffi::OsString;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use dfs_client::FileReader;
use dfs_common::units::parse_duration;
use futures::StreamExt;
use serde::Serialize;

use crate::cat::FileJson;
use crate::content;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::remote_file;
use crate::tree::{self, Links, Node};

/// Bytes shown, HDFS's.
const TAIL_BYTES: u64 = 1024;

/// Shortest time between looks: each is a call to a DataNode or to the NameNode.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Writes the last kilobyte of a file to standard output.
#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// Go on with what is added, until interrupted
    #[arg(short = 'f', long)]
    follow: bool,
    /// Time between looks with -f
    #[arg(short = 's', long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    interval: Duration,
    /// A file
    #[arg(value_name = "PATH")]
    path: OsString,
}

#[derive(Serialize)]
struct TailJson {
    file: FileJson,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: TailArgs) -> Outcome {
    if ctx.json() && args.follow {
        return Err(Failure::refused("-f", "what has no end is no JSON document").with_hint("leave out --json"));
    }
    for node in tree::operands(ctx, std::slice::from_ref(&args.path), Links::Follow).await? {
        let reader = remote_file::open(ctx, &node).await?;
        let length = reader.length();
        let start = length.saturating_sub(TAIL_BYTES);
        if ctx.json() {
            let mut pieces = std::pin::pin!(content::of_remote(&node.path, &reader, start..length));
            let mut bytes = Vec::new();
            while let Some(piece) = pieces.next().await {
                bytes.extend_from_slice(&piece?);
            }
            return ctx.output.json(&TailJson { file: FileJson::new(&node, length, bytes) });
        }
        let stdout = copy(&node, &reader, start..length, content::Stdout).await?;
        if args.follow {
            return follow(&node, &reader, length, args.interval, stdout).await;
        }
    }
    Ok(())
}

/// Parses the time between looks.
///
/// # Errors
/// A sentence that says how to write it, or what the least is.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if interval < INTERVAL_MIN { Err(format!("at least {} ms", INTERVAL_MIN.as_millis())) } else { Ok(interval) }
}

async fn copy<W: Write + Send + 'static>(
    node: &Node,
    reader: &Arc<FileReader>,
    range: std::ops::Range<u64>,
    sink: W,
) -> Outcome<W> {
    let content = content::of_remote(&node.path, reader, range);
    content::into_local(content, sink, Failure::stdout).await.map(|(sink, _)| sink)
}

/// Shows what is added until somebody stops us, or the file goes.
async fn follow<W: Write + Send + 'static>(
    node: &Node,
    reader: &Arc<FileReader>,
    mut shown: u64,
    interval: Duration,
    mut sink: W,
) -> Outcome {
    loop {
        tokio::time::sleep(interval).await;
        let length = reader.refresh_length().await.map_err(|error| Failure::dfs(&node.path, error))?;
        // A file that became shorter was written anew: from its start, as tail does it.
        let start = if length < shown { 0 } else { shown };
        if length != start {
            sink = copy(node, reader, start..length, sink).await?;
        }
        shown = length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_interval_leaves_a_pause_between_looks() {
        assert_eq!(parse_interval("100ms"), Ok(INTERVAL_MIN));
        assert_eq!(parse_interval("2"), Ok(Duration::from_secs(2)));
        for bad in ["0", "99ms", "x"] {
            assert!(parse_interval(bad).is_err(), "{bad}");
        }
    }
}
