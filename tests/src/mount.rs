//! A mounted cluster: the dfs-fuse process and its mount point.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};

use crate::process::{Daemon, program};
use crate::wait::{STARTUP, poll};

/// One mount.
#[derive(Debug)]
pub struct Mount {
    daemon: Daemon,
    path: PathBuf,
}

impl Mount {
    /// Mounts at `<dir>/<name>` and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start(dir: &Path, name: &str, namenodes: &str, options: &[&str]) -> Self {
        let path = dir.join(name);
        std::fs::create_dir_all(&path).expect("make mount point");
        let mut arguments: Vec<OsString> = vec!["-f".into()];
        if !options.is_empty() {
            arguments.extend(["-o".into(), options.join(",").into()]);
        }
        arguments.extend([namenodes.into(), path.clone().into()]);
        let log = dir.join(format!("logs/fuse-{name}.log"));
        let mut mount = Self { daemon: Daemon::new(format!("fuse-{name}"), program("dfs-fuse"), arguments, log), path };
        mount.start_daemon();
        mount
    }

    fn start_daemon(&mut self) {
        self.daemon.start();
        let answers = poll(STARTUP, || {
            if is_mount_point(&self.path) && std::fs::read_dir(&self.path).is_ok() {
                return Some(true);
            }
            (!self.daemon.is_running()).then_some(false)
        });
        assert!(answers == Some(true), "the mount does not answer\n{}", self.daemon.log_tail());
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path below the mount point.
    pub fn join(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.path.join(relative)
    }

    /// Makes a directory of this name for one test, so that tests do not meet.
    ///
    /// # Panics
    /// When it exists.
    pub fn new_dir(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir(&path).unwrap_or_else(|error| panic!("mkdir {name}: {error}"));
        path
    }

    /// Capacity by statfs, bytes.
    pub fn room(&self) -> u64 {
        rustix::fs::statvfs(&self.path).map_or(0, |stat| stat.f_blocks * stat.f_frsize)
    }

    /// The process.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// The log's last lines.
    pub fn diagnostics(&self) -> String {
        self.daemon.log_tail()
    }

    /// The log so far.
    pub fn log_text(&self) -> String {
        self.daemon.log_text()
    }

    /// kill -9; the mount point stays, dead, until [`Mount::restart`].
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// A new daemon on the same mount point after a kill.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn restart(&mut self) {
        self.daemon.kill();
        self.detach();
        self.start_daemon();
    }

    /// Unmounts as a user would and checks that the daemon ends cleanly.
    ///
    /// # Panics
    /// When it does not.
    pub fn unmount_cleanly(mut self) {
        unmount(&self.path, UnmountFlags::empty()).expect("unmount");
        let status = self.daemon.wait_exit(Duration::from_secs(30));
        assert!(status.success(), "dfs-fuse ended with {status}\n{}", self.daemon.log_tail());
    }

    fn detach(&self) {
        while is_mount_point(&self.path) && unmount(&self.path, UnmountFlags::DETACH).is_ok() {}
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.diagnostics());
        }
        // Before the daemon dies, so that nobody meets a mount that is not connected.
        self.detach();
        self.daemon.kill();
    }
}

/// Whether something is mounted at exactly this path. Asks the kernel's table, not the mount, which may be dead.
pub fn is_mount_point(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let wanted = path.display().to_string().replace(' ', "\\040");
    table.lines().any(|line| line.split(' ').nth(4) == Some(&wanted))
}
