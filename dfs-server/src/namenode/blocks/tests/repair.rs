//! Repair, deletion and corrupt replicas, from the outside.

use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_proto::v1::order::Order;

use super::super::BlockEvent;
use super::super::disposition::BadReason;
use super::super::excess::{ReplicaPlace, choose_excess, may_drop_bad};
use super::super::redundancy::Redundancy;
use super::super::repair_queues::Priority;
use super::super::stats::FsStats;
use super::{Cluster, block, finalized};
use crate::namenode::datanodes::{Datanodes, NodeIndex, StorageIndex};
use crate::namenode::listening::ListeningTime;
use crate::namenode::namespace::inode::FileBlock;

#[test]
fn choose_priority_is_this_table() {
    use Priority::{Low, Misplaced, NoneLeft, OneLeft, VeryLow};
    // (live, pending, wanted, well placed, expected)
    for (live, pending, wanted, placed, expected) in [
        (0, 0, 3, true, Some(NoneLeft)),
        (0, 1, 3, true, Some(NoneLeft)),
        (1, 0, 3, true, Some(OneLeft)),
        (1, 2, 3, true, None),
        (1, 0, 1, true, None),
        (2, 0, 3, true, Some(Low)),
        (2, 1, 3, false, None),
        (2, 0, 10, true, Some(VeryLow)),
        (4, 0, 10, true, Some(Low)),
        (3, 0, 3, true, None),
        (3, 0, 3, false, Some(Misplaced)),
        (5, 0, 3, true, None),
    ] {
        let counts = Redundancy { serving: live, pending, ..Redundancy::default() };
        assert_eq!(counts.choose_priority(wanted, placed), expected, "{live}+{pending} of {wanted}");
    }
}

#[test]
fn choose_excess_keeps_racks_and_nodes() {
    let mut nodes = Datanodes::default();
    let mut rack = |name: &str| {
        let id = dfs_proto::v1::DatanodeId { uuid: name.into(), rack: name.into(), ..Default::default() };
        let request = dfs_proto::v1::RegisterDatanodeRequest { id: Some(id), ..Default::default() };
        let registration = crate::namenode::datanodes::RegistrationId(1);
        let peer = Some([10, 0, 0, 1].into());
        let node = nodes
            .register(&request, peer, registration, std::time::Instant::now(), ListeningTime::default())
            .unwrap()
            .node;
        nodes.node(node).rack
    };
    let (a, b) = (rack("/a"), rack("/b"));
    let place = |storage, node, rack, is_stale, free_steps| ReplicaPlace {
        storage: StorageIndex(storage),
        node: NodeIndex(node),
        rack,
        is_stale,
        free_steps,
        lot: storage,
    };
    // (replicas, storage to delete)
    for (places, expected) in [
        (vec![], None),
        (vec![place(1, 1, a, false, 5)], None),
        // Two on one rack: of these the fuller volume, though the other rack's is fuller still.
        (vec![place(1, 1, a, false, 9), place(2, 2, a, false, 5), place(3, 3, b, false, 1)], Some(2)),
        // A silent node first.
        (vec![place(1, 1, a, true, 9), place(2, 2, a, false, 5), place(3, 3, b, false, 1)], Some(1)),
        // Twice on one node before all.
        (
            vec![place(1, 1, a, true, 9), place(2, 2, a, false, 5), place(3, 3, b, false, 1), place(4, 3, b, false, 2)],
            Some(3),
        ),
        (vec![place(1, 1, a, false, 2), place(2, 2, b, false, 1)], Some(2)),
        // Equals: by lot.
        (vec![place(7, 1, a, false, 2), place(5, 2, a, false, 2), place(6, 3, a, false, 2)], Some(5)),
    ] {
        assert_eq!(choose_excess(&places), expected.map(StorageIndex), "{places:?}");
    }
}

