//! write, read, fsync: at the end only, visible when promised, one writer.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use dfs_common::sys::close;
use dfs_tests::bench::drop_caches;
use dfs_tests::wait::wait_until;
use dfs_tests::workload::Pattern;
use rustix::io::Errno;

use super::{BLOCK_SIZE, Case, Mounts, assert_errno, cases};

pub(super) const CASES: [Case<Mounts>; 14] = cases![
    write_of_any_length_is_read_back_warm_and_cold,
    write_continues_a_closed_file_across_chunks_and_blocks,
    write_in_small_pieces_keeps_their_order,
    write_in_the_middle_is_eopnotsupp_and_changes_nothing,
    write_past_the_end_is_eopnotsupp_and_changes_nothing,
    write_while_another_mount_writes_is_ebusy,
    write_is_visible_elsewhere_within_seconds_without_any_call,
    write_by_many_appenders_keeps_records_whole,
    fsync_makes_bytes_visible_elsewhere_with_the_right_length,
    fsync_of_read_handles_and_directories_succeeds,
    write_with_o_sync_is_visible_at_once,
    read_across_blocks_at_any_offset,
    stat_of_a_file_being_written_shows_the_writers_position,
    times_of_a_written_file_are_those_of_its_last_write,
];

fn write_of_any_length_is_read_back_warm_and_cold(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("write-lengths");
    let mut lengths = vec![0, 1, 511, 512, 513, 4095, 4096, 4097, 65_535, 65_536, 65_537, 262_143, 262_144, 262_145];
    lengths.extend([1_000_003, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 3 * BLOCK_SIZE, 3 * BLOCK_SIZE + 4097]);
    for &length in &lengths {
        Pattern::new(length).make_file(&dir.join(length.to_string()), length);
    }
    for _ in ["warm", "cold"] {
        for &length in &lengths {
            Pattern::new(length).check_file(&dir.join(length.to_string()), length);
            Pattern::new(length).check_file(&mounts.other.join(format!("write-lengths/{length}")), length);
        }
        drop_caches().unwrap();
    }
}

fn write_continues_a_closed_file_across_chunks_and_blocks(mounts: &Mounts) {
    let path = mounts.mount.new_dir("write-append").join("file");
    let pattern = Pattern::new(2);
    let mut length = 0;
    for piece in [10, 501, 1, 512, 4096, 100_000, BLOCK_SIZE - 104_000, 1, 700, BLOCK_SIZE, 3, 2 * BLOCK_SIZE + 5, 17] {
        let file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        pattern.write(&file, length, piece).unwrap();
        close(file).unwrap();
        length += piece;
        pattern.check_file(&path, length);
    }
    drop_caches().unwrap();
    pattern.check_file(&path, length);
    pattern.check_file(&mounts.other.join("write-append/file"), length);
}

fn write_in_small_pieces_keeps_their_order(mounts: &Mounts) {
    let path = mounts.mount.new_dir("write-small").join("file");
    let bytes = Pattern::new(3).bytes(370_000);
    let mut file = File::create(&path).unwrap();
    for piece in bytes.chunks(37) {
        file.write_all(piece).unwrap();
    }
    close(file).unwrap();
    Pattern::new(3).check_file(&path, 370_000);
}

fn write_in_the_middle_is_eopnotsupp_and_changes_nothing(mounts: &Mounts) {
    let path = mounts.mount.new_dir("write-middle").join("victim-of-a-middle-write");
    Pattern::new(4).make_file(&path, 10_000);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    assert_errno(file.write_at(b"in the middle", 100), Errno::OPNOTSUPP);
    assert_errno(file.write_at(b"x", 0), Errno::OPNOTSUPP);
    assert_eq!(file.metadata().unwrap().len(), 10_000);
    // The handle goes on working: nothing was changed, so nothing has failed.
    Pattern::new(4).write(&mut { &file }, 10_000, 0).unwrap();
    file.write_all_at(
        &{
            let mut more = vec![0; 100];
            Pattern::new(4).fill(10_000, &mut more);
            more
        },
        10_000,
    )
    .unwrap();
    close(file).unwrap();
    Pattern::new(4).check_file(&path, 10_100);
    let inode = format!("inode={} ", std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap()));
    let named = || mounts.mount.log_text().lines().any(|line| line.contains("write refused") && line.contains(&inode));
    wait_until(Duration::from_secs(5), "a warning in the log that names the file", named);
}

