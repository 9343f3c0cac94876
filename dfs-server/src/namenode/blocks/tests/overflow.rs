//! What finds no room is asked for again.

use std::time::Duration;

use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_proto::v1;
use dfs_proto::v1::order::Order;

use super::super::BlockEvent;
use super::super::limits::Limits;
use super::{Cluster, block, finalized};
use crate::namenode::datanodes::Invalidation;
use crate::namenode::datanodes::report_sequence::{QUEUED_EVENTS_MAX, ReportNumber, ReportSequence};

#[test]
fn deletions_beyond_the_bound_are_made_all_the_same() {
    let mut cluster = Cluster::new(&["/a"; 1]);
    cluster.blocks.lock().limits = Limits { deletions: 10, ..Limits::default() };
    for id in 1..=35 {
        cluster.write(id, 1, &[0]);
    }
    cluster.blocks.on_events((1..=35).map(|id| BlockEvent::Removed { id: BlockId(id) }));
    cluster.check();
    cluster.seconds(1);
    assert_eq!(cluster.nodes[0].copies.len(), 25, "the first ten are gone");
    // Confirmed deletions leave room when the time to repeat them is over.
    cluster.seconds(400);
    assert_eq!(cluster.nodes[0].copies.len(), 0);
    assert!(cluster.blocks.lock().overflowed.deletions.is_empty());
    cluster.check();
}

#[test]
fn deletions_beyond_the_bound_are_made_beside_many_replicas_kept_for_good() {
    let mut cluster = Cluster::new(&["/a"; 1]);
    cluster.blocks.lock().limits = Limits { deletions: 10, set_aside: 4, set_aside_per_volume: 4 };
    for id in 1..=35 {
        cluster.write(id, 1, &[0]);
    }
    for id in 1_001..=1_006 {
        cluster.put(0, id, finalized(1, 10));
    }
    cluster.blocks.on_events((1..=35).map(|id| BlockEvent::Removed { id: BlockId(id) }));
    cluster.seconds(400);
    assert_eq!(cluster.nodes[0].copies.keys().copied().collect::<Vec<_>>(), (1_001..=1_006).collect::<Vec<_>>());
    let state = cluster.blocks.lock();
    assert!(state.overflowed.deletions.is_empty());
    assert_eq!((state.overflowed.set_aside.len(), state.set_aside.len()), (1, 4));
    drop(state);
    cluster.check();
}

#[test]
fn deletions_of_many_volumes_that_are_due_again_come_a_few_at_a_time() {
    let mut cluster = Cluster::new(&["/a"; 1]);
    cluster.seconds(1);
    let beat = |storages| {
        let request = v1::SendHeartbeatRequest {
            datanode_uuid: "dn0".into(),
            registration_id: cluster.nodes[0].registration,
            storages,
            ..v1::SendHeartbeatRequest::default()
        };
        cluster.blocks.heartbeat(&request).unwrap().orders
    };
    let volume = |at| v1::StorageReport { storage_uuid: format!("v{at}"), ..v1::StorageReport::default() };
    beat((0..8).map(volume).collect());
    let storages = {
        let mut state = cluster.blocks.lock();
        let (node, now) = (state.nodes.by_uuid("dn0").unwrap(), state.now);
        let storages = state.nodes.node(node).storages.clone();
        for &storage in &storages {
            let volume = state.nodes.storage_mut(storage);
            let doomed = Invalidation { generation_stamp: GenerationStamp(1), is_good: false };
            assert!((1..=2_000).all(|id| volume.doom(BlockId(id), doomed, usize::MAX)));
            while volume.next_invalidation(now).is_some() {}
        }
        storages
    };
    cluster.clock.advance(Duration::from_secs(61));
    let of_order = |order: v1::Order| match order.order {
        Some(Order::Invalidate(order)) => order.blocks.len(),
        _ => 0,
    };
    let ordered: usize = beat(Vec::new()).into_iter().map(of_order).sum();
    let state = cluster.blocks.lock();
    let waiting: usize = storages.iter().map(|&storage| state.nodes.storage(storage).invalidation_count()).sum();
    assert!(ordered > 0 && ordered + waiting <= 4096, "{ordered} and {waiting}");
}

#[test]
fn replicas_of_the_future_beyond_the_bound_are_asked_for_when_there_is_room() {
    let mut cluster = Cluster::new(&["/a"; 2]);
    cluster.blocks.lock().limits = Limits { set_aside: 8, set_aside_per_volume: 5, ..Limits::default() };
    for at in [0, 1] {
        for id in 1..=12 {
            cluster.put(at, id, finalized(1, 10));
        }
    }
    cluster.check();
    assert_eq!(cluster.blocks.unknown_replicas(), 8, "five of one node, and room for others");
    cluster.seconds(30);
    // The log catches up.
    for id in 1..=12 {
        cluster.allocate(id, 1, 2, &[]);
        cluster.commit(id, 1, 10);
    }
    cluster.seconds(30);
    for id in 1..=12 {
        assert_eq!(cluster.located(id), ["dn0", "dn1"], "block {id}");
    }
    cluster.check();
}

