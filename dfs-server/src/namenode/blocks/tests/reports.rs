//! What reports do: the table of dispositions, the sequence of numbers, and the diff of full reports.

use std::time::{Duration, Instant};

use dfs_common::block::Block;
use dfs_common::error::ErrorKind;
use dfs_common::ids::{BlockId, GenerationStamp, InodeId};
use dfs_proto::v1::ReplicaState::{Finalized, Rbw, Rur, Rwr, Temporary};
use dfs_proto::v1::order::Order;
use dfs_proto::v1::{self, ReplicaEventKind};

use super::super::block_map::{BlockInfo, BlockState};
use super::super::disposition::{BadReason, Disposition, ReportedReplica, choose_disposition};
use super::super::{BlockEvent, origin_of};
use super::{Cluster, Copy, block, finalized};
use crate::namenode::datanodes::report_sequence::{EventsVerdict, PageVerdict, ReportNumber, ReportSequence};
use crate::namenode::namespace::lost_ids::LostIds;

#[test]
fn choose_disposition_is_this_table() {
    use BlockState::{Committed, Complete, UnderConstruction};
    use Disposition::{Accept, Ignore, Invalidate, MarkBad, RecordOpen, SetAside};
    let known = |state| {
        let block = Block { id: BlockId(1), generation_stamp: GenerationStamp(5), length: 10 };
        Some(BlockInfo::new(block, InodeId(1), 3, state))
    };
    // (known, allocated, reported state, generation stamp, length, expected)
    for (known, was_allocated, state, stamp, length, expected) in [
        (None, true, Finalized, 5, 10, Invalidate),
        (None, true, Rbw, 5, 10, Invalidate),
        (None, false, Finalized, 5, 10, SetAside),
        (None, false, Rwr, 5, 10, SetAside),
        (known(UnderConstruction), true, Finalized, 4, 3, RecordOpen),
        (known(UnderConstruction), true, Rbw, 6, 3, RecordOpen),
        (known(Committed), true, Finalized, 5, 10, Accept),
        (known(Complete), true, Finalized, 5, 10, Accept),
        (known(Complete), true, Finalized, 5, 9, MarkBad(BadReason::WrongLength)),
        (known(Complete), true, Finalized, 5, 11, MarkBad(BadReason::WrongLength)),
        (known(Complete), true, Finalized, 4, 10, MarkBad(BadReason::StaleGeneration)),
        (known(Complete), true, Rbw, 4, 10, MarkBad(BadReason::StaleGeneration)),
        (known(Complete), true, Finalized, 6, 10, SetAside),
        (known(Complete), true, Rbw, 6, 10, SetAside),
        (known(Complete), true, Rbw, 5, 10, Ignore),
        (known(Complete), true, Rur, 5, 10, Ignore),
        (known(Complete), true, Temporary, 5, 10, Ignore),
        (known(Complete), true, Rwr, 5, 10, MarkBad(BadReason::NotFinalized)),
        (known(Committed), true, Rwr, 5, 10, MarkBad(BadReason::NotFinalized)),
    ] {
        let reported = ReportedReplica { state, generation_stamp: GenerationStamp(stamp), length, is_corrupt: false };
        let corrupt = match expected {
            Accept => MarkBad(BadReason::Corrupt),
            MarkBad(BadReason::WrongLength) => MarkBad(BadReason::Corrupt),
            other => other,
        };
        let of_corrupt = ReportedReplica { is_corrupt: true, ..reported };
        assert_eq!(choose_disposition(&of_corrupt, known.as_ref(), was_allocated), corrupt, "{of_corrupt:?}");
        let state = known.as_ref().map(BlockInfo::state);
        assert_eq!(
            choose_disposition(&reported, known.as_ref(), was_allocated),
            expected,
            "{state:?} {was_allocated} {reported:?}"
        );
    }
}

