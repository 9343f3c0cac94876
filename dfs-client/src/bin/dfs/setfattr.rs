//! `dfs setfattr`: sets and removes extended attributes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use clap::Args;
use dfs_client::XAttrSetFlag;

use crate::chmod::ChangedJson;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::json::PathJson;
use crate::tree::{self, Links, Node};
use crate::xattr_value;

/// Sets or removes an extended attribute of files and directories.
#[derive(Debug, Args)]
pub(crate) struct SetfattrArgs {
    /// The attribute to set, with its name space: user.color
    #[arg(short = 'n', value_name = "NAME", required_unless_present = "removed", conflicts_with = "removed")]
    name: Option<OsString>,
    /// Its value: text, "text", 0x and hexadecimal digits, or 0s and base64; none when left out
    #[arg(short = 'v', value_name = "VALUE", requires = "name", value_parser = Value::parse)]
    value: Option<Value>,
    /// The attribute to remove
    #[arg(short = 'x', value_name = "NAME")]
    removed: Option<OsString>,
    /// Paths, which may be patterns
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// The bytes of a value.
#[derive(Clone, Debug)]
struct Value(Vec<u8>);

impl Value {
    fn parse(text: &str) -> Result<Self, String> {
        xattr_value::parse(text).map(Self)
    }
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: SetfattrArgs) -> Outcome {
    let mut changed = Vec::new();
    let outcome = async {
        for node in tree::operands(ctx, &args.paths, Links::Follow).await? {
            changed.extend(ctx.tolerate(change(ctx, &node, &args).await)?.map(|()| PathJson::from(&node.path)));
        }
        Ok(())
    }
    .await;
    ctx.conclude(outcome, &ChangedJson { changed })
}

async fn change(ctx: &Context, node: &Node, args: &SetfattrArgs) -> Outcome {
    let (client, inode) = (&ctx.client, node.attr.inode);
    let done = match (&args.name, &args.removed) {
        (Some(name), _) => {
            let value = args.value.as_ref().map_or(&[][..], |value| &value.0);
            client.set_xattr(&ctx.caller, inode, name.as_bytes(), value, XAttrSetFlag::Any).await
        }
        (None, Some(name)) => client.remove_xattr(&ctx.caller, inode, name.as_bytes()).await,
        (None, None) => Ok(()),
    };
    done.map_err(|error| Failure::dfs(&node.path, error))
}
