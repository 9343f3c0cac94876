//! `dfs touchz`: empty files.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use dfs_client::{CreateOptions, CreatedFile, SetAttr, TimeSet};
use dfs_common::ErrorKind;
use dfs_common::attr::FileKind;
use serde::Serialize;

use crate::context::Context;
use crate::destination::Target;
use crate::failure::{Failure, Outcome};
use crate::json::PathJson;
use crate::path::DfsPath;
use crate::tree;

/// Mode of a new file, before the umask.
const FILE_MODE: u32 = 0o666;

/// Makes empty files; an empty one that is there gets the time of now. A symbolic link stands for its target.
#[derive(Debug, Args)]
pub(crate) struct TouchzArgs {
    /// Files to make
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Files that were touched.
#[derive(Serialize)]
pub(crate) struct TouchedJson {
    /// In the order of the arguments.
    pub(crate) touched: Vec<PathJson>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: TouchzArgs) -> Outcome {
    let mut touched = Vec::new();
    let outcome = async {
        for arg in &args.paths {
            for path in ctx.tolerate(tree::places(ctx, arg).await)?.unwrap_or_default() {
                touched.extend(ctx.tolerate(touch(ctx, path).await)?.as_ref().map(PathJson::from));
            }
        }
        Ok(())
    }
    .await;
    ctx.conclude(outcome, &TouchedJson { touched })
}

async fn touch(ctx: &Context, path: DfsPath) -> Outcome<DfsPath> {
    if path.is_root() {
        return Err(Failure::kind(&path, ErrorKind::IsADirectory));
    }
    let target = Target::look_up_followed(ctx, path).await?;
    let failed = |error| Failure::dfs(&target.path, error);
    let CreatedFile { attr, is_new, .. } = create(ctx, &target, false).await?;
    if is_new {
        return Ok(target.path);
    }
    match attr.kind {
        FileKind::Directory => return Err(Failure::kind(&target.path, ErrorKind::IsADirectory)),
        _ if attr.length > 0 => {
            return Err(
                Failure::refused(&target.path, "not a file of zero length").with_hint("`dfs truncate 0` empties it")
            );
        }
        _ => {}
    }
    let now = SetAttr { atime: Some(TimeSet::Now), mtime: Some(TimeSet::Now), ..SetAttr::default() };
    ctx.client.set_attr(&ctx.caller, attr.inode, now).await.map_err(failed)?;
    Ok(target.path)
}

/// Makes an empty file, or gives what has the name already; a new one is left open with `open_for_write`.
///
/// # Errors
/// Those of create.
pub(crate) async fn create(ctx: &Context, target: &Target, open_for_write: bool) -> Outcome<CreatedFile> {
    let options = CreateOptions {
        parent: target.parent,
        name: &target.name,
        mode: FILE_MODE & !ctx.settings.umask,
        replication: ctx.settings.file_defaults.replication,
        block_size: ctx.settings.file_defaults.block_size,
        open_for_write,
        exclusive: false,
    };
    ctx.client.create(&ctx.caller, options).await.map_err(|error| Failure::dfs(&target.path, error))
}
