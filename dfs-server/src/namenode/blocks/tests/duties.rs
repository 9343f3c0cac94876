//! Decommissioning, maintenance, and who may join.

use dfs_common::block::Block;
use dfs_proto::v1;

use super::super::duties::admin_state;
use super::{Cluster, block, finalized};
use crate::namenode::host_rules::{Duty, HostRules};

fn set(cluster: &Cluster, duties: &[(&str, Duty)]) {
    cluster.blocks.set_host_rules(HostRules::of_duties(duties));
}

fn state_of(cluster: &Cluster, at: usize) -> v1::AdminState {
    let state = cluster.blocks.lock();
    admin_state(state.nodes.node(state.nodes.by_uuid(&cluster.nodes[at].uuid).unwrap()))
}

fn health(cluster: &Cluster, id: u64) -> v1::BlockHealth {
    let asked: [Block; 1] = [block(id, 1, 10)];
    cluster.blocks.block_health(&asked, true).remove(0)
}

#[test]
fn block_nobody_has_reported_yet_is_pending() {
    let mut cluster = Cluster::new(&["/a", "/a"]);
    cluster.allocate(1, 1, 2, &[0, 1]);
    assert_eq!((health(&cluster, 1).is_open, health(&cluster, 1).pending), (true, 0));
    cluster.commit(1, 1, 10);
    assert_eq!((health(&cluster, 1).is_open, health(&cluster, 1).pending), (true, 2));
    cluster.put(0, 1, finalized(1, 10));
    assert_eq!((health(&cluster, 1).is_open, health(&cluster, 1).pending), (false, 1));
    cluster.put(1, 1, finalized(1, 10));
    assert_eq!((health(&cluster, 1).is_open, health(&cluster, 1).pending), (false, 0));
}

#[test]
fn decommissioned_node_has_been_copied_and_takes_nothing_more() {
    let mut cluster = Cluster::new(&["/a", "/a", "/b", "/b"]);
    for id in 1..=20 {
        cluster.write(id, 2, &[0, 2]);
    }
    set(&cluster, &[("dn0", Duty::Decommission)]);
    assert_eq!(state_of(&cluster, 0), v1::AdminState::Decommissioning);
    cluster.second();
    assert!(health(&cluster, 1).is_under_replicated);
    cluster.seconds(30);
    assert_eq!(state_of(&cluster, 0), v1::AdminState::Decommissioned);
    for id in 1..=20 {
        // Copied, not moved: the node keeps its replica, which nobody counts; the copy is on the rack that is left.
        assert_eq!(cluster.holders(id, 1, 10), [0, 1, 2], "block {id}");
        let health = health(&cluster, id);
        assert_eq!((health.live, health.decommissioning), (3, 1));
        assert!(!health.is_under_replicated && !health.is_over_replicated && !health.is_misplaced);
    }
    for _ in 0..50 {
        assert!(!cluster.targets(3, Some("10.0.0.1"), &[]).contains(&"dn0".to_owned()));
    }
    cluster.check();
    // Back in service, the third replica is one too many.
    set(&cluster, &[]);
    cluster.seconds(10);
    assert_eq!(state_of(&cluster, 0), v1::AdminState::InService);
    for id in 1..=20 {
        assert_eq!(cluster.holders(id, 1, 10).len(), 2, "block {id}");
    }
    cluster.check();
}

#[test]
fn node_that_dies_on_its_way_out_is_not_done_before_all_its_blocks_are_elsewhere() {
    let mut cluster = Cluster::new(&["/a", "/a", "/b"]);
    cluster.write(1, 1, &[0]);
    cluster.write(2, 2, &[0, 1]);
    set(&cluster, &[("dn0", Duty::Decommission)]);
    cluster.nodes[0].is_up = false;
    cluster.seconds(100);
    // The only replica of a block went with it.
    assert_eq!(state_of(&cluster, 0), v1::AdminState::Decommissioning);
    assert!(cluster.blocks.datanode_report()[0].blocks_to_copy > 0);
    cluster.nodes[0].is_up = true;
    cluster.seconds(60);
    assert_eq!(state_of(&cluster, 0), v1::AdminState::Decommissioned);
    // All is elsewhere: it may go.
    cluster.nodes[0].is_up = false;
    cluster.seconds(100);
    assert_eq!(state_of(&cluster, 0), v1::AdminState::Decommissioned);
    cluster.check();
}

