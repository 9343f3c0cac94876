//! `dfs admin report`: the cluster as its NameNode sees it.

use std::sync::Arc;

use clap::Args;
use dfs_client::{ClusterReport, DatanodeReport, DatanodeState, FsStats, RepairReport, SafeModeAction, SafeModeStatus};
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::format;

/// Which DataNodes to show; all of them when none is named.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Live DataNodes
    #[arg(long)]
    live: bool,
    /// DataNodes that missed heartbeats
    #[arg(long)]
    stale: bool,
    /// DataNodes that are silent for too long
    #[arg(long)]
    dead: bool,
}

#[derive(Serialize)]
struct ReportJson {
    cluster_id: String,
    block_pool_id: String,
    software_version: String,
    capacity: u64,
    used: u64,
    remaining: u64,
    use_percent: u64,
    files: u64,
    blocks: u64,
    under_replicated_blocks: u64,
    corrupt_blocks: u64,
    missing_blocks: u64,
    live_datanodes: u32,
    dead_datanodes: u32,
    safe_mode: bool,
    safe_mode_status: String,
    repair: RepairJson,
    datanodes: Vec<DatanodeJson>,
}

#[derive(Serialize)]
struct RepairJson {
    one_left: u64,
    very_low: u64,
    low: u64,
    misplaced: u64,
    none_left: u64,
    pending: u64,
    excess: u64,
    bad: u64,
    pending_deletions: u64,
    is_scanning: bool,
}

impl From<&RepairReport> for RepairJson {
    fn from(report: &RepairReport) -> Self {
        Self {
            one_left: report.one_left,
            very_low: report.very_low,
            low: report.low,
            misplaced: report.misplaced,
            none_left: report.none_left,
            pending: report.pending,
            excess: report.excess,
            bad: report.bad,
            pending_deletions: report.pending_deletions,
            is_scanning: report.is_scanning,
        }
    }
}

#[derive(Serialize)]
struct DatanodeJson {
    uuid: String,
    state: &'static str,
    admin_state: &'static str,
    blocks_to_copy: u64,
    maintenance_left_ms: Option<u64>,
    outgoing_copies: u32,
    pending_deletions: u64,
    host: String,
    data_port: u32,
    grpc_port: u32,
    http_port: u32,
    rack: String,
    software_version: String,
    last_heartbeat_ms: u64,
    active_transfers: u32,
    capacity: u64,
    used: u64,
    remaining: u64,
    use_percent: u64,
    blocks: u64,
    volumes: Vec<VolumeJson>,
}

#[derive(Serialize)]
struct VolumeJson {
    storage_uuid: String,
    path: String,
    capacity: u64,
    used: u64,
    remaining: u64,
    blocks: u64,
    failed: bool,
}

impl From<&DatanodeReport> for DatanodeJson {
    fn from(report: &DatanodeReport) -> Self {
        let volumes: Vec<VolumeJson> = report
            .volumes
            .iter()
            .map(|volume| VolumeJson {
                storage_uuid: volume.storage_uuid.clone(),
                path: volume.path.clone(),
                capacity: volume.capacity,
                used: volume.used,
                remaining: volume.remaining,
                blocks: volume.blocks,
                failed: volume.failed,
            })
            .collect();
        let sum = |value: fn(&VolumeJson) -> u64| volumes.iter().map(value).fold(0, u64::saturating_add);
        let (capacity, used) = (sum(|volume| volume.capacity), sum(|volume| volume.used));
        let (remaining, blocks) = (sum(|volume| volume.remaining), sum(|volume| volume.blocks));
        Self {
            uuid: report.uuid.clone(),
            state: state_name(report.state),
            admin_state: report.admin_state.name(),
            blocks_to_copy: report.blocks_to_copy,
            maintenance_left_ms: report
                .maintenance_left
                .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            outgoing_copies: report.outgoing_copies,
            pending_deletions: report.pending_deletions,
            host: report.host.clone(),
            data_port: report.data_port,
            grpc_port: report.grpc_port,
            http_port: report.http_port,
            rack: report.rack.clone(),
            software_version: report.software_version.clone(),
            last_heartbeat_ms: u64::try_from(report.last_heartbeat.as_millis()).unwrap_or(u64::MAX),
            active_transfers: report.active_transfers,
            capacity,
            used,
            remaining,
            use_percent: format::percent(used, capacity),
            blocks,
            volumes,
        }
    }
}

