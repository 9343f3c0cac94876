//! `dfs get`: files and trees of the cluster to this machine.

use std::ffi::{OsStr, OsString};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use dfs_common::attr::FileKind;
use futures::TryStreamExt;

use crate::cat;
use crate::content;
use crate::context::Context;
use crate::crew::{Copying, Crew};
use crate::destination;
use crate::failure::{Failure, Outcome};
use crate::identity::{self, Apart, ClusterMounts};
use crate::local_destination::LocalDestination;
use crate::local_file::{self, LocalFile};
use crate::local_id::LocalId;
use crate::local_name::above;
use crate::location;
use crate::remote_file;
use crate::taken::Taken;
use crate::tree::{self, Links, Node, Walk};
use crate::unfinished::Directory;

/// Copies files and directories of the cluster to this machine.
///
/// A file is written under a temporary name, NAME.*._COPYING_, and renamed once it is whole. Every byte is checked against
/// its checksum. Without a destination, a lone source goes into the current directory.
#[derive(Debug, Args)]
#[command(visible_alias = "copyToLocal")]
pub(crate) struct GetArgs {
    #[command(flatten)]
    copying: Copying,
    /// Keep times and mode, and as superuser the owner
    #[arg(short = 'p', long)]
    preserve: bool,
    /// Accepted as in HDFS; every byte is checked all the same
    #[arg(long = "ignoreCrc", alias = "ignorecrc")]
    _ignore_crc: bool,
    /// Accepted as in HDFS; no checksum files are made beside the copies
    #[arg(long = "crc")]
    _crc: bool,
    /// Sources, which may be patterns, then the local destination (`-` is standard output)
    #[arg(required = true, num_args = 1.., value_names = ["SOURCE", "DESTINATION"])]
    paths: Vec<OsString>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: GetArgs) -> Outcome {
    let GetArgs { copying, preserve, paths, .. } = args;
    let (sources, destination) = destination::split_or_here(paths)?;
    let destination = location::local(destination)?;
    if destination == "-" {
        return cat::print_all(ctx, &tree::sources(ctx, &sources, Links::Follow).await?.nodes).await;
    }
    let mut crew = Crew::new(ctx, copying.threads);
    let outcome = copy(ctx, (copying.force, preserve), &sources, &destination, &mut crew).await;
    crew.finish(outcome).await
}

async fn copy(
    ctx: &Arc<Context>,
    (force, preserve): (bool, bool),
    sources: &[OsString],
    destination: &OsStr,
    crew: &mut Crew,
) -> Outcome {
    let sources = tree::sources(ctx, sources, Links::Follow).await?;
    if sources.nodes.is_empty() {
        return Ok(());
    }
    let destination = LocalDestination::look_up(destination, sources.are_several())?;
    let mut get = Get {
        ctx: Arc::clone(ctx),
        force,
        preserve,
        is_stream: matches!(destination, LocalDestination::Stream(_)),
        crew,
        mounts: ClusterMounts::find(ctx).await,
        taken: Taken::new(sources.are_several()),
    };
    for node in sources {
        let path = destination.path_for(&node);
        ctx.tolerate(get.tree(node, path).await)?;
    }
    Ok(())
}

struct Get<'a> {
    ctx: Arc<Context>,
    force: bool,
    preserve: bool,
    /// The destination is a fifo or device, which is written to. One that lies in a destination was not named.
    is_stream: bool,
    crew: &'a mut Crew,
    /// Where copies may come to lie in the cluster itself.
    mounts: ClusterMounts,
    taken: Taken<LocalId>,
}

