//! `dfs admin recover-lease`: closes files whose writers are gone.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use dfs_common::error::{DfsError, ErrorKind};
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::json::PathJson;
use crate::remote_file;
use crate::tree::{self, Links, Node};

/// Which files, and for how long.
#[derive(Debug, Args)]
pub(crate) struct RecoverLeaseArgs {
    /// Seconds to wait for each file
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// Files, which may be patterns
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Serialize)]
struct RecoveredJson {
    recovered: Vec<FileJson>,
}

#[derive(Serialize)]
struct FileJson {
    #[serde(flatten)]
    path: PathJson,
    length: u64,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: RecoverLeaseArgs) -> Outcome {
    let mut recovered = Vec::new();
    let outcome = async {
        for node in tree::operands(ctx, &args.paths, Links::Follow).await? {
            let Some(length) = ctx.tolerate(recover(ctx, &node, Duration::from_secs(args.timeout)).await)? else {
                continue;
            };
            if !ctx.json() {
                let words = closed_words(node.attr.under_construction, length);
                ctx.output.line([node.path.as_bytes(), words.as_bytes()].concat())?;
            }
            recovered.push(FileJson { path: PathJson::from(&node.path), length });
        }
        Ok(())
    }
    .await;
    ctx.conclude(outcome, &RecoveredJson { recovered })
}

/// What follows the path of a closed file. `was_open`: when it was looked up.
fn closed_words(was_open: bool, length: u64) -> String {
    let already = if was_open { "" } else { " already: there is nothing to recover" };
    format!(" is closed{already}, {length} bytes")
}

/// The length of the closed file.
async fn recover(ctx: &Context, node: &Node, patience: Duration) -> Outcome<u64> {
    let hint = "only files are open for writing: name the one whose writer is gone";
    if let Some(failure) = remote_file::not_a_file(node, hint) {
        return Err(failure);
    }
    let failed = |error| Failure::dfs(&node.path, error);
    if !ctx.client.recover_lease(&ctx.caller, node.attr.inode, patience).await.map_err(failed)? {
        let words = format!("still open after {} s; the NameNode's log says what it waits for", patience.as_secs());
        return Err(failed(DfsError::new(ErrorKind::TimedOut, words)));
    }
    let attr = ctx.client.get_file_info(&ctx.caller, node.attr.inode).await.map_err(failed)?;
    Ok(attr.length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_words_tell_whether_anything_was_done() {
        assert_eq!(closed_words(true, 7), " is closed, 7 bytes");
        assert_eq!(closed_words(false, 7), " is closed already: there is nothing to recover, 7 bytes");
    }
}
