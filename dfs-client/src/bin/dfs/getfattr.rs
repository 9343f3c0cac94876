//! `dfs getfattr`: extended attributes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use clap::Args;
use dfs_common::ErrorKind;
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::json::{self, ContentJson, PathJson};
use crate::tree::{self, Links, Node, Walk};
use crate::xattr_value::{self, Encoding};

/// Shows extended attributes of files and directories.
#[derive(Debug, Args)]
pub(crate) struct GetfattrArgs {
    /// Everything below, too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// The attribute of this name
    #[arg(short = 'n', value_name = "NAME", required_unless_present = "dump", conflicts_with = "dump")]
    name: Option<OsString>,
    /// All attributes
    #[arg(short = 'd')]
    dump: bool,
    /// How values are shown
    #[arg(short = 'e', value_name = "ENCODING", value_enum, ignore_case = true, default_value_t = Encoding::Text)]
    encoding: Encoding,
    /// Paths, which may be patterns
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// Attributes of one path: names and values.
pub(crate) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Serialize)]
struct FilesJson {
    files: Vec<FileJson>,
}

#[derive(Serialize)]
struct FileJson {
    #[serde(flatten)]
    path: PathJson,
    attributes: Vec<AttributeJson>,
}

#[derive(Serialize)]
struct AttributeJson {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_base64: Option<String>,
    #[serde(flatten)]
    value: ContentJson,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: GetfattrArgs) -> Outcome {
    let mut files = Vec::new();
    for top in tree::operands(ctx, &args.paths, Links::Follow).await? {
        if !args.recursive {
            files.extend(show(ctx, &top, &args).await?);
            continue;
        }
        let mut walk = Walk::new(ctx, top);
        while let Some(node) = walk.next().await? {
            files.extend(show(ctx, &node, &args).await?);
        }
    }
    if ctx.json() { ctx.output.json(&FilesJson { files }) } else { Ok(()) }
}

/// Prints the attributes of a node, or gives its part of the document.
async fn show(ctx: &Context, node: &Node, args: &GetfattrArgs) -> Outcome<Option<FileJson>> {
    let Some(attributes) = ctx.tolerate(read(ctx, node, args).await)? else { return Ok(None) };
    if ctx.json() {
        let json = |(name, value): (Vec<u8>, Vec<u8>)| {
            let (name, name_base64) = json::text_of(&name);
            AttributeJson { name, name_base64, value: value.into() }
        };
        return Ok(Some(FileJson {
            path: (&node.path).into(),
            attributes: attributes.into_iter().map(json).collect(),
        }));
    }
    ctx.output.line([b"# file: ", node.path.as_bytes()].concat())?;
    for (name, value) in attributes {
        ctx.output.line(xattr_value::line(&name, &value, args.encoding))?;
    }
    Ok(None)
}

async fn read(ctx: &Context, node: &Node, args: &GetfattrArgs) -> Outcome<Attributes> {
    let Some(name) = &args.name else { return all(ctx, node).await };
    let value = ctx.client.get_xattr(&ctx.caller, node.attr.inode, name.as_bytes()).await;
    Ok(vec![(name.as_bytes().to_vec(), value.map_err(|error| Failure::dfs(&node.path, error))?)])
}

/// All attributes of a node that the caller may see.
///
/// # Errors
/// The NameNode's.
pub(crate) async fn all(ctx: &Context, node: &Node) -> Outcome<Attributes> {
    let failed = |error| Failure::dfs(&node.path, error);
    let inode = node.attr.inode;
    let mut attributes = Vec::new();
    for name in ctx.client.list_xattrs(&ctx.caller, inode).await.map_err(failed)? {
        match ctx.client.get_xattr(&ctx.caller, inode, &name).await {
            Ok(value) => attributes.push((name, value)),
            // Removed since it was listed.
            Err(error) if error.kind() == ErrorKind::NoAttribute => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(attributes)
}
