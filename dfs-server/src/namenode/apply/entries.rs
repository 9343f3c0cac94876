//! Ops on directory entries: create, make node, link, remove, rename. Each has a plan, which only looks and refuses, and an
//! apply, which carries the plan out.

use dfs_common::attr::{FileKind, PERMISSION_MASK, TYPE_MASK};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{INODE_LIMIT, InodeId, ROOT_INODE};
use dfs_common::name::Name;
use dfs_proto::v1::{CreateOp, LinkOp, MakeNodeOp, RemoveKind, RemoveOp, RenameFlag, RenameOp};

use super::context::{Context, known};
use crate::namenode::namespace::Namespace;
use crate::namenode::namespace::directory::{Cookie, Directory};
use crate::namenode::namespace::inode::{BlockList, Content, Inode};
use crate::namenode::namespace::permission::{EXECUTE, Identity, READ, SETGID, WRITE};
use crate::namenode::namespace::walk::TreeWalk;
use crate::namenode::outcome::Outcome;

/// Most names of an inode; ext4's limit.
const LINK_MAX: u32 = 65_000;

/// Longest target of a symbolic link (PATH_MAX less the NUL).
const SYMLINK_TARGET_MAX: usize = 4_095;

/// Where a new name goes.
pub(super) struct NewEntry {
    parent: InodeId,
    name: Name,
}

pub(super) enum CreatePlan {
    /// The name is taken by this regular file, and that was allowed.
    Existing(InodeId),
    New(NewEntry),
}

pub(super) struct RemovePlan {
    parent: InodeId,
    cookie: Cookie,
    inode: InodeId,
}

pub(super) struct RenamePlan {
    source: (InodeId, Cookie, InodeId),
    target_parent: InodeId,
    target_name: Name,
    target: Option<(Cookie, InodeId)>,
    /// Nothing to do: both names are of one inode.
    same_inode: bool,
}

impl Namespace {
    /// The directory and what stands under `name` in it, for a caller who wants to change entries.
    fn resolve_for_change(
        &self,
        who: &Identity,
        parent: InodeId,
        name: &[u8],
    ) -> Result<(Name, Option<(Cookie, InodeId)>)> {
        let directory = self.directory(parent)?;
        self.check_reachable(parent)?;
        let inode = self.inode(parent)?;
        who.check(inode, EXECUTE)?;
        let name = Name::new(name)?;
        // One that was removed may still have entries, which nobody is to see.
        let found = directory.find(self.hash_key, name.as_bytes()).filter(|_| inode.nlink > 0);
        Ok((name, found))
    }

    fn plan_new_entry(&self, who: &Identity, parent: InodeId, name: &[u8]) -> Result<NewEntry> {
        let (name, found) = self.resolve_for_change(who, parent, name)?;
        if found.is_some() {
            return Err(DfsError::new(ErrorKind::AlreadyExists, "the name is taken"));
        }
        self.check_may_add(who, parent, &name)?;
        Ok(NewEntry { parent, name })
    }

    fn check_may_add(&self, who: &Identity, parent: InodeId, name: &Name) -> Result<()> {
        let directory = self.inode(parent)?;
        if directory.nlink == 0 {
            return Err(DfsError::new(ErrorKind::NotFound, "the directory has been removed"));
        }
        who.check(directory, WRITE | EXECUTE)?;
        self.directory(parent)?.check_room(self.hash_key, name.as_bytes())?;
        Ok(())
    }

    pub(super) fn plan_create(&self, who: &Identity, op: &CreateOp) -> Result<CreatePlan> {
        let parent = InodeId(op.parent);
        let (name, found) = self.resolve_for_change(who, parent, &op.name)?;
        check_layout(op.replication, op.block_size)?;
        match found {
            None => {
                self.check_may_add(who, parent, &name)?;
                Ok(CreatePlan::New(NewEntry { parent, name }))
            }
            Some(_) if op.exclusive => Err(DfsError::new(ErrorKind::AlreadyExists, "the name is taken")),
            Some((_, inode)) => Ok(CreatePlan::Existing(inode)),
        }
    }

