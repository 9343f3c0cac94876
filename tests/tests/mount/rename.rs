//! rename, with its flags.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::{Case, Mounts, assert_errno, assert_fails, cases};

pub(super) const CASES: [Case<Mounts>; 9] = cases![
    rename_moves_between_directories,
    rename_replaces_a_file_atomically,
    rename_replaces_only_an_empty_directory,
    rename_between_kinds_is_refused,
    rename_into_its_own_subtree_is_einval,
    rename_of_a_link_onto_its_twin_does_nothing,
    rename_noreplace_is_eexist,
    rename_exchange_swaps_files_and_directories,
    rename_of_an_open_file_keeps_its_writer,
];

fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> rustix::io::Result<()> {
    renameat_with(CWD, from, CWD, to, flags)
}

fn rename_moves_between_directories(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("rename-move");
    fs::create_dir_all(dir.join("a/deep")).unwrap();
    fs::create_dir(dir.join("b")).unwrap();
    fs::write(dir.join("a/deep/file"), b"x").unwrap();
    let inode = fs::metadata(dir.join("a/deep/file")).unwrap().ino();
    fs::rename(dir.join("a/deep"), dir.join("b/deeper")).unwrap();
    assert_eq!(fs::metadata(dir.join("b/deeper/file")).unwrap().ino(), inode);
    assert_errno(fs::metadata(dir.join("a/deep")), Errno::NOENT);
    assert_eq!(fs::read(mounts.other.join("rename-move/b/deeper/file")).unwrap(), b"x");
    // Links of directories: ".." moved along.
    assert_eq!(fs::metadata(dir.join("a")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(dir.join("b")).unwrap().nlink(), 3);
    assert_errno(fs::rename(dir.join("missing"), dir.join("b/x")), Errno::NOENT);
    fs::rename(dir.join("b"), dir.join("b")).unwrap();
}

fn rename_replaces_a_file_atomically(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("rename-replace");
    fs::write(dir.join("target"), b"version 0").unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            loop {
                // There is a whole version at every moment. An open that is overtaken twice, once more in the kernel's own
                // second try, finds the inode it was led to gone.
                let text = match fs::read_to_string(dir.join("target")) {
                    Err(error) if error.raw_os_error() == Some(libc::ESTALE) => continue,
                    read => read.unwrap(),
                };
                assert!(text.starts_with("version "), "{text:?}");
                if text == "version 50" {
                    return;
                }
            }
        });
        for version in 1..=50 {
            fs::write(dir.join("new"), format!("version {version}")).unwrap();
            fs::rename(dir.join("new"), dir.join("target")).unwrap();
        }
        reader.join().unwrap();
    });
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
}

fn rename_replaces_only_an_empty_directory(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("rename-directories");
    for name in ["source", "empty", "full", "full/child"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    assert_errno(fs::rename(dir.join("source"), dir.join("full")), Errno::NOTEMPTY);
    fs::rename(dir.join("source"), dir.join("empty")).unwrap();
    assert_eq!(fs::metadata(&dir).unwrap().nlink(), 4);
}

fn rename_between_kinds_is_refused(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("rename-kinds");
    fs::write(dir.join("file"), b"x").unwrap();
    fs::create_dir(dir.join("directory")).unwrap();
    assert_errno(fs::rename(dir.join("file"), dir.join("directory")), Errno::ISDIR);
    assert_errno(fs::rename(dir.join("directory"), dir.join("file")), Errno::NOTDIR);
}

fn rename_into_its_own_subtree_is_einval(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("rename-subtree");
    fs::create_dir_all(dir.join("a/b/c")).unwrap();
    assert_errno(fs::rename(dir.join("a"), dir.join("a/b/c/d")), Errno::INVAL);
    assert_errno(fs::rename(dir.join("a"), dir.join("a/b")), Errno::INVAL);
    assert_errno(fs::rename(dir.join("a/b"), dir.join("a")), Errno::NOTEMPTY);
}

fn rename_of_a_link_onto_its_twin_does_nothing(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("rename-twin");
    fs::write(dir.join("one"), b"x").unwrap();
    fs::hard_link(dir.join("one"), dir.join("two")).unwrap();
    fs::rename(dir.join("one"), dir.join("two")).unwrap();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
}

fn rename_noreplace_is_eexist(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("rename-noreplace");
    fs::write(dir.join("one"), b"1").unwrap();
    fs::write(dir.join("two"), b"2").unwrap();
    assert_fails(rename_with(&dir.join("one"), &dir.join("two"), RenameFlags::NOREPLACE), Errno::EXIST);
    assert_eq!(fs::read(dir.join("two")).unwrap(), b"2");
    rename_with(&dir.join("one"), &dir.join("three"), RenameFlags::NOREPLACE).unwrap();
    assert_eq!(fs::read(dir.join("three")).unwrap(), b"1");
}

fn rename_exchange_swaps_files_and_directories(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("rename-exchange");
    fs::write(dir.join("file"), b"content").unwrap();
    fs::create_dir_all(dir.join("parent/directory/child")).unwrap();
    rename_with(&dir.join("file"), &dir.join("parent/directory"), RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(dir.join("parent/directory")).unwrap(), b"content");
    assert!(dir.join("file/child").is_dir());
    assert_eq!(fs::metadata(dir.join("parent")).unwrap().nlink(), 2);
    assert_fails(rename_with(&dir.join("file"), &dir.join("missing"), RenameFlags::EXCHANGE), Errno::NOENT);
    assert_fails(rename_with(&dir.join("file"), &dir.join("file/child"), RenameFlags::EXCHANGE), Errno::INVAL);
}

fn rename_of_an_open_file_keeps_its_writer(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("rename-open");
    let mut file = File::create(dir.join("before")).unwrap();
    file.write_all(b"one ").unwrap();
    fs::rename(dir.join("before"), dir.join("after")).unwrap();
    file.write_all(b"two").unwrap();
    drop(file);
    assert_eq!(fs::read(dir.join("after")).unwrap(), b"one two");
}
