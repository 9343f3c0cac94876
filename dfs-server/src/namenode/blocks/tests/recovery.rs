//! Who has a block that waits for recovery, and how the order reaches its primary.

use super::*;
use crate::namenode::blocks::Holders;

const RACKS: [&str; 3] = ["/r", "/r", "/r"];

fn rwr(generation_stamp: u64, length: u64) -> Copy {
    Copy { state: v1::ReplicaState::Rwr, ..finalized(generation_stamp, length) }
}

/// Allocates a block on the first `targets` nodes.
fn allocate(cluster: &Cluster, targets: usize) -> Block {
    let open = block(5, 10, 0);
    let targets = cluster.nodes[..targets].iter().map(|node| (node.uuid.clone(), node.storage.clone())).collect();
    cluster.blocks.on_events([BlockEvent::Allocated { block: open, inode: InodeId(1), replication: 3, targets }]);
    open
}

fn uuids(holders: &Holders) -> Vec<&str> {
    holders.live.iter().map(|node| node.uuid.as_str()).collect()
}

#[test]
fn holders_are_who_was_told_and_who_has_one() {
    let mut cluster = Cluster::new(&RACKS);
    let open = allocate(&cluster, 2);
    assert_eq!(uuids(&cluster.blocks.holders(open.id)), ["dn0", "dn1"]);
    cluster.put(2, 5, finalized(10, 100));
    cluster.nodes[0].copies.insert(5, rwr(10, 100));
    cluster.report(0);
    let holders = cluster.blocks.holders(open.id);
    assert_eq!(uuids(&holders), ["dn2", "dn1", "dn0"], "those that know most first");
    assert!(!holders.others_are_away);
    assert_eq!(cluster.blocks.file_of(open.id), Some(InodeId(1)));
}

#[test]
fn holders_of_an_older_generation_do_not_count() {
    let mut cluster = Cluster::new(&RACKS);
    let open = allocate(&cluster, 0);
    cluster.put(0, 5, finalized(9, 100));
    assert_eq!(uuids(&cluster.blocks.holders(open.id)), [""; 0]);
}

#[test]
fn holders_are_away_until_they_are_dead() {
    let mut cluster = Cluster::new(&RACKS);
    let open = allocate(&cluster, 1);
    cluster.nodes[0].is_up = false;
    let mut seconds = 0;
    while cluster.blocks.holders(open.id).live.len() == 1 {
        cluster.second();
        seconds += 1;
        assert!(seconds < 100, "a silent node is taken for dead at some time");
    }
    let holders = cluster.blocks.holders(open.id);
    assert!(holders.live.is_empty() && !holders.others_are_away && holders.dead_may_return);
    cluster.pass(Duration::from_secs(3500));
    assert!(cluster.blocks.holders(open.id).dead_may_return);
    cluster.pass(Duration::from_secs(200));
    assert!(!cluster.blocks.holders(open.id).dead_may_return, "it stays away");
    // Registered again, but what it holds is not known yet.
    cluster.register_only(0);
    assert!(cluster.blocks.holders(open.id).others_are_away);
    cluster.report(0);
    assert!(!cluster.blocks.holders(open.id).others_are_away);
}

/// An image does not say on which nodes a block was being written.
#[test]
fn holders_of_a_block_without_a_known_pipeline_may_return_for_an_hour() {
    let mut cluster = Cluster::new(&RACKS);
    let open = allocate(&cluster, 0);
    cluster.second();
    let holders = cluster.blocks.holders(open.id);
    assert!(holders.live.is_empty() && !holders.others_are_away && holders.dead_may_return);
    cluster.pass(Duration::from_secs(3500));
    assert!(cluster.blocks.holders(open.id).dead_may_return);
    cluster.pass(Duration::from_secs(200));
    assert!(!cluster.blocks.holders(open.id).dead_may_return);
}