#[test]
fn sequence_applies_each_event_once_and_in_order() {
    let now = Instant::now();
    let mut sequence = ReportSequence::new(now);
    let number = ReportNumber;
    assert_eq!(sequence.on_full_page(number(1)), PageVerdict::Proceed);
    assert_eq!(sequence.on_events(number(2), 3), EventsVerdict::Queue);
    sequence.queue(number(2), vec![None; 3]);
    assert_eq!(sequence.on_full_page(number(1)), PageVerdict::Proceed);
    assert!(!sequence.has_due() && sequence.next_due().is_none(), "the report has not ended");
    assert!(sequence.on_full_end().is_some());
    assert_eq!(sequence.on_events(number(5), 1), EventsVerdict::Queue, "what came before has not been applied");
    sequence.queue(number(5), vec![None]);
    let due: Vec<usize> = std::iter::from_fn(|| sequence.next_due()).map(|events| events.len()).collect();
    assert_eq!(due, [3, 1]);
    // (first, count, expected)
    for (first, count, expected) in [
        (2, 3, EventsVerdict::Ignore),
        (4, 3, EventsVerdict::Apply { skip: 2 }),
        (7, 1, EventsVerdict::Apply { skip: 0 }),
    ] {
        assert_eq!(sequence.on_events(number(first), count), expected, "{first}+{count}");
    }
    assert!(!sequence.is_full_due(now));
    assert_eq!(sequence.on_events(number(10), 1), EventsVerdict::Apply { skip: 0 });
    assert!(sequence.is_full_due(now), "a gap asks for a full report");
    sequence.on_full_ordered(now);
    assert!(!sequence.is_full_due(now));
    assert!(sequence.is_full_due(now + Duration::from_secs(10)), "and asks again");
    assert_eq!(sequence.on_full_page(number(9)), PageVerdict::Ignore, "older than what was applied");
    // Both ways of numbering a full report: its own number, or that of the last event it includes.
    for named in [10, 11] {
        assert_eq!(sequence.on_full_page(number(named)), PageVerdict::Proceed);
        assert!(sequence.on_full_end().is_some());
        assert!(!sequence.is_full_due(now));
    }
}

#[test]
fn sequence_gives_a_report_up_for_good_and_asks_again() {
    let now = Instant::now();
    let mut sequence = ReportSequence::new(now);
    assert!(!sequence.is_full_due(now + Duration::from_secs(29)));
    assert!(sequence.is_full_due(now + Duration::from_secs(30)), "the first report is late");
    let number = ReportNumber;
    assert_eq!(sequence.on_full_page(number(2)), PageVerdict::Proceed);
    assert_eq!(sequence.on_full_page(number(1)), PageVerdict::Refuse, "a younger one has its place");
    sequence.abort_full();
    assert!(sequence.is_full_due(now));
    assert_eq!(sequence.on_full_page(number(2)), PageVerdict::Refuse);
    assert!(sequence.is_full_due(now), "what is refused answers nothing");
    assert_eq!(sequence.on_full_page(number(3)), PageVerdict::Proceed);
    assert_eq!(sequence.on_full_page(number(4)), PageVerdict::Proceed);
    assert_eq!(sequence.on_full_page(number(3)), PageVerdict::Refuse);
    assert!(sequence.on_full_end().is_some() && !sequence.is_full_due(now));
}

/// The full report of a node that the test has begun to send: its first page, and its last.
fn two_pages(cluster: &mut Cluster) -> [v1::BlockReportPage; 2] {
    let whole = cluster.page(0);
    cluster.nodes[0].next_number += 1;
    let half = whole.ids.len() / 2;
    let part = |rows: std::ops::Range<usize>, is_last| v1::BlockReportPage {
        ids: whole.ids[rows.clone()].to_vec(),
        generation_stamps: whole.generation_stamps[rows.clone()].to_vec(),
        lengths: whole.lengths[rows].to_vec(),
        last_of_storage: is_last,
        last: is_last,
        ..whole.clone()
    };
    [part(0..half, false), part(half..whole.ids.len(), true)]
}

fn is_told_to_report(cluster: &mut Cluster, at: usize) -> bool {
    cluster.heartbeat(at).iter().any(|order| matches!(order, Order::BlockReport(_)))
}

