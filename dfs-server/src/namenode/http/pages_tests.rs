//! What the pages show: of facts made up, and of a NameNode with a log and no DataNodes.

use std::time::{Duration, Instant};

use askama::Template;
use axum::http::{StatusCode, header};
use axum::response::Response;
use dfs_common::attr::{FileAttr, FileKind};
use dfs_common::error::{DfsError, ErrorKind};
use dfs_common::ids::{InodeId, ROOT_INODE, TxId};
use dfs_common::name::Name;
use dfs_proto::v1;

use super::browse::{DirectoryPage, Start, browse, directory_page_of};
use super::facts::Facts;
use super::overview::{Overview, datanode_page};
use super::tree_path::TreePath;
use crate::namenode::blocks::FsStats;
use crate::namenode::checkpoints::{Checkpoints, Known};
use crate::namenode::namespace::read::ListedEntry;
use crate::namenode::room::{ROOM_FOR_EDITS_BYTES, Room};
use crate::namenode::trees::tests::Place;
use crate::pages::text::encoded;

/// Names that a page must neither obey nor lose.
const ODD_NAMES: [&[u8]; 8] = [
    b"<script>alert(1)<!--",
    b"\"><img src=x onerror=alert(1)>",
    b"it's \"quoted\" & more",
    b"two\nlines",
    b"\xff\xfe not UTF-8",
    "left\u{202e}right".as_bytes(),
    b"%2e%2e?after=1#top",
    b"javascript:alert(1)",
];

const GIB: u64 = 1 << 30;

fn node(host: &str, state: v1::DatanodeState) -> v1::DatanodeReport {
    let volume = v1::VolumeReport {
        path: "/disk1/data".into(),
        capacity: 100 * GIB,
        used: 10 * GIB,
        remaining: 80 * GIB,
        blocks: 12,
        ..v1::VolumeReport::default()
    };
    v1::DatanodeReport {
        id: Some(v1::DatanodeId {
            host: host.into(),
            data_port: 9866,
            http_port: 9864,
            rack: "/r1".into(),
            ..v1::DatanodeId::default()
        }),
        state: state.into(),
        last_heartbeat_ms_ago: 300,
        volumes: vec![volume],
        ..v1::DatanodeReport::default()
    }
}

fn facts(nodes: Vec<v1::DatanodeReport>) -> Facts {
    Facts {
        info: v1::NamespaceInfo { cluster_id: "CID-1".into(), ..v1::NamespaceInfo::default() },
        up: Duration::from_secs(7_200),
        txids: (120, 100),
        counts: (1, 2, 3),
        stats: FsStats { capacity: 100 * GIB, used: 10 * GIB, remaining: 80 * GIB, ..FsStats::default() },
        repair: v1::RepairReport::default(),
        safe_mode: v1::SetSafeModeResponse { status: "Safe mode is off.".into(), ..v1::SetSafeModeResponse::default() },
        unknown_replicas: 0,
        nodes,
        checkpoints: Known::default(),
        log_silence: None,
    }
}

fn overview(facts: Facts) -> String {
    Overview::new(facts).render().unwrap()
}

#[test]
fn overview_of_a_cluster_that_is_well_says_so() {
    let text = overview(facts(vec![node("dn1", v1::DatanodeState::DatanodeLive)]));
    for words in
        ["All is well", "1 live", "dn1:9866", "http://dn1:9864/", "/disk1/data", "20 changes ago", "80 GiB free"]
    {
        assert!(text.contains(words), "{words} is missing in {text}");
    }
    assert!(!text.contains("<script") && !text.contains("src="), "nothing is run or fetched");
}

#[test]
fn overview_without_datanodes_asks_for_somebody() {
    let text = overview(facts(Vec::new()));
    assert!(text.contains("Somebody must act") && text.contains("No DataNode has registered"), "{text}");
}

#[test]
fn overview_tells_a_dead_node_first_and_does_not_link_it() {
    let mut dead = node("zz-dead", v1::DatanodeState::DatanodeDead);
    dead.last_heartbeat_ms_ago = 240_000;
    let text = overview(facts(vec![node("aa-live", v1::DatanodeState::DatanodeLive), dead]));
    assert!(text.contains("1 DataNode dead: zz-dead:9866 (for 4 min)"), "{text}");
    let (_, table) = text.split_once("<tbody>").unwrap();
    assert!(table.find("zz-dead").unwrap() < table.find("aa-live").unwrap(), "what needs a look comes first");
    assert!(!text.contains("http://zz-dead"), "nobody answers there");
}

