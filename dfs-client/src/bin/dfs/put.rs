//! `dfs put`: local files and trees into the cluster.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{FileType, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use dfs_client::{SetAttr, TimeSet};
use dfs_common::attr::PERMISSION_MASK;
use dfs_common::ids::InodeId;

use crate::aside::aside;
use crate::content;
use crate::context::Context;
use crate::copied::Copied;
use crate::cp;
use crate::crew::{Copying, Crew};
use crate::destination::{self, Destination, Target};
use crate::failure::{Failure, Outcome};
use crate::identity::{self, Apart, ClusterMounts};
use crate::kept::Kept;
use crate::kept_mode::kept_mode;
use crate::local_attributes::NS_PER_S;
use crate::local_tree::{self, LocalEntry};
use crate::location;
use crate::make_dir;
use crate::new_file::{self, NewFile};
use crate::path::DfsPath;
use crate::taken::Taken;
use crate::tree::Links;
use crate::unfinished;

/// Mode of a file that comes from standard input, before the umask.
const STDIN_MODE: u32 = 0o666;

/// Copies local files and directories into the cluster.
///
/// A file is written under a temporary name, NAME.*._COPYING_, and renamed once it is whole. Links inside a directory are
/// copied as links. Without a destination, a lone source goes into the home directory.
#[derive(Debug, Args)]
#[command(visible_alias = "copyFromLocal")]
pub(crate) struct PutArgs {
    #[command(flatten)]
    pub(crate) copying: Copying,
    #[command(flatten)]
    pub(crate) storing: Storing,
    /// Local sources (`-` is standard input), then the destination
    #[arg(required = true, num_args = 1.., value_names = ["SOURCE", "DESTINATION"])]
    pub(crate) paths: Vec<OsString>,
}

/// How local files are stored: what `put` and `moveFromLocal` take.
#[derive(Debug, Args)]
pub(crate) struct Storing {
    /// Keep times and mode, and as superuser the owner
    #[arg(short = 'p', long)]
    preserve: bool,
    /// Accepted as in HDFS: files are always sent to disks, with all their replicas
    #[arg(short = 'l')]
    _lazy: bool,
    /// Accepted as in HDFS: a file appears when it is whole all the same
    #[arg(short = 'd')]
    _direct: bool,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: PutArgs) -> Outcome {
    let mut crew = Crew::new(ctx, args.copying.threads);
    let outcome = copy(ctx, args, None, &mut crew).await;
    crew.finish(outcome).await
}

/// Has the crew copy, and notes what was copied for somebody who removes it then.
///
/// # Errors
/// A failure that would meet every source; others are reported.
pub(crate) async fn copy(ctx: &Arc<Context>, args: PutArgs, copied: Option<Arc<Copied>>, crew: &mut Crew) -> Outcome {
    let (sources, destination) = destination::split_or_here(args.paths)?;
    let sources = location::locals(sources)?;
    let destination = Destination::look_up(ctx, &destination, sources.len() > 1, Links::Follow).await?;
    let mut put = Put {
        ctx: Arc::clone(ctx),
        force: args.copying.force,
        preserve: args.storing.preserve,
        crew,
        directories: HashMap::new(),
        mounts: ClusterMounts::find(ctx).await,
        apart: Apart::default(),
        taken: Taken::new(sources.len() > 1),
        copied,
        is_named_by_link: false,
    };
    for source in sources {
        ctx.tolerate(put.source(Path::new(&source), &destination).await)?;
    }
    Ok(())
}

struct Put<'a> {
    ctx: Arc<Context>,
    force: bool,
    preserve: bool,
    crew: &'a mut Crew,
    /// Directories of the tree being copied, by their path in it.
    directories: HashMap<PathBuf, Parent>,
    /// Where sources may be of the cluster itself.
    mounts: ClusterMounts,
    /// The directories of the tree being copied, as far as they are of the cluster, and of its copy.
    apart: Apart,
    taken: Taken<InodeId>,
    /// Where what is copied is noted, if somebody wants to remove it.
    copied: Option<Arc<Copied>>,
    /// The source being copied was named by a link. The link has been noted; what it leads to stays where it is.
    is_named_by_link: bool,
}

/// The copy of a directory, in which the copies of its entries are made.
#[derive(Clone, Debug)]
struct Parent {
    inode: InodeId,
    path: DfsPath,
    is_new: bool,
}

