//! Files whose writers died: closed with every byte that was acknowledged, whoever else dies meanwhile. And files that
//! are cut inside a block, which is the same machinery.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use dfs_common::sys::close;
use dfs_tests::bench::drop_caches;
use dfs_tests::cases;
use dfs_tests::checkers::replicas::check_identical;
use dfs_tests::cluster::{Cluster, Devices};
use dfs_tests::device::SMALL_DEVICE;
use dfs_tests::fault::{PowerSwitch, recover_power};
use dfs_tests::mount::Mount;
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::wait::{REPAIR, wait_for, wait_until};
use dfs_tests::workload::Pattern;
use rustix::io::Errno;

pub(super) const CASES: [Case<Nothing>; 13] = cases![
    mount_killed_and_restarted_appends_to_its_files_again,
    another_mount_is_refused_until_the_lease_is_recovered,
    lease_taken_from_a_living_writer_leaves_the_file_usable_everywhere,
    file_never_written_is_closed_without_a_block,
    datanode_killed_with_the_writer_leaves_every_synced_byte,
    every_datanode_killed_with_the_writer_leaves_every_synced_byte,
    namenode_restarted_during_recovery_goes_on,
    power_cut_leaves_every_synced_byte_of_an_open_file,
    power_cut_leaves_every_synced_byte_of_a_file_being_appended_to,
    power_cut_leaves_every_byte_synced_after_it_was_closed,
    files_lost_by_a_power_cut_keep_no_other_from_being_recovered,
    truncate_goes_on_after_a_killed_datanode,
    truncate_goes_on_after_a_namenode_restart,
];

/// Two blocks and a bit, the end inside a chunk.
const LENGTH: u64 = 2_500_001;
const BLOCK: &str = "dfs.blocksize=1MiB";
/// "Within a few seconds", on a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn cluster() -> Cluster {
    Cluster::builder().set(BLOCK).start()
}

/// A file being written: `LENGTH` bytes on disk, and some more that nobody was promised.
fn open_file(path: &Path, pattern: Pattern) -> File {
    let mut file = File::create(path).unwrap();
    pattern.write(&file, 0, LENGTH).unwrap();
    file.sync_all().unwrap();
    let more = pattern.bytes(usize::try_from(LENGTH).unwrap() + 700);
    file.write_all(&more[usize::try_from(LENGTH).unwrap()..]).unwrap();
    file
}

/// The mount dies with its files open; the descriptor is of no use any more.
fn kill(mount: &mut Mount, file: File) {
    mount.kill();
    close(file).expect_err("nobody is there to complete the file");
}

/// The file has all synced bytes and nothing that was not written; its length.
fn check_recovered(path: &Path, pattern: Pattern) -> u64 {
    drop_caches().unwrap();
    let length = pattern.check(0, File::open(path).unwrap()).unwrap();
    assert!((LENGTH..=LENGTH + 700).contains(&length), "{length} of {LENGTH} bytes");
    length
}

/// Opens for append as soon as the file is recovered.
fn append_soon(path: &Path) -> File {
    wait_for(SOON, "the file to be recovered", || match OpenOptions::new().append(true).open(path) {
        Ok(file) => Some(file),
        Err(error) => {
            assert_eq!(Errno::from_io_error(&error), Some(Errno::BUSY), "{error}");
            None
        }
    })
}

fn append_rest(mut file: File, pattern: Pattern, from: u64) -> io::Result<u64> {
    let all = pattern.bytes(usize::try_from(from).unwrap() + 1_000_000);
    file.write_all(&all[usize::try_from(from).unwrap()..])?;
    close(file)?;
    Ok(all.len() as u64)
}

fn recover_lease(cluster: &Cluster) -> String {
    cluster.dfs(&["admin", "recover-lease", "/file"])
}

/// The file is whole, closed, can be added to, and ends up with all its replicas.
fn check_in_service(cluster: &Cluster, mount: &Mount, pattern: Pattern) {
    let length = check_recovered(&mount.join("file"), pattern);
    let end = append_rest(append_soon(&mount.join("file")), pattern, length).unwrap();
    drop_caches().unwrap();
    pattern.check_file(&mount.join("file"), end);
    wait_until(REPAIR, "three identical replicas", || check_identical(cluster, 3).is_ok());
}