#[test]
fn may_drop_bad_is_this_table() {
    use BadReason::{Corrupt, StaleGeneration};
    // (reason, good, bad, wanted, minimum, expected)
    for (reason, good, bad, wanted, minimum, expected) in [
        (Corrupt, 0, 3, 3, 1, false),
        (StaleGeneration, 0, 3, 3, 1, false),
        (Corrupt, 2, 1, 3, 1, false),
        (Corrupt, 3, 1, 3, 1, true),
        (Corrupt, 2, 2, 3, 1, true),
        (Corrupt, 1, 3, 3, 2, false),
        (StaleGeneration, 1, 1, 3, 1, true),
    ] {
        assert_eq!(may_drop_bad(reason, good, bad, wanted, minimum), expected, "{reason:?} {good} good {bad} bad");
    }
}

#[test]
fn a_dead_node_is_replaced_and_its_return_undone() {
    let mut cluster = Cluster::new(&["/a"; 4]);
    for id in 1..=100 {
        cluster.write(id, 3, &[0, 1, 2]);
    }
    cluster.nodes[2].is_up = false;
    cluster.seconds(60);
    assert_eq!(cluster.blocks.fs_stats().dead_datanodes, 0, "silent, not dead yet");
    cluster.seconds(10);
    let stats = cluster.blocks.fs_stats();
    assert_eq!((stats.live_datanodes, stats.dead_datanodes), (3, 1));
    assert_eq!((stats.under_replicated_blocks, stats.missing_blocks), (0, 0));
    for id in 1..=100 {
        assert_eq!(cluster.located(id), ["dn0", "dn1", "dn3"]);
    }
    cluster.check();
    // Back, still full: the heartbeat is refused, the report brings too many replicas.
    cluster.nodes[2].is_up = true;
    cluster.seconds(5);
    for id in 1..=100 {
        assert_eq!(cluster.holders(id, 1, 10).len(), 3, "block {id}");
        assert_eq!(cluster.located(id).len(), 3, "block {id}");
    }
    cluster.check();
}

#[test]
fn repair_is_bounded_per_source_and_retried() {
    let mut cluster = Cluster::new(&["/a"; 2]);
    for id in 1..=10 {
        cluster.allocate(id, 1, 1, &[0]);
        cluster.put(0, id, finalized(1, 128 << 20));
        cluster.commit(id, 1, 128 << 20);
        cluster.blocks.on_events([BlockEvent::ReplicationChanged { id: BlockId(id), replication: 2 }]);
    }
    cluster.blocks.tick();
    // The last replica is at stake: four streams. The orders are lost.
    assert_eq!(cluster.heartbeat(0).len(), 4);
    assert_eq!(cluster.blocks.pending_count(), 4);
    cluster.second();
    assert_eq!(cluster.blocks.pending_count(), 4);
    cluster.seconds(65);
    assert_eq!((cluster.blocks.pending_count(), cluster.blocks.under_replicated_count()), (0, 0));
    cluster.check();
}

#[test]
fn setrep_raises_and_lowers() {
    let mut cluster = Cluster::new(&["/a", "/a", "/b", "/b"]);
    cluster.write(1, 2, &[0, 2]);
    for (replication, expected) in [(4, 4), (3, 3), (1, 1), (2, 2)] {
        cluster.blocks.on_events([BlockEvent::ReplicationChanged { id: BlockId(1), replication }]);
        cluster.seconds(4);
        let holders = cluster.holders(1, 1, 10);
        assert_eq!(holders.len(), expected);
        let has = |rack: &str| holders.iter().any(|&at| cluster.nodes[at].rack == rack);
        assert!(expected == 1 || has("/a") && has("/b"), "{holders:?}");
        cluster.check();
    }
}

#[test]
fn setrep_down_takes_from_all_nodes_alike() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    for id in 1..=300 {
        cluster.write(id, 3, &[0, 1, 2]);
    }
    cluster.blocks.on_events((1..=300).map(|id| BlockEvent::ReplicationChanged { id: BlockId(id), replication: 1 }));
    cluster.seconds(3);
    let left: Vec<usize> = cluster.nodes.iter().map(|node| node.copies.len()).collect();
    assert_eq!(left.iter().sum::<usize>(), 300);
    assert!(left.iter().all(|count| (70..130).contains(count)), "{left:?}");
}