fn write_past_the_end_is_eopnotsupp_and_changes_nothing(mounts: &Mounts) {
    let path = mounts.mount.new_dir("write-hole").join("file");
    fs::write(&path, b"1234").unwrap();
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(100)).unwrap();
    assert_errno(file.write_all(b"far away"), Errno::OPNOTSUPP);
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"1234");
}

fn write_while_another_mount_writes_is_ebusy(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("write-busy");
    let elsewhere = mounts.other.join("write-busy/file");
    let mut file = File::create(dir.join("file")).unwrap();
    file.write_all(b"first").unwrap();
    assert_errno(OpenOptions::new().append(true).open(&elsewhere), Errno::BUSY);
    assert_errno(File::create(&elsewhere), Errno::BUSY);
    // Reading is everybody's.
    File::open(&elsewhere).unwrap();
    close(file).unwrap();
    let mut file = OpenOptions::new().append(true).open(&elsewhere).unwrap();
    file.write_all(b" second").unwrap();
    assert_errno(OpenOptions::new().append(true).open(dir.join("file")), Errno::BUSY);
    close(file).unwrap();
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"first second");
}

fn write_is_visible_elsewhere_within_seconds_without_any_call(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("write-visible");
    let mut file = File::create(dir.join("file")).unwrap();
    file.write_all(b"0123456789").unwrap();
    let elsewhere = mounts.other.join("write-visible/file");
    // Promised after 1 s; the rest is for a busy machine.
    let visible = || fs::read(&elsewhere).is_ok_and(|bytes| bytes == b"0123456789");
    wait_until(Duration::from_secs(10), "the bytes on the other mount", visible);
    drop(file);
}

fn write_by_many_appenders_keeps_records_whole(mounts: &Mounts) {
    const RECORD: usize = 64;
    let path = mounts.mount.new_dir("write-appenders").join("log");
    std::thread::scope(|scope| {
        for writer in 0..4_u8 {
            let path = &path;
            scope.spawn(move || {
                let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
                for number in 0..500_u16 {
                    let mut record = [b'a' + writer; RECORD];
                    record[..2].copy_from_slice(&number.to_le_bytes());
                    file.write_all(&record).unwrap();
                }
            });
        }
    });
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 4 * 500 * RECORD);
    let mut next = [0_u16; 4];
    for record in bytes.chunks(RECORD) {
        assert!(record[2..].iter().all(|byte| *byte == record[2]), "a torn record");
        let writer = usize::from(record[2] - b'a');
        assert_eq!(u16::from_le_bytes([record[0], record[1]]), next[writer], "records of one writer in order");
        next[writer] += 1;
    }
}

fn fsync_makes_bytes_visible_elsewhere_with_the_right_length(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("fsync-visible");
    let elsewhere = mounts.other.join("fsync-visible/file");
    let pattern = Pattern::new(5);
    let file = File::create(dir.join("file")).unwrap();
    let mut length = 0;
    for piece in [1, 600, 70_000, 1_000, BLOCK_SIZE, 3] {
        pattern.write(&file, length, piece).unwrap();
        length += piece;
        file.sync_data().unwrap();
        pattern.check_file(&elsewhere, length);
    }
    close(file).unwrap();
    pattern.check_file(&elsewhere, length);
}

fn fsync_of_read_handles_and_directories_succeeds(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("fsync-plain");
    fs::write(dir.join("file"), b"x").unwrap();
    File::open(dir.join("file")).unwrap().sync_all().unwrap();
    File::open(&dir).unwrap().sync_all().unwrap();
}

