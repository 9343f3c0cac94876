//! Ops on attributes: mode, owner, times, extended attributes.

use dfs_common::attr::{FileKind, PERMISSION_MASK};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::InodeId;
use dfs_proto::v1::{RemoveXAttrOp, SetAttrOp, SetXAttrOp, XAttrSetFlag};

use super::context::{Context, known};
use super::privileges::{Asked, makes_set_id_program, without_set_id};
use crate::namenode::namespace::Namespace;
use crate::namenode::namespace::inode::{CAPABILITIES, Inode};
use crate::namenode::namespace::permission::{Identity, SETGID, WRITE};
use crate::namenode::namespace::read::check_xattr_access;
use crate::namenode::outcome::Outcome;

/// Longest name of an extended attribute, bytes (Linux).
const XATTR_NAME_MAX: usize = 255;
/// Longest value, bytes: what ext4 and XFS users expect (Linux's own limit is 64 KiB).
const XATTR_VALUE_MAX: usize = 64 * 1024;
/// Names and values of all attributes of one inode together, bytes.
const XATTRS_TOTAL_MAX: usize = 128 * 1024;

/// What a setattr will leave behind.
pub(super) struct SetAttrPlan {
    mode: u32,
    uid: u32,
    gid: u32,
    drops_capabilities: bool,
}

impl Namespace {
    pub(super) fn plan_set_attr(&self, asked: Asked<'_>, op: &SetAttrOp) -> Result<SetAttrPlan> {
        let (id, who) = (InodeId(op.inode), asked.who);
        let inode = self.inode(id)?;
        let mut plan = SetAttrPlan { mode: inode.mode, uid: inode.uid, gid: inode.gid, drops_capabilities: false };
        if op.uid == Some(u32::MAX) || op.gid == Some(u32::MAX) {
            return Err(DfsError::new(ErrorKind::InvalidArgument, "-1 is not an id"));
        }
        let sets_times = op.atime_ns.is_some() || op.mtime_ns.is_some();
        let sets_owner = op.uid.is_some() || op.gid.is_some();
        if op.kill_privileges || op.kill_capabilities {
            plan_write(asked, inode, op, &mut plan)?;
        } else if sets_owner || !asked.is_old && op.mode.is_none() && !sets_times {
            plan_owner(asked, inode, op, &mut plan)?;
        }
        plan_mode(asked, inode, op, &mut plan)?;
        if makes_set_id_program(inode.kind(), inode.mode, plan.mode) {
            self.check_may_be_program(asked, id)?;
        }
        if sets_times {
            check_times(who, inode, op.explicit_times)?;
        }
        Ok(plan)
    }

    pub(super) fn apply_set_attr(&mut self, context: &mut Context<'_>, op: &SetAttrOp) -> Result<Outcome> {
        let plan = self.plan_set_attr(context.asked(), op)?;
        let id = InodeId(op.inode);
        let inode = self.inode_mut(id)?;
        inode.mode = plan.mode;
        inode.uid = plan.uid;
        inode.gid = plan.gid;
        if plan.drops_capabilities {
            inode.drop_capabilities();
        }
        if let Some(atime_ns) = op.atime_ns {
            inode.atime_ns = atime_ns;
        }
        if let Some(mtime_ns) = op.mtime_ns {
            inode.mtime_ns = mtime_ns;
        }
        inode.ctime_ns = context.now_ns;
        Ok(Outcome::Inode(id))
    }

    pub(super) fn check_set_xattr(&self, asked: Asked<'_>, op: &SetXAttrOp) -> Result<()> {
        let id = InodeId(op.inode);
        let inode = self.inode(id)?;
        if op.name.len() > XATTR_NAME_MAX || op.name.contains(&0) {
            return Err(DfsError::new(ErrorKind::InvalidArgument, "an attribute's name has at most 255 bytes, no NUL"));
        }
        check_xattr_access(asked.who, inode, &op.name, WRITE)?;
        if op.name[..] == *CAPABILITIES && !inode.has_capabilities() {
            self.check_may_be_program(asked, id)?;
        }
        let old = inode.xattrs.as_ref().and_then(|xattrs| xattrs.get(&op.name[..]));
        match (known::<XAttrSetFlag>(op.flag, "flag of an extended attribute")?, old) {
            (XAttrSetFlag::XattrCreate, Some(_)) => {
                return Err(DfsError::new(ErrorKind::AlreadyExists, "the extended attribute exists"));
            }
            (XAttrSetFlag::XattrReplace, None) => {
                return Err(DfsError::new(ErrorKind::NoAttribute, "no such extended attribute"));
            }
            _ => {}
        }
        if op.value.len() > XATTR_VALUE_MAX {
            return Err(DfsError::new(
                ErrorKind::AttributeTooLarge,
                format!("the value has {} bytes, at most {XATTR_VALUE_MAX} are allowed", op.value.len()),
            ));
        }
        let others: usize = inode.xattrs.iter().flat_map(|xattrs| xattrs.iter()).map(|(n, v)| n.len() + v.len()).sum();
        let replaced = old.map_or(0, |value| value.len() + op.name.len());
        if others - replaced + op.name.len() + op.value.len() > XATTRS_TOTAL_MAX {
            return Err(DfsError::new(ErrorKind::NoSpace, "the extended attributes of this inode are full"));
        }
        Ok(())
    }

