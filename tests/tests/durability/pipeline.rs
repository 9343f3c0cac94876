//! DataNodes that die or hang while files are written through them: no call fails, none stalls for long, and when the
//! nodes are back all replicas are the same.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::Duration;

use dfs_common::sys::close;
use dfs_common::units::ByteCount;
use dfs_tests::bench::drop_caches;
use dfs_tests::cases;
use dfs_tests::checkers::replicas::{cached_share, check_identical};
use dfs_tests::cluster::{Cluster, Devices};
use dfs_tests::device::SMALL_DEVICE;
use dfs_tests::mount::Mount;
use dfs_tests::replica::replica_files;
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::wait::{REPAIR, Stopwatch, wait_until};
use dfs_tests::workload::Pattern;

pub(super) const CASES: [Case<Nothing>; 10] = cases![
    killed_member_of_a_pipeline_fails_no_write,
    two_of_three_killed_members_fail_no_write,
    stopped_member_of_a_pipeline_stalls_no_call_for_long,
    disk_that_pauses_costs_no_member_of_a_pipeline,
    lost_member_is_replaced_within_the_write,
    append_goes_on_without_a_lost_member,
    append_to_a_lone_replica_brings_others_in_first,
    fsync_during_recovery_keeps_its_promise,
    end_of_a_file_outlives_a_lost_member,
    first_node_alone_keeps_a_large_block_in_memory,
];

/// Several blocks of 64 MiB, the last one not full.
const LENGTH: u64 = (200 << 20) + 12_345;
/// Longer than anybody waits for a node that says nothing, and shorter than until a disk is given up.
const DISK_PAUSE: Duration = Duration::from_secs(7);
/// Written between two looks at the clock.
const STEP: u64 = 1 << 20;
/// No call may take longer.
const STALL_MAX: Duration = Duration::from_secs(15);

/// Writes a file step by step; notes the longest call.
struct Writing {
    file: File,
    pattern: Pattern,
    at: u64,
    slowest: Duration,
}

impl Writing {
    fn begin(mount: &Mount, name: &str, seed: u64) -> Self {
        let file = File::create(mount.join(name)).expect("create");
        Self { file, pattern: Pattern::new(seed), at: 0, slowest: Duration::ZERO }
    }

    fn timed<T>(&mut self, what: &str, call: impl FnOnce(&mut Self) -> std::io::Result<T>) {
        let begun = Stopwatch::start();
        let outcome = call(self);
        self.slowest = self.slowest.max(begun.elapsed());
        if let Err(error) = outcome {
            panic!("{what} at {}: {error}", self.at);
        }
    }

    fn write_to(&mut self, end: u64) {
        while self.at < end {
            let piece = STEP.min(end - self.at);
            self.timed("write", |writing| writing.pattern.write(&writing.file, writing.at, piece));
            self.at += piece;
        }
    }

    fn sync(&mut self) {
        self.timed("fsync", |writing| writing.file.sync_all());
    }

    fn end(mut self) {
        let begun = Stopwatch::start();
        close(self.file).expect("close");
        self.slowest = self.slowest.max(begun.elapsed());
        eprintln!("slowest call: {:?}", self.slowest);
        assert!(self.slowest < STALL_MAX, "a call took {:?}", self.slowest);
    }
}

fn check(cluster: &Cluster, mount: &Mount, name: &str, seed: u64, length: u64, copies: usize) {
    wait_until(REPAIR, format!("{copies} identical replicas of everything"), || {
        check_identical(cluster, copies).is_ok()
    });
    drop_caches().unwrap();
    Pattern::new(seed).check_file(&mount.join(name), length);
}

fn killed_member_of_a_pipeline_fails_no_write(_: &Nothing) {
    let mut cluster = Cluster::builder().set("dfs.blocksize=64MiB").start();
    let mount = cluster.mount("mount");
    for victim in 0..3 {
        let name = format!("file-{victim}");
        let seed = victim as u64;
        let mut writing = Writing::begin(&mount, &name, seed);
        writing.write_to(LENGTH / 3);
        cluster.datanodes[victim].daemon.kill();
        writing.write_to(LENGTH);
        writing.end();
        drop_caches().unwrap();
        Pattern::new(seed).check_file(&mount.join(&name), LENGTH);
        cluster.start_datanode(victim);
        cluster.wait_datanodes_live(3);
        check(&cluster, &mount, &name, seed, LENGTH, 3);
    }
}