#[test]
fn a_block_on_one_rack_gets_a_copy_on_another() {
    let mut cluster = Cluster::new(&["/a", "/a", "/a", "/a"]);
    cluster.write(1, 3, &[0, 1, 2]);
    cluster.seconds(2);
    cluster.nodes[3].rack = "/b".into();
    cluster.register(3);
    cluster.seconds(5);
    let holders = cluster.holders(1, 1, 10);
    assert!(holders.len() == 3 && holders.contains(&3), "{holders:?}");
    cluster.check();
}

#[test]
fn copy_for_another_rack_does_not_go_where_an_old_replica_is_to_be_deleted() {
    let mut cluster = Cluster::new(&["/a", "/a", "/b"]);
    cluster.write(1, 2, &[0, 1, 2]);
    cluster.nodes[2].is_slow = true;
    let targets = [0, 1].map(|at| (format!("dn{at}"), format!("s{at}"))).to_vec();
    cluster.blocks.on_events([BlockEvent::Reopened { block: block(1, 2, 10), targets }]);
    for at in [0, 1] {
        cluster.put(at, 1, finalized(2, 10));
    }
    cluster.commit(1, 2, 10);
    cluster.seconds(5);
    // It is gone, but nobody has said so: a copy that comes there now would be taken for it.
    assert!(!cluster.nodes[2].copies.contains_key(&1));
    assert_eq!(cluster.holders(1, 2, 10), [0, 1]);
    cluster.nodes[2].is_slow = false;
    cluster.send_events(2);
    cluster.seconds(5);
    assert!(cluster.holders(1, 2, 10).contains(&2));
    assert_eq!(cluster.holders(1, 2, 10).len(), 2);
    cluster.check();
}

#[test]
fn a_block_whose_writers_died_unreported_is_missing_until_one_returns() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.allocate(1, 1, 2, &[0, 1]);
    cluster.commit(1, 1, 10);
    cluster.nodes[0].is_up = false;
    cluster.nodes[1].is_up = false;
    cluster.seconds(60);
    assert_eq!(cluster.blocks.fs_stats().missing_blocks, 0, "they may still report");
    cluster.seconds(10);
    assert_eq!(cluster.blocks.fs_stats().missing_blocks, 1);
    cluster.nodes[0].copies.insert(1, finalized(1, 10));
    cluster.register(0);
    cluster.seconds(5);
    assert_eq!(cluster.blocks.fs_stats().missing_blocks, 0);
    assert_eq!(cluster.located(1), ["dn0", "dn2"], "and is copied");
    cluster.check();
}

#[test]
fn a_corrupt_replica_is_not_served_and_replaced_elsewhere() {
    let mut cluster = Cluster::new(&["/a"; 4]);
    cluster.write(1, 3, &[0, 1, 2]);
    cluster.nodes[1].copies.get_mut(&1).unwrap().is_intact = false;
    cluster.find_bad(1, 1);
    assert_eq!(cluster.located(1), ["dn0", "dn2"]);
    assert_eq!(cluster.blocks.fs_stats().corrupt_blocks, 1);
    // Reported as present again: still bad.
    cluster.report(1);
    assert_eq!(cluster.located(1), ["dn0", "dn2"]);
    cluster.seconds(4);
    assert_eq!(cluster.located(1), ["dn0", "dn2", "dn3"]);
    assert!(!cluster.nodes[1].copies.contains_key(&1), "deleted once it was replaced");
    let FsStats { corrupt_blocks, under_replicated_blocks, .. } = cluster.blocks.fs_stats();
    assert_eq!((corrupt_blocks, under_replicated_blocks), (0, 0));
    cluster.check();
}

