//! Replicas that are damaged, lost, or out of reach; devices that are full.

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use dfs_common::sys::close;
use dfs_common::units::ByteCount;
use dfs_tests::bench::drop_caches;
use dfs_tests::cases;
use dfs_tests::checkers::replicas::check_identical;
use dfs_tests::cluster::{Cluster, Devices, http_get};
use dfs_tests::fault::flip_bit;
use dfs_tests::mount::Mount;
use dfs_tests::replica::replica_files;
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::wait::{REPAIR, Stopwatch, wait_until};
use dfs_tests::workload::{Pattern, check_tree, make_tree, source_tree};
use rustix::io::Errno;

use super::repair::node_report;

pub(super) const CASES: [Case<Nothing>; 9] = cases![
    damaged_replica_is_not_read_and_is_replaced,
    all_replicas_damaged_is_eio_and_never_wrong_bytes,
    reads_go_on_without_a_killed_datanode,
    reads_go_on_without_a_stopped_datanode,
    stopped_namenode_declares_nobody_dead,
    dead_datanode_is_repaired_elsewhere,
    failed_device_of_a_datanode_leaves_its_other_volume,
    hung_device_of_a_datanode_leaves_its_other_volume,
    full_cluster_is_enospc_and_recovers,
];

const LENGTH: u64 = 3_000_001;

/// Whether the NameNode does without a volume of this DataNode.
pub(super) fn is_volume_failed(cluster: &Cluster, datanode: usize) -> bool {
    let node = node_report(cluster, datanode);
    node["volumes"].as_array().is_some_and(|volumes| volumes.iter().any(|volume| volume["failed"] == true))
}

fn cold_check(mount: &Mount, name: &str, pattern: Pattern) {
    drop_caches().unwrap();
    pattern.check_file(&mount.join(name), LENGTH);
}

fn damaged_replica_is_not_read_and_is_replaced(_: &Nothing) {
    let cluster = Cluster::builder().start();
    let mount = cluster.mount("mount");
    let pattern = Pattern::new(1);
    pattern.make_file(&mount.join("file"), LENGTH);
    wait_until(REPAIR, "three identical replicas", || check_identical(&cluster, 3).is_ok());
    // Two of three, so that a reader meets one soon, whichever it prefers.
    for (datanode, offset) in [(0, 1_000_000), (1, 2_999_999)] {
        flip_bit(&replica_files(&cluster, datanode)[0], offset).unwrap();
    }
    // Readers never see the damage, and whatever they meet is reported and replaced. A fresh mount chooses replicas anew.
    let deadline = Instant::now() + REPAIR;
    let mut round = 0;
    while check_identical(&cluster, 3).is_err() {
        assert!(Instant::now() < deadline, "damaged replicas were not replaced: {:?}", check_identical(&cluster, 3));
        cold_check(&mount, "file", pattern);
        round += 1;
        let fresh = cluster.mount(&format!("fresh-{round}"));
        cold_check(&fresh, "file", pattern);
    }
    cluster.wait_fully_replicated();
    cold_check(&mount, "file", pattern);
}

fn all_replicas_damaged_is_eio_and_never_wrong_bytes(_: &Nothing) {
    let cluster = Cluster::builder().start();
    let mount = cluster.mount("mount");
    Pattern::new(2).make_file(&mount.join("file"), LENGTH);
    wait_until(REPAIR, "three identical replicas", || check_identical(&cluster, 3).is_ok());
    for datanode in 0..3 {
        flip_bit(&replica_files(&cluster, datanode)[0], 1_500_000).unwrap();
    }
    drop_caches().unwrap();
    let result = File::open(mount.join("file")).and_then(|input| Pattern::new(2).check(0, input));
    let error = result.expect_err("no replica has the right bytes");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    // Only what is damaged: the start of the file can still be had.
    let mut start = vec![0; 4096];
    std::os::unix::fs::FileExt::read_exact_at(&File::open(mount.join("file")).unwrap(), &mut start, 0).unwrap();
    assert!(start == Pattern::new(2).bytes(4096));
}

