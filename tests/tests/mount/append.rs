//! Where the end of a file is: for large and asynchronous calls, for many writers, and after others have written.

use std::fs::{self, File, OpenOptions};
use std::io::IoSlice;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use dfs_common::sys::close;
use dfs_tests::async_io::AsyncIo;
use dfs_tests::wait::Stopwatch;
use dfs_tests::workload::Pattern;
use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags};

use super::{Case, Mounts, assert_errno, cases, shell};

pub(super) const CASES: [Case<Mounts>; 7] = cases![
    asynchronous_append_is_byte_for_byte_what_was_submitted,
    asynchronous_appends_of_many_threads_stay_whole,
    append_asked_for_late_goes_to_the_end_in_one_piece,
    write_at_the_true_end_works_after_another_mount_appended,
    refused_write_comes_at_once_and_takes_no_lease,
    file_is_free_for_other_mounts_once_its_last_descriptor_is_closed,
    file_is_free_for_other_mounts_once_the_last_of_a_shells_commands_has_ended,
];

/// Longer than any request of the kernel's, and not a multiple of one.
const LARGE: usize = (5 << 20) + 4097;

/// How the file is opened: as it comes, and past the page cache.
const MODES: [i32; 2] = [0, libc::O_DIRECT];

fn appending(path: &Path, flags: i32) -> File {
    OpenOptions::new().append(true).create(true).custom_flags(flags).open(path).unwrap()
}

fn asynchronous_append_is_byte_for_byte_what_was_submitted(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("append-async");
    let bytes = Pattern::new(1).bytes(3 * LARGE);
    let mut queue = AsyncIo::new(8).unwrap();
    for round in 0..12 {
        let path = dir.join(round.to_string());
        let file = appending(&path, MODES[round % 2]);
        // One call, then two that are under way together.
        assert_eq!(queue.write_all_at_once(&file, &[&bytes[..LARGE]], 0).unwrap(), [LARGE]);
        let rest = [&bytes[LARGE..2 * LARGE], &bytes[2 * LARGE..]];
        assert_eq!(queue.write_all_at_once(&file, &rest, 0).unwrap(), [LARGE, LARGE]);
        close(file).unwrap();
        Pattern::new(1).check_file(&path, bytes.len() as u64);
    }
}

/// Each call's bytes in one piece, whoever else appends at the same time, by whatever call.
fn asynchronous_appends_of_many_threads_stay_whole(mounts: &Mounts) {
    const THREADS: u8 = 4;
    const ROUNDS: u8 = 3;
    const LENGTH: usize = (2 << 20) + 513;
    let path = mounts.mount.new_dir("append-threads").join("file");
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let path = &path;
            scope.spawn(move || {
                let file = appending(path, MODES[usize::from(thread) % 2]);
                let mut queue = AsyncIo::new(1).unwrap();
                for round in 0..ROUNDS {
                    let record = Pattern::new(u64::from(thread * ROUNDS + round)).bytes(LENGTH);
                    if thread == 0 {
                        std::io::Write::write_all(&mut { &file }, &record).unwrap();
                    } else {
                        assert_eq!(queue.write_all_at_once(&file, &[&record], 0).unwrap(), [LENGTH]);
                    }
                }
                close(file).unwrap();
            });
        }
    });
    let bytes = fs::read(&path).unwrap();
    let mut missing: Vec<Vec<u8>> = (0..THREADS * ROUNDS).map(|seed| Pattern::new(seed.into()).bytes(LENGTH)).collect();
    for record in bytes.chunks(LENGTH) {
        let found = missing.iter().position(|expected| expected == record).expect("the bytes of one call in one piece");
        missing.swap_remove(found);
    }
    assert!(missing.is_empty());
}

fn append_asked_for_late_goes_to_the_end_in_one_piece(mounts: &Mounts) {
    let path = mounts.mount.new_dir("append-late").join("file");
    let bytes = Pattern::new(3).bytes(3 * LARGE);
    let file = OpenOptions::new().write(true).create_new(true).open(&path).unwrap();
    file.write_all_at(&bytes[..LARGE], 0).unwrap();
    // For one call.
    let piece = [IoSlice::new(&bytes[LARGE..2 * LARGE])];
    assert_eq!(rustix::io::pwritev2(&file, &piece, u64::MAX, ReadWriteFlags::APPEND).unwrap(), LARGE);
    // From now on.
    rustix::fs::fcntl_setfl(&file, OFlags::APPEND).unwrap();
    let mut queue = AsyncIo::new(1).unwrap();
    assert_eq!(queue.write_all_at_once(&file, &[&bytes[2 * LARGE..]], 0).unwrap(), [LARGE]);
    close(file).unwrap();
    Pattern::new(3).check_file(&path, bytes.len() as u64);
}

