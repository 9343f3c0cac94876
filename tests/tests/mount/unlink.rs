//! unlink and rmdir; files that live on because someone has them open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Barrier;
use std::thread;

use dfs_tests::workload::Pattern;
use rustix::io::Errno;

use super::{Case, Mounts, assert_errno, cases};

pub(super) const CASES: [Case<Mounts>; 8] = cases![
    unlink_of_an_open_file_leaves_it_readable,
    unlink_of_a_file_being_written_leaves_it_writable,
    rename_over_an_open_file_leaves_it_readable,
    file_that_is_opened_while_its_name_goes_stays_readable,
    unlink_of_a_directory_is_eisdir_and_rmdir_of_a_file_enotdir,
    rmdir_of_a_full_directory_is_enotempty,
    unlink_makes_room_for_the_name_at_once,
    unlink_elsewhere_never_gives_other_bytes,
];

fn unlink_of_an_open_file_leaves_it_readable(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("unlink-open");
    let pattern = Pattern::new(1);
    pattern.make_file(&dir.join("file"), 300_000);
    let file = File::open(dir.join("file")).unwrap();
    fs::remove_file(dir.join("file")).unwrap();
    assert_errno(fs::metadata(dir.join("file")), Errno::NOENT);
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    assert_eq!(pattern.check(0, &file).unwrap(), 300_000);
    // An empty directory all the same.
    fs::remove_dir(&dir).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 299_999).unwrap();
}

fn unlink_of_a_file_being_written_leaves_it_writable(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("unlink-writing");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(dir.join("file")).unwrap();
    let pattern = Pattern::new(2);
    pattern.write(&file, 0, 100_000).unwrap();
    fs::remove_file(dir.join("file")).unwrap();
    pattern.write(&file, 100_000, 5_000_000).unwrap();
    file.sync_all().unwrap();
    let mut start = vec![0; 1000];
    file.read_exact_at(&mut start, 100_000 - 500).unwrap();
    let mut expected = vec![0; 1000];
    pattern.fill(100_000 - 500, &mut expected);
    assert!(start == expected);
    assert_eq!(file.metadata().unwrap().len(), 5_100_000);
    fs::remove_dir(&dir).unwrap();
}

fn rename_over_an_open_file_leaves_it_readable(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("unlink-replaced");
    fs::write(dir.join("old"), b"old content").unwrap();
    fs::write(dir.join("new"), b"new content").unwrap();
    let mut file = File::open(dir.join("old")).unwrap();
    fs::rename(dir.join("new"), dir.join("old")).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old content");
    assert_eq!(fs::read(dir.join("old")).unwrap(), b"new content");
}

/// Whether the open or the loss of the name comes first: a file that was opened can be read.
fn file_that_is_opened_while_its_name_goes_stays_readable(mounts: &Mounts) {
    const ROUNDS: u64 = 50;
    let dir = mounts.mount.new_dir("unlink-race");
    let (path, new, pattern) = (dir.join("name"), dir.join("new"), Pattern::new(5));
    let unlink = || fs::remove_file(&path);
    let replace = || fs::rename(&new, &path);
    for lose_name in [&unlink as &(dyn Fn() -> io::Result<()> + Sync), &replace] {
        for _ in 0..ROUNDS {
            pattern.make_file(&path, 3000);
            pattern.make_file(&new, 3000);
            let starts = Barrier::new(2);
            let opened = thread::scope(|scope| {
                let losing = scope.spawn(|| {
                    starts.wait();
                    lose_name().unwrap();
                });
                starts.wait();
                let opened = File::open(&path);
                losing.join().unwrap();
                opened
            });
            match opened {
                Ok(file) => assert_eq!(pattern.check(0, &file).unwrap(), 3000),
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{error}"),
            }
        }
    }
}

fn unlink_of_a_directory_is_eisdir_and_rmdir_of_a_file_enotdir(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("unlink-kinds");
    fs::write(dir.join("file"), b"x").unwrap();
    assert_errno(fs::remove_file(&dir), Errno::ISDIR);
    assert_errno(fs::remove_dir(dir.join("file")), Errno::NOTDIR);
    assert_errno(fs::remove_file(dir.join("missing")), Errno::NOENT);
    assert_errno(fs::remove_dir(dir.join("missing")), Errno::NOENT);
}

fn rmdir_of_a_full_directory_is_enotempty(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("rmdir-full");
    fs::create_dir(dir.join("child")).unwrap();
    assert_eq!(fs::metadata(&dir).unwrap().nlink(), 3);
    assert_errno(fs::remove_dir(&dir), Errno::NOTEMPTY);
    fs::remove_dir(dir.join("child")).unwrap();
    assert_eq!(fs::metadata(&dir).unwrap().nlink(), 2);
    fs::remove_dir(&dir).unwrap();
}

fn unlink_makes_room_for_the_name_at_once(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("unlink-again");
    for round in 0..20 {
        let mut file = File::create_new(dir.join("name")).unwrap();
        write!(file, "round {round}").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(dir.join("name")).unwrap(), format!("round {round}"));
        fs::remove_file(dir.join("name")).unwrap();
    }
}

/// A reader on another mount may get an error, never bytes of another file.
fn unlink_elsewhere_never_gives_other_bytes(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("unlink-elsewhere");
    let pattern = Pattern::new(3);
    pattern.make_file(&dir.join("file"), 1_000_000);
    let file = File::open(mounts.other.join("unlink-elsewhere/file")).unwrap();
    fs::remove_file(dir.join("file")).unwrap();
    Pattern::new(4).make_file(&dir.join("file"), 1_000_000);
    match pattern.check(0, &file) {
        Ok(length) => assert_eq!(length, 1_000_000),
        Err(error) => assert!(matches!(error.raw_os_error(), Some(libc::ESTALE | libc::EIO)), "{error}"),
    }
}
