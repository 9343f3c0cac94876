//! `dfs moveFromLocal`: copies as `put` does, and removes the sources afterwards.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use crate::context::Context;
use crate::crew::Copying;
use crate::failure::{Failure, Outcome};
use crate::local_tree;
use crate::location;
use crate::put::{self, PutArgs};

/// Copies local files and directories into the cluster and removes them here.
///
/// Nothing is removed unless everything was copied. What comes into a source meanwhile stays.
#[derive(Debug, Args)]
pub(crate) struct MoveFromLocalArgs {
    #[command(flatten)]
    copying: Copying,
    /// Local sources, then the destination
    #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "DESTINATION"])]
    paths: Vec<OsString>,
}

/// Something to be removed once it has been copied.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    path: PathBuf,
    is_directory: bool,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: MoveFromLocalArgs) -> Outcome {
    let MoveFromLocalArgs { copying, paths } = args;
    let mut copied = Vec::new();
    for source in paths.iter().take(paths.len().saturating_sub(1)).cloned().map(location::local) {
        if source == "-" {
            return Err(Failure::refused("-", "standard input cannot be removed").with_hint("use `dfs put`"));
        }
        // What is not on this list was never copied, and is not removed.
        copied.extend(ctx.tolerate(list(PathBuf::from(source)).await)?.unwrap_or_default());
    }
    if ctx.has_failed() {
        return Ok(());
    }
    put::run(ctx, PutArgs { copying, paths }).await?;
    if ctx.has_failed() {
        ctx.progress.say("dfs: moveFromLocal: not everything was copied: nothing is removed here");
        return Ok(());
    }
    for source in copied.iter().rev() {
        ctx.tolerate(remove(source).map_err(|error| Failure::local(&source.path, error)))?;
    }
    Ok(())
}

/// Everything in a tree, each directory before its entries. Of a link to a tree, the link: the tree has another name.
async fn list(top: PathBuf) -> Outcome<Vec<Source>> {
    let mut entries = local_tree::walk(top);
    let mut sources = Vec::new();
    while let Some(entry) = entries.recv().await {
        let entry = entry?;
        let is_alone = entry.relative.as_os_str().is_empty() && !is_directory(&entry.path);
        sources.push(Source { is_directory: is_directory(&entry.path), path: entry.path });
        if is_alone {
            break;
        }
    }
    Ok(sources)
}

/// Whether the name is a directory's own: a link to one is removed as a link.
fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

fn remove(source: &Source) -> io::Result<()> {
    if source.is_directory { fs::remove_dir(&source.path) } else { fs::remove_file(&source.path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_came_after_the_listing_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/file"), "").unwrap();
        std::os::unix::fs::symlink("/", top.join("link")).unwrap();
        let listed = list(top.clone()).await.unwrap();
        assert_eq!(listed.len(), 5);
        fs::write(top.join("a/new"), "").unwrap();
        let removed: Vec<_> = listed.iter().rev().map(|source| remove(source).is_ok()).collect();
        assert_eq!(removed, [true, true, true, false, false], "link, file, b; a and top have something in them");
        assert!(top.join("a/new").exists());
    }

    #[tokio::test]
    async fn a_link_that_is_named_goes_and_its_directory_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        fs::write(dir.path().join("real/file"), "").unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let listed = list(dir.path().join("link")).await.unwrap();
        assert_eq!(listed, [Source { path: dir.path().join("link"), is_directory: false }]);
        remove(&listed[0]).unwrap();
        assert!(dir.path().join("real/file").exists());
    }
}
