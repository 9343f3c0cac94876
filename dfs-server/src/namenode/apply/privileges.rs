//! What a program file loses when its content or its owner changes, and who may make one: Linux's rules
//! (`setattr_should_drop_suidgid`, `setattr_prepare`, `cap_inode_killpriv`).
//!
//! | change | set-user-id, set-group-id | file capabilities |
//! |---|---|---|
//! | write, cut | go, but not for a caller who may keep them (CAP_FSETID) | go, whoever calls |
//! | change of owner or group, also to what they are | go, whoever calls | go, whoever calls |
//! | change of mode | set-group-id goes if the caller is not in the group | stay |
//!
//! Set-group-id without the right of the group to execute makes no program: it stays when the caller is in the group.
//!
//! A write is the mount's affair, which takes them away by a `SetAttr` before it accepts the bytes. It knows of them since
//! it has the lease, so nobody else makes a program of the file meanwhile: whoever has it open for writing
//! could change what others execute with the owner's rights.

use dfs_common::attr::FileKind;
use dfs_common::error::Result;
use dfs_common::ids::InodeId;

use super::context::Context;
use crate::namenode::namespace::Namespace;
use crate::namenode::namespace::claims::Life;
use crate::namenode::namespace::inode::Inode;
use crate::namenode::namespace::permission::{Identity, SETGID, SETUID};

/// The group may execute.
const GROUP_EXECUTE: u32 = 0o010;

/// Who asks for a change, and by which rules it is looked at.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) who: &'a Identity,
    /// The session of the call, if it has one.
    pub(super) life: Option<Life>,
    /// See [`Context::is_old`].
    pub(super) is_old: bool,
}

impl Context<'_> {
    pub(super) fn asked(&self) -> Asked<'_> {
        let life = self.key.map(|key| (key.client, key.incarnation));
        Asked { who: &self.who, life, is_old: self.is_old }
    }
}

impl Asked<'_> {
    /// Whether set-group-id is left to a file that is no program of the group.
    pub(super) fn is_member(&self, inode: &Inode) -> bool {
        self.is_old || self.who.is_in_group(inode.gid)
    }
}

/// `mode` without the set-id bits, of which set-group-id may stay as the module says.
pub(super) fn without_set_id(mode: u32, is_member: bool) -> u32 {
    let mode = mode & !SETUID;
    if mode & GROUP_EXECUTE == 0 && is_member { mode } else { mode & !SETGID }
}

/// Whether who executes it gets the rights of its owner or group.
fn is_set_id_program(mode: u32) -> bool {
    mode & SETUID != 0 || mode & (SETGID | GROUP_EXECUTE) == SETGID | GROUP_EXECUTE
}

/// Whether a file of this mode becomes such a program by that one.
pub(super) fn makes_set_id_program(kind: FileKind, before: u32, after: u32) -> bool {
    kind == FileKind::File && !is_set_id_program(before) && is_set_id_program(after)
}

/// The content of `inode` is changed by `asked`.
pub(super) fn drop_privileges(inode: &mut Inode, asked: Asked<'_>) {
    if !asked.is_old {
        inode.drop_capabilities();
    }
    if !asked.who.is_root() {
        inode.mode = without_set_id(inode.mode, asked.is_member(inode));
    }
}

impl Namespace {
    /// Refuses to make a program with privileges of a file that is being written, unless by the writer's own session, which
    /// takes them away again when it writes.
    pub(super) fn check_may_be_program(&self, asked: Asked<'_>, id: InodeId) -> Result<()> {
        let is_own = |life| self.leases.get(id).is_some_and(|lease| lease.is_of(life) && !lease.needs_recovery);
        if asked.is_old || asked.life.is_some_and(is_own) { Ok(()) } else { self.check_not_leased(id) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_set_id_leaves_set_group_id_to_members_where_it_makes_no_program() {
        for (mode, is_member, left) in [
            (0o4755, true, 0o755),
            (0o6755, true, 0o755),
            (0o2755, true, 0o755),
            (0o2745, true, 0o2745),
            (0o2745, false, 0o745),
            (0o6705, true, 0o2705),
            (0o1644, false, 0o1644),
        ] {
            assert_eq!(without_set_id(mode, is_member), left, "{mode:o} {is_member}");
        }
    }

    #[test]
    fn makes_set_id_program_is_about_files_that_get_what_they_did_not_have() {
        let makes = |before, after| makes_set_id_program(FileKind::File, before, after);
        assert!(makes(0o755, 0o4755) && makes(0o755, 0o2755) && makes(0o2745, 0o2755) && makes(0o600, 0o4600));
        assert!(!makes(0o755, 0o2745) && !makes(0o4755, 0o6755) && !makes(0o4755, 0o755));
        assert!(!makes_set_id_program(FileKind::Directory, 0o755, 0o2755));
    }
}
