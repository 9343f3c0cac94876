//! What `dfs fsck` found, in totals, words and JSON.

use dfs_client::{BlockHealth, FileHealth, ReplicaHealth};
use serde::Serialize;

use crate::context::Context;
use crate::failure::Outcome;
use crate::format;
use crate::json::PathJson;
use crate::path::DfsPath;

/// What is wrong with a block: the worst of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// No replica is known.
    Missing,
    /// All replicas are bad.
    Corrupt,
    /// A bad replica beside good ones.
    BadReplica,
    UnderReplicated,
    Misplaced,
    OverReplicated,
}

impl Problem {
    /// The bytes cannot be had.
    pub(crate) fn is_unreadable(self) -> bool {
        matches!(self, Self::Missing | Self::Corrupt)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Corrupt => "corrupt",
            Self::BadReplica => "corrupt replica",
            Self::UnderReplicated => "under-replicated",
            Self::Misplaced => "mis-placed",
            Self::OverReplicated => "over-replicated",
        }
    }
}

/// What is wrong with a block that is not being written.
pub(crate) fn find_problem(block: &BlockHealth) -> Option<Problem> {
    if block.is_open {
        None
    } else if block.live == 0 {
        Some(if block.corrupt > 0 { Problem::Corrupt } else { Problem::Missing })
    } else if block.corrupt > 0 {
        Some(Problem::BadReplica)
    } else if block.is_under_replicated {
        Some(Problem::UnderReplicated)
    } else if block.is_misplaced {
        Some(Problem::Misplaced)
    } else {
        block.is_over_replicated.then_some(Problem::OverReplicated)
    }
}

/// Totals, and what is to be listed.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) directories: u64,
    /// Links, fifos, sockets, devices.
    pub(crate) others: u64,
    /// Something that was asked about could not be looked at: the totals are without it.
    pub(crate) has_gaps: bool,
    paths: Vec<PathJson>,
    path_words: Vec<String>,
    files: u64,
    open_files: u64,
    bytes: u64,
    blocks: u64,
    open_blocks: u64,
    /// Of blocks that are not being written.
    live_replicas: u64,
    missing_blocks: u64,
    corrupt_blocks: u64,
    unreadable_bytes: u64,
    bad_replica_blocks: u64,
    under_replicated_blocks: u64,
    over_replicated_blocks: u64,
    misplaced_blocks: u64,
    pending_blocks: u64,
    /// The document is wanted, and blocks are kept for it. Otherwise there may be too many of them.
    keeps_blocks: bool,
    listed: Vec<BlockJson>,
}

#[derive(Serialize)]
struct ReportJson<'a> {
    healthy: bool,
    complete: bool,
    fully_replicated: bool,
    paths: &'a [PathJson],
    directories: u64,
    files: u64,
    others: u64,
    open_files: u64,
    bytes: u64,
    blocks: u64,
    open_blocks: u64,
    average_replication: f64,
    missing_blocks: u64,
    corrupt_blocks: u64,
    unreadable_bytes: u64,
    corrupt_replica_blocks: u64,
    under_replicated_blocks: u64,
    over_replicated_blocks: u64,
    misplaced_blocks: u64,
    pending_blocks: u64,
    /// Those with a problem; with --blocks all.
    listed_blocks: &'a [BlockJson],
}

#[derive(Serialize)]
struct BlockJson {
    #[serde(flatten)]
    path: PathJson,
    block_id: u64,
    generation_stamp: u64,
    length: u64,
    problem: Option<&'static str>,
    open: bool,
    wanted: u32,
    live: u32,
    corrupt: u32,
    decommissioning: u32,
    in_maintenance: u32,
    under_replicated: bool,
    over_replicated: bool,
    misplaced: bool,
    pending: u32,
    locations: Vec<LocationJson>,
}

#[derive(Serialize)]
struct LocationJson {
    datanode: String,
    address: String,
    rack: String,
    storage: String,
    admin_state: &'static str,
    corrupt: bool,
    stale: bool,
}

impl Report {
    /// Nothing yet. `keeps_blocks`: those that are to be listed are kept for the document.
    pub(crate) fn new(keeps_blocks: bool) -> Self {
        Self { keeps_blocks, ..Self::default() }
    }

