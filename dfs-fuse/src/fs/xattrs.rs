//! Extended attributes: `user.`, `trusted.` and `security.`; the kernel checks who may touch which, and so does the NameNode.

use dfs_client::{Caller, Privileges};
use dfs_common::error::ErrorKind;
use dfs_common::ids::InodeId;
use fuser::Errno;

use super::FileSystem;
use crate::errno::{FsError, FsResult};
use crate::flags::xattr_flag;

/// Longest name, bytes (XATTR_NAME_MAX).
const NAME_MAX: usize = 255;

/// Name spaces that the NameNode keeps. Anything else, ACLs above all, is refused here: `ls -l` asks for the ACL of every
/// file until it hears EOPNOTSUPP once.
const NAME_SPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// Not kept: SELinux labels a FUSE mount as a whole, and `ls -l` would ask for every file's label if one could have its own.
const SELINUX_LABEL: &[u8] = b"security.selinux";

/// What gives a program capabilities.
const CAPABILITIES: &[u8] = b"security.capability";

fn check_name(name: &[u8]) -> FsResult<()> {
    if name.len() > NAME_MAX {
        return Err(Errno::ERANGE.into());
    }
    let Some(space) = NAME_SPACES.iter().find(|space| name.starts_with(space)) else {
        return Err(Errno::EOPNOTSUPP.into());
    };
    if name == SELINUX_LABEL {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if name.len() == space.len() {
        return Err(Errno::EINVAL.into());
    }
    Ok(())
}

/// All names, each ended by a NUL, as listxattr gives them.
fn joined(names: &[Vec<u8>]) -> Vec<u8> {
    names.iter().flat_map(|name| name.iter().copied().chain([0])).collect()
}

impl FileSystem {
    /// The value of an attribute.
    pub(crate) async fn getxattr(&self, caller: &Caller, inode: InodeId, name: &[u8]) -> FsResult<Vec<u8>> {
        check_name(name)?;
        Ok(self.client.get_xattr(caller, inode, name).await?)
    }

    /// The names of all attributes, each ended by a NUL.
    pub(crate) async fn listxattr(&self, caller: &Caller, inode: InodeId) -> FsResult<Vec<u8>> {
        Ok(joined(&self.client.list_xattrs(caller, inode).await?))
    }

    /// Sets an attribute; `flags` as setxattr(2) has them.
    pub(crate) async fn setxattr(
        &self,
        caller: &Caller,
        inode: InodeId,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> FsResult<()> {
        check_name(name)?;
        let flag = xattr_flag(flags)?;
        let _changing = self.changing([inode]);
        let set = || self.client.set_xattr(caller, inode, name, value, flag);
        if name == CAPABILITIES {
            let added = Privileges { capabilities: true, ..Privileges::default() };
            let add = || async { Ok(self.adding_privileges(inode, added, set()).await?) };
            self.in_turn(inode, add).await
        } else {
            set().await.map_err(FsError::from)
        }
    }

    /// Removes an attribute.
    pub(crate) async fn removexattr(&self, caller: &Caller, inode: InodeId, name: &[u8]) -> FsResult<()> {
        check_name(name)?;
        // When a file is cut or changes hands the kernel sends this for whoever does that. A program's own call it passes on only if
        // the program may set capabilities.
        let who = if name == CAPABILITIES { Caller::root() } else { caller.clone() };
        let _changing = self.changing([inode]);
        match self.client.remove_xattr(&who, inode, name).await {
            // Another mount was first: what the kernel does it for, a cut or a change of hands, must not fail.
            Err(error) if name == CAPABILITIES && error.kind() == ErrorKind::NoAttribute => Ok(()),
            outcome => Ok(outcome?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_name_takes_the_name_spaces_we_keep() {
        for good in [&b"user.a"[..], b"trusted.x", b"security.capability"] {
            assert!(check_name(good).is_ok());
        }
        let errno = |name: &[u8]| check_name(name).unwrap_err().errno();
        assert_eq!(errno(b"system.posix_acl_access"), Errno::EOPNOTSUPP);
        assert_eq!(errno(b"security.selinux"), Errno::EOPNOTSUPP);
        assert_eq!(errno(b"user."), Errno::EINVAL);
        assert_eq!(errno(b"plain"), Errno::EOPNOTSUPP);
        assert_eq!(errno(&[b"user.".as_slice(), &[b'x'; 251]].concat()), Errno::ERANGE);
    }

    #[test]
    fn joined_ends_each_name_with_a_nul() {
        assert_eq!(joined(&[b"user.a".to_vec(), b"user.b".to_vec()]), b"user.a\0user.b\0");
        assert!(joined(&[]).is_empty());
    }
}
