//! Whose silence counts: that of DataNodes while the NameNode listens, and none of its own.

use std::time::Duration;

use dfs_proto::v1;

use super::Cluster;

fn states(cluster: &Cluster) -> Vec<v1::DatanodeState> {
    cluster.blocks.datanode_report().iter().map(v1::DatanodeReport::state).collect()
}

#[test]
fn stopped_namenode_takes_nobody_for_dead_or_stale() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.write(1, 3, &[0, 1, 2]);
    cluster.seconds(3);
    // Whoever asks first, before anything has been heard again: a caller, or the tick.
    cluster.clock.advance(Duration::from_secs(600));
    assert_eq!(states(&cluster), [v1::DatanodeState::DatanodeLive; 3]);
    cluster.blocks.tick();
    assert_eq!(states(&cluster), [v1::DatanodeState::DatanodeLive; 3]);
    cluster.nodes[2].is_up = false;
    cluster.seconds(70);
    assert_eq!(cluster.blocks.fs_stats().live_datanodes, 2, "silence after it counts");
    cluster.check();
}

#[test]
fn namenode_whose_serving_thread_is_held_up_takes_nobody_for_dead_or_stale() {
    let mut cluster = Cluster::new(&["/a"; 3]);
    cluster.write(1, 3, &[0, 1, 2]);
    cluster.seconds(3);
    // The block manager's own thread goes on, second after second; the one that reads heartbeats does not.
    for _ in 0..200 {
        cluster.clock.advance(Duration::from_secs(1));
        cluster.blocks.tick();
    }
    assert_eq!(states(&cluster), [v1::DatanodeState::DatanodeLive; 3]);
    cluster.nodes[2].is_up = false;
    cluster.seconds(15);
    assert_eq!(states(&cluster)[2], v1::DatanodeState::DatanodeStale, "silence after it counts");
    cluster.seconds(55);
    assert_eq!(states(&cluster)[2], v1::DatanodeState::DatanodeDead);
    cluster.check();
}
