//! `dfs mkdir`: makes directories.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use dfs_common::ErrorKind;
use dfs_common::ids::ROOT_INODE;
use serde::Serialize;

use crate::context::Context;
use crate::destination::Target;
use crate::failure::{Failure, Outcome};
use crate::json::PathJson;
use crate::make_dir;
use crate::path::DfsPath;
use crate::tree;

/// Mode of a new directory, before the umask.
const DIRECTORY_MODE: u32 = 0o777;

/// Makes directories.
#[derive(Debug, Args)]
pub(crate) struct MkdirArgs {
    /// Make missing parents too; a directory that is there is no error
    #[arg(short = 'p', long)]
    parents: bool,
    /// Directories to make
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Serialize)]
struct CreatedJson {
    created: Vec<PathJson>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: MkdirArgs) -> Outcome {
    let mut created = Vec::new();
    let outcome = async {
        for arg in &args.paths {
            for path in ctx.tolerate(tree::places(ctx, arg).await)?.unwrap_or_default() {
                let made = make(ctx, path, args.parents).await;
                created.extend(ctx.tolerate(made)?.unwrap_or_default());
            }
        }
        Ok(())
    }
    .await;
    ctx.conclude(outcome, &CreatedJson { created: created.iter().map(PathJson::from).collect() })
}

/// Makes a directory, with its parents if they are wanted, and says which were not there before.
async fn make(ctx: &Context, path: DfsPath, parents: bool) -> Outcome<Vec<DfsPath>> {
    let mode = DIRECTORY_MODE & !ctx.settings.umask;
    if !parents {
        if path.is_root() {
            return Err(Failure::kind(&path, ErrorKind::AlreadyExists));
        }
        let target = Target::look_up(ctx, path).await?;
        let made = ctx.client.mkdir(&ctx.caller, target.parent, &target.name, mode).await;
        return match made {
            Ok(_) => Ok(vec![target.path]),
            Err(error) => Err(Failure::dfs(&target.path, error)),
        };
    }
    let mut created = Vec::new();
    let (mut parent, mut here) = (ROOT_INODE, DfsPath::root());
    for name in path.components() {
        here = here.join(name);
        let target = Target { parent, name: name.to_vec(), path: here.clone() };
        let made = make_dir::make(ctx, &target, mode).await?;
        parent = made.inode;
        if made.is_new {
            created.push(here.clone());
        }
    }
    Ok(created)
}