#[test]
fn a_corrupt_replica_has_the_other_ones_verified_once() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.write(1, 3, &[0, 1, 2]);
    cluster.find_bad(1, 1);
    // The same news again is no news.
    cluster.find_bad(1, 1);
    let mut ordered = |at| -> Vec<(u64, u64)> {
        let orders = cluster.heartbeat(at).into_iter();
        let verified = orders.filter_map(|order| match order {
            Order::Verify(order) => Some(order.blocks),
            _ => None,
        });
        verified.flatten().map(|block| (block.id, block.generation_stamp)).collect()
    };
    assert_eq!([ordered(0), ordered(1), ordered(2)], [vec![(1, 1)], vec![], vec![(1, 1)]]);
    assert_eq!([ordered(0), ordered(1), ordered(2)], [vec![], vec![], vec![]]);
}

#[test]
fn corrupt_replicas_are_replaced_in_place_when_there_is_no_other_node() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.write(1, 3, &[0, 1, 2]);
    for at in [1, 2] {
        cluster.nodes[at].copies.get_mut(&1).unwrap().is_intact = false;
        cluster.find_bad(at, 1);
    }
    cluster.seconds(10);
    assert_eq!(cluster.holders(1, 1, 10), [0, 1, 2]);
    cluster.check();
}

#[test]
fn corrupt_replica_goes_of_a_block_that_is_whole_for_moments_only() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.write(1, 3, &[0, 1, 2]);
    cluster.nodes[1].copies.get_mut(&1).unwrap().is_intact = false;
    cluster.find_bad(1, 1);
    let reopen = |cluster: &Cluster, stamp| {
        let targets = [0, 2].map(|at| (format!("dn{at}"), format!("s{at}"))).into();
        cluster.blocks.on_events([BlockEvent::Reopened { block: block(1, stamp, 10), targets }]);
    };
    reopen(&cluster, 2);
    for stamp in 2..5 {
        cluster.commit(1, stamp, 10);
        cluster.put(0, 1, finalized(stamp, 10));
        assert!(cluster.blocks.is_complete(BlockId(1)));
        // Before the next tick, and before the other node of the pipeline has reported.
        reopen(&cluster, stamp + 1);
        cluster.seconds(2);
    }
    assert!(!cluster.nodes[1].copies.contains_key(&1), "it keeps the node from taking a copy");
    assert!(cluster.nodes[0].copies.contains_key(&1));
}

#[test]
fn a_block_with_only_corrupt_replicas_keeps_and_shows_them() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.write(1, 2, &[0, 1]);
    for at in [0, 1] {
        cluster.nodes[at].copies.get_mut(&1).unwrap().is_intact = false;
        cluster.find_bad(at, 1);
    }
    cluster.seconds(100);
    let located = cluster.blocks.locate(BlockId(1), None);
    assert_eq!((located.datanodes.len(), located.corrupt), (2, true));
    assert!([0, 1].iter().all(|&at| cluster.nodes[at].copies.contains_key(&1)), "they may be all that is left");
    assert_eq!(cluster.blocks.fs_stats().missing_blocks, 1);
    cluster.check();
}

#[test]
fn a_copy_that_failed_is_ordered_again_without_waiting() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.write(1, 3, &[0, 1]);
    // Beats and takes nothing.
    cluster.nodes[2].is_up = false;
    for _ in 0..5 {
        cluster.heartbeat(2);
        cluster.second();
    }
    assert_eq!(cluster.holders(1, 1, 10), [0, 1]);
    cluster.nodes[2].is_up = true;
    cluster.seconds(3);
    assert_eq!(cluster.holders(1, 1, 10), [0, 1, 2]);
    cluster.check();
}

#[test]
fn copies_that_others_say_have_failed_are_still_awaited() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.write(1, 3, &[0]);
    cluster.blocks.tick();
    assert_eq!(cluster.blocks.pending_count(), 1);
    cluster.nodes[1].failed_copies.push(block(1, 1, 10).into());
    cluster.heartbeat(1);
    assert_eq!(cluster.blocks.pending_count(), 1);
    cluster.nodes[0].failed_copies.push(block(1, 1, 10).into());
    cluster.heartbeat(0);
    assert_eq!(cluster.blocks.pending_count(), 0);
    cluster.check();
}