#[test]
fn full_report_given_up_between_two_pages_does_not_go_on() {
    let mut cluster = Cluster::new(&["/a"; 1]);
    cluster.seconds(1);
    (1..=10).for_each(|id| cluster.write(id, 1, &[0]));
    let pages = two_pages(&mut cluster);
    cluster.blocks.block_report_page(&pages[0]).unwrap();
    cluster.blocks.abort_report(origin_of(&pages[0]));
    assert_eq!(cluster.blocks.block_report_page(&pages[1]).unwrap_err().kind(), ErrorKind::Cancelled);
    assert!((1..=10).all(|id| cluster.located(id) == ["dn0"]), "what the first page named is there");
    assert!(is_told_to_report(&mut cluster, 0));
    cluster.report(0);
    assert!(!is_told_to_report(&mut cluster, 0));
    cluster.check();
}

#[test]
fn full_report_is_not_given_up_for_an_older_one() {
    let mut cluster = Cluster::new(&["/a"; 1]);
    cluster.seconds(1);
    (1..=10).for_each(|id| cluster.write(id, 1, &[0]));
    let [old, young] = [(); 2].map(|()| two_pages(&mut cluster));
    cluster.blocks.block_report_page(&old[0]).unwrap();
    cluster.blocks.block_report_page(&young[0]).unwrap();
    assert_eq!(cluster.blocks.block_report_page(&old[1]).unwrap_err().kind(), ErrorKind::Cancelled);
    cluster.blocks.abort_report(origin_of(&old[1]));
    cluster.blocks.block_report_page(&young[1]).unwrap();
    assert!((1..=10).all(|id| cluster.located(id) == ["dn0"]));
    assert!(!is_told_to_report(&mut cluster, 0));
    cluster.check();
}

#[test]
fn full_report_that_leaves_a_volume_before_its_end_or_comes_back_is_refused() {
    let mut cluster = Cluster::new(&["/a"; 1]);
    cluster.seconds(1);
    let volumes = ["s0", "s1"].map(|uuid| v1::StorageReport { storage_uuid: uuid.into(), ..Default::default() });
    let beat = v1::SendHeartbeatRequest {
        datanode_uuid: "dn0".into(),
        registration_id: cluster.nodes[0].registration,
        storages: volumes.to_vec(),
        ..Default::default()
    };
    (1..=10).for_each(|id| cluster.write(id, 1, &[0]));
    cluster.blocks.heartbeat(&beat).unwrap();
    for is_first_ended in [false, true] {
        let [first, second] = two_pages(&mut cluster);
        let first = v1::BlockReportPage { last_of_storage: is_first_ended, ..first };
        cluster.blocks.block_report_page(&first).unwrap();
        let storage_uuid = if is_first_ended { "s0" } else { "s1" };
        let second = v1::BlockReportPage { storage_uuid: storage_uuid.into(), ..second };
        assert_eq!(cluster.blocks.block_report_page(&second).unwrap_err().kind(), ErrorKind::Protocol);
        let located = (1..=10).filter(|&id| cluster.located(id) == ["dn0"]).count();
        assert_eq!(located, if is_first_ended { 5 } else { 10 });
    }
    cluster.report(0);
    let [first, second] = two_pages(&mut cluster);
    cluster.blocks.block_report_page(&first).unwrap();
    let end = v1::BlockReportPage {
        storage_uuid: String::new(),
        ids: Vec::new(),
        generation_stamps: Vec::new(),
        lengths: Vec::new(),
        ..second
    };
    assert_eq!(cluster.blocks.block_report_page(&end).unwrap_err().kind(), ErrorKind::Protocol);
    assert!((1..=10).all(|id| cluster.located(id) == ["dn0"]));
    cluster.check();
}

#[test]
fn event_of_an_unknown_volume_that_waits_for_a_report_leads_to_another_one() {
    let mut cluster = Cluster::new(&["/a"; 1]);
    cluster.seconds(1);
    (1..=10).for_each(|id| cluster.write(id, 1, &[0]));
    let pages = two_pages(&mut cluster);
    cluster.blocks.block_report_page(&pages[0]).unwrap();
    let volume = std::mem::replace(&mut cluster.nodes[0].storage, "long".repeat(100_000));
    cluster.put(0, 11, finalized(1, 10));
    cluster.nodes[0].storage = volume;
    cluster.put(0, 12, finalized(1, 10));
    cluster.blocks.block_report_page(&pages[1]).unwrap();
    assert_eq!(cluster.blocks.unknown_replicas(), 1, "the other event counts");
    assert!(is_told_to_report(&mut cluster, 0));
    cluster.check();
}

