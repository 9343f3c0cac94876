//! The files of replicas as the store uses them: the one place where it reads, writes, syncs, moves and removes them.
//!
//! Two things are gained by that. Tests put a record behind it (`watch`) that knows what a loss of power would leave after
//! every step, and that lets any of the calls fail or hang. And what the page cache says is told apart from what the device
//! says: after an fsync that failed, Linux takes the pages that it could not write for clean, so a later fsync on another
//! descriptor succeeds, and a read shows bytes that are on no disk. [`DiskFile::open_device`] reads past the page cache.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use dfs_common::{durable, sys};
use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;

use super::faults::is_shortage;

#[cfg(test)]
pub(crate) mod watch;

/// What memory, places and lengths of reads that go past the page cache are multiples of: no disk has larger sectors.
const DEVICE_BLOCK: usize = 4096;

/// An open file.
#[derive(Debug)]
pub(crate) struct DiskFile {
    file: File,
    /// Opened to be read past the page cache, in whole blocks.
    is_direct: bool,
    #[cfg(test)]
    watched: watch::WatchedFile,
}

impl DiskFile {
    /// A new file; what was at `path` is gone.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).clone();
        let opened = Self::open_with(&options, path, false)?;
        #[cfg(test)]
        opened.watched.on_create(&opened.file, path);
        Ok(opened)
    }

    /// An existing file, for reading.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::open_with(OpenOptions::new().read(true), path, false)
    }

    /// An existing file, for reading and writing.
    pub(super) fn open_writable(path: &Path) -> io::Result<Self> {
        Self::open_with(OpenOptions::new().read(true).write(true), path, false)
    }

    /// An existing file, to be read as the device has it. What was written and not synced goes to the device first; whoever
    /// must know that it got there syncs before.
    pub(super) fn open_device(path: &Path) -> io::Result<Self> {
        let direct = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
        let file = match Self::open_with(OpenOptions::new().read(true).custom_flags(direct), path, true) {
            // A file system that cannot do it.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
                let mut file = Self::open(path)?;
                file.take_for_device();
                file
            }
            opened => opened?,
        };
        // Some file systems take the flag and read through the page cache all the same.
        file.forget_cached(0);
        Ok(file)
    }

    fn open_with(options: &OpenOptions, path: &Path, is_direct: bool) -> io::Result<Self> {
        #[cfg(test)]
        watch::before(watch::Call::Open, path)?;
        let file = options.open(path)?;
        #[cfg(test)]
        let watched = watch::WatchedFile::new(&file, path, is_direct);
        Ok(Self {
            file,
            is_direct,
            #[cfg(test)]
            watched,
        })
    }

    #[cfg(not(test))]
    fn take_for_device(&mut self) {}

    #[cfg(test)]
    fn take_for_device(&mut self) {
        self.watched.take_for_device();
    }

    /// Fills `out` with the bytes from `offset` on.
    pub(super) fn read_exact_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some(outcome) = self.watched.read(&self.file, out, offset) {
            return outcome;
        }
        if self.is_direct { self.read_blocks(out, offset) } else { self.file.read_exact_at(out, offset) }
    }

    /// Reads the whole blocks around the bytes wanted.
    fn read_blocks(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let before = (offset % DEVICE_BLOCK as u64) as usize;
        let start = offset - before as u64;
        let wanted = before + out.len();
        let mut memory = vec![0; wanted.next_multiple_of(DEVICE_BLOCK) + DEVICE_BLOCK];
        let aligned = memory.as_ptr().align_offset(DEVICE_BLOCK).min(DEVICE_BLOCK);
        let blocks = &mut memory[aligned..][..wanted.next_multiple_of(DEVICE_BLOCK)];
        let (mut filled, mut is_refused) = (0, false);
        while filled < wanted {
            match self.file.read_at(&mut blocks[filled..], start + filled as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if Errno::from_io_error(&error) != Some(Errno::INVAL) || is_refused => return Err(error),
                // Behind the end, where no block begins.
                Err(_) if filled % DEVICE_BLOCK != 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                // A file system that cannot do it after all, or wants larger blocks.
                Err(_) => {
                    rustix::fs::fcntl_setfl(&self.file, OFlags::empty())?;
                    self.forget_cached(0);
                    is_refused = true;
                }
            }
        }
        out.copy_from_slice(&blocks[before..wanted]);
        Ok(())
    }

    /// Writes all of `bytes` at `offset`.
    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        let outcome = self.watched.before_write()?;
        self.file.write_all_at(bytes, offset)?;
        #[cfg(test)]
        self.watched.on_write(&self.file, watch::Change::Bytes(offset, bytes.to_vec()));
        #[cfg(test)]
        outcome?;
        Ok(())
    }

    /// Cuts or extends it.
    pub(super) fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        #[cfg(test)]
        self.watched.on_write(&self.file, watch::Change::Length(length));
        Ok(())
    }

    /// Its length and the number of its names.
    pub(super) fn stat(&self) -> io::Result<(u64, u64)> {
        let stat = self.file.metadata()?;
        Ok((stat.len(), stat.nlink()))
    }

    /// Its length, bytes.
    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Makes its bytes survive a loss of power. A failure is told once: the caller must not believe a second try. It is never
    /// one that `is_shortage` forgives.
    #[cfg_attr(test, track_caller)]
    pub(super) fn sync_data(&self) -> io::Result<()> {
        #[cfg(test)]
        if !self.watched.before_sync(&self.file, std::panic::Location::caller()).map_err(not_written)? {
            return Ok(());
        }
        self.file.sync_data().map_err(not_written)?;
        #[cfg(test)]
        self.watched.on_sync(&self.file);
        Ok(())
    }

    /// Has the kernel begin to write what is dirty from `offset` on, `length` bytes of it (0: all).
    pub(super) fn start_writeback(&self, offset: u64, length: u64) {
        // Whoever needs the bytes on disk syncs, and gets the error then.
        let _ = sys::start_writeback(&self.file, offset, length);
    }

    /// Has the kernel read all of it soon.
    pub(super) fn read_ahead(&self) {
        self.advise(0, Advice::WillNeed);
    }

    /// Has the page cache forget its first `length` bytes (0: all), but for what is not on disk yet.
    pub(super) fn forget_cached(&self, length: u64) {
        self.advise(length, Advice::DontNeed);
    }

    fn advise(&self, length: u64, advice: Advice) {
        // Advice only: a failure costs speed or memory, and the calls themselves tell of real ones.
        let _ = rustix::fs::fadvise(&self.file, 0, NonZeroU64::new(length), advice);
    }

    /// The first `length` bytes in a new file at `path`, which shares its extents where the file system can.
    pub(super) fn clone_or_copy(&self, path: &Path, length: u64) -> io::Result<Self> {
        let target = Self::create(path)?;
        if rustix::fs::ioctl_ficlone(&target.file, &self.file).is_ok() {
            target.file.set_len(length)?;
        } else {
            io::copy(&mut io::Read::take(&self.file, length), &mut &target.file)?;
        }
        #[cfg(test)]
        target.watched.on_write(&target.file, watch::Change::Bytes(0, fs::read(path)?));
        Ok(target)
    }
}

