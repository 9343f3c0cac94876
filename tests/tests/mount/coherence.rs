//! Two mounts of one cluster: close-to-open, and attributes within their second.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;

use dfs_tests::wait::{Stopwatch, wait_until};
use dfs_tests::workload::Pattern;

use super::{Case, Mounts, assert_errno, cases};

pub(super) const CASES: [Case<Mounts>; 10] = cases![
    open_after_close_elsewhere_sees_the_new_content,
    attributes_and_names_are_fresh_within_their_second,
    reader_with_an_open_file_sees_appends,
    size_of_a_file_written_elsewhere_never_goes_back,
    end_of_a_file_that_grows_shows_no_zeros,
    end_of_a_file_that_another_mount_has_lengthened_is_where_a_writer_finds_it,
    many_files_written_here_are_read_there,
    descriptor_opened_before_leaves_no_old_bytes_behind,
    name_made_elsewhere_is_found_at_once_in_a_directory_just_made,
    directory_that_its_maker_fills_without_pause_takes_names_from_others,
];

/// How a name comes into a directory.
const WAYS: [fn(&Path) -> io::Result<()>; 5] = [
    |path| File::create(path).map(drop),
    |path| fs::create_dir(path),
    |path| symlink("nowhere", path),
    |path| fs::hard_link(path.parent().unwrap().with_extension("source"), path),
    |path| fs::rename(path.parent().unwrap().with_extension("source"), path),
];

/// Ends another thread's loop when it is dropped.
struct EndWith<'a>(&'a AtomicBool);

impl Drop for EndWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Longer than the attribute TTL of one second, with room for a busy machine.
const SOON: Duration = Duration::from_secs(10);

fn open_after_close_elsewhere_sees_the_new_content(mounts: &Mounts) {
    mounts.mount.new_dir("coherence-open");
    let sides = [mounts.mount.join("coherence-open/file"), mounts.other.join("coherence-open/file")];
    for round in 0..20_u64 {
        let (writer, reader) = (&sides[(round % 2) as usize], &sides[((round + 1) % 2) as usize]);
        let length = 1000 + (round * 7919) % 50_000;
        Pattern::new(round).make_file(writer, length);
        Pattern::new(round).check_file(reader, length);
        Pattern::new(round).check_file(writer, length);
    }
}

fn attributes_and_names_are_fresh_within_their_second(mounts: &Mounts) {
    let here = mounts.mount.new_dir("coherence-stat");
    let there = mounts.other.join("coherence-stat");
    fs::write(here.join("file"), b"1").unwrap();
    assert_eq!(fs::metadata(there.join("file")).unwrap().len(), 1);
    fs::write(here.join("file"), b"12345").unwrap();
    let length = || fs::metadata(there.join("file")).map_or(0, |meta| meta.len());
    wait_until(SOON, "the new length", || length() == 5);
    fs::rename(here.join("file"), here.join("renamed")).unwrap();
    wait_until(SOON, "the new name", || there.join("renamed").exists() && !there.join("file").exists());
    fs::remove_file(here.join("renamed")).unwrap();
    wait_until(SOON, "the removal", || !there.join("renamed").exists());
    assert_eq!(fs::read_dir(&there).unwrap().count(), 0);
}

fn reader_with_an_open_file_sees_appends(mounts: &Mounts) {
    let here = mounts.mount.new_dir("coherence-tail");
    let mut writer = OpenOptions::new().create(true).append(true).open(here.join("log")).unwrap();
    let mut reader = File::open(mounts.other.join("coherence-tail/log")).unwrap();
    let mut seen = String::new();
    for line in ["one\n", "two\n", "three\n"] {
        writer.write_all(line.as_bytes()).unwrap();
        writer.sync_data().unwrap();
        // As tail -f: the same descriptor, reading on from where it was.
        let mut arrived = || {
            reader.read_to_string(&mut seen).unwrap();
            seen.ends_with(line)
        };
        wait_until(SOON, format!("{line:?} by an open descriptor"), &mut arrived);
    }
    assert_eq!(seen, "one\ntwo\nthree\n");
}

/// What the kernel believes of a file, without asking: beyond it mapped pages are gone (SIGBUS).
fn believed_length(file: &File) -> u64 {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(file, "", flags, StatxFlags::SIZE).unwrap().stx_size
}

