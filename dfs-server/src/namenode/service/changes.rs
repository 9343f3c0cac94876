//! Changes of the namespace, and what their answers tell beside the outcome: the directories that have changed with them, and
//! which names the caller may rely on from now on.

use dfs_common::attr::FileKind;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{InodeId, TxId};
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{AttrResponse, Delegation, EmptyResponse, FileAttr, RemoveKind, RemoveOp, RequestHeader};

use crate::namenode::apply::CallKey;
use crate::namenode::delegations::{Holder, grown_directory};
use crate::namenode::namespace::Namespace;
use crate::namenode::namespace::inode::CAPABILITIES;
use crate::namenode::namespace::permission::Identity;
use crate::namenode::namesystem::{Namesystem, unexpected};
use crate::namenode::outcome::Outcome;

/// Has an op logged and applied.
///
/// # Errors
/// As [`Namesystem::mutate`].
pub(super) async fn change(namesystem: &Namesystem, header: Option<RequestHeader>, op: Op) -> Result<EmptyResponse> {
    let (touched, growth) = (touched_inodes(&op), Growth::of(header.as_ref(), &op));
    namesystem.mutate(header, op).await.map(|_| changed(namesystem, growth, touched))
}

/// The answer to a change that names no inode.
pub(super) fn changed(namesystem: &Namesystem, growth: Option<Growth>, touched: [Option<InodeId>; 2]) -> EmptyResponse {
    let delegations = delegations(namesystem, growth, None);
    let namespace = namesystem.namespace().read();
    let changed_directories = directories_of(&namespace, touched);
    EmptyResponse { delegations, changed_directories, txid: namespace.counters().last_txid.0 }
}

/// As [`change`], for an op that makes or changes an inode.
///
/// # Errors
/// The same.
pub(super) async fn change_inode(
    namesystem: &Namesystem,
    header: Option<RequestHeader>,
    op: Op,
) -> Result<AttrResponse> {
    let (touched, growth) = (touched_inodes(&op), Growth::of(header.as_ref(), &op));
    namesystem.mutate(header, op).await.and_then(|outcome| {
        let inode = inode_of(&outcome)?;
        let delegations = delegations(namesystem, growth, Some(inode));
        let namespace = namesystem.namespace().read();
        Ok(AttrResponse {
            attr: Some((&namespace.attr(inode)?).into()),
            delegations,
            changed_directories: directories_of(&namespace, touched),
            txid: namespace.counters().last_txid.0,
        })
    })
}

/// The attributes of an inode, as an answer.
///
/// # Errors
/// `Stale`.
pub(super) fn attr_response(namesystem: &Namesystem, id: InodeId) -> Result<AttrResponse> {
    let namespace = namesystem.namespace().read();
    let TxId(txid) = namespace.counters().last_txid;
    Ok(AttrResponse { attr: Some((&namespace.attr(id)?).into()), txid, ..AttrResponse::default() })
}

/// What the caller of a change may rely on from now on; `changed` is the inode that it made or changed.
pub(super) fn delegations(
    namesystem: &Namesystem,
    growth: Option<Growth>,
    changed: Option<InodeId>,
) -> Vec<Delegation> {
    let Some(Growth { who, directory, makes_directory }) = growth else { return Vec::new() };
    namesystem.delegations_of(who, directory, changed.filter(|_| makes_directory))
}

/// A change that adds a name to a directory.
#[derive(Clone, Copy)]
pub(super) struct Growth {
    who: Holder,
    directory: InodeId,
    makes_directory: bool,
}

impl Growth {
    pub(super) fn of(header: Option<&RequestHeader>, op: &Op) -> Option<Self> {
        let makes_directory =
            matches!(op, Op::MakeNode(op) if FileKind::from_mode(op.mode) == Some(FileKind::Directory));
        Self::in_directory(header, grown_directory(op)?, makes_directory)
    }

    pub(super) fn in_directory(
        header: Option<&RequestHeader>,
        directory: InodeId,
        makes_directory: bool,
    ) -> Option<Self> {
        let who = CallKey::try_from(header?.retry.as_ref()?).ok()?.holder();
        Some(Self { who, directory, makes_directory })
    }
}

/// The inode that an op has made or changed.
pub(super) fn inode_of(outcome: &Outcome) -> Result<InodeId> {
    match outcome {
        Outcome::Inode(inode) | Outcome::Created { inode, .. } | Outcome::Appended { inode, .. } => Ok(*inode),
        other => Err(unexpected(other)),
    }
}

/// Inodes that an op names and whose attributes it changes, if they are directories.
pub(super) fn touched_inodes(op: &Op) -> [Option<InodeId>; 2] {
    let [first, second] = match op {
        Op::Create(op) => [Some(op.parent), None],
        Op::MakeNode(op) => [Some(op.parent), None],
        Op::Link(op) => [Some(op.new_parent), None],
        Op::Remove(op) => [Some(op.parent), None],
        Op::Rename(op) => [Some(op.src_parent), Some(op.dst_parent)],
        Op::SetAttr(op) => [Some(op.inode), None],
        Op::SetXattr(op) => [Some(op.inode), None],
        Op::RemoveXattr(op) => [Some(op.inode), None],
        _ => [None, None],
    };
    [first.map(InodeId), second.filter(|_| second != first).map(InodeId)]
}

/// Those of the inodes that are directories, as they are now.
pub(super) fn directories_of(namespace: &Namespace, inodes: [Option<InodeId>; 2]) -> Vec<FileAttr> {
    let attrs = inodes.into_iter().flatten().filter_map(|id| namespace.attr(id).ok());
    attrs.filter(|attr| attr.kind == FileKind::Directory).map(|attr| (&attr).into()).collect()
}

/// Refuses capabilities of a file from anybody but root: who may give them could take them himself where the file is executed.
///
/// # Errors
/// `NotPermitted`.
pub(super) fn check_grants_nothing(header: Option<&RequestHeader>, xattr: &[u8]) -> Result<()> {
    let who = Identity::of(header.and_then(|header| header.caller.as_ref()));
    if xattr == CAPABILITIES && !who.is_root() {
        return Err(DfsError::new(ErrorKind::NotPermitted, "only root gives a file capabilities"));
    }
    Ok(())
}

/// The op that removes one entry.
pub(super) fn remove_op(parent: u64, name: bytes::Bytes, kind: RemoveKind) -> Op {
    Op::Remove(RemoveOp { parent, name, kind: kind.into(), ..RemoveOp::default() })
}

#[cfg(test)]
mod tests {
    use dfs_proto::v1::Caller;

    use super::*;

    #[test]
    fn only_root_gives_capabilities() {
        let of = |uid| RequestHeader { caller: Some(Caller { uid, ..Default::default() }), retry: None };
        // (uid, attribute, allowed)
        for (uid, xattr, expected) in [
            (1000, CAPABILITIES, false),
            (0, CAPABILITIES, true),
            (1000, b"security.other".as_slice(), true),
            (1000, b"user.capability", true),
        ] {
            assert_eq!(check_grants_nothing(Some(&of(uid)), xattr).is_ok(), expected, "{uid} {xattr:?}");
        }
        assert!(check_grants_nothing(None, CAPABILITIES).is_err(), "a caller without a name is nobody");
    }
}
