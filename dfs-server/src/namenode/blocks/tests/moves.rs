//! The balancer's moves.

use dfs_common::error::ErrorKind;

use super::super::{MoveRequest, Moved, Moves};
use super::{Cluster, finalized};

fn request<'a>(source: &'a str, target: &'a str, max_bytes: u64) -> MoveRequest<'a> {
    MoveRequest { run: 1, source, target, max_bytes, bandwidth: 0 }
}

#[test]
fn move_replicas_takes_them_from_the_source() {
    let mut cluster = Cluster::new(&["/a", "/a", "/a", "/a"]);
    for id in 1..=20 {
        cluster.write(id, 3, &[0, 1, 2]);
    }
    let moves = cluster.blocks.move_replicas(&request("dn0", "dn3", 50)).unwrap();
    assert_eq!(moves, Moves { replicas: 5, bytes: 50, on_their_way: 5, moved: Moved::default() });
    cluster.check();
    cluster.seconds(5);
    let on = |cluster: &Cluster, at: usize| cluster.nodes[at].copies.len();
    assert_eq!([0, 1, 2, 3].map(|at| on(&cluster, at)), [15, 20, 20, 5]);
    let moved = Moved { replicas: 5, bytes: 50 };
    assert_eq!(cluster.blocks.move_replicas(&request("dn0", "dn3", 0)).unwrap(), Moves { moved, ..Moves::default() });
    for id in 1..=20 {
        assert_eq!(cluster.holders(id, 1, 10).len(), 3, "block {id}");
    }
    cluster.check();
}

#[test]
fn move_replicas_keeps_racks() {
    let mut cluster = Cluster::new(&["/a", "/b", "/b"]);
    cluster.write(1, 2, &[0, 1]);
    // The only replica of its rack stays; the other one has another node of its rack to go to.
    assert_eq!(cluster.blocks.move_replicas(&request("dn0", "dn2", 1_000)).unwrap().replicas, 0);
    assert_eq!(cluster.blocks.move_replicas(&request("dn1", "dn2", 1_000)).unwrap().replicas, 1);
    cluster.seconds(5);
    assert_eq!(cluster.holders(1, 1, 10), [0, 2]);
    cluster.check();
}

#[test]
fn move_replicas_of_a_target_that_dies_leaves_all_replicas() {
    let mut cluster = Cluster::new(&["/a", "/a", "/a"]);
    cluster.write(1, 2, &[0, 1]);
    assert_eq!(cluster.blocks.move_replicas(&request("dn0", "dn2", 1_000)).unwrap().replicas, 1);
    cluster.nodes[2].is_up = false;
    cluster.seconds(70);
    assert_eq!(cluster.holders(1, 1, 10), [0, 1]);
    assert_eq!(cluster.blocks.pending_count(), 0);
    cluster.check();
}

#[test]
fn move_that_fails_ends_at_once_and_is_not_counted() {
    let mut cluster = Cluster::new(&["/a", "/a", "/a"]);
    cluster.write(1, 2, &[0, 1]);
    assert_eq!(cluster.blocks.move_replicas(&request("dn0", "dn2", 1_000)).unwrap().replicas, 1);
    cluster.nodes[2].is_up = false;
    cluster.seconds(2);
    assert_eq!(cluster.blocks.move_replicas(&request("dn0", "dn2", 0)).unwrap(), Moves::default());
    assert_eq!(cluster.holders(1, 1, 10), [0, 1]);
    cluster.check();
}

#[test]
fn move_at_a_slow_pace_is_awaited_for_as_long_as_it_takes() {
    const LENGTH: u64 = 128 << 20;
    let mut cluster = Cluster::new(&["/a"; 4]);
    cluster.allocate(1, 1, 3, &[0, 1, 2]);
    (0..3).for_each(|at| cluster.put(at, 1, finalized(1, LENGTH)));
    cluster.commit(1, 1, LENGTH);
    let slowly = MoveRequest { bandwidth: 64 << 10, ..request("dn0", "dn3", LENGTH) };
    assert_eq!(cluster.blocks.move_replicas(&slowly).unwrap().replicas, 1);
    // The source has the order, and needs 34 minutes.
    cluster.heartbeat(0);
    cluster.seconds(33 * 60);
    assert_eq!(cluster.blocks.pending_count(), 1);
    cluster.put(3, 1, finalized(1, LENGTH));
    cluster.seconds(5);
    let moved = Moved { replicas: 1, bytes: LENGTH };
    let nothing_more = MoveRequest { max_bytes: 0, ..slowly };
    assert_eq!(cluster.blocks.move_replicas(&nothing_more).unwrap(), Moves { moved, ..Moves::default() });
    assert_eq!(cluster.holders(1, 1, LENGTH), [1, 2, 3]);
    // One that never comes is given up all the same.
    assert_eq!(
        cluster.blocks.move_replicas(&MoveRequest { source: "dn1", target: "dn0", ..slowly }).unwrap().replicas,
        1
    );
    cluster.heartbeat(1);
    cluster.seconds(56 * 60);
    assert_eq!(cluster.blocks.pending_count(), 0);
    cluster.check();
}

#[test]
fn move_replicas_of_a_second_balancer_is_refused_while_the_first_runs() {
    let mut cluster = Cluster::new(&["/a", "/a"]);
    cluster.blocks.move_replicas(&request("dn0", "dn1", 0)).unwrap();
    let other = MoveRequest { run: 2, ..request("dn0", "dn1", 0) };
    assert_eq!(cluster.blocks.move_replicas(&other).unwrap_err().kind(), ErrorKind::Busy);
    cluster.seconds(31);
    cluster.blocks.move_replicas(&other).unwrap();
}

#[test]
fn move_under_way_does_not_hold_repair_back() {
    let mut cluster = Cluster::new(&["/a"; 5]);
    cluster.write(1, 3, &[0, 1, 2]);
    assert_eq!(cluster.blocks.move_replicas(&request("dn0", "dn3", 1_000)).unwrap().replicas, 1);
    // Its source has the order and is long in carrying it out.
    cluster.heartbeat(0);
    for at in [1, 2] {
        cluster.nodes[at].has_failed_volume = true;
    }
    cluster.seconds(10);
    assert_eq!(cluster.holders(1, 1, 10).iter().filter(|at| ![1, 2].contains(*at)).count(), 3);
    cluster.check();
}
