//! Placement and read order, as tables.

use std::collections::{BTreeMap, BTreeSet};

use dfs_common::error::ErrorKind;
use dfs_common::ids::BlockId;

use super::super::{BlockEvent, TargetRequest};
use super::{Cluster, block, finalized};

fn rack_of(cluster: &Cluster, uuid: &str) -> String {
    cluster.nodes[cluster.node_at(uuid)].rack.clone()
}

/// Racks of the chosen nodes, named by the order in which they appear: "abb" is HDFS's choice for three.
fn pattern(cluster: &Cluster, chosen: &[String]) -> String {
    let mut names: Vec<String> = Vec::new();
    let letter = |uuid: &String| {
        let rack = rack_of(cluster, uuid);
        let at = names.iter().position(|name| *name == rack).unwrap_or_else(|| {
            names.push(rack);
            names.len() - 1
        });
        char::from(b'a' + at as u8)
    };
    chosen.iter().map(letter).collect()
}

#[test]
fn choose_targets_follows_the_racks() {
    // (racks of the nodes, writer's node, replicas, allowed patterns)
    for (racks, writer, replication, allowed) in [
        (&["/a"][..], Some(0), 3, &["a"][..]),
        (&["/a", "/a", "/a"], Some(0), 3, &["aaa"]),
        (&["/a", "/a", "/a"], None, 2, &["aa"]),
        (&["/a", "/a", "/b", "/b"], Some(0), 1, &["a"]),
        (&["/a", "/a", "/b", "/b"], Some(0), 2, &["ab"]),
        (&["/a", "/a", "/b", "/b"], Some(0), 3, &["abb"]),
        (&["/a", "/a", "/b", "/b"], None, 3, &["abb"]),
        // The second's rack has no other node.
        (&["/a", "/a", "/b"], Some(0), 3, &["aab"]),
        (&["/a", "/b", "/c"], Some(1), 3, &["abc"]),
        (&["/a", "/a", "/b", "/b", "/c", "/c"], Some(0), 3, &["abb"]),
        // Nowhere else to go: all of them, whatever the racks.
        (&["/a", "/a", "/a", "/a", "/b"], Some(0), 5, &["aaaab"]),
    ] {
        let cluster = Cluster::new(racks);
        let ip = writer.map(|at: usize| cluster.nodes[at].ip.clone());
        for _ in 0..50 {
            let chosen = cluster.targets(replication, ip.as_deref(), &[]);
            let pattern = pattern(&cluster, &chosen);
            assert!(allowed.contains(&pattern.as_str()), "{racks:?} r={replication}: {chosen:?} is {pattern}");
            assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), chosen.len(), "twice on one node");
            if let Some(at) = writer {
                assert_eq!(chosen[0], cluster.nodes[at].uuid, "the writer's node comes first");
            }
        }
    }
}

#[test]
fn choose_targets_limits_each_rack() {
    // 10 nodes on each of 4 racks, 10 replicas: at most (10 - 1) / 4 + 2 = 4 on one.
    let racks: Vec<&str> = ["/a", "/b", "/c", "/d"].into_iter().flat_map(|rack| [rack; 10]).collect();
    let cluster = Cluster::new(&racks);
    for _ in 0..50 {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for uuid in cluster.targets(10, None, &[]) {
            *counts.entry(rack_of(&cluster, &uuid)).or_default() += 1;
        }
        assert_eq!(counts.values().sum::<usize>(), 10);
        assert!(counts.values().all(|&count| count <= 4), "{counts:?}");
    }
}

#[test]
fn choose_targets_spreads_evenly() {
    let cluster = Cluster::new(&["/a"; 7]);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..7_000 {
        *counts.entry(cluster.targets(1, None, &[]).remove(0)).or_default() += 1;
    }
    assert!(counts.values().all(|count| (850..1_150).contains(count)), "{counts:?}");
}

#[test]
fn choose_targets_avoids_silent_and_overloaded_nodes_while_there_are_others() {
    let mut cluster = Cluster::new(&["/a"; 4]);
    cluster.pass(std::time::Duration::from_secs(11));
    cluster.nodes[1].active_transfers = 100;
    for at in [1, 2, 3] {
        cluster.heartbeat(at);
    }
    // dn0 is silent, dn1 overloaded.
    for _ in 0..20 {
        let chosen = cluster.targets(2, None, &[]);
        assert_eq!(chosen.into_iter().collect::<BTreeSet<_>>(), ["dn2", "dn3"].map(String::from).into());
    }
    assert_eq!(cluster.targets(4, None, &[]).len(), 4, "better these than too few");
}

