//! The cluster's health in findings: what is the matter, and what operations.md says to do about it.

use std::time::Duration;

use dfs_proto::v1::{AdminState, DatanodeReport, DatanodeState};

use super::facts::Facts;
use super::verdict_on_checkpoints::judge_checkpoints;
use crate::pages::health::{Health, Level};
use crate::pages::text::{counted, percent, shown, span};

/// Names of DataNodes and volumes in one finding; the table has all.
const NAMES_MAX: usize = 3;
/// Percent of the capacity that should be left for blocks, and that must be.
const ROOM_WANTED: u64 = 10;
const ROOM_NEEDED: u64 = 2;
/// A safe mode that does not end by itself within this will not.
const SAFE_MODE_PATIENCE: Duration = Duration::from_secs(900);

/// What is the matter.
pub(super) fn judge(facts: &Facts) -> Health {
    let mut health = Health::default();
    judge_safe_mode(facts, &mut health);
    judge_blocks(facts, &mut health);
    judge_nodes(&facts.nodes, &mut health);
    judge_volumes(&facts.nodes, &mut health);
    judge_room(&facts.nodes, &mut health);
    judge_checkpoints(facts, &mut health);
    health.sorted()
}

fn judge_safe_mode(facts: &Facts, health: &mut Health) {
    let safe_mode = &facts.safe_mode;
    if safe_mode.is_manual {
        health.add(Level::Act, &safe_mode.status, "Until then nobody can change the namespace.");
    } else if safe_mode.is_on && facts.up > SAFE_MODE_PATIENCE {
        health.add(
            Level::Act,
            format!("{} It has not ended for {}", safe_mode.status, span(facts.up)),
            "Start the DataNodes that are away, also those that are not listed here; only when they will not come back: dfs admin \
             safemode leave",
        );
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
        let alone = match facts.repair.one_left {
            0 => String::new(),
            alone => format!(", {alone} of them with a single one left"),
        };
        health.add(
            Level::Watch,
            format!("{} with too few replicas{alone}", counted(stats.under_replicated_blocks, "block")),
            "They are copied by themselves. If the number does not fall, there are too few DataNodes with room: add some, \
             or lower what files ask for with dfs setrep.",
        );
    }
    if facts.repair.misplaced > 0 {
        health.add(
            Level::Note,
            format!("{} on too few racks", counted(facts.repair.misplaced, "block")),
            "They are copied to another rack by themselves, where it has room.",
        );
    }
    if facts.unknown_replicas > 0 {
        health.add(
            Level::Note,
            format!("{} that no file explains, kept", counted(facts.unknown_replicas as u64, "replica")),
            "They are of files that were newer than a checkpoint that was restored, or of a newer NameNode. They take room and are \
             never deleted.",
        );
    }
}

/// Whether nobody need miss it: what it held is elsewhere, or it is away because somebody said so.
pub(super) fn may_be_away(node: &DatanodeReport) -> bool {
    matches!(node.admin_state(), AdminState::Decommissioned | AdminState::InMaintenance)
}

/// Whether new blocks may go there.
fn takes_blocks(node: &DatanodeReport) -> bool {
    node.state() != DatanodeState::DatanodeDead && node.admin_state() == AdminState::InService
}

fn judge_nodes(nodes: &[DatanodeReport], health: &mut Health) {
    let is_dead = |node: &DatanodeReport| node.state() == DatanodeState::DatanodeDead;
    if nodes.iter().all(is_dead) {
        let what = if nodes.is_empty() { "No DataNode has registered" } else { "No DataNode is alive" };
        health.add(
            Level::Act,
            format!("{what}: no file can be read or written"),
            "Start the DataNodes. dfs.namenode.address of each must name this NameNode.",
        );
    } else if !nodes.iter().any(takes_blocks) {
        health.add(
            Level::Act,
            "No DataNode takes blocks: nothing can be written",
            "All that are alive are decommissioned or in maintenance, or on their way there. Add DataNodes, or take some of these back.",
        );
    }
    let dead = |node: &&DatanodeReport| is_dead(node) && node.admin_state() == AdminState::InService;
    let names: Vec<String> = nodes.iter().filter(dead).map(silent_name).collect();
    if !names.is_empty() {
        health.add(
            Level::Watch,
            format!("{} dead: {}", counted(names.len() as u64, "DataNode"), some_of(&names)),
            "Start it again. If it is gone for good, its blocks are copied from their other replicas; write it into the file \
             dfs.hosts.exclude and run dfs admin refresh-nodes, and nobody is told of it any more.",
        );
    }
    let names: Vec<String> = nodes.iter().filter(|node| is_dead(node)).filter_map(leaving_name).collect();
    if !names.is_empty() {
        health.add(
            Level::Watch,
            format!("{} dead on the way out: {}", counted(names.len() as u64, "DataNode"), some_of(&names)),
            "Not all its blocks are known to be elsewhere. Start it again, or wait until no block lacks replicas.",
        );
    }
    let stale = |node: &&DatanodeReport| node.state() == DatanodeState::DatanodeStale && !may_be_away(node);
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
    let counts = |node: &&DatanodeReport| node.state() != DatanodeState::DatanodeDead && !may_be_away(node);
    let failed = nodes.iter().filter(counts).flat_map(|node| {
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

/// Of the room, what DataNodes have that take blocks: the others' is in the sums of the page, and nobody can use it.
fn judge_room(nodes: &[DatanodeReport], health: &mut Health) {
    let room = |node: &DatanodeReport| {
        let good = node.volumes.iter().filter(|volume| !volume.failed);
        good.fold((0_u64, 0_u64), |(remaining, capacity), volume| {
            (remaining.saturating_add(volume.remaining), capacity.saturating_add(volume.capacity))
        })
    };
    let rooms: Vec<(&DatanodeReport, (u64, u64))> =
        nodes.iter().filter(|node| takes_blocks(node)).map(|node| (node, room(node))).collect();
    let sum = |of: fn(&(u64, u64)) -> u64| rooms.iter().map(|(_, room)| of(room)).fold(0, u64::saturating_add);
    let (remaining, capacity) = (sum(|room| room.0), sum(|room| room.1));
    if capacity == 0 {
        return;
    }
    let left = percent(remaining, capacity);
    if left < ROOM_NEEDED {
        let what =
            format!("The cluster is full: {left} % of the space is left, and writes fail where a block finds no room");
        health.add(Level::Act, what, "Remove files or add DataNodes.");
    } else if left < ROOM_WANTED {
        let what = format!("The cluster fills up: {left} % of the space is left");
        health.add(Level::Watch, what, "Remove files or add DataNodes.");
    } else {
        let is_full = |room: &(u64, u64)| room.1 > 0 && percent(room.0, room.1) < ROOM_NEEDED;
        let full: Vec<String> = rooms.iter().filter(|(_, room)| is_full(room)).map(|(node, _)| name_of(node)).collect();
        if !full.is_empty() {
            let what = format!("{} full: {}", counted(full.len() as u64, "DataNode"), some_of(&full));
            health.add(Level::Note, what, "New blocks go to the others. dfs balancer evens it out.");
        }
    }
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
