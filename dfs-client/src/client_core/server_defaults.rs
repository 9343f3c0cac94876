//! What the NameNode tells a client when it connects.

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::v1;

/// What the cluster does unless told otherwise, and the limits it sets.
#[derive(Clone, Debug)]
pub struct ServerDefaults {
    /// Bytes per block of a new file.
    pub block_size: u64,
    /// Replicas of a new file.
    pub replication: u32,
    /// Bytes that one checksum covers.
    pub bytes_per_checksum: u32,
    /// Data bytes in a packet.
    pub packet_size: u64,
    /// Smallest block size a file may have.
    pub min_block_size: u64,
    /// Most blocks a file may have.
    pub max_blocks_per_file: u32,
    /// Identity of the cluster.
    pub cluster_id: String,
    /// Identity of the namespace's block pool, `BP-...`.
    pub block_pool_id: String,
    /// Software version of the NameNode.
    pub software_version: String,
}

impl TryFrom<v1::GetServerDefaultsResponse> for ServerDefaults {
    type Error = DfsError;

    fn try_from(answer: v1::GetServerDefaultsResponse) -> Result<Self> {
        let namespace = answer.namespace.unwrap_or_default();
        if answer.block_size == 0 || answer.bytes_per_checksum == 0 || namespace.block_pool_id.is_empty() {
            return Err(DfsError::new(
                ErrorKind::Protocol,
                "server defaults lack block size, checksum size or block pool",
            ));
        }
        Ok(Self {
            block_size: answer.block_size,
            replication: answer.replication,
            bytes_per_checksum: answer.bytes_per_checksum,
            packet_size: answer.packet_size,
            min_block_size: answer.min_block_size,
            max_blocks_per_file: answer.max_blocks_per_file,
            cluster_id: namespace.cluster_id,
            block_pool_id: namespace.block_pool_id,
            software_version: namespace.software_version,
        })
    }
}