#[test]
fn reports_that_never_end_keep_no_other_from_being_asked_for() {
    let mut cluster = Cluster::new(&["/a"; 8]);
    cluster.seconds(1);
    let begin = |cluster: &mut Cluster, at: usize| {
        let page = v1::BlockReportPage { last: false, last_of_storage: false, ..cluster.page(at) };
        cluster.blocks.block_report_page(&page).unwrap();
    };
    let miss_an_event = |cluster: &mut Cluster, at: usize| {
        cluster.event(at, ReplicaEventKind::ReplicaDeleted, block(1, 1, 1), true);
        cluster.event(at, ReplicaEventKind::ReplicaDeleted, block(1, 1, 1), false);
    };
    // Nobody asked for these.
    (0..6).for_each(|at| begin(&mut cluster, at));
    miss_an_event(&mut cluster, 7);
    assert!(is_told_to_report(&mut cluster, 7));
    cluster.report(7);
    for at in 0..6 {
        cluster.report(at);
        miss_an_event(&mut cluster, at);
        assert!(is_told_to_report(&mut cluster, at));
        begin(&mut cluster, at);
    }
    miss_an_event(&mut cluster, 6);
    assert!(!is_told_to_report(&mut cluster, 6), "six are under way");
    let is_asked = (0..20).any(|_| {
        cluster.pass(Duration::from_secs(10));
        (0..6).for_each(|at| {
            begin(&mut cluster, at);
            assert!(!is_told_to_report(&mut cluster, at), "its report is coming");
        });
        is_told_to_report(&mut cluster, 6)
    });
    assert!(is_asked);
    cluster.check();
}

#[test]
fn failed_copies_beyond_what_a_node_is_told_to_make_are_left_to_their_time() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.write(1, 2, &[0]);
    cluster.blocks.tick();
    assert_eq!(cluster.blocks.pending_count(), 1);
    let beat = |cluster: &mut Cluster, others: usize| {
        cluster.nodes[0].failed_copies = vec![v1::Block::default(); others];
        cluster.nodes[0].failed_copies.push(block(1, 1, 10).into());
        cluster.heartbeat(0);
        cluster.blocks.pending_count()
    };
    assert_eq!(beat(&mut cluster, 100_000), 1);
    assert_eq!(beat(&mut cluster, 1_000), 0);
    cluster.check();
}

#[test]
fn full_report_adds_and_forgets() {
    let mut cluster = Cluster::new(&["/a"; 2]);
    for id in 1..=10 {
        cluster.write(id, 1, &[0]);
    }
    for id in 1..=5 {
        cluster.nodes[0].copies.remove(&id);
    }
    cluster.report(0);
    assert!(cluster.located(3).is_empty());
    assert_eq!(cluster.located(7), ["dn0"]);
    assert_eq!(cluster.blocks.fs_stats().missing_blocks, 5);
    assert_eq!(cluster.blocks.missing_blocks(2), [(BlockId(1), InodeId(1)), (BlockId(2), InodeId(2))]);
    cluster.nodes[0].copies.insert(3, finalized(1, 10));
    cluster.report(0);
    assert_eq!(cluster.located(3), ["dn0"]);
    cluster.check();
}

#[test]
fn full_report_in_pages_equals_one_page() {
    let mut cluster = Cluster::new(&["/a"; 1]);
    for id in 1..=100 {
        cluster.allocate(id, 1, 1, &[]);
        cluster.commit(id, 1, 10);
        cluster.nodes[0].copies.insert(id, finalized(1, 10));
    }
    let whole = cluster.page(0);
    for (at, ids) in whole.ids.chunks(7).enumerate() {
        let is_last = (at + 1) * 7 >= 100;
        let page = v1::BlockReportPage {
            ids: ids.to_vec(),
            generation_stamps: vec![1; ids.len()],
            lengths: vec![10; ids.len()],
            last_of_storage: is_last,
            last: is_last,
            ..whole.clone()
        };
        cluster.blocks.block_report_page(&page).unwrap();
    }
    assert_eq!(cluster.blocks.fs_stats().missing_blocks, 0);
    cluster.check();
}