impl Put<'_> {
    async fn source(&mut self, source: &Path, destination: &Destination) -> Outcome {
        if source.as_os_str() == "-" {
            return self.standard_input(destination).await;
        }
        self.apart = Apart::default();
        self.taken.begin_source();
        self.note_top(source)?;
        let target = destination.target(name_of(source)?.as_bytes());
        let mut entries = local_tree::walk(source.to_owned());
        let mut top = Some(target);
        while let Some(entry) = entries.recv().await {
            let outcome = match (entry, top.take()) {
                (Ok(entry), Some(target)) => self.entry(&entry, target, false).await.map_err(|failure| (true, failure)),
                (Ok(entry), None) => match self.place_of(&entry) {
                    Some((target, is_new)) => {
                        self.entry(&entry, target, is_new).await.map_err(|failure| (false, failure))
                    }
                    // Its directory could not be made, which has been reported.
                    None => Ok(()),
                },
                (Err(failure), top) => Err((top.is_some(), failure)),
            };
            match outcome {
                Ok(()) => {}
                Err((true, failure)) => return Err(failure),
                Err((false, failure)) => _ = self.ctx.tolerate::<()>(Err(failure))?,
            }
        }
        self.crew.wait().await?;
        self.directories.clear();
        self.ctx.finish_directories().await
    }

    /// Notes a link that was named. It is what is removed: what it leads to has another name.
    fn note_top(&mut self, source: &Path) -> Outcome {
        self.is_named_by_link = false;
        if let Some(copied) = &self.copied {
            let own = std::fs::symlink_metadata(source).map_err(|error| Failure::local(source, error))?;
            if own.is_symlink() {
                copied.note(source, own);
                self.is_named_by_link = true;
            }
        }
        Ok(())
    }

    /// Where entries of the source being copied are noted.
    fn notes(&self) -> Option<Arc<Copied>> {
        self.copied.clone().filter(|_| !self.is_named_by_link)
    }

    /// Where an entry below the top goes, and whether its directory is new.
    fn place_of(&self, entry: &LocalEntry) -> Option<(Target, bool)> {
        let directory = self.directories.get(entry.relative.parent()?)?;
        let name = entry.relative.file_name()?.as_bytes();
        let target = Target { parent: directory.inode, name: name.to_vec(), path: directory.path.join(name) };
        Some((target, directory.is_new))
    }

    async fn entry(&mut self, entry: &LocalEntry, target: Target, is_surely_new: bool) -> Outcome {
        let kind = entry.metadata.file_type();
        if kind.is_dir() {
            self.directory(entry, target).await
        } else if kind.is_symlink() {
            self.link(entry, &target).await
        } else if kind.is_file() || (entry.is_top() && is_stream(kind) && self.copied.is_none()) {
            self.file(entry, target, is_surely_new).await
        } else {
            Err(Failure::refused(entry.path.display(), "not a file, directory or symbolic link; left out"))
        }
    }

    async fn directory(&mut self, entry: &LocalEntry, target: Target) -> Outcome {
        let mode = entry.metadata.mode() & 0o777 & !self.ctx.settings.umask;
        if self.mounts.are_there() {
            if entry.is_top() {
                self.apart.write(&self.ctx, target.parent, &target.path).await?;
            }
            if let Some(inode) = self.mounts.inode_of(&entry.metadata) {
                self.apart.read(inode, entry.path.display())?;
            }
        }
        // Whatever mode it is to get, we have to write into it first.
        let made = make_dir::make(&self.ctx, &target, mode | 0o700).await?;
        if made.is_new {
            self.crew.count_directory();
        }
        self.taken.enter(entry.path.display(), made.inode, &target.path)?;
        if self.mounts.are_there() && !made.is_new {
            self.apart.write(&self.ctx, made.inode, &target.path).await?;
        }
        let mut attributes = if self.preserve { attributes_of(&entry.metadata) } else { SetAttr::default() };
        if made.is_new && attributes.mode.is_none() && mode | 0o700 != mode {
            attributes.mode = Some(mode | made.inherited);
        }
        if attributes != SetAttr::default() {
            let kept = Kept { attributes, xattrs: Vec::new() };
            let (path, inode) = (target.path.clone(), made.inode);
            self.ctx.unfinished.note(unfinished::Directory::Remote { path, inode, kept });
        }
        if let Some(copied) = self.notes() {
            copied.note(&entry.path, entry.metadata.clone());
        }
        let parent = Parent { inode: made.inode, path: target.path, is_new: made.is_new };
        self.directories.insert(entry.relative.clone(), parent);
        Ok(())
    }

    async fn link(&mut self, entry: &LocalEntry, target: &Target) -> Outcome {
        self.taken.take(entry.path.display(), target.parent, &target.name, &target.path)?;
        let points_to = std::fs::read_link(&entry.path).map_err(|error| Failure::local(&entry.path, error))?;
        let inode = cp::make_link(&self.ctx, target, points_to.as_os_str().as_bytes(), self.force).await?;
        if self.preserve {
            cp::preserve_link(&self.ctx, target, inode, attributes_of(&entry.metadata)).await?;
        }
        if let Some(copied) = self.notes() {
            copied.note(&entry.path, entry.metadata.clone());
        }
        self.crew.count_link();
        Ok(())
    }

    async fn file(&mut self, entry: &LocalEntry, target: Target, is_surely_new: bool) -> Outcome {
        if let Some(inode) = self.mounts.inode_of(&entry.metadata) {
            let place = (target.parent, target.name.as_slice());
            identity::refuse_same(&self.ctx, (inode, &entry.path.display()), place, &target.path).await?;
        }
        self.taken.take(entry.path.display(), target.parent, &target.name, &target.path)?;
        let new = NewFile {
            target,
            mode: entry.metadata.mode() & 0o777 & !self.ctx.settings.umask,
            kept: Kept {
                attributes: if self.preserve { attributes_of(&entry.metadata) } else { SetAttr::default() },
                xattrs: Vec::new(),
            },
            replace: self.force,
            is_surely_new,
        };
        self.ctx.progress.expect(entry.metadata.len());
        let (ctx, entry, copied) = (Arc::clone(&self.ctx), entry.clone(), self.notes());
        self.crew.start(async move { store_local(&ctx, &new, entry, copied).await }).await
    }

    async fn standard_input(&mut self, destination: &Destination) -> Outcome {
        let Destination::As(target) = destination else {
            let words = "standard input has no name: the destination must name a file";
            return Err(Failure::refused("-", words));
        };
        let new = NewFile {
            target: target.clone(),
            mode: STDIN_MODE & !self.ctx.settings.umask,
            kept: Kept::default(),
            replace: self.force,
            is_surely_new: false,
        };
        let ctx = Arc::clone(&self.ctx);
        self.crew
            .start(async move { new_file::store(&ctx, &new, content::of_local(std::io::stdin(), "-".into())).await })
            .await
    }
}

