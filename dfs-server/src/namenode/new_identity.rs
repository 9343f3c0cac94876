//! Who a new namespace is: the ids that `format` gives it.

use std::fs;
use std::time::SystemTime;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::storage_info::{NAMENODE_LAYOUT, StorageInfo, StorageType};

/// Longest host name used in a block pool id.
const HOST_NAME_MAX: usize = 64;

/// VERSION is a file of lines, and the id appears in every handshake.
///
/// # Errors
/// `InvalidArgument`.
pub(super) fn check_cluster_id(cluster_id: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !cluster_id.is_empty() && cluster_id.len() <= 128 && cluster_id.bytes().all(plain) {
        return Ok(());
    }
    Err(DfsError::new(
        ErrorKind::InvalidArgument,
        format!("cluster id {cluster_id:?}: use 1 to 128 letters, digits, '-', '_' and '.'"),
    ))
}

/// What VERSION of a new directory says: of the cluster, a new one without.
pub(super) fn new_storage_info(cluster_id: Option<String>) -> StorageInfo {
    let now_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis());
    StorageInfo {
        storage_type: StorageType::NameNode,
        cluster_id: cluster_id.unwrap_or_else(|| format!("CID-{}", uuid::Uuid::new_v4())),
        namespace_id: rand::random_range(1..=i32::MAX.unsigned_abs()),
        block_pool_id: format!("BP-{}-{}-{now_ms}", rand::random_range(1..=i32::MAX), host_name()),
        layout_version: NAMENODE_LAYOUT,
        storage_uuid: None,
        datanode_uuid: None,
    }
}

/// The host's name, for people who read ids; the random number beside it is what makes the id unique.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let plain: String =
        name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').take(HOST_NAME_MAX).collect();
    if plain.is_empty() { "localhost".into() } else { plain }
}
