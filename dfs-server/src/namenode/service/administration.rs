//! Calls for those who run the cluster, and readers' word on bad replicas.

use std::sync::Arc;

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::TxId;
use dfs_proto::convert::required;
use dfs_proto::v1::*;

use super::identity;
use crate::namenode::blocks::{MoveRequest, NodeName};
use crate::namenode::fsck;
use crate::namenode::namesystem::Namesystem;
use crate::namenode::node_files::NodeFiles;

/// Bad replicas taken from one call; a reader meets one at a time.
const BAD_REPLICAS_MAX: usize = 1_000;

fn require_root(header: Option<&RequestHeader>) -> Result<()> {
    if identity(header).is_root() {
        Ok(())
    } else {
        Err(DfsError::new(ErrorKind::NotPermitted, "only root administers the cluster"))
    }
}

/// Has the replicas verified that a reader has found bad.
///
/// # Errors
/// `PermissionDenied` when the caller may not read the file, `Protocol`.
pub(super) fn suspect_replicas(namesystem: &Namesystem, request: &ReportBadBlocksRequest) -> Result<()> {
    let who = identity(request.header.as_ref());
    let suspect = |replica: &BadReplica| {
        let block = Block::from(required(replica.block.as_ref(), "block")?);
        if !namesystem.may_read_block(&who, block.id)? {
            // It has been removed since it was read.
            return Ok(());
        }
        namesystem.blocks().suspect_replica(block, &replica.datanode_uuid, &replica.storage_uuid)
    };
    request.replicas.iter().take(BAD_REPLICAS_MAX).try_for_each(suspect)
}

/// What `df` and `dfs df` show.
pub(super) fn fs_stats(namesystem: &Namesystem) -> GetFsStatsResponse {
    let stats = namesystem.blocks().fs_stats();
    let limits = namesystem.limits();
    let (files, directories, blocks) = namesystem.namespace().read().counts();
    GetFsStatsResponse {
        capacity: stats.capacity,
        used: stats.used,
        remaining: stats.remaining,
        under_replicated_blocks: stats.under_replicated_blocks,
        corrupt_blocks: stats.corrupt_blocks,
        missing_blocks: stats.missing_blocks,
        files: files + directories,
        blocks,
        default_replication: limits.default_replication,
        block_size: limits.default_block_size,
        live_datanodes: stats.live_datanodes,
        dead_datanodes: stats.dead_datanodes,
        txid: namesystem.txid().0,
    }
}

/// Every DataNode, and what repair has to do.
///
/// # Errors
/// `Internal` after a bug.
pub(super) async fn datanode_report(namesystem: &Arc<Namesystem>) -> Result<GetDatanodeReportResponse> {
    let telling = Arc::clone(namesystem);
    // Of many DataNodes there is much to tell: not on the thread that hears them.
    let told =
        tokio::task::spawn_blocking(move || (telling.datanode_reports(), telling.blocks().repair_report())).await;
    let failed = |error| DfsError::new(ErrorKind::Internal, "report on the DataNodes").with_source(error);
    told.map_err(failed).map(|(datanodes, repair)| GetDatanodeReportResponse {
        datanodes,
        repair: Some(repair),
        txid: namesystem.txid().0,
    })
}

/// Tells whether safe mode is on, after entering or leaving it if that was asked for.
///
/// # Errors
/// `NotPermitted`; those of [`Namesystem::leave_safe_mode`].
pub(super) async fn set_safe_mode(
    namesystem: &Namesystem,
    request: &SetSafeModeRequest,
) -> Result<SetSafeModeResponse> {
    match request.action() {
        SafeModeAction::SafeModeGet => {}
        SafeModeAction::SafeModeEnter => {
            require_root(request.header.as_ref())?;
            namesystem.blocks().enter_safe_mode();
        }
        SafeModeAction::SafeModeLeave => {
            require_root(request.header.as_ref())?;
            namesystem.leave_safe_mode().await?;
        }
    }
    Ok(SetSafeModeResponse { txid: namesystem.txid().0, ..namesystem.blocks().safe_mode_report() })
}

/// Makes a checkpoint.
///
/// # Errors
/// `NotPermitted`; those of the journal.
pub(super) async fn save_namespace(
    namesystem: &Arc<Namesystem>,
    request: &SaveNamespaceRequest,
) -> Result<SaveNamespaceResponse> {
    require_root(request.header.as_ref())?;
    let saving = Arc::clone(namesystem);
    // To its end, also when the caller goes away: else an image would be there that is never published.
    let saved = tokio::spawn(async move { saving.checkpoint().await });
    let failed = |error| DfsError::new(ErrorKind::Internal, "save the namespace").with_source(error);
    let TxId(checkpoint_txid) = saved.await.map_err(failed)??;
    Ok(SaveNamespaceResponse { checkpoint_txid, txid: namesystem.txid().0 })
}

