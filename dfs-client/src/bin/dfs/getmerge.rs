//! `dfs getmerge`: the files of directories as one local file.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use dfs_client::FileReader;
use dfs_common::attr::{FileAttr, FileKind};
use futures::stream::{self, Stream, StreamExt};
use serde::Serialize;

use crate::content;
use crate::context::Context;
use crate::destination;
use crate::failure::{Failure, Outcome};
use crate::local_destination::LocalDestination;
use crate::local_file::{self, LocalFile};
use crate::location;
use crate::path::DfsPath;
use crate::remote_file;
use crate::tree::{self, Links, Node};

/// Mode of the merged file, before the umask.
const FILE_MODE: u32 = 0o666;

/// Writes the files of directories, in order of name, into one local file.
///
/// Directories in them are left out. The local file is replaced when it is there, and only when all bytes have arrived; a
/// symbolic link stands for what it leads to.
#[derive(Debug, Args)]
pub(crate) struct GetmergeArgs {
    /// A line's end behind each file
    #[arg(long = "nl")]
    newline: bool,
    /// None behind an empty file
    #[arg(long)]
    skip_empty_file: bool,
    /// Directories and files, which may be patterns, then the local file (`-` is standard output)
    #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "DESTINATION"])]
    paths: Vec<OsString>,
}

#[derive(Serialize)]
struct MergedJson {
    files: u64,
    bytes: u64,
}

/// A file to be merged.
struct Part {
    path: DfsPath,
    reader: Arc<FileReader>,
    has_newline: bool,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: GetmergeArgs) -> Outcome {
    let (sources, destination) = destination::split_arguments(args.paths)?;
    let destination = location::local(destination);
    let path = match destination.as_bytes() {
        b"-" => None,
        _ => match LocalDestination::look_up(&destination, false)? {
            LocalDestination::As(path) => Some(path),
            LocalDestination::Into(path) => return Err(Failure::refused(path.display(), "is a directory")),
        },
    };
    let Some((nodes, top)) = files_of(ctx, &sources).await? else { return Ok(()) };
    let mut parts = Vec::new();
    for node in &nodes {
        let reader = remote_file::open(ctx, node).await?;
        let has_newline = args.newline && (reader.length() > 0 || !args.skip_empty_file);
        parts.push(Part { path: node.path.clone(), reader, has_newline });
    }
    let files = parts.len() as u64;
    let length = parts.iter().map(|part| part.reader.length() + u64::from(part.has_newline)).sum();
    let Some(path) = path else {
        return content::into_local(content_of(parts), content::Stdout, Failure::stdout).await.map(|_| ());
    };
    let attr = FileAttr { permissions: FILE_MODE, ..top };
    let new = LocalFile { path, attr, replace: true, preserve: false, may_be_stream: true };
    ctx.progress.expect(length);
    let bytes = local_file::store(ctx, &new, length, content_of(parts).inspect(|piece| count(ctx, piece))).await?;
    ctx.progress.finish();
    if ctx.json() { ctx.output.json(&MergedJson { files, bytes }) } else { Ok(()) }
}

fn count(ctx: &Context, piece: &Outcome<Bytes>) {
    if let Ok(piece) = piece {
        ctx.progress.moved(piece.len() as u64);
    }
}

/// The files that sources stand for, and the attributes of the first source. None when something could not be looked at,
/// which has been reported: half of what was asked for is not merged.
async fn files_of(ctx: &Context, sources: &[OsString]) -> Outcome<Option<(Vec<Node>, FileAttr)>> {
    let mut files = Vec::new();
    let mut first = None;
    for node in tree::operands(ctx, sources, Links::Follow).await? {
        first.get_or_insert_with(|| node.attr.clone());
        if node.is_directory() {
            for child in ctx.tolerate(tree::list(ctx, &node).await)?.unwrap_or_default() {
                let child = match child.attr.kind {
                    FileKind::Symlink => ctx.tolerate(tree::resolve(ctx, child.path, Links::Follow).await)?,
                    _ => Some(child),
                };
                files.extend(child.filter(|child| !child.is_directory()));
            }
        } else {
            files.push(node);
        }
    }
    Ok(first.filter(|_| !ctx.has_failed()).map(|attr| (files, attr)))
}

fn content_of(parts: Vec<Part>) -> impl Stream<Item = Outcome<Bytes>> + Send {
    stream::iter(parts).flat_map(|part| {
        let newline: Option<Outcome<Bytes>> = part.has_newline.then(|| Ok(Bytes::from_static(b"\n")));
        content::of_remote(&part.path, &part.reader, 0..part.reader.length()).chain(stream::iter(newline))
    })
}
