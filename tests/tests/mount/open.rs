//! open, create, close.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
use std::sync::Barrier;
use std::thread;

use dfs_tests::mount::Mount;
use dfs_tests::workload::Pattern;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Case, Mounts, assert_errno, cases, shell};

pub(super) const CASES: [Case<Mounts>; 12] = cases![
    open_creates_a_file_that_is_visible_at_once,
    open_excl_of_an_existing_file_is_eexist,
    open_creat_of_one_name_from_two_mounts_at_once_succeeds_for_both,
    open_of_what_is_not_there_is_enoent,
    open_of_a_directory_for_writing_is_eisdir,
    open_below_a_file_is_enotdir,
    open_trunc_empties_and_takes_new_content,
    open_rdwr_reads_its_own_writes,
    open_append_goes_to_the_end_whatever_the_offset,
    open_nofollow_of_a_symlink_is_eloop,
    close_by_a_child_keeps_the_parent_writing,
    open_for_reading_and_writing_by_the_wrong_handle_is_ebadf,
];

fn open_creates_a_file_that_is_visible_at_once(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("open-visible");
    let mut file = File::create_new(dir.join("new")).unwrap();
    assert_eq!(fs::metadata(dir.join("new")).unwrap().len(), 0);
    assert!(fs::metadata(mounts.other.join("open-visible/new")).unwrap().is_file());
    file.write_all(b"later").unwrap();
    drop(file);
    assert_eq!(fs::read(dir.join("new")).unwrap(), b"later");
}

fn open_excl_of_an_existing_file_is_eexist(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("open-excl");
    fs::write(dir.join("file"), b"old").unwrap();
    assert_errno(File::create_new(dir.join("file")), Errno::EXIST);
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"old");
    assert_errno(File::create_new(mounts.other.join("open-excl/file")), Errno::EXIST);
}

/// Whoever is second finds a file where his kernel saw none. It must look again, and must not tell the program.
fn open_creat_of_one_name_from_two_mounts_at_once_succeeds_for_both(mounts: &Mounts) {
    mounts.mount.new_dir("open-race");
    for how in [OFlags::RDONLY, OFlags::WRONLY | OFlags::APPEND] {
        let starts = Barrier::new(2);
        let makes = |mount: &Mount, exclusive: OFlags| {
            let mut made = Vec::new();
            // Those who write wait for each other.
            let rounds = if how == OFlags::RDONLY && exclusive.is_empty() { 300 } else { 50 };
            for round in 0..rounds {
                let path = mount.join(format!("open-race/{how:?}-{exclusive:?}-{round}"));
                starts.wait();
                made.push(rustix::fs::open(&path, OFlags::CREATE | how | exclusive, Mode::RWXU).map(drop));
            }
            made
        };
        for exclusive in [OFlags::empty(), OFlags::EXCL] {
            let [here, there] = thread::scope(|scope| {
                let [here, there] =
                    [&mounts.mount, &mounts.other].map(|mount| scope.spawn(move || makes(mount, exclusive)));
                [here.join().unwrap(), there.join().unwrap()]
            });
            for round in here.into_iter().zip(there) {
                match round {
                    (Ok(()), Ok(())) if exclusive.is_empty() => {}
                    (Ok(()), Err(Errno::EXIST)) | (Err(Errno::EXIST), Ok(())) if !exclusive.is_empty() => {}
                    other => panic!("{how:?} {exclusive:?}: {other:?}"),
                }
            }
        }
    }
}

fn open_of_what_is_not_there_is_enoent(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("open-enoent");
    assert_errno(File::open(dir.join("nothing")), Errno::NOENT);
    assert_errno(File::create(dir.join("nothing/file")), Errno::NOENT);
    // Not remembered: it opens as soon as it is there.
    fs::write(mounts.other.join("open-enoent/nothing"), b"x").unwrap();
    assert_eq!(fs::read(dir.join("nothing")).unwrap(), b"x");
}

