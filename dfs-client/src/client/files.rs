//! Files: opened to read or to write, brought to disk, and where their bytes are.

use std::sync::Arc;

use dfs_common::attr::FileAttr;
use dfs_common::error::Result;
use dfs_common::ids::InodeId;
use dfs_proto::v1;

use super::{DfsClient, SetAttr};
use crate::caller::Caller;
use crate::client_core::attr_of;
use crate::datanode::Located;
use crate::read::{BlockLocation, FileReader, Locations, Shown, locate_page};
use crate::rpc::rpc;
use crate::write::{FileWriter, Opened, ReplicaSync, ServerClock, Start};

impl DfsClient {
    /// Opens an existing file to add to its end, or with `truncate` to write it anew. While another client writes it, it is
    /// waited for, for some seconds: who has just closed it gives it back in a moment.
    ///
    /// # Errors
    /// `Busy` while another client writes it, or this one, for whom nobody waits.
    pub async fn append(&self, caller: &Caller, inode: InodeId, truncate: bool) -> Result<Arc<FileWriter>> {
        self.in_turn(inode, || self.open_writer(caller, inode, truncate)).await
    }

    async fn open_writer(&self, caller: &Caller, inode: InodeId, truncate: bool) -> Result<Arc<FileWriter>> {
        let build = |header| v1::AppendRequest { header: Some(header), inode: inode.0, truncate };
        let mut claim = self.core.claim(caller, &build, &rpc!(append)).await;
        if let Err(error) = &claim
            && Box::pin(self.core.gave_way(inode, error)).await
        {
            claim = Box::pin(self.core.claim(caller, &build, &rpc!(append))).await;
        }
        let (answer, pending) = claim?;
        let attr = attr_of(answer.attr)?;
        let last = answer.last_block.map(|last| Located::new(&self.core.datanodes, last, &answer.block_pool_id));
        let last = last.transpose()?;
        let start = last.map_or(Start::Nowhere, Start::Reopen);
        let clock = ServerClock::told(answer.now_ns);
        let opened = Opened { attr: &attr, has_capabilities: answer.has_capabilities, clock };
        FileWriter::open(&self.core, pending, caller, opened, start)
    }

    /// Takes from the file that `writer` has opened what a write by the caller takes from a program: file capabilities, and set-id
    /// bits unless he is root. To be called before the first write.
    ///
    /// # Errors
    /// Those of [`set_attr`](Self::set_attr).
    pub async fn drop_privileges(&self, caller: &Caller, writer: &FileWriter) -> Result<()> {
        let had = writer.privileges();
        let kill_privileges = caller.uid != 0 && had.any();
        let change = SetAttr { kill_privileges, kill_capabilities: had.capabilities, ..SetAttr::default() };
        if change != SetAttr::default() {
            self.set_attr(caller, writer.inode(), change).await?;
        }
        Ok(())
    }

    /// What readers may see at this moment of a file that is being written, for one who was shown so much before; what the
    /// NameNode has on record when no DataNode tells it.
    ///
    /// # Errors
    /// As [`open_reader`](Self::open_reader), but for `Io`.
    pub async fn visible_length(&self, caller: &Caller, inode: InodeId, shown: Option<Shown>) -> Result<Shown> {
        Locations::look(&self.core, caller, inode, shown).await
    }

    /// Opens a file for reading, with its length as of now.
    ///
    /// # Errors
    /// `IsADirectory` or `InvalidArgument` for what has no content, `NotFound`, `PermissionDenied`; `Io` when the file is being
    /// written and none of the DataNodes that have its end has answered for as long as a read waits.
    pub async fn open_reader(&self, caller: &Caller, inode: InodeId) -> Result<Arc<FileReader>> {
        self.open_reader_again(caller, inode, None).await
    }

    /// As [`open_reader`](Self::open_reader), for one who was shown so much of the file before. While the file is being written,
    /// its length is no less now, unless it was cut.
    ///
    /// # Errors
    /// The same.
    pub async fn open_reader_again(
        &self,
        caller: &Caller,
        inode: InodeId,
        shown: Option<Shown>,
    ) -> Result<Arc<FileReader>> {
        Ok(self.open_for_reading(caller, inode, shown).await?.1)
    }

    /// As [`open_reader_again`](Self::open_reader_again), with the attributes of the file that the NameNode told in the same
    /// answer.
    ///
    /// # Errors
    /// The same.
    pub async fn open_for_reading(
        &self,
        caller: &Caller,
        inode: InodeId,
        shown: Option<Shown>,
    ) -> Result<(FileAttr, Arc<FileReader>)> {
        FileReader::open(&self.core, caller, inode, shown).await
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
            let blocks = locate_page(&self.core, caller, inode, offset, u64::MAX / 2).await?;
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

    /// The blocks that hold bytes of `[offset, offset + length)`, at most 1,000 of them.
    pub async fn get_block_locations(
        &self,
        caller: &Caller,
        inode: InodeId,
        offset: u64,
        length: u64,
    ) -> Result<Vec<BlockLocation>> {
        let blocks = locate_page(&self.core, caller, inode, offset, length).await?;
        Ok(blocks.iter().map(BlockLocation::from).collect())
    }
}
