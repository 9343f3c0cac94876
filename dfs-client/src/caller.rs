//! Who asks: the identity that travels with each metadata call.

use std::sync::Arc;

use dfs_proto::v1;

/// A numeric identity with its supplementary groups. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Arc<[u32]>,
    /// See [`authorised`](Self::authorised).
    pub is_authorised: bool,
}

impl Caller {
    /// The superuser, without supplementary groups.
    pub fn root() -> Self {
        Self { uid: 0, gid: 0, groups: Arc::from([]), is_authorised: false }
    }

    /// The identity of this process.
    pub fn current() -> Self {
        // A process whose groups cannot be read is served with none of them: it loses rights, it never gains any.
        let groups = rustix::process::getgroups().unwrap_or_default();
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: groups.into_iter().map(rustix::process::Gid::as_raw).collect(),
            is_authorised: false,
        }
    }

    /// The same, whose right to write was shown before: when the file was opened, or to the kernel. What a change does beside what it
    /// is for depends on who makes it all the same.
    #[must_use]
    pub fn authorised(&self) -> Self {
        Self { is_authorised: true, ..self.clone() }
    }
}

impl From<&Caller> for v1::Caller {
    fn from(caller: &Caller) -> Self {
        Self { uid: caller.uid, gid: caller.gid, groups: caller.groups.to_vec(), is_authorised: caller.is_authorised }
    }
}
