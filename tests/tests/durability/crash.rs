//! Workers do random operations while daemons die; then every book is compared with what is there.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dfs_tests::bench::drop_caches;
use dfs_tests::cases;
use dfs_tests::cluster::{Cluster, Devices};
use dfs_tests::device::SMALL_DEVICE;
use dfs_tests::fault::{PowerSwitch, recover_power, shut_down_device};
use dfs_tests::model::{Loss, Worker};
use dfs_tests::mount::Mount;
use dfs_tests::replica::replica_files;
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::wait::{REPAIR, STARTUP, wait_until};
use dfs_tests::workload::{check_tree, make_tree, source_tree};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use walkdir::WalkDir;

use super::seed;

pub(super) const CASES: [Case<Nothing>; 7] = cases![
    namenode_killed_at_random_moments_loses_nothing_and_stops_nobody,
    every_process_killed_at_random_moments_loses_nothing_acknowledged,
    mount_killed_loses_nothing_acknowledged,
    power_cut_on_every_device_keeps_answered_changes_and_synced_bytes,
    copies_of_synced_replicas_survive_a_power_cut,
    clean_stop_and_start_keeps_everything,
    device_that_fails_under_load_fails_no_call_and_is_taken_in_again,
];

const WORKERS: u64 = 4;

/// Long enough for a namenode to come back under a call that waits for it.
const PROGRESS: Duration = Duration::from_secs(120);

/// Workers in directories of their own below the mount.
pub(super) fn make_workers(mount: &Mount, seed: u64) -> Vec<Worker> {
    (0..WORKERS)
        .map(|number| Worker::new(mount.new_dir(&format!("worker-{number}")), seed.wrapping_add(number)))
        .collect()
}

fn acknowledged(workers: &[Worker]) -> u64 {
    workers.iter().map(Worker::acknowledged).sum()
}

/// Lets all workers work, each on its thread, while `meanwhile` runs; then stops them. `meanwhile` is given the count of
/// acknowledged operations. Workers end early at their first error, which is returned.
pub(super) fn work(workers: &mut [Worker], meanwhile: impl FnOnce(&dyn Fn() -> u64)) -> Vec<std::io::Error> {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (stop, count) = (&stop, &count);
        let threads: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let before = worker.acknowledged();
                        let result = worker.step();
                        count.fetch_add(worker.acknowledged() - before, Ordering::Relaxed);
                        result?;
                    }
                    Ok(())
                })
            })
            .collect();
        // Also when `meanwhile` panics: the workers must not go on for ever.
        let stopper = StopOnDrop(stop);
        meanwhile(&|| count.load(Ordering::Relaxed));
        drop(stopper);
        threads.into_iter().filter_map(|thread| thread.join().expect("workers do not panic").err()).collect()
    })
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(super) fn wait_progress(count: &dyn Fn() -> u64, operations: u64) {
    let goal = count() + operations;
    wait_until(PROGRESS, format!("{operations} more operations to be acknowledged"), || count() >= goal);
}

