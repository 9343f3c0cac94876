//! Whom the NameNode believes that a replica is corrupt.

use dfs_common::error::ErrorKind;
use dfs_common::ids::BlockId;
use dfs_proto::v1;

use super::super::BlockEvent;
use super::{Cluster, block, finalized};

#[test]
fn word_of_a_reader_leads_to_a_look_and_to_nothing_else() {
    let mut cluster = Cluster::new(&["/a"; 4]);
    cluster.write(1, 3, &[0, 1, 2]);
    for at in [0, 1, 2] {
        cluster.blocks.suspect_replica(block(1, 1, 10), &format!("dn{at}"), "").unwrap();
    }
    for _ in 0..5 {
        assert_eq!(cluster.located(1), ["dn0", "dn1", "dn2"]);
        assert_eq!(cluster.blocks.fs_stats().corrupt_blocks, 0);
        cluster.second();
        cluster.check();
    }
    assert_eq!(cluster.holders(1, 1, 10), [0, 1, 2]);
}

#[test]
fn replica_that_a_reader_suspects_rightly_is_replaced() {
    let mut cluster = Cluster::new(&["/a"; 4]);
    cluster.write(1, 3, &[0, 1, 2]);
    cluster.nodes[1].copies.get_mut(&1).unwrap().is_intact = false;
    cluster.blocks.suspect_replica(block(1, 1, 10), "dn1", "s1").unwrap();
    cluster.second();
    assert_eq!((cluster.located(1), cluster.blocks.fs_stats().corrupt_blocks), (vec!["dn0".into(), "dn2".into()], 1));
    cluster.seconds(5);
    assert_eq!(cluster.holders(1, 1, 10), [0, 2, 3]);
    cluster.check();
}

#[test]
fn replica_found_good_later_is_well_again() {
    let mut cluster = Cluster::new(&["/a"; 2]);
    cluster.write(1, 2, &[0, 1]);
    // A device that could not be read for a while.
    for at in [0, 1] {
        cluster.find_bad(at, 1);
    }
    let located = cluster.blocks.locate(block(1, 1, 10).id, None);
    assert_eq!((located.datanodes.len(), located.corrupt), (2, true));
    cluster.seconds(3);
    cluster.nodes[0].found_bad.clear();
    // A full report that does not name it as corrupt says nothing of it: the DataNode may only have forgotten.
    cluster.report(0);
    assert!(cluster.blocks.locate(block(1, 1, 10).id, None).corrupt);
    // A reader that has nothing else tries it.
    cluster.blocks.suspect_replica(block(1, 1, 10), "dn0", "").unwrap();
    cluster.second();
    assert_eq!(cluster.located(1), ["dn0"]);
    assert!(!cluster.blocks.locate(block(1, 1, 10).id, None).corrupt);
    cluster.check();
}

#[test]
fn replica_found_bad_before_its_block_is_committed_never_counts_as_good() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.allocate(1, 1, 2, &[0, 1]);
    for at in [0, 1] {
        cluster.put(at, 1, finalized(1, 10));
    }
    for at in [0, 1] {
        cluster.find_bad(at, 1);
    }
    // This one is well after all.
    cluster.find_good(1, 1);
    cluster.commit(1, 1, 10);
    assert_eq!(cluster.located(1), ["dn1"]);
    // Nor one of a generation that the log has not explained yet.
    cluster.write(2, 2, &[0, 1]);
    cluster.put(0, 2, finalized(2, 20));
    cluster.put(1, 2, finalized(2, 20));
    cluster.find_bad(0, 2);
    let targets = [0, 1].map(|at| (format!("dn{at}"), format!("s{at}"))).to_vec();
    cluster.blocks.on_events([BlockEvent::Reopened { block: block(2, 2, 20), targets }]);
    cluster.commit(2, 2, 20);
    assert_eq!(cluster.located(2), ["dn1"]);
    cluster.check();
}

#[test]
fn block_whose_pipeline_has_nothing_but_verdicts_left_to_tell_is_as_complete_as_it_gets() {
    for is_found_before in [true, false] {
        let mut cluster = Cluster::unregistered(&["/a"; 3], &["dfs.namenode.replication.min=2"]);
        cluster.blocks.set_active(true);
        (0..3).for_each(|at| cluster.register(at));
        cluster.blocks.tick();
        cluster.allocate(1, 1, 2, &[0, 1]);
        cluster.allocate(2, 1, 1, &[0]);
        for (at, id) in [(0, 1), (0, 2)] {
            cluster.put(at, id, super::Copy { is_intact: false, ..finalized(1, 10) });
        }
        let find = |cluster: &mut Cluster| [1, 2].into_iter().for_each(|id| cluster.find_bad(0, id));
        if is_found_before {
            find(&mut cluster);
        }
        [1, 2].into_iter().for_each(|id| cluster.commit(id, 1, 10));
        cluster.put(1, 1, finalized(1, 10));
        if !is_found_before {
            find(&mut cluster);
        }
        cluster.check();
        assert!(cluster.blocks.is_complete(BlockId(1)) && cluster.blocks.is_complete(BlockId(2)), "{is_found_before}");
        let missing: Vec<_> = cluster.blocks.missing_blocks(9).into_iter().map(|(id, _)| id).collect();
        assert_eq!(missing, [BlockId(2)]);
        cluster.seconds(5);
        assert_eq!(cluster.holders(1, 1, 10), [1, 2]);
        cluster.check();
    }
}

