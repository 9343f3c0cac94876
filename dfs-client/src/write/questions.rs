//! What a writer asks of the NameNode about its blocks, in the session that holds its lease.

use std::sync::Arc;

use dfs_common::attr::FileAttr;
use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{CallId, GenerationStamp, InodeId};
use dfs_proto::v1;

use super::writer_status::WriterStatus;
use crate::caller::Caller;
use crate::client_core::ClientCore;
use crate::datanode::{Located, Replica};
use crate::rpc::{Session, rpc};

/// Who writes which file.
pub(super) struct Questions {
    pub(super) core: Arc<ClientCore>,
    pub(super) session: Arc<Session>,
    /// The call that took the lease.
    pub(super) lease: CallId,
    pub(super) caller: Caller,
    pub(super) inode: InodeId,
    pub(super) status: Arc<WriterStatus>,
    /// As opened; what is said of a file that went away when it was closed.
    pub(super) opened: FileAttr,
}

impl Questions {
    /// Commits `previous`, allocates the block behind it.
    pub(super) async fn add_block(&self, previous: Option<Block>, offset: u64, exclude: &[String]) -> Result<Located> {
        let modified_ns = self.status.modified_ns();
        let build = |header| v1::AddBlockRequest {
            header: Some(header),
            inode: self.inode.0,
            previous: previous.map(Into::into),
            exclude: exclude.to_vec(),
            offset,
            modified_ns,
        };
        let answer = self.core.mutate_in(&self.session, &self.caller, &build, &rpc!(add_block)).await?;
        let block = answer.block.ok_or_else(|| lacks("the new block"))?;
        Located::new(&self.core.datanodes, block, &answer.block_pool_id)
    }

    /// Gives up a block that never came to be.
    pub(super) async fn abandon_block(&self, block: Block) -> Result<()> {
        let build =
            |header| v1::AbandonBlockRequest { header: Some(header), inode: self.inode.0, block: Some(block.into()) };
        self.core.mutate_in(&self.session, &self.caller, &build, &rpc!(abandon_block)).await.map(|_| ())
    }

    /// A new generation stamp for the last block.
    pub(super) async fn update_block_for_pipeline(&self, block: Block) -> Result<GenerationStamp> {
        let build = |header| v1::UpdateBlockForPipelineRequest {
            header: Some(header),
            inode: self.inode.0,
            block: Some(block.into()),
        };
        let answer = self.core.mutate_in(&self.session, &self.caller, &build, &rpc!(update_block_for_pipeline)).await?;
        let block = answer.block.and_then(|located| located.block).ok_or_else(|| lacks("the block's new stamp"))?;
        Ok(GenerationStamp(block.generation_stamp))
    }

    /// The last block is written under a new stamp from now on, by these nodes.
    pub(super) async fn update_pipeline(&self, old: Block, new: Block, replicas: &[Replica]) -> Result<()> {
        let build = |header| v1::UpdatePipelineRequest {
            header: Some(header),
            inode: self.inode.0,
            old_block: Some(old.into()),
            new_block: Some(new.into()),
            datanode_uuids: replicas.iter().map(|replica| replica.node.uuid.clone()).collect(),
            storage_uuids: replicas.iter().map(|replica| replica.storage_uuid.clone()).collect(),
        };
        self.core.mutate_in(&self.session, &self.caller, &build, &rpc!(update_pipeline)).await.map(|_| ())
    }

    /// Nodes that could take the place of lost ones in the pipeline of `block`.
    pub(super) async fn additional_datanodes(
        &self,
        block: &ExtendedBlock,
        existing: &[Replica],
        exclude: &[String],
        count: usize,
    ) -> Result<Vec<Replica>> {
        let request = v1::GetAdditionalDatanodeRequest {
            header: Some(v1::RequestHeader { caller: Some((&self.caller).into()), retry: None }),
            inode: self.inode.0,
            block: Some(block.block.into()),
            existing: existing.iter().map(|replica| replica.node.uuid.clone()).collect(),
            exclude: exclude.to_vec(),
            count: u32::try_from(count).unwrap_or(u32::MAX),
        };
        let answer = self.core.query(request, rpc!(get_additional_datanode)).await?;
        let block_found = answer.block.ok_or_else(|| lacks("the DataNodes"))?;
        Ok(Located::new(&self.core.datanodes, block_found, &block.pool)?.replicas)
    }

    /// Has the length of the last block logged.
    pub(super) async fn fsync(&self, last: Block) -> Result<()> {
        let modified_ns = self.status.modified_ns();
        let build = |header| v1::FsyncRequest {
            header: Some(header),
            inode: self.inode.0,
            last: Some(last.into()),
            modified_ns,
        };
        self.core.mutate_in(&self.session, &self.caller, &build, &rpc!(fsync)).await.map(|_| ())
    }

    /// Gives the lease back with the last block as it is; true when the file is closed now, false when it is being recovered.
    pub(super) async fn give_up_lease(&self) -> Result<bool> {
        let build = |header| v1::RecoverLeaseRequest {
            header: Some(header),
            inode: self.inode.0,
            own: true,
            call_id: self.lease.0,
        };
        let answer = self.core.mutate_in(&self.session, &Caller::root(), &build, &rpc!(recover_lease)).await?;
        Ok(answer.closed)
    }

    /// Closes the file of `length` bytes.
    pub(super) async fn complete(&self, last: Option<Block>, length: u64) -> Result<FileAttr> {
        let modified_ns = self.status.modified_ns();
        let build = |header| v1::CompleteRequest {
            header: Some(header),
            inode: self.inode.0,
            last: last.map(Into::into),
            keep_open: false,
            modified_ns,
        };
        match self.core.mutate_in(&self.session, &self.caller, &build, &rpc!(complete)).await?.attr {
            Some(attr) => (&attr).try_into(),
            // Its last name went while it was being written, and now the file with it.
            None => Ok(FileAttr { nlink: 0, length, under_construction: false, ..self.opened.clone() }),
        }
    }
}

fn lacks(what: &str) -> DfsError {
    DfsError::new(ErrorKind::Protocol, format!("NameNode's answer lacks {what}"))
}
