//! Where in which segment each entry is. Built by scanning the files at start (which is also when damage is found), kept up
//! to date by the writer, copied by whoever reads: readers and writer share no lock while reading.
//!
//! The index is sparse (a point every 64 KiB), so that a log of millions of entries costs kilobytes.

use std::path::{Path, PathBuf};

use dfs_common::error::{DfsError, ErrorKind, Result};

use super::frame::FrameHeader;
use super::raft_types::Entry;
use super::segment::{Next, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentReader, Tail, holds_frames, is_segment_name};
use super::spares::{HASTY_NAME, SPARE_NAME};

/// Distance of the points of the index: what a reader may have to read in vain.
const POINT_BYTES: u64 = 64 * 1024;

#[derive(Clone, Copy, Debug)]
struct Point {
    first_index: u64,
    sequence: u64,
    offset: u64,
}

/// A segment and the points in it.
#[derive(Clone, Debug)]
pub(super) struct SegmentIndex {
    /// Its file.
    pub path: PathBuf,
    /// Its header.
    pub header: SegmentHeader,
    /// End of its last frame.
    pub end: u64,
    points: Vec<Point>,
}

impl SegmentIndex {
    /// A segment without frames.
    pub(super) fn new(path: PathBuf, header: SegmentHeader) -> Self {
        Self { path, header, end: SEGMENT_HEADER_BYTES as u64, points: Vec::new() }
    }
}

/// From `sequence` on, entries at or above `since` written before are no more.
#[derive(Clone, Copy, Debug)]
struct Truncation {
    sequence: u64,
    since: u64,
}

/// What the files of a log hold.
pub(super) struct Scan {
    /// The log.
    pub log: LogIndex,
    /// What stands behind the last frame of the last segment; none without segments.
    pub tail: Option<Tail>,
    /// Segments before the log, parted from it by others that are gone: a purge was cut short. Each was read, and nothing in it
    /// is needed.
    pub purged: Vec<PathBuf>,
}

/// The whole log.
#[derive(Clone, Debug)]
pub(super) struct LogIndex {
    /// By first sequence.
    pub segments: Vec<SegmentIndex>,
    /// Of a follower whose log gave way to its leader's; empty in a group of one.
    truncations: Vec<Truncation>,
    /// Index of the entry that comes next.
    pub next_index: u64,
    /// Sequence of the frame that comes next.
    pub next_sequence: u64,
}

impl LogIndex {
    /// A log that begins with the entry `first_index`.
    pub(super) fn new(first_index: u64) -> Self {
        Self { segments: Vec::new(), truncations: Vec::new(), next_index: first_index, next_sequence: 1 }
    }

    /// A log that begins with this segment.
    fn beginning_at(header: &SegmentHeader) -> Self {
        Self { next_sequence: header.first_sequence, ..Self::new(header.first_index) }
    }

    /// Reads every frame of the segments in `directory`. Entries below `first_needed` may be missing.
    ///
    /// # Errors
    /// `Corrupt` with file and offset; `WrongCluster` for another namespace's segment; `Unsupported` for a newer version's; `Io`.
    pub(super) fn scan(directory: &Path, namespace_id: u32, first_needed: u64) -> Result<Scan> {
        let mut readers = open_segments(directory, namespace_id)?;
        let Some(first) = readers.first() else {
            return Ok(Scan { log: Self::new(first_needed), tail: None, purged: Vec::new() });
        };
        if first.header().first_index > first_needed {
            return Err(first.corrupt(
                0,
                &format!(
                    "it begins at entry {}, but entries from {first_needed} on are needed",
                    first.header().first_index
                ),
            ));
        }
        let mut log = Self::beginning_at(first.header());
        let (mut tail, mut purged) = (None, Vec::new());
        let last = readers.len() - 1;
        for (number, reader) in readers.iter_mut().enumerate() {
            if !log.is_continued_by(reader.header()) {
                log.check_gap(reader, first_needed)?;
                purged.extend(log.segments.into_iter().map(|segment| segment.path));
                log = Self::beginning_at(reader.header());
            }
            log.add_segment(SegmentIndex::new(reader.path().to_owned(), *reader.header()));
            while let Next::Frame(frame) = reader.next_frame()? {
                if frame.header.first_index > log.next_index {
                    return Err(reader.corrupt(frame.offset, "entries are missing before this frame"));
                }
                log.add_frame(&frame.header, frame.bytes);
            }
            if number == last {
                tail = Some(reader.judge_tail()?);
            }
        }
        Ok(Scan { log, tail, purged })
    }

    /// Whether a segment begins exactly where this log ends.
    fn is_continued_by(&self, header: &SegmentHeader) -> bool {
        (header.first_sequence, header.first_index) == (self.next_sequence, self.next_index)
    }