fn state_name(state: DatanodeState) -> &'static str {
    match state {
        DatanodeState::Live => "live",
        DatanodeState::Stale => "stale",
        DatanodeState::Dead => "dead",
    }
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: ReportArgs) -> Outcome {
    let stats = ctx.client.get_fs_stats(&ctx.caller).await.map_err(Failure::cluster)?;
    let ClusterReport { datanodes: mut reports, repair } =
        ctx.client.get_cluster_report(&ctx.caller).await.map_err(Failure::cluster)?;
    let safe_mode = ctx.client.set_safe_mode(&ctx.caller, SafeModeAction::Get).await.map_err(Failure::cluster)?;
    reports.retain(|report| is_wanted(&args, report.state));
    reports.sort_by(|a, b| (&a.host, a.data_port, &a.uuid).cmp(&(&b.host, b.data_port, &b.uuid)));
    let datanodes: Vec<DatanodeJson> = reports.iter().map(DatanodeJson::from).collect();
    if ctx.json() {
        return ctx.output.json(&document(ctx, &stats, &repair, safe_mode, datanodes));
    }
    for line in summary(&stats, &repair, &safe_mode).into_iter().chain(datanodes.iter().flat_map(node_lines)) {
        ctx.output.line(line)?;
    }
    Ok(())
}

fn is_wanted(args: &ReportArgs, state: DatanodeState) -> bool {
    let all = !args.live && !args.stale && !args.dead;
    all || match state {
        DatanodeState::Live => args.live,
        DatanodeState::Stale => args.stale,
        DatanodeState::Dead => args.dead,
    }
}

fn document(
    ctx: &Context,
    stats: &FsStats,
    repair: &RepairReport,
    safe_mode: SafeModeStatus,
    datanodes: Vec<DatanodeJson>,
) -> ReportJson {
    let defaults = ctx.client.defaults();
    ReportJson {
        cluster_id: defaults.cluster_id.clone(),
        block_pool_id: defaults.block_pool_id.clone(),
        software_version: defaults.software_version.clone(),
        capacity: stats.capacity,
        used: stats.used,
        remaining: stats.remaining,
        use_percent: format::percent(stats.used, stats.capacity),
        files: stats.files,
        blocks: stats.blocks,
        under_replicated_blocks: stats.under_replicated_blocks,
        corrupt_blocks: stats.corrupt_blocks,
        missing_blocks: stats.missing_blocks,
        live_datanodes: stats.live_datanodes,
        dead_datanodes: stats.dead_datanodes,
        safe_mode: safe_mode.is_on,
        safe_mode_status: safe_mode.status,
        repair: repair.into(),
        datanodes,
    }
}

fn size(bytes: u64) -> String {
    format!("{bytes} ({})", format::human_size(bytes))
}

fn summary(stats: &FsStats, repair: &RepairReport, safe_mode: &SafeModeStatus) -> Vec<String> {
    vec![
        format!("Configured Capacity: {}", size(stats.capacity)),
        format!("DFS Used: {}", size(stats.used)),
        format!("DFS Remaining: {}", size(stats.remaining)),
        format!("DFS Used%: {}%", format::percent(stats.used, stats.capacity)),
        format!("Files and directories: {}", stats.files),
        format!("Blocks: {}", stats.blocks),
        format!("Under replicated blocks: {}", stats.under_replicated_blocks),
        format!("Blocks with corrupt replicas: {}", stats.corrupt_blocks),
        format!("Missing blocks: {}", stats.missing_blocks),
        format!("Misplaced blocks: {}", repair.misplaced),
        format!("Blocks with too many replicas: {}", repair.excess),
        format!("Blocks being copied: {}", repair.pending),
        format!("Replicas to be deleted: {}", repair.pending_deletions),
        format!(
            "Repair queue: {} with one replica, {} very low, {} low, {} misplaced, {} without any{}",
            repair.one_left,
            repair.very_low,
            repair.low,
            repair.misplaced,
            repair.none_left,
            if repair.is_scanning { " (still being filled)" } else { "" }
        ),
        safe_mode.status.clone(),
        String::new(),
        format!("DataNodes: {} live, {} dead", stats.live_datanodes, stats.dead_datanodes),
    ]
}

