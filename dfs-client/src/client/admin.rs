//! Calls for those who run the cluster.

use dfs_common::error::Result;
use dfs_common::ids::{InodeId, TxId};
use dfs_proto::v1;

use super::DfsClient;
use super::datanode_report::DatanodeReport;
use super::health::{BlockHealth, ClusterReport, FileHealth, FilesHealth, Moves};
use super::replies::SafeModeStatus;
use super::requests::SafeModeAction;
use crate::caller::Caller;
use crate::rpc::rpc;

/// A step of the balancer.
#[derive(Clone, Copy, Debug)]
pub struct MoveStep<'a> {
    /// Names this run: there is one at a time.
    pub run: u64,
    /// Uuid of the node that has too much.
    pub source: &'a str,
    /// Uuid of the one that is to have it.
    pub target: &'a str,
    /// Bytes of the source to be on their way at most.
    pub max_bytes: u64,
    /// Bytes per second; 0: the source's own limit.
    pub bandwidth: u64,
}

fn header(caller: &Caller) -> Option<v1::RequestHeader> {
    Some(v1::RequestHeader { caller: Some(caller.into()), retry: None })
}

impl DfsClient {
    /// Every DataNode the NameNode knows.
    pub async fn get_datanode_report(&self, caller: &Caller) -> Result<Vec<DatanodeReport>> {
        Ok(self.get_cluster_report(caller).await?.datanodes)
    }

    /// Every DataNode, and what repair has to do.
    pub async fn get_cluster_report(&self, caller: &Caller) -> Result<ClusterReport> {
        let request = v1::GetDatanodeReportRequest { header: header(caller) };
        let answer = self.core.query(request, rpc!(get_datanode_report)).await?;
        Ok(ClusterReport {
            datanodes: answer.datanodes.into_iter().map(DatanodeReport::from).collect(),
            repair: answer.repair.unwrap_or_default().into(),
        })
    }

    /// How the blocks of some files stand, of the first file from `first_block` on. A bounded answer: it may hold fewer
    /// files than asked for, and not all blocks of the last one.
    pub async fn check_files(
        &self,
        caller: &Caller,
        inodes: &[InodeId],
        first_block: u32,
        with_locations: bool,
    ) -> Result<FilesHealth> {
        let inodes = inodes.iter().map(|inode| inode.0).collect();
        let request = v1::CheckFilesRequest { header: header(caller), inodes, first_block, with_locations };
        let answer = self.core.query(request, rpc!(check_files)).await?;
        let file = |file: v1::FileHealth| {
            Ok(FileHealth {
                inode: InodeId(file.inode),
                length: file.length,
                is_open: file.is_open,
                is_gone: file.is_gone,
                is_denied: file.is_denied,
                blocks: file.blocks.into_iter().map(BlockHealth::try_from).collect::<Result<_>>()?,
            })
        };
        Ok(FilesHealth {
            files: answer.files.into_iter().map(file).collect::<Result<_>>()?,
            next_block: answer.next_block,
        })
    }

    /// Has the NameNode read its files about DataNodes again.
    pub async fn refresh_nodes(&self, caller: &Caller) -> Result<()> {
        let request = v1::RefreshNodesRequest { header: header(caller) };
        self.core.query(request, rpc!(refresh_nodes)).await.map(|_| ())
    }

    /// Has replicas moved from one DataNode to another, so that at most `max_bytes` of the source are on their way.
    /// `run` names this run of the balancer; `bandwidth` is in bytes per second, 0 for the source's own limit.
    pub async fn move_replicas(&self, caller: &Caller, step: &MoveStep<'_>) -> Result<Moves> {
        let request = v1::MoveReplicasRequest {
            header: header(caller),
            run: step.run,
            source_uuid: step.source.to_owned(),
            target_uuid: step.target.to_owned(),
            max_bytes: step.max_bytes,
            bandwidth: step.bandwidth,
        };
        let answer = self.core.query(request, rpc!(move_replicas)).await?;
        Ok(Moves {
            replicas: answer.replicas,
            bytes: answer.bytes,
            on_their_way: answer.on_their_way,
            moved_replicas: answer.moved_replicas,
            moved_bytes: answer.moved_bytes,
        })
    }

    /// Asks about safe mode, enters or leaves it.
    pub async fn set_safe_mode(&self, caller: &Caller, action: SafeModeAction) -> Result<SafeModeStatus> {
        let request =
            v1::SetSafeModeRequest { header: header(caller), action: v1::SafeModeAction::from(action).into() };
        let answer = self.core.query(request, rpc!(set_safe_mode)).await?;
        Ok(SafeModeStatus {
            is_on: answer.is_on,
            status: answer.status,
            is_manual: answer.is_manual,
            safe_blocks: answer.safe_blocks,
            blocks: answer.blocks,
            needed_blocks: answer.needed_blocks,
        })
    }

    /// Makes a checkpoint now; gives the last transaction in it.
    pub async fn save_namespace(&self, caller: &Caller) -> Result<TxId> {
        let request = v1::SaveNamespaceRequest { header: header(caller) };
        Ok(TxId(self.core.query_at_length(request, rpc!(save_namespace)).await?.checkpoint_txid))
    }
}
