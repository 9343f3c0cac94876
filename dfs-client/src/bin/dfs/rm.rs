//! `dfs rm`: removes files and trees; there is no trash.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use dfs_common::ErrorKind;
use serde::Serialize;

use crate::aside::aside;
use crate::context::Context;
use crate::destination::Target;
use crate::du;
use crate::failure::{Failure, Outcome};
use crate::json::PathJson;
use crate::tree::{self, Links, Node};

/// Files and directories that -safely removes without a question, HDFS's number.
const UNASKED_MAX: u64 = 100;

/// Removes files, and with -r directories with everything in them.
///
/// A directory goes in one step. There is no trash: what is removed is gone.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Directories too, with everything in them
    #[arg(short = 'r', short_alias = 'R', long)]
    recursive: bool,
    /// What does not exist is no error
    #[arg(short = 'f', long)]
    force: bool,
    /// Accepted as in HDFS: there is no trash
    #[arg(long = "skipTrash")]
    _skip_trash: bool,
    /// Ask before a directory with more than 100 files and directories in it is removed
    #[arg(long = "safely")]
    safely: bool,
    /// Paths, which may be patterns
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// What was removed.
#[derive(Serialize)]
pub(crate) struct RemovedJson {
    /// In the order of the removals.
    pub(crate) removed: Vec<PathJson>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: RmArgs) -> Outcome {
    let mut removed = Vec::new();
    let outcome = async {
        for arg in &args.paths {
            let nodes = tree::expand(ctx, arg, Links::Keep).await;
            let nodes = if args.force { tree::found(nodes).map(Option::unwrap_or_default) } else { nodes };
            for node in ctx.tolerate(nodes)?.unwrap_or_default() {
                let outcome = match node {
                    Ok(node) => remove(ctx, &node, &args).await.map(|()| node),
                    Err(failure) => Err(failure),
                };
                if let Some(node) = ctx.tolerate(outcome)? {
                    if !ctx.json() {
                        ctx.output.line([b"Deleted ", node.path.as_bytes()].concat())?;
                    }
                    removed.push(PathJson::from(&node.path));
                }
            }
        }
        Ok(())
    }
    .await;
    ctx.conclude(outcome, &RemovedJson { removed })
}

/// Asks whoever sits at standard input whether a large directory is to go.
///
/// # Errors
/// When it is to stay, or nobody says that it is not.
async fn ask(ctx: &Context, node: &Node) -> Outcome {
    let summary = du::summary_of(ctx, node).await?;
    // Itself is one of its directories.
    let count = (summary.file_count + summary.directory_count).saturating_sub(1);
    if count <= UNASKED_MAX {
        return Ok(());
    }
    let question = format!("{}: {count} files and directories are in it; remove them? (y or n)", node.path);
    ctx.progress.say(&format!("dfs: rm: {question}"));
    let failed = |error| Failure::local(Path::new("standard input"), error);
    let read = move || {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map_err(failed)?;
        Ok(answer)
    };
    match aside(read).await?.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::refused(&node.path, "not removed: it was not answered with y")),
    }
}

async fn remove(ctx: &Context, node: &Node, args: &RmArgs) -> Outcome {
    if node.path.is_root() {
        return Err(Failure::refused(&node.path, "the root cannot be removed"));
    }
    if node.is_directory() && !args.recursive {
        return Err(Failure::kind(&node.path, ErrorKind::IsADirectory).with_hint("use -r to remove it with all in it"));
    }
    if args.safely && node.is_directory() {
        ask(ctx, node).await?;
    }
    let target = Target::look_up(ctx, node.path.clone()).await?;
    let removed = if node.is_directory() {
        ctx.client.delete(&ctx.caller, target.parent, &target.name).await
    } else {
        ctx.client.unlink(&ctx.caller, target.parent, &target.name).await
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound && args.force => Ok(()),
        removed => removed.map_err(|error| Failure::dfs(&node.path, error)),
    }
}