impl AsFd for DiskFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What a sync says of a shortage is why some earlier write did not reach the device: those bytes are lost. Other calls that
/// meet a shortage have done nothing, and may be tried again.
fn not_written(error: io::Error) -> io::Error {
    if is_shortage(&error) { io::Error::other(error) } else { error }
}

/// Gives a file another name.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(test)]
    watch::before(watch::Call::Rename, from)?;
    fs::rename(from, to)?;
    #[cfg(test)]
    watch::on_rename(from, to);
    Ok(())
}

/// Removes a file.
pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    watch::before(watch::Call::Remove, path)?;
    fs::remove_file(path)?;
    #[cfg(test)]
    watch::on_remove(path);
    Ok(())
}

/// Removes a file, unless it is gone already.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Makes the names in a directory survive a loss of power. A file system that cannot write its log stops for good, so that
/// unlike with the bytes of a file a second try is to be believed. That is not so of file systems without a log, like ext2.
#[cfg_attr(test, track_caller)]
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    #[cfg(test)]
    if !watch::before_sync_dir(dir, std::panic::Location::caller())? {
        return Ok(());
    }
    durable::sync_dir(dir)?;
    #[cfg(test)]
    watch::on_sync_dir(dir);
    Ok(())
}

/// Makes a directory and those above it, durably.
pub(super) fn create_dir_all(dir: &Path) -> io::Result<()> {
    #[cfg(test)]
    if !dir.is_dir() {
        watch::before(watch::Call::CreateDir, dir)?;
    }
    durable::create_dir_all(dir)?;
    #[cfg(test)]
    watch::on_create_dir(dir);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_device_leaves_nothing_in_the_page_cache_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, vec![7; 8192]).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        let is_cached = || {
            let mut byte = [0];
            let read = rustix::io::preadv2(
                &file,
                &mut [io::IoSliceMut::new(&mut byte)],
                0,
                rustix::io::ReadWriteFlags::NOWAIT,
            );
            read != Err(Errno::AGAIN)
        };
        // Where nothing but the page cache holds the file, as in tmpfs, it stays.
        assert!(is_cached());
        file.sync_data().unwrap();
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        let can_forget = !is_cached();
        assert_eq!(fs::read(&path).unwrap(), vec![7; 8192]);
        assert!(is_cached());
        DiskFile::open_device(&path).unwrap();
        assert!(!can_forget || !is_cached());
    }

    #[test]
    fn reads_past_the_page_cache_take_any_place_and_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..10_000u32).map(|index| (index * 7 % 251) as u8).collect();
        fs::write(&path, &content).unwrap();
        let file = DiskFile::open_device(&path).unwrap();
        for (offset, length) in [(0, 10_000), (7, 4), (4095, 2), (4096, 4096), (9_999, 1), (10_000, 0), (8192, 1808)] {
            let mut out = vec![0; length];
            file.read_exact_at(&mut out, offset as u64).unwrap();
            assert_eq!(out, content[offset..offset + length], "{length} bytes at {offset}");
        }
        for (offset, length) in [(0, 10_001), (9_999, 2), (10_000, 1), (12_288, 1), (20_000, 5)] {
            let error = file.read_exact_at(&mut vec![0; length], offset).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length} bytes at {offset}");
        }
    }
}