#[test]
fn overview_asks_nobody_about_a_node_that_was_decommissioned() {
    let mut gone = node("gone", v1::DatanodeState::DatanodeDead);
    gone.admin_state = v1::AdminState::Decommissioned.into();
    let text = overview(facts(vec![node("here", v1::DatanodeState::DatanodeLive), gone]));
    assert!(text.contains("All is well") && text.contains("1 decommissioned"), "{text}");
}

#[test]
fn overview_asks_for_a_node_that_died_before_its_blocks_were_copied() {
    let mut gone = node("gone", v1::DatanodeState::DatanodeDead);
    gone.admin_state = v1::AdminState::Decommissioning.into();
    gone.blocks_to_copy = 52;
    let text = overview(facts(vec![node("here", v1::DatanodeState::DatanodeLive), gone]));
    assert!(text.contains("1 DataNode dead on the way out: gone:9866 (52 blocks to copy)"), "{text}");
    assert!(!text.contains("All is well") && !text.contains("On the way out:"), "{text}");
}

#[test]
fn overview_names_lost_blocks_failed_volumes_and_a_full_cluster() {
    let mut facts = facts(vec![node("dn1", v1::DatanodeState::DatanodeLive)]);
    facts.nodes[0].volumes[0].failed = true;
    facts.stats.missing_blocks = 2;
    facts.stats.under_replicated_blocks = 5;
    facts.repair.one_left = 2;
    facts.stats.corrupt_blocks = 4;
    let mut full = node("dn2", v1::DatanodeState::DatanodeLive);
    full.volumes[0].remaining = GIB;
    facts.nodes.push(full);
    let text = overview(facts);
    for words in [
        "2 blocks without a good replica",
        "1 volume failed: /disk1/data of dn1:9866",
        "5 blocks with too few replicas, 2 of them with a single one left",
        "4 blocks with a bad replica",
        "The cluster is full: 1 %",
        "dfs fsck --list-corrupt /",
    ] {
        assert!(text.contains(words), "{words} is missing in {text}");
    }
}

#[test]
fn overview_judges_the_room_of_those_that_take_blocks() {
    let at = |host: &str, remaining| {
        let mut node = node(host, v1::DatanodeState::DatanodeLive);
        node.volumes[0].remaining = remaining;
        node
    };
    // All that is free is on a node that takes nothing more.
    let mut leaving = at("leaving", 90 * GIB);
    leaving.admin_state = v1::AdminState::Decommissioning.into();
    let text = overview(facts(vec![at("small", 5 * GIB), leaving.clone()]));
    assert!(text.contains("The cluster fills up: 5 %"), "{text}");
    let text = overview(facts(vec![leaving]));
    assert!(text.contains("No DataNode takes blocks") && text.contains("Somebody must act"), "{text}");
    let text = overview(facts(vec![at("full", GIB), at("empty", 90 * GIB)]));
    assert!(text.contains("1 DataNode full: full:9866") && text.contains("All is well"), "{text}");
}

#[test]
fn overview_does_not_miss_a_node_that_may_be_away() {
    for admin_state in [v1::AdminState::Decommissioned, v1::AdminState::InMaintenance] {
        for state in [v1::DatanodeState::DatanodeStale, v1::DatanodeState::DatanodeDead] {
            let mut away = node("aa-away", state);
            away.admin_state = admin_state.into();
            away.volumes[0].failed = true;
            let text = overview(facts(vec![node("here", v1::DatanodeState::DatanodeLive), away]));
            assert!(text.contains("All is well"), "{admin_state:?} {state:?}: {text}");
        }
    }
}

#[test]
fn overview_asks_for_somebody_when_safe_mode_does_not_end() {
    let mut facts = facts(vec![node("dn1", v1::DatanodeState::DatanodeLive)]);
    facts.safe_mode.is_on = true;
    facts.safe_mode.status = "Safe mode is on: 0 of 2.".into();
    facts.up = Duration::from_secs(60);
    let (begins, lasts) = (overview(facts.clone()), overview(Facts { up: Duration::from_secs(1_800), ..facts }));
    assert!(begins.contains("It serves, and there is something to look at"), "{begins}");
    assert!(lasts.contains("Somebody must act") && lasts.contains("has not ended for 30 min"), "{lasts}");
}