#[test]
fn events_beyond_the_bound_while_a_report_streams_in_lead_to_another_one() {
    let now = std::time::Instant::now();
    let mut sequence = ReportSequence::new(now);
    sequence.on_full_page(ReportNumber(1));
    sequence.queue(ReportNumber(2), vec![None; QUEUED_EVENTS_MAX]);
    sequence.queue(ReportNumber(2), vec![None]);
    sequence.on_full_end();
    assert!(sequence.is_full_due(now));
}

#[test]
fn datanodes_that_only_ops_name_take_no_place_of_others() {
    let cluster = Cluster::new(&["/a"; 1]);
    cluster.allocate(1, 1, 1, &[0]);
    for stamp in 2..250 {
        let targets = (0..512).map(|at| (format!("nobody-{stamp}-{at}"), format!("s-{at}"))).collect();
        cluster.blocks.on_events([BlockEvent::Reopened { block: block(1, stamp, 0), targets }]);
    }
    // Nor does a volume that a known DataNode never had.
    let targets = (0..512).map(|at| ("dn0".to_owned(), format!("other-{at}"))).collect();
    cluster.blocks.on_events([BlockEvent::Reopened { block: block(1, 999, 0), targets }]);
    assert!(cluster.blocks.lock().nodes.all_storages().count() < 12_000);
    assert_eq!(cluster.blocks.datanode_report()[0].volumes.len(), 1);
    let id = v1::DatanodeId { uuid: "late".into(), ..v1::DatanodeId::default() };
    let request = v1::RegisterDatanodeRequest { id: Some(id), ..v1::RegisterDatanodeRequest::default() };
    cluster.blocks.register_datanode(&request, "10.0.0.9").unwrap();
    cluster.check();
}

#[test]
fn datanode_that_names_ever_other_volumes_is_refused() {
    let cluster = Cluster::new(&["/a"; 2]);
    let volume = |at: usize| v1::StorageReport { storage_uuid: format!("v{at}"), ..v1::StorageReport::default() };
    let beat = |storages| {
        cluster.blocks.heartbeat(&v1::SendHeartbeatRequest {
            datanode_uuid: "dn0".into(),
            registration_id: cluster.nodes[0].registration,
            storages,
            ..v1::SendHeartbeatRequest::default()
        })
    };
    let refused = (0..2_000).find(|&at| beat(vec![volume(at)]).is_err());
    assert_eq!(refused, Some(999));
    cluster.check();
}

#[test]
fn pipeline_of_unknown_datanodes_is_refused() {
    let cluster = Cluster::new(&["/a"; 2]);
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let check = |datanodes: &[&str], storages: &[&str]| {
        cluster.blocks.check_pipeline(&names(datanodes), &names(storages)).map_err(|error| error.kind())
    };
    use dfs_common::error::ErrorKind::{InvalidArgument, Unavailable};
    assert_eq!(check(&["dn0", "dn1"], &["s0", "s1"]), Ok(()));
    assert_eq!(check(&["dn0", "dn2"], &["s0", "s1"]), Err(Unavailable));
    assert_eq!(check(&["dn0", "dn1"], &["s0", "s0"]), Err(Unavailable));
    assert_eq!(check(&["dn0", "dn1"], &["s0"]), Err(InvalidArgument));
    // Known by an op's word only.
    cluster.blocks.on_events([BlockEvent::Allocated {
        block: block(1, 1, 0),
        inode: dfs_common::ids::InodeId(1),
        replication: 1,
        targets: vec![("hinted".into(), "s".into())],
    }]);
    assert_eq!(check(&["hinted"], &["s"]), Err(Unavailable));
}

#[test]
fn report_that_names_anything_takes_no_more_room_than_what_is_kept() {
    let mut cluster = Cluster::new(&["/a"; 1]);
    cluster.blocks.lock().limits.set_aside_per_volume = 5;
    cluster.nodes[0].copies = (1..=1_000).map(|id| (id, finalized(1, 10))).collect();
    let page = v1::BlockReportPage { last: false, last_of_storage: false, ..cluster.page(0) };
    cluster.blocks.block_report_page(&page).unwrap();
    let mut state = cluster.blocks.lock();
    let node = state.nodes.by_uuid("dn0").unwrap();
    let full = state.nodes.node_mut(node).reports.full_report(ReportNumber(page.report_number)).unwrap();
    assert_eq!(full.pass.as_ref().unwrap().seen.len(), 5);
}