/// A file written through `file`, which has given the lease back, and then appended to on the other mount.
fn appended_elsewhere(mounts: &Mounts, dir: &str) -> (File, u64) {
    let path = mounts.mount.new_dir(dir).join("file");
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    Pattern::new(4).write(&file, 0, 1000).unwrap();
    close(file.try_clone().unwrap()).unwrap();
    assert_eq!(file.read_at(&mut [0; 4096], 0).unwrap(), 1000);
    let other = OpenOptions::new().append(true).open(mounts.other.join(dir).join("file")).unwrap();
    Pattern::new(4).write(&other, 1000, 234).unwrap();
    close(other).unwrap();
    (file, 1234)
}

fn write_at_the_true_end_works_after_another_mount_appended(mounts: &Mounts) {
    let (file, end) = appended_elsewhere(mounts, "append-true-end");
    assert_eq!(file.read_at(&mut [0; 4096], 0).unwrap() as u64, end, "it may write, so the kernel caches nothing");
    let bytes = Pattern::new(4).bytes(2000);
    file.write_all_at(&bytes[end as usize..], end).unwrap();
    close(file).unwrap();
    Pattern::new(4).check_file(&mounts.other.join("append-true-end/file"), 2000);
    // The same with an append, and what the descriptor reads.
    let (file, end) = appended_elsewhere(mounts, "append-true-end-2");
    let reading = OpenOptions::new().read(true).write(true).open(mounts.mount.join("append-true-end-2/file")).unwrap();
    assert_eq!(Pattern::new(4).check(0, &reading).unwrap(), end);
    rustix::fs::fcntl_setfl(&file, OFlags::APPEND).unwrap();
    Pattern::new(4).write(&file, end, 766).unwrap();
    close(file).unwrap();
    close(reading).unwrap();
    Pattern::new(4).check_file(&mounts.other.join("append-true-end-2/file"), 2000);
}

fn refused_write_comes_at_once_and_takes_no_lease(mounts: &Mounts) {
    let (file, end) = appended_elsewhere(mounts, "append-refused");
    let begun = Stopwatch::start();
    for offset in [1000, end - 1, end + 1, end + 4096] {
        assert_errno(file.write_at(b"x", offset), Errno::OPNOTSUPP);
    }
    // Without waiting for bytes that nobody is about to write.
    assert!(begun.elapsed() < Duration::from_millis(1500), "refused after {:?}", begun.elapsed());
    let path = mounts.other.join("append-refused/file");
    let other = OpenOptions::new().append(true).open(&path).expect("nobody has the lease");
    Pattern::new(4).write(&other, end, 10).unwrap();
    assert_errno(file.write_at(b"x", end + 10), Errno::BUSY);
    close(other).unwrap();
    Pattern::new(4).check_file(&path, end + 10);
}

/// Which close is the last one the mount hears from the kernel a moment later.
fn file_is_free_for_other_mounts_once_its_last_descriptor_is_closed(mounts: &Mounts) {
    let here = mounts.mount.new_dir("append-last-close").join("file");
    let there = mounts.other.join("append-last-close/file");
    let pattern = Pattern::new(5);
    let mut length = 0;
    for round in 0..50 {
        let file = appending(&here, 0);
        let duplicate = file.try_clone().unwrap();
        // Nothing is written, or before the first close, or after it, too.
        for (written, descriptor) in [(round % 3 > 0, file), (round % 3 > 1, duplicate)] {
            let bytes = if written { 100 + round } else { 0 };
            pattern.write(&descriptor, length, bytes).unwrap();
            length += bytes;
            close(descriptor).unwrap();
        }
        let opened = match round % 4 {
            0 => File::create(&there),
            1 => OpenOptions::new().write(true).open(&there),
            _ => OpenOptions::new().append(true).open(&there),
        };
        let other = opened.unwrap_or_else(|error| panic!("round {round}: {error}"));
        length = if round % 4 == 0 { 0 } else { length };
        assert_eq!(other.metadata().unwrap().len(), length, "round {round}");
        other.write_all_at(&pattern.bytes(length as usize + 10)[length as usize..], length).unwrap();
        length += 10;
        close(other).unwrap();
        pattern.check_file(&here, length);
    }
}

/// Each command's exit closes a copy of the descriptor.
fn file_is_free_for_other_mounts_once_the_last_of_a_shells_commands_has_ended(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("append-shell");
    let mut expected = String::new();
    for round in 0..10 {
        shell(&dir, "exec 3>> log; for i in 1 2 3 4 5; do /bin/echo command $i >&3; (echo subshell $i >&3); done");
        shell(&mounts.other.join("append-shell"), "/bin/echo elsewhere >> log");
        (1..=5).for_each(|i| expected += &format!("command {i}\nsubshell {i}\n"));
        expected += "elsewhere\n";
        assert_eq!(fs::read_to_string(dir.join("log")).unwrap(), expected, "round {round}");
    }
}