/// The page of a cluster that is well but for its checkpoints; 120 transactions are applied.
fn overview_of(checkpoints: Known) -> String {
    overview(Facts { checkpoints, ..facts(vec![node("dn1", v1::DatanodeState::DatanodeLive)]) })
}

#[test]
fn overview_tells_of_checkpoints_that_fail_and_of_room() {
    let checkpoints = Checkpoints::default();
    checkpoints.on_own(Some(&DfsError::new(ErrorKind::NoSpace, "write <image>: no space")));
    let failed = overview_of(checkpoints.known());
    assert!(
        failed.contains("The NameNode&#39;s last checkpoint failed") && failed.contains("&#60;image&#62;"),
        "{failed}"
    );
    for (free, words) in [
        (ROOM_FOR_EDITS_BYTES - 1, "device is full"),
        (ROOM_FOR_EDITS_BYTES + 5, "No room for the next checkpoint"),
        (ROOM_FOR_EDITS_BYTES + 10, "All is well"),
    ] {
        let text =
            overview_of(Known { room: Some((Instant::now(), Ok(Room { free, image: 10 }))), ..Known::default() });
        assert!(text.contains(words), "{free}: {words} is missing in {text}");
    }
    let unknown =
        overview_of(Known { room: Some((Instant::now(), Err("it does not answer".into()))), ..Known::default() });
    assert!(unknown.contains("it does not answer"), "{unknown}");
    let Some(told) = Instant::now().checked_sub(Duration::from_secs(60)) else { return };
    let known = Known { room: Some((told, Ok(Room { free: u64::MAX, image: 10 }))), ..Known::default() };
    assert_eq!(known.free_bytes(), None);
    let silent = overview_of(known);
    assert!(silent.contains("has not said for"), "{silent}");
}

#[test]
fn a_log_device_that_hangs_is_told_by_page_and_health() {
    let log_silence = Some(Duration::from_secs(70));
    let text = overview(Facts { log_silence, ..facts(vec![node("dn1", v1::DatanodeState::DatanodeLive)]) });
    assert!(text.contains("Somebody must act") && text.contains("device does not answer for 70 s"), "{text}");
    assert_eq!(super::health(None), (StatusCode::OK, "ok\n".to_owned()));
    let (status, words) = super::health(log_silence);
    assert!(status == StatusCode::SERVICE_UNAVAILABLE && words.contains("does not answer"), "{words}");
}

#[test]
fn overview_tells_of_a_secondary_that_fails_is_late_or_never_came() {
    let told = |report: v1::CheckpointReport| {
        let checkpoints = Checkpoints::default();
        checkpoints.on_look(Some(&report), TxId(120));
        overview_of(checkpoints.known())
    };
    let report = v1::CheckpointReport {
        period_ms: 60_000,
        checkpoint_txid: Some(110),
        checkpoint_age_ms: Some(30_000),
        ..v1::CheckpointReport::default()
    };
    let well = told(report.clone());
    assert!(well.contains("All is well") && well.contains("10 changes ago, 30 s old"), "{well}");
    let failed = told(v1::CheckpointReport { failure: "its <device> is full".into(), ..report.clone() });
    assert!(
        failed.contains("SecondaryNameNode&#39;s last checkpoint failed") && failed.contains("&#60;device&#62;"),
        "{failed}"
    );
    let late = told(v1::CheckpointReport { checkpoint_age_ms: Some(3_600_000), ..report.clone() });
    assert!(late.contains("Somebody must act") && late.contains("10 changes behind, for 60 min"), "{late}");
    let rested =
        told(v1::CheckpointReport { checkpoint_txid: Some(120), checkpoint_age_ms: Some(3_600_000), ..report });
    assert!(rested.contains("All is well"), "{rested}");

    let expected = Known { expects_secondary: true, ..Known::default() };
    assert!(overview_of(expected.clone()).contains("No SecondaryNameNode has asked"));
    let nodes = vec![node("dn1", v1::DatanodeState::DatanodeLive)];
    let begins = overview(Facts { checkpoints: expected, up: Duration::from_secs(60), ..facts(nodes) });
    assert!(begins.contains("All is well"), "{begins}");
    assert!(overview_of(Known::default()).contains("All is well"), "nobody said that there is to be one");
}

#[test]
fn overview_does_not_call_blocks_lost_that_a_start_waits_for() {
    let mut facts = facts(vec![node("dn1", v1::DatanodeState::DatanodeLive)]);
    facts.stats.missing_blocks = 2;
    facts.safe_mode.is_on = true;
    facts.safe_mode.status = "Safe mode is on: 0 of 2".into();
    let text = overview(facts);
    assert!(text.contains("Safe mode is on: 0 of 2") && !text.contains("without a good replica"), "{text}");
}