fn reads_go_on_without_a_killed_datanode(_: &Nothing) {
    let mut cluster = Cluster::builder().start();
    let mount = cluster.mount("mount");
    let tree = source_tree(3, 100);
    make_tree(mount.path(), &tree).unwrap();
    for victim in 0..3 {
        cluster.datanodes[victim].daemon.kill();
        drop_caches().unwrap();
        check_tree(mount.path(), &tree).unwrap();
        cluster.start_datanode(victim);
        cluster.wait_datanodes_live(3);
    }
}

fn reads_go_on_without_a_stopped_datanode(_: &Nothing) {
    let cluster = Cluster::builder().start();
    let mount = cluster.mount("mount");
    Pattern::new(4).make_file(&mount.join("file"), LENGTH);
    for victim in 0..3 {
        drop_caches().unwrap();
        cluster.datanodes[victim].daemon.pause();
        let begun = Stopwatch::start();
        Pattern::new(4).check_file(&mount.join("file"), LENGTH);
        let took = begun.elapsed();
        cluster.datanodes[victim].daemon.resume();
        assert!(took < Duration::from_secs(15), "a silent DataNode held a read up for {took:?}");
    }
}

fn stopped_namenode_declares_nobody_dead(_: &Nothing) {
    let cluster = Cluster::builder().start();
    let mount = cluster.mount("mount");
    Pattern::new(7).make_file(&mount.join("file"), LENGTH);
    cluster.wait_fully_replicated();
    cluster.namenode.daemon.pause();
    // Longer than the dead interval of these clusters, 5 s. That time passes is what is tested.
    std::thread::sleep(Duration::from_secs(7));
    cluster.namenode.daemon.resume();
    // From the first answer on, until every DataNode must have been heard again: nobody is given up, nothing is copied.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert_eq!((cluster.live_datanodes(), cluster.status("pending_replication_blocks")), (Some(3), Some(0)));
        let report: serde_json::Value = serde_json::from_str(&cluster.dfs(&["--json", "admin", "report"])).unwrap();
        let states: Vec<_> = report["datanodes"].as_array().unwrap().iter().map(|node| node["state"].clone()).collect();
        assert!(states.iter().all(|state| state == "live"), "{states:?}");
    }
    cold_check(&mount, "file", Pattern::new(7));
}

fn dead_datanode_is_repaired_elsewhere(_: &Nothing) {
    let mut cluster = Cluster::builder().datanodes(4).replication(3).start();
    let mount = cluster.mount("mount");
    let tree = source_tree(5, 60);
    make_tree(mount.path(), &tree).unwrap();
    let victim = (0..4).max_by_key(|node| replica_files(&cluster, *node).len()).unwrap();
    cluster.datanodes[victim].daemon.kill();
    cluster.wait_datanodes_live(3);
    cluster.wait_fully_replicated();
    drop_caches().unwrap();
    check_tree(mount.path(), &tree).unwrap();
    // Every remaining node has all blocks now: three copies on three nodes.
    let counts: Vec<usize> =
        (0..4).filter(|node| *node != victim).map(|node| replica_files(&cluster, node).len()).collect();
    assert!(counts.iter().all(|count| *count == counts[0]), "{counts:?}");
    // The lost node comes back with its old replicas: what is too much goes.
    cluster.start_datanode(victim);
    cluster.wait_datanodes_live(4);
    wait_until(REPAIR, "three identical replicas of everything", || check_identical(&cluster, 3).is_ok());
}

fn failed_device_of_a_datanode_leaves_its_other_volume(_: &Nothing) {
    let device = Devices::Loop(ByteCount(320 << 20));
    let cluster = Cluster::builder().datanodes(2).volumes(2).devices(device).start();
    let mount = cluster.mount("mount");
    let tree = source_tree(6, 60);
    make_tree(mount.path(), &tree).unwrap();
    cluster.datanodes[0].devices[0].shut_down();
    drop_caches().unwrap();
    check_tree(mount.path(), &tree).unwrap();
    Pattern::new(6).make_file(&mount.join("after"), LENGTH);
    cold_check(&mount, "after", Pattern::new(6));
    cluster.wait_datanodes_live(2);
    cluster.wait_fully_replicated();
}