fn mount_killed_and_restarted_appends_to_its_files_again(_: &Nothing) {
    let cluster = cluster();
    let mut mount = cluster.mount("mount");
    let file = open_file(&mount.join("file"), Pattern::new(1));
    kill(&mut mount, file);
    mount.restart();
    // Any change opens the new session, which ends the old one.
    fs::create_dir(mount.join("directory")).unwrap();
    let begun = Instant::now();
    drop(append_soon(&mount.join("file")));
    eprintln!("recovered after {:?}", begun.elapsed());
    check_in_service(&cluster, &mount, Pattern::new(1));
}

fn another_mount_is_refused_until_the_lease_is_recovered(_: &Nothing) {
    let cluster = cluster();
    let (mut mount, other) = (cluster.mount("mount"), cluster.mount("other"));
    let file = open_file(&mount.join("file"), Pattern::new(2));
    kill(&mut mount, file);
    let refused = OpenOptions::new().append(true).open(other.join("file")).unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::BUSY), "{refused}");
    // Readers need not wait.
    check_recovered(&other.join("file"), Pattern::new(2));
    let said = recover_lease(&cluster);
    assert!(said.contains("/file is closed"), "{said}");
    check_in_service(&cluster, &other, Pattern::new(2));
    assert!(recover_lease(&cluster).contains("is closed"), "a closed file is closed");
}

fn lease_taken_from_a_living_writer_leaves_the_file_usable_everywhere(_: &Nothing) {
    let cluster = cluster();
    let (mut mount, other) = (cluster.mount("mount"), cluster.mount("other"));
    let mut file = open_file(&mount.join("file"), Pattern::new(9));
    // A command that starts closes its copy of the descriptor, which completes the file; one that is written again stays
    // open from then on.
    recover_lease(&cluster);
    let written = fs::metadata(mount.join("file")).unwrap().len();
    let length = written + 1000;
    Pattern::new(9).write(&file, written, 1000).unwrap();
    file.sync_all().unwrap();
    let refused = OpenOptions::new().append(true).open(other.join("file")).unwrap_err();
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::BUSY), "{refused}");
    let said = recover_lease(&cluster);
    assert!(said.contains("/file is closed"), "{said}");
    // Nobody has told the writer: bytes are taken from it, and fail when they leave by themselves.
    if file.write_all(b"not in the pattern").is_ok() {
        let mut log = || mount.daemon().log_text();
        wait_until(SOON, "the writer to fail", || log().contains("writer failed in the background"));
    }
    let length = append_rest(append_soon(&mount.join("file")), Pattern::new(9), length).unwrap();
    let length = append_rest(append_soon(&other.join("file")), Pattern::new(9), length).unwrap();
    assert!(file.write_all(b"not in the pattern").is_err(), "what was taken from it is lost");
    assert!(file.sync_all().is_err());
    assert!(close(file).is_err());
    drop_caches().unwrap();
    Pattern::new(9).check_file(&mount.join("file"), length);
    Pattern::new(9).check_file(&other.join("file"), length);
    wait_until(REPAIR, "three identical replicas", || check_identical(&cluster, 3).is_ok());
}

fn file_never_written_is_closed_without_a_block(_: &Nothing) {
    let cluster = cluster();
    let mut mount = cluster.mount("mount");
    let file = File::create(mount.join("file")).unwrap();
    kill(&mut mount, file);
    mount.restart();
    let said = recover_lease(&cluster);
    assert!(said.contains("0 bytes"), "{said}");
    Pattern::new(3).write(append_soon(&mount.join("file")), 0, LENGTH).unwrap();
    Pattern::new(3).check_file(&mount.join("file"), LENGTH);
}

fn datanode_killed_with_the_writer_leaves_every_synced_byte(_: &Nothing) {
    for victim in 0..3 {
        let mut cluster = cluster();
        let (mut mount, other) = (cluster.mount("mount"), cluster.mount("other"));
        let file = open_file(&mount.join("file"), Pattern::new(4));
        cluster.datanodes[victim].daemon.kill();
        kill(&mut mount, file);
        recover_lease(&cluster);
        check_recovered(&other.join("file"), Pattern::new(4));
        if victim == 1 {
            // It comes back with a replica of the old generation: never served, replaced.
            cluster.start_datanode(victim);
            cluster.wait_datanodes_live(3);
            check_in_service(&cluster, &other, Pattern::new(4));
        }
    }
}

