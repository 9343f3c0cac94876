//! truncate and ftruncate: to nothing; any other length needs block recovery or holes.

use std::fs::{self, OpenOptions};
use std::io::Write;

use dfs_tests::workload::Pattern;
use rustix::io::Errno;

use super::{Case, Mounts, assert_errno, cases};

pub(super) const CASES: [Case<Mounts>; 4] = cases![
    truncate_to_nothing_empties_a_file,
    truncate_to_the_same_length_changes_nothing,
    truncate_to_another_length_is_eopnotsupp_and_changes_nothing,
    ftruncate_to_nothing_on_an_open_handle_starts_over,
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

fn truncate_to_the_same_length_changes_nothing(mounts: &Mounts) {
    let path = mounts.mount.new_dir("truncate-same").join("file");
    Pattern::new(3).make_file(&path, 1234);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(1234).unwrap();
    Pattern::new(3).check_file(&path, 1234);
}

fn truncate_to_another_length_is_eopnotsupp_and_changes_nothing(mounts: &Mounts) {
    let path = mounts.mount.new_dir("truncate-other").join("file");
    Pattern::new(4).make_file(&path, 10_000);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for length in [9_999, 512, 1, 10_001, 1 << 40] {
        assert_errno(file.set_len(length), Errno::OPNOTSUPP);
        Pattern::new(4).check_file(&path, 10_000);
    }
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
