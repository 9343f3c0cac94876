//! What the kernel's flag words mean to us: open flags, rename flags, xattr flags, umask, and the capabilities asked for.

use dfs_client::{RenameFlag, XAttrSetFlag};
use dfs_common::attr::PERMISSION_MASK;
use fuser::{Errno, InitFlags, OpenAccMode, OpenFlags, RenameFlags};

use crate::errno::FsResult;

/// What an open asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) writes: bool,
    pub(crate) truncates: bool,
    pub(crate) exclusive: bool,
}

impl Access {
    pub(crate) fn new(flags: OpenFlags) -> Self {
        let writes = flags.acc_mode() != OpenAccMode::O_RDONLY;
        Self { writes, truncates: flags.0 & libc::O_TRUNC != 0, exclusive: flags.0 & libc::O_EXCL != 0 }
    }
}

/// Whether a write with these flags goes to the end of the file. To be asked of every request: fcntl changes it.
pub(crate) fn appends(flags: OpenFlags) -> bool {
    flags.0 & libc::O_APPEND != 0
}

/// Whether a write with these flags must be on disk before it is answered (O_SYNC contains O_DSYNC's bit). The kernel does
/// not do that for handles with direct I/O.
pub(crate) fn syncs(flags: OpenFlags) -> bool {
    flags.0 & libc::O_DSYNC != 0
}

/// What a rename does to a name that is taken.
///
/// # Errors
/// `EINVAL` for flags without a meaning here (RENAME_WHITEOUT) and for contradictions.
pub(crate) fn rename_flag(flags: RenameFlags) -> FsResult<RenameFlag> {
    if flags.is_empty() {
        Ok(RenameFlag::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameFlag::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameFlag::Exchange)
    } else {
        Err(Errno::EINVAL.into())
    }
}

/// Whether an extended attribute must exist.
///
/// # Errors
/// `EINVAL` for unknown flags and for both at once.
pub(crate) fn xattr_flag(flags: i32) -> FsResult<XAttrSetFlag> {
    match flags {
        0 => Ok(XAttrSetFlag::Any),
        libc::XATTR_CREATE => Ok(XAttrSetFlag::Create),
        libc::XATTR_REPLACE => Ok(XAttrSetFlag::Replace),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// Permission bits of a new inode. We ask for FUSE_DONT_MASK, so the umask is ours to apply.
pub(crate) fn new_permissions(mode: u32, umask: u32) -> u32 {
    mode & PERMISSION_MASK & !(umask & 0o777)
}

/// Capabilities that the code honours; nothing else is asked for. Write-back caching is left out: it delivers writes in any
/// order and long after the call. So is READDIRPLUS_AUTO: `ls -l` reads all names before it asks for the first attribute, and
/// the kernel then takes it for a plain listing, which costs a lookup per name. And ASYNC_DIO: with it the parts of one
/// asynchronous write (io_submit) travel side by side, and nothing in them tells which part of an append comes first.
/// Without it the kernel sends one part after another, in order, under the inode's lock, and stops at the first that
/// fails, whoever calls and however. KILLPRIV is honoured by the NameNode (chown, truncate) and at write. Its second version would
/// say in setattr and open whose set-id bits go, which fuser does not pass on.
pub(crate) fn wanted_capabilities() -> InitFlags {
    InitFlags::FUSE_ASYNC_READ
        | InitFlags::FUSE_BIG_WRITES
        | InitFlags::FUSE_MAX_PAGES
        | InitFlags::FUSE_ATOMIC_O_TRUNC
        | InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_AUTO_INVAL_DATA
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_EXPORT_SUPPORT
        | InitFlags::FUSE_DONT_MASK
        | InitFlags::FUSE_HANDLE_KILLPRIV
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_follows_the_open_flags() {
        let access = Access::new(OpenFlags(libc::O_RDWR | libc::O_TRUNC));
        assert_eq!(access, Access { writes: true, truncates: true, exclusive: false });
        let access = Access::new(OpenFlags(libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL));
        assert_eq!(access, Access { writes: true, truncates: false, exclusive: true });
        assert!(!Access::new(OpenFlags(libc::O_RDONLY | libc::O_APPEND)).writes);
    }

    #[test]
    fn syncs_takes_o_sync_and_o_dsync() {
        assert!(syncs(OpenFlags(libc::O_WRONLY | libc::O_SYNC)));
        assert!(syncs(OpenFlags(libc::O_WRONLY | libc::O_DSYNC)));
        assert!(!syncs(OpenFlags(libc::O_WRONLY | libc::O_APPEND)));
    }

    #[test]
    fn rename_flag_refuses_what_it_does_not_know() {
        assert_eq!(rename_flag(RenameFlags::empty()).unwrap(), RenameFlag::Replace);
        assert_eq!(rename_flag(RenameFlags::RENAME_NOREPLACE).unwrap(), RenameFlag::NoReplace);
        assert_eq!(rename_flag(RenameFlags::RENAME_EXCHANGE).unwrap(), RenameFlag::Exchange);
        for bad in [
            RenameFlags::RENAME_WHITEOUT,
            RenameFlags::RENAME_EXCHANGE | RenameFlags::RENAME_NOREPLACE,
            RenameFlags::from_bits_retain(0x80),
        ] {
            assert_eq!(rename_flag(bad).unwrap_err().errno(), Errno::EINVAL, "{bad:?}");
        }
    }

    #[test]
    fn xattr_flag_refuses_contradictions() {
        assert_eq!(xattr_flag(0).unwrap(), XAttrSetFlag::Any);
        assert_eq!(xattr_flag(libc::XATTR_CREATE).unwrap(), XAttrSetFlag::Create);
        assert!(xattr_flag(libc::XATTR_CREATE | libc::XATTR_REPLACE).is_err());
    }

    #[test]
    fn new_permissions_keeps_set_id_and_sticky_bits_from_the_umask() {
        assert_eq!(new_permissions(0o100_666, 0o022), 0o644);
        assert_eq!(new_permissions(0o041_777, 0o077), 0o1700);
        assert_eq!(new_permissions(0o106_755, 0o7777), 0o6000);
    }

    #[test]
    fn wanted_capabilities_leave_out_what_is_not_honoured() {
        let wanted = wanted_capabilities();
        for refused in [
            InitFlags::FUSE_WRITEBACK_CACHE,
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_SETXATTR_EXT,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_ALLOW_IDMAP,
            InitFlags::FUSE_REQUEST_TIMEOUT,
            InitFlags::FUSE_POSIX_LOCKS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_FLOCK_LOCKS,
        ] {
            assert!(!wanted.intersects(refused), "{refused:?}");
        }
    }
}
