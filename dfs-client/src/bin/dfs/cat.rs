//! `dfs cat`: files to standard output.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use futures::StreamExt;
use serde::Serialize;

use crate::content;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::json::{ContentJson, PathJson};
use crate::remote_file;
use crate::tree::{self, Links, Node};

/// Most bytes of all files together that fit in a JSON document; it is held in memory.
pub(crate) const JSON_BYTES_MAX: u64 = 64 << 20;

/// Writes files to standard output, one after the other.
#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// Accepted as in HDFS; every byte is checked all the same
    #[arg(long = "ignoreCrc")]
    _ignore_crc: bool,
    /// Files, which may be patterns
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Serialize)]
struct FilesJson {
    files: Vec<FileJson>,
}

/// A file with its content.
#[derive(Serialize)]
pub(crate) struct FileJson {
    #[serde(flatten)]
    path: PathJson,
    length: u64,
    #[serde(flatten)]
    content: ContentJson,
}

impl FileJson {
    /// The file, or as much of it as was asked for.
    pub(crate) fn new(node: &Node, length: u64, content: Vec<u8>) -> Self {
        Self { path: (&node.path).into(), length, content: content.into() }
    }
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: CatArgs) -> Outcome {
    let nodes = tree::operands(ctx, &args.paths, Links::Follow).await?.nodes;
    if ctx.json() { print_json(ctx, &nodes).await } else { print_all(ctx, &nodes).await }
}

/// The files' bytes, in order.
///
/// # Errors
/// When standard output cannot be written, or a failure that would meet every file.
pub(crate) async fn print_all(ctx: &Context, nodes: &[Node]) -> Outcome {
    for node in nodes {
        ctx.tolerate(print(ctx, node).await)?;
    }
    Ok(())
}

async fn print(ctx: &Context, node: &Node) -> Outcome {
    let reader = remote_file::open(ctx, node).await?;
    let content = content::of_remote(&node.path, &reader, 0..reader.length());
    content::into_local(content, content::Stdout, Failure::stdout).await.map(|_| ())
}

async fn print_json(ctx: &Context, nodes: &[Node]) -> Outcome {
    let mut files = Vec::new();
    let mut left = JSON_BYTES_MAX;
    for node in nodes {
        if let Some((content, length)) = ctx.tolerate(read_whole(ctx, node, left).await)? {
            left -= length;
            files.push(FileJson::new(node, length, content));
        }
    }
    ctx.output.json(&FilesJson { files })
}

async fn read_whole(ctx: &Context, node: &Node, limit: u64) -> Outcome<(Vec<u8>, u64)> {
    let reader = remote_file::open(ctx, node).await?;
    let length = reader.length();
    if length > limit {
        let words = format!("too large for a JSON document of at most {JSON_BYTES_MAX} bytes");
        return Err(Failure::refused(&node.path, words).with_hint("leave out --json, or use `dfs get`"));
    }
    let mut pieces = std::pin::pin!(content::of_remote(&node.path, &reader, 0..length));
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await {
        whole.extend_from_slice(&piece?);
    }
    Ok((whole, length))
}
