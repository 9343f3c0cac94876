//! What every op's code needs besides the op: who asks, when, and whose call it is.

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{CallId, ClientId, Incarnation, InodeId};
use dfs_proto::v1::RetryId;

use crate::namenode::blocks::BlockEvent;
use crate::namenode::namespace::Lease;
use crate::namenode::namespace::inode::{Content, Inode};
use crate::namenode::namespace::permission::Identity;

/// Who asks, when, and where block events go: what every op's code needs besides its fields.
pub(super) struct Context<'a> {
    pub who: Identity,
    pub now_ns: i64,
    pub key: Option<CallKey>,
    /// Entries, leases and holds that the op may still take away; see [`Context::pay`].
    pub steps_left: u32,
    /// Logged before there were steps. It is replayed by the rules of then: a removal checks the tree itself, no directory is
    /// too deep, every refusal is remembered, files keep their capabilities.
    pub is_old: bool,
    pub events: &'a mut Vec<BlockEvent>,
}

impl Context<'_> {
    /// Pays for an entry or claim taken away: a step, or as many as events were told since there were `told`. Others wait
    /// for the events, too.
    pub(super) fn pay(&mut self, told: usize) {
        let steps = (self.events.len() - told).max(1);
        self.steps_left = self.steps_left.saturating_sub(u32::try_from(steps).unwrap_or(u32::MAX));
    }

    /// Whose call it is, for ops that need leases or holds.
    pub(super) fn key(&self) -> Result<CallKey> {
        self.key.ok_or_else(|| DfsError::new(ErrorKind::InvalidArgument, "this call needs a session"))
    }

    /// A lease taken by this call.
    pub(super) fn lease(&self) -> Result<Lease> {
        self.key().map(|key| Lease::taken_by(key.client, key.incarnation, key.call))
    }
}

/// A client's call, checked for form.
#[derive(Clone, Copy, Debug)]
pub struct CallKey {
    /// Who.
    pub client: ClientId,
    /// Which life.
    pub incarnation: Incarnation,
    /// Which call.
    pub call: CallId,
    /// Calls below are answered.
    pub lowest_pending: CallId,
}

impl TryFrom<&RetryId> for CallKey {
    type Error = DfsError;

    fn try_from(retry: &RetryId) -> Result<Self> {
        let client = client_id(&retry.client_id)?;
        if retry.call_id == 0 || retry.lowest_pending_call_id > retry.call_id {
            return Err(DfsError::new(ErrorKind::InvalidArgument, "call ids start at 1 and are not below the lowest"));
        }
        Ok(Self {
            client,
            incarnation: Incarnation(retry.incarnation),
            call: CallId(retry.call_id),
            lowest_pending: CallId(retry.lowest_pending_call_id),
        })
    }
}

/// A choice that this version knows. One it does not know must not be taken for the default: it may promise something else.
pub(super) fn known<T: TryFrom<i32>>(value: i32, what: &str) -> Result<T> {
    T::try_from(value).map_err(|_| DfsError::new(ErrorKind::InvalidArgument, format!("unknown {what}: {value}")))
}

/// A client id as it comes in messages.
///
/// # Errors
/// `InvalidArgument`.
pub fn client_id(bytes: &[u8]) -> Result<ClientId> {
    ClientId::from_bytes(bytes).ok_or_else(|| DfsError::new(ErrorKind::InvalidArgument, "a client id has 16 bytes"))
}

/// A file operation on something that is not a regular file.
pub(super) fn not_a_file(id: InodeId, inode: &Inode) -> DfsError {
    match inode.content {
        Content::Directory(_) => DfsError::new(ErrorKind::IsADirectory, format!("inode {id} is a directory")),
        _ => DfsError::new(ErrorKind::InvalidArgument, format!("inode {id} is not a regular file")),
    }
}
