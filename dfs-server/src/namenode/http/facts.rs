//! What the first page and its verdict are made of: the cluster as the NameNode knows it now.

use std::time::Duration;

use dfs_proto::v1::{self, DatanodeReport};

use crate::namenode::blocks::FsStats;
use crate::namenode::checkpoints::Known;
use crate::namenode::namesystem::Namesystem;

/// What the page is made of.
#[derive(Clone)]
pub(super) struct Facts {
    pub(super) info: v1::NamespaceInfo,
    pub(super) up: Duration,
    /// Transaction applied last, and that of the last checkpoint.
    pub(super) txids: (u64, u64),
    /// Files and other leaves, directories, blocks.
    pub(super) counts: (u64, u64, u64),
    pub(super) stats: FsStats,
    pub(super) repair: v1::RepairReport,
    pub(super) safe_mode: v1::SetSafeModeResponse,
    pub(super) unknown_replicas: usize,
    pub(super) nodes: Vec<DatanodeReport>,
    pub(super) checkpoints: Known,
    /// For how long the edit log's device has not answered.
    pub(super) log_silence: Option<Duration>,
}

impl Facts {
    /// As they are now. Each lock is held for one part of them at a time, so they need not be of one moment.
    pub(super) fn of(namesystem: &Namesystem, up: Duration) -> Self {
        let blocks = namesystem.blocks();
        Self {
            info: namesystem.info().clone(),
            up,
            txids: (namesystem.txid().0, namesystem.journal().newest_image().0),
            counts: namesystem.namespace().read().counts(),
            stats: blocks.fs_stats(),
            repair: blocks.repair_report(),
            safe_mode: blocks.safe_mode_report(),
            unknown_replicas: blocks.unknown_replicas(),
            nodes: namesystem.datanode_reports(),
            checkpoints: namesystem.checkpoints().known(),
            log_silence: namesystem.journal().log_silence(),
        }
    }
}
