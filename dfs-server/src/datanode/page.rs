//! The DataNode's page: health, volumes with the block scanner's progress, NameNodes. Facts in, page out; no device is waited for.

use askama::Template;

use super::namenode_link::LinkReport;
use super::scanner::ScanStatus;
use super::store::VolumeReport;
use crate::pages::Bar;
use crate::pages::health::{Health, Level};
use crate::pages::text::{counted, date, shown, span};

/// What the page is made of.
pub(super) struct Facts {
    pub(super) uuid: String,
    pub(super) replicas: usize,
    pub(super) transfers: i64,
    pub(super) verified: u64,
    pub(super) found_bad: u64,
    pub(super) volumes: Vec<VolumeFacts>,
    pub(super) links: Vec<LinkReport>,
}

/// A volume, and how far it is scanned.
pub(super) struct VolumeFacts {
    pub(super) report: VolumeReport,
    /// Its device keeps the checker waiting.
    pub(super) is_silent: bool,
    pub(super) scan: ScanStatus,
}

/// The page.
#[derive(Template)]
#[template(path = "datanode.html")]
pub(super) struct Page {
    health: Health,
    facts: Vec<(&'static str, String)>,
    volumes: Vec<VolumeRow>,
    links: Vec<LinkRow>,
    identity: String,
}

struct VolumeRow {
    path: String,
    storage: String,
    state: &'static str,
    class: &'static str,
    space: Bar,
    scan: String,
}

struct LinkRow {
    address: String,
    state: String,
    class: &'static str,
    pool: String,
}

impl Page {
    pub(super) fn new(facts: &Facts) -> Self {
        Self {
            health: judge(facts),
            facts: vec![
                ("Replicas", facts.replicas.to_string()),
                ("Transfers now", facts.transfers.to_string()),
                ("Verified since start", facts.verified.to_string()),
                ("Bad ones found", facts.found_bad.to_string()),
            ],
            volumes: facts.volumes.iter().map(VolumeRow::new).collect(),
            links: facts.links.iter().map(LinkRow::new).collect(),
            identity: format!("dfs {}, DataNode {}", env!("CARGO_PKG_VERSION"), shown(facts.uuid.as_bytes())),
        }
    }
}

fn judge(facts: &Facts) -> Health {
    let mut health = Health::default();
    let all = facts.volumes.len();
    let failed: Vec<String> = paths(facts, |volume| volume.report.failed);
    if failed.len() == all {
        health.add(Level::Act, "No volume works: nothing can be stored or read here", "Replace or mount the devices.");
    } else if !failed.is_empty() {
        health.add(
            Level::Watch,
            format!("{} failed: {}", counted(failed.len() as u64, "volume"), failed.join(", ")),
            "The node goes on with the others: no need to restart it. The same device back: mount it, it is taken in again \
             within seconds. A new one: mount it, make the directory, restart the DataNode.",
        );
    }
    let silent = paths(facts, |volume| volume.is_silent && !volume.report.failed);
    if !silent.is_empty() {
        health.add(
            Level::Watch,
            format!("The device does not answer: {}", silent.join(", ")),
            "New replicas go elsewhere; when it stays so, it is taken out like one that failed.",
        );
    }
    let full = paths(facts, |volume| {
        let space = volume.report.space;
        !volume.report.failed && space.capacity > 0 && space.remaining == 0
    });
    if !full.is_empty() {
        health.add(
            Level::Watch,
            format!("No room for blocks: {}", full.join(", ")),
            "New ones go to other volumes and nodes. Remove files, add DataNodes, or have it evened out: dfs balancer.",
        );
    }
    let away = facts.links.iter().filter(|link| !link.is_in_touch);
    let away: Vec<String> = away.map(|link| shown(link.address.as_bytes())).collect();
    if !away.is_empty() {
        let level = if away.len() == facts.links.len() { Level::Act } else { Level::Watch };
        health.add(
            level,
            format!("NameNode not reached: {}", away.join(", ")),
            "It is asked again and again. See that it runs, and that dfs.namenode.address is its address; the log says why.",
        );
    }
    health.sorted()
}

fn paths(facts: &Facts, is_meant: impl Fn(&VolumeFacts) -> bool) -> Vec<String> {
    let meant = facts.volumes.iter().filter(|volume| is_meant(volume));
    meant.map(|volume| shown(volume.report.path.as_os_str().as_encoded_bytes())).collect()
}

impl VolumeRow {
    fn new(volume: &VolumeFacts) -> Self {
        let VolumeFacts { report, is_silent, scan } = volume;
        let (state, class) = match (report.failed, is_silent) {
            (true, _) => ("failed", "act"),
            (false, true) => ("does not answer", "watch"),
            (false, false) => ("works", "well"),
        };
        let space = report.space;
        Self {
            path: shown(report.path.as_os_str().as_encoded_bytes()),
            storage: report.storage_uuid.to_string(),
            state,
            class,
            space: Bar { used: space.used, capacity: space.capacity, remaining: space.remaining },
            scan: scan_in_words(scan),
        }
    }
}

fn scan_in_words(scan: &ScanStatus) -> String {
    if scan.begun == 0 {
        return "not begun since the start".to_owned();
    }
    let begun = date(i64::try_from(scan.begun).unwrap_or(i64::MAX).saturating_mul(1_000_000_000));
    let so_far = format!("{}, {} bad", counted(scan.replicas, "replica"), scan.bad);
    let state = if scan.is_scanning { "at work" } else { "waiting for its time" };
    format!("{state}; last begun {begun} UTC: {so_far}")
}

impl LinkRow {
    fn new(link: &LinkReport) -> Self {
        let (state, class) = match (link.is_in_touch, link.silent_for) {
            (true, Some(silence)) => (format!("registered, answered {} ago", span(silence)), "well"),
            (false, Some(silence)) => (format!("not reached, answered last {} ago", span(silence)), "watch"),
            (_, None) => ("not reached since the start".to_owned(), "watch"),
        };
        let pool = link.pool.as_deref().unwrap_or("not known yet");
        Self { address: shown(link.address.as_bytes()), state, class, pool: shown(pool.as_bytes()) }
    }
}

#[cfg(test)]
mod pages_tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    fn volume(path: &str, failed: bool, is_silent: bool) -> VolumeFacts {
        let report =
            VolumeReport { storage_uuid: "DS-1".into(), path: PathBuf::from(path), space: Default::default(), failed };
        VolumeFacts { report, is_silent, scan: ScanStatus::default() }
    }

