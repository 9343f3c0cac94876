//! `dfs expunge`: empties the trash, of which there is none.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use clap::Args;

use crate::context::Context;
use crate::failure::Outcome;
use crate::rm::RemovedJson;

/// Empties the trash. There is none: what is removed is gone at once, so there is nothing to do.
#[derive(Debug, Args)]
pub(crate) struct ExpungeArgs {
    /// Accepted as in HDFS
    #[arg(long = "immediate")]
    _immediate: bool,
    /// The cluster, which must be the one that is addressed
    #[arg(long = "fs", value_name = "URI")]
    file_system: Option<OsString>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: ExpungeArgs) -> Outcome {
    // Another cluster may have a trash, and would keep it.
    ctx.absolute(args.file_system.as_deref().unwrap_or(OsStr::new("/"))).await?;
    if ctx.json() { ctx.output.json(&RemovedJson { removed: Vec::new() }) } else { Ok(()) }
}