fn two_of_three_killed_members_fail_no_write(_: &Nothing) {
    let mut cluster = Cluster::builder().set("dfs.blocksize=64MiB").start();
    let mount = cluster.mount("mount");
    for (case, victims) in [[0, 1], [1, 2], [2, 0]].into_iter().enumerate() {
        let (name, seed) = (format!("file-{case}"), 10 + case as u64);
        let mut writing = Writing::begin(&mount, &name, seed);
        writing.write_to(LENGTH / 3);
        cluster.datanodes[victims[0]].daemon.kill();
        if case == 1 {
            // One after the other; else both at once.
            writing.write_to(LENGTH / 2);
        }
        cluster.datanodes[victims[1]].daemon.kill();
        writing.write_to(LENGTH);
        writing.end();
        for victim in victims {
            cluster.start_datanode(victim);
        }
        cluster.wait_datanodes_live(3);
        check(&cluster, &mount, &name, seed, LENGTH, 3);
    }
}

fn stopped_member_of_a_pipeline_stalls_no_call_for_long(_: &Nothing) {
    let cluster = Cluster::builder().set("dfs.blocksize=64MiB").start();
    let mount = cluster.mount("mount");
    for victim in 0..3 {
        let (name, seed) = (format!("file-{victim}"), 20 + victim as u64);
        let mut writing = Writing::begin(&mount, &name, seed);
        writing.write_to(LENGTH / 3);
        cluster.datanodes[victim].daemon.pause();
        writing.write_to(LENGTH / 2);
        writing.sync();
        writing.write_to(LENGTH);
        writing.end();
        cluster.datanodes[victim].daemon.resume();
        cluster.wait_datanodes_live(3);
        check(&cluster, &mount, &name, seed, LENGTH, 3);
    }
}

/// A node whose disk does not answer for a while lives, and so do those behind it.
fn disk_that_pauses_costs_no_member_of_a_pipeline(_: &Nothing) {
    let cluster = Cluster::builder().devices(Devices::Loop(SMALL_DEVICE)).start();
    let mount = cluster.mount("mount");
    for victim in 0..3 {
        // One message, whose set-up finds the disk as it is; and one that is under way when it stops answering.
        let (small, large) = (format!("small-{victim}"), format!("large-{victim}"));
        let mut writing = Writing::begin(&mount, &large, 70 + victim as u64);
        writing.write_to(3 << 20);
        writing.sync();
        std::thread::scope(|scope| {
            let _pause = cluster.datanodes[victim].devices[0].freeze_for(DISK_PAUSE);
            let small = scope.spawn(|| Pattern::new(victim as u64).make_file(&mount.join(&small), 1000));
            writing.write_to(5 << 20);
            writing.sync();
            small.join().expect("the small file is written");
        });
        writing.end();
    }
    let log = mount.log_text();
    assert!(!log.contains("write pipeline failed") && !log.contains("no pipeline for a new block"), "{log}");
    // Starting the process that froze the disk closed a duplicate of the file: its last close completes it a moment later.
    wait_until(REPAIR, "every node has everything", || check_identical(&cluster, 3).is_ok());
}

fn lost_member_is_replaced_within_the_write(_: &Nothing) {
    let mut cluster = Cluster::builder().datanodes(4).replication(3).set("dfs.blocksize=256MiB").start();
    let mount = cluster.mount("mount");
    let mut writing = Writing::begin(&mount, "file", 30);
    writing.write_to(LENGTH / 3);
    writing.sync();
    // Whoever has a replica under way is in the pipeline; the first of them goes.
    let victim = (0..4).find(|node| !replicas_under_way(&cluster, *node).is_empty()).expect("a node that writes");
    cluster.datanodes[victim].daemon.kill();
    writing.write_to(LENGTH / 2);
    writing.sync();
    let writers = (0..4).filter(|node| *node != victim && !replicas_under_way(&cluster, *node).is_empty()).count();
    assert_eq!(writers, 3, "the fourth node has taken the place of the lost one");
    writing.write_to(LENGTH);
    writing.end();
    drop_caches().unwrap();
    Pattern::new(30).check_file(&mount.join("file"), LENGTH);
    cluster.start_datanode(victim);
    cluster.wait_datanodes_live(4);
    check(&cluster, &mount, "file", 30, LENGTH, 3);
}

/// Data files of replicas being written.
fn replicas_under_way(cluster: &Cluster, datanode: usize) -> Vec<std::path::PathBuf> {
    let dirs = &cluster.datanodes[datanode].data_dirs;
    let files = dirs.iter().flat_map(walkdir::WalkDir::new).filter_map(Result::ok).map(walkdir::DirEntry::into_path);
    files
        .filter(|path| path.parent().is_some_and(|dir| dir.ends_with("rbw")) && path.extension().is_none())
        .filter(|path| path.is_file())
        .collect()
}

