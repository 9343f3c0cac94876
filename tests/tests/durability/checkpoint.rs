//! The SecondaryNameNode: checkpoints under work, deaths of either side, and a NameNode restored from its directory.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dfs_common::sys::close;
use dfs_tests::cases;
use dfs_tests::cluster::Cluster;
use dfs_tests::model::Loss;
use dfs_tests::secondary::{Secondary, edit_segments, images};
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::wait::{REPAIR, STARTUP, poll, wait_until};
use dfs_tests::workload::Pattern;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::crash::{check_all, make_workers, wait_progress, work};
use super::seed;

pub(super) const CASES: [Case<Nothing>; 3] = cases![
    checkpoints_by_a_secondary_stop_nobody_and_shorten_the_log,
    namenode_or_secondary_killed_during_checkpoints_loses_nothing,
    namenode_lost_with_its_directory_is_restored_from_the_secondary,
];

/// Patience for a moment that may not come.
const MOMENT: Duration = Duration::from_secs(2);

fn name_dir(cluster: &Cluster) -> PathBuf {
    cluster.dir().join("namenode/name")
}

fn checkpoints_by_a_secondary_stop_nobody_and_shorten_the_log(_: &Nothing) {
    let mut cluster = Cluster::builder().start();
    let mut secondary = Secondary::new(&cluster);
    secondary.daemon.start();
    let mount = cluster.mount("mount");
    let mut workers = make_workers(&mount, seed());
    let errors = work(&mut workers, |count| {
        for _ in 0..2 {
            wait_progress(count, 20);
            let txid = cluster.status("last_txid").expect("the NameNode serves");
            secondary.wait_checkpoint(txid);
        }
    });
    assert!(errors.is_empty(), "{errors:?}\n{}", mount.diagnostics());
    let name_dir = name_dir(&cluster);
    wait_until(REPAIR, "the NameNode to take the newest image over", || {
        images(&name_dir).last().copied() == secondary.last_checkpoint()
    });
    wait_until(REPAIR, "the first edits to be retired", || edit_segments(&name_dir).first() > Some(&0));
    // What is taken over is there before what it makes needless goes.
    wait_until(REPAIR, "two images and a few segments to be left", || {
        images(&name_dir).len() <= 2 && edit_segments(&name_dir).len() <= 4
    });
    cluster.namenode.daemon.kill();
    cluster.start_namenode();
    cluster.wait_datanodes_live(3);
    check_all(&mut workers, Loss::Processes);
    let status = secondary.daemon.terminate(STARTUP);
    assert!(status.success(), "SIGTERM is a clean stop: {status}\n{}", secondary.daemon.log_tail());
}

fn namenode_or_secondary_killed_during_checkpoints_loses_nothing(_: &Nothing) {
    const ROUNDS: usize = 3;
    let mut rng = SmallRng::seed_from_u64(seed());
    let mut cluster = Cluster::builder().start();
    let mut secondary = Secondary::new(&cluster);
    secondary.daemon.start();
    let mount = cluster.mount("mount");
    let mut workers = make_workers(&mount, rng.random());
    cluster.namenode.daemon.prepare_restarts(ROUNDS);
    secondary.daemon.prepare_restarts(ROUNDS);
    let errors = work(&mut workers, |count| {
        for _ in 0..ROUNDS {
            wait_progress(count, rng.random_range(5..40));
            if rng.random_bool(0.7) {
                // It may be over before it is seen; then this round dies between two checkpoints.
                let _ = poll(MOMENT, || secondary.is_merging().then_some(()));
            }
            let (kills_namenode, kills_secondary) =
                [(true, false), (false, true), (true, true)][rng.random_range(0..3)];
            if kills_namenode {
                cluster.namenode.daemon.kill();
            }
            if kills_secondary {
                secondary.daemon.kill();
                secondary.daemon.start();
            }
            if kills_namenode {
                cluster.start_namenode();
            }
            wait_progress(count, 1);
            let txid = cluster.status("last_txid").expect("the NameNode serves");
            secondary.wait_checkpoint(txid);
        }
    });
    assert!(errors.is_empty(), "the mount waits through restarts, but: {errors:?}\n{}", mount.diagnostics());
    check_all(&mut workers, Loss::Processes);
    cluster.namenode.daemon.kill();
    cluster.start_namenode();
    cluster.wait_datanodes_live(3);
    check_all(&mut workers, Loss::Processes);
}

