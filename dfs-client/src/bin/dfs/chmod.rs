//! `dfs chmod`: modes of files and directories.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use dfs_client::SetAttr;
use dfs_common::attr::FileKind;
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::json::PathJson;
use crate::mode::ModeChange;
use crate::tree::{self, Links, Node, Walk};

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
    for top in tree::operands(ctx, paths, Links::Follow).await? {
        // The walk lists a directory before it is handed out: a mode that forbids listing does not stop us here.
        let mut walk = Walk::new(ctx, top.clone());
        let mut next = if recursive { walk.next().await? } else { Some(top) };
        while let Some(node) = next {
            if let Some(change) = change_of(&node) {
                let set = ctx.client.set_attr(&ctx.caller, node.attr.inode, change).await;
                let set = set.map_err(|error| Failure::dfs(&node.path, error));
                changed.extend(ctx.tolerate(set)?.map(|_| PathJson::from(&node.path)));
            }
            next = if recursive { walk.next().await? } else { None };
        }
    }
    if ctx.json() { ctx.output.json(&ChangedJson { changed }) } else { Ok(()) }
}
