//! Disks that fail one call and not the next, that do not answer, or that are slow: others have the bytes.

use std::fs::File;

use dfs_common::sys::close;
use dfs_common::units::ByteCount;
use dfs_tests::bench::drop_caches;
use dfs_tests::cases;
use dfs_tests::checkers::replicas::check_identical;
use dfs_tests::cluster::{Cluster, Devices};
use dfs_tests::faulty_disk::Behaviour;
use dfs_tests::mount::Mount;
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::wait::{REPAIR, wait_until};
use dfs_tests::workload::{Pattern, TreeFile, check_tree, make_tree, source_tree};

pub(super) const CASES: [Case<Nothing>; 3] = cases![
    reads_that_a_disk_fails_are_answered_by_others,
    reads_that_a_disk_never_answers_are_answered_by_others,
    slow_disk_costs_no_member_of_a_pipeline,
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
