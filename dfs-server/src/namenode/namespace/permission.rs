//! Who may do what: POSIX mode bits over numeric ids. Root may everything (and executes what somebody may execute).

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::v1;

use super::inode::Inode;

/// Read bit of an access request.
pub const READ: u32 = 4;
/// Write bit.
pub const WRITE: u32 = 2;
/// Execute or search bit.
pub const EXECUTE: u32 = 1;

/// Set-user-id bit.
pub const SETUID: u32 = 0o4000;
/// Set-group-id bit.
pub const SETGID: u32 = 0o2000;
/// Sticky bit.
pub const STICKY: u32 = 0o1000;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Its right to read or write was shown before: when the file was opened, or to the kernel of its host (design D10).
    pub is_authorised: bool,
}

impl Identity {
    /// The NameNode itself, and root.
    pub fn root() -> Self {
        Self { uid: 0, gid: 0, groups: Vec::new(), is_authorised: false }
    }

    /// The caller in a request; without one, nobody.
    pub fn of(caller: Option<&v1::Caller>) -> Self {
        match caller {
            Some(caller) => Self {
                uid: caller.uid,
                gid: caller.gid,
                groups: caller.groups.clone(),
                is_authorised: caller.is_authorised,
            },
            None => Self { uid: NOBODY, gid: NOBODY, groups: Vec::new(), is_authorised: false },
        }
    }

    /// Whether it stands above permissions.
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether it belongs to `gid`.
    pub fn is_in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// Whether it owns `inode` or is root.
    pub fn owns(&self, inode: &Inode) -> bool {
        self.is_root() || self.uid == inode.uid
    }

    /// Refuses when a bit of `want` is not granted.
    ///
    /// # Errors
    /// `PermissionDenied`.
    pub fn check(&self, inode: &Inode, want: u32) -> Result<()> {
        if self.is_authorised || self.may(inode, want) {
            Ok(())
        } else {
            Err(DfsError::new(
                ErrorKind::PermissionDenied,
                format!("uid {} has no {} permission (mode {:04o})", self.uid, words(want), inode.mode & 0o7777),
            ))
        }
    }

    fn may(&self, inode: &Inode, want: u32) -> bool {
        if self.is_root() {
            let executable = inode.directory().is_some() || inode.mode & 0o111 != 0;
            return want & EXECUTE == 0 || executable;
        }
        let class = if self.uid == inode.uid {
            inode.mode >> 6
        } else if self.is_in_group(inode.gid) {
            inode.mode >> 3
        } else {
            inode.mode
        };
        class & want == want
    }

    /// Refuses the removal of `victim` from a sticky `directory` to all but the owners of either.
    ///
    /// # Errors
    /// `NotPermitted`.
    pub fn check_sticky(&self, directory: &Inode, victim: &Inode) -> Result<()> {
        if directory.mode & STICKY == 0 || self.owns(victim) || self.owns(directory) {
            Ok(())
        } else {
            Err(DfsError::new(
                ErrorKind::NotPermitted,
                "the directory is sticky and the entry belongs to somebody else",
            ))
        }
    }
}

/// The id of callers without a name.
const NOBODY: u32 = 65_534;

fn words(want: u32) -> &'static str {
    match want {
        READ => "read",
        WRITE => "write",
        EXECUTE => "search",
        _ => "read, write or search",
    }
}