    pub(super) fn apply_create(&mut self, context: &mut Context<'_>, op: &CreateOp) -> Result<Outcome> {
        let entry = match self.plan_create(&context.who, op)? {
            CreatePlan::Existing(inode) => return Ok(Outcome::Created { inode, created: false }),
            CreatePlan::New(entry) => entry,
        };
        let lease = if op.open_for_write { Some(context.lease()?) } else { None };
        let content = new_file(op.replication, op.block_size)?;
        let mode = FileKind::File as u32 | op.mode & PERMISSION_MASK;
        let inode = self.add_inode(context, entry, mode, content)?;
        if let Some(lease) = lease {
            self.leases.insert(inode, lease);
            if !op.target_datanodes.is_empty() {
                let targets = op.target_datanodes.iter().cloned().zip(op.target_storages.iter().cloned()).collect();
                self.allocate_block(context, inode, targets)?;
            }
        }
        Ok(Outcome::Created { inode, created: true })
    }

    pub(super) fn plan_make_node(&self, who: &Identity, op: &MakeNodeOp) -> Result<NewEntry> {
        let kind = FileKind::from_mode(op.mode)
            .ok_or_else(|| DfsError::new(ErrorKind::InvalidArgument, format!("mode {:o} has no type", op.mode)))?;
        match kind {
            FileKind::Symlink if op.target.is_empty() => {
                return Err(DfsError::new(ErrorKind::NotFound, "a symbolic link needs a target"));
            }
            FileKind::Symlink if op.target.len() > SYMLINK_TARGET_MAX => {
                return Err(DfsError::new(ErrorKind::NameTooLong, "the link's target is above 4,095 bytes"));
            }
            FileKind::Symlink if op.target.contains(&0) => {
                return Err(DfsError::new(ErrorKind::InvalidArgument, "the link's target contains a NUL byte"));
            }
            FileKind::File => check_layout(op.replication, op.block_size)?,
            _ => {}
        }
        let entry = self.plan_new_entry(who, InodeId(op.parent), &op.name)?;
        if kind == FileKind::Directory && self.inode(entry.parent)?.nlink >= LINK_MAX {
            return Err(DfsError::new(ErrorKind::TooManyLinks, format!("more than {LINK_MAX} subdirectories")));
        }
        if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) && !who.is_root() {
            return Err(DfsError::new(ErrorKind::NotPermitted, "only root makes device nodes"));
        }
        Ok(entry)
    }

    /// Refuses a new directory that would stand too deep.
    pub(super) fn check_depth_of_new(&self, op: &MakeNodeOp) -> Result<()> {
        if FileKind::from_mode(op.mode) == Some(FileKind::Directory) {
            self.check_depth(0, InodeId(op.parent), None)?;
        }
        Ok(())
    }

    pub(super) fn apply_make_node(&mut self, context: &mut Context<'_>, op: &MakeNodeOp) -> Result<Outcome> {
        if !context.is_old {
            self.check_depth_of_new(op)?;
        }
        let entry = self.plan_make_node(&context.who, op)?;
        let kind = FileKind::from_mode(op.mode).expect("the plan refuses unknown types");
        let content = match kind {
            FileKind::Directory => Content::Directory(Box::new(Directory::new(entry.parent))),
            FileKind::File => new_file(op.replication, op.block_size)?,
            FileKind::Symlink => Content::Symlink(op.target.to_vec().into_boxed_slice()),
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
                Content::Special { rdev: op.rdev }
            }
        };
        let inode = self.add_inode(context, entry, op.mode & (TYPE_MASK | PERMISSION_MASK), content)?;
        Ok(Outcome::Inode(inode))
    }

    /// A new inode under a new name. A set-gid directory hands on its group, and to directories the bit itself.
    fn add_inode(
        &mut self,
        context: &Context<'_>,
        entry: NewEntry,
        mut mode: u32,
        content: Content,
    ) -> Result<InodeId> {
        let is_directory = matches!(content, Content::Directory(_));
        let id = self.counters.next_inode;
        if id.0 >= INODE_LIMIT {
            return Err(DfsError::new(ErrorKind::NoSpace, "inode ids are used up"));
        }
        let (key, now) = (self.hash_key, context.now_ns);
        let parent_id = entry.parent;
        let parent = self.inode_mut(parent_id)?;
        let mut gid = context.who.gid;
        if parent.mode & SETGID != 0 {
            gid = parent.gid;
            if is_directory {
                mode |= SETGID;
            } else if mode & 0o010 != 0 && !context.who.is_root() && !context.who.is_in_group(gid) {
                // Nobody makes a set-group-id program of a group that is not his.
                mode &= !SETGID;
            }
        }
        parent.mtime_ns = now;
        parent.ctime_ns = now;
        if is_directory {
            parent.nlink += 1;
        }
        self.directory_mut(parent_id)?.insert(key, entry.name, id)?;
        self.counters.next_inode = id.next();
        if is_directory {
            self.directory_count += 1;
            self.change_height(parent_id, None, Some(0))?;
        } else {
            self.file_count += 1;
        }
        let inode = Inode {
            mode,
            uid: context.who.uid,
            gid,
            nlink: if is_directory { 2 } else { 1 },
            atime_ns: now,
            mtime_ns: now,
            ctime_ns: now,
            content,
            xattrs: None,
        };
        self.inodes.insert(id.0, inode);
        Ok(id)
    }

    pub(super) fn plan_link(&self, who: &Identity, op: &LinkOp) -> Result<NewEntry> {
        let inode = self.inode(InodeId(op.inode))?;
        if inode.directory().is_some() {
            return Err(DfsError::new(ErrorKind::NotPermitted, "directories have one name"));
        }
        if inode.nlink == 0 {
            return Err(DfsError::new(ErrorKind::NotFound, "the file has been removed"));
        }
        if inode.nlink >= LINK_MAX {
            return Err(DfsError::new(ErrorKind::TooManyLinks, format!("more than {LINK_MAX} names")));
        }
        self.plan_new_entry(who, InodeId(op.new_parent), &op.new_name)
    }

    pub(super) fn apply_link(&mut self, context: &mut Context<'_>, op: &LinkOp) -> Result<Outcome> {
        let entry = self.plan_link(&context.who, op)?;
        let (id, key, now) = (InodeId(op.inode), self.hash_key, context.now_ns);
        self.directory_mut(entry.parent)?.insert(key, entry.name, id)?;
        self.touch(entry.parent, now)?;
        let inode = self.inode_mut(id)?;
        inode.nlink += 1;
        inode.ctime_ns = now;
        Ok(Outcome::Inode(id))
    }

    pub(super) fn plan_remove(&self, who: &Identity, op: &RemoveOp) -> Result<RemovePlan> {
        let parent = InodeId(op.parent);
        let (_, found) = self.resolve_for_change(who, parent, &op.name)?;
        let (cookie, id) = found.ok_or_else(|| DfsError::new(ErrorKind::NotFound, "no such file or directory"))?;
        if op.inode != 0 && op.inode != id.0 {
            return Err(DfsError::new(ErrorKind::NotFound, "something else has that name by now"));
        }
        let (directory, victim) = (self.inode(parent)?, self.inode(id)?);
        who.check(directory, WRITE | EXECUTE)?;
        who.check_sticky(directory, victim)?;
        match (known::<RemoveKind>(op.kind, "kind of removal")?, victim.directory()) {
            (RemoveKind::RemoveUnlink, Some(_)) => {
                Err(DfsError::new(ErrorKind::IsADirectory, "it is a directory; use rmdir"))
            }
            (RemoveKind::RemoveRmdir, None) => Err(DfsError::new(ErrorKind::NotADirectory, "it is not a directory")),
            (RemoveKind::RemoveRmdir, Some(entries)) if !entries.is_empty() => {
                Err(DfsError::new(ErrorKind::DirectoryNotEmpty, "the directory is not empty"))
            }
            _ => Ok(RemovePlan { parent, cookie, inode: id }),
        }
    }

    /// How a tree's removal is to be logged, and the tree that the leader must walk over before: that takes long, and nobody
    /// else waits meanwhile. Where there is nothing to walk over, only that much is removed: by the time the op is applied a
    /// directory of somebody else may have the name, or entries.
    ///
    /// # Errors
    /// As for the removal of the top.
    pub fn plan_tree_removal(&self, who: &Identity, op: &RemoveOp) -> Result<(RemoveKind, Option<InodeId>)> {
        let plan = self.plan_remove(who, op)?;
        if op.kind() != RemoveKind::RemoveRecursive || who.is_root() {
            return Ok((op.kind(), None));
        }
        Ok(match self.inode(plan.inode)?.directory() {
            None => (RemoveKind::RemoveUnlink, None),
            Some(entries) if entries.is_empty() => (RemoveKind::RemoveRmdir, None),
            Some(_) => (RemoveKind::RemoveRecursive, Some(plan.inode)),
        })
    }

    pub(super) fn apply_remove(&mut self, context: &mut Context<'_>, op: &RemoveOp) -> Result<Outcome> {
        let plan = self.plan_remove(&context.who, op)?;
        if context.is_old && op.kind() == RemoveKind::RemoveRecursive {
            let mut walk = TreeWalk::new(plan.inode);
            walk.go_on(self, usize::MAX, &mut |parent, _, inode| check_may_remove(&context.who, parent, inode))?;
        }
        self.directory_mut(plan.parent)?.remove(plan.cookie);
        self.touch(plan.parent, context.now_ns)?;
        self.drop_name(context, plan.parent, plan.inode)?;
        Ok(Outcome::Done)
    }

    fn touch(&mut self, id: InodeId, now_ns: i64) -> Result<()> {
        let inode = self.inode_mut(id)?;
        inode.mtime_ns = now_ns;
        inode.ctime_ns = now_ns;
        Ok(())
    }

    pub(super) fn plan_rename(&self, who: &Identity, op: &RenameOp) -> Result<RenamePlan> {
        let (source_parent, target_parent) = (InodeId(op.src_parent), InodeId(op.dst_parent));
        let (_, source) = self.resolve_for_change(who, source_parent, &op.src_name)?;
        let (cookie, id) = source.ok_or_else(|| DfsError::new(ErrorKind::NotFound, "no such file or directory"))?;
        let (target_name, target) = self.resolve_for_change(who, target_parent, &op.dst_name)?;
        let plan = RenamePlan {
            source: (source_parent, cookie, id),
            target_parent,
            target_name,
            target,
            same_inode: target.is_some_and(|(_, target)| target == id),
        };
        match (known::<RenameFlag>(op.flag, "flag of a rename")?, target) {
            (RenameFlag::RenameNoreplace, Some(_)) => {
                return Err(DfsError::new(ErrorKind::AlreadyExists, "the new name is taken"));
            }
            (RenameFlag::RenameExchange, None) => {
                return Err(DfsError::new(ErrorKind::NotFound, "nothing to exchange with"));
            }
            _ if plan.same_inode => return Ok(plan),
            _ => {}
        }
        self.check_may_move(who, source_parent, id, target_parent)?;
        match target {
            None => self.check_may_add(who, target_parent, &plan.target_name)?,
            Some((_, target)) if op.flag() == RenameFlag::RenameExchange => {
                self.check_may_move(who, target_parent, target, source_parent)?;
            }
            Some((_, target)) => self.check_may_replace(who, id, target_parent, target)?,
        }
        Ok(plan)
    }

    /// Refuses to move a directory, with all below it, to where it would stand too deep.
    pub(super) fn check_depth_of_moved(&self, op: &RenameOp) -> Result<()> {
        let (source, target) = ((op.src_parent, &op.src_name), (op.dst_parent, &op.dst_name));
        if source.0 == target.0 {
            return Ok(());
        }
        let is_exchange = op.flag() == RenameFlag::RenameExchange;
        for ((from, name), (to, _)) in [(source, target)].into_iter().chain(is_exchange.then_some((target, source))) {
            let (from, to) = (InodeId(from), InodeId(to));
            let found = self.directory(from).ok().and_then(|directory| directory.find(self.hash_key, name));
            // What is not there, or no directory, is for the plan to judge.
            if let Some((_, id)) = found
                && let Ok(directory) = self.directory(id)
            {
                self.check_depth(directory.heights.height(), to, Some(from))?;
            }
        }
        Ok(())
    }

    /// May `id` leave `from` and live in `to`?
    fn check_may_move(&self, who: &Identity, from: InodeId, id: InodeId, to: InodeId) -> Result<()> {
        let (from_inode, inode, to_inode) = (self.inode(from)?, self.inode(id)?, self.inode(to)?);
        who.check(from_inode, WRITE | EXECUTE)?;
        who.check(to_inode, WRITE | EXECUTE)?;
        who.check_sticky(from_inode, inode)?;
        if inode.directory().is_none() || from == to {
            return Ok(());
        }
        // Its `..` changes.
        who.check(inode, WRITE)?;
        if to_inode.nlink >= LINK_MAX {
            return Err(DfsError::new(ErrorKind::TooManyLinks, format!("more than {LINK_MAX} subdirectories")));
        }
        // Bounded by `check_depth`, which directories have passed on their way to where they stand; in operations logged before
        // there was that limit, by how deep they stood then.
        let mut ancestor = to;
        while ancestor != ROOT_INODE {
            if ancestor == id {
                return Err(DfsError::new(ErrorKind::InvalidArgument, "a directory cannot move below itself"));
            }
            ancestor = self.directory(ancestor)?.parent;
        }
        Ok(())
    }

    fn check_may_replace(&self, who: &Identity, id: InodeId, parent: InodeId, target: InodeId) -> Result<()> {
        let (inode, parent, target) = (self.inode(id)?, self.inode(parent)?, self.inode(target)?);
        who.check_sticky(parent, target)?;
        match (inode.directory(), target.directory()) {
            (Some(_), None) => Err(DfsError::new(ErrorKind::NotADirectory, "a directory cannot replace a file")),
            (None, Some(_)) => Err(DfsError::new(ErrorKind::IsADirectory, "a file cannot replace a directory")),
            (Some(_), Some(entries)) if !entries.is_empty() => {
                Err(DfsError::new(ErrorKind::DirectoryNotEmpty, "the directory to be replaced is not empty"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn apply_rename(&mut self, context: &mut Context<'_>, op: &RenameOp) -> Result<Outcome> {
        if !context.is_old {
            self.check_depth_of_moved(op)?;
        }
        let plan = self.plan_rename(&context.who, op)?;
        if plan.same_inode {
            return Ok(Outcome::Done);
        }
        let (source_parent, source_cookie, id) = plan.source;
        let now = context.now_ns;
        match plan.target {
            Some((cookie, target)) if op.flag() == RenameFlag::RenameExchange => {
                self.directory_mut(source_parent)?.replace(source_cookie, target);
                self.directory_mut(plan.target_parent)?.replace(cookie, id);
                self.move_directory(target, plan.target_parent, source_parent)?;
                self.inode_mut(target)?.ctime_ns = now;
            }
            Some((cookie, target)) => {
                self.directory_mut(source_parent)?.remove(source_cookie);
                self.directory_mut(plan.target_parent)?.replace(cookie, id);
                self.drop_name(context, plan.target_parent, target)?;
            }
            None => {
                let key = self.hash_key;
                // The new name first: it is the step that could be refused.
                self.directory_mut(plan.target_parent)?.insert(key, plan.target_name, id)?;
                self.directory_mut(source_parent)?.remove(source_cookie);
            }
        }
        self.move_directory(id, source_parent, plan.target_parent)?;
        self.inode_mut(id)?.ctime_ns = now;
        self.touch(source_parent, now)?;
        self.touch(plan.target_parent, now)?;
        Ok(Outcome::Done)
    }

    /// Keeps `..` and the parents' link counts and heights right when a directory changes its parent.
    fn move_directory(&mut self, id: InodeId, from: InodeId, to: InodeId) -> Result<()> {
        if from == to {
            return Ok(());
        }
        let Some(directory) = self.inode_mut(id)?.directory_mut() else { return Ok(()) };
        directory.parent = to;
        let height = Some(directory.heights.height());
        self.inode_mut(from)?.nlink -= 1;
        self.inode_mut(to)?.nlink += 1;
        self.change_height(from, height, None)?;
        self.change_height(to, None, height)
    }
}

/// Of a tree that is removed, every directory must be the caller's to empty.
///
/// # Errors
/// `PermissionDenied`, `NotPermitted`.
pub(in crate::namenode) fn check_may_remove(who: &Identity, parent: Option<&Inode>, inode: &Inode) -> Result<()> {
    if let Some(parent) = parent {
        who.check_sticky(parent, inode)?;
    }
    match inode.directory() {
        Some(directory) if !directory.is_empty() => who.check(inode, READ | WRITE | EXECUTE),
        _ => Ok(()),
    }
}

/// Limits of a file's layout that no configuration lifts: apply must not depend on one.
fn check_layout(replication: u32, block_size: u64) -> Result<()> {
    if replication == 0 || replication > u32::from(u16::MAX) {
        return Err(DfsError::new(ErrorKind::InvalidArgument, format!("replication {replication} is out of range")));
    }
    if block_size == 0 || !block_size.is_multiple_of(512) || u32::try_from(block_size / 512).is_err() {
        return Err(DfsError::new(
            ErrorKind::InvalidArgument,
            format!("block size {block_size} is not a multiple of 512 below 2 TiB"),
        ));
    }
    Ok(())
}

fn new_file(replication: u32, block_size: u64) -> Result<Content> {
    check_layout(replication, block_size)?;
    let out_of_range = |_| DfsError::new(ErrorKind::InvalidArgument, "file layout out of range");
    Ok(Content::File {
        blocks: BlockList::Empty,
        block_size_sectors: u32::try_from(block_size / 512).map_err(out_of_range)?,
        replication: u16::try_from(replication).map_err(out_of_range)?,
    })
}