/// Copies one file. It is noted as it was before its first byte was read: what is written to it later shows.
async fn store_local(ctx: &Context, new: &NewFile, entry: LocalEntry, copied: Option<Arc<Copied>>) -> Outcome<u64> {
    let path = entry.path.clone();
    let (file, was) = aside(move || entry.open()).await?;
    let written = new_file::store(ctx, new, content::of_local(file, path.clone())).await?;
    if let Some(copied) = copied {
        copied.note(&path, was);
    }
    Ok(written)
}

/// Whether it is read until its end when the user names it: standard input under a name of its own, a fifo, what a shell
/// makes of `<(command)`, a device. One that is met inside a tree would be waited for, perhaps for ever.
fn is_stream(kind: FileType) -> bool {
    kind.is_fifo() || kind.is_char_device() || kind.is_block_device()
}

/// The name that a source has in a directory: `.` and `a/..` are named by what they lead to.
fn name_of(source: &Path) -> Outcome<OsString> {
    if let Some(name) = source.file_name() {
        return Ok(name.to_owned());
    }
    let real = source.canonicalize().map_err(|error| Failure::local(source, error))?;
    Ok(real.file_name().map_or_else(|| OsString::from("root"), ToOwned::to_owned))
}

/// What `-p` keeps. Only the superuser can give files away, so nobody else tries.
fn attributes_of(metadata: &Metadata) -> SetAttr {
    let is_superuser = rustix::process::geteuid().is_root();
    let time = |seconds: i64, ns: i64| Some(TimeSet::At(seconds.saturating_mul(NS_PER_S).saturating_add(ns)));
    SetAttr {
        mode: Some(kept_mode(metadata.mode() & PERMISSION_MASK, metadata.uid(), metadata.gid())),
        uid: is_superuser.then(|| metadata.uid()),
        gid: is_superuser.then(|| metadata.gid()),
        atime: time(metadata.atime(), metadata.atime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        kill_privileges: false,
        kill_capabilities: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_stream_knows_what_can_be_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, socket) = (dir.path().join("fifo"), dir.path().join("socket"));
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, expected) in
            [(fifo.as_path(), true), (Path::new("/dev/null"), true), (&socket, false), (dir.path(), false)]
        {
            assert_eq!(is_stream(std::fs::metadata(path).unwrap().file_type()), expected, "{}", path.display());
        }
    }

    #[test]
    fn name_of_any_source_is_a_name() {
        assert_eq!(name_of(Path::new("/a/b")).unwrap(), "b");
        assert_eq!(name_of(Path::new("a/b/")).unwrap(), "b");
        assert_eq!(name_of(Path::new("/")).unwrap(), "root");
        let here = std::env::current_dir().unwrap();
        assert_eq!(name_of(Path::new(".")).unwrap(), here.file_name().unwrap());
        assert!(name_of(Path::new("/no/such/..")).is_err());
    }
}