#[test]
fn full_report_of_a_malformed_page_is_given_up_and_asked_for_again() {
    let mut cluster = Cluster::new(&["/a"; 1]);
    cluster.seconds(1);
    cluster.write(1, 1, &[0]);
    let good = cluster.page(0);
    type Damage = fn(&mut v1::BlockReportPage);
    let damages: [(Damage, ErrorKind); 5] = [
        (|page| page.lengths.clear(), ErrorKind::Protocol),
        (|page| page.ids = vec![2, 1], ErrorKind::Protocol),
        (|page| page.storage_uuid = "other".into(), ErrorKind::InvalidArgument),
        (|page| page.registration_id += 1, ErrorKind::Stale),
        (|page| page.datanode_uuid = "other".into(), ErrorKind::Stale),
    ];
    for (number, (damage, kind)) in (good.report_number..).zip(damages) {
        // A repeat takes a number of its own.
        let mut page = v1::BlockReportPage { report_number: number, ..good.clone() };
        page.ids = vec![1, 2];
        page.generation_stamps = vec![1, 1];
        page.lengths = vec![10, 10];
        damage(&mut page);
        let result = cluster.blocks.block_report_page(&page);
        assert_eq!(result.unwrap_err().kind(), kind);
        assert_eq!(cluster.located(1), ["dn0"]);
    }
    assert!(cluster.heartbeat(0).iter().any(|order| matches!(order, Order::BlockReport(_))));
    cluster.check();
}

#[test]
fn replicas_of_removed_blocks_go_and_of_unknown_ones_stay() {
    let mut cluster = Cluster::new(&["/a"; 1]);
    cluster.allocate(5, 1, 1, &[]);
    cluster.blocks.on_events([BlockEvent::Removed { id: BlockId(5) }]);
    for id in [3, 5, 6, 1_000] {
        cluster.nodes[0].copies.insert(id, finalized(1, 10));
    }
    cluster.report(0);
    cluster.seconds(3);
    let left: Vec<u64> = cluster.nodes[0].copies.keys().copied().collect();
    assert_eq!(left, [6, 1_000], "ids from 6 on were never allocated");
    // The log catches up: what was set aside counts.
    cluster.allocate(6, 1, 1, &[]);
    cluster.commit(6, 1, 10);
    assert_eq!(cluster.located(6), ["dn0"]);
    cluster.blocks.set_allocated_limit(BlockId(2_000));
    cluster.report(0);
    cluster.seconds(3);
    assert_eq!(cluster.nodes[0].copies.keys().copied().collect::<Vec<_>>(), [6]);
    cluster.check();
}

#[test]
fn replicas_of_lost_ids_are_kept_and_grown_blocks_named() {
    let mut cluster = Cluster::new(&["/a"; 2]);
    cluster.write(1, 2, &[0, 1]);
    let lost = LostIds {
        blocks: BlockId(100)..BlockId(1_000),
        generation_stamps: GenerationStamp(50)..GenerationStamp(1_000),
    };
    cluster.blocks.set_lost(&[lost]);
    cluster.blocks.set_allocated_limit(BlockId(2_000));
    // Of a removed block, of lost time, never allocated; and the known block, grown, on one node more than on the other.
    for id in [99, 100, 999, 2_000] {
        cluster.nodes[0].copies.insert(id, finalized(1, 10));
    }
    cluster.nodes[0].copies.insert(1, finalized(51, 12));
    cluster.nodes[1].copies.insert(1, finalized(52, 15));
    cluster.report(0);
    cluster.report(1);
    cluster.seconds(3);
    assert_eq!(cluster.nodes[0].copies.keys().copied().collect::<Vec<_>>(), [1, 100, 999, 2_000]);
    let grown = Block { id: BlockId(1), generation_stamp: GenerationStamp(52), length: 15 };
    assert_eq!(cluster.blocks.take_outgrown().iter().map(|(_, block)| *block).collect::<Vec<_>>(), [grown]);
    assert_eq!(cluster.blocks.take_outgrown(), [], "once per report");
    // Shorter than what the namespace promises: cut since, nothing to reclaim.
    cluster.nodes[1].copies.insert(1, finalized(53, 5));
    cluster.nodes[0].copies.remove(&1);
    cluster.report(0);
    cluster.report(1);
    assert_eq!(cluster.blocks.take_outgrown(), []);
    cluster.check();
}

