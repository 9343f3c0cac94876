//! chmod, chown, utimens, statfs.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::Path;
use std::time::Duration;

use dfs_tests::wait::wait_until;
use rustix::fs::{
    AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags, removexattr, setxattr, statvfs, utimensat,
};

use super::{Case, Mounts, cases, shell};

pub(super) const CASES: [Case<Mounts>; 6] = cases![
    chmod_sets_all_twelve_bits,
    chown_sets_ids_and_clears_setuid,
    utimens_keeps_nanoseconds,
    times_follow_what_happens,
    statfs_tells_capacity_and_name_length,
    modes_of_new_files_follow_the_umask,
];

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn chmod_sets_all_twelve_bits(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("chmod");
    fs::write(dir.join("file"), b"x").unwrap();
    for bits in [0, 0o777, 0o4755, 0o2755, 0o1777, 0o7777, 0o644] {
        for path in [dir.join("file"), dir.clone()] {
            fs::set_permissions(&path, Permissions::from_mode(bits)).unwrap();
            assert_eq!(mode(&path), bits);
        }
        wait_until(Duration::from_secs(5), "the mode on the other mount", || mode(&mounts.other.join("chmod")) == bits);
    }
}

fn chown_sets_ids_and_clears_setuid(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("chown");
    let file = dir.join("file");
    fs::write(&file, b"x").unwrap();
    let ids = |path: &Path| {
        let meta = fs::symlink_metadata(path).unwrap();
        (meta.uid(), meta.gid())
    };
    chown(&file, Some(1234), Some(4321)).unwrap();
    assert_eq!(ids(&file), (1234, 4321));
    chown(&file, None, Some(7)).unwrap();
    assert_eq!(ids(&file), (1234, 7));
    chown(&file, Some(u32::MAX - 1), None).unwrap();
    assert_eq!(ids(&file), (u32::MAX - 1, 7));
    std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
    lchown(dir.join("link"), Some(5), Some(6)).unwrap();
    assert_eq!((ids(&dir.join("link")), ids(&file)), ((5, 6), (u32::MAX - 1, 7)));
    // Of executables, also when root changes the owner.
    fs::set_permissions(&file, Permissions::from_mode(0o6755)).unwrap();
    chown(&file, Some(1), Some(1)).unwrap();
    assert_eq!(mode(&file), 0o755);
}

fn at(seconds: i64, nanoseconds: i64) -> Timespec {
    Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ }
}

fn utimens_keeps_nanoseconds(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("utimens");
    let file = dir.join("file");
    fs::write(&file, b"x").unwrap();
    std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
    let set = |path: &Path, access, modification| {
        let times = Timestamps { last_access: access, last_modification: modification };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let meta = fs::symlink_metadata(path).unwrap();
        ((meta.atime(), meta.atime_nsec()), (meta.mtime(), meta.mtime_nsec()))
    };
    for path in [&file, &dir, &dir.join("link")] {
        assert_eq!(set(path, at(1, 2), at(1_700_000_000, 999_999_999)), ((1, 2), (1_700_000_000, 999_999_999)));
        assert_eq!(set(path, at(-5, 500), at(0, 0)), ((-5, 500), (0, 0)), "before the epoch");
        assert_eq!(set(path, at(0, UTIME_OMIT), at(8, 9)), ((-5, 500), (8, 9)));
        let ((access, _), modification) = set(path, at(0, UTIME_NOW), at(0, UTIME_OMIT));
        assert!(access > 1_700_000_000);
        assert_eq!(modification, (8, 9));
    }
}

fn times_follow_what_happens(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("times");
    let file = dir.join("file");
    let stamp = |path: &Path| {
        let meta = fs::symlink_metadata(path).unwrap();
        ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()))
    };
    let before = stamp(&dir);
    fs::write(&file, b"x").unwrap();
    assert!(stamp(&dir).0 > before.0, "a new entry changes its directory's mtime");
    let before = stamp(&file);
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let after = stamp(&file);
    assert!(after.1 > before.1 && after.0 == before.0, "chmod changes ctime only: {before:?} {after:?}");
    fs::hard_link(&file, dir.join("link")).unwrap();
    assert!(stamp(&file).1 > after.1, "link changes ctime");
    let steps: [(&str, &dyn Fn()); 5] = [
        ("unlink of another name", &|| fs::remove_file(dir.join("link")).unwrap()),
        ("rename", &|| {
            fs::rename(&file, dir.join("renamed")).and_then(|()| fs::rename(dir.join("renamed"), &file)).unwrap()
        }),
        ("chown", &|| chown(&file, Some(1), None).unwrap()),
        ("setxattr", &|| setxattr(&file, "user.a", b"1", XattrFlags::empty()).unwrap()),
        ("removexattr", &|| removexattr(&file, "user.a").unwrap()),
    ];
    for (name, step) in steps {
        let before = stamp(&file);
        step();
        let after = stamp(&file);
        assert!(after.1 > before.1 && after.0 == before.0, "{name} changes ctime only: {before:?} {after:?}");
    }
    fs::hard_link(&file, dir.join("link")).unwrap();
    let before = stamp(&file);
    fs::write(&file, b"yy").unwrap();
    assert!(stamp(&file).0 > before.0, "writing changes mtime");
    let before = stamp(&dir);
    fs::remove_file(dir.join("link")).unwrap();
    assert!(stamp(&dir).0 > before.0, "a removed entry changes its directory's mtime");
}

fn statfs_tells_capacity_and_name_length(mounts: &Mounts) {
    let stat = statvfs(mounts.mount.path()).unwrap();
    assert_eq!(stat.f_namemax, 255);
    assert!(stat.f_blocks > 0 && stat.f_bfree <= stat.f_blocks && stat.f_bavail <= stat.f_bfree);
    shell(mounts.mount.path(), "df . && df -i . && stat -f .");
}

fn modes_of_new_files_follow_the_umask(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("umask");
    shell(&dir, "umask 027; touch file; mkdir dir; mkfifo fifo; umask 0; touch open; mkdir -m 1777 sticky");
    let modes = ["file", "dir", "fifo", "open", "sticky"].map(|name| mode(&dir.join(name)));
    assert_eq!(modes, [0o640, 0o750, 0o640, 0o666, 0o1777]);
    // setgid directories hand their group down.
    chown(&dir, None, Some(77)).unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o2775)).unwrap();
    shell(&dir, "touch child; mkdir childdir");
    assert_eq!(fs::metadata(dir.join("child")).unwrap().gid(), 77);
    let child_dir = fs::metadata(dir.join("childdir")).unwrap();
    assert_eq!((child_dir.gid(), child_dir.mode() & 0o2000), (77, 0o2000));
}
