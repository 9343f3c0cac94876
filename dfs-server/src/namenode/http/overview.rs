//! The first page: health, capacity, repair, DataNodes with their volumes. Facts in, page out.

use std::time::Duration;

use askama::Template;
use dfs_proto::v1::{self, AdminState, DatanodeReport, DatanodeState, VolumeReport};

use super::facts::Facts;
use super::verdict::{judge, may_be_away, name_of};
use crate::pages::Bar;
use crate::pages::health::Health;
use crate::pages::text::{counted, shown, span};

/// DataNodes in the table, those that need a look first, and volumes shown below them: they bound the page's length.
const NODES_MAX: usize = 1_000;
const VOLUMES_MAX: usize = 2_000;

/// The page.
#[derive(Template)]
#[template(path = "namenode.html")]
pub(super) struct Overview {
    health: Health,
    space: Bar,
    safe_mode: String,
    facts: Vec<(&'static str, String)>,
    repair: Vec<(&'static str, u64)>,
    is_scanning: bool,
    nodes_in_words: String,
    nodes: Vec<NodeRow>,
    nodes_hidden: usize,
    identity: String,
}

struct NodeRow {
    name: String,
    link: Option<String>,
    rack: String,
    state: &'static str,
    class: &'static str,
    duty: String,
    silence: String,
    space: Bar,
    blocks: u64,
    failed: usize,
    volume_count: usize,
    /// Empty where the page has enough of them.
    volumes: Vec<VolumeRow>,
}

struct VolumeRow {
    path: String,
    failed: bool,
    space: Bar,
    blocks: String,
}

impl Overview {
    pub(super) fn new(facts: Facts) -> Self {
        let health = judge(&facts);
        let (stats, repair) = (facts.stats, &facts.repair);
        let (files, directories, blocks) = facts.counts;
        let (applied, saved) = facts.txids;
        let secondary = secondary_in_words(&facts);
        let nodes_in_words = node_counts(&facts.nodes);
        let mut nodes = facts.nodes;
        nodes.sort_by_cached_key(|node| (std::cmp::Reverse(concern(node)), name_of(node)));
        let mut room = VOLUMES_MAX;
        Self {
            health,
            space: Bar { used: stats.used, capacity: stats.capacity, remaining: stats.remaining },
            safe_mode: facts.safe_mode.status,
            facts: vec![
                ("Files", files.to_string()),
                ("Directories", directories.to_string()),
                ("Blocks", blocks.to_string()),
                ("Last transaction", applied.to_string()),
                ("Last checkpoint", format!("{} ago", counted(applied.saturating_sub(saved), "change"))),
                ("SecondaryNameNode's", secondary),
                ("Up for", span(facts.up)),
            ],
            repair: vec![
                ("Missing blocks", stats.missing_blocks),
                ("Too few replicas", stats.under_replicated_blocks),
                ("One replica left", repair.one_left),
                ("With a bad replica", stats.corrupt_blocks),
                ("Being copied", repair.pending),
                ("On too few racks", repair.misplaced),
                ("Too many replicas", repair.excess),
                ("Replicas to delete", repair.pending_deletions),
                ("Unknown replicas kept", facts.unknown_replicas as u64),
            ],
            is_scanning: repair.is_scanning,
            nodes_in_words,
            nodes_hidden: nodes.len().saturating_sub(NODES_MAX),
            nodes: nodes.iter().take(NODES_MAX).map(|node| NodeRow::new(node, &mut room)).collect(),
            identity: format!(
                "dfs {}, cluster {}, block pool {}",
                facts.info.software_version, facts.info.cluster_id, facts.info.block_pool_id
            ),
        }
    }
}

/// The SecondaryNameNode's checkpoint.
fn secondary_in_words(facts: &Facts) -> String {
    let Some(secondary) = &facts.checkpoints.secondary else { return "not heard of".to_owned() };
    let Some(last) = secondary.told.last else { return "not told yet".to_owned() };
    let behind = counted(facts.txids.0.saturating_sub(last.txid.0), "change");
    let made = last.age().map_or(String::new(), |age| format!(", {} old", span(age)));
    format!("{behind} ago{made}")
}

/// How much a DataNode needs somebody's look.
fn concern(node: &DatanodeReport) -> u8 {
    let is_failed = node.volumes.iter().any(|volume| volume.failed);
    match node.state() {
        _ if may_be_away(node) => 1,
        DatanodeState::DatanodeDead => 3,
        DatanodeState::DatanodeStale => 2,
        DatanodeState::DatanodeLive if is_failed => 2,
        DatanodeState::DatanodeLive => u8::from(node.admin_state() != AdminState::InService),
    }
}

fn node_counts(nodes: &[DatanodeReport]) -> String {
    let count = |is_meant: &dyn Fn(&DatanodeReport) -> bool| nodes.iter().filter(|node| is_meant(node)).count();
    let mut words = vec![format!("{} live", count(&|node| node.state() == DatanodeState::DatanodeLive))];
    let failed = nodes.iter().flat_map(|node| &node.volumes).filter(|volume| volume.failed).count();
    for (count, what) in [
        (count(&|node| node.state() == DatanodeState::DatanodeStale), "stale"),
        (count(&|node| node.state() == DatanodeState::DatanodeDead), "dead"),
        (count(&|node| node.admin_state() == AdminState::Decommissioning), "decommissioning"),
        (count(&|node| node.admin_state() == AdminState::Decommissioned), "decommissioned"),
        (count(&|node| node.admin_state() == AdminState::EnteringMaintenance), "entering maintenance"),
        (count(&|node| node.admin_state() == AdminState::InMaintenance), "in maintenance"),
        (failed, if failed == 1 { "failed volume" } else { "failed volumes" }),
    ] {
        if count > 0 {
            words.push(format!("{count} {what}"));
        }
    }
    words.join(", ")
}

impl NodeRow {
    fn new(node: &DatanodeReport, room: &mut usize) -> Self {
        let (state, class) = match node.state() {
            DatanodeState::DatanodeLive => ("live", "well"),
            DatanodeState::DatanodeStale => ("stale", if may_be_away(node) { "note" } else { "watch" }),
            DatanodeState::DatanodeDead => ("dead", if may_be_away(node) { "note" } else { "act" }),
        };
        let sum = |value: fn(&VolumeReport) -> u64| node.volumes.iter().map(value).fold(0, u64::saturating_add);
        let volumes = if node.volumes.len() <= *room { &node.volumes[..] } else { &[] };
        *room -= volumes.len();
        Self {
            name: name_of(node),
            link: node.id.as_ref().and_then(datanode_page).filter(|_| node.state() != DatanodeState::DatanodeDead),
            rack: node.id.as_ref().map(|id| shown(id.rack.as_bytes())).unwrap_or_default(),
            state,
            class,
            duty: duty_in_words(node),
            silence: span(Duration::from_millis(node.last_heartbeat_ms_ago)),
            space: Bar {
                used: sum(|volume| volume.used),
                capacity: sum(|volume| volume.capacity),
                remaining: sum(|volume| volume.remaining),
            },
            blocks: sum(|volume| volume.blocks),
            failed: node.volumes.iter().filter(|volume| volume.failed).count(),
            volume_count: node.volumes.len(),
            volumes: volumes.iter().map(VolumeRow::new).collect(),
        }
    }
}

impl VolumeRow {
    fn new(volume: &VolumeReport) -> Self {
        Self {
            path: shown(volume.path.as_bytes()),
            failed: volume.failed,
            space: Bar { used: volume.used, capacity: volume.capacity, remaining: volume.remaining },
            blocks: counted(volume.blocks, "block"),
        }
    }
}

fn duty_in_words(node: &DatanodeReport) -> String {
    let mut words = match node.admin_state() {
        AdminState::InService => return String::new(),
        AdminState::Decommissioning => "decommissioning",
        AdminState::Decommissioned => "decommissioned",
        AdminState::EnteringMaintenance => "entering maintenance",
        AdminState::InMaintenance => "in maintenance",
    }
    .to_owned();
    if node.blocks_to_copy > 0 {
        words.push_str(&format!(", {} to copy", counted(node.blocks_to_copy, "block")));
    }
    if node.maintenance_left_ms > 0 {
        words.push_str(&format!(", {} left", span(Duration::from_millis(node.maintenance_left_ms))));
    }
    words
}

/// Address of a DataNode's own page. A DataNode says itself what it is called: only what is a name or an address is linked.
pub(super) fn datanode_page(id: &v1::DatanodeId) -> Option<String> {
    let is_name = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    let host = match id.host.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) if is_name(&id.host) => id.host.clone(),
        Err(_) => return None,
    };
    (id.http_port > 0).then(|| format!("http://{host}:{}/", id.http_port))
}
