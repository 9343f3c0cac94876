//! Where copies and moves go: into a directory under the source's own name, or to the name given.

use std::ffi::{OsStr, OsString};

use dfs_common::ErrorKind;
use dfs_common::attr::FileKind;
use dfs_common::ids::InodeId;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::path::{self, DfsPath, SYMLINKS_MAX};
use crate::tree::{self, Links};

/// The last argument of `put`, `cp` and `mv`, looked up.
#[derive(Debug)]
pub(crate) enum Destination {
    /// A directory: sources keep their names.
    Into {
        /// The directory.
        inode: InodeId,
        /// Its path.
        path: DfsPath,
    },
    /// A name, taken or free.
    As(Target),
}

/// A place in the namespace, taken or free.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The directory.
    pub(crate) parent: InodeId,
    /// The name in it.
    pub(crate) name: Vec<u8>,
    /// Both.
    pub(crate) path: DfsPath,
}

impl Destination {
    /// Looks the argument up. It must be a directory when there are `several` sources, or when it ends in a slash. A link
    /// to a directory stands for that; a link to anything else, or to nothing yet, is a place as `links` says.
    ///
    /// # Errors
    /// `NotFound` for a missing parent or directory, `NotADirectory`.
    pub(crate) async fn look_up(ctx: &Context, arg: &OsStr, several: bool, links: Links) -> Outcome<Self> {
        let path = tree::place(ctx, arg).await?;
        let must_be_directory = several || path::names_directory(arg);
        match tree::found(tree::resolve(ctx, path.clone(), Links::Follow).await)? {
            Some(node) if node.attr.kind == FileKind::Directory => Ok(Self::Into { inode: node.attr.inode, path }),
            Some(_) if must_be_directory => Err(Failure::kind(&path, ErrorKind::NotADirectory)),
            None if must_be_directory => {
                Err(Failure::kind(&path, ErrorKind::NotFound).with_hint("make the directory with `dfs mkdir -p`"))
            }
            Some(_) | None => Ok(Self::As(match links {
                Links::Follow => Target::look_up_followed(ctx, path).await?,
                Links::Keep => Target::look_up(ctx, path).await?,
            })),
        }
    }

    /// Where a source of this name goes.
    pub(crate) fn target(&self, source_name: &[u8]) -> Target {
        match self {
            Self::Into { inode, path } => {
                Target { parent: *inode, name: source_name.to_vec(), path: path.join(source_name) }
            }
            Self::As(target) => target.clone(),
        }
    }
}

impl Target {
    /// The place at a path; its directory must exist.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`.
    pub(crate) async fn look_up(ctx: &Context, path: DfsPath) -> Outcome<Self> {
        match ctx.client.resolve_parent(&ctx.caller, path.as_bytes()).await {
            Ok((parent, name)) => Ok(Self { parent, name, path }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let parent = path.parent().unwrap_or_else(DfsPath::root);
                Err(Failure::dfs(&parent, error).with_hint("make the directory with `dfs mkdir -p`"))
            }
            Err(error) => Err(Failure::dfs(&path, error)),
        }
    }

    /// The place that a path leads to: a symbolic link at its end stands for its target, which need not exist.
    ///
    /// # Errors
    /// As [`Target::look_up`]; `TooManySymlinks`.
    pub(crate) async fn look_up_followed(ctx: &Context, path: DfsPath) -> Outcome<Self> {
        let failed = |error| Failure::dfs(&path, error);
        let mut target = Self::look_up(ctx, path.clone()).await?;
        let mut text = path.as_bytes().to_vec();
        for _ in 0..=SYMLINKS_MAX {
            let link = match ctx.client.lookup(&ctx.caller, target.parent, &target.name).await {
                Ok(there) if there.kind == FileKind::Symlink => there.inode,
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
                // The path stays the one that the user knows: it leads to the same place.
                Ok(_) | Err(_) => return Ok(target),
            };
            let points_to = ctx.client.get_link_target(&ctx.caller, link).await.map_err(failed)?;
            text = beside(&text, &points_to);
            (target.parent, target.name) = ctx.client.resolve_parent(&ctx.caller, &text).await.map_err(failed)?;
        }
        Err(Failure::kind(&path, ErrorKind::TooManySymlinks))
    }
}

/// The path that a link stands for. It is not normalised: `..` behind a link leads to the parent of what the link leads to.
fn beside(link: &[u8], points_to: &[u8]) -> Vec<u8> {
    if points_to.starts_with(b"/") {
        return points_to.to_vec();
    }
    let end = link.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let directory = link[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    [&link[..directory], points_to].concat()
}

/// Splits the arguments of a command that takes sources and a destination.
///
/// # Errors
/// When there are fewer than two; the command line's parser has refused that already.
pub(crate) fn split_arguments(mut args: Vec<OsString>) -> Outcome<(Vec<OsString>, OsString)> {
    match args.pop() {
        Some(destination) if !args.is_empty() => Ok((args, destination)),
        _ => Err(Failure::refused("arguments", "a source and a destination are needed")),
    }
}

/// As [`split_arguments`], of a command that copies a lone source to where the user is: the home directory in the cluster,
/// the current directory here. Both are spelled like this, and must be there.
///
/// # Errors
/// When there are none.
pub(crate) fn split_or_here(mut args: Vec<OsString>) -> Outcome<(Vec<OsString>, OsString)> {
    if args.len() == 1 {
        args.push("./".into());
    }
    split_arguments(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_or_here_puts_a_lone_source_where_the_user_is() {
        let split = |args: &[&str]| split_or_here(args.iter().map(OsString::from).collect());
        assert_eq!(split(&["a"]).unwrap(), (vec!["a".into()], "./".into()));
        assert_eq!(split(&["a", "b"]).unwrap(), (vec!["a".into()], "b".into()));
        assert!(split(&[]).is_err());
    }

    #[test]
    fn beside_starts_where_the_link_is() {
        for (link, points_to, expected) in [
            ("/a/b", "c", "/a/c"),
            ("/a/b/", "c", "/a/c"),
            ("/b", "c", "/c"),
            ("/a/b", "../c", "/a/../c"),
            ("/a/b", "/c/d", "/c/d"),
        ] {
            assert_eq!(beside(link.as_bytes(), points_to.as_bytes()), expected.as_bytes(), "{link} -> {points_to}");
        }
    }
}
