//! Long work lets others in: the lock is given away again and again. How long the longest hold is, a test on a busy machine
//! cannot tell; `/metrics` does.

use std::time::{Duration, Instant};

use dfs_common::ids::{BlockId, InodeId};
use dfs_proto::v1;

use super::super::{BlockEvent, origin_of};
use super::{Cluster, block, finalized};
use crate::namenode::host_rules::{Duty, HostRules};

const BLOCKS: u64 = 200_000;

/// A block manager with many blocks, all of one node.
fn full_node() -> Cluster {
    let mut cluster = Cluster::new(&["/a"; 2]);
    cluster.blocks.on_events((1..=BLOCKS).map(|id| BlockEvent::Loaded {
        block: block(id, 1, 10),
        inode: InodeId(id),
        replication: 1,
        under_construction: false,
    }));
    cluster.nodes[0].copies = (1..=BLOCKS).map(|id| (id, finalized(1, 10))).collect();
    report_in_pages(&mut cluster);
    cluster
}

fn report_in_pages(cluster: &mut Cluster) {
    let whole = cluster.page(0);
    cluster.nodes[0].next_number += 1;
    let pages = whole.ids.len().div_ceil(100_000).max(1);
    for at in 0..pages {
        let rows = at * 100_000..whole.ids.len().min((at + 1) * 100_000);
        let page = v1::BlockReportPage {
            ids: whole.ids[rows.clone()].to_vec(),
            generation_stamps: whole.generation_stamps[rows.clone()].to_vec(),
            lengths: whole.lengths[rows].to_vec(),
            last_of_storage: at + 1 == pages,
            last: at + 1 == pages,
            ..whole.clone()
        };
        cluster.blocks.block_report_page(&page).unwrap();
    }
}

/// Runs work that takes long, and checks that it let others in. A machine with more to do than cores stops a thread within a
/// hold as well as outside, so no single hold is judged: they are counted, one for each 20 ms at least.
fn check_lets_others_in(cluster: &mut Cluster, what: &str, work: impl FnOnce(&mut Cluster)) {
    let before = cluster.blocks.lock_times().count();
    let started = Instant::now();
    work(cluster);
    let took = started.elapsed();
    let holds = cluster.blocks.lock_times().count() - before;
    println!("{what}: {took:?} in {holds} holds");
    let expected = took.as_millis() / 20;
    assert!(u128::from(holds) >= expected.max(3), "{what}: {took:?} in {holds} holds");
}

#[test]
fn work_on_many_replicas_lets_others_in() {
    let mut cluster = full_node();
    check_lets_others_in(&mut cluster, "a full report again", report_in_pages);
    check_lets_others_in(&mut cluster, "events", |cluster| {
        let event = |id| v1::ReplicaEvent {
            kind: v1::ReplicaEventKind::ReplicaDeleted.into(),
            block: Some(block(id, 1, 10).into()),
            storage_uuid: "s0".into(),
        };
        let request = v1::BlockReceivedAndDeletedRequest {
            datanode_uuid: "dn0".into(),
            registration_id: cluster.nodes[0].registration,
            report_number: cluster.nodes[0].next_number,
            events: (1..=50_000).map(event).collect(),
            block_pool_id: String::new(),
        };
        cluster.nodes[0].next_number += 50_000;
        cluster.blocks.incremental_report(&request).unwrap();
    });
    assert_eq!(cluster.blocks.fs_stats().missing_blocks, 50_000);
    check_lets_others_in(&mut cluster, "a walk over all blocks, and a count", |cluster| {
        cluster.blocks.set_host_rules(HostRules::of_duties(&[("dn0", Duty::Decommission)]));
        cluster.pass(Duration::from_secs(1));
        cluster.blocks.tick();
    });
    cluster.nodes[0].copies = cluster.nodes[0].copies.split_off(&100_001);
    check_lets_others_in(&mut cluster, "a report that names less", report_in_pages);
    assert_eq!(cluster.blocks.fs_stats().missing_blocks, 100_000);
    check_lets_others_in(&mut cluster, "the removal of many", |cluster| {
        cluster.blocks.on_events((100_001..=150_000).map(|id| BlockEvent::Removed { id: BlockId(id) }));
    });
    check_lets_others_in(&mut cluster, "a node's death", |cluster| {
        cluster.pass(Duration::from_secs(61));
        cluster.blocks.tick();
    });
    assert_eq!(cluster.blocks.fs_stats().missing_blocks, BLOCKS - 50_000);
    cluster.check();
}

#[test]
fn events_that_waited_for_a_report_are_applied_in_slices_and_in_order() {
    let mut cluster = full_node();
    cluster.nodes[0].next_number += 1;
    let whole = cluster.page(0);
    let first = v1::BlockReportPage { last: false, last_of_storage: false, ..whole.clone() };
    let first = v1::BlockReportPage { ids: vec![], generation_stamps: vec![], lengths: vec![], ..first };
    cluster.blocks.block_report_page(&first).unwrap();
    cluster.nodes[0].next_number += 1;
    for id in (1..=90_000u64).step_by(1_000) {
        let kinds = [v1::ReplicaEventKind::ReplicaDeleted, v1::ReplicaEventKind::ReplicaReceived];
        for kind in kinds {
            let event = |id| v1::ReplicaEvent {
                kind: kind.into(),
                block: Some(block(id, 1, 10).into()),
                storage_uuid: "s0".into(),
            };
            let request = v1::BlockReceivedAndDeletedRequest {
                datanode_uuid: "dn0".into(),
                registration_id: cluster.nodes[0].registration,
                report_number: cluster.nodes[0].next_number,
                events: (id..id + 500).map(event).collect(),
                block_pool_id: String::new(),
            };
            cluster.nodes[0].next_number += 500;
            cluster.blocks.incremental_report(&request).unwrap();
        }
    }
    check_lets_others_in(&mut cluster, "a report with events behind it", |cluster| {
        cluster.blocks.abort_report(origin_of(&first));
        cluster.blocks.tick();
    });
    assert_eq!(cluster.blocks.fs_stats().missing_blocks, 0);
    cluster.check();
}