    pub(super) fn apply_set_xattr(&mut self, context: &mut Context<'_>, op: &SetXAttrOp) -> Result<Outcome> {
        self.check_set_xattr(context.asked(), op)?;
        let inode = self.inode_mut(InodeId(op.inode))?;
        inode.ctime_ns = context.now_ns;
        inode.xattrs.get_or_insert_default().insert(op.name.to_vec().into(), op.value.to_vec().into());
        Ok(Outcome::Done)
    }

    pub(super) fn check_remove_xattr(&self, who: &Identity, op: &RemoveXAttrOp) -> Result<()> {
        let inode = self.inode(InodeId(op.inode))?;
        check_xattr_access(who, inode, &op.name, WRITE)?;
        match inode.xattrs.as_ref().and_then(|xattrs| xattrs.get(&op.name[..])) {
            Some(_) => Ok(()),
            None => Err(DfsError::new(ErrorKind::NoAttribute, "no such extended attribute")),
        }
    }

    pub(super) fn apply_remove_xattr(&mut self, context: &mut Context<'_>, op: &RemoveXAttrOp) -> Result<Outcome> {
        self.check_remove_xattr(&context.who, op)?;
        let inode = self.inode_mut(InodeId(op.inode))?;
        inode.ctime_ns = context.now_ns;
        inode.remove_xattr(&op.name);
        Ok(Outcome::Done)
    }
}

/// What a write takes away, by whoever may write: its open has shown that.
fn plan_write(asked: Asked<'_>, inode: &Inode, op: &SetAttrOp, plan: &mut SetAttrPlan) -> Result<()> {
    if !asked.who.owns(inode) {
        asked.who.check(inode, WRITE)?;
    }
    if inode.kind() == FileKind::File {
        plan.drops_capabilities = !asked.is_old;
        if op.kill_privileges {
            plan.mode = without_set_id(inode.mode, asked.is_member(inode));
        }
    }
    Ok(())
}

/// chown: root may all; an owner may give a file to a group of his; to leave both as they are is everybody's, where it costs the
/// file nothing. What a program is allowed to do goes, even when the owner stays.
fn plan_owner(asked: Asked<'_>, inode: &Inode, op: &SetAttrOp, plan: &mut SetAttrPlan) -> Result<()> {
    let who = asked.who;
    let (uid, gid) = (op.uid.unwrap_or(inode.uid), op.gid.unwrap_or(inode.gid));
    let owner_may = who.uid == inode.uid && uid == inode.uid && (gid == inode.gid || who.is_in_group(gid));
    let is_named = op.uid.is_some() || op.gid.is_some();
    if is_named && !who.is_root() && !owner_may {
        return Err(DfsError::new(ErrorKind::NotPermitted, "only root gives files away"));
    }
    (plan.uid, plan.gid) = (uid, gid);
    let kind = inode.kind();
    let is_spared = if asked.is_old { kind != FileKind::File } else { kind == FileKind::Directory };
    if is_spared {
        return Ok(());
    }
    plan.drops_capabilities = !asked.is_old;
    plan.mode = without_set_id(inode.mode, who.is_root() || asked.is_member(inode));
    if plan.mode != inode.mode && !who.owns(inode) {
        return Err(DfsError::new(ErrorKind::NotPermitted, "only the owner takes set-id bits away"));
    }
    Ok(())
}

/// chmod: the owner's; the set-group-id bit is dropped for what is of a group that is not the caller's.
fn plan_mode(asked: Asked<'_>, inode: &Inode, op: &SetAttrOp, plan: &mut SetAttrPlan) -> Result<()> {
    let Some(mode) = op.mode else { return Ok(()) };
    let who = asked.who;
    if !who.owns(inode) {
        return Err(DfsError::new(ErrorKind::NotPermitted, "only the owner changes the mode"));
    }
    let mut permissions = mode & PERMISSION_MASK;
    let is_spared = asked.is_old && inode.kind() == FileKind::Directory;
    if !who.is_root() && !is_spared && !who.is_in_group(plan.gid) {
        permissions &= !SETGID;
    }
    plan.mode = inode.mode & !PERMISSION_MASK | permissions;
    Ok(())
}

/// utimens: the owner sets any time; who may write may set both to "now", as what he does to an open file sets one.
fn check_times(who: &Identity, inode: &Inode, explicit: bool) -> Result<()> {
    if who.owns(inode) {
        Ok(())
    } else if explicit && !who.is_authorised {
        Err(DfsError::new(ErrorKind::NotPermitted, "only the owner sets times"))
    } else {
        who.check(inode, WRITE)
    }
}