#[test]
fn a_target_never_heard_of_is_away_for_the_dead_interval() {
    let mut cluster = Cluster::new(&RACKS);
    let open = block(5, 10, 0);
    let targets = vec![("stranger".to_owned(), "volume".to_owned())];
    cluster.blocks.on_events([BlockEvent::Allocated { block: open, inode: InodeId(1), replication: 1, targets }]);
    assert!(cluster.blocks.holders(open.id).others_are_away);
    (0..100).for_each(|_| cluster.second());
    assert!(!cluster.blocks.holders(open.id).others_are_away);
}

#[test]
fn a_recovery_is_ordered_once_and_the_newest_counts() {
    let mut cluster = Cluster::new(&RACKS);
    let open = allocate(&cluster, 2);
    let order =
        |stamp| v1::RecoverOrder { block: Some(open.into()), new_generation_stamp: stamp, ..Default::default() };
    cluster.blocks.order_recovery("dn1", order(11));
    cluster.blocks.order_recovery("dn1", order(12));
    assert_eq!(cluster.heartbeat(0), []);
    assert_eq!(cluster.heartbeat(1), [Order::Recover(order(12))]);
    assert_eq!(cluster.heartbeat(1), []);
}

#[test]
fn holders_of_a_block_reopened_before_all_have_reported_are_the_whole_pipeline() {
    let mut cluster = Cluster::new(&RACKS);
    let open = allocate(&cluster, 3);
    let closed = Block { length: 100, ..open };
    cluster.blocks.on_events([BlockEvent::Committed { block: closed }]);
    cluster.put(1, 5, finalized(10, 100));
    assert!(cluster.blocks.is_complete(open.id));
    // Cut at once.
    cluster.blocks.on_events([BlockEvent::Reopened { block: Block { length: 50, ..open }, targets: Vec::new() }]);
    let holders = cluster.blocks.holders(open.id);
    assert_eq!(uuids(&holders), ["dn1", "dn0", "dn2"]);
}

#[test]
fn holders_stay_whole_through_one_truncation_after_the_other() {
    let mut cluster = Cluster::new(&RACKS);
    let open = allocate(&cluster, 3);
    cluster.blocks.on_events([BlockEvent::Committed { block: Block { length: 100, ..open } }]);
    (0..3).for_each(|at| cluster.put(at, 5, finalized(10, 100)));
    let targets: Vec<_> = cluster.nodes.iter().map(|node| (node.uuid.clone(), node.storage.clone())).collect();
    for (stamp, length) in [(11, 90), (12, 80), (13, 70)] {
        let before = block(5, stamp - 1, length);
        cluster.blocks.on_events([BlockEvent::Reopened { block: before, targets: Vec::new() }]);
        assert_eq!(cluster.blocks.holders(open.id).live.len(), 3, "before {stamp}");
        // The file is closed when only one of them has reported its new replica.
        cluster.put(1, 5, finalized(stamp, length));
        let cut = block(5, stamp, length);
        cluster.blocks.on_events([
            BlockEvent::Reopened { block: cut, targets: targets.clone() },
            BlockEvent::Committed { block: cut },
        ]);
        assert_eq!(cluster.blocks.locate(open.id, None).datanodes.len(), 3, "after {stamp}");
    }
    (0..3).for_each(|at| cluster.put(at, 5, finalized(13, 70)));
    cluster.second();
    assert_eq!(cluster.blocks.replica_count(open.id), 3);
}

#[test]
fn holders_are_not_awaited_on_a_node_without_a_working_volume() {
    let mut cluster = Cluster::new(&RACKS);
    let open = allocate(&cluster, 1);
    cluster.nodes[2].has_failed_volume = true;
    cluster.register_only(2);
    assert!(!cluster.blocks.holders(open.id).others_are_away, "it can tell nothing");
    cluster.nodes[2].has_failed_volume = false;
    cluster.heartbeat(2);
    assert!(cluster.blocks.holders(open.id).others_are_away, "its volume is back and not reported");
    cluster.report(2);
    assert!(!cluster.blocks.holders(open.id).others_are_away);
}