#[test]
fn last_replica_on_a_leaving_node_is_no_excess() {
    let mut cluster = Cluster::new(&["/a"]);
    cluster.write(1, 1, &[0]);
    set(&cluster, &[("dn0", Duty::Decommission)]);
    cluster.seconds(20);
    // Nowhere to copy it: the node must not go, and keeps it.
    assert_eq!(state_of(&cluster, 0), v1::AdminState::Decommissioning);
    assert_eq!(cluster.holders(1, 1, 10), [0]);
    assert_eq!(cluster.blocks.datanode_report()[0].blocks_to_copy, 1);
}

#[test]
fn maintenance_keeps_replicas_counted_until_it_ends() {
    let mut cluster = Cluster::new(&["/a", "/a", "/a", "/a"]);
    for id in 1..=5 {
        cluster.write(id, 2, &[0, 1]);
    }
    cluster.write(6, 1, &[0]);
    set(&cluster, &[("dn0", Duty::Maintain { until_ns: Some(200_000_000_000) })]);
    assert_eq!(state_of(&cluster, 0), v1::AdminState::EnteringMaintenance);
    cluster.seconds(20);
    // Only what nobody else has was copied.
    assert_eq!(state_of(&cluster, 0), v1::AdminState::InMaintenance);
    assert_eq!(cluster.holders(6, 1, 10).len(), 2);
    // It goes away, for longer than a dead node is waited for: nothing is copied.
    cluster.nodes[0].is_up = false;
    cluster.seconds(100);
    for id in 1..=5 {
        assert_eq!(cluster.holders(id, 1, 10), [0, 1], "block {id}");
        assert_eq!(health(&cluster, id).in_maintenance, 1);
    }
    assert_eq!(cluster.blocks.under_replicated_count(), 0);
    cluster.check();
    // Its time is over.
    cluster.seconds(120);
    assert_eq!(state_of(&cluster, 0), v1::AdminState::InService);
    for id in 1..=5 {
        assert_eq!(cluster.located(id).len(), 2, "block {id}");
    }
    cluster.check();
}

#[test]
fn node_back_from_maintenance_in_time_changes_nothing() {
    let mut cluster = Cluster::new(&["/a", "/a", "/a"]);
    cluster.write(1, 2, &[0, 1]);
    set(&cluster, &[("dn0", Duty::Maintain { until_ns: None })]);
    cluster.seconds(5);
    cluster.nodes[0].is_up = false;
    cluster.seconds(90);
    cluster.nodes[0].is_up = true;
    cluster.seconds(3);
    set(&cluster, &[]);
    cluster.seconds(10);
    assert_eq!(cluster.holders(1, 1, 10), [0, 1]);
    assert_eq!(cluster.located(1), ["dn0", "dn1"]);
    cluster.check();
}

#[test]
fn node_in_maintenance_that_may_not_join_any_more_counts_no_longer() {
    let mut cluster = Cluster::new(&["/a", "/a", "/a"]);
    cluster.write(1, 2, &[0, 1]);
    set(&cluster, &[("dn0", Duty::Maintain { until_ns: None })]);
    cluster.seconds(5);
    cluster.nodes[0].is_up = false;
    cluster.seconds(90);
    assert_eq!(cluster.blocks.under_replicated_count(), 0);
    cluster.blocks.set_host_rules(HostRules::of_members(&["dn1", "dn2"]));
    cluster.seconds(10);
    assert_eq!(cluster.located(1), ["dn1", "dn2"]);
    cluster.check();
}
