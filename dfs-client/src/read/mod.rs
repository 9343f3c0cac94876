//! skeleton
#![allow(clippy::unimplemented)]
use std::sync::Arc;

use bytes::Bytes;
use dfs_common::error::Result;
use dfs_common::ids::InodeId;

use crate::caller::Caller;
use crate::client::ClientCore;
pub(crate) const BUDGET_UNIT: usize = 64 << 10;
pub(crate) const PREFETCH_UNITS_MAX: usize = 1 << 20;
/// Where a byte range of a file lies.
#[derive(Clone, Debug)]
pub struct ReplicaLocation {}
/// Reads one file.
pub struct FileReader {}
impl FileReader {
    pub(crate) async fn open(_core: &Arc<ClientCore>, _caller: &Caller, _inode: InodeId) -> Result<Arc<Self>> {
        unimplemented!()
    }
    /// Reads up to `len` bytes at `offset`; short only at the end of the file.
    pub async fn read_at(&self, _offset: u64, _len: usize) -> Result<Bytes> {
        unimplemented!()
    }
    /// Bytes, as last known.
    pub fn length(&self) -> u64 {
        unimplemented!()
    }
    /// Asks again.
    pub async fn refresh_length(&self) -> Result<u64> {
        unimplemented!()
    }
}