#[test]
fn choose_targets_of_a_shared_address_takes_the_least_loaded() {
    let mut cluster = Cluster::unregistered(&["/a"; 3], &[]);
    cluster.nodes.iter_mut().for_each(|node| node.ip = "127.0.0.1".into());
    for (at, transfers) in [(0, 3), (1, 1), (2, 2)] {
        cluster.register(at);
        cluster.nodes[at].active_transfers = transfers;
        cluster.heartbeat(at);
    }
    for _ in 0..20 {
        assert_eq!(cluster.targets(1, Some("127.0.0.1"), &[]), ["dn1"]);
    }
}

#[test]
fn choose_targets_counts_what_is_being_written_but_does_not_fail_for_it() {
    let mut cluster = Cluster::new(&["/a"; 2]);
    for at in [0, 1] {
        cluster.nodes[at].remaining = 10 << 20;
        cluster.heartbeat(at);
    }
    let request = |block_size| TargetRequest { replication: 1, writer: None, exclude: &[], chosen: &[], block_size };
    // dn0 has five blocks of 2 MiB coming: dn1 is preferred as long as it has room.
    for id in 1..=5 {
        cluster.allocate(id, 1, 1, &[0]);
    }
    for _ in 0..20 {
        let chosen = cluster.blocks.choose_targets(&request(2 << 20)).unwrap();
        assert_eq!(chosen[0].datanode.uuid, "dn1");
    }
    // Both are spoken for: writing goes on all the same.
    for id in 6..=20 {
        cluster.allocate(id, 1, 1, &[1]);
    }
    assert!(cluster.blocks.choose_targets(&request(2 << 20)).is_ok());
    assert!(cluster.blocks.choose_targets(&request(128 << 20)).is_ok(), "the last bytes are given out");
    for id in 1..=20 {
        cluster.commit(id, 1, 4096);
    }
    cluster.check();
}

