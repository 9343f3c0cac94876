//! mkdir, readdir, names and their limits.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirEntryExt, MetadataExt, PermissionsExt};
use std::path::Path;

use dfs_tests::bench::drop_caches;
use rustix::io::Errno;

use super::{Case, Mounts, assert_errno, cases, shell};

pub(super) const CASES: [Case<Mounts>; 8] = cases![
    mkdir_counts_links_and_refuses_a_taken_name,
    readdir_of_10000_entries_shows_each_once,
    readdir_while_entries_come_and_go_shows_the_rest_once,
    readdir_while_files_are_changed_elsewhere_shows_them_as_they_are,
    readdir_shows_inode_numbers_and_kinds,
    names_may_be_any_bytes_up_to_255,
    names_of_256_bytes_and_paths_above_4095_are_enametoolong,
    deep_trees_work,
];

fn mkdir_counts_links_and_refuses_a_taken_name(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("mkdir");
    for name in ["a", "b", "c"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    fs::write(dir.join("file"), b"").unwrap();
    assert_eq!(fs::metadata(&dir).unwrap().nlink(), 5);
    assert_errno(fs::create_dir(dir.join("a")), Errno::EXIST);
    assert_errno(fs::create_dir(dir.join("file")), Errno::EXIST);
    assert_errno(fs::create_dir(dir.join("missing/x")), Errno::NOENT);
    assert_errno(fs::create_dir(dir.join("file/x")), Errno::NOTDIR);
}

fn names_in(dir: &Path) -> Vec<OsString> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

fn readdir_of_10000_entries_shows_each_once(mounts: &Mounts) {
    const ENTRIES: usize = 10_000;
    let dir = mounts.mount.new_dir("readdir-10000");
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let dir = &dir;
            scope.spawn(move || {
                for number in (thread..ENTRIES).step_by(8) {
                    File::create(dir.join(format!("an-entry-of-usual-length-{number}"))).unwrap();
                }
            });
        }
    });
    let expected: BTreeSet<OsString> =
        (0..ENTRIES).map(|number| format!("an-entry-of-usual-length-{number}").into()).collect();
    for listed in [names_in(&dir), names_in(&mounts.other.join("readdir-10000"))] {
        assert_eq!(listed.len(), ENTRIES);
        assert!(listed.into_iter().collect::<BTreeSet<_>>() == expected);
    }
    drop_caches().unwrap();
    assert_eq!(shell(&dir, "ls -l | tail -n +2 | wc -l").trim(), ENTRIES.to_string());
    fs::remove_dir_all(&dir).unwrap();
}

fn readdir_while_entries_come_and_go_shows_the_rest_once(mounts: &Mounts) {
    const ENTRIES: usize = 3_000;
    let dir = mounts.mount.new_dir("readdir-changing");
    for number in 0..ENTRIES {
        fs::create_dir(dir.join(format!("stays-{number}"))).unwrap();
    }
    let mut listed = Vec::new();
    for (position, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        let name = entry.unwrap().file_name();
        if position % 100 == 0 {
            fs::create_dir(dir.join(format!("new-{position}"))).unwrap();
            if position >= 200 {
                fs::remove_dir(dir.join(format!("new-{}", position - 200))).unwrap();
            }
        }
        listed.push(name);
    }
    let stays: Vec<_> = listed.iter().filter(|name| name.as_bytes().starts_with(b"stays")).collect();
    assert_eq!(stays.len(), ENTRIES, "an entry that was there all the time is listed exactly once");
    assert_eq!(stays.into_iter().collect::<BTreeSet<_>>().len(), ENTRIES);
    fs::remove_dir_all(&dir).unwrap();
}

