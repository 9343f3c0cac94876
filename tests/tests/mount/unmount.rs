//! How a mount ends.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use dfs_tests::process::catches;
use dfs_tests::wait::wait_until;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;

use super::{Case, Mounts, cases};

pub(super) const CASES: [Case<Mounts>; 1] = cases![daemon_that_ends_unmounts_nothing_but_its_own_mount];

fn daemon_that_ends_unmounts_nothing_but_its_own_mount(mounts: &Mounts) {
    const PATIENCE: Duration = Duration::from_secs(60);
    for is_covered in [false, true] {
        let mut mount_below = mounts.cluster.mount("unmount");
        let path = mount_below.path().to_owned();
        let before = fs::metadata(&path).unwrap().dev();
        let pid = mount_below.daemon().pid().expect("it runs");
        // It answers a moment before it does so.
        wait_until(PATIENCE, "the daemon heeds SIGTERM", || catches(pid, Signal::TERM));
        if is_covered {
            mount("none", &path, "tmpfs", MountFlags::empty(), c"").unwrap();
            fs::write(path.join("above"), b"there").unwrap();
        }
        let status = mount_below.daemon().terminate(PATIENCE);
        assert!(status.success(), "{status}");
        assert_ne!(fs::metadata(&path).unwrap().dev(), before);
        if is_covered {
            assert_eq!(fs::read(path.join("above")).unwrap(), b"there");
            unmount(&path, UnmountFlags::empty()).unwrap();
            assert_eq!(fs::read_dir(&path).unwrap_err().raw_os_error(), Some(libc::ENOTCONN), "it is left dead");
        }
    }
}