    fn link(silent_for: Option<Duration>) -> LinkReport {
        let is_in_touch = silent_for.is_some_and(|silence| silence < Duration::from_secs(10));
        LinkReport { address: "nn:9820".into(), pool: None, is_in_touch, silent_for }
    }

    fn page(volumes: Vec<VolumeFacts>, links: Vec<LinkReport>) -> String {
        let facts = Facts { uuid: "u<i>".into(), replicas: 7, transfers: 0, verified: 0, found_bad: 0, volumes, links };
        Page::new(&facts).render().unwrap()
    }

    #[test]
    fn page_of_a_node_that_is_well_says_so() {
        let text = page(vec![volume("/disk1", false, false)], vec![link(Some(Duration::from_secs(1)))]);
        assert!(text.contains("All is well") && text.contains("/disk1") && text.contains("not known yet"), "{text}");
        assert!(!text.contains("u<i>"), "it is escaped");
    }

    #[test]
    fn page_names_volumes_that_failed_and_those_that_hang() {
        let volumes = vec![volume("/a<b>", true, false), volume("/slow", false, true), volume("/c", false, false)];
        let text = page(volumes, vec![link(Some(Duration::from_secs(1)))]);
        assert!(text.contains("1 volume failed: /a&#60;b&#62;"), "{text}");
        assert!(text.contains("does not answer: /slow"), "{text}");
    }

    #[test]
    fn page_names_volumes_that_are_full() {
        let mut full = volume("/full", false, false);
        full.report.space.capacity = 100;
        let text = page(vec![full, volume("/unknown", false, false)], vec![link(Some(Duration::ZERO))]);
        assert!(text.contains("No room for blocks: /full<"), "{text}");
    }

    #[test]
    fn page_without_a_namenode_asks_for_somebody() {
        for links in [vec![link(None)], vec![link(Some(Duration::from_secs(60)))]] {
            let text = page(vec![volume("/a", false, false)], links);
            assert!(text.contains("Somebody must act") && text.contains("not reached"), "{text}");
        }
        let text = page(vec![volume("/a", true, false)], vec![link(Some(Duration::ZERO))]);
        assert!(text.contains("No volume works"), "{text}");
    }
}