#[test]
fn a_failed_volume_is_repaired_from_elsewhere() {
    let mut cluster = Cluster::new(&["/a"; 4]);
    cluster.write(1, 3, &[0, 1, 2]);
    let mut failed = Cluster::storage_report(&cluster.nodes[1]);
    failed.failed = true;
    let request = dfs_proto::v1::SendHeartbeatRequest {
        datanode_uuid: "dn1".into(),
        registration_id: cluster.nodes[1].registration,
        storages: vec![failed],
        active_transfers: 0,
        failed_copies: Vec::new(),
    };
    cluster.blocks.heartbeat(&request).unwrap();
    assert_eq!(cluster.located(1), ["dn0", "dn2"]);
    cluster.nodes[1].is_up = false;
    cluster.seconds(3);
    assert_eq!(cluster.located(1), ["dn0", "dn2", "dn3"]);
    // The volume works again: what it holds is asked for, and is one too many.
    cluster.nodes[1].is_up = true;
    cluster.seconds(5);
    assert_eq!(cluster.holders(1, 1, 10).len(), 3);
    cluster.check();
}

#[test]
fn excess_waits_for_reports_since_this_leader_began() {
    let mut cluster = Cluster::new(&["/a"; 4]);
    cluster.seconds(1);
    cluster.blocks.set_active(false);
    for id in 1..=10 {
        cluster.write(id, 1, &[0, 1, 2]);
    }
    cluster.blocks.set_active(true);
    // No heartbeats, so no orders to report: nothing is known for sure.
    cluster.blocks.tick();
    for at in 0..3 {
        let orders = cluster.heartbeat(at);
        assert!(matches!(orders[..], [dfs_proto::v1::order::Order::BlockReport(_)]), "{orders:?}");
        cluster.report(at);
    }
    cluster.seconds(3);
    for id in 1..=10 {
        assert_eq!(cluster.holders(id, 1, 10).len(), 1);
    }
    cluster.check();
}

#[test]
fn deletions_go_out_at_most_a_thousand_per_heartbeat() {
    let mut cluster = Cluster::new(&["/a"]);
    for id in 1..=2_500 {
        cluster.write(id, 1, &[0]);
    }
    cluster.blocks.on_events((1..=2_500).map(|id| BlockEvent::Removed { id: BlockId(id) }));
    for expected in [1_500, 500, 0] {
        cluster.second();
        assert_eq!(cluster.nodes[0].copies.len(), expected);
    }
    cluster.check();
}

#[test]
fn blocks_of_a_huge_file_are_taken_in_later_and_in_order() {
    let mut cluster = Cluster::new(&["/a"; 2]);
    for id in 1..=100 {
        cluster.write(id, 1, &[0]);
    }
    let ids = |range: std::ops::RangeInclusive<u64>| range.map(BlockId).collect::<Vec<_>>();
    let removed = |id: &BlockId| FileBlock { id: *id, generation_stamp: GenerationStamp(1), length: 1 };
    let removed: Vec<FileBlock> = ids(1..=50).iter().map(removed).collect();
    let replication = |cluster: &Cluster, id| cluster.blocks.lock().map.get(BlockId(id)).map(|info| info.replication);
    cluster.blocks.on_events([
        BlockEvent::ListReplicationChanged { ids: ids(1..=100), replication: 2 },
        BlockEvent::ReplicationChanged { id: BlockId(100), replication: 1 },
        BlockEvent::ListRemoved { blocks: removed.into() },
    ]);
    assert_eq!(replication(&cluster, 1), Some(1), "nobody waits for so many blocks");
    cluster.second();
    assert_eq!(replication(&cluster, 50), None);
    assert_eq!(replication(&cluster, 51), Some(2));
    assert_eq!(replication(&cluster, 100), Some(1), "what was told last counts");
    cluster.blocks.on_events([BlockEvent::ReplicationChanged { id: BlockId(100), replication: 2 }]);
    assert_eq!(replication(&cluster, 100), Some(2), "nothing waits any more");
    cluster.seconds(3);
    cluster.check();
}