fn every_datanode_killed_with_the_writer_leaves_every_synced_byte(_: &Nothing) {
    let mut cluster = cluster();
    let (mut mount, other) = (cluster.mount("mount"), cluster.mount("other"));
    let file = open_file(&mount.join("file"), Pattern::new(5));
    cluster.datanodes.iter_mut().for_each(|node| node.daemon.kill());
    kill(&mut mount, file);
    cluster.restart_all();
    recover_lease(&cluster);
    check_in_service(&cluster, &other, Pattern::new(5));
}

fn namenode_restarted_during_recovery_goes_on(_: &Nothing) {
    let mut cluster = cluster();
    let (mut mount, other) = (cluster.mount("mount"), cluster.mount("other"));
    let file = open_file(&mount.join("file"), Pattern::new(6));
    kill(&mut mount, file);
    // The holders cannot answer: the recovery is under way when the NameNode dies.
    cluster.datanodes.iter().for_each(|node| node.daemon.pause());
    let mut command = cluster.dfs_command(&["admin", "recover-lease", "/file"]);
    let mut waiting = command.spawn().unwrap();
    let log = |cluster: &Cluster| cluster.namenode.daemon.log_text();
    wait_until(SOON, "a recovery to begin", || log(&cluster).contains("block recovery begins"));
    cluster.namenode.daemon.kill();
    cluster.datanodes.iter().for_each(|node| node.daemon.resume());
    cluster.start_namenode();
    assert!(waiting.wait().unwrap().success(), "the command waits through the restart");
    check_in_service(&cluster, &other, Pattern::new(6));
}

fn power_cut_leaves_every_synced_byte_of_an_open_file(_: &Nothing) {
    let mut cluster = Cluster::builder().set(BLOCK).devices(Devices::Loop(SMALL_DEVICE)).start();
    let mut mount = cluster.mount("mount");
    let power = PowerSwitch::new(&cluster);
    let file = open_file(&mount.join("file"), Pattern::new(7));
    power.cut(&mut cluster);
    kill(&mut mount, file);
    recover_power(&mut cluster);
    mount.restart();
    recover_lease(&cluster);
    check_in_service(&cluster, &mount, Pattern::new(7));
}

fn files_lost_by_a_power_cut_keep_no_other_from_being_recovered(_: &Nothing) {
    let mut cluster = Cluster::builder().set(BLOCK).devices(Devices::Loop(SMALL_DEVICE)).start();
    let mut mount = cluster.mount("mount");
    let power = PowerSwitch::new(&cluster);
    let file = open_file(&mount.join("file"), Pattern::new(18));
    // Closed, and on no disk.
    for number in 0..5 {
        fs::write(mount.join(format!("lost-{number}")), Pattern::new(number).bytes(100_000)).unwrap();
    }
    power.cut(&mut cluster);
    kill(&mut mount, file);
    recover_power(&mut cluster);
    mount.restart();
    recover_lease(&cluster);
    check_recovered(&mount.join("file"), Pattern::new(18));
    let state = cluster.dfs(&["admin", "safemode", "get"]);
    assert!(state.contains("Safe mode is on"), "{state}");
    assert!(fs::read(mount.join("lost-0")).is_err());
}

