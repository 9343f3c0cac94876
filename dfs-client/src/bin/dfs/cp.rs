//! `dfs cp`: copies within the cluster, through this machine.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use dfs_client::SetAttr;
use dfs_common::attr::FileKind;
use dfs_common::ids::InodeId;

use crate::content;
use crate::context::Context;
use crate::crew::{Copying, Crew};
use crate::destination::{self, Destination, Target};
use crate::failure::{Failure, Outcome};
use crate::identity::{self, Apart};
use crate::kept::Kept;
use crate::make_dir;
use crate::new_file::{self, NewFile};
use crate::path::DfsPath;
use crate::preserved::{LETTERS_DEFAULT, Preserved};
use crate::remote_file;
use crate::taken::Taken;
use crate::temporary::{self, RemoteTemporary};
use crate::tree::{self, Links, Node, Walk};
use crate::unfinished;

/// Copies files and directories within the cluster.
///
/// A file is written under a temporary name, NAME.*._COPYING_, and renamed once it is whole. Links inside a directory are
/// copied as links.
#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    #[command(flatten)]
    copying: Copying,
    /// Keep times, ownership and permissions (top), or what the letters behind it name: -pto, also a for ACLs, of which
    /// there are none, and x for extended attributes
    #[arg(
        short = 'p',
        long,
        value_name = "topax",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = LETTERS_DEFAULT
    )]
    preserve: Option<Preserved>,
    /// Accepted as in HDFS: a file appears when it is whole all the same
    #[arg(short = 'd')]
    _direct: bool,
    /// Sources, which may be patterns, then the destination
    #[arg(required = true, num_args = 2.., value_names = ["SOURCE", "DESTINATION"])]
    paths: Vec<OsString>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: CpArgs) -> Outcome {
    let mut crew = Crew::new(ctx, args.copying.threads);
    let outcome = copy(ctx, args, &mut crew).await;
    crew.finish(outcome).await
}

async fn copy(ctx: &Arc<Context>, args: CpArgs, crew: &mut Crew) -> Outcome {
    let (sources, destination) = destination::split_arguments(args.paths)?;
    let sources = tree::sources(ctx, &sources, Links::Follow).await?;
    if sources.nodes.is_empty() {
        return Ok(());
    }
    let destination = Destination::look_up(ctx, &destination, sources.are_several(), Links::Follow).await?;
    let mut cp = Cp {
        ctx: Arc::clone(ctx),
        force: args.copying.force,
        preserve: args.preserve.unwrap_or_default(),
        crew,
        directories: HashMap::new(),
        apart: Apart::default(),
        taken: Taken::new(sources.are_several()),
    };
    for node in sources {
        ctx.tolerate(cp.tree(node, &destination).await)?;
    }
    Ok(())
}

struct Cp<'a> {
    ctx: Arc<Context>,
    force: bool,
    preserve: Preserved,
    crew: &'a mut Crew,
    /// Copies of directories by their source: which, where, and whether new.
    directories: HashMap<DfsPath, (InodeId, DfsPath, bool)>,
    /// The directories of the tree being copied and of its copy.
    apart: Apart,
    taken: Taken<InodeId>,
}