#[test]
fn overview_escapes_what_datanodes_say_of_themselves() {
    let mut evil = node("<b>\"'evil/", v1::DatanodeState::DatanodeStale);
    evil.volumes[0].path = "/<script>".into();
    evil.id.as_mut().unwrap().rack = "/\"onclick=".into();
    let text = overview(facts(vec![evil]));
    assert!(!text.contains("<script>") && !text.contains("<b>\"'evil") && !text.contains("/\"onclick"), "{text}");
    assert!(!text.contains("http://<b>"), "what is no name is not linked");
}

#[test]
fn overview_of_a_huge_cluster_has_a_bound() {
    let nodes = (0..5_000).map(|at| node(&format!("dn{at}"), v1::DatanodeState::DatanodeLive)).collect();
    let text = overview(facts(nodes));
    assert!(text.contains("4000 more") && text.len() < 2 << 20, "{}", text.len());
}

#[test]
fn datanode_page_links_names_and_addresses_only() {
    let page =
        |host: &str| datanode_page(&v1::DatanodeId { host: host.into(), http_port: 9864, ..v1::DatanodeId::default() });
    assert_eq!(page("10.0.0.1").unwrap(), "http://10.0.0.1:9864/");
    assert_eq!(page("fd00::1").unwrap(), "http://[fd00::1]:9864/");
    for odd in ["", "evil/path", "a@b", "x y", "<b>"] {
        assert_eq!(page(odd), None, "{odd}");
    }
}

fn entry(name: &[u8], kind: FileKind, cookie: u64) -> ListedEntry {
    let attr = FileAttr {
        permissions: 0o4755,
        uid: 1,
        gid: 2,
        length: 1536,
        replication: 3,
        block_size: 1 << 20,
        block_count: 1,
        ..FileAttr::bare(InodeId(9), kind)
    };
    ListedEntry { cookie, name: Name::new(name).unwrap(), attr }
}

fn listed(entries: Vec<ListedEntry>, at_end: bool) -> DirectoryPage {
    let count = entries.len();
    directory_page_of(&TreePath::of_address("/browse/dir/"), entries, at_end, 0, count)
}

#[test]
fn directory_page_escapes_and_links_odd_names() {
    let entries = ODD_NAMES.iter().enumerate().map(|(at, name)| entry(name, FileKind::File, at as u64)).collect();
    let text = listed(entries, true).render().unwrap();
    for name in ODD_NAMES {
        assert!(
            text.contains(&format!("href=\"{}\"", encoded(name))),
            "{:?} is not linked",
            String::from_utf8_lossy(name)
        );
    }
    assert!(!text.contains("<script>") && !text.contains("<img"), "{text}");
    assert!(!text.contains("href=\"javascript:") && !text.contains('\u{202e}'), "{text}");
    assert!(text.contains("two\u{240a}lines") && text.contains("\u{fffd}\u{fffd} not UTF-8"), "{text}");
    assert!(text.contains("-rwsr-xr-x") && text.contains("1.5 KiB"), "{text}");
}

#[test]
fn directory_page_sorts_directories_first_and_goes_on_after_the_last_cookie() {
    let entries =
        vec![entry(b"b", FileKind::File, 3), entry(b"z", FileKind::Directory, 4), entry(b"a", FileKind::File, 5)];
    let page = listed(entries, false);
    assert_eq!(page.next, Some(5));
    let text = page.render().unwrap();
    let at = |words: &str| text.find(words).unwrap();
    assert!(at("href=\"z/\"") < at("href=\"a\"") && at("href=\"a\"") < at("href=\"b\""), "{text}");
    assert!(text.contains("?after=5"), "{text}");
}

#[test]
fn directory_page_of_long_names_is_cut_and_loses_none() {
    let long = |at: u64| format!("{at:04}{}", "\u{1}".repeat(251)).into_bytes();
    let mut seen = 0;
    let mut rest: Vec<ListedEntry> = (0..1_000).map(|at| entry(&long(at), FileKind::File, at)).collect();
    while !rest.is_empty() {
        let page = listed(rest.clone(), true);
        assert!(page.render().unwrap().len() < 1 << 20);
        seen += page.rows.len();
        assert_eq!(page.next.is_some(), page.rows.len() < rest.len());
        rest.retain(|entry| page.next.is_some_and(|next| entry.cookie > next));
    }
    assert_eq!(seen, 1_000);
}