    pub(crate) fn add_path(&mut self, path: &DfsPath) {
        self.paths.push(path.into());
        self.path_words.push(path.to_string());
    }

    /// The paths that were asked about.
    pub(crate) fn paths(&self) -> String {
        self.path_words.join(", ")
    }

    pub(crate) fn add_file(&mut self, file: &FileHealth) {
        self.files += 1;
        self.bytes += file.length;
        self.open_files += u64::from(file.is_open);
    }

    /// Counts a block, and keeps it for the document when it has a problem or all are wanted.
    pub(crate) fn add_block(&mut self, path: &DfsPath, block: &BlockHealth, all: bool) -> Option<Problem> {
        let problem = find_problem(block);
        self.blocks += 1;
        self.open_blocks += u64::from(block.is_open);
        self.pending_blocks += u64::from(block.pending > 0);
        if !block.is_open {
            self.live_replicas += u64::from(block.live);
            self.bad_replica_blocks += u64::from(block.corrupt > 0);
            self.under_replicated_blocks += u64::from(block.is_under_replicated);
            self.over_replicated_blocks += u64::from(block.is_over_replicated);
            self.misplaced_blocks += u64::from(block.is_misplaced);
        }
        self.missing_blocks += u64::from(problem == Some(Problem::Missing));
        self.corrupt_blocks += u64::from(problem == Some(Problem::Corrupt));
        if problem.is_some_and(Problem::is_unreadable) {
            self.unreadable_bytes += block.block.length;
        }
        if self.keeps_blocks && (all || problem.is_some()) {
            self.listed.push(block_json(path, block, problem));
        }
        problem
    }

    /// Some bytes cannot be had.
    pub(crate) fn has_unreadable_blocks(&self) -> bool {
        self.missing_blocks > 0 || self.corrupt_blocks > 0
    }

    /// Every byte that was asked about can be read.
    fn is_healthy(&self) -> bool {
        !self.has_unreadable_blocks() && !self.has_gaps
    }

    fn status(&self) -> &'static str {
        if self.has_unreadable_blocks() {
            "CORRUPT"
        } else if self.has_gaps {
            "INCOMPLETE"
        } else {
            "HEALTHY"
        }
    }

    /// Every block has what it should have, and nothing is on its way.
    fn is_fully_replicated(&self) -> bool {
        let wrong = [self.under_replicated_blocks, self.misplaced_blocks, self.bad_replica_blocks, self.pending_blocks];
        self.is_healthy() && wrong.iter().all(|&count| count == 0)
    }

    /// What is wrong, for the error.
    pub(crate) fn complaint(&self) -> String {
        format!(
            "not healthy: {} missing, {} without a good replica",
            format::counted(self.missing_blocks, "block"),
            format::counted(self.corrupt_blocks, "block")
        )
    }

    #[allow(clippy::cast_precision_loss, reason = "an average for people")]
    fn average_replication(&self) -> f64 {
        let closed = self.blocks - self.open_blocks;
        if closed == 0 { 0.0 } else { self.live_replicas as f64 / closed as f64 }
    }

    /// Shows the totals, or everything as JSON.
    pub(crate) fn print(&self, ctx: &Context, only_corrupt: bool) -> Outcome {
        if ctx.json() {
            return ctx.output.json(&self.document());
        }
        if only_corrupt {
            let count = format::counted(self.missing_blocks + self.corrupt_blocks, "block");
            return ctx.output.line(format!("{} cannot be read below {}", count, self.paths()));
        }
        self.lines().into_iter().try_for_each(|line| ctx.output.line(line))
    }

    fn document(&self) -> ReportJson<'_> {
        ReportJson {
            healthy: self.is_healthy(),
            complete: !self.has_gaps,
            fully_replicated: self.is_fully_replicated(),
            paths: &self.paths,
            directories: self.directories,
            files: self.files,
            others: self.others,
            open_files: self.open_files,
            bytes: self.bytes,
            blocks: self.blocks,
            open_blocks: self.open_blocks,
            average_replication: self.average_replication(),
            missing_blocks: self.missing_blocks,
            corrupt_blocks: self.corrupt_blocks,
            unreadable_bytes: self.unreadable_bytes,
            corrupt_replica_blocks: self.bad_replica_blocks,
            under_replicated_blocks: self.under_replicated_blocks,
            over_replicated_blocks: self.over_replicated_blocks,
            misplaced_blocks: self.misplaced_blocks,
            pending_blocks: self.pending_blocks,
            listed_blocks: &self.listed,
        }
    }

    fn lines(&self) -> Vec<String> {
        let status = self.status();
        vec![
            String::new(),
            format!("Status: {status}"),
            format!(" Total size: {} B ({})", self.bytes, format::human_size(self.bytes)),
            format!(" Total directories: {}", self.directories),
            format!(" Total files: {} ({} open)", self.files, self.open_files),
            format!(" Total links, fifos, devices: {}", self.others),
            format!(" Total blocks: {} ({} being written)", self.blocks, self.open_blocks),
            format!(" Missing blocks: {}", self.missing_blocks),
            format!(" Corrupt blocks: {}", self.corrupt_blocks),
            format!(" Bytes that cannot be read: {}", self.unreadable_bytes),
            format!(" Blocks with corrupt replicas: {}", self.bad_replica_blocks),
            format!(" Under-replicated blocks: {}", self.under_replicated_blocks),
            format!(" Over-replicated blocks: {}", self.over_replicated_blocks),
            format!(" Mis-placed blocks: {}", self.misplaced_blocks),
            format!(" Blocks being copied: {}", self.pending_blocks),
            format!(" Average block replication: {:.3}", self.average_replication()),
            String::new(),
            format!("The filesystem under path '{}' is {status}", self.paths()),
        ]
    }
}