#[test]
fn two_replicas_on_one_node_count_as_one() {
    let mut cluster = Cluster::new(&["/a"; 2]);
    cluster.write(1, 2, &[0, 1]);
    // dn0 has a second volume, with a second replica of the block, and no first on dn1.
    let mut request = dfs_proto::v1::SendHeartbeatRequest {
        datanode_uuid: "dn0".into(),
        registration_id: cluster.nodes[0].registration,
        storages: vec![Cluster::storage_report(&cluster.nodes[0]), Cluster::storage_report(&cluster.nodes[0])],
        active_transfers: 0,
        failed_copies: Vec::new(),
    };
    request.storages[1].storage_uuid = "s0-second".into();
    let mut moved = cluster.nodes[0].clone();
    moved.storage = "s0-second".into();
    cluster.blocks.heartbeat(&request).unwrap();
    std::mem::swap(&mut cluster.nodes[0], &mut moved);
    cluster.put(0, 1, finalized(1, 10));
    cluster.event(1, dfs_proto::v1::ReplicaEventKind::ReplicaDeleted, block(1, 1, 10), false);
    assert_eq!(cluster.located(1), ["dn0", "dn0"]);
    assert_eq!(cluster.blocks.under_replicated_count(), 1);
    cluster.blocks.tick();
    assert_eq!(cluster.blocks.pending_count(), 1, "a copy on dn1 is ordered");
    assert_eq!(cluster.blocks.under_replicated_count(), 1, "until it has arrived");
    cluster.check();
}

#[test]
fn blocks_that_no_node_can_take_do_not_keep_others_waiting() {
    let mut cluster = Cluster::new(&["/a"; 4]);
    for id in 1..=5_000 {
        cluster.write(id, 5, &[0, 1, 2, 3]);
    }
    for id in 5_001..=5_010 {
        cluster.write(id, 3, &[0, 1]);
    }
    cluster.seconds(40);
    for id in 5_001..=5_010 {
        assert_eq!(cluster.holders(id, 1, 10).len(), 3, "block {id}");
    }
    cluster.check();
}

#[test]
fn a_lost_deletion_is_ordered_again() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.write(1, 2, &[0, 1, 2]);
    cluster.blocks.tick();
    assert_eq!(lose_orders(&mut cluster), 1);
    cluster.seconds(50);
    assert_eq!(cluster.holders(1, 1, 10).len(), 3, "it may still be under way");
    cluster.seconds(15);
    assert_eq!(cluster.holders(1, 1, 10).len(), 2);
    cluster.check();
}

#[test]
fn a_replica_whose_deletion_was_lost_is_kept_when_it_is_needed() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.write(1, 2, &[0, 1, 2]);
    cluster.blocks.tick();
    assert_eq!(lose_orders(&mut cluster), 1);
    let left = cluster.located(1);
    for at in 0..3 {
        cluster.nodes[at].has_failed_volume = left.contains(&format!("dn{at}"));
    }
    for at in 0..3 {
        cluster.heartbeat(at);
        if !cluster.nodes[at].has_failed_volume {
            cluster.report(at);
        }
    }
    cluster.seconds(5);
    assert_eq!(cluster.located(1).len(), 1, "the last good replica");
    assert_eq!(cluster.blocks.fs_stats().missing_blocks, 0);
    cluster.check();
}

/// All nodes beat and none obeys; the deletions that were ordered.
fn lose_orders(cluster: &mut Cluster) -> usize {
    let orders: Vec<Order> = (0..cluster.nodes.len()).flat_map(|at| cluster.heartbeat(at)).collect();
    let deletions =
        orders.iter().map(|order| if let Order::Invalidate(order) = order { order.blocks.len() } else { 0 });
    deletions.sum()
}
