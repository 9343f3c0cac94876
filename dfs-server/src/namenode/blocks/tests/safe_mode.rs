//! Safe mode at start, with DataNodes that report one after the other.

use std::time::Duration;

use dfs_common::block::Block;
use dfs_common::ids::{BlockId, InodeId};
use dfs_proto::v1;

use super::super::BlockEvent;
use super::{Cluster, block, finalized};

fn loaded(block: Block) -> BlockEvent {
    BlockEvent::Loaded { block, inode: InodeId(20_000), replication: 2, under_construction: false }
}

/// 1,000 blocks in the image, the first 500 on dn0, the rest on dn1, each twice.
fn starting() -> Cluster {
    let mut cluster = Cluster::unregistered(&["/a"; 4], &[]);
    cluster.blocks.on_events((1..=1_000).map(|id| loaded(block(id, 1, 10))));
    for id in 1..=1_000 {
        let (one, other) = if id <= 500 { (0, 1) } else { (2, 3) };
        cluster.nodes[one].copies.insert(id, finalized(1, 10));
        cluster.nodes[other].copies.insert(id, finalized(1, 10));
    }
    cluster
}

#[test]
fn safe_mode_lasts_until_the_threshold_and_the_extension() {
    let mut cluster = starting();
    cluster.seconds(60);
    assert!(cluster.blocks.safe_mode_status().1.contains("being loaded"));
    cluster.blocks.set_active(true);
    cluster.register(0);
    cluster.seconds(60);
    let (is_on, status) = cluster.blocks.safe_mode_status();
    assert!(is_on && status.contains("500 of 1000 blocks"), "{status}");
    assert!(!cluster.blocks.may_repair() && !cluster.blocks.is_read_only());
    assert_eq!(cluster.blocks.under_replicated_count(), 0, "nothing is queued before all is known");
    cluster.register(2);
    cluster.second();
    assert!(cluster.blocks.safe_mode_status().1.contains("another 30 s"));
    cluster.seconds(29);
    assert!(!cluster.blocks.may_repair());
    cluster.seconds(2);
    assert!(cluster.blocks.may_repair());
    assert_eq!(cluster.blocks.safe_mode_status(), (false, "Safe mode is off.".to_owned()));
    cluster.check();
}

#[test]
fn locate_says_whether_more_replicas_may_be_reported() {
    let mut cluster = starting();
    cluster.blocks.set_active(true);
    let awaits = |cluster: &Cluster, id| cluster.blocks.locate(BlockId(id), None).awaits_reports;
    cluster.register(0);
    assert!(awaits(&cluster, 1), "one of two is known");
    cluster.register(1);
    assert!(!awaits(&cluster, 1) && awaits(&cluster, 501));
    // By then a node that is away would be dead.
    cluster.pass(Duration::from_secs(61));
    assert!(!awaits(&cluster, 501));
    cluster.register_only(2);
    assert!(awaits(&cluster, 501) && !awaits(&cluster, 1), "one that is there has not told yet");
    cluster.report(2);
    assert!(!awaits(&cluster, 501));
}

#[test]
fn safe_mode_holds_deletions_back() {
    let mut cluster = starting();
    cluster.blocks.set_active(true);
    (0..4).for_each(|at| cluster.register(at));
    cluster.blocks.on_events([BlockEvent::Removed { id: BlockId(7) }]);
    cluster.seconds(20);
    assert!(cluster.nodes[0].copies.contains_key(&7));
    cluster.seconds(15);
    assert!(!cluster.nodes[0].copies.contains_key(&7) && !cluster.nodes[1].copies.contains_key(&7));
    cluster.check();
}

#[test]
fn safe_mode_by_command_is_read_only_and_can_be_left() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.write(1, 1, &[0]);
    cluster.blocks.enter_safe_mode();
    assert!(cluster.blocks.is_read_only() && cluster.blocks.safe_mode_status().0);
    cluster.blocks.on_events([BlockEvent::Removed { id: BlockId(1) }]);
    cluster.seconds(5);
    assert!(cluster.nodes[0].copies.contains_key(&1));
    cluster.blocks.leave_safe_mode();
    assert!(!cluster.blocks.is_read_only());
    cluster.seconds(5);
    assert!(cluster.nodes[0].copies.is_empty());
}

#[test]
fn a_replayed_log_counts_for_safe_mode() {
    let mut cluster = Cluster::unregistered(&["/a"; 3], &[]);
    cluster.allocate(1, 1, 3, &[0, 1, 2]);
    cluster.commit(1, 1, 10);
    cluster.allocate(2, 2, 3, &[0, 1, 2]);
    cluster.blocks.set_active(true);
    cluster.seconds(40);
    assert!(cluster.blocks.safe_mode_status().1.contains("0 of 1 blocks"));
    for at in 0..3 {
        cluster.nodes[at].copies.insert(1, finalized(1, 10));
        let open = super::Copy { state: v1::ReplicaState::Rwr, ..finalized(2, 5) };
        cluster.nodes[at].copies.insert(2, open);
        cluster.register(at);
    }
    cluster.seconds(40);
    assert!(cluster.blocks.may_repair());
    assert_eq!(cluster.located(1), ["dn0", "dn1", "dn2"]);
    assert_eq!(cluster.located(2), ["dn0", "dn1", "dn2"], "the pipeline of the log is there again");
    cluster.check();
}

#[test]
fn a_follower_orders_nothing() {
    let mut cluster = Cluster::new(&["/a"; 4]);
    cluster.write(1, 3, &[0, 1, 2]);
    cluster.blocks.set_active(false);
    cluster.nodes[2].is_up = false;
    cluster.blocks.on_events([BlockEvent::Removed { id: BlockId(1) }]);
    cluster.seconds(100);
    assert!(cluster.nodes[0].copies.contains_key(&1));
    cluster.blocks.set_active(true);
    cluster.seconds(3);
    assert!(!cluster.nodes[0].copies.contains_key(&1));
}
