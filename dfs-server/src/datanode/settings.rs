//! The DataNode's keys of the configuration file, read once at start.

use std::path::PathBuf;
use std::time::Duration;

use dfs_common::config_file::Config;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::units::ByteCount;

use super::scanner::ScannerSettings;
use super::transfer::DropBehind;

/// What the operator decided.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// One directory per volume.
    pub(crate) data_dirs: Vec<PathBuf>,
    /// Bytes of each volume that blocks leave free.
    pub(crate) reserved: ByteCount,
    /// Sync every block when it is finalized.
    pub(crate) sync_on_close: bool,
    /// Where data transfers come in.
    pub(crate) data_address: String,
    /// Where gRPC is served.
    pub(crate) grpc_address: String,
    /// Where status and metrics are served.
    pub(crate) http_address: String,
    /// Address others dial; empty: as the NameNode sees us.
    pub(crate) hostname: String,
    /// Network location.
    pub(crate) rack: String,
    /// Data connections served at once.
    pub(crate) max_transfer_threads: usize,
    /// gRPC connections served at once.
    pub(crate) max_connections: usize,
    /// Bytes per second sent for the balancer at most.
    pub(crate) balance_bandwidth: u64,
    /// Which writes drop what they wrote from the page cache.
    pub(crate) drop_behind: DropBehind,
    /// Silence after which a transfer is given up.
    pub(crate) socket_timeout: Duration,
    /// Time between heartbeats.
    pub(crate) heartbeat_interval: Duration,
    /// Time between full block reports.
    pub(crate) block_report_interval: Duration,
    /// Volumes that may fail before the node gives up.
    pub(crate) failed_volumes_tolerated: usize,
    /// How replicas are verified in the background.
    pub(crate) scanner: ScannerSettings,
    /// Time between two comparisons of files and records.
    pub(crate) directory_scan_interval: Duration,
    /// `host:port` of every NameNode.
    pub(crate) namenodes: Vec<String>,
}

impl Settings {
    /// Reads the keys.
    ///
    /// # Errors
    /// `InvalidArgument` when a key without default is not set.
    pub(crate) fn load(config: &Config) -> Result<Self> {
        let list = |name: &str| {
            let items = config.list(name);
            if items.is_empty() {
                return Err(DfsError::new(
                    ErrorKind::InvalidArgument,
                    format!("a DataNode needs the key {name:?}; set it in the configuration file"),
                ));
            }
            Ok(items)
        };
        Ok(Self {
            data_dirs: list("dfs.datanode.data.dir")?.into_iter().map(PathBuf::from).collect(),
            reserved: ByteCount(config.bytes("dfs.datanode.du.reserved")),
            sync_on_close: config.flag("dfs.datanode.synconclose"),
            data_address: config.text("dfs.datanode.address"),
            grpc_address: config.text("dfs.datanode.ipc.address"),
            http_address: config.text("dfs.datanode.http.address"),
            hostname: config.text("dfs.datanode.hostname"),
            rack: config.text("dfs.datanode.rack"),
            max_transfer_threads: usize::try_from(config.count("dfs.datanode.max.transfer.threads"))
                .expect("limited by the key's range"),
            max_connections: usize::try_from(config.count("ipc.server.max.connections"))
                .expect("limited by the key's range"),
            balance_bandwidth: config.bytes("dfs.datanode.balance.bandwidthPerSec"),
            drop_behind: DropBehind::of(&config.text("dfs.datanode.drop.cache.behind.writes")),
            socket_timeout: config.duration("dfs.datanode.socket.timeout"),
            heartbeat_interval: config.duration("dfs.heartbeat.interval"),
            block_report_interval: config.duration("dfs.blockreport.intervalMsec"),
            failed_volumes_tolerated: usize::try_from(config.count("dfs.datanode.failed.volumes.tolerated"))
                .expect("limited by the key's range"),
            scanner: ScannerSettings {
                bytes_per_second: config.bytes("dfs.block.scanner.volume.bytes.per.second"),
                period: Duration::from_secs(3600 * config.count("dfs.datanode.scan.period.hours")),
            },
            directory_scan_interval: config.duration("dfs.datanode.directoryscan.interval"),
            namenodes: list("dfs.namenode.address")?,
        })
    }
}