/// What is listed is fetched ahead, and the kernel believes the attributes that come with it.
fn readdir_while_files_are_changed_elsewhere_shows_them_as_they_are(mounts: &Mounts) {
    /// One fetch, and more than one buffer of the kernel.
    const ENTRIES: usize = 250;
    let dir = mounts.mount.new_dir("readdir-attributes");
    let (here, elsewhere) = (dir.join("here"), dir.join("elsewhere"));
    fs::create_dir(&here).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    let names: Vec<String> = (0..ENTRIES).map(|number| format!("an-entry-of-usual-length-{number}")).collect();
    for name in &names {
        File::create(here.join(name)).unwrap();
        fs::hard_link(here.join(name), elsewhere.join(name)).unwrap();
    }
    let list_while = |change: &dyn Fn(&Path), check: &dyn Fn(&fs::Metadata) -> bool| {
        let mut listed = fs::read_dir(&here).unwrap();
        let first = listed.next().unwrap();
        names.iter().for_each(|name| change(&elsewhere.join(name)));
        for entry in [first].into_iter().chain(listed) {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            assert!(check(&meta), "{}: {meta:?}", entry.path().display());
        }
    };
    list_while(&|path| fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap(), &|meta| {
        meta.mode() & 0o777 == 0o600 && meta.nlink() == 2
    });
    list_while(&|path| fs::remove_file(path).unwrap(), &|meta| meta.nlink() == 1);
}

fn readdir_shows_inode_numbers_and_kinds(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("readdir-kinds");
    fs::write(dir.join("file"), b"x").unwrap();
    fs::create_dir(dir.join("directory")).unwrap();
    std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
    for entry in fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        let meta = fs::symlink_metadata(entry.path()).unwrap();
        assert_eq!(entry.ino(), meta.ino(), "{entry:?}");
        assert_eq!(entry.file_type().unwrap(), meta.file_type(), "{entry:?}");
    }
    // "." and ".." are ls's to show.
    assert_eq!(shell(&dir, "ls -a | head -n 2 | tr '\\n' ' '"), ". .. ");
}

fn names_may_be_any_bytes_up_to_255(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("names");
    let all_bytes: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    let mut names: Vec<Vec<u8>> = vec![all_bytes, vec![b'x'; 255], b"...".to_vec(), b" ".to_vec(), b"-rf\n*".to_vec()];
    names.push("Stra\u{df}e \u{4e2d}\u{6587}".into());
    names.push(vec![0xff, 0xfe]);
    for (number, name) in names.iter().enumerate() {
        fs::write(dir.join(OsString::from_vec(name.clone())), number.to_string()).unwrap();
    }
    let listed: BTreeSet<Vec<u8>> = names_in(&dir).into_iter().map(OsString::into_vec).collect();
    assert_eq!(listed, names.iter().cloned().collect());
    for (number, name) in names.iter().enumerate() {
        let path = mounts.other.join("names").join(OsString::from_vec(name.clone()));
        assert_eq!(fs::read_to_string(path).unwrap(), number.to_string());
    }
}

fn names_of_256_bytes_and_paths_above_4095_are_enametoolong(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("names-long");
    let long = dir.join("x".repeat(256));
    assert_errno(File::create(&long), Errno::NAMETOOLONG);
    assert_errno(fs::create_dir(&long), Errno::NAMETOOLONG);
    assert_errno(fs::metadata(&long), Errno::NAMETOOLONG);
    fs::write(dir.join("short"), b"").unwrap();
    assert_errno(fs::rename(dir.join("short"), &long), Errno::NAMETOOLONG);
    assert_errno(fs::hard_link(dir.join("short"), &long), Errno::NAMETOOLONG);
    assert_errno(std::os::unix::fs::symlink("x", &long), Errno::NAMETOOLONG);
    assert_errno(std::os::unix::fs::symlink("x".repeat(4096), dir.join("link")), Errno::NAMETOOLONG);
}

fn deep_trees_work(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("deep");
    let mut path = dir.clone();
    for level in 0..100 {
        path.push(format!("level-{level}"));
    }
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("file"), b"bottom").unwrap();
    let elsewhere = mounts.other.path().join(path.strip_prefix(mounts.mount.path()).unwrap());
    assert_eq!(fs::read(elsewhere.join("file")).unwrap(), b"bottom");
    fs::remove_dir_all(dir).unwrap();
}
