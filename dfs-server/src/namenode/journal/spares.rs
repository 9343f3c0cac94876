//! Segments made ahead. A log write is fast only into blocks that are allocated and written already (measured: 48 against
//! 115 us on ext4, 92 against 270 on XFS), so a thread of its own writes the zeros of the next segment while the current one
//! fills, and cuts the unused end off finished ones. An append never waits for it.
//!
//! A spare becomes a segment by its header and then its new name. That name is not synced while an append waits (on a busy
//! journaling file system that can take seconds): a spare that has a header *is* a segment, under either name, and the
//! thread syncs the directory before it makes the next spare.
//!
//! Sizes grow fourfold from 1 MiB to 64 MiB: a new NameNode starts at once and takes little room, a busy one rolls rarely.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use dfs_common::disk::{self, DiskFile};
use dfs_common::durable;
use tracing::warn;

use super::aligned::AlignedBuffer;

/// Size of the first segment of a log, and of one that must be made while an append waits.
pub(super) const SEGMENT_BYTES_MIN: u64 = 1024 * 1024;
/// Size of the segments of a busy log.
pub(super) const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
const SEGMENT_GROWTH: u64 = 4;
/// Zeros are written in pieces of this size, so that the log's own writes get in between.
const ZERO_PIECE_BYTES: usize = 512 * 1024;

/// Name of a segment made ahead.
pub(super) const SPARE_NAME: &str = "spare.tmp";
/// Name of a segment made while an append waits, because the spare was not ready.
pub(super) const HASTY_NAME: &str = "segment.tmp";

/// The size after `current`.
pub(super) fn next_segment_bytes(current: u64) -> u64 {
    current.saturating_mul(SEGMENT_GROWTH).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
}

/// A file full of zeros, to be renamed into a segment.
pub(super) struct Spare {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// Writes a file of `bytes` zeros; it and its name are durable.
///
/// # Errors
/// Of writing; nothing is left behind then.
pub(super) fn make_spare(directory: &Path, name: &str, bytes: u64, direct: bool) -> io::Result<Spare> {
    let path = directory.join(name);
    // A spare taken before under this name has another one now, and keeps it.
    durable::sync_dir(directory)?;
    let made = write_zeros(&path, bytes, direct).and_then(|()| durable::sync_dir(directory));
    if made.is_err() {
        // The error that matters is the first one.
        let _ = disk::remove_file(&path);
    }
    made.map(|()| Spare { path, bytes })
}

fn write_zeros(path: &Path, bytes: u64, direct: bool) -> io::Result<()> {
    let flags = if direct { libc::O_DIRECT } else { 0 };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(flags);
    let file = DiskFile::open(path, &options)?;
    let mut buffer = AlignedBuffer::default();
    let zeros = buffer.zeros(ZERO_PIECE_BYTES.min(usize::try_from(bytes).unwrap_or(ZERO_PIECE_BYTES)));
    let mut offset = 0;
    while offset < bytes {
        let piece = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(&zeros[..piece], offset)?;
        offset += piece as u64;
    }
    file.sync_all()
}

enum Job {
    Make(u64),
    Trim(PathBuf, u64),
}

/// The thread that makes spares.
pub(super) struct Spares {
    jobs: Option<mpsc::Sender<Job>>,
    ready: mpsc::Receiver<Option<Spare>>,
    /// A spare was asked for and not yet taken: at most one at a time exists.
    outstanding: bool,
    thread: Option<JoinHandle<()>>,
}

impl Spares {
    /// Starts the thread.
    ///
    /// # Errors
    /// Of starting it.
    pub(super) fn start(directory: &Path, direct: bool) -> io::Result<Self> {
        let (jobs, inbox) = mpsc::channel();
        let (outbox, ready) = mpsc::channel();
        let directory = directory.to_owned();
        let thread = thread::Builder::new().name("journal-spares".into()).spawn(move || {
            for job in inbox {
                match job {
                    Job::Make(bytes) => {
                        let spare = make_spare(&directory, SPARE_NAME, bytes, direct)
                            .inspect_err(|error| {
                                warn!(directory = %directory.display(), %error, "no room for a log segment ahead");
                            })
                            .ok();
                        if outbox.send(spare).is_err() {
                            return;
                        }
                    }
                    Job::Trim(path, length) => trim(&path, length),
                }
            }
        })?;
        Ok(Self { jobs: Some(jobs), ready, outstanding: false, thread: Some(thread) })
    }

    /// Asks for a spare, unless one is there or on its way.
    pub(super) fn request(&mut self, bytes: u64) {
        if self.outstanding {
            return;
        }
        self.outstanding = self.jobs.as_ref().is_some_and(|jobs| jobs.send(Job::Make(bytes)).is_ok());
    }

    /// The spare, if it is ready and large enough. Does not wait.
    pub(super) fn take(&mut self, needed: u64) -> Option<Spare> {
        let spare = self.ready.try_recv().ok()?;
        self.outstanding = false;
        match spare {
            Some(spare) if spare.bytes >= needed => Some(spare),
            Some(spare) => {
                // The file is overwritten by the next one made.
                drop(spare);
                None
            }
            None => None,
        }
    }

    /// Has the end of a finished segment cut off.
    pub(super) fn trim(&self, path: PathBuf, length: u64) {
        if let Some(jobs) = &self.jobs {
            // Without the thread the file keeps its zeros: harmless.
            let _ = jobs.send(Job::Trim(path, length));
        }
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by its hook; there is nothing to save.
            let _ = thread.join();
        }
    }
}

fn trim(path: &Path, length: u64) {
    let trimmed = DiskFile::open(path, OpenOptions::new().write(true)).and_then(|file| file.set_len(length));
    match trimmed {
        Ok(()) => {}
        // Purged in the meantime.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => warn!(segment = %path.display(), %error, "finished segment keeps its unused end"),
    }
}