    /// Refuses a segment that does not begin where this log ends, unless what lies between is known to be purged: all that was
    /// read so far and all up to this segment is below `first_needed`, and both numbers rise.
    fn check_gap(&self, reader: &SegmentReader, first_needed: u64) -> Result<()> {
        let header = reader.header();
        let rises = header.first_sequence > self.next_sequence && header.first_index >= self.next_index;
        if rises && header.first_index <= first_needed {
            return Ok(());
        }
        let Some(previous) = self.segments.last() else { return Ok(()) };
        let why = format!(
            "frame {} with entry {} is bad or missing, yet {} goes on with frame {} and entry {}; if one of the two files does \
             not belong here, move it out of the directory",
            self.next_sequence,
            self.next_index,
            reader.path().display(),
            header.first_sequence,
            header.first_index
        );
        Err(SegmentReader::open(&previous.path)?.corrupt(previous.end, &why))
    }

    /// Adds an empty segment at the end.
    pub(super) fn add_segment(&mut self, segment: SegmentIndex) {
        self.segments.push(segment);
    }

    /// Takes an empty segment away from the end.
    pub(super) fn remove_last_segment(&mut self) {
        self.segments.pop();
    }

    /// Adds a frame at the end of the last segment.
    pub(super) fn add_frame(&mut self, frame: &FrameHeader, frame_bytes: u64) {
        let truncates = frame.first_index < self.next_index;
        if truncates {
            self.truncations.push(Truncation { sequence: frame.sequence, since: frame.first_index });
        }
        self.next_index = frame.first_index + u64::from(frame.entries);
        self.next_sequence = frame.sequence + 1;
        let segment = self.segments.last_mut().expect("frames are added to a segment");
        let distant = segment.points.last().is_none_or(|point| segment.end - point.offset >= POINT_BYTES);
        if distant || truncates {
            let point = Point { first_index: frame.first_index, sequence: frame.sequence, offset: segment.end };
            segment.points.push(point);
        }
        segment.end += frame_bytes;
    }

    /// How many segments from the first on hold only entries at or below `upto`.
    pub(super) fn segments_through(&self, upto: u64) -> usize {
        let next_begins_within = |segment: &&SegmentIndex| segment.header.first_index <= upto.saturating_add(1);
        self.segments.iter().skip(1).take_while(next_begins_within).count()
    }

    /// The entries from `start` to before `end`, in order.
    pub(super) fn entries(&self, start: u64, end: u64) -> EntryReader {
        let mut place = None;
        for (number, segment) in self.segments.iter().enumerate().rev() {
            if let Some(point) = segment.points.iter().rev().find(|point| point.first_index <= start) {
                place = Some((number, *point));
                break;
            }
        }
        let (segment, point) = place.map_or((0, None), |(number, point)| (number, Some(point)));
        EntryReader {
            log: self.clone(),
            segment,
            reader: None,
            point,
            pending: Vec::new().into_iter(),
            next_index: start,
            term: 0,
            end: end.min(self.next_index),
        }
    }

    fn is_dead(&self, sequence: u64, index: u64) -> bool {
        self.truncations.iter().any(|truncation| truncation.sequence > sequence && truncation.since <= index)
    }
}

/// Opens all segments of a directory, ordered, and checks whose they are.
fn open_segments(directory: &Path, namespace_id: u32) -> Result<Vec<SegmentReader>> {
    let context = |error| DfsError::io(format!("list {}", directory.display()), error);
    let mut readers = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(context)? {
        let entry = entry.map_err(context)?;
        let name = entry.file_name();
        let reader = match name.to_str() {
            Some(name) if is_segment_name(name) => SegmentReader::open(&entry.path())?,
            // A segment once it has a header; before, nothing was ever written behind it.
            Some(SPARE_NAME | HASTY_NAME) => match SegmentReader::open(&entry.path()) {
                Ok(reader) => reader,
                Err(error) if error.kind() == ErrorKind::Corrupt && !holds_frames(&entry.path())? => continue,
                Err(error) => return Err(error),
            },
            _ => continue,
        };
        if reader.header().namespace_id != namespace_id {
            return Err(DfsError::new(
                ErrorKind::WrongCluster,
                format!(
                    "edit log {} is of namespace {}, this directory is of {namespace_id}; remove what was copied here",
                    entry.path().display(),
                    reader.header().namespace_id
                ),
            ));
        }
        readers.push(reader);
    }
    order(readers)
}

