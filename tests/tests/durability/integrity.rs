//! Damage that nobody has met yet is found and repaired while there is one good replica.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use dfs_tests::bench::drop_caches;
use dfs_tests::cases;
use dfs_tests::checkers::replicas::check_identical;
use dfs_tests::cluster::Cluster;
use dfs_tests::fault::{Damage, flip_bit};
use dfs_tests::replica::{replica_files, replicas};
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::wait::{REPAIR, poll, wait_until};
use dfs_tests::workload::Pattern;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::seed;

pub(super) const CASES: [Case<Nothing>; 3] = cases![
    all_replicas_but_one_of_100_blocks_are_damaged,
    every_damage_of_data_or_checksums_is_found_and_mended,
    files_removed_and_brought_back_behind_the_datanodes_back,
];

const BLOCKS: u64 = 100;
const LENGTH: u64 = 200_001;
/// From the first read or scan to the last replica replaced.
const REPLACED_WITHIN: Duration = Duration::from_secs(120);

fn all_replicas_but_one_of_100_blocks_are_damaged(_: &Nothing) {
    let cluster = Cluster::builder().start();
    let mount = cluster.mount("mount");
    fs::create_dir(mount.join("files")).unwrap();
    for seed in 0..BLOCKS {
        Pattern::new(seed).make_file(&mount.join(format!("files/{seed}")), LENGTH);
    }
    wait_until(REPAIR, "three identical replicas", || check_identical(&cluster, 3).is_ok());
    for datanode in 0..3 {
        for (at, path) in replica_files(&cluster, datanode).iter().enumerate() {
            // The same block has the same place in every node's list: each node keeps a third of them whole.
            if at % 3 != datanode {
                flip_bit(path, (at as u64 * 1_999) % LENGTH).unwrap();
            }
        }
    }
    drop_caches().unwrap();
    let begun = Instant::now();
    for node in &cluster.datanodes {
        node.scan();
    }
    for seed in 0..BLOCKS {
        Pattern::new(seed).check_file(&mount.join(format!("files/{seed}")), LENGTH);
    }
    wait_until(REPLACED_WITHIN.saturating_sub(begun.elapsed()), "every damaged replica replaced", || {
        check_identical(&cluster, 3).is_ok()
    });
    cluster.wait_fully_replicated();
    drop_caches().unwrap();
    for seed in 0..BLOCKS {
        Pattern::new(seed).check_file(&mount.join(format!("files/{seed}")), LENGTH);
    }
}

/// All replicas of a block but one are damaged, in every way there is: nobody reads a wrong byte, and in the end all are whole.
fn every_damage_of_data_or_checksums_is_found_and_mended(_: &Nothing) {
    const EACH: usize = 3;
    let mut rng = SmallRng::seed_from_u64(seed());
    let cluster = Cluster::builder().start();
    let mount = cluster.mount("mount");
    let damages: Vec<Damage> = Damage::ALL.into_iter().cycle().take(Damage::ALL.len() * EACH).collect();
    for seed in 0..damages.len() as u64 {
        Pattern::new(seed).make_file(&mount.join(format!("{seed}")), LENGTH);
    }
    wait_until(REPAIR, "three identical replicas", || check_identical(&cluster, 3).is_ok());
    let check_files = || {
        drop_caches().unwrap();
        (0..damages.len() as u64)
            .for_each(|seed| Pattern::new(seed).check_file(&mount.join(format!("{seed}")), LENGTH));
    };
    for datanode in 0..3 {
        for (at, (replica, damage)) in replicas(&cluster, datanode).iter().zip(&damages).enumerate() {
            if at % 3 != datanode {
                damage.inflict(replica, &mut rng).unwrap();
            }
        }
    }
    check_files();
    for node in &cluster.datanodes {
        node.scan();
    }
    let mut last = String::new();
    let mended = poll(REPLACED_WITHIN, || check_identical(&cluster, 3).map_err(|why| last = why).ok());
    assert!(mended.is_some(), "damage was not mended: {last}");
    cluster.wait_fully_replicated();
    check_files();
}

/// Removes files of replicas, and puts a replica where no record of it is: a scan mends all of it.
fn files_removed_and_brought_back_behind_the_datanodes_back(_: &Nothing) {
    let mut cluster = Cluster::builder().start();
    let mount = cluster.mount("mount");
    for seed in 0..6 {
        Pattern::new(seed).make_file(&mount.join(format!("{seed}")), LENGTH);
    }
    wait_until(REPAIR, "three identical replicas", || check_identical(&cluster, 3).is_ok());
    let files = replica_files(&cluster, 0);
    let meta_of = |data: &Path| {
        let name = format!("{}_", data.file_name().unwrap().display());
        let entries = fs::read_dir(data.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
        entries.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with(&name))
    };
    fs::remove_file(&files[0]).unwrap();
    fs::remove_file(meta_of(&files[1]).unwrap()).unwrap();
    fs::OpenOptions::new().write(true).open(&files[2]).unwrap().set_len(LENGTH - 1000).unwrap();
    cluster.datanodes[0].scan();
    wait_until(REPAIR, "lost and damaged replicas replaced", || {
        check_identical(&cluster, 3).is_ok() && files[..3].iter().all(|path| meta_of(path).is_some())
    });
    cluster.wait_fully_replicated();

    // Away while the DataNode starts, so that it has no record.
    let away = cluster.datanodes[0].data_dirs[0].with_extension("away");
    fs::create_dir(&away).unwrap();
    cluster.datanodes[0].daemon.kill();
    let moved = [files[3].clone(), meta_of(&files[3]).unwrap()];
    let kept = moved.each_ref().map(|path| away.join(path.file_name().unwrap()));
    for (path, kept) in moved.iter().zip(&kept) {
        fs::rename(path, kept).unwrap();
    }
    cluster.datanodes[1].daemon.kill();
    cluster.datanodes[2].daemon.kill();
    cluster.start_datanode(0);
    for (path, kept) in moved.iter().zip(&kept) {
        fs::rename(kept, path).unwrap();
    }
    cluster.datanodes[0].scan();
    // All of it is on this node only.
    drop_caches().unwrap();
    for seed in 0..6 {
        Pattern::new(seed).check_file(&mount.join(format!("{seed}")), LENGTH);
    }
    cluster.start_datanode(1);
    cluster.start_datanode(2);
    cluster.wait_fully_replicated();
}