fn hung_device_of_a_datanode_leaves_its_other_volume(_: &Nothing) {
    let device = Devices::Loop(ByteCount(320 << 20));
    let cluster = Cluster::builder().datanodes(3).volumes(2).devices(device).start();
    let mount = cluster.mount("mount");
    let tree = source_tree(7, 60);
    make_tree(mount.path(), &tree).unwrap();
    // One is being written when it happens.
    let mut open = File::create(mount.join("open")).unwrap();
    open.write_all(&Pattern::new(8).bytes(LENGTH as usize)).unwrap();
    cluster.wait_fully_replicated();
    let frozen = cluster.datanodes[0].devices[0].freeze();
    let begun = Stopwatch::start();
    let (mut written, mut is_told) = (0, false);
    // Until its writers, readers, reports and deletions have met it, and it was taken out.
    while !is_volume_failed(&cluster, 0) {
        let call = Stopwatch::start();
        Pattern::new(written).make_file(&mount.join(format!("file-{written}")), LENGTH);
        cold_check(&mount, &format!("file-{written}"), Pattern::new(written));
        if written > 0 {
            fs::remove_file(mount.join(format!("file-{}", written - 1))).unwrap();
        }
        assert!(call.elapsed() < Duration::from_secs(15), "a hung device held a file up for {:?}", call.elapsed());
        assert!(begun.elapsed() < REPAIR, "a hung device was not taken out");
        written += 1;
        let node = &cluster.datanodes[0];
        let health = http_get(&node.host, node.http_port, "/health").expect("the DataNode answers");
        is_told |=
            health.0 == 200 && health.1.contains(&format!("\"silent_volumes\":[\"{}\"]", node.data_dirs[0].display()));
    }
    assert!(is_told, "until it was taken out, the DataNode said that it does not answer");
    cluster.wait_datanodes_live(3);
    close(open).unwrap();
    cold_check(&mount, "open", Pattern::new(8));
    // The node's other volume takes the replicas, and deletes what goes.
    cluster.wait_fully_replicated();
    let healthy = &cluster.datanodes[0].data_dirs[1];
    wait_until(REPAIR, "one replica of each block on the healthy volume", || {
        let here = replica_files(&cluster, 0).iter().filter(|path| path.starts_with(healthy)).count();
        here == replica_files(&cluster, 1).len()
    });
    check_tree(mount.path(), &tree).unwrap();
    drop(frozen);
    wait_until(REPAIR, "the volume to come back", || !is_volume_failed(&cluster, 0));
    wait_until(REPAIR, "three identical replicas of everything", || check_identical(&cluster, 3).is_ok());
    drop_caches().unwrap();
    check_tree(mount.path(), &tree).unwrap();
}

fn full_cluster_is_enospc_and_recovers(_: &Nothing) {
    const PIECE: u64 = 8 << 20;
    let cluster =
        Cluster::builder().datanodes(1).devices(Devices::Loop(ByteCount(400 << 20))).set("dfs.blocksize=4MiB").start();
    let mount = cluster.mount("mount");
    let write = |name: &str, seed: u64| -> std::io::Result<()> {
        let file = File::create(mount.join(name))?;
        Pattern::new(seed).write(&file, 0, PIECE)?;
        close(file)
    };
    let mut whole = 0;
    let error = loop {
        if let Err(error) = write(&format!("file-{whole}"), whole) {
            break error;
        }
        whole += 1;
        assert!(whole < 50, "a device of 400 MiB took {whole} files of 8 MiB");
    };
    assert_eq!(Errno::from_io_error(&error), Some(Errno::NOSPC), "{error}");
    assert!(whole > 10, "only {whole} files before the end");
    // Names still work, and nothing that was closed has suffered.
    fs::create_dir(mount.join("directory")).unwrap();
    for seed in 0..whole {
        Pattern::new(seed).check_file(&mount.join(format!("file-{seed}")), PIECE);
    }
    for seed in 0..whole / 2 {
        fs::remove_file(mount.join(format!("file-{seed}"))).unwrap();
    }
    wait_until(REPAIR, "room after files were removed", || write("again", 99).is_ok());
    Pattern::new(99).check_file(&mount.join("again"), PIECE);
}