fn write_with_o_sync_is_visible_at_once(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("write-sync");
    for (name, flag) in [("sync", libc::O_SYNC), ("dsync", libc::O_DSYNC)] {
        let path = dir.join(name);
        let mut file = OpenOptions::new().create(true).append(true).custom_flags(flag).open(path).unwrap();
        for expected in ["a", "ab", "abc"] {
            file.write_all(&expected.as_bytes()[expected.len() - 1..]).unwrap();
            let read = fs::read_to_string(mounts.other.join(format!("write-sync/{name}"))).unwrap();
            assert_eq!(read, expected, "{name}");
        }
    }
}

fn read_across_blocks_at_any_offset(mounts: &Mounts) {
    let path = mounts.mount.new_dir("read-offsets").join("file");
    let length = 3 * BLOCK_SIZE + 1000;
    let pattern = Pattern::new(6);
    pattern.make_file(&path, length);
    drop_caches().unwrap();
    let file = File::open(&path).unwrap();
    for base in [0, 1, BLOCK_SIZE, 2 * BLOCK_SIZE, 3 * BLOCK_SIZE, length] {
        for (before, size) in [(0, 1), (1, 2), (513, 5000), (100_000, 300_000)] {
            let offset = base.saturating_sub(before);
            let mut actual = vec![0; size];
            let read = file.read_at(&mut actual, offset).unwrap();
            let expected_length = size.min(usize::try_from(length - offset.min(length)).unwrap());
            // The kernel may answer less than asked for, but never nothing before the end.
            assert!(read <= expected_length && (read > 0) == (expected_length > 0), "{read} bytes at {offset}");
            let mut expected = vec![0; read];
            pattern.fill(offset, &mut expected);
            assert!(actual[..read] == expected, "at {offset}");
        }
    }
}

fn stat_of_a_file_being_written_shows_the_writers_position(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("write-stat");
    let mut file = File::create(dir.join("file")).unwrap();
    for length in [1, 1000, 300_000] {
        let written = file.metadata().unwrap().len();
        file.write_all(&vec![b'x'; usize::try_from(length - written).unwrap()]).unwrap();
        assert_eq!(fs::metadata(dir.join("file")).unwrap().len(), length);
    }
    close(file).unwrap();
    let modified = fs::metadata(dir.join("file")).unwrap().modified().unwrap();
    assert!(modified.elapsed().unwrap_or_default() < Duration::from_secs(600), "mtime is set by writing");
}

fn times_of_a_written_file_are_those_of_its_last_write(mounts: &Mounts) {
    let here = mounts.mount.new_dir("write-times").join("file");
    let there = mounts.other.join("write-times/file");
    let times = |meta: fs::Metadata| (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
    let let_time_pass = || {
        let begun = Instant::now();
        wait_until(Duration::from_secs(5), "time to pass", || begun.elapsed() > Duration::from_millis(20));
    };
    let mut file = File::create(&here).unwrap();
    let made = times(file.metadata().unwrap());
    let mut last = made;
    for round in 0..3 {
        let_time_pass();
        file.write_all(b"some bytes").unwrap();
        let written = times(file.metadata().unwrap());
        assert!(written > last, "{round}: {written:?} after {last:?}");
        assert_eq!((written.0, written.1), (written.2, written.3), "{round}");
        let_time_pass();
        assert_eq!(times(fs::metadata(&here).unwrap()), written, "{round}: by its name");
        if round == 1 {
            file.sync_all().unwrap();
            assert_eq!(times(file.metadata().unwrap()), written, "after fsync");
        }
        if round == 2 {
            // A second after the date was told last, a sync tells it again.
            let told = Instant::now();
            wait_until(Duration::from_secs(5), "a second to pass", || told.elapsed() > Duration::from_millis(1100));
            file.sync_all().unwrap();
            let elsewhere = || times(fs::metadata(&there).unwrap()) == written;
            wait_until(Duration::from_secs(10), "the date of the second sync elsewhere", elsewhere);
        }
        last = written;
    }
    let_time_pass();
    drop(file);
    assert_eq!(times(fs::metadata(&here).unwrap()), last, "after close");
    assert_eq!(times(File::open(&there).unwrap().metadata().unwrap()), last, "elsewhere");
    // Opened to append, and nothing written.
    drop(OpenOptions::new().append(true).open(&here).unwrap());
    assert_eq!(times(fs::metadata(&here).unwrap()), last, "after an open that wrote nothing");
}
