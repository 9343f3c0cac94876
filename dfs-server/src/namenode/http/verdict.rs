//! The cluster's health in findings: what is the matter, and what operations.md says to do about it.

use std::time::Duration;

use dfs_proto::v1::{AdminState, DatanodeReport, DatanodeState};

use super::facts::Facts;
use crate::pages::health::{Health, Level};
use crate::pages::text::{counted, percent, shown, span};

/// Names of DataNodes and volumes in one finding; the table has all.
const NAMES_MAX: usize = 3;
/// Percent of the capacity that should be left for blocks, and that must be.
const ROOM_WANTED: u64 = 10;
const ROOM_NEEDED: u64 = 2;

/// What is the matter.
pub(super) fn judge(facts: &Facts) -> Health {
    let mut health = Health::default();
    judge_safe_mode(facts, &mut health);
    judge_blocks(facts, &mut health);
    judge_nodes(&facts.nodes, &mut health);
    judge_volumes(&facts.nodes, &mut health);
    judge_room(facts, &mut health);
    health.sorted()
}

fn judge_safe_mode(facts: &Facts, health: &mut Health) {
    let safe_mode = &facts.safe_mode;
    if safe_mode.is_manual {
        health.add(Level::Act, &safe_mode.status, "Until then nobody can change the namespace.");
    } else if safe_mode.is_on {
        health.add(
            Level::Watch,
            &safe_mode.status,
            "It ends by itself. If it does not, start the DataNodes that are away; only when they will not come back: \
             dfs admin safemode leave",
        );
    }
}

fn judge_blocks(facts: &Facts, health: &mut Health) {
    let stats = &facts.stats;
    // During a start they are mostly not reported yet, which safe mode says.
    let is_lost = stats.missing_blocks > 0 && (!facts.safe_mode.is_on || facts.safe_mode.is_manual);
    if is_lost {
        health.add(
            Level::Act,
            format!(
                "{} without a good replica: what is in them cannot be read",
                counted(stats.missing_blocks, "block")
            ),
            "Bring back every DataNode and device that is away: one good replica is enough, the rest is repaired. \
             dfs fsck --list-corrupt / names the files.",
        );
    }
    if stats.corrupt_blocks > 0 {
        health.add(
            Level::Watch,
            format!("{} with a bad replica", counted(stats.corrupt_blocks, "block")),
            "Bad replicas are replaced by themselves. If the number does not fall: dfs fsck / tells what cannot be read.",
        );
    }
    if stats.under_replicated_blocks > 0 {
        health.add(
            Level::Watch,
            format!("{} with too few replicas", counted(stats.under_replicated_blocks, "block")),
            "They are copied by themselves. If the number does not fall, there are too few DataNodes with room: add some, \
             or lower what files ask for with dfs setrep.",
        );
    }
}

fn judge_nodes(nodes: &[DatanodeReport], health: &mut Health) {
    if !nodes.iter().any(|node| node.state() != DatanodeState::DatanodeDead) {
        let what = if nodes.is_empty() { "No DataNode has registered" } else { "No DataNode is alive" };
        health.add(
            Level::Act,
            format!("{what}: no file can be read or written"),
            "Start the DataNodes. dfs.namenode.address of each must name this NameNode.",
        );
    }
    // Those that were drained may be stopped.
    let is_dead = |node: &DatanodeReport| node.state() == DatanodeState::DatanodeDead;
    let dead = |node: &&DatanodeReport| is_dead(node) && node.admin_state() == AdminState::InService;
    let names: Vec<String> = nodes.iter().filter(dead).map(silent_name).collect();
    if !names.is_empty() {
        health.add(
            Level::Watch,
            format!("{} dead: {}", counted(names.len() as u64, "DataNode"), some_of(&names)),
            "Start it again. If it is gone for good, its blocks are copied from their other replicas.",
        );
    }
    let names: Vec<String> = nodes.iter().filter(|node| is_dead(node)).filter_map(leaving_name).collect();
    if !names.is_empty() {
        health.add(
            Level::Watch,
            format!("{} dead on the way out: {}", counted(names.len() as u64, "DataNode"), some_of(&names)),
            "Start it again: not all its blocks are known to be elsewhere.",
        );
    }
    let stale = |node: &&DatanodeReport| node.state() == DatanodeState::DatanodeStale;
    let names: Vec<String> = nodes.iter().filter(stale).map(silent_name).collect();
    if !names.is_empty() {
        health.add(
            Level::Watch,
            format!("{} silent: {}", counted(names.len() as u64, "DataNode"), some_of(&names)),
            "It is read last until it is heard again, and dead when it is not heard for longer.",
        );
    }
    let leaving: Vec<String> = nodes.iter().filter(|node| !is_dead(node)).filter_map(leaving_name).collect();
    if !leaving.is_empty() {
        let what = format!("On the way out: {}", some_of(&leaving));
        health.add(Level::Note, what, "Leave it running until its state is decommissioned or in maintenance.");
    }
}

fn leaving_name(node: &DatanodeReport) -> Option<String> {
    let is_leaving = matches!(node.admin_state(), AdminState::Decommissioning | AdminState::EnteringMaintenance);
    is_leaving.then(|| format!("{} ({} to copy)", name_of(node), counted(node.blocks_to_copy, "block")))
}

fn judge_volumes(nodes: &[DatanodeReport], health: &mut Health) {
    let failed = nodes.iter().filter(|node| node.state() != DatanodeState::DatanodeDead).flat_map(|node| {
        let failed = node.volumes.iter().filter(|volume| volume.failed);
        failed.map(|volume| format!("{} of {}", shown(volume.path.as_bytes()), name_of(node)))
    });
    let failed: Vec<String> = failed.collect();
    if !failed.is_empty() {
        health.add(
            Level::Watch,
            format!("{} failed: {}", counted(failed.len() as u64, "volume"), some_of(&failed)),
            "Its blocks are copied from other replicas. The same device back: mount it, it is taken in again within \
             seconds. A new one: mount it, make the directory, restart the DataNode.",
        );
    }
}

fn judge_room(facts: &Facts, health: &mut Health) {
    let stats = &facts.stats;
    let left = percent(stats.remaining, stats.capacity);
    if stats.capacity == 0 || left >= ROOM_WANTED {
        return;
    }
    let (level, what) = if left < ROOM_NEEDED {
        (Level::Act, format!("The cluster is full: {left} % of the space is left, and writes fail"))
    } else {
        (Level::Watch, format!("The cluster fills up: {left} % of the space is left"))
    };
    health.add(level, what, "Remove files or add DataNodes.");
}

/// `host:port` of a DataNode's data transfers, as everywhere.
pub(super) fn name_of(node: &DatanodeReport) -> String {
    match &node.id {
        Some(id) => shown(format!("{}:{}", id.host, id.data_port).as_bytes()),
        None => String::new(),
    }
}

fn silent_name(node: &DatanodeReport) -> String {
    format!("{} (for {})", name_of(node), span(Duration::from_millis(node.last_heartbeat_ms_ago)))
}

fn some_of(names: &[String]) -> String {
    let first = names[..names.len().min(NAMES_MAX)].join(", ");
    match names.len().saturating_sub(NAMES_MAX) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}