impl Get<'_> {
    async fn tree(&mut self, top: Node, path: PathBuf) -> Outcome {
        let prefix = top.path.components().count();
        let is_single = !top.is_directory();
        let ctx = Arc::clone(&self.ctx);
        let mut apart = Apart::default();
        self.taken.begin_source();
        if !is_single {
            // What a new directory is made in.
            self.check_place(&mut apart, above(&path)).await?;
        }
        let mut walk = Walk::new(&ctx, top).passing_over_unfinished();
        while let Some(node) = walk.next().await? {
            let mut local = path.clone();
            local.extend(node.path.components().skip(prefix).map(OsStr::from_bytes));
            let outcome = match node.attr.kind {
                FileKind::Directory => self.directory(&node, local, &mut apart).await,
                _ => self.entry(&node, local).await,
            };
            if is_single {
                outcome?;
            } else if ctx.tolerate(outcome)?.is_none() {
                // Of a directory without a copy, nothing can be copied.
                walk.pass_over(&node.path);
            }
        }
        self.crew.wait().await?;
        ctx.finish_directories().await
    }

    /// Refuses a directory of this machine that belongs, on a mount of the cluster, to the tree being copied.
    async fn check_place(&self, apart: &mut Apart, local: &Path) -> Outcome {
        // One that is not there is refused when it is used.
        let there = std::fs::metadata(local).ok().and_then(|there| self.mounts.inode_of(&there));
        match there {
            Some(inode) => apart.write(&self.ctx, inode, local.display()).await,
            None => Ok(()),
        }
    }

    async fn entry(&mut self, node: &Node, local: PathBuf) -> Outcome {
        match node.attr.kind {
            FileKind::File => self.file(node, local).await,
            FileKind::Symlink => self.link(node, &local).await,
            FileKind::Directory | FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
                Err(Failure::refused(&node.path, "not a file, directory or symbolic link; left out"))
            }
        }
    }

    fn take_place(&mut self, node: &Node, local: &Path) -> Outcome {
        // What is wrong with it is met again when the place is used.
        let Ok(directory) = std::fs::metadata(above(local)) else { return Ok(()) };
        let name = local.file_name().unwrap_or_default().as_bytes();
        self.taken.take(&node.path, LocalId::of(&directory), name, local.display())
    }

    async fn directory(&mut self, node: &Node, local: PathBuf, apart: &mut Apart) -> Outcome {
        apart.read(node.attr.inode, &node.path)?;
        // Whatever mode it is to get: until then, nobody else looks in, and we have to write into it.
        let is_new = match DirBuilder::new().mode(0o700).create(&local) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && local.is_dir() => false,
            Err(error) => return Err(Failure::local(&local, error)),
        };
        if is_new {
            self.crew.count_directory();
        } else {
            self.check_place(apart, &local).await?;
        }
        let made = std::fs::metadata(&local).map_err(|error| Failure::local(&local, error))?;
        let is = LocalId::of(&made);
        self.taken.enter(&node.path, is, local.display())?;
        if is_new || self.preserve {
            let attr = node.attr.clone();
            self.ctx.unfinished.note(Directory::Local { path: local, is, attr, preserve: self.preserve });
        }
        Ok(())
    }

    async fn file(&mut self, node: &Node, path: PathBuf) -> Outcome {
        let there = std::fs::symlink_metadata(&path).ok().and_then(|there| self.mounts.inode_of(&there));
        if there == Some(node.attr.inode) {
            return Err(identity::same_file(&node.path, path.display()));
        }
        self.take_place(node, &path)?;
        let (replace, preserve, is_stream) = (self.force, self.preserve, self.is_stream);
        let new = LocalFile { path, attr: node.attr.clone(), replace, preserve };
        self.ctx.progress.expect(node.attr.length);
        let (ctx, node) = (Arc::clone(&self.ctx), node.clone());
        self.crew
            .start(async move {
                let reader = remote_file::open(&ctx, &node).await?;
                let length = reader.length();
                let progress = &ctx.progress;
                let content = content::of_remote(&node.path, &reader, 0..length);
                let content = content.inspect_ok(|piece| progress.moved(piece.len() as u64));
                if is_stream {
                    local_file::write_into(&new.path, Some(length), content).await
                } else {
                    local_file::store(&ctx, &new, Some(length), content).await
                }
            })
            .await
    }

    async fn link(&mut self, node: &Node, local: &Path) -> Outcome {
        self.take_place(node, local)?;
        let target = self.ctx.client.get_link_target(&self.ctx.caller, node.attr.inode).await;
        let target = target.map_err(|error| Failure::dfs(&node.path, error))?;
        let kept = self.preserve.then_some(&node.attr);
        local_file::link(&self.ctx, local, OsStr::from_bytes(&target), self.force, kept).await?;
        self.crew.count_link();
        Ok(())
    }
}