/// An answer of the other mount that brings attributes.
type Answer = (&'static str, fn(&Path, &Path));

fn size_of_a_file_written_elsewhere_never_goes_back(mounts: &Mounts) {
    /// The NameNode hears of the length when the first of these is synced, and not again before the block is full.
    const LENGTHS: [u64; 3] = [100_000, 1_000_000, 3_000_000];
    let answers: [Answer; 8] = [
        ("listing", |_, there| assert_eq!(fs::read_dir(there).unwrap().count(), 1)),
        ("link", |_, there| fs::hard_link(there.join("file"), there.join("linked")).unwrap()),
        ("unlink, lookup", |_, there| fs::remove_file(there.join("linked")).unwrap()),
        ("lookup of another name", |here, there| {
            fs::rename(here.join("file"), here.join("renamed")).unwrap();
            File::open(there.join("renamed")).unwrap();
            fs::rename(here.join("renamed"), here.join("file")).unwrap();
            wait_until(SOON, "the old name", || there.join("file").exists());
        }),
        ("lookup of a name that was another file's", |here, there| {
            fs::write(here.join("other"), b"").unwrap();
            // The name may have been the file's a moment ago.
            wait_until(SOON, "the other file", || fs::metadata(there.join("other")).unwrap().len() == 0);
            fs::rename(here.join("file"), here.join("other")).unwrap();
            wait_until(SOON, "the file under the other name", || fs::metadata(there.join("other")).unwrap().len() > 0);
            fs::rename(here.join("other"), here.join("file")).unwrap();
            wait_until(SOON, "the old name", || there.join("file").exists());
        }),
        ("setting of its times", |_, there| {
            File::open(there.join("file")).unwrap().set_modified(SystemTime::now()).unwrap();
        }),
        ("change of permissions", |_, there| {
            fs::set_permissions(there.join("file"), fs::Permissions::from_mode(0o640)).unwrap();
        }),
        ("open", |_, there| drop(File::open(there.join("file")).unwrap())),
    ];
    let here = mounts.mount.new_dir("coherence-size");
    let there = mounts.other.join("coherence-size");
    let writer = File::create(here.join("file")).unwrap();
    let mut written = 0;
    let mut reader = None;
    for length in LENGTHS {
        Pattern::new(8).write(&writer, written, length - written).unwrap();
        writer.sync_all().unwrap();
        written = length;
        let reader = reader.get_or_insert_with(|| File::open(there.join("file")).unwrap());
        assert_eq!(reader.metadata().unwrap().len(), length);
        for (name, answer) in &answers {
            answer(&here, &there);
            assert_eq!(believed_length(reader), length, "after {name}");
        }
    }
    // Cutting it is another matter.
    writer.set_len(70_000).unwrap();
    let reader = reader.unwrap();
    wait_until(SOON, "the shorter length", || reader.metadata().unwrap().len() == 70_000);
    drop(writer);
    Pattern::new(8).check_file(&there.join("file"), 70_000);
}

/// Reads what the kernel shows of the last pages of a file, until told to end. The content has no zeros. The kernel may copy a
/// page that was dropped while it was being read, once: who looks again sees the bytes.
fn watch_the_end(path: &Path, is_over: &AtomicBool) -> u64 {
    let file = File::open(path).unwrap();
    let (mut page, mut looks) = ([0; 8192], 0);
    while !is_over.load(Ordering::Relaxed) {
        let start = believed_length(&file).saturating_sub(4096);
        let read = file.read_at(&mut page, start).unwrap();
        let has_zeros = page[..read].contains(&0);
        file.read_exact_at(&mut page[..read], start).unwrap();
        if let (true, Some(zero)) = (has_zeros, page[..read].iter().position(|&byte| byte == 0)) {
            panic!("{}: zeros from {} to {}", path.display(), start + zero as u64, start + read as u64);
        }
        looks += 1;
    }
    looks
}

/// Asks for sizes, by three roads, until told to end.
fn ask_for_sizes(dir: &Path, is_over: &AtomicBool) {
    let file = File::open(dir.join("file")).unwrap();
    while !is_over.load(Ordering::Relaxed) {
        file.metadata().unwrap();
        fs::metadata(dir.join("file")).unwrap();
        fs::read_dir(dir).unwrap().for_each(|entry| _ = entry.unwrap().metadata().unwrap());
    }
}

fn end_of_a_file_that_grows_shows_no_zeros(mounts: &Mounts) {
    const APPENDS: u64 = 600;
    let here = mounts.mount.new_dir("coherence-end");
    let there = mounts.other.join("coherence-end");
    let mut writer = OpenOptions::new().create(true).append(true).open(here.join("file")).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = EndWith(&is_over);
        for dir in [&here, &there] {
            scope.spawn(|| ask_for_sizes(dir, &is_over));
        }
        let watchers = [&here, &there].map(|dir| scope.spawn(|| watch_the_end(&dir.join("file"), &is_over)));
        for append in 0..APPENDS {
            let length = 1 + (append * 7919) % 30_000;
            writer.write_all(&vec![b'x'; length as usize]).unwrap();
            if append % 3 == 0 {
                writer.sync_data().unwrap();
            }
        }
        drop(over);
        for watcher in watchers {
            assert!(watcher.join().unwrap() > 0);
        }
    });
}

