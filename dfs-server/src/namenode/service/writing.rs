//! Files made, opened to be written, and closed.

use dfs_common::block::Block;
use dfs_common::error::{ErrorKind, Result};
use dfs_common::ids::InodeId;
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{
    AppendRequest, AppendResponse, CompleteOp, CompleteRequest, CompleteResponse, CreateOp, CreateRequest,
    CreateResponse, OpenForAppendOp,
};

use super::changes::{Growth, attr_response, delegations, directories_of, inode_of};
use crate::namenode::namesystem::{Namesystem, call_key, unexpected};
use crate::namenode::outcome::Outcome;

/// Makes a file; with its first block when it is to be written by a `writer` at this address.
///
/// # Errors
/// As [`Namesystem::create`].
pub(super) async fn create(
    namesystem: &Namesystem,
    request: CreateRequest,
    writer: Option<&str>,
) -> Result<CreateResponse> {
    let op = CreateOp {
        parent: request.parent,
        name: request.name,
        mode: request.mode,
        replication: request.replication,
        block_size: request.block_size,
        open_for_write: request.open_for_write,
        exclusive: request.exclusive,
        ..CreateOp::default()
    };
    let parent = InodeId(op.parent);
    let opens = op.open_for_write;
    let growth = Growth::in_directory(request.header.as_ref(), parent, false);
    let call = call_key(request.header.as_ref())?;
    let outcome = namesystem.create(request.header, op, writer).await;
    outcome.and_then(|outcome| {
        let inode = inode_of(&outcome)?;
        let created = !matches!(outcome, Outcome::Created { created: false, .. });
        let first_block = if created && opens { namesystem.first_block(inode, &call) } else { None };
        let delegations = delegations(namesystem, growth, None);
        let namespace = namesystem.namespace().read();
        Ok(CreateResponse {
            delegations,
            attr: Some((&namespace.attr(inode)?).into()),
            created,
            block_pool_id: namesystem.info().block_pool_id.clone(),
            first_block,
            now_ns: namesystem.now_ns(),
            changed_directories: directories_of(&namespace, [Some(parent), None]),
            txid: namespace.counters().last_txid.0,
        })
    })
}

/// Opens a file to be written at its end.
///
/// # Errors
/// As [`Namesystem::mutate`]; `Busy` while another client writes; `OutcomeUnknown` when the lease that the call had taken is gone by
/// the time that it comes again.
pub(super) async fn append(
    namesystem: &Namesystem,
    request: AppendRequest,
    reader: Option<&str>,
) -> Result<AppendResponse> {
    let op = OpenForAppendOp { inode: request.inode, truncate: request.truncate };
    let call = call_key(request.header.as_ref())?;
    let is_told_again = namesystem.recorded(request.header.as_ref())?.is_some();
    let outcome = namesystem.mutate(request.header, Op::OpenForAppend(op)).await;
    outcome.and_then(|outcome| {
        let Outcome::Appended { inode, last } = outcome else { return Err(unexpected(&outcome)) };
        if is_told_again {
            namesystem.check_lease_of(inode, &call)?;
        }
        let answer = attr_response(namesystem, inode)?;
        let has_capabilities = namesystem.namespace().read().inode(inode)?.has_capabilities();
        let length = answer.attr.as_ref().map_or(0, |attr| attr.length);
        let located = |block: Block| namesystem.located(block, length.saturating_sub(block.length), false, reader);
        Ok(AppendResponse {
            attr: answer.attr,
            last_block: last.map(located),
            block_pool_id: namesystem.info().block_pool_id.clone(),
            now_ns: namesystem.now_ns(),
            has_capabilities,
            txid: answer.txid,
        })
    })
}

/// Closes a file that was written.
///
/// # Errors
/// As [`Namesystem::mutate`]; `LeaseLost`.
pub(super) async fn complete(namesystem: &Namesystem, request: CompleteRequest) -> Result<CompleteResponse> {
    let op = CompleteOp {
        inode: request.inode,
        last: request.last,
        keep_open: request.keep_open,
        modified_ns: request.modified_ns,
    };
    let outcome = namesystem.mutate(request.header, Op::Complete(op)).await;
    outcome.and_then(|outcome| {
        // A file without names is gone with its lease: there are no attributes to give.
        let attr = match namesystem.attr(inode_of(&outcome)?) {
            Ok(attr) => Some((&attr).into()),
            Err(error) if error.kind() == ErrorKind::Stale => None,
            Err(error) => return Err(error),
        };
        Ok(CompleteResponse { done: true, attr, txid: namesystem.txid().0 })
    })
}

#[cfg(test)]
mod tests {
    use dfs_common::ids::ROOT_INODE;
    use dfs_proto::v1::RevokeLeaseOp;

    use super::*;
    use crate::namenode::trees::tests::Place;

    /// Its answer was lost, and the file has been taken from its writer before the call comes again.
    #[tokio::test]
    async fn append_that_comes_again_gives_no_lease_that_is_gone() {
        let place = Place::new().await;
        let id = place.make(0, ROOT_INODE, "f", 0o100_644).await;
        let header = place.header(0);
        let call = || AppendRequest { header: header.clone(), inode: id.0, truncate: false };
        for _ in 0..2 {
            append(&place.namesystem, call(), None).await.unwrap();
        }
        let revoke = RevokeLeaseOp { inode: id.0, ..RevokeLeaseOp::default() };
        place.namesystem.mutate_internally(Op::RevokeLease(revoke)).await.unwrap();
        let error = append(&place.namesystem, call(), None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "it must not be made again, in a new session");
    }
}
