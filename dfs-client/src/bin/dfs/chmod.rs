//! `dfs chmod`: modes of files and directories.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use dfs_client::SetAttr;
use dfs_common::attr::FileKind;
use serde::Serialize;

use crate::context::Context;
use crate::each::each;
use crate::failure::{Failure, Outcome};
use crate::json::PathJson;
use crate::mode::ModeChange;
use crate::tree::{self, Links, Node};

/// Changes the mode of files and directories.
#[derive(Debug, Args)]
pub(crate) struct ChmodArgs {
    /// Everything below, too; symbolic links are left alone
    #[arg(short = 'R', long)]
    recursive: bool,
    /// 0644, u+x, go-w,a=r
    #[arg(value_name = "MODE", value_parser = ModeChange::parse, allow_hyphen_values = true)]
    mode: ModeChange,
    /// Paths, which may be patterns
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Paths that a command changed.
#[derive(Serialize)]
pub(crate) struct ChangedJson {
    /// In the order of the change.
    pub(crate) changed: Vec<PathJson>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: ChmodArgs) -> Outcome {
    let change_of = |node: &Node| {
        if node.attr.kind == FileKind::Symlink {
            return None;
        }
        let mode = args.mode.apply(node.attr.permissions, node.is_directory());
        Some(SetAttr { mode: Some(mode), ..SetAttr::default() })
    };
    change(ctx, &args.paths, args.recursive, change_of).await
}

/// Changes attributes of operands, and with `recursive` of everything below them.
///
/// # Errors
/// A failure that would meet every operand.
pub(crate) async fn change(
    ctx: &Context,
    paths: &[OsString],
    recursive: bool,
    change_of: impl Fn(&Node) -> Option<SetAttr>,
) -> Outcome {
    let mut changed = Vec::new();
    let outcome = async {
        for top in tree::operands(ctx, paths, Links::Follow).await? {
            let set = async |node: Node| match change_of(&node) {
                None => Ok(None),
                Some(change) => match ctx.client.set_attr(&ctx.caller, node.attr.inode, change).await {
                    Ok(_) => Ok(Some(PathJson::from(&node.path))),
                    Err(error) => Err(Failure::dfs(&node.path, error)),
                },
            };
            let done = |path: Option<PathJson>| {
                changed.extend(path);
                Ok(())
            };
            each(ctx, top, recursive, set, done).await?;
        }
        Ok(())
    }
    .await;
    ctx.conclude(outcome, &ChangedJson { changed })
}