/// Orders segments by the sequence they begin with. At most one of those that begin with the same may hold frames, and it comes
/// last: versions before this one could leave an empty segment beside its larger successor. Two that hold frames contradict
/// each other, and only a person can say which of them is the log.
fn order(mut readers: Vec<SegmentReader>) -> Result<Vec<SegmentReader>> {
    readers.sort_by_key(|reader| (reader.header().first_sequence, reader.header().first_index));
    let same = |a: &SegmentReader, b: &SegmentReader| a.header().first_sequence == b.header().first_sequence;
    for alike in readers.chunk_by_mut(same).filter(|alike| alike.len() > 1) {
        let mut holders = Vec::new();
        for reader in alike.iter() {
            holders.push(holds_frames(reader.path())?);
        }
        let mut full = alike.iter().zip(&holders).filter(|(_, holds)| **holds).map(|(reader, _)| reader.path());
        if let (Some(first), Some(second)) = (full.next(), full.next()) {
            return Err(DfsError::new(
                ErrorKind::Corrupt,
                format!(
                    "edit log segments {} and {} both begin with frame {}; nothing is removed: move the one that does not \
                     belong here out of the directory",
                    first.display(),
                    second.display(),
                    alike[0].header().first_sequence
                ),
            ));
        }
        let last = alike.len() - 1;
        if let Some(holder) = holders.iter().position(|&holds| holds) {
            alike.swap(holder, last);
        }
    }
    Ok(readers)
}

/// The segments of a directory and their headers, ordered; frames are not read.
///
/// # Errors
/// As of scanning, for headers.
pub(super) fn list_segments(directory: &Path, namespace_id: u32) -> Result<Vec<(PathBuf, SegmentHeader)>> {
    let readers = open_segments(directory, namespace_id)?;
    Ok(readers.iter().map(|reader| (reader.path().to_owned(), *reader.header())).collect())
}

/// Reads entries in order from the files.
pub(super) struct EntryReader {
    log: LogIndex,
    segment: usize,
    reader: Option<SegmentReader>,
    point: Option<Point>,
    pending: std::vec::IntoIter<Entry>,
    next_index: u64,
    /// Of the entry read last.
    term: u64,
    end: u64,
}

impl EntryReader {
    /// Says of which term the entry before the first one is.
    #[must_use]
    pub(super) fn after_term(self, term: u64) -> Self {
        Self { term, ..self }
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// `Corrupt` when an entry that must be there is not, or is of an older term than the one before: terms never fall within
    /// a log; `Io`.
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>> {
        loop {
            if self.next_index >= self.end {
                return Ok(None);
            }
            if let Some(entry) = self.pending.next() {
                if entry.log_id.index < self.next_index {
                    continue;
                }
                let term = entry.log_id.leader_id.term;
                if term < self.term {
                    return Err(DfsError::new(
                        ErrorKind::Corrupt,
                        format!(
                            "edit log entry {} is of term {term}, after one of term {}: they are of different logs",
                            entry.log_id.index, self.term
                        ),
                    ));
                }
                (self.next_index, self.term) = (entry.log_id.index + 1, term);
                return Ok(Some(entry));
            }
            self.next_frame()?;
        }
    }

    fn next_frame(&mut self) -> Result<()> {
        let Some(segment) = self.log.segments.get(self.segment) else {
            return Err(DfsError::new(
                ErrorKind::Corrupt,
                format!("edit log entry {} is not in the files that are left", self.next_index),
            ));
        };
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => {
                let mut reader = SegmentReader::open(&segment.path)?;
                if let Some(point) = self.point.take() {
                    reader.seek(point.offset, point.sequence)?;
                }
                none.insert(reader)
            }
        };
        if reader.offset() >= segment.end {
            self.segment += 1;
            self.reader = None;
            return Ok(());
        }
        let Next::Frame(frame) = reader.next_frame()? else {
            return Err(reader.corrupt(reader.offset(), "a frame that was good before is bad now"));
        };
        let log = &self.log;
        let entries: Vec<Entry> = frame
            .entries()
            .map_err(|error| match error.kind() {
                ErrorKind::Unsupported => {
                    let at = format!("edit log {}, frame at offset {}", segment.path.display(), frame.offset);
                    DfsError::new(ErrorKind::Unsupported, at).with_source(error)
                }
                _ => reader.corrupt(frame.offset, "its entries cannot be decoded").with_source(error),
            })?
            .into_iter()
            .filter(|entry| !log.is_dead(frame.header.sequence, entry.log_id.index))
            .collect();
        if let Some(first) = entries.first()
            && first.log_id.index > self.next_index
        {
            return Err(reader.corrupt(frame.offset, &format!("entry {} is missing", self.next_index)));
        }
        self.pending = entries.into_iter();
        Ok(())
    }
}
