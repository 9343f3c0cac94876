//! Opening files: from the NameNode's answer to a reader or a writer.

use std::sync::Arc;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::InodeId;
use dfs_proto::v1;

use super::{CreatedFile, DfsClient, attr_of, rpc};
use crate::caller::Caller;
use crate::datanode::Located;
use crate::read::FileReader;
use crate::write::{FileWriter, ReplicaSync, Start};

impl DfsClient {
    /// A writer for a file just made with `open_for_write`. Asks nobody anything.
    ///
    /// # Errors
    /// `LeaseLost` when the session of the creation has already ended.
    pub async fn open_writer(&self, caller: &Caller, file: &CreatedFile) -> Result<Arc<FileWriter>> {
        let session = self
            .core
            .sessions
            .live()
            .ok_or_else(|| DfsError::new(ErrorKind::LeaseLost, "the session that created the file has ended"))?;
        let start = file.first_block.clone().map_or(Start::Nowhere, Start::Allocated);
        FileWriter::open(&self.core, session, caller, &file.attr, start)
    }

    /// Opens an existing file to add to its end, or with `truncate` to write it anew.
    ///
    /// # Errors
    /// `Busy` while another client writes it.
    pub async fn append(&self, caller: &Caller, inode: InodeId, truncate: bool) -> Result<Arc<FileWriter>> {
        let mut session = self.core.session().await?;
        let build = |header| v1::AppendRequest { header: Some(header), inode: inode.0, truncate };
        let call = rpc!(append);
        let answer = match self.core.mutate_in(&session, caller, &build, &call).await {
            Err(error) if error.kind() == ErrorKind::LeaseLost && session.is_dead() => {
                session = self.core.session().await?;
                self.core.mutate_in(&session, caller, &build, &call).await?
            }
            outcome => outcome?,
        };
        let attr = attr_of(answer.attr)?;
        let last = answer.last_block.map(|last| Located::new(&self.core.datanodes, last, &answer.block_pool_id));
        let last = last.transpose()?;
        FileWriter::open(&self.core, session, caller, &attr, last.map_or(Start::Nowhere, Start::Reopen))
    }

    /// Opens a file for reading, with its length as of now.
    ///
    /// # Errors
    /// `IsADirectory` or `InvalidArgument` for what has no content, `NotFound`, `PermissionDenied`.
    pub async fn open_reader(&self, caller: &Caller, inode: InodeId) -> Result<Arc<FileReader>> {
        FileReader::open(&self.core, caller, inode).await
    }

    /// Has all bytes of a file that nobody writes brought to disk on every node that counts as having them: fsync on a handle
    /// that has written nothing itself. A node that does not do it is waited for until it does or the NameNode has given it up.
    ///
    /// # Errors
    /// Those of [`get_block_locations`](Self::get_block_locations), and of the DataNodes.
    pub async fn sync_file(&self, caller: &Caller, inode: InodeId) -> Result<()> {
        let mut offset = 0;
        let mut sync = ReplicaSync::new(&self.core);
        loop {
            let blocks = crate::read::locate_page(&self.core, caller, inode, offset, u64::MAX / 2).await?;
            let Some(end) = blocks.last().map(Located::end) else { return Ok(()) };
            if !sync.round(&blocks).await? {
                continue;
            }
            if end <= offset {
                return Ok(());
            }
            offset = end;
        }
    }
}
