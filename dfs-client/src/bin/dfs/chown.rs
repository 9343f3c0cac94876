//! `dfs chown`: owners and groups of files and directories.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use dfs_client::SetAttr;

use crate::chmod;
use crate::context::Context;
use crate::failure::Outcome;
use crate::owner::Ownership;

/// Changes the owner or group of files and directories.
#[derive(Debug, Args)]
pub(crate) struct ChownArgs {
    /// Everything below, too; symbolic links themselves
    #[arg(short = 'R', long)]
    recursive: bool,
    /// USER, USER:GROUP or :GROUP; names of this machine, or numbers
    #[arg(value_name = "OWNER", value_parser = Ownership::parse)]
    owner: Ownership,
    /// Paths, which may be patterns
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: ChownArgs) -> Outcome {
    let change = SetAttr { uid: args.owner.uid, gid: args.owner.gid, ..SetAttr::default() };
    chmod::change(ctx, &args.paths, args.recursive, |_| Some(change)).await
}