/// A page of fsck.
///
/// # Errors
/// `Internal` after a bug; what is wrong with files is told in the answer.
pub(super) async fn check_files(
    namesystem: &Arc<Namesystem>,
    request: CheckFilesRequest,
) -> Result<CheckFilesResponse> {
    let namesystem = Arc::clone(namesystem);
    let who = identity(request.header.as_ref());
    let check = move || fsck::check_files(&namesystem, &who, &request);
    let failed = |error| DfsError::new(ErrorKind::Internal, "look at files").with_source(error);
    tokio::task::spawn_blocking(check).await.map_err(failed)
}

/// Reads the operator's files of DataNodes again.
///
/// # Errors
/// `NotPermitted`; of reading them, and then everything stays as it was.
pub(super) async fn refresh_nodes(
    namesystem: &Namesystem,
    node_files: &Arc<NodeFiles>,
    request: &RefreshNodesRequest,
) -> Result<RefreshNodesResponse> {
    require_root(request.header.as_ref())?;
    let (files, blocks) = (Arc::clone(node_files), Arc::clone(namesystem.blocks()));
    let refresh = move || {
        blocks.set_host_rules(files.read()?);
        let rack = |node: NodeName| Some((node.uuid, files.rack_of(&node.host, node.data_port, &node.address)?));
        let racks: Vec<_> = blocks.node_names().into_iter().filter_map(rack).collect();
        blocks.set_racks(&racks);
        Ok(())
    };
    let failed = |error| DfsError::new(ErrorKind::Internal, "read the files of DataNodes").with_source(error);
    tokio::task::spawn_blocking(refresh).await.map_err(failed)??;
    Ok(RefreshNodesResponse { txid: namesystem.txid().0 })
}

/// A step of the balancer.
///
/// # Errors
/// `NotPermitted`; those of [`BlockManager::move_replicas`](crate::namenode::blocks::BlockManager::move_replicas).
pub(super) fn move_replicas(namesystem: &Namesystem, request: &MoveReplicasRequest) -> Result<MoveReplicasResponse> {
    require_root(request.header.as_ref())?;
    let moves = namesystem.blocks().move_replicas(&MoveRequest {
        run: request.run,
        source: &request.source_uuid,
        target: &request.target_uuid,
        max_bytes: request.max_bytes,
        bandwidth: request.bandwidth,
    })?;
    Ok(MoveReplicasResponse {
        replicas: moves.replicas,
        bytes: moves.bytes,
        on_their_way: moves.on_their_way,
        moved_replicas: moves.moved.replicas,
        moved_bytes: moves.moved.bytes,
        txid: namesystem.txid().0,
    })
}

#[cfg(test)]
mod tests {
    use dfs_common::ids::ROOT_INODE;
    use dfs_proto::v1::edit_op::Op;

    use super::*;
    use crate::namenode::outcome::Outcome;
    use crate::namenode::trees::tests::{ALICE, Place};

    #[tokio::test]
    async fn replicas_are_verified_for_those_who_may_read_the_file_and_for_nobody_else() {
        let place = Place::new().await;
        let inode = place.make(0, ROOT_INODE, "private", 0o100_600).await.0;
        let mutate = async |op| place.namesystem.mutate(place.header(0), op).await.unwrap();
        mutate(Op::OpenForAppend(OpenForAppendOp { inode, truncate: false })).await;
        let Outcome::Block(block) = mutate(Op::AddBlock(AddBlockOp { inode, ..AddBlockOp::default() })).await else {
            panic!("not a block");
        };
        let suspect = |uid, block: Block| {
            let replica = BadReplica { block: Some(block.into()), datanode_uuid: "dn".into(), ..BadReplica::default() };
            let request = ReportBadBlocksRequest { header: place.header(uid), replicas: vec![replica] };
            suspect_replicas(&place.namesystem, &request).err().map(|error| error.kind())
        };
        assert_eq!(suspect(ALICE, block), Some(ErrorKind::PermissionDenied));
        assert_eq!(suspect(0, block), None);
        // A block of no file is nobody's secret: a file may be removed while it is read.
        assert_eq!(suspect(ALICE, Block { id: dfs_common::ids::BlockId(77), ..block }), None);
        mutate(Op::SetAttr(SetAttrOp { inode, mode: Some(0o644), ..SetAttrOp::default() })).await;
        assert_eq!(suspect(ALICE, block), None);
    }
}