#[track_caller]
pub(super) fn check_all(workers: &mut [Worker], loss: Loss) {
    let errors = workers.iter_mut().filter_map(|worker| worker.check(loss).err());
    let wrong: Vec<String> = errors.map(|error| error.to_string()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn namenode_killed_at_random_moments_loses_nothing_and_stops_nobody(_: &Nothing) {
    const RESTARTS: usize = 6;
    let mut rng = SmallRng::seed_from_u64(seed());
    let mut cluster = Cluster::builder().start();
    let mut mount = cluster.mount("mount");
    let mut workers = make_workers(&mount, rng.random());
    cluster.namenode.daemon.prepare_restarts(RESTARTS);
    let errors = work(&mut workers, |count| {
        for _ in 0..RESTARTS {
            wait_progress(count, rng.random_range(20..150));
            cluster.namenode.daemon.kill();
            cluster.start_namenode();
        }
        wait_progress(count, 50);
    });
    assert!(
        errors.is_empty(),
        "the mount waits through a restart of the NameNode, but: {errors:?}\n{}",
        mount.diagnostics()
    );
    check_all(&mut workers, Loss::Processes);
    mount.kill();
    cluster.kill_all();
    cluster.restart_all();
    mount.restart();
    check_all(&mut workers, Loss::Processes);
}

fn every_process_killed_at_random_moments_loses_nothing_acknowledged(_: &Nothing) {
    let mut rng = SmallRng::seed_from_u64(seed());
    let mut cluster = Cluster::builder().start();
    let mut mount = cluster.mount("mount");
    let mut workers = make_workers(&mount, rng.random());
    for _ in 0..4 {
        work(&mut workers, |count| {
            wait_progress(count, rng.random_range(20..200));
            let namenode_first = rng.random_bool(0.5);
            if namenode_first {
                cluster.kill_all();
            }
            mount.kill();
            cluster.kill_all();
        });
        cluster.restart_all();
        mount.restart();
        check_all(&mut workers, Loss::Processes);
    }
    assert!(acknowledged(&workers) > 80);
}

fn mount_killed_loses_nothing_acknowledged(_: &Nothing) {
    let mut rng = SmallRng::seed_from_u64(seed());
    let cluster = Cluster::builder().start();
    let mut mount = cluster.mount("mount");
    let mut workers = make_workers(&mount, rng.random());
    for _ in 0..4 {
        work(&mut workers, |count| {
            wait_progress(count, rng.random_range(20..200));
            mount.kill();
        });
        mount.restart();
        check_all(&mut workers, Loss::Processes);
    }
}

fn power_cut_on_every_device_keeps_answered_changes_and_synced_bytes(_: &Nothing) {
    let mut rng = SmallRng::seed_from_u64(seed());
    let mut cluster = Cluster::builder().devices(Devices::Loop(SMALL_DEVICE)).start();
    let mut mount = cluster.mount("mount");
    let mut workers = make_workers(&mount, rng.random());
    for _ in 0..3 {
        let power = PowerSwitch::new(&cluster);
        work(&mut workers, |count| {
            wait_progress(count, rng.random_range(20..150));
            power.cut(&mut cluster);
            mount.kill();
        });
        recover_power(&mut cluster);
        mount.restart();
        check_all(&mut workers, Loss::Power);
    }
}

fn copies_of_synced_replicas_survive_a_power_cut(_: &Nothing) {
    let devices = Devices::Loop(SMALL_DEVICE);
    let mut cluster = Cluster::builder().datanodes(2).replication(1).devices(devices).start();
    let mount = cluster.mount("mount");
    let tree = source_tree(seed(), 60);
    make_tree(mount.path(), &tree).expect("make the tree");
    let files = WalkDir::new(mount.path()).into_iter().map(|entry| entry.expect("walk the mount").into_path());
    for path in files.filter(|path| path.is_file()) {
        fs::File::open(path).and_then(|file| file.sync_all()).expect("fsync");
    }
    // Each node copies what the other one has. Then one is gone for good, and of the other the power fails.
    cluster.dfs(&["setrep", "-w", "2", "/"]);
    cluster.datanodes[0].daemon.kill();
    shut_down_device(&cluster.datanodes[1].devices[0]);
    cluster.datanodes[1].daemon.kill();
    cluster.datanodes[1].devices[0].remount();
    cluster.start_datanode(1);
    drop_caches().expect("drop caches");
    check_tree(mount.path(), &tree).expect("everything that was synced");
}

fn clean_stop_and_start_keeps_everything(_: &Nothing) {
    let mut cluster = Cluster::builder().start();
    let mount = cluster.mount("mount");
    let mut workers = make_workers(&mount, seed());
    let errors = work(&mut workers, |count| wait_progress(count, 300));
    assert!(errors.is_empty(), "{errors:?}");
    let version = |path: &Path| fs::read_to_string(path.join("current/VERSION")).expect("read VERSION");
    let data_dir = cluster.datanodes[0].data_dirs[0].clone();
    let before = version(&data_dir);
    mount.unmount_cleanly();
    for node in &mut cluster.datanodes {
        let status = node.daemon.terminate(STARTUP);
        assert!(status.success(), "SIGTERM is a clean stop: {status}\n{}", node.daemon.log_tail());
    }
    let status = cluster.namenode.daemon.terminate(STARTUP);
    assert!(status.success(), "SIGTERM is a clean stop: {status}\n{}", cluster.namenode.daemon.log_tail());
    cluster.restart_all();
    let mount = cluster.mount("mount");
    check_all(&mut workers, Loss::Processes);
    assert_eq!(version(&data_dir), before);
    drop(mount);
}

fn device_that_fails_under_load_fails_no_call_and_is_taken_in_again(_: &Nothing) {
    let mut rng = SmallRng::seed_from_u64(seed());
    let cluster = Cluster::builder().datanodes(4).devices(Devices::Loop(SMALL_DEVICE)).start();
    let mount = cluster.mount("mount");
    let mut workers = make_workers(&mount, rng.random());
    let device = &cluster.datanodes[1].devices[0];
    let errors = work(&mut workers, |count| {
        wait_progress(count, rng.random_range(50..200));
        shut_down_device(device);
        wait_progress(count, 300);
        // The DataNode has let go of it.
        wait_until(REPAIR, "the failed device to be free", || device.try_unmount());
        device.mount();
        let known = replica_files(&cluster, 1).len();
        wait_until(REPAIR, "new replicas on the device that came back", || replica_files(&cluster, 1).len() > known);
    });
    assert!(errors.is_empty(), "a device of one of four nodes failed, but: {errors:?}\n{}", mount.diagnostics());
    check_all(&mut workers, Loss::Processes);
    cluster.wait_fully_replicated();
    check_all(&mut workers, Loss::Processes);
}
