//! The edit log's files under one writer: recovery at open, appending, rolling, truncating, purging.
//!
//! One `append` of openraft is one frame, one write and one sync: into a preallocated segment opened with
//! O_DIRECT | O_DSYNC where the file system can, with O_DSYNC alone where it cannot (tmpfs). Nothing here is retried:
//! after a failed write or sync nobody knows what is on the disk, so the caller stops the process.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_common::disk::{self, DiskFile};
use dfs_common::durable;
use dfs_common::error::{DfsError, ErrorKind, Result};
use parking_lot::Mutex;
use tracing::{info, warn};

use super::aligned::AlignedBuffer;
use super::frame::{self, FrameHeader, Layout, PAYLOAD_BYTES_TARGET};
use super::log_index::{LogIndex, Scan, SegmentIndex, list_segments};
use super::raft_types::{DIGEST_BYTES, Entry, LogId, Vote};
use super::segment::{ALIGNMENT_MAX, ALIGNMENT_MIN, SEGMENT_HEADER_BYTES, SegmentHeader, Tail, segment_name};
use super::spares::{HASTY_NAME, SEGMENT_BYTES_MIN, SPARE_NAME, Spare, Spares, make_spare, next_segment_bytes};
use super::state_file;
use crate::namenode::storage_dir;

const VOTE: &str = "vote";
pub(super) const PURGED: &str = "purged";
const PROBE: &str = "probe.tmp";

/// How this directory's file system wants to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WriteMode {
    direct: bool,
    alignment: usize,
}

/// The writing end of the log; behind one lock in log_store.rs.
pub(super) struct LogFiles {
    directory: PathBuf,
    namespace_id: u32,
    mode: WriteMode,
    index: Arc<Mutex<LogIndex>>,
    current: Option<CurrentSegment>,
    spares: Spares,
    buffer: AlignedBuffer,
    purged: Option<LogId>,
}

struct CurrentSegment {
    file: DiskFile,
    path: PathBuf,
    header: SegmentHeader,
    offset: u64,
    capacity: u64,
}

impl LogFiles {
    /// Opens the log in `directory`: scans it, cuts a torn last frame, finishes what a crash interrupted. Writes nothing that a
    /// program of an older layout could not read; the first append does.
    ///
    /// # Errors
    /// `Corrupt` with file and offset for damage that is not a torn last frame, and with both names for two segments of which
    /// one does not belong here; `WrongCluster`; `Unsupported`; `Io`.
    pub(super) fn open(directory: &Path, namespace_id: u32) -> Result<Self> {
        let context = |error| DfsError::io(format!("open edit log {}", directory.display()), error);
        name_segments(directory, namespace_id)?;
        storage_dir::remove_temporary_files(directory)?;
        let mode = probe(directory).map_err(context)?;
        let purged: Option<LogId> = state_file::load(&directory.join(PURGED))?;
        let first_needed = purged.map_or(0, |log_id| log_id.index + 1);
        let Scan { mut log, tail, purged: parted } = LogIndex::scan(directory, namespace_id, first_needed)?;
        if log.next_index < first_needed {
            return Err(ends_too_early(directory, log.next_index, first_needed));
        }
        // Finishes a purge that a crash cut short.
        parted.iter().try_for_each(|path| remove_purged(path))?;
        if let Some(purged) = purged {
            remove_all(&take_through(&mut log, purged.index))?;
        }
        let current = match (log.segments.last(), tail) {
            (Some(segment), Some(tail)) => Some(CurrentSegment::reopen(segment, tail, mode)?),
            _ => None,
        };
        let spares = Spares::start(directory, mode.direct).map_err(context)?;
        info!(
            directory = %directory.display(),
            segments = log.segments.len(),
            next_index = log.next_index,
            direct = mode.direct,
            alignment = mode.alignment,
            "edit log opened"
        );
        let mut files = Self {
            directory: directory.to_owned(),
            namespace_id,
            mode,
            index: Arc::new(Mutex::new(log)),
            current,
            spares,
            buffer: AlignedBuffer::default(),
            purged,
        };
        files.request_spare();
        Ok(files)
    }

