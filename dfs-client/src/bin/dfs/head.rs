//! `dfs head`: the beginning of a file.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use crate::cat::FileJson;
use crate::content;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::remote_file;
use crate::tree::{self, Links};

/// Bytes shown, HDFS's.
const HEAD_BYTES: u64 = 1024;

/// Writes the first kilobyte of a file to standard output.
#[derive(Debug, Args)]
pub(crate) struct HeadArgs {
    /// A file
    #[arg(value_name = "PATH")]
    path: OsString,
}

#[derive(Serialize)]
struct HeadJson {
    file: FileJson,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: HeadArgs) -> Outcome {
    for node in tree::operands(ctx, std::slice::from_ref(&args.path), Links::Follow).await? {
        let reader = remote_file::open(ctx, &node).await?;
        let length = reader.length();
        let content = content::of_remote(&node.path, &reader, 0..length.min(HEAD_BYTES));
        if ctx.json() {
            let pieces: Vec<bytes::Bytes> = content.boxed().try_collect().await?;
            return ctx.output.json(&HeadJson { file: FileJson::new(&node, length, pieces.concat()) });
        }
        content::into_local(content, content::Stdout, Failure::stdout).await?;
    }
    Ok(())
}