fn namenode_lost_with_its_directory_is_restored_from_the_secondary(_: &Nothing) {
    let mut rng = SmallRng::seed_from_u64(seed());
    let mut cluster = Cluster::builder().start();
    let mut secondary = Secondary::new(&cluster);
    secondary.daemon.start();
    let mount = cluster.mount("mount");
    let mut workers = make_workers(&mount, rng.random());
    let errors = work(&mut workers, |count| wait_progress(count, 60));
    assert!(errors.is_empty(), "{errors:?}");
    let (grown, pattern) = (mount.join("grown"), Pattern::new(rng.random()));
    append(File::create(&grown).expect("create"), pattern, 0, 300_000);
    secondary.wait_checkpoint(cluster.status("last_txid").expect("the NameNode serves"));
    secondary.daemon.kill();

    // What the checkpoint does not know: a file that has grown, a file that is new.
    append(OpenOptions::new().append(true).open(&grown).expect("open"), pattern, 300_000, 200_000);
    let known = block_files(&cluster);
    append(File::create(mount.join("later")).expect("create"), pattern, 0, 100_000);
    wait_until(REPAIR, "three replicas of the new file", || block_files(&cluster).difference(&known).count() == 3);
    let later: BTreeSet<PathBuf> = block_files(&cluster).difference(&known).cloned().collect();
    assert!(!secondary.import().status.success(), "imported into a directory in use");
    cluster.namenode.daemon.kill();
    assert!(!secondary.import().status.success(), "imported over a namespace");
    fs::remove_dir_all(name_dir(&cluster)).expect("lose the NameNode's directory");
    let imported = secondary.import();
    assert!(imported.status.success(), "import: {}", String::from_utf8_lossy(&imported.stderr));

    // It waits to be looked at, and to be told.
    for _ in 0..2 {
        cluster.namenode.daemon.kill();
        cluster.start_namenode();
        assert!(cluster.dfs(&["admin", "safemode", "get"]).contains("restored from a checkpoint"));
    }
    cluster.wait_datanodes_live(3);
    check_all(&mut workers, Loss::Processes);
    let refused = fs::create_dir(mount.join("too-early")).expect_err("a restored namespace is read-only at first");
    assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
    cluster.dfs(&["admin", "safemode", "leave"]);

    wait_until(REPAIR, "the grown file to be recovered as the DataNodes have it", || {
        fs::metadata(&grown).is_ok_and(|metadata| metadata.len() == 500_000)
    });
    let read = pattern.check(0, File::open(&grown).expect("open")).expect("read the grown file");
    assert_eq!(read, 500_000);
    assert_eq!(fs::metadata(mount.join("later")).expect_err("newer than the checkpoint").kind(), ErrorKind::NotFound);
    let errors = work(&mut workers, |count| wait_progress(count, 60));
    assert!(errors.is_empty(), "{errors:?}\n{}", mount.diagnostics());
    check_all(&mut workers, Loss::Processes);
    cluster.wait_fully_replicated();
    assert!(later.is_subset(&block_files(&cluster)), "blocks of lost time are kept");
    assert_eq!(cluster.status("unknown_replicas"), Some(3));

    secondary.daemon.start();
    secondary.wait_checkpoint(cluster.status("last_txid").expect("the NameNode serves"));
    cluster.namenode.daemon.kill();
    cluster.start_namenode();
    cluster.wait_datanodes_live(3);
    check_all(&mut workers, Loss::Processes);
    fs::create_dir(mount.join("told once")).expect("told once is told for good");
}

fn append(file: File, pattern: Pattern, offset: u64, length: u64) {
    pattern.write(&file, offset, length).expect("write");
    close(file).expect("close");
}

/// Finalized replicas on all DataNodes.
fn block_files(cluster: &Cluster) -> BTreeSet<PathBuf> {
    let dirs = cluster.datanodes.iter().flat_map(|node| &node.data_dirs);
    let files = dirs.flat_map(walkdir::WalkDir::new).filter_map(Result::ok).map(walkdir::DirEntry::into_path);
    files.filter(|path| is_block(path)).collect()
}

fn is_block(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("blk_")
        && !name.ends_with(".meta")
        && path.components().any(|part| part.as_os_str() == "finalized")
}