    /// Where the entries are, for readers.
    pub(super) fn index(&self) -> Arc<Mutex<LogIndex>> {
        self.index.clone()
    }

    /// The last entry thrown away.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// The last entry in the files, or the last purged one.
    ///
    /// # Errors
    /// Of reading it.
    pub(super) fn last_log_id(&self) -> Result<Option<LogId>> {
        let log = self.index.lock().clone();
        let first = self.purged.map_or(0, |log_id| log_id.index + 1);
        if log.next_index <= first {
            return Ok(self.purged);
        }
        Ok(log.entries(log.next_index - 1, log.next_index).next_entry()?.map(|entry| entry.log_id))
    }

    /// The vote stored last.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(super) fn vote(&self) -> Result<Option<Vote>> {
        state_file::load(&self.directory.join(VOTE))
    }

    /// Stores a vote, durably.
    ///
    /// # Errors
    /// Of writing.
    pub(super) fn save_vote(&mut self, vote: &Vote) -> Result<()> {
        state_file::store(&self.directory.join(VOTE), vote)
    }

    /// Appends entries, durable when it returns.
    ///
    /// # Errors
    /// Of writing: the log is in an unknown state then and the process must stop.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<()> {
        let mut rest = entries;
        while !rest.is_empty() {
            let mut count = 0;
            let mut bytes = 0;
            while count < rest.len() && (count == 0 || bytes < PAYLOAD_BYTES_TARGET) {
                bytes += frame::entry_bytes_bound(&rest[count]);
                count += 1;
            }
            let (frame, later) = rest.split_at(count);
            self.append_frame(frame[0].log_id.index, frame, bytes)?;
            rest = later;
        }
        Ok(())
    }

    /// Lets the log end before the entry `since`.
    ///
    /// # Errors
    /// Of writing.
    pub(super) fn truncate(&mut self, since: u64) -> Result<()> {
        if since >= self.index.lock().next_index {
            return Ok(());
        }
        self.append_frame(since, &[], 0)
    }

    /// Throws away entries up to `upto`, which is in the log, as far as whole segments hold nothing else.
    ///
    /// # Errors
    /// `Internal` beyond the end of the log; of writing and deleting.
    pub(super) fn purge(&mut self, upto: LogId) -> Result<()> {
        if self.purged.is_some_and(|purged| purged >= upto) {
            return Ok(());
        }
        let end = self.index.lock().next_index;
        if upto.index >= end {
            let why = format!("purge up to entry {} of an edit log that ends before {end}", upto.index);
            return Err(DfsError::new(ErrorKind::Internal, why));
        }
        state_file::store(&self.directory.join(PURGED), &upto)?;
        self.purged = Some(upto);
        // Whoever asks for the segments meanwhile does not wait for the disk.
        let gone = take_through(&mut self.index.lock(), upto.index);
        remove_all(&gone)
    }

    /// Finishes the current segment, so that everything written so far is in files that change no more.
    ///
    /// # Errors
    /// Of writing.
    pub(super) fn roll_if_used(&mut self) -> Result<()> {
        let used = self.current.as_ref().is_none_or(|current| current.offset > SEGMENT_HEADER_BYTES as u64);
        if used { self.roll(0) } else { Ok(()) }
    }

    /// Lets every later write fail, as a full or broken device would.
    #[cfg(test)]
    pub(super) fn break_device(&mut self) {
        let current = self.current.as_mut().expect("an open log has a current segment");
        let full = DiskFile::open(Path::new("/dev/full"), OpenOptions::new().write(true));
        current.file = full.expect("Linux has /dev/full");
    }

    fn append_frame(&mut self, first_index: u64, entries: &[Entry], payload_bound: usize) -> Result<()> {
        let alignment = self.current.as_ref().map_or(self.mode.alignment, |current| current.header.alignment);
        let needed = Layout::Marked.frame_bytes(payload_bound, alignment) as u64;
        let full = self.current.as_ref().is_none_or(|current| {
            // A segment of an older version takes no more frames.
            current.header.layout != Layout::Marked || current.offset + needed > current.capacity
        });
        if full {
            self.roll(Layout::Marked.frame_bytes(payload_bound, self.mode.alignment) as u64)?;
        }
        let sequence = self.index.lock().next_sequence;
        let current = self.current.as_mut().expect("roll leaves a current segment");
        let SegmentHeader { alignment, salt, .. } = current.header;
        let capacity = Layout::Marked.frame_bytes(payload_bound, alignment);
        let bytes = self
            .buffer
            .fill(capacity, |into| frame::encode_frame(sequence, first_index, entries, salt, alignment, into))?;
        current.write(bytes)?;
        let frame_bytes = bytes.len() as u64;
        let header = FrameHeader {
            sequence,
            first_index,
            payload_bytes: 0,
            entries: u32::try_from(entries.len()).expect("bounded by PAYLOAD_BYTES_TARGET"),
        };
        self.index.lock().add_frame(&header, frame_bytes);
        Ok(())
    }

    /// Begins a new segment with room for a frame of `needed` bytes.
    fn roll(&mut self, needed: u64) -> Result<()> {
        self.remove_if_empty()?;
        let needed = needed.max(ALIGNMENT_MAX as u64) + SEGMENT_HEADER_BYTES as u64;
        let spare = match self.spares.take(needed) {
            Some(spare) => spare,
            None => {
                let bytes = needed.next_multiple_of(ALIGNMENT_MAX as u64).max(SEGMENT_BYTES_MIN);
                make_spare(&self.directory, HASTY_NAME, bytes, self.mode.direct).map_err(|error| {
                    DfsError::io(format!("make a log segment in {}", self.directory.display()), error)
                })?
            }
        };
        let (first_index, first_sequence) = {
            let log = self.index.lock();
            (log.next_index, log.next_sequence)
        };
        let header = SegmentHeader {
            layout: Layout::Marked,
            alignment: self.mode.alignment,
            namespace_id: self.namespace_id,
            salt: rand::random(),
            first_index,
            first_sequence,
        };
        let next = self.begin_segment(&spare, header)?;
        self.index.lock().add_segment(SegmentIndex::new(next.path.clone(), header));
        if let Some(finished) = self.current.replace(next) {
            self.spares.trim(finished.path, finished.offset);
        }
        self.request_spare();
        Ok(())
    }

    /// Takes a current segment without frames away before another one begins where it begins. A start that finds both, because power
    /// was lost, goes on with the one that has frames.
    fn remove_if_empty(&mut self) -> Result<()> {
        let is_empty = |current: &mut CurrentSegment| current.offset == SEGMENT_HEADER_BYTES as u64;
        let Some(empty) = self.current.take_if(is_empty) else { return Ok(()) };
        disk::remove_file(&empty.path)
            .map_err(|error| DfsError::io(format!("remove empty log segment {}", empty.path.display()), error))?;
        self.index.lock().remove_last_segment();
        Ok(())
    }

    /// Makes the spare a segment: header first, name last, so that whatever has a segment's name has its header.
    fn begin_segment(&mut self, spare: &Spare, header: SegmentHeader) -> Result<CurrentSegment> {
        let path = segment_path(&self.directory, &header);
        let context = |error| DfsError::io(format!("begin log segment {}", path.display()), error);
        let file = open_for_log(&spare.path, self.mode.direct).map_err(context)?;
        let page: &[u8] = self.buffer.fill(SEGMENT_HEADER_BYTES, |into| {
            header.encode(into);
            Ok::<(), DfsError>(())
        })?;
        file.write_all_at(page, 0).map_err(context)?;
        // The header made it a segment; see `spares` for why the name need not be synced here.
        disk::rename(&spare.path, &path).map_err(context)?;
        Ok(CurrentSegment { file, path, header, offset: SEGMENT_HEADER_BYTES as u64, capacity: spare.bytes })
    }

    fn request_spare(&mut self) {
        let current = self.current.as_ref().map_or(0, |current| current.capacity);
        self.spares.request(next_segment_bytes(current));
    }
}

