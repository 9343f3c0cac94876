//! A disk that fails as told: a file behind a FUSE mount of this process, to put a loop device on.
//!
//! What a file system above asks of its disk arrives here as reads and writes, and can be refused, kept waiting or made slow,
//! while the rest goes on. A real device does all that; a file system that is shut down or frozen does not: it fails all calls, or
//! only those that write.

use std::ffi::{CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use dfs_common::units::ByteCount;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, Session,
    SessionACL, WriteFlags,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// The one file.
const NAME: &str = "disk";
const DISK: INodeNo = INodeNo(2);
/// For how long the kernel may remember what never changes.
const TTL: Duration = Duration::from_secs(3600);
/// Requests that are slow at the same time.
const THREADS: usize = 4;
/// What each takes on a slow disk: the seeks of a disk that tries again and again.
const SLOW: Duration = Duration::from_millis(100);

/// How the disk behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// As a disk should.
    Good,
    /// Every read is EIO.
    ReadsFail,
    /// No read is answered.
    ReadsHang,
    /// Everything takes long.
    Slow,
}

/// A disk; gone when this is dropped.
#[derive(Debug)]
pub struct FaultyDisk {
    /// `None` while it is dropped.
    session: Option<BackgroundSession>,
    mount_dir: PathBuf,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    image: File,
    size: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    behaviour: Behaviour,
    /// Reads that wait: offset, length, and where the answer goes.
    waiting: Vec<(u64, u32, ReplyData)>,
}

impl FaultyDisk {
    /// A disk of zeros, mounted at `mount_dir`, which is made.
    ///
    /// # Panics
    /// When that fails.
    pub fn create(mount_dir: &Path, size: ByteCount) -> Self {
        let image_path = mount_dir.with_extension("disk");
        let image = OpenOptions::new().read(true).write(true).create_new(true).open(image_path);
        let image = image.expect("make image file");
        image.set_len(size.0).expect("make image file");
        std::fs::create_dir_all(mount_dir).expect("make mount point");
        let inner = Mutex::new(Inner { behaviour: Behaviour::Good, waiting: Vec::new() });
        let state = Arc::new(State { image, size: size.0, inner });
        let session = start(mount_dir, Disk(Arc::clone(&state))).expect("mount a disk");
        Self { session: Some(session), mount_dir: mount_dir.to_owned(), state }
    }

    /// What a loop device is put on.
    pub fn file(&self) -> PathBuf {
        self.mount_dir.join(NAME)
    }

    /// Makes it behave like this from now on. Reads that hang are answered when they no longer do.
    pub fn behave(&self, behaviour: Behaviour) {
        let waiting = {
            let mut inner = self.state.inner.lock().expect("no holder panics");
            inner.behaviour = behaviour;
            if behaviour == Behaviour::ReadsHang { Vec::new() } else { std::mem::take(&mut inner.waiting) }
        };
        for (offset, size, reply) in waiting {
            self.state.answer(offset, size, reply);
        }
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        self.behave(Behaviour::Good);
        // Whoever still uses it gets errors.
        let _ = unmount(&self.mount_dir, UnmountFlags::DETACH);
        drop(self.session.take());
    }
}

/// By hand, because root needs no fusermount3, which is not everywhere.
fn start(mount_dir: &Path, disk: Disk) -> io::Result<BackgroundSession> {
    let device: OwnedFd = OpenOptions::new().read(true).write(true).open("/dev/fuse")?.into();
    let data = CString::new(format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd()))?;
    mount("faulty-disk", mount_dir, "fuse", MountFlags::empty(), data.as_c_str())?;
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    Session::from_fd(disk, device, SessionACL::All, config)?.spawn()
}

impl State {
    fn read(&self, offset: u64, size: u32) -> io::Result<Vec<u8>> {
        let mut data = vec![0; u64::from(size).min(self.size.saturating_sub(offset)) as usize];
        self.image.read_exact_at(&mut data, offset)?;
        Ok(data)
    }

    fn answer(&self, offset: u64, size: u32, reply: ReplyData) {
        match self.read(offset, size) {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error.into()),
        }
    }

    fn behaviour(&self) -> Behaviour {
        self.inner.lock().expect("no holder panics").behaviour
    }
}

struct Disk(Arc<State>);

impl Disk {
    fn attr(&self, inode: INodeNo) -> FileAttr {
        let is_disk = inode == DISK;
        let size = if is_disk { self.0.size } else { 0 };
        FileAttr {
            ino: inode,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_disk { FileType::RegularFile } else { FileType::Directory },
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&TTL, &self.attr(DISK), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Nothing is kept in memory between the loop device and us.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut inner = self.0.inner.lock().expect("no holder panics");
        match inner.behaviour {
            Behaviour::ReadsHang => return inner.waiting.push((offset, size, reply)),
            Behaviour::ReadsFail => return reply.error(Errno::EIO),
            Behaviour::Good | Behaviour::Slow => {}
        }
        drop(inner);
        if self.0.behaviour() == Behaviour::Slow {
            std::thread::sleep(SLOW);
        }
        self.0.answer(offset, size, reply);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.0.behaviour() == Behaviour::Slow {
            std::thread::sleep(SLOW);
        }
        match self.0.image.write_all_at(data, offset) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // The image is as durable as a test needs: it ends with this process.
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_fails_as_told() {
        crate::process::require_root();
        let dir = crate::cluster::test_dir();
        let disk = FaultyDisk::create(&dir.path().join("mount"), ByteCount(1 << 20));
        let file = OpenOptions::new().read(true).write(true).open(disk.file()).unwrap();
        file.write_all_at(b"content", 4096).unwrap();
        let read = || {
            let mut bytes = [0; 7];
            file.read_exact_at(&mut bytes, 4096).map(|()| bytes)
        };
        assert_eq!(&read().unwrap(), b"content");
        disk.behave(Behaviour::ReadsFail);
        assert_eq!(read().unwrap_err().raw_os_error(), Some(libc::EIO));
        file.write_all_at(b"changed", 4096).expect("only reads fail");
        disk.behave(Behaviour::ReadsHang);
        std::thread::scope(|scope| {
            let reading = scope.spawn(read);
            crate::wait::wait_until(crate::wait::STARTUP, "a read that waits", || {
                !disk.state.inner.lock().unwrap().waiting.is_empty()
            });
            assert!(!reading.is_finished());
            disk.behave(Behaviour::Good);
            assert_eq!(&reading.join().unwrap().unwrap(), b"changed");
        });
    }
}