#[test]
fn verdict_on_a_replica_of_one_volume_says_nothing_of_another() {
    let mut cluster = Cluster::new(&["/a"; 2]);
    cluster.allocate(1, 1, 2, &[0, 1]);
    (0..2).for_each(|at| cluster.put(at, 1, finalized(1, 10)));
    let request = cluster.nodes[0].bad_verdict(block(1, 1, 10), "of another volume");
    cluster.blocks.report_bad_replicas(&request).unwrap();
    cluster.commit(1, 1, 10);
    assert_eq!(cluster.located(1), ["dn0", "dn1"]);
}

#[test]
fn nobody_speaks_for_another_datanode() {
    let mut cluster = Cluster::new(&["/a"; 2]);
    cluster.write(1, 2, &[0, 1]);
    let mut request = cluster.nodes[1].bad_verdict(block(1, 1, 10), "s1");
    request.registration_id = cluster.nodes[0].registration;
    assert_eq!(cluster.blocks.report_bad_replicas(&request).unwrap_err().kind(), ErrorKind::Stale);
    // Nor for a volume that is not its own.
    request.registration_id = cluster.nodes[1].registration;
    request.storage_uuids = vec!["s0".into()];
    cluster.blocks.report_bad_replicas(&request).unwrap();
    assert_eq!(cluster.located(1), ["dn0", "dn1"]);
    // And not for a good one of another.
    cluster.find_bad(0, 1);
    let good = v1::ReportBadReplicasRequest { good_blocks: vec![block(1, 1, 10).into()], ..Default::default() };
    let good = v1::ReportBadReplicasRequest {
        datanode_uuid: "dn1".into(),
        registration_id: cluster.nodes[1].registration,
        ..good
    };
    cluster.blocks.report_bad_replicas(&good).unwrap();
    assert_eq!(cluster.located(1), ["dn1"]);
    cluster.check();
}

#[test]
fn finding_that_was_lost_is_told_with_the_next_full_report() {
    let mut cluster = Cluster::new(&["/a"; 4]);
    cluster.write(1, 3, &[0, 1, 2]);
    cluster.nodes[1].copies.get_mut(&1).unwrap().is_intact = false;
    cluster.nodes[1].found_bad.insert(1);
    assert_eq!(cluster.located(1), ["dn0", "dn1", "dn2"]);
    cluster.report(1);
    assert_eq!(cluster.located(1), ["dn0", "dn2"]);
    cluster.seconds(5);
    assert_eq!(cluster.holders(1, 1, 10), [0, 2, 3]);
    cluster.check();
}

#[test]
fn replica_reported_as_corrupt_never_counts_as_good() {
    let mut cluster = Cluster::new(&["/a"; 2]);
    for id in 1..=20 {
        cluster.write(id, 1, &[1]);
        // One that was to be deleted when there was no room for the order.
        cluster.nodes[0].copies.insert(id, super::Copy { is_intact: false, ..finalized(1, 10) });
        cluster.nodes[0].found_bad.insert(id);
    }
    cluster.blocks.block_report_page(&cluster.page(0)).unwrap();
    cluster.nodes[0].next_number += 1;
    for _ in 0..5 {
        cluster.second();
        assert!((1..=20).all(|id| cluster.located(id) == ["dn1"]));
    }
    assert!((1..=20).all(|id| cluster.holders(id, 1, 10) == [1]));
    cluster.check();
}

#[test]
fn replica_known_as_good_and_reported_as_corrupt_is_replaced() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.write(1, 2, &[0, 1]);
    cluster.nodes[0].copies.get_mut(&1).unwrap().is_intact = false;
    cluster.nodes[0].found_bad.insert(1);
    cluster.report(0);
    assert_eq!((cluster.located(1), cluster.blocks.fs_stats().corrupt_blocks), (vec!["dn1".into()], 1));
    cluster.seconds(5);
    assert_eq!(cluster.holders(1, 1, 10), [1, 2]);
    cluster.check();
}

#[test]
fn no_replica_is_too_many_while_another_is_suspected() {
    let mut cluster = Cluster::new(&["/a"; 2]);
    for id in 1..=20 {
        cluster.write(id, 2, &[0, 1]);
        cluster.nodes[0].copies.get_mut(&id).unwrap().is_intact = false;
        cluster.blocks.suspect_replica(block(id, 1, 10), "dn0", "").unwrap();
    }
    cluster.blocks.on_events((1..=20).map(|id| BlockEvent::ReplicationChanged { id: BlockId(id), replication: 1 }));
    cluster.blocks.tick();
    assert!((1..=20).all(|id| cluster.located(id) == ["dn0", "dn1"]), "dn0 has not answered yet");
    cluster.seconds(5);
    assert!((1..=20).all(|id| cluster.holders(id, 1, 10) == [1]));
    cluster.check();
}
