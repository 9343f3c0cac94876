//! What metadata calls take, in the domain's types.

use dfs_common::ids::InodeId;
use dfs_proto::v1;

/// How to make a file.
#[derive(Clone, Debug)]
pub struct CreateOptions<'a> {
    /// Directory of the new file.
    pub parent: InodeId,
    /// Its name there.
    pub name: &'a [u8],
    /// Permission bits.
    pub mode: u32,
    /// Replicas; 0 is the server's default.
    pub replication: u32,
    /// Bytes per block; 0 is the server's default.
    pub block_size: u64,
    /// Take the lease, for the writer.
    pub open_for_write: bool,
    /// Fail when the name is taken, rather than return what is there.
    pub exclusive: bool,
}

/// What happens to a name that is already there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RenameFlag {
    /// It is replaced.
    #[default]
    Replace,
    /// The rename fails.
    NoReplace,
    /// Both names change places.
    Exchange,
}

impl From<RenameFlag> for v1::RenameFlag {
    fn from(flag: RenameFlag) -> Self {
        match flag {
            RenameFlag::Replace => Self::RenameReplace,
            RenameFlag::NoReplace => Self::RenameNoreplace,
            RenameFlag::Exchange => Self::RenameExchange,
        }
    }
}

/// Whether an extended attribute must exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XAttrSetFlag {
    /// Either way.
    #[default]
    Any,
    /// It must not.
    Create,
    /// It must.
    Replace,
}

impl From<XAttrSetFlag> for v1::XAttrSetFlag {
    fn from(flag: XAttrSetFlag) -> Self {
        match flag {
            XAttrSetFlag::Any => Self::XattrAny,
            XAttrSetFlag::Create => Self::XattrCreate,
            XAttrSetFlag::Replace => Self::XattrReplace,
        }
    }
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSet {
    /// The NameNode's clock.
    Now,
    /// Nanoseconds since the epoch.
    At(i64),
}

/// Attributes to change; absent ones stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of the last read.
    pub atime: Option<TimeSet>,
    /// Time of the last change of content.
    pub mtime: Option<TimeSet>,
    /// Take away what a write by a process without CAP_FSETID takes: set-id bits and file capabilities.
    pub kill_privileges: bool,
    /// Take away what any write takes: file capabilities.
    pub kill_capabilities: bool,
}

/// What to do about safe mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SafeModeAction {
    /// Only ask.
    #[default]
    Get,
    /// Make the namespace read-only.
    Enter,
    /// Let it go on.
    Leave,
}

impl From<SafeModeAction> for v1::SafeModeAction {
    fn from(action: SafeModeAction) -> Self {
        match action {
            SafeModeAction::Get => Self::SafeModeGet,
            SafeModeAction::Enter => Self::SafeModeEnter,
            SafeModeAction::Leave => Self::SafeModeLeave,
        }
    }
}