impl CurrentSegment {
    /// Opens the last segment for more frames; a torn one after the last good one is cut.
    fn reopen(segment: &SegmentIndex, tail: Tail, mode: WriteMode) -> Result<Self> {
        let context = |error| DfsError::io(format!("reopen log segment {}", segment.path.display()), error);
        let alignment = segment.header.alignment;
        if tail.end_of_data > tail.offset {
            warn!(
                segment = %segment.path.display(),
                offset = tail.offset,
                bytes = tail.end_of_data - tail.offset,
                "cut a frame that was being written when the NameNode stopped; it was never acknowledged"
            );
            let file = DiskFile::open(&segment.path, OpenOptions::new().write(true)).map_err(context)?;
            zero_range(&file, tail.offset, tail.end_of_data).map_err(context)?;
        }
        // The directory may have moved to another device since the segment was made.
        let direct = mode.direct && alignment.is_multiple_of(mode.alignment);
        let file = open_for_log(&segment.path, direct).map_err(context)?;
        let length = file.file().metadata().map_err(context)?.len();
        Ok(Self {
            file,
            path: segment.path.clone(),
            header: segment.header,
            offset: tail.offset,
            capacity: length - length % alignment as u64,
        })
    }

    fn write(&mut self, frame: &[u8]) -> Result<()> {
        self.file
            .write_all_at(frame, self.offset)
            .map_err(|error| DfsError::io(format!("write edit log {}", self.path.display()), error))?;
        self.offset += frame.len() as u64;
        Ok(())
    }
}

