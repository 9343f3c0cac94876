//! Block devices for daemons: sparse image files on loop devices, with XFS, that can be made to fail.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use dfs_common::units::ByteCount;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::faulty_disk::{Behaviour, FaultyDisk};
use crate::wait::{STARTUP, poll};

/// Smallest file system that mkfs.xfs makes, and enough for the tests' files.
pub const SMALL_DEVICE: ByteCount = ByteCount(512 << 20);

/// Less room than this is left on a filled device.
const FILL_PIECE_MIN: u64 = 4096;

/// An image file, mounted.
#[derive(Debug)]
pub struct LoopDevice {
    image: PathBuf,
    mount_dir: PathBuf,
    /// What the image lies on, when that can be made to fail.
    disk: Option<FaultyDisk>,
}

impl LoopDevice {
    /// Makes `<path>.img`, an XFS on it, and mounts that at `path`.
    ///
    /// # Panics
    /// When any step fails.
    pub fn create(path: &Path, size: ByteCount) -> Self {
        let image = path.with_extension("img");
        File::create_new(&image).and_then(|file| file.set_len(size.0)).expect("make image file");
        Self::format(path, image, None)
    }

    /// The same on a disk that can be made to fail.
    ///
    /// # Panics
    /// When any step fails.
    pub fn create_faulty(path: &Path, size: ByteCount) -> Self {
        let disk = FaultyDisk::create(&path.with_extension("below"), size);
        Self::format(path, disk.file(), Some(disk))
    }

    /// A disk below that fails does so no longer.
    pub fn mend(&self) {
        if let Some(disk) = &self.disk {
            disk.behave(Behaviour::Good);
        }
    }

    fn format(path: &Path, image: PathBuf, disk: Option<FaultyDisk>) -> Self {
        run(Command::new("mkfs.xfs").args(["-q", "-K"]).arg(&image));
        std::fs::create_dir_all(path).expect("make mount point");
        let device = Self { image, mount_dir: path.to_owned(), disk };
        device.mount();
        device
    }

    /// The disk below.
    ///
    /// # Panics
    /// When the device was not made on one that can fail.
    pub fn disk(&self) -> &FaultyDisk {
        self.disk.as_ref().expect("a device on a disk that can fail")
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount_dir
    }

    /// Attaches and mounts. The mount alone then holds the loop device, so that both go together.
    ///
    /// # Panics
    /// When that fails.
    pub fn mount(&self) {
        self.try_mount().unwrap_or_else(|words| panic!("{words}"));
    }

    fn try_mount(&self) -> Result<(), String> {
        // A disk that fails is asked for everything anyway.
        let direct = if self.disk.is_some() { "--direct-io=off" } else { "--direct-io=on" };
        let device = tried(Command::new("losetup").args([direct, "--find", "--show"]).arg(&self.image))?;
        let device = device.trim();
        let mounted = tried(Command::new("mount").args(["-t", "xfs", "-o", "noatime", device]).arg(&self.mount_dir));
        tried(Command::new("losetup").args(["-d", device]))?;
        mounted.map(|_| ())
    }

    /// Takes the mount away, even when someone uses it.
    pub fn unmount(&self) {
        // An error means that it is not mounted.
        let _ = unmount(&self.mount_dir, UnmountFlags::DETACH);
    }

    /// Takes the mount away unless someone uses it.
    pub fn try_unmount(&self) -> bool {
        unmount(&self.mount_dir, UnmountFlags::empty()).is_ok()
    }

    /// Takes all room there is.
    ///
    /// # Panics
    /// When the file that takes it cannot be made.
    pub fn fill(&self) {
        let file = File::create(self.filler()).expect("make a file that takes all room");
        let (mut offset, mut piece) = (0, 64 << 20);
        while piece >= FILL_PIECE_MIN {
            match fallocate(&file, FallocateFlags::empty(), offset, piece) {
                Ok(()) => offset += piece,
                Err(Errno::NOSPC) => piece /= 2,
                Err(error) => panic!("fill {}: {error}", self.mount_dir.display()),
            }
        }
    }

    /// Gives the room back.
    ///
    /// # Panics
    /// When that fails.
    pub fn free(&self) {
        std::fs::remove_file(self.filler()).expect("remove the file that takes all room");
    }

    fn filler(&self) -> PathBuf {
        self.mount_dir.join("filler")
    }

    /// The device fails at once, as if its power was cut: what was not flushed is lost, every later access is EIO.
    ///
    /// # Panics
    /// When xfs_io cannot do it.
    pub fn shut_down(&self) {
        run(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.mount_dir));
    }

    /// Writes, and whatever else would change the file system, hang from now on, as on a disk that does not answer.
    ///
    /// # Panics
    /// When fsfreeze cannot do it.
    pub fn freeze(&self) -> Frozen {
        run(Command::new("fsfreeze").arg("--freeze").arg(&self.mount_dir));
        Frozen(self.mount_dir.clone())
    }

    /// Lets the device answer nobody for `length`, by a process of its own. A program that has a file of a mount open must not
    /// thaw the device that this file needs: starting a process closes a duplicate of the file, which waits for the device.
    ///
    /// # Panics
    /// When fsfreeze cannot do it.
    pub fn freeze_for(&self, length: Duration) -> Pause {
        let script = "fsfreeze --freeze \"$1\" && echo frozen && sleep \"$2\"; fsfreeze --unfreeze \"$1\"";
        let mut process = Command::new("sh")
            .args(["-c", script, "pause"])
            .arg(&self.mount_dir)
            .arg(length.as_secs_f32().to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start sh");
        let mut word = [0; 7];
        process.stdout.take().expect("it is piped").read_exact(&mut word).expect("the device is frozen");
        Pause(process)
    }

    /// After a shutdown: what is on the device, and nothing else. Its users must be gone.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn remount(&self) {
        run(Command::new("umount").arg(&self.mount_dir));
        // Another test on this machine may have a copy of all mounts for a moment (`shut_down_device`), this one among them;
        // until that is gone, the kernel refuses a second file system with the same UUID.
        let mut words = String::new();
        let mounted = poll(STARTUP, || self.try_mount().map_err(|error| words = error).ok());
        assert!(mounted.is_some(), "{words}");
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// A device that answers again when this is dropped; to be dropped before the device.
#[derive(Debug)]
pub struct Frozen(PathBuf);

impl Frozen {
    /// Where the device is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let thawed = tried(Command::new("fsfreeze").arg("--unfreeze").arg(&self.0));
        // A test that fails already keeps its own words.
        assert!(thawed.is_ok() || std::thread::panicking(), "{thawed:?}");
    }
}

/// A device that answers again by itself; dropping it waits for that.
#[derive(Debug)]
pub struct Pause(Child);

impl Drop for Pause {
    fn drop(&mut self) {
        let thawed = self.0.wait();
        assert!(thawed.as_ref().is_ok_and(ExitStatus::success) || std::thread::panicking(), "{thawed:?}");
    }
}

/// Runs a tool that must succeed.
fn run(command: &mut Command) {
    tried(command).unwrap_or_else(|words| panic!("{words}"));
}

/// Runs a tool; what it prints, or why it failed.
fn tried(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("run {command:?}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}
