//! `dfs appendToFile`: local files to the end of one in the cluster.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use dfs_client::FileWriter;
use futures::StreamExt;
use serde::Serialize;

use crate::aside::aside;
use crate::content;
use crate::context::Context;
use crate::destination::{self, Target};
use crate::failure::{Failure, Outcome};
use crate::identity::{self, ClusterMounts};
use crate::json::PathJson;
use crate::location;
use crate::new_file::give_up;
use crate::path::DfsPath;
use crate::remote_file;
use crate::touchz;
use crate::tree::{self, Links, Node};

/// Appends local files to a file in the cluster, one after the other.
///
/// The file is made when it is not there; a symbolic link stands for its target. When a source cannot be opened, nothing is
/// appended.
#[derive(Debug, Args)]
pub(crate) struct AppendToFileArgs {
    /// Local sources (`-` alone is standard input), then the file
    #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "DESTINATION"])]
    paths: Vec<OsString>,
}

#[derive(Serialize)]
struct AppendedJson {
    #[serde(flatten)]
    path: PathJson,
    bytes: u64,
    length: u64,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: AppendToFileArgs) -> Outcome {
    let (sources, destination) = destination::split_arguments(args.paths)?;
    let sources = location::locals(sources)?;
    let is_stdin = sources.iter().any(|source| source == "-");
    if is_stdin && sources.len() > 1 {
        return Err(Failure::refused("-", "standard input must be the only source"));
    }
    let mut files = Vec::new();
    for source in sources {
        files.push(aside(move || open_local(source)).await?);
    }
    let path = tree::place(ctx, &destination).await?;
    let writer = open_for_append(ctx, &path, &files).await?;
    let mut bytes = 0;
    let appended = async {
        for (file, source, _) in files {
            append(ctx, &path, &writer, (file, source), &mut bytes).await?;
        }
        Ok(())
    }
    .await;
    // Bytes that were taken may be lost later, while a source keeps us waiting: then no call of ours has failed.
    if let Some(failure) = writer.failure() {
        let failure = appended.err().unwrap_or_else(|| Failure::dfs(&path, failure));
        give_up(&writer, &failure).await;
        return Err(failure);
    }
    // What has been appended stays, also when a source could not be read to its end.
    let closed = writer.complete().await.map_err(|error| Failure::dfs(&path, error));
    ctx.progress.finish();
    match closed {
        Ok(closed) => ctx.conclude(appended, &AppendedJson { path: (&path).into(), bytes, length: closed.length }),
        Err(failure) => appended.and(Err(failure)),
    }
}

/// A source that is open: the file, how it was named, and what it is.
type Opened = (File, PathBuf, Metadata);

fn open_local(source: OsString) -> Outcome<Opened> {
    let path = PathBuf::from(source);
    let failed = |error| Failure::local(&path, error);
    // Nothing of standard input is in a buffer: nobody has read from it.
    let file = if path.as_os_str() == "-" {
        File::from(std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?)
    } else {
        File::open(&path).map_err(failed)?
    };
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(Failure::refused(path.display(), "is a directory"));
    }
    Ok((file, path, metadata))
}

/// Refuses a source that is, on a mount of the cluster, the file itself: it would never come to its end.
async fn refuse_itself(ctx: &Context, node: &Node, sources: &[Opened]) -> Outcome {
    let mounts = ClusterMounts::find(ctx).await;
    match sources.iter().find(|(_, _, is)| mounts.inode_of(is) == Some(node.attr.inode)) {
        Some((_, source, _)) => Err(identity::same_file(source.display(), &node.path)),
        None => Ok(()),
    }
}

async fn open_for_append(ctx: &Context, path: &DfsPath, sources: &[Opened]) -> Outcome<Arc<FileWriter>> {
    let failed = |error| Failure::dfs(path, error);
    let inode = match tree::found(tree::resolve(ctx, path.clone(), Links::Follow).await)? {
        Some(node) => match remote_file::not_a_file(&node, "name the file to append to") {
            Some(failure) => return Err(failure),
            None => {
                refuse_itself(ctx, &node, sources).await?;
                node.attr.inode
            }
        },
        None => {
            let made = touchz::create(ctx, &Target::look_up_followed(ctx, path.clone()).await?, true).await?;
            if let Some(writer) = made.writer {
                return Ok(writer);
            }
            // Somebody else was faster.
            made.attr.inode
        }
    };
    let writer = ctx.client.append(&ctx.caller, inode, false).await.map_err(failed)?;
    ctx.client.drop_privileges(&ctx.caller, &writer).await.map_err(failed)?;
    Ok(writer)
}

/// Appends a source to its end, and counts the bytes as they go.
async fn append(
    ctx: &Context,
    path: &DfsPath,
    writer: &FileWriter,
    (source, name): (File, PathBuf),
    bytes: &mut u64,
) -> Outcome {
    let mut content = std::pin::pin!(content::of_local(source, name));
    while let Some(piece) = content.next().await {
        let piece = piece?;
        writer.write(&piece).await.map_err(|error| Failure::dfs(path, error))?;
        *bytes += piece.len() as u64;
        ctx.progress.moved(piece.len() as u64);
    }
    Ok(())
}