/// A name that is free: a truncation may have made the same index first in two segments.
fn segment_path(directory: &Path, header: &SegmentHeader) -> PathBuf {
    let path = directory.join(segment_name(header.first_index));
    if !path.exists() {
        return path;
    }
    directory.join(format!("{}_{}", segment_name(header.first_index), header.first_sequence))
}

/// Gives segments whose renaming a crash undid their names again.
fn name_segments(directory: &Path, namespace_id: u32) -> Result<()> {
    for (path, header) in list_segments(directory, namespace_id)? {
        if [SPARE_NAME, HASTY_NAME].iter().any(|name| path.ends_with(name)) {
            let named = segment_path(directory, &header);
            durable::rename(&path, &named)
                .map_err(|error| DfsError::io(format!("name log segment {}", named.display()), error))?;
        }
    }
    Ok(())
}

fn open_for_log(path: &Path, direct: bool) -> io::Result<DiskFile> {
    let flags = libc::O_DSYNC | if direct { libc::O_DIRECT } else { 0 };
    DiskFile::open(path, OpenOptions::new().write(true).custom_flags(flags))
}

fn zero_range(file: &DiskFile, start: u64, end: u64) -> io::Result<()> {
    let zeros = vec![0; 64 * 1024];
    let mut offset = start;
    while offset < end {
        let piece = usize::try_from(end - offset).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(&zeros[..piece], offset)?;
        offset += piece as u64;
    }
    file.sync_all()
}

/// Forgets the segments that hold only entries up to `upto`, whose files are to be removed. The log must have been read: what
/// follows them begins where they end.
fn take_through(log: &mut LogIndex, upto: u64) -> Vec<SegmentIndex> {
    let count = log.segments_through(upto);
    log.segments.drain(..count).collect()
}