fn block_json(path: &DfsPath, health: &BlockHealth, problem: Option<Problem>) -> BlockJson {
    let location = |replica: &ReplicaHealth| LocationJson {
        datanode: replica.datanode_uuid.clone(),
        address: replica.address.clone(),
        rack: replica.rack.clone(),
        storage: replica.storage_uuid.clone(),
        admin_state: replica.admin_state.name(),
        corrupt: replica.is_corrupt,
        stale: replica.is_stale,
    };
    BlockJson {
        path: path.into(),
        block_id: health.block.id.0,
        generation_stamp: health.block.generation_stamp.0,
        length: health.block.length,
        problem: problem.map(Problem::name),
        open: health.is_open,
        wanted: health.wanted,
        live: health.live,
        corrupt: health.corrupt,
        decommissioning: health.decommissioning,
        in_maintenance: health.in_maintenance,
        under_replicated: health.is_under_replicated,
        over_replicated: health.is_over_replicated,
        misplaced: health.is_misplaced,
        pending: health.pending,
        locations: health.replicas.iter().map(location).collect(),
    }
}

/// A file in one line.
pub(crate) fn file_line(path: &DfsPath, file: &FileHealth) -> Vec<u8> {
    // HDFS's word, which scripts look for.
    let open = if file.is_open { ", OPENFORWRITE" } else { "" };
    [path.as_bytes(), format!(" {} bytes{open}", file.length).as_bytes()].concat()
}

/// A further name of a file that was counted by another.
pub(crate) fn second_name_line(path: &DfsPath, length: u64) -> Vec<u8> {
    [path.as_bytes(), format!(" {length} bytes, another name of a file that is counted already").as_bytes()].concat()
}

/// A block in one line, with what is wrong.
pub(crate) fn describe_block(health: &BlockHealth) -> String {
    let mut words = format!("{} repl={} of {}", health.block, health.live, health.wanted);
    if health.is_open {
        words.push_str(", being written");
    } else {
        words.push_str(&format!(", {}", find_problem(health).map_or("OK".to_owned(), |it| it.name().to_uppercase())));
    }
    for (count, what) in [
        (health.corrupt, "corrupt"),
        (health.decommissioning, "on nodes being decommissioned"),
        (health.in_maintenance, "on nodes in maintenance"),
        (health.pending, "being copied"),
    ] {
        if count > 0 {
            words.push_str(&format!(", {count} {what}"));
        }
    }
    words
}

