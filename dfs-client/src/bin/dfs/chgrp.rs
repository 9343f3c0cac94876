//! `dfs chgrp`: groups of files and directories.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use dfs_client::SetAttr;

use crate::chmod;
use crate::context::Context;
use crate::failure::Outcome;
use crate::owner;

/// Changes the group of files and directories.
#[derive(Debug, Args)]
pub(crate) struct ChgrpArgs {
    /// Everything below, too; symbolic links themselves
    #[arg(short = 'R', long)]
    recursive: bool,
    /// A group of this machine, or its number
    #[arg(value_name = "GROUP", value_parser = owner::gid_of)]
    group: u32,
    /// Paths, which may be patterns
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: ChgrpArgs) -> Outcome {
    let change = SetAttr { gid: Some(args.group), ..SetAttr::default() };
    chmod::change(ctx, &args.paths, args.recursive, |_| Some(change)).await
}