/// Who opens it for writing has not been told by anybody how long it is by now.
fn end_of_a_file_that_another_mount_has_lengthened_is_where_a_writer_finds_it(mounts: &Mounts) {
    let here = mounts.mount.new_dir("coherence-seek").join("file");
    let there = mounts.other.join("coherence-seek/file");
    fs::write(&here, b"first").unwrap();
    let mut reader = File::open(&here).unwrap();
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    OpenOptions::new().append(true).open(&there).unwrap().write_all(b" second").unwrap();
    let mut writer = OpenOptions::new().read(true).write(true).open(&here).unwrap();
    assert_eq!(writer.seek(SeekFrom::End(0)).unwrap(), 12);
    writer.write_all(b" third").unwrap();
    drop(writer);
    reader.read_to_end(&mut read).unwrap();
    assert_eq!(read, b"first second third");
}

fn many_files_written_here_are_read_there(mounts: &Mounts) {
    let here = mounts.mount.new_dir("coherence-many");
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (here, other) = (&here, &mounts.other);
            scope.spawn(move || {
                for number in 0..50 {
                    let (seed, name) = (thread * 1000 + number, format!("{thread}-{number}"));
                    let length = (seed * 613) % 20_000;
                    Pattern::new(seed).make_file(&here.join(&name), length);
                    Pattern::new(seed).check_file(&other.join("coherence-many").join(&name), length);
                }
            });
        }
    });
    assert_eq!(fs::read_dir(mounts.other.join("coherence-many")).unwrap().count(), 200);
}

fn descriptor_opened_before_leaves_no_old_bytes_behind(mounts: &Mounts) {
    const LENGTH: u64 = 12_000_001;
    let here = mounts.mount.new_dir("coherence-pages").join("file");
    let there = mounts.other.join("coherence-pages/file");
    Pattern::new(1).make_file(&here, LENGTH);
    let mut old = File::open(&there).unwrap();
    // In order, so that more is read ahead.
    let mut start = vec![0; 2_000_000];
    old.read_exact(&mut start).unwrap();
    assert!(start == Pattern::new(1).bytes(start.len()));
    Pattern::new(2).make_file(&here, LENGTH);
    let new = File::open(&there).unwrap();
    let mut rest = Vec::new();
    old.read_to_end(&mut rest).unwrap();
    Pattern::new(2).check(0, new).expect("the content of the last close");
}

/// Who has made a directory is not asked about its names while it can know them: nobody else may add one unseen.
fn name_made_elsewhere_is_found_at_once_in_a_directory_just_made(mounts: &Mounts) {
    let top = mounts.mount.new_dir("coherence-made");
    for round in 0..20 {
        let make = WAYS[round % WAYS.len()];
        let name = format!("made-{round}/name");
        let (here, there) = (top.join(&name), mounts.other.join("coherence-made").join(&name));
        fs::write(here.parent().unwrap().with_extension("source"), b"").unwrap();
        fs::create_dir(here.parent().unwrap()).unwrap();
        assert_errno(fs::symlink_metadata(&here), Errno::NOENT);
        if round % 2 == 0 {
            fs::write(here.with_file_name("own"), b"").unwrap();
            assert_errno(fs::symlink_metadata(&here), Errno::NOENT);
        }
        make(&there).unwrap_or_else(|error| panic!("way {}: {error}", round % WAYS.len()));
        fs::symlink_metadata(&here).unwrap_or_else(|error| panic!("way {}: {error}", round % WAYS.len()));
        assert_eq!(fs::read_dir(here.parent().unwrap()).unwrap().count(), 2 - round % 2);
    }
}

fn directory_that_its_maker_fills_without_pause_takes_names_from_others(mounts: &Mounts) {
    let here = mounts.mount.new_dir("coherence-filled");
    let there = mounts.other.join("coherence-filled");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when an assertion fails, or the scope would wait for ever.
        let end = EndWith(&is_over);
        scope.spawn(|| {
            let mut made = 0;
            while !is_over.load(Ordering::Relaxed) {
                fs::create_dir(here.join(format!("here-{made}"))).unwrap();
                made += 1;
            }
        });
        wait_until(SOON, "a name here", || here.join("here-10").exists());
        let begun = Stopwatch::start();
        for number in 0..50 {
            assert_errno(fs::metadata(here.join(format!("there-{number}"))), Errno::NOENT);
            fs::create_dir(there.join(format!("there-{number}"))).unwrap();
            fs::metadata(here.join(format!("there-{number}"))).unwrap();
        }
        let took = begun.elapsed();
        drop(end);
        assert!(took < SOON, "waited {took:?} for the directory's maker");
    });
}