#[test]
fn append_makes_replicas_of_the_old_generation_stale() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.write(1, 3, &[0, 1, 2]);
    // dn2 drops out of the pipeline that appends; the reports of the others come before the log's entry.
    for at in [0, 1] {
        cluster.put(at, 1, Copy { state: Rbw, ..finalized(2, 10) });
    }
    assert_eq!(cluster.located(1), ["dn0", "dn1", "dn2"]);
    let targets = [0, 1].map(|at: usize| (format!("dn{at}"), format!("s{at}"))).to_vec();
    cluster.blocks.on_events([BlockEvent::Reopened { block: block(1, 2, 10), targets }]);
    assert!(!cluster.blocks.is_complete(BlockId(1)));
    assert_eq!(cluster.located(1), ["dn0", "dn1"]);
    for at in [0, 1] {
        cluster.put(at, 1, finalized(2, 15));
    }
    cluster.commit(1, 2, 15);
    assert!(cluster.blocks.is_complete(BlockId(1)));
    cluster.check();
    cluster.seconds(5);
    assert_eq!(cluster.holders(1, 2, 15), [0, 1, 2], "the stale replica is deleted, then a new one copied there");
    cluster.check();
}

#[test]
fn complete_waits_for_the_minimum_of_replicas() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.allocate(1, 1, 3, &[0, 1, 2]);
    cluster.commit(1, 1, 10);
    assert!(!cluster.blocks.is_complete(BlockId(1)));
    cluster.put(1, 1, finalized(1, 10));
    assert!(cluster.blocks.is_complete(BlockId(1)));
    cluster.second();
    assert_eq!(cluster.blocks.under_replicated_count(), 0, "the rest of the pipeline will report");
    assert_eq!(cluster.blocks.pending_count(), 1);
    cluster.put(0, 1, finalized(1, 10));
    cluster.put(2, 1, finalized(1, 10));
    assert_eq!((cluster.blocks.pending_count(), cluster.blocks.replica_count(BlockId(1))), (0, 3));
    cluster.check();
}

#[test]
fn lost_events_are_made_good_by_a_full_report() {
    let mut cluster = Cluster::new(&["/a"; 2]);
    cluster.seconds(1);
    cluster.write(1, 1, &[0]);
    cluster.nodes[0].copies.remove(&1);
    cluster.event(0, ReplicaEventKind::ReplicaDeleted, block(1, 1, 10), true);
    assert_eq!(cluster.located(1), ["dn0"]);
    cluster.put(0, 999, finalized(1, 1));
    cluster.second();
    assert!(cluster.located(1).is_empty());
    cluster.check();
}

#[test]
fn registration_of_a_uuid_replaces_the_one_before() {
    let mut cluster = Cluster::new(&["/a"; 2]);
    cluster.write(1, 1, &[0]);
    let old = cluster.nodes[0].clone();
    cluster.nodes[0].ip = "10.0.0.77".into();
    cluster.register(0);
    assert_ne!(cluster.nodes[0].registration, old.registration);
    assert_eq!(cluster.blocks.datanode_report().len(), 2);
    assert_eq!(cluster.located(1), ["dn0"]);
    let new = std::mem::replace(&mut cluster.nodes[0], old);
    assert!(matches!(cluster.heartbeat(0)[..], [Order::Register(_)]));
    let error = cluster.blocks.block_report_page(&cluster.page(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale);
    cluster.nodes[0] = new;
    assert_eq!(cluster.targets(1, Some("10.0.0.77"), &[]), ["dn0"]);
    cluster.check();
}

#[test]
fn registration_ids_differ_between_runs() {
    let config = dfs_common::config_file::Config::default();
    let mut ids = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let blocks =
            super::BlockManager::new(&config, std::sync::Arc::new(dfs_common::clock::ManualClock::new()), seed);
        let id = v1::DatanodeId { uuid: "dn".into(), ..Default::default() };
        let request = v1::RegisterDatanodeRequest { id: Some(id), ..Default::default() };
        ids.insert(blocks.register_datanode(&request, "10.0.0.1").unwrap().registration_id);
    }
    assert_eq!(ids.len(), 100);
}

