//! `dfs getmerge`: the files of directories as one local file.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use dfs_common::attr::{FileAttr, FileKind};
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use serde::Serialize;

use crate::content;
use crate::context::Context;
use crate::destination;
use crate::failure::{Failure, Outcome};
use crate::local_destination::LocalDestination;
use crate::local_file::{self, LocalFile};
use crate::location;
use crate::remote_file;
use crate::tree::{self, Links, Node};

/// Mode of the merged file, before the umask.
const FILE_MODE: u32 = 0o666;

/// Files that are opened at once: so many ahead that nobody waits for the opening of small ones.
const FILES_AHEAD: usize = 4;

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

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: GetmergeArgs) -> Outcome {
    let GetmergeArgs { newline, skip_empty_file, paths } = args;
    let (sources, destination) = destination::split_arguments(paths)?;
    let destination = location::local(destination)?;
    let destination = match destination.as_bytes() {
        b"-" => None,
        _ => Some(LocalDestination::look_up(&destination, false)?),
    };
    if let Some(LocalDestination::Into(path)) = &destination {
        return Err(Failure::refused(path.display(), "is a directory"));
    }
    let Some((nodes, top)) = files_of(ctx, &sources).await? else { return Ok(()) };
    let files = nodes.len() as u64;
    ctx.progress.expect(nodes.iter().map(|node| node.attr.length).sum());
    let has_newline = move |length: u64| newline && (length > 0 || !skip_empty_file);
    let content = content_of(ctx, nodes, has_newline).inspect(|piece| count(ctx, piece));
    let bytes = match destination {
        None => return content::into_local(content, content::Stdout, Failure::stdout).await.map(|_| ()),
        Some(LocalDestination::Stream(path)) => local_file::write_into(&path, None, content).await?,
        Some(LocalDestination::As(path) | LocalDestination::Into(path)) => {
            let attr = FileAttr { permissions: FILE_MODE, ..top };
            let new = LocalFile { path, attr, replace: true, preserve: false };
            local_file::store(ctx, &new, None, content).await?
        }
    };
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
    for node in tree::sources(ctx, sources, Links::Follow).await? {
        first.get_or_insert_with(|| node.attr.clone());
        if node.is_directory() {
            for child in ctx.tolerate(tree::list(ctx, &node).await)?.unwrap_or_default() {
                let child = match child.attr.kind {
                    FileKind::Symlink => ctx.tolerate(tree::resolve(ctx, child.path, Links::Follow).await)?,
                    _ => Some(child),
                };
                let is_part = |child: &Node| !child.is_directory() && !child.is_unfinished_copy();
                files.extend(child.filter(is_part));
            }
        } else {
            files.push(node);
        }
    }
    Ok(first.filter(|_| !ctx.has_failed()).map(|attr| (files, attr)))
}

/// The files' bytes, in order. They are opened only a few ahead of those that are read: there may be very many.
/// `has_newline` tells of a length whether a line's end follows a file that has it.
fn content_of<F: Fn(u64) -> bool + Copy + Send + 'static>(
    ctx: &Arc<Context>,
    nodes: Vec<Node>,
    has_newline: F,
) -> impl Stream<Item = Outcome<Bytes>> + Send + use<F> {
    let ctx = Arc::clone(ctx);
    let open = move |node: Node| {
        let ctx = Arc::clone(&ctx);
        async move {
            let reader = remote_file::open(&ctx, &node).await?;
            let length = reader.length();
            let newline: Option<Outcome<Bytes>> = has_newline(length).then(|| Ok(Bytes::from_static(b"\n")));
            Ok(content::of_remote(&node.path, &reader, 0..length).chain(stream::iter(newline)))
        }
    };
    stream::iter(nodes).map(open).buffered(FILES_AHEAD).try_flatten()
}
