//! What the configuration says to the block manager.

use std::time::Duration;

use dfs_common::config_file::Config;

/// Settings of the block manager.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Time between heartbeats, told to DataNodes.
    pub(super) heartbeat_interval: Duration,
    /// Silence after which a node is used last.
    pub(super) stale_after: Duration,
    /// Silence after which a node is dead.
    pub(super) dead_after: Duration,
    /// Replicas that make a block complete.
    pub(super) replication_min: usize,
    /// Share of the blocks that must have them before repair begins.
    pub(super) safe_mode_threshold: f64,
    /// Time after that.
    pub(super) safe_mode_extension: Duration,
    /// Copies of large blocks that a source may send at once, and when the last replica of a block is at stake.
    pub(super) max_streams: u32,
    pub(super) max_streams_urgent: u32,
    /// Copies of large blocks that each live node adds to what one tick may order.
    pub(super) work_multiplier: u32,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        let small = |key: &str| u32::try_from(config.count(key)).unwrap_or(u32::MAX);
        Self {
            heartbeat_interval: config.duration("dfs.heartbeat.interval"),
            stale_after: config.duration("dfs.namenode.stale.datanode.interval"),
            dead_after: config.duration("dfs.namenode.dead.interval"),
            replication_min: usize::try_from(config.count("dfs.namenode.replication.min")).unwrap_or(1),
            safe_mode_threshold: config.fraction("dfs.namenode.safemode.threshold-pct"),
            safe_mode_extension: config.duration("dfs.namenode.safemode.extension"),
            max_streams: small("dfs.namenode.replication.max-streams"),
            max_streams_urgent: small("dfs.namenode.replication.max-streams-hard-limit"),
            work_multiplier: small("dfs.namenode.replication.work.multiplier.per.iteration"),
        }
    }
}