#[test]
fn sequence_remembers_a_request_made_while_a_report_streams_in() {
    let now = Instant::now();
    let mut sequence = ReportSequence::new(now);
    sequence.request_full();
    sequence.on_full_page(ReportNumber(1));
    sequence.on_full_end();
    assert!(!sequence.is_full_due(now), "the report is what was asked for");
    sequence.on_full_page(ReportNumber(2));
    sequence.request_full();
    sequence.on_full_end();
    assert!(sequence.is_full_due(now), "the report may be older than what is asked for");
}

fn append(cluster: &mut Cluster, stamp: u64, members: &[usize]) {
    let targets = members.iter().map(|at| (format!("dn{at}"), format!("s{at}"))).collect();
    cluster.blocks.on_events([BlockEvent::Reopened { block: block(1, stamp, 10), targets }]);
    cluster.commit(1, stamp, 10);
    for &at in members {
        cluster.put(at, 1, finalized(stamp, 10));
    }
}

#[test]
fn what_members_said_before_their_pipeline_stood_is_late() {
    let mut cluster = Cluster::new(&["/a"; 4]);
    cluster.write(1, 3, &[0, 1, 2]);
    cluster.seconds(1);
    for at in [1, 2] {
        cluster.nodes[at].is_slow = true;
        // Of the append before.
        cluster.event(at, ReplicaEventKind::ReplicaReceiving, block(1, 1, 10), false);
        cluster.event(at, ReplicaEventKind::ReplicaReceived, block(1, 1, 10), false);
    }
    append(&mut cluster, 2, &[0, 1, 2]);
    for at in [1, 2] {
        let news = cluster.nodes[at].unsent.split_off(2);
        cluster.send_events(at);
        cluster.nodes[at].unsent = news;
    }
    assert_eq!(cluster.located(1), ["dn0", "dn1", "dn2"]);
    append(&mut cluster, 3, &[0]);
    assert_eq!(cluster.located(1), ["dn0"], "who is no member any more");
    append(&mut cluster, 4, &[0, 1, 2]);
    cluster.seconds(3);
    assert_eq!(cluster.holders(1, 4, 10), [0, 1, 2]);
    (1..3).for_each(|at| cluster.send_events(at));
    cluster.check();
    cluster.seconds(70);
    assert_eq!(cluster.holders(1, 4, 10), [0, 1, 2], "nothing was copied, nothing deleted");
}

#[test]
fn member_that_registered_since_tells_what_it_has_now() {
    let mut cluster = Cluster::new(&["/a"; 4]);
    cluster.write(1, 3, &[0, 1, 2]);
    cluster.seconds(1);
    cluster.nodes[1].is_slow = true;
    append(&mut cluster, 2, &[0, 1, 2]);
    assert_eq!(cluster.located(1), ["dn0", "dn1", "dn2"]);
    // A loss of power took the append.
    cluster.seconds(1);
    cluster.nodes[1].is_slow = false;
    cluster.nodes[1].copies.insert(1, finalized(1, 10));
    cluster.register(1);
    assert_eq!(cluster.located(1), ["dn0", "dn2"]);
    cluster.seconds(5);
    assert_eq!(cluster.holders(1, 2, 10).len(), 3, "another one has it instead");
    cluster.check();
}

#[test]
fn deletion_of_what_a_member_had_before_is_void() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.write(1, 3, &[0, 1, 2]);
    append(&mut cluster, 2, &[0, 1]);
    // Outdated: its deletion is decided, ordered, and lost.
    cluster.blocks.tick();
    let is_deletion = |order: &Order| matches!(order, Order::Invalidate(_));
    assert!(cluster.heartbeat(2).iter().any(is_deletion));
    cluster.nodes[2].is_slow = true;
    append(&mut cluster, 3, &[0, 1, 2]);
    cluster.blocks.tick();
    cluster.send_events(2);
    cluster.blocks.tick();
    assert!(!cluster.heartbeat(2).iter().any(is_deletion), "it has what the others have");
    assert_eq!(cluster.located(1), ["dn0", "dn1", "dn2"]);
    cluster.check();
}