fn remove_all(segments: &[SegmentIndex]) -> Result<()> {
    segments.iter().try_for_each(|segment| remove_purged(&segment.path))
}

fn remove_purged(path: &Path) -> Result<()> {
    disk::remove_file(path).map_err(|error| DfsError::io(format!("purge {}", path.display()), error))?;
    info!(segment = %path.display(), "purged");
    Ok(())
}

/// A purge leaves the end of the log: these segments are older than what was purged last.
fn ends_too_early(directory: &Path, end: u64, first_needed: u64) -> DfsError {
    DfsError::new(
        ErrorKind::Corrupt,
        format!(
            "the edit log in {} ends before entry {end}, and entries up to {} were purged before: its segments are of an older \
             copy; nothing is removed: bring back the newer ones, or move the directory away and import the \
             SecondaryNameNode's: dfs-server import-checkpoint",
            directory.display(),
            first_needed - 1
        ),
    )
}

/// Finds out how `directory` can be written. Direct writes must be of whole sectors; frames take whole *physical* sectors
/// even where the device would take less, because a power failure while it rewrites one would reach into the frame before.
fn probe(directory: &Path) -> io::Result<WriteMode> {
    let physical = physical_sector_bytes(directory).unwrap_or(ALIGNMENT_MIN);
    let path = directory.join(PROBE);
    let result = probe_file(&path, physical);
    // Its name says that it may go; the next start removes it otherwise.
    let _ = fs::remove_file(&path);
    result
}

fn probe_file(path: &Path, physical: usize) -> io::Result<WriteMode> {
    fs::write(path, [0; 2 * ALIGNMENT_MAX])?;
    let refused = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
            || error.raw_os_error() == Some(libc::EOPNOTSUPP)
    };
    let file = match open_for_log(path, true) {
        Ok(file) => file,
        Err(error) if refused(&error) => return Ok(WriteMode { direct: false, alignment: physical }),
        Err(error) => return Err(error),
    };
    let mut buffer = AlignedBuffer::default();
    let mut alignment = physical;
    while alignment <= ALIGNMENT_MAX {
        match file.file().write_all_at(buffer.zeros(alignment), alignment as u64) {
            Ok(()) => return Ok(WriteMode { direct: true, alignment }),
            Err(error) if refused(&error) => alignment *= 2,
            Err(error) => return Err(error),
        }
    }
    Ok(WriteMode { direct: false, alignment: physical })
}

/// Physical sector size of the device under `path`; `None` where the kernel does not say (no block device).
fn physical_sector_bytes(path: &Path) -> Option<usize> {
    let device = fs::metadata(path).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let device = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    // A partition has no queue of its own; its disk's is one directory up.
    let text = ["queue/physical_block_size", "../queue/physical_block_size"]
        .iter()
        .find_map(|name| fs::read_to_string(device.join(name)).ok())?;
    let bytes: usize = text.trim().parse().ok()?;
    let known = bytes.is_power_of_two() && (ALIGNMENT_MIN..=ALIGNMENT_MAX).contains(&bytes);
    known.then_some(bytes)
}

/// What an entry of one operation takes beside the operation: its own fields, and the digest in its batch.
const ENTRY_OVERHEAD_MAX: usize = frame::ENTRY_OVERHEAD_BYTES + DIGEST_BYTES;

/// Refuses an operation that could not be written, before anybody is told that it was taken.
///
/// # Errors
/// `InvalidArgument` above the limit.
pub(super) fn check_entry_bytes(bytes: usize) -> Result<()> {
    if bytes + ENTRY_OVERHEAD_MAX <= frame::PAYLOAD_BYTES_MAX {
        return Ok(());
    }
    Err(DfsError::new(
        ErrorKind::InvalidArgument,
        format!("a change of {bytes} bytes; the limit is {}", frame::PAYLOAD_BYTES_MAX - ENTRY_OVERHEAD_MAX),
    ))
}