fn admin_words(node: &DatanodeJson) -> String {
    let mut words = node.admin_state.to_owned();
    if node.blocks_to_copy > 0 {
        words.push_str(&format!(", {} to copy", format::counted(node.blocks_to_copy, "block")));
    }
    if let Some(left) = node.maintenance_left_ms {
        words.push_str(&format!(", {} s left", left / 1000));
    }
    words
}

fn node_lines(node: &DatanodeJson) -> Vec<String> {
    let mut lines = vec![
        String::new(),
        format!("Name: {}:{} ({})", node.host, node.data_port, node.state),
        format!("Rack: {}", node.rack),
        format!("Decommission Status: {}", admin_words(node)),
        format!("Id: {}", node.uuid),
        format!("Configured Capacity: {}", size(node.capacity)),
        format!("DFS Used: {}", size(node.used)),
        format!("DFS Remaining: {}", size(node.remaining)),
        format!("DFS Used%: {}%", node.use_percent),
        format!("Blocks: {}", node.blocks),
        format!("Transfers: {}", node.active_transfers),
        format!("Copies to make: {}, replicas to delete: {}", node.outgoing_copies, node.pending_deletions),
        format!("Last contact: {}.{:03} s ago", node.last_heartbeat_ms / 1000, node.last_heartbeat_ms % 1000),
    ];
    lines.extend(node.volumes.iter().map(|volume| {
        let failed = if volume.failed { ", FAILED" } else { "" };
        let (used, capacity) = (format::human_size(volume.used), format::human_size(volume.capacity));
        format!(
            "Volume: {} ({used} of {capacity} used, {}{failed})",
            volume.path,
            format::counted(volume.blocks, "block")
        )
    }));
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dfs_client::{AdminState, VolumeReport};

    use super::*;

    fn report() -> DatanodeReport {
        let volume = |failed| VolumeReport {
            storage_uuid: "DS-1".into(),
            path: "/disk1".into(),
            capacity: 4096,
            used: 1024,
            remaining: 3072,
            failed,
            blocks: 1,
        };
        DatanodeReport {
            uuid: "u".into(),
            host: "10.0.0.1".into(),
            data_port: 9866,
            grpc_port: 9867,
            http_port: 9864,
            rack: "/r".into(),
            state: DatanodeState::Stale,
            last_heartbeat: Duration::from_millis(12_034),
            volumes: vec![volume(false), volume(true)],
            active_transfers: 2,
            software_version: "0.1.0".into(),
            admin_state: AdminState::Decommissioning,
            blocks_to_copy: 3,
            maintenance_left: None,
            outgoing_copies: 1,
            pending_deletions: 0,
        }
    }

    #[test]
    fn a_node_is_the_sum_of_its_volumes() {
        let value = serde_json::to_value(DatanodeJson::from(&report())).unwrap();
        assert_eq!((&value["capacity"], &value["use_percent"]), (&8192.into(), &25.into()));
        assert_eq!((&value["state"], &value["last_heartbeat_ms"]), (&"stale".into(), &12_034.into()));
        assert_eq!((&value["volumes"][1]["failed"], &value["blocks"]), (&true.into(), &2.into()));
    }

    #[test]
    fn lines_tell_state_and_failed_volumes() {
        let lines = node_lines(&DatanodeJson::from(&report()));
        assert!(lines.contains(&"Name: 10.0.0.1:9866 (stale)".to_owned()), "{lines:?}");
        assert!(lines.contains(&"Last contact: 12.034 s ago".to_owned()));
        assert!(lines.contains(&"Decommission Status: decommissioning, 3 blocks to copy".to_owned()));
        assert!(lines.contains(&"Volume: /disk1 (1 K of 4 K used, 1 block, FAILED)".to_owned()));
    }

    #[test]
    fn is_wanted_takes_all_unless_told() {
        let args = |live, stale, dead| ReportArgs { live, stale, dead };
        assert!(is_wanted(&args(false, false, false), DatanodeState::Dead));
        assert!(is_wanted(&args(true, true, false), DatanodeState::Stale));
        assert!(!is_wanted(&args(true, false, false), DatanodeState::Dead));
    }
}
