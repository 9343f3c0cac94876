//! truncate and ftruncate: to any shorter length; longer ones need holes.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use dfs_tests::workload::Pattern;
use rustix::io::Errno;

use super::{BLOCK_SIZE, Case, Mounts, assert_errno, cases, shell};

pub(super) const CASES: [Case<Mounts>; 9] = cases![
    truncate_to_nothing_empties_a_file,
    truncate_to_the_same_length_changes_the_times_only,
    truncate_to_more_is_eopnotsupp_and_changes_nothing,
    truncate_to_less_keeps_the_rest_and_lets_writing_go_on,
    truncate_between_blocks_keeps_whole_ones,
    ftruncate_on_the_handle_that_writes_cuts_what_it_wrote,
    ftruncate_to_nothing_on_an_open_handle_starts_over,
    truncate_of_an_empty_file_changes_its_times,
    truncate_by_name_leaves_readers_nothing_old,
];

fn truncate_to_nothing_empties_a_file(mounts: &Mounts) {
    let path = mounts.mount.new_dir("truncate-zero").join("file");
    Pattern::new(1).make_file(&path, 5_000_000);
    rustix::fs::ftruncate(OpenOptions::new().write(true).open(&path).unwrap(), 0).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    assert_eq!(fs::read(&path).unwrap(), b"");
    assert_eq!(fs::read(mounts.other.join("truncate-zero/file")).unwrap(), b"");
    Pattern::new(2).make_file(&path, 700);
    Pattern::new(2).check_file(&path, 700);
}

/// A time long ago, that no change of today leaves in place.
fn age(file: &File) {
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
}

fn is_aged(path: &Path) -> bool {
    fs::metadata(path).unwrap().modified().unwrap() == UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn truncate_to_the_same_length_changes_the_times_only(mounts: &Mounts) {
    let path = mounts.mount.new_dir("truncate-same").join("file");
    Pattern::new(3).make_file(&path, 1234);
    age(&File::open(&path).unwrap());
    rustix::fs::ftruncate(OpenOptions::new().write(true).open(&path).unwrap(), 1234).unwrap();
    assert!(!is_aged(&path));
    Pattern::new(3).check_file(&path, 1234);
}

fn truncate_of_an_empty_file_changes_its_times(mounts: &Mounts) {
    let path = mounts.mount.new_dir("truncate-empty").join("file");
    let file = File::create(&path).unwrap();
    // By the handle, by another handle, by name: every road is its own code.
    for truncate in
        [&(|| file.set_len(0)) as &dyn Fn() -> std::io::Result<()>, &|| File::create(&path).map(drop), &|| {
            OpenOptions::new().write(true).open(&path)?.set_len(0)
        }]
    {
        age(&file);
        assert!(is_aged(&path));
        truncate().unwrap();
        assert!(!is_aged(&path));
    }
}

/// Also those who open the file while it is being cut. The nodes still have the old bytes for a while.
fn truncate_by_name_leaves_readers_nothing_old(mounts: &Mounts) {
    const ROUNDS: u64 = 50;
    let dir = mounts.mount.new_dir("truncate-race");
    // Perl has truncate(2); it cuts the file for each line that it gets.
    let script = r#"$| = 1; while (<STDIN>) { truncate("file", 0) or die $!; print "done\n" }"#;
    let mut perl = Command::new("perl");
    perl.args(["-e", script]).current_dir(&dir).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut perl = perl.spawn().expect("start perl");
    let mut orders = perl.stdin.take().unwrap();
    let mut done = BufReader::new(perl.stdout.take().unwrap()).lines();
    for round in 0..ROUNDS {
        let path = dir.join("file");
        Pattern::new(2 * round).make_file(&path, 5_000);
        orders.write_all(b"\n").unwrap();
        let file = File::open(&path).unwrap();
        done.next().expect("it is cut").unwrap();
        let new = Pattern::new(2 * round + 1);
        new.write(OpenOptions::new().append(true).open(&path).unwrap(), 0, 5_000).unwrap();
        assert_eq!(new.check(0, &file).unwrap(), 5_000, "round {round}");
    }
    drop(orders);
    assert!(perl.wait().unwrap().success());
}

fn truncate_to_more_is_eopnotsupp_and_changes_nothing(mounts: &Mounts) {
    let path = mounts.mount.new_dir("truncate-more").join("file");
    Pattern::new(4).make_file(&path, 10_000);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for length in [10_001, 1 << 40] {
        assert_errno(file.set_len(length), Errno::OPNOTSUPP);
        Pattern::new(4).check_file(&path, 10_000);
    }
}

fn truncate_to_less_keeps_the_rest_and_lets_writing_go_on(mounts: &Mounts) {
    let path = mounts.mount.new_dir("truncate-less").join("file");
    let other = mounts.other.join("truncate-less/file");
    let whole = BLOCK_SIZE + 700_000;
    Pattern::new(5).make_file(&path, whole);
    // By handle and by name; inside a chunk, at its end, in the first block; each seen at once on the other mount.
    for (round, length) in
        [whole - 1, BLOCK_SIZE + 513, BLOCK_SIZE + 512, BLOCK_SIZE - 1, 4_097, 1].into_iter().enumerate()
    {
        if round % 2 == 0 {
            OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        } else {
            shell(path.parent().unwrap(), &format!("truncate -s {length} file"));
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), length);
        Pattern::new(5).check_file(&path, length);
        Pattern::new(5).check_file(&other, length);
    }
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(&Pattern::new(5).bytes(9_000)[1..]).unwrap();
    drop(file);
    Pattern::new(5).check_file(&path, 9_000);
    Pattern::new(5).check_file(&other, 9_000);
}

fn truncate_between_blocks_keeps_whole_ones(mounts: &Mounts) {
    let path = mounts.mount.new_dir("truncate-blocks").join("file");
    Pattern::new(6).make_file(&path, 2 * BLOCK_SIZE + 5);
    for length in [2 * BLOCK_SIZE, BLOCK_SIZE] {
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        Pattern::new(6).check_file(&path, length);
    }
}

fn ftruncate_on_the_handle_that_writes_cuts_what_it_wrote(mounts: &Mounts) {
    let path = mounts.mount.new_dir("truncate-writing").join("file");
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).unwrap();
    let bytes = Pattern::new(7).bytes(100_000);
    file.write_all(&bytes[..70_000]).unwrap();
    file.set_len(33_333).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 33_333);
    assert_errno(file.set_len(40_000), Errno::OPNOTSUPP);
    file.write_all(&bytes[33_333..]).unwrap();
    file.set_len(90_001).unwrap();
    file.write_all(&bytes[90_001..]).unwrap();
    drop(file);
    Pattern::new(7).check_file(&path, 100_000);
}

fn ftruncate_to_nothing_on_an_open_handle_starts_over(mounts: &Mounts) {
    let path = mounts.mount.new_dir("truncate-open").join("file");
    let mut file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
    file.write_all(b"thrown away").unwrap();
    file.set_len(0).unwrap();
    file.write_all(b"kept").unwrap();
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"kept");
}