/// A replica in one line.
pub(crate) fn location_line(replica: &ReplicaHealth) -> String {
    let corrupt = if replica.is_corrupt { ", CORRUPT" } else { "" };
    let stale = if replica.is_stale { ", stale" } else { "" };
    format!(
        "    {} {} {} ({}{corrupt}{stale})",
        replica.address,
        replica.rack,
        replica.storage_uuid,
        replica.admin_state.name()
    )
}

#[cfg(test)]
mod tests {
    use dfs_common::block::Block;
    use dfs_common::ids::{BlockId, GenerationStamp};

    use super::*;

    fn block(live: u32, corrupt: u32) -> BlockHealth {
        BlockHealth {
            block: Block { id: BlockId(1), generation_stamp: GenerationStamp(2), length: 10 },
            wanted: 3,
            live,
            corrupt,
            decommissioning: 0,
            in_maintenance: 0,
            is_open: false,
            is_under_replicated: live > 0 && live < 3,
            is_over_replicated: live > 3,
            is_misplaced: false,
            pending: 0,
            replicas: Vec::new(),
        }
    }

    #[test]
    fn find_problem_is_this_table() {
        for (health, expected) in [
            (block(3, 0), None),
            (block(0, 0), Some(Problem::Missing)),
            (block(0, 2), Some(Problem::Corrupt)),
            (block(2, 1), Some(Problem::BadReplica)),
            (block(2, 0), Some(Problem::UnderReplicated)),
            (block(4, 0), Some(Problem::OverReplicated)),
            (BlockHealth { is_misplaced: true, ..block(3, 0) }, Some(Problem::Misplaced)),
            (BlockHealth { is_open: true, ..block(0, 0) }, None),
        ] {
            assert_eq!(find_problem(&health), expected, "{health:?}");
        }
    }

    #[test]
    fn report_is_healthy_while_every_byte_can_be_read() {
        let path = DfsPath::parse(b"/a").unwrap();
        let mut report = Report::new(true);
        report.add_block(&path, &block(3, 0), false);
        assert!(report.is_fully_replicated() && report.listed.is_empty());
        report.add_block(&path, &block(1, 2), false);
        assert!(report.is_healthy() && !report.is_fully_replicated());
        report.add_block(&path, &block(0, 3), false);
        assert!(!report.is_healthy());
        let document = serde_json::to_value(report.document()).unwrap();
        assert_eq!((&document["healthy"], &document["corrupt_blocks"]), (&false.into(), &1.into()));
        assert_eq!(document["listed_blocks"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn report_keeps_no_blocks_for_people() {
        let path = DfsPath::parse(b"/a").unwrap();
        let mut report = Report::default();
        report.add_block(&path, &block(0, 0), true);
        assert!(report.listed.is_empty() && report.has_unreadable_blocks());
    }

    #[test]
    fn average_replication_is_that_of_blocks_that_are_whole() {
        let path = DfsPath::parse(b"/a").unwrap();
        let mut report = Report::default();
        report.add_block(&path, &block(3, 0), false);
        report.add_block(&path, &BlockHealth { is_open: true, ..block(2, 0) }, false);
        assert!((report.average_replication() - 3.0).abs() < 1e-9, "{}", report.average_replication());
    }

    #[test]
    fn report_with_gaps_is_not_healthy() {
        let path = DfsPath::parse(b"/a").unwrap();
        let mut report = Report { has_gaps: true, ..Report::default() };
        report.add_path(&path);
        report.add_block(&path, &block(3, 0), false);
        assert_eq!(report.lines().last().unwrap(), "The filesystem under path '/a' is INCOMPLETE");
        let document = serde_json::to_value(report.document()).unwrap();
        let said = ["healthy", "complete", "fully_replicated"].map(|field| document[field].as_bool());
        assert_eq!(said, [Some(false); 3]);
        // What is known to be lost is told before what is not known.
        report.add_block(&path, &block(0, 0), false);
        assert_eq!(report.status(), "CORRUPT");
        report.has_gaps = false;
        assert_eq!(serde_json::to_value(report.document()).unwrap()["complete"], true);
    }
}
