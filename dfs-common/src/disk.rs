//! What is done to files that must survive a loss of power, done in one place, so that it can be watched.
//!
//! A forgotten fsync is seen by no test that only reads files back: the page cache has everything. So the calls that such files
//! are made with go through here ([`DiskFile`] and the functions beside it; `durable` is built of them), and a test may
//! [`watch`] a directory: it is told of every call below it, in order, and can work out what a loss of power at any moment
//! could have left. In a serving process nobody watches; a call then costs one load more.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{OFlags, fcntl_getfl};

/// A file, whatever its names are: its inode number.
pub type FileNumber = u64;

/// The line that a sync is called from: tests ask what would be lost without it.
pub type Site = &'static Location<'static>;

/// A call that has been carried out.
#[derive(Clone, Copy, Debug)]
pub enum Act<'a> {
    /// A file was opened for reading, or a directory listed.
    Read(&'a Path),
    /// A file was opened for writing, and made if it was not there; it has `length` bytes now.
    Open(&'a Path, FileNumber, u64),
    /// Bytes were written at an offset.
    Write(FileNumber, u64, &'a [u8]),
    /// A file was given another length.
    SetLength(FileNumber, u64),
    /// What was written to a file before is on its disk.
    SyncFile(FileNumber, Site),
    /// So many bytes of a file from an offset on are on its disk, and its length: a write with O_DSYNC.
    SyncRange(FileNumber, u64, u64, Site),
    /// A name was changed.
    Rename(&'a Path, &'a Path),
    /// A name, and all below it, is gone.
    Remove(&'a Path),
    /// A directory was made.
    MakeDir(&'a Path),
    /// The names in a directory, as they were changed before, are on its disk.
    SyncDir(&'a Path, Site),
}

/// Who is told of every act; called on the thread that did it.
pub type Witness = Arc<dyn Fn(Act<'_>) + Send + Sync>;

static WATCHED: AtomicUsize = AtomicUsize::new(0);
static WITNESSES: Mutex<Vec<(PathBuf, Witness)>> = Mutex::new(Vec::new());

/// Has `witness` told of every act below `root` until the guard is dropped. One at a time a directory.
pub fn watch(root: &Path, witness: Witness) -> Watch {
    WITNESSES.lock().unwrap_or_else(PoisonError::into_inner).push((root.to_owned(), witness));
    WATCHED.fetch_add(1, Ordering::Release);
    Watch(root.to_owned())
}

/// Ends the watch when it is dropped.
#[must_use]
pub struct Watch(PathBuf);

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED.fetch_sub(1, Ordering::Release);
        WITNESSES.lock().unwrap_or_else(PoisonError::into_inner).retain(|(root, _)| *root != self.0);
    }
}

fn witness_of(path: &Path) -> Option<Witness> {
    if WATCHED.load(Ordering::Acquire) == 0 {
        return None;
    }
    let witnesses = WITNESSES.lock().unwrap_or_else(PoisonError::into_inner);
    witnesses.iter().find(|(root, _)| path.starts_with(root)).map(|(_, witness)| witness.clone())
}

fn tell(path: &Path, act: Act<'_>) {
    if let Some(witness) = witness_of(path) {
        witness(act);
    }
}

/// Says that `path` is about to be read.
pub fn reads(path: &Path) {
    tell(path, Act::Read(path));
}

/// A file open for writing.
pub struct DiskFile {
    file: File,
    /// Who watches, by which number, and whether each write syncs what it wrote.
    watched: Option<(Witness, FileNumber, bool)>,
}

impl DiskFile {
    /// Makes a file, or empties one.
    ///
    /// # Errors
    /// Of open.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::open(path, OpenOptions::new().write(true).create(true).truncate(true))
    }

    /// Opens a file as `options` say.
    ///
    /// # Errors
    /// Of open.
    pub fn open(path: &Path, options: &OpenOptions) -> io::Result<Self> {
        let file = options.open(path)?;
        let watched = match witness_of(path) {
            None => None,
            Some(witness) => {
                let metadata = file.metadata()?;
                // rustix's own DSYNC is O_SYNC, which says more.
                let each_write_syncs = OFlags::from_bits_retain(libc::O_DSYNC.cast_unsigned());
                let syncs = fcntl_getfl(&file)?.contains(each_write_syncs);
                witness(Act::Open(path, metadata.ino(), metadata.len()));
                Some((witness, metadata.ino(), syncs))
            }
        };
        Ok(Self { file, watched })
    }

    /// The file itself, for what changes nothing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Of writing.
    #[track_caller]
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        self.wrote(bytes, offset);
        Ok(())
    }

    /// Gives the file another length.
    ///
    /// # Errors
    /// Of ftruncate.
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.did(|file| Act::SetLength(file, length));
        Ok(())
    }

    /// Brings data, length and everything needed to read them to the disk.
    ///
    /// # Errors
    /// Of fsync.
    #[track_caller]
    pub fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()?;
        let site = Location::caller();
        self.did(|file| Act::SyncFile(file, site));
        Ok(())
    }

    #[track_caller]
    fn wrote(&self, bytes: &[u8], offset: u64) {
        if let Some((witness, file, syncs)) = &self.watched {
            witness(Act::Write(*file, offset, bytes));
            if *syncs {
                witness(Act::SyncRange(*file, offset, bytes.len() as u64, Location::caller()));
            }
        }
    }

    fn did<'a>(&self, act: impl FnOnce(FileNumber) -> Act<'a>) {
        if let Some((witness, file, _)) = &self.watched {
            witness(act(*file));
        }
    }
}

impl Write for DiskFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        if self.watched.is_some() {
            let end = self.file.stream_position()?;
            self.wrote(&bytes[..written], end - written as u64);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Makes the names in `dir` durable.
///
/// # Errors
/// Of open or fsync.
#[track_caller]
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()?;
    tell(dir, Act::SyncDir(dir, Location::caller()));
    Ok(())
}

/// Makes the bytes of the file at `path` durable, whoever wrote them.
///
/// # Errors
/// Of open or fsync.
#[track_caller]
pub fn sync_file(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    if let Some(witness) = witness_of(path) {
        witness(Act::SyncFile(file.metadata()?.ino(), Location::caller()));
    }
    Ok(())
}

/// Changes a name; durable once the directory is synced.
///
/// # Errors
/// Of rename.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    tell(to, Act::Rename(from, to));
    Ok(())
}

/// Removes a file; durable once the directory is synced.
///
/// # Errors
/// Of unlink.
pub fn remove_file(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    tell(path, Act::Remove(path));
    Ok(())
}

/// Removes a directory and all in it; durable once its parent is synced.
///
/// # Errors
/// Of removing.
pub fn remove_dir_all(path: &Path) -> io::Result<()> {
    fs::remove_dir_all(path)?;
    tell(path, Act::Remove(path));
    Ok(())
}

/// Makes a directory; durable once its parent is synced.
///
/// # Errors
/// Of mkdir.
pub fn create_dir(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    tell(path, Act::MakeDir(path));
    Ok(())
}