fn open_of_a_directory_for_writing_is_eisdir(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("open-eisdir");
    assert_errno(OpenOptions::new().write(true).open(&dir), Errno::ISDIR);
    assert_errno(File::open(&dir).unwrap().read(&mut [0; 8]), Errno::ISDIR);
}

fn open_below_a_file_is_enotdir(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("open-enotdir");
    fs::write(dir.join("file"), b"x").unwrap();
    assert_errno(File::open(dir.join("file/below")), Errno::NOTDIR);
    assert_errno(File::create(dir.join("file/below")), Errno::NOTDIR);
    let directory_only = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(dir.join("file"));
    assert_errno(directory_only, Errno::NOTDIR);
}

fn open_trunc_empties_and_takes_new_content(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("open-trunc");
    let path = dir.join("file");
    for (round, length) in [70_000, 10, 5_000_000, 0, 513].into_iter().enumerate() {
        let pattern = Pattern::new(round as u64);
        pattern.make_file(&path, length);
        pattern.check_file(&path, length);
        pattern.check_file(&mounts.other.join("open-trunc/file"), length);
    }
    // Empty as soon as it is open, also for others.
    fs::write(&path, b"content").unwrap();
    let file = File::create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    assert_eq!(fs::read(mounts.other.join("open-trunc/file")).unwrap(), b"");
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"");
}

fn open_rdwr_reads_its_own_writes(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("open-rdwr");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(dir.join("file")).unwrap();
    let bytes = Pattern::new(1).bytes(200_000);
    let mut at = 0;
    for piece in [1, 511, 4096, 65_537, 100_000] {
        file.write_all_at(&bytes[at..at + piece], at as u64).unwrap();
        at += piece;
        let mut read = vec![0; at];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read == bytes[..at], "after {at} bytes");
        assert_eq!(file.metadata().unwrap().len(), at as u64);
    }
    assert_eq!(file.read_at(&mut [0; 10], at as u64).unwrap(), 0);
}

fn open_append_goes_to_the_end_whatever_the_offset(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("open-append");
    fs::write(dir.join("file"), b"one").unwrap();
    let file = OpenOptions::new().append(true).open(dir.join("file")).unwrap();
    // Linux: pwrite on an O_APPEND descriptor appends.
    file.write_all_at(b"two", 0).unwrap();
    let mut second = OpenOptions::new().append(true).open(dir.join("file")).unwrap();
    second.write_all(b"three").unwrap();
    (&file).write_all(b"four").unwrap();
    drop((file, second));
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"onetwothreefour");
}

fn open_nofollow_of_a_symlink_is_eloop(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("open-nofollow");
    fs::write(dir.join("file"), b"x").unwrap();
    symlink("file", dir.join("link")).unwrap();
    symlink("loop", dir.join("loop")).unwrap();
    assert_eq!(fs::read(dir.join("link")).unwrap(), b"x");
    assert_errno(OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(dir.join("link")), Errno::LOOP);
    assert_errno(File::open(dir.join("loop")), Errno::LOOP);
}

/// Shells dup, fork and close all the time: a flush of a duplicate must not end the writer.
fn close_by_a_child_keeps_the_parent_writing(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("open-dup");
    shell(&dir, "{ echo one; (echo two); /bin/echo three; for i in 4 5 6; do /bin/echo $i; done; } > log");
    assert_eq!(fs::read_to_string(dir.join("log")).unwrap(), "one\ntwo\nthree\n4\n5\n6\n");
    shell(&dir, "echo seven >> log; for i in 8 9; do echo $i >> log; done");
    assert!(fs::read_to_string(dir.join("log")).unwrap().ends_with("6\nseven\n8\n9\n"));
}

fn open_for_reading_and_writing_by_the_wrong_handle_is_ebadf(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("open-ebadf");
    fs::write(dir.join("file"), b"x").unwrap();
    assert_errno(File::open(dir.join("file")).unwrap().write(b"y"), Errno::BADF);
    let write_only = OpenOptions::new().append(true).open(dir.join("file")).unwrap();
    assert_errno((&write_only).read(&mut [0; 1]), Errno::BADF);
}
