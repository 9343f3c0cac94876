//! `dfs appendToFile`: local files to the end of one in the cluster.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use dfs_client::FileWriter;
use futures::StreamExt;
use serde::Serialize;

use crate::content;
use crate::context::Context;
use crate::destination::{self, Target};
use crate::failure::{Failure, Outcome};
use crate::json::PathJson;
use crate::location;
use crate::path::DfsPath;
use crate::remote_file;
use crate::touchz;
use crate::tree::{self, Links};

/// Appends local files to a file in the cluster, one after the other.
///
/// The file is made when it is not there. When a source cannot be opened, nothing is appended.
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
    let sources = location::locals(sources);
    let is_stdin = sources.iter().any(|source| source == "-");
    if is_stdin && sources.len() > 1 {
        return Err(Failure::refused("-", "standard input must be the only source"));
    }
    let mut files = Vec::new();
    for source in sources.iter().filter(|_| !is_stdin) {
        files.push(open_local(source).await?);
    }
    let path = ctx.path(&destination)?;
    let writer = open_for_append(ctx, &path).await?;
    let mut bytes = 0;
    let appended = async {
        if is_stdin {
            bytes += append(ctx, &path, &writer, std::io::stdin(), "-".into()).await?;
        }
        for (file, source) in files {
            bytes += append(ctx, &path, &writer, file, source).await?;
        }
        Ok(())
    }
    .await;
    if writer.has_failed() {
        writer.abort().await;
        return appended;
    }
    // What has been appended stays, also when a source could not be read to its end.
    let closed = writer.complete().await.map_err(|error| Failure::dfs(&path, error));
    appended?;
    let length = closed?.length;
    ctx.progress.finish();
    if ctx.json() { ctx.output.json(&AppendedJson { path: (&path).into(), bytes, length }) } else { Ok(()) }
}

async fn open_local(source: &OsStr) -> Outcome<(File, PathBuf)> {
    let path = PathBuf::from(source);
    let failed = |error| Failure::local(&path, error);
    let file = tokio::fs::File::open(&path).await.map_err(failed)?.into_std().await;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(Failure::refused(path.display(), "is a directory"));
    }
    Ok((file, path))
}

async fn open_for_append(ctx: &Context, path: &DfsPath) -> Outcome<Arc<FileWriter>> {
    let failed = |error| Failure::dfs(path, error);
    let inode = match tree::found(tree::resolve(ctx, path.clone(), Links::Follow).await)? {
        Some(node) => match remote_file::not_a_file(&node, "name the file to append to") {
            Some(failure) => return Err(failure),
            None => node.attr.inode,
        },
        None => {
            let made = touchz::create(ctx, &Target::look_up(ctx, path.clone()).await?, true).await?;
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

async fn append(
    ctx: &Context,
    path: &DfsPath,
    writer: &FileWriter,
    source: impl std::io::Read + Send + 'static,
    name: PathBuf,
) -> Outcome<u64> {
    let mut content = std::pin::pin!(content::of_local(source, name));
    let mut bytes = 0;
    while let Some(piece) = content.next().await {
        let piece = piece?;
        writer.write(&piece).await.map_err(|error| Failure::dfs(path, error))?;
        bytes += piece.len() as u64;
        ctx.progress.moved(piece.len() as u64);
    }
    Ok(bytes)
}