impl Cp<'_> {
    async fn tree(&mut self, top: Node, destination: &Destination) -> Outcome {
        let Some(name) = top.path.file_name() else {
            return Err(Failure::refused(&top.path, "the root cannot be copied into itself"));
        };
        let target = destination.target(name);
        let is_single = !top.is_directory();
        self.apart = Apart::default();
        self.taken.begin_source();
        if !is_single {
            self.apart.write(&self.ctx, target.parent, &target.path).await?;
        }
        let mut top_target = Some(target);
        let ctx = Arc::clone(&self.ctx);
        let mut walk = Walk::new(&ctx, top).passing_over_unfinished();
        while let Some(node) = walk.next().await? {
            let place = match top_target.take() {
                Some(target) => Some((target, false)),
                None => self.place_of(&node),
            };
            // Without a place, its directory could not be made, which has been reported.
            let Some((target, is_surely_new)) = place else { continue };
            let outcome = self.node(&node, target, is_surely_new).await;
            if is_single {
                outcome?;
            } else {
                ctx.tolerate(outcome)?;
            }
        }
        self.crew.wait().await?;
        self.directories.clear();
        ctx.finish_directories().await
    }

    fn place_of(&self, node: &Node) -> Option<(Target, bool)> {
        let (parent, path, is_new) = self.directories.get(&node.path.parent()?)?;
        let name = node.path.file_name()?;
        Some((Target { parent: *parent, name: name.to_vec(), path: path.join(name) }, *is_new))
    }

    async fn node(&mut self, node: &Node, target: Target, is_surely_new: bool) -> Outcome {
        match node.attr.kind {
            FileKind::Directory => self.directory(node, target).await,
            FileKind::File => self.file(node, target, is_surely_new).await,
            FileKind::Symlink => self.link(node, &target).await,
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
                Err(Failure::refused(&node.path, "not a file, directory or symbolic link; left out"))
            }
        }
    }

    async fn directory(&mut self, node: &Node, target: Target) -> Outcome {
        self.apart.read(node.attr.inode, &node.path)?;
        let mode = node.attr.permissions & 0o777 & !self.ctx.settings.umask;
        // Whatever mode it is to get, we have to write into it first.
        let made = make_dir::make(&self.ctx, &target, mode | 0o700).await?;
        if made.is_new {
            self.crew.count_directory();
        }
        self.taken.enter(&node.path, made.inode, &target.path)?;
        if !made.is_new {
            self.apart.write(&self.ctx, made.inode, &target.path).await?;
        }
        let mut kept = self.kept(node).await?;
        if made.is_new && kept.attributes.mode.is_none() && mode | 0o700 != mode {
            kept.attributes.mode = Some(mode | made.inherited);
        }
        if !kept.is_nothing() {
            let (path, inode) = (target.path.clone(), made.inode);
            self.ctx.unfinished.note(unfinished::Directory::Remote { path, inode, kept });
        }
        self.directories.insert(node.path.clone(), (made.inode, target.path, made.is_new));
        Ok(())
    }

    async fn kept(&self, node: &Node) -> Outcome<Kept> {
        let xattrs = self.preserve.xattrs_of(&self.ctx, node).await?;
        Ok(Kept { attributes: self.preserve.attributes_of(&node.attr), xattrs })
    }

    async fn file(&mut self, node: &Node, target: Target, is_surely_new: bool) -> Outcome {
        let place = (target.parent, target.name.as_slice());
        identity::refuse_same(&self.ctx, (node.attr.inode, &node.path), place, &target.path).await?;
        self.taken.take(&node.path, target.parent, &target.name, &target.path)?;
        let mut new = NewFile {
            target,
            mode: node.attr.permissions & 0o777 & !self.ctx.settings.umask,
            kept: Kept { attributes: self.preserve.attributes_of(&node.attr), xattrs: Vec::new() },
            replace: self.force,
            is_surely_new,
        };
        self.ctx.progress.expect(node.attr.length);
        let (ctx, node, preserve) = (Arc::clone(&self.ctx), node.clone(), self.preserve);
        self.crew
            .start(async move {
                new.kept.xattrs = preserve.xattrs_of(&ctx, &node).await?;
                let reader = remote_file::open(&ctx, &node).await?;
                let content = content::of_remote(&node.path, &reader, 0..reader.length());
                new_file::store(&ctx, &new, content).await
            })
            .await
    }

    async fn link(&mut self, node: &Node, target: &Target) -> Outcome {
        self.taken.take(&node.path, target.parent, &target.name, &target.path)?;
        let ctx = &self.ctx;
        let points_to = ctx.client.get_link_target(&ctx.caller, node.attr.inode).await;
        let points_to = points_to.map_err(|error| Failure::dfs(&node.path, error))?;
        let inode = make_link(ctx, target, &points_to, self.force).await?;
        preserve_link(ctx, target, inode, self.preserve.attributes_of(&node.attr)).await?;
        self.crew.count_link();
        Ok(())
    }
}

/// Makes a symbolic link, with `force` in place of a file or link that has the name, and says which it is.
///
/// # Errors
/// When something else has the name; those of symlink and rename.
pub(crate) async fn make_link(ctx: &Context, target: &Target, points_to: &[u8], force: bool) -> Outcome<InodeId> {
    temporary::check_remote_place(ctx, target, force).await?;
    let (parent, points_to) = (target.parent, points_to.to_vec());
    let (link, temporary) = RemoteTemporary::make(ctx, target, |client, caller, name| {
        let points_to = points_to.clone();
        async move {
            let link = client.create_symlink(&caller, parent, &name, &points_to).await?;
            Ok((link.inode, link.inode))
        }
    })
    .await?;
    let published = temporary.publish(ctx, target, force).await;
    if let Err(failure) = &published {
        temporary.discard(ctx, failure).await;
    }
    published.map(|()| link)
}

/// Gives a symbolic link itself what `-p` keeps; a mode it has none.
///
/// # Errors
/// Those of setattr.
pub(crate) async fn preserve_link(ctx: &Context, target: &Target, link: InodeId, attributes: SetAttr) -> Outcome {
    let kept = Kept { attributes: SetAttr { mode: None, ..attributes }, xattrs: Vec::new() };
    kept.apply(&ctx.client, &ctx.caller, link, &target.path).await
}
