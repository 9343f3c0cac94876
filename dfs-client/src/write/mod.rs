//! skeleton
#![allow(clippy::unimplemented)]
use std::sync::Arc;
use std::time::Instant;

use dfs_common::attr::FileAttr;
use dfs_common::error::Result;
use dfs_proto::v1;

use crate::caller::Caller;
use crate::client::ClientCore;
use crate::rpc::Session;
#[derive(Default)]
pub(crate) struct WriterRegistry {}
impl WriterRegistry {
    pub(crate) fn look_after(&self, _now: Instant) {}
}
pub(crate) struct LastBlock {}
impl LastBlock {
    pub(crate) fn new(_located: v1::LocatedBlock, _pool: &str) -> Result<Self> {
        unimplemented!()
    }
}
/// Writes one file.
pub struct FileWriter {}
impl FileWriter {
    pub(crate) fn open(
        _core: &Arc<ClientCore>,
        _session: Arc<Session>,
        _caller: &Caller,
        _attr: &FileAttr,
        _last: Option<LastBlock>,
    ) -> Result<Arc<Self>> {
        unimplemented!()
    }
    /// Appends.
    pub async fn write(&self, _data: &[u8]) -> Result<()> {
        unimplemented!()
    }
    /// All accepted bytes.
    pub fn position(&self) -> u64 {
        unimplemented!()
    }
    /// Acknowledged.
    pub fn acked_len(&self) -> u64 {
        unimplemented!()
    }
    /// Visible.
    pub async fn hflush(&self) -> Result<()> {
        unimplemented!()
    }
    /// Durable.
    pub async fn hsync(&self) -> Result<()> {
        unimplemented!()
    }
    /// Closes, or with `keep_open` records the length.
    pub async fn complete(&self, _keep_open: bool) -> Result<FileAttr> {
        unimplemented!()
    }
    /// Gives up.
    pub async fn abort(&self) {
        unimplemented!()
    }
}