fn power_cut_leaves_every_synced_byte_of_a_file_being_appended_to(_: &Nothing) {
    let mut cluster = Cluster::builder().set(BLOCK).devices(Devices::Loop(SMALL_DEVICE)).start();
    let mut mount = cluster.mount("mount");
    let mut relaxed = cluster.mount_with("relaxed", &["sync=hflush"]);
    let power = PowerSwitch::new(&cluster);
    // Whole chunks: nothing of them has to be synced again when more follows.
    let pattern = Pattern::new(17);
    let file = File::create(mount.join("file")).unwrap();
    pattern.write(&file, 0, 700_416).unwrap();
    file.sync_all().unwrap();
    close(file).unwrap();
    // The NameNode logs the new generation stamp; the nodes have the bytes in memory.
    let file = append_soon(&relaxed.join("file"));
    pattern.write(&file, 700_416, 100_000).unwrap();
    file.sync_all().unwrap();
    power.cut(&mut cluster);
    mount.kill();
    kill(&mut relaxed, file);
    recover_power(&mut cluster);
    mount.restart();
    recover_lease(&cluster);
    let length = fs::metadata(mount.join("file")).unwrap().len();
    assert!((700_416..=800_416).contains(&length), "{length}");
    drop_caches().unwrap();
    pattern.check_file(&mount.join("file"), length);
}

/// The writer that syncs has not written all of them itself.
fn power_cut_leaves_every_byte_synced_after_it_was_closed(_: &Nothing) {
    let mut cluster = Cluster::builder().set(BLOCK).devices(Devices::Loop(SMALL_DEVICE)).start();
    let mut mount = cluster.mount("mount");
    let power = PowerSwitch::new(&cluster);
    let pattern = Pattern::new(19);
    let duplicated = File::create(mount.join("duplicated")).unwrap();
    pattern.write(&duplicated, 0, LENGTH).unwrap();
    // Completes the file.
    close(duplicated.try_clone().unwrap()).unwrap();
    duplicated.sync_all().unwrap();
    close(duplicated).unwrap();
    pattern.make_file(&mount.join("file"), LENGTH);
    let appended = append_soon(&mount.join("file"));
    pattern.write(&appended, LENGTH, 700).unwrap();
    appended.sync_all().unwrap();
    power.cut(&mut cluster);
    kill(&mut mount, appended);
    recover_power(&mut cluster);
    mount.restart();
    recover_lease(&cluster);
    assert_eq!(check_recovered(&mount.join("duplicated"), pattern), LENGTH);
    assert_eq!(check_recovered(&mount.join("file"), pattern), LENGTH + 700);
}

/// Cuts inside the second block and checks what is left, and that writing goes on from there.
fn check_truncated(cluster: &Cluster, mount: &Mount, length: u64) {
    assert_eq!(fs::metadata(mount.join("file")).unwrap().len(), length);
    drop_caches().unwrap();
    Pattern::new(8).check_file(&mount.join("file"), length);
    let end = append_rest(append_soon(&mount.join("file")), Pattern::new(8), length).unwrap();
    Pattern::new(8).check_file(&mount.join("file"), end);
    wait_until(REPAIR, "three identical replicas", || check_identical(cluster, 3).is_ok());
}

fn truncate_goes_on_after_a_killed_datanode(_: &Nothing) {
    let mut cluster = cluster();
    let mount = cluster.mount("mount");
    Pattern::new(8).make_file(&mount.join("file"), LENGTH);
    wait_until(REPAIR, "three identical replicas", || check_identical(&cluster, 3).is_ok());
    cluster.datanodes[1].daemon.kill();
    let file = OpenOptions::new().write(true).open(mount.join("file")).unwrap();
    file.set_len(1_300_000).unwrap();
    close(file).unwrap();
    cluster.start_datanode(1);
    cluster.wait_datanodes_live(3);
    check_truncated(&cluster, &mount, 1_300_000);
}

fn truncate_goes_on_after_a_namenode_restart(_: &Nothing) {
    let mut cluster = cluster();
    let mount = cluster.mount("mount");
    Pattern::new(8).make_file(&mount.join("file"), LENGTH);
    wait_until(REPAIR, "three identical replicas", || check_identical(&cluster, 3).is_ok());
    cluster.datanodes.iter().for_each(|node| node.daemon.pause());
    let mut cutting = cluster.dfs_command(&["truncate", "1300000", "/file"]).spawn().unwrap();
    wait_until(SOON, "the recovery to begin", || cluster.namenode.daemon.log_text().contains("block recovery begins"));
    cluster.namenode.daemon.kill();
    cluster.datanodes.iter().for_each(|node| node.daemon.resume());
    cluster.start_namenode();
    assert!(cutting.wait().unwrap().success(), "the command waits through the restart");
    check_truncated(&cluster, &mount, 1_300_000);
}
