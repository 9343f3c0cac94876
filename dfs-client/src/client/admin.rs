//! Calls for those who run the cluster.

use dfs_common::error::Result;
use dfs_common::ids::TxId;
use dfs_proto::v1;

use super::answers::{DatanodeReport, SafeModeAction, SafeModeStatus};
use super::{DfsClient, rpc};
use crate::caller::Caller;

fn header(caller: &Caller) -> Option<v1::RequestHeader> {
    Some(v1::RequestHeader { caller: Some(caller.into()), retry: None })
}

impl DfsClient {
    /// Every DataNode the NameNode knows.
    pub async fn get_datanode_report(&self, caller: &Caller) -> Result<Vec<DatanodeReport>> {
        let request = v1::GetDatanodeReportRequest { header: header(caller) };
        let answer = self.core.query(request, rpc!(get_datanode_report)).await?;
        Ok(answer.datanodes.into_iter().map(DatanodeReport::from).collect())
    }

    /// Asks about safe mode, enters or leaves it.
    pub async fn set_safe_mode(&self, caller: &Caller, action: SafeModeAction) -> Result<SafeModeStatus> {
        let request =
            v1::SetSafeModeRequest { header: header(caller), action: v1::SafeModeAction::from(action).into() };
        let answer = self.core.query(request, rpc!(set_safe_mode)).await?;
        Ok(SafeModeStatus { is_on: answer.is_on, status: answer.status })
    }

    /// Makes a checkpoint now; gives the last transaction in it.
    pub async fn save_namespace(&self, caller: &Caller) -> Result<TxId> {
        let request = v1::SaveNamespaceRequest { header: header(caller) };
        Ok(TxId(self.core.query_at_length(request, rpc!(save_namespace)).await?.checkpoint_txid))
    }
}