async fn text_of(answer: Response) -> String {
    let bytes = axum::body::to_bytes(answer.into_body(), 1 << 24).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn browse_shows_what_others_may_see() {
    const DIRECTORY: u32 = FileKind::Directory as u32;
    const FILE: u32 = FileKind::File as u32;
    let place = Place::new().await;
    let open = place.make(0, ROOT_INODE, "open", DIRECTORY | 0o755).await;
    let closed = place.make(0, ROOT_INODE, "closed", DIRECTORY | 0o700).await;
    let listable = place.make(0, ROOT_INODE, "listable", DIRECTORY | 0o744).await;
    for name in ODD_NAMES {
        place.make(0, open, name, FILE | 0o644).await;
    }
    place.make(0, open, "private", FILE | 0o600).await;
    for parent in [closed, listable] {
        place.make(0, parent, "inside", FILE | 0o644).await;
    }
    let look = |address: &str| browse(&place.namesystem, address, Start::default());

    let text = text_of(look("/browse/")).await;
    for href in ["href=\"open/\"", "href=\"closed/\"", "href=\"listable/\""] {
        assert!(text.contains(href), "{href} is missing in {text}");
    }
    for refused in ["/browse/closed/", "/browse/closed/inside", "/browse/listable/", "/browse/listable/inside"] {
        let answer = look(refused);
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{refused}");
        assert!(!text_of(answer).await.contains("inside\""), "{refused}");
    }
    for name in ODD_NAMES {
        let address = format!("/browse/open/{}", encoded(name));
        let answer = look(&address);
        assert_eq!(answer.status(), StatusCode::OK, "{address}");
        assert!(text_of(answer).await.contains("Block size"), "{address}");
    }
    let private = text_of(look("/browse/open/private")).await;
    assert!(private.contains("Not everybody may read it"), "{private}");
    for missing in ["/browse/nothing", "/browse/open/..", "/browse/open/a%2Fb", "/browse/open/private/below"] {
        assert_eq!(look(missing).status(), StatusCode::NOT_FOUND, "{missing}");
    }
    for (other, own) in [
        ("/browse/open", "/browse/open/"),
        ("/browse/open/private/", "/browse/open/private"),
        ("/browse//open//", "/browse/open/"),
        ("/browse/open/it's%20%22quoted%22%20&%20more", "/browse/open/it%27s%20%22quoted%22%20%26%20more"),
    ] {
        let answer = look(other);
        assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{other}");
        assert_eq!(answer.headers()[header::LOCATION], own);
    }
}

#[tokio::test]
async fn volumes_that_their_node_names_no_more_are_not_shown() {
    let place = Place::new().await;
    let blocks = place.namesystem.blocks();
    let register = |volumes: &[(&str, &str, bool)]| {
        let storages = volumes.iter().map(|&(uuid, path, failed)| v1::StorageReport {
            storage_uuid: uuid.into(),
            path: path.into(),
            failed,
            ..v1::StorageReport::default()
        });
        let id = v1::DatanodeId { uuid: "dn".into(), host: "dn1".into(), data_port: 9866, ..v1::DatanodeId::default() };
        let request = v1::RegisterDatanodeRequest {
            id: Some(id),
            storages: storages.collect(),
            ..v1::RegisterDatanodeRequest::default()
        };
        blocks.register_datanode(&request, "10.0.0.1").unwrap();
        let report = place.namesystem.datanode_reports().remove(0);
        report.volumes.into_iter().map(|volume| (volume.path, volume.failed)).collect::<Vec<_>>()
    };
    let shown = |path: &str, failed| (path.to_owned(), failed);
    assert_eq!(
        register(&[("a", "/disk1", false), ("b", "/disk2", true)]),
        [shown("/disk1", false), shown("/disk2", true)],
        "a device that failed is named"
    );
    assert_eq!(
        register(&[("a", "/disk1", false), ("c", "/disk2", false)]),
        [shown("/disk1", false), shown("/disk2", false)],
        "it was replaced"
    );
    assert_eq!(register(&[("c", "/disk2", false)]), [shown("/disk2", false)], "it was taken out");
    assert_eq!(
        register(&[("b", "/disk3", false), ("c", "/disk2", false)]),
        [shown("/disk3", false), shown("/disk2", false)],
        "it is back"
    );
}