#[test]
fn choose_targets_without_room_says_why() {
    let mut cluster = Cluster::new(&["/a"; 4]);
    for at in 0..4 {
        cluster.nodes[at].remaining = 1000;
        cluster.heartbeat(at);
    }
    let exclude = ["dn3".to_owned()];
    let request = TargetRequest { replication: 3, writer: None, exclude: &exclude, chosen: &[], block_size: 128 << 20 };
    let error = cluster.blocks.choose_targets(&request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(
        error.message(),
        "only 0 of 4 DataNodes can take a block of 128MiB: 3 without room, 1 excluded by the writer"
    );
    // Nobody is full: who comes back has room.
    for at in 0..4 {
        cluster.nodes[at].has_failed_volume = true;
        cluster.heartbeat(at);
    }
    let request = TargetRequest { exclude: &[], ..request };
    assert_eq!(cluster.blocks.choose_targets(&request).unwrap_err().kind(), ErrorKind::Unavailable);
    let empty = Cluster::unregistered(&[], &[]);
    let error = empty.blocks.choose_targets(&request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[test]
fn choose_targets_takes_volumes_in_turn_and_leaves_the_fuller_one() {
    let cluster = Cluster::unregistered(&[], &[]);
    let volume = |name: &str, remaining| dfs_proto::v1::StorageReport {
        storage_uuid: name.into(),
        capacity: 100 << 30,
        remaining,
        ..Default::default()
    };
    let request = dfs_proto::v1::RegisterDatanodeRequest {
        id: Some(dfs_proto::v1::DatanodeId { uuid: "dn".into(), ..Default::default() }),
        storages: vec![volume("a", 80 << 30), volume("b", 30 << 30), volume("c", 90 << 30), volume("d", 0)],
        ..Default::default()
    };
    cluster.blocks.register_datanode(&request, "10.0.0.1").unwrap();
    let next = || {
        let request = TargetRequest { replication: 1, writer: None, exclude: &[], chosen: &[], block_size: 128 << 20 };
        cluster.blocks.choose_targets(&request).unwrap().remove(0).storage_uuid
    };
    assert_eq!([next(), next(), next(), next()], ["a", "c", "a", "c"]);
}

#[test]
fn locate_sorts_by_distance_with_silent_nodes_last() {
    let mut cluster = Cluster::new(&["/a", "/a", "/b", "/b"]);
    cluster.write(1, 4, &[0, 1, 2, 3]);
    // (reader, nodes in order, equals in brackets)
    for (reader, expected) in [
        ("10.0.0.1", &[&["dn0"][..], &["dn1"], &["dn2", "dn3"]][..]),
        ("10.0.0.4", &[&["dn3"], &["dn2"], &["dn0", "dn1"]]),
        ("10.9.9.9", &[&["dn0", "dn1", "dn2", "dn3"]]),
    ] {
        let mut firsts = BTreeSet::new();
        for _ in 0..40 {
            let located = cluster.blocks.locate(BlockId(1), Some(reader)).datanodes;
            let mut rest = located.iter().map(|node| node.uuid.as_str());
            for class in expected {
                let found: BTreeSet<&str> = rest.by_ref().take(class.len()).collect();
                assert_eq!(found, class.iter().copied().collect(), "{reader}");
            }
            firsts.insert(located[0].uuid.clone());
        }
        assert_eq!(firsts.len(), expected[0].len(), "equals are shuffled");
    }
    cluster.pass(std::time::Duration::from_secs(11));
    for at in [1, 2, 3] {
        cluster.heartbeat(at);
    }
    let located = cluster.blocks.locate(BlockId(1), Some("10.0.0.1")).datanodes;
    assert_eq!((located[0].uuid.as_str(), located[3].uuid.as_str()), ("dn1", "dn0"));
}

#[test]
fn locate_of_an_open_block_is_its_pipeline_in_order() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.allocate(1, 1, 3, &[2, 0, 1]);
    for _ in 0..20 {
        let located = cluster.blocks.locate(BlockId(1), None);
        let uuids: Vec<&str> = located.datanodes.iter().map(|node| node.uuid.as_str()).collect();
        assert_eq!((uuids, located.under_construction), (vec!["dn2", "dn0", "dn1"], true));
        assert_eq!(located.storage_uuids, ["s2", "s0", "s1"]);
    }
    // Committed, one of three has reported: the pipeline acknowledged it, all can be read.
    cluster.put(0, 1, finalized(1, 10));
    cluster.commit(1, 1, 10);
    assert_eq!(cluster.located(1), ["dn0", "dn1", "dn2"]);
    assert_eq!(cluster.blocks.replica_count(BlockId(1)), 1);
}

#[test]
fn locate_of_an_open_block_leaves_out_members_whose_volume_has_failed() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.allocate(1, 1, 3, &[2, 0, 1]);
    cluster.nodes[0].has_failed_volume = true;
    cluster.seconds(1);
    assert_eq!(cluster.located(1), ["dn1", "dn2"], "a sync would wait for it, in vain");
}

#[test]
fn locate_of_an_open_block_names_no_replica_of_an_older_generation() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    let targets = [0, 1, 2].map(|at: usize| (format!("dn{at}"), format!("s{at}"))).to_vec();
    cluster.allocate(1, 2, 3, &[0, 1, 2]);
    for at in 0..3 {
        cluster.put(at, 1, finalized(2, 10));
    }
    cluster.commit(1, 2, 10);
    for at in 0..3 {
        cluster.nodes[at].is_up = false;
    }
    cluster.seconds(70);
    cluster.blocks.on_events([BlockEvent::Reopened { block: block(1, 2, 10), targets: Vec::new() }]);
    // Only the node that was not there when the block went on comes back at first.
    cluster.nodes[0].copies.insert(1, finalized(1, 5));
    cluster.register(0);
    assert_eq!(cluster.blocks.locate(BlockId(1), None).datanodes, [], "what was acknowledged since is not there");
    cluster.register(1);
    assert_eq!(cluster.located(1), ["dn1"]);
    cluster.blocks.on_events([BlockEvent::Reopened { block: block(1, 3, 10), targets }]);
    assert_eq!(cluster.located(1), ["dn0", "dn1"], "a pipeline that was set up has what it should");
}
