//! Disks that fail one call and not the next, that do not answer, or that are slow: others have the bytes.

use std::fs::File;

use dfs_common::sys::close;
use dfs_common::units::ByteCount;
use dfs_tests::bench::drop_caches;
use dfs_tests::cases;
use dfs_tests::checkers::replicas::check_identical;
use dfs_tests::cluster::{Cluster, Devices, http_get, http_status};
use dfs_tests::faulty_disk::Behaviour;
use dfs_tests::mount::Mount;
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::wait::{REPAIR, STARTUP, wait_until};
use dfs_tests::workload::{Pattern, TreeFile, check_tree, make_tree, source_tree};
use rustix::process::Signal;

use super::replicas::is_volume_failed;

pub(super) const CASES: [Case<Nothing>; 4] = cases![
    reads_that_a_disk_fails_are_answered_by_others,
    reads_that_a_disk_never_answers_are_answered_by_others,
    slow_disk_costs_no_member_of_a_pipeline,
    node_with_a_disk_that_hangs_is_heard_and_stops_when_told,
];

const LENGTH: u64 = 3_000_001;

/// A cluster of four nodes, and a tree of which each node has a part.
fn cluster_with_tree(seed: u64) -> (Cluster, Mount, Vec<TreeFile>) {
    let devices = Devices::Faulty(ByteCount(320 << 20));
    let cluster = Cluster::builder().datanodes(4).replication(3).devices(devices).start();
    let mount = cluster.mount("mount");
    let tree = source_tree(seed, 60);
    make_tree(mount.path(), &tree).unwrap();
    Pattern::new(seed).make_file(&mount.join("large"), LENGTH);
    wait_until(REPAIR, "three identical replicas", || check_identical(&cluster, 3).is_ok());
    (cluster, mount, tree)
}

/// Reads everything from the devices, through a mount that has not yet chosen whom to ask.
fn read_all(cluster: &Cluster, name: &str, tree: &[TreeFile], seed: u64) {
    let fresh = cluster.mount(name);
    drop_caches().unwrap();
    check_tree(fresh.path(), tree).unwrap();
    Pattern::new(seed).check_file(&fresh.join("large"), LENGTH);
}

fn write_and_sync(mount: &Mount, name: &str, seed: u64) {
    let file = File::create(mount.join(name)).unwrap();
    Pattern::new(seed).write(&file, 0, LENGTH).unwrap();
    file.sync_all().unwrap();
    close(file).unwrap();
}

fn reads_that_a_disk_fails_are_answered_by_others(_: &Nothing) {
    let (cluster, mount, tree) = cluster_with_tree(71);
    let disk = cluster.datanodes[0].devices[0].disk();
    disk.behave(Behaviour::ReadsFail);
    for round in 0..3 {
        read_all(&cluster, &format!("fresh-{round}"), &tree, 71);
    }
    write_and_sync(&mount, "while", 72);
    disk.behave(Behaviour::Good);
    cluster.wait_datanodes_live(4);
    cluster.wait_fully_replicated();
    wait_until(REPAIR, "three identical replicas", || check_identical(&cluster, 3).is_ok());
    Pattern::new(72).check_file(&mount.join("while"), LENGTH);
}

fn reads_that_a_disk_never_answers_are_answered_by_others(_: &Nothing) {
    let (cluster, mount, tree) = cluster_with_tree(73);
    let disk = cluster.datanodes[1].devices[0].disk();
    disk.behave(Behaviour::ReadsHang);
    read_all(&cluster, "fresh", &tree, 73);
    write_and_sync(&mount, "while", 74);
    disk.behave(Behaviour::Good);
    cluster.wait_datanodes_live(4);
    cluster.wait_fully_replicated();
    wait_until(REPAIR, "three identical replicas", || check_identical(&cluster, 3).is_ok());
    Pattern::new(74).check_file(&mount.join("while"), LENGTH);
}

fn slow_disk_costs_no_member_of_a_pipeline(_: &Nothing) {
    let (cluster, mount, tree) = cluster_with_tree(75);
    let disk = cluster.datanodes[2].devices[0].disk();
    disk.behave(Behaviour::Slow);
    for number in 0..3 {
        write_and_sync(&mount, &format!("while-{number}"), 76);
    }
    read_all(&cluster, "fresh", &tree, 75);
    let log = mount.log_text();
    assert!(!log.contains("write pipeline failed") && !log.contains("no pipeline for a new block"), "{log}");
    disk.behave(Behaviour::Good);
    cluster.wait_fully_replicated();
    wait_until(REPAIR, "three identical replicas", || check_identical(&cluster, 3).is_ok());
    Pattern::new(76).check_file(&mount.join("while-2"), LENGTH);
}

fn node_with_a_disk_that_hangs_is_heard_and_stops_when_told(_: &Nothing) {
    let (mut cluster, _mount, tree) = cluster_with_tree(77);
    let log = |cluster: &Cluster| cluster.datanodes[1].daemon.log_text();
    cluster.datanodes[1].devices[0].disk().behave(Behaviour::ReadsHang);
    // Its threads wait for the disk now.
    read_all(&cluster, "fresh", &tree, 77);
    let (host, port) = (cluster.datanodes[1].host.clone(), cluster.datanodes[1].http_port);
    let mut is_last = false;
    // Until the volume is given up, and once more.
    wait_until(REPAIR, "the volume to be given up", || {
        let was_last = is_last;
        is_last = is_volume_failed(&cluster, 1);
        for path in ["/health", "/metrics", "/status", "/"] {
            assert!(http_get(&host, port, path).is_some(), "{path} waits for the disk:\n{}", log(&cluster));
        }
        assert_eq!(cluster.live_datanodes(), Some(4), "{}", log(&cluster));
        was_last
    });
    cluster.datanodes[1].daemon.signal(Signal::TERM);
    wait_until(STARTUP, "the daemon to close its ports", || http_status(&host, port, "/health").is_none());
    wait_until(REPAIR, "the NameNode to hear that it goes, or miss it", || cluster.live_datanodes() == Some(3));
    // What the kernel does not end with the process ends with the disk.
    cluster.datanodes[1].devices[0].disk().behave(Behaviour::Good);
    let status = cluster.datanodes[1].daemon.wait_exit(STARTUP);
    assert!(status.success(), "{status}\n{}", log(&cluster));
}