fn append_goes_on_without_a_lost_member(_: &Nothing) {
    let mut cluster = Cluster::builder().start();
    let mount = cluster.mount("mount");
    for victim in 0..3 {
        let (name, pattern) = (format!("file-{victim}"), Pattern::new(40 + victim as u64));
        pattern.make_file(&mount.join(&name), 1_000_001);
        // Dead when the append begins, but not yet known to be.
        cluster.datanodes[victim].daemon.kill();
        let begun = Stopwatch::start();
        let file = OpenOptions::new().append(true).open(mount.join(&name)).expect("open for append");
        pattern.write(&file, 1_000_001, 2_000_000).expect("append");
        close(file).expect("close");
        assert!(begun.elapsed() < 2 * STALL_MAX, "the append took {:?}", begun.elapsed());
        drop_caches().unwrap();
        pattern.check_file(&mount.join(&name), 3_000_001);
        cluster.start_datanode(victim);
        cluster.wait_datanodes_live(3);
        check(&cluster, &mount, &name, 40 + victim as u64, 3_000_001, 3);
    }
}

fn append_to_a_lone_replica_brings_others_in_first(_: &Nothing) {
    let mut cluster = Cluster::builder().datanodes(4).replication(3).start();
    let mount = cluster.mount("mount");
    let (path, pattern) = (mount.join("file"), Pattern::new(47));
    let local = cluster.dir().join("local");
    pattern.make_file(&local, 700_001);
    cluster.dfs(&["put", "-D", "dfs.replication=1", local.to_str().unwrap(), "/file"]);
    let holder = (0..4).find(|node| !replica_files(&cluster, *node).is_empty()).expect("the only replica");
    // The others are to have it too, and an append is quicker than repair.
    cluster.dfs(&["setrep", "3", "/file"]);
    let file = OpenOptions::new().append(true).open(&path).unwrap();
    pattern.write(&file, 700_001, 800_000).unwrap();
    file.sync_all().unwrap();
    cluster.datanodes[holder].daemon.kill();
    pattern.write(&file, 1_500_001, 800_000).unwrap();
    close(file).expect("the append outlives the node that had the only replica");
    drop_caches().unwrap();
    pattern.check_file(&path, 2_300_001);
    cluster.start_datanode(holder);
    cluster.wait_datanodes_live(4);
    check(&cluster, &mount, "file", 47, 2_300_001, 3);
}

fn fsync_during_recovery_keeps_its_promise(_: &Nothing) {
    let mut cluster = Cluster::builder().start();
    let mount = cluster.mount("mount");
    let mut writing = Writing::begin(&mount, "file", 50);
    for (round, victim) in [0, 1, 2, 0].into_iter().enumerate() {
        writing.write_to((round as u64 * 2 + 1) * 5_000_011);
        writing.sync();
        cluster.datanodes[victim].daemon.kill();
        // The failure is met by a write or by the fsync, whichever comes first.
        writing.write_to((round as u64 * 2 + 2) * 5_000_011);
        writing.sync();
        let reader = cluster.mount(&format!("reader-{round}"));
        let seen = File::open(reader.join("file")).and_then(|file| Pattern::new(50).check(0, file)).expect("read");
        assert!(seen >= writing.at, "{seen} of {} synced bytes are visible", writing.at);
        cluster.start_datanode(victim);
        cluster.wait_datanodes_live(3);
    }
    let length = writing.at;
    writing.end();
    check(&cluster, &mount, "file", 50, length, 3);
}

fn end_of_a_file_outlives_a_lost_member(_: &Nothing) {
    let mut cluster = Cluster::builder().start();
    let mount = cluster.mount("mount");
    for victim in 0..3 {
        let (name, pattern) = (format!("file-{victim}"), Pattern::new(60 + victim as u64));
        let mut file = File::create(mount.join(&name)).expect("create");
        file.write_all(&pattern.bytes(700_001)).expect("write");
        file.sync_all().expect("fsync");
        // Everything is acknowledged but the block's end.
        cluster.datanodes[victim].daemon.kill();
        let begun = Stopwatch::start();
        close(file).expect("close");
        assert!(begun.elapsed() < STALL_MAX, "close took {:?}", begun.elapsed());
        drop_caches().unwrap();
        pattern.check_file(&mount.join(&name), 700_001);
        cluster.start_datanode(victim);
        cluster.wait_datanodes_live(3);
        check(&cluster, &mount, &name, 60 + victim as u64, 700_001, 3);
    }
}

/// One of three copies is enough of a page cache.
fn first_node_alone_keeps_a_large_block_in_memory(_: &Nothing) {
    let cluster = Cluster::builder().devices(Devices::Loop(ByteCount(512 << 20))).start();
    let mount = cluster.mount("mount");
    let mut writing = Writing::begin(&mount, "large", 40);
    writing.write_to(48 << 20);
    writing.sync();
    writing.write_to(64 << 20);
    writing.end();
    let shares = || -> Vec<f64> {
        let share = |node| cached_share(&replica_files(&cluster, node)[0]).unwrap();
        (0..3).map(share).collect()
    };
    wait_until(REPAIR, "mirrors that have forgotten what is on disk", || {
        let shares = shares();
        shares.iter().filter(|share| **share > 0.9).count() == 1
            && shares.iter().filter(|share| **share < 0.5).count() == 2
    });
}
