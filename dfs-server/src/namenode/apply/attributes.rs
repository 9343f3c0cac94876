//! Ops on attributes: mode, owner, times, extended attributes.

use dfs_common::attr::{FileKind, PERMISSION_MASK};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::InodeId;
use dfs_proto::v1::{RemoveXAttrOp, SetAttrOp, SetXAttrOp, XAttrSetFlag};

use super::context::{Context, known};
use super::files::without_privileges;
use crate::namenode::namespace::Namespace;
use crate::namenode::namespace::inode::Inode;
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
}

impl Namespace {
    pub(super) fn plan_set_attr(&self, who: &Identity, op: &SetAttrOp) -> Result<SetAttrPlan> {
        let inode = self.inode(InodeId(op.inode))?;
        let mut plan = SetAttrPlan { mode: inode.mode, uid: inode.uid, gid: inode.gid };
        let is_empty = op.mode.is_none() && op.uid.is_none() && op.gid.is_none();
        if is_empty && op.atime_ns.is_none() && op.mtime_ns.is_none() && !who.owns(inode) {
            who.check(inode, WRITE)?;
        }
        if op.uid == Some(u32::MAX) || op.gid == Some(u32::MAX) {
            return Err(DfsError::new(ErrorKind::InvalidArgument, "-1 is not an id"));
        }
        plan_owner(who, inode, op, &mut plan)?;
        plan_mode(who, inode, op, &mut plan)?;
        if op.atime_ns.is_some() || op.mtime_ns.is_some() {
            check_times(who, inode, op.explicit_times)?;
        }
        Ok(plan)
    }

    pub(super) fn apply_set_attr(&mut self, context: &mut Context<'_>, op: &SetAttrOp) -> Result<Outcome> {
        let plan = self.plan_set_attr(&context.who, op)?;
        let id = InodeId(op.inode);
        let inode = self.inode_mut(id)?;
        inode.mode = plan.mode;
        inode.uid = plan.uid;
        inode.gid = plan.gid;
        if let Some(atime_ns) = op.atime_ns {
            inode.atime_ns = atime_ns;
        }
        if let Some(mtime_ns) = op.mtime_ns {
            inode.mtime_ns = mtime_ns;
        }
        inode.ctime_ns = context.now_ns;
        Ok(Outcome::Inode(id))
    }

    pub(super) fn check_set_xattr(&self, who: &Identity, op: &SetXAttrOp) -> Result<()> {
        let inode = self.inode(InodeId(op.inode))?;
        if op.name.len() > XATTR_NAME_MAX || op.name.contains(&0) {
            return Err(DfsError::new(ErrorKind::InvalidArgument, "an attribute's name has at most 255 bytes, no NUL"));
        }
        check_xattr_access(who, inode, &op.name, WRITE)?;
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
        self.check_set_xattr(&context.who, op)?;
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
        if let Some(xattrs) = &mut inode.xattrs {
            xattrs.remove(&op.name[..]);
            if xattrs.is_empty() {
                inode.xattrs = None;
            }
        }
        Ok(Outcome::Done)
    }
}

/// chown: root may all; an owner may give a file to a group of his. Set-id bits of programs go, even when nothing changes.
fn plan_owner(who: &Identity, inode: &Inode, op: &SetAttrOp, plan: &mut SetAttrPlan) -> Result<()> {
    if op.uid.is_some() || op.gid.is_some() {
        let uid = op.uid.unwrap_or(inode.uid);
        let gid = op.gid.unwrap_or(inode.gid);
        let owner_may = who.uid == inode.uid && uid == inode.uid && (gid == inode.gid || who.is_in_group(gid));
        if !who.is_root() && !owner_may {
            return Err(DfsError::new(ErrorKind::NotPermitted, "only root gives files away"));
        }
        plan.uid = uid;
        plan.gid = gid;
        if inode.kind() == FileKind::File {
            plan.mode = without_privileges(plan.mode);
        }
    } else if op.kill_privileges && inode.kind() == FileKind::File {
        plan.mode = without_privileges(plan.mode);
    }
    Ok(())
}

/// chmod: the owner's; the set-group-id bit is dropped for a file of a group that is not the caller's.
fn plan_mode(who: &Identity, inode: &Inode, op: &SetAttrOp, plan: &mut SetAttrPlan) -> Result<()> {
    let Some(mode) = op.mode else { return Ok(()) };
    if !who.owns(inode) {
        return Err(DfsError::new(ErrorKind::NotPermitted, "only the owner changes the mode"));
    }
    let mut permissions = mode & PERMISSION_MASK;
    if !who.is_root() && inode.kind() != FileKind::Directory && !who.is_in_group(plan.gid) {
        permissions &= !SETGID;
    }
    plan.mode = inode.mode & !PERMISSION_MASK | permissions;
    Ok(())
}

/// utimens: the owner sets any time; who may write may set "now".
fn check_times(who: &Identity, inode: &Inode, explicit: bool) -> Result<()> {
    if who.owns(inode) {
        Ok(())
    } else if explicit {
        Err(DfsError::new(ErrorKind::NotPermitted, "only the owner sets times"))
    } else {
        who.check(inode, WRITE)
    }
}
