//! A segment: one file of the edit log, its header, its name, and reading it frame by frame.
//!
//! ```text
//! segment := magic           8 bytes  "DFEDITS\0"
//!            version         u32      2; 1: frames without marks (frame.rs), read and never written
//!            alignment       u32      of frames: 512 to 4096
//!            namespace id    u32      as in VERSION
//!            zero            u32
//!            salt            u64      random; part of every frame's checksum
//!            first index     u64      Raft index of the first entry written to it
//!            first sequence  u64      of its first frame
//!            zeros           to offset 4092
//!            crc             u32      CRC32C of the 4092 bytes before it
//!            frame*                   from offset 4096
//!            zeros                    written ahead; cut off once the segment is finished
//! ```
//!
//! Its name is `edits_<19 digits of the first index>` (or still `spare.tmp` or `segment.tmp` after a crash); where a truncation
//! made the same index first twice, the second file has `_<first sequence>` after it. Segments are ordered by their first
//! sequence. No two that hold frames have the same.
//!
//! **What follows the last good frame** decides between two very different things. Only the frame that was being written
//! when the machine stopped can be torn, it was never acknowledged, and nothing was written after it: it is cut. Every other
//! bad frame was damaged later and may have been acknowledged: that is refused, with file and offset, and a person decides. The sectors
//! of a frame tell which it is: a torn frame has one that was not written, and that one is still zero.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Buf;
use dfs_common::checksum;
use dfs_common::error::{DfsError, ErrorKind, Result};

use super::frame::{self, FRAME_HEADER_BYTES, FrameHeader, Layout, SECTOR_BYTES};
use super::raft_types::{self, Entry};
use crate::namenode::storage_dir::{NUMBER_DIGITS, parse_number};

const MAGIC: &[u8; 8] = b"DFEDITS\0";
const SEGMENT_VERSION: u32 = 2;
const PLAIN_VERSION: u32 = 1;
/// Frames begin here: one page, a multiple of every alignment.
pub(super) const SEGMENT_HEADER_BYTES: usize = 4096;
const NAME_PREFIX: &str = "edits_";
/// Sectors are 512 bytes at least.
pub(super) const ALIGNMENT_MIN: usize = 512;
/// and one page at most.
pub(super) const ALIGNMENT_MAX: usize = 4096;
/// Read ahead while scanning.
const SCAN_BUFFER_BYTES: usize = 1024 * 1024;

/// What a segment's first page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// Of frames: the segment's version.
    pub layout: Layout,
    /// Of frames, bytes.
    pub alignment: usize,
    /// Whose log it is.
    pub namespace_id: u32,
    /// Part of every frame's checksum.
    pub salt: u64,
    /// Raft index of the first entry written to it.
    pub first_index: u64,
    /// Sequence of its first frame.
    pub first_sequence: u64,
}

impl SegmentHeader {
    /// The segment's first page.
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend_from_slice(MAGIC);
        let version = match self.layout {
            Layout::Plain => PLAIN_VERSION,
            Layout::Marked => SEGMENT_VERSION,
        };
        into.extend_from_slice(&version.to_le_bytes());
        into.extend_from_slice(&(self.alignment as u32).to_le_bytes());
        into.extend_from_slice(&self.namespace_id.to_le_bytes());
        into.extend_from_slice(&[0; 4]);
        into.extend_from_slice(&self.salt.to_le_bytes());
        into.extend_from_slice(&self.first_index.to_le_bytes());
        into.extend_from_slice(&self.first_sequence.to_le_bytes());
        into.resize(start + SEGMENT_HEADER_BYTES - 4, 0);
        let crc = checksum::crc32c(&into[start..]);
        into.extend_from_slice(&crc.to_le_bytes());
    }

    /// Reads the first page of the segment at `path`.
    fn decode(page: &[u8; SEGMENT_HEADER_BYTES], path: &Path) -> Result<Self> {
        let damaged = |why: &str| Err(corrupt(path, 0, why));
        let (content, crc) = page.split_at(SEGMENT_HEADER_BYTES - 4);
        if &content[..8] != MAGIC {
            return damaged("it does not begin as an edit segment does");
        }
        if checksum::crc32c(content) != u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]) {
            return damaged("the checksum of its header does not match");
        }
        let mut fields = &content[8..];
        let layout = match fields.get_u32_le() {
            PLAIN_VERSION => Layout::Plain,
            SEGMENT_VERSION => Layout::Marked,
            other => return Err(raft_types::unknown(format!("version {other} of edit log {}", path.display()))),
        };
        let alignment = fields.get_u32_le() as usize;
        let namespace_id = fields.get_u32_le();
        fields.advance(4);
        let (salt, first_index, first_sequence) = (fields.get_u64_le(), fields.get_u64_le(), fields.get_u64_le());
        if !(ALIGNMENT_MIN..=ALIGNMENT_MAX).contains(&alignment) || !alignment.is_power_of_two() {
            return damaged(&format!("it has alignment {alignment}"));
        }
        Ok(Self { layout, alignment, namespace_id, salt, first_index, first_sequence })
    }
}

/// Name of a segment.
pub(super) fn segment_name(first_index: u64) -> String {
    format!("{NAME_PREFIX}{first_index:0NUMBER_DIGITS$}")
}

/// Whether a file of this name is a segment.
pub(super) fn is_segment_name(name: &str) -> bool {
    let Some(numbers) = name.strip_prefix(NAME_PREFIX) else { return false };
    let (index, sequence) = numbers.split_once('_').map_or((numbers, None), |(index, rest)| (index, Some(rest)));
    parse_number(index).is_some() && sequence.is_none_or(|sequence| sequence.parse::<u64>().is_ok())
}

/// Whether anything was ever written behind the header of the segment at `path`.
///
/// # Errors
/// `Io`.
pub(super) fn holds_frames(path: &Path) -> Result<bool> {
    let context = |error| DfsError::io(format!("read {}", path.display()), error);
    let mut file = File::open(path).map_err(context)?;
    file.seek(SeekFrom::Start(SEGMENT_HEADER_BYTES as u64)).map_err(context)?;
    let mut buffer = vec![0; SCAN_BUFFER_BYTES];
    loop {
        let read = file.read(&mut buffer).map_err(context)?;
        if read == 0 || !is_zero(&buffer[..read]) {
            return Ok(read != 0);
        }
    }
}

/// One frame read from a segment.
pub(super) struct ReadFrame {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its header.
    pub header: FrameHeader,
    /// Bytes it takes in the file.
    pub bytes: u64,
    layout: Layout,
    content: Vec<u8>,
}

impl ReadFrame {
    /// Its entries.
    ///
    /// # Errors
    /// `Unsupported` when a newer version wrote them; `Corrupt`.
    pub(super) fn entries(&self) -> Result<Vec<Entry>> {
        frame::decode_entries(&self.header, &self.content, self.layout)
    }
}

/// What stands behind the last good frame of the last segment: nothing, or a torn frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// End of the last good frame.
    pub offset: u64,
    /// End of what is not zero after it: a torn frame when greater than `offset`.
    pub end_of_data: u64,
}

/// Reads frames in order.
pub(super) struct SegmentReader {
    path: PathBuf,
    header: SegmentHeader,
    file: BufReader<File>,
    length: u64,
    offset: u64,
    next_sequence: u64,
}

/// What stands where the next frame would.
pub(super) enum Next {
    /// A good one.
    Frame(ReadFrame),
    /// No good one; `SegmentReader::judge_tail` tells what this means.
    End,
}

impl SegmentReader {
    /// Opens a segment and reads its header.
    ///
    /// # Errors
    /// `Io`; `Corrupt` when the header is damaged; `Unsupported` when it is of a newer version.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let context = |error| DfsError::io(format!("read {}", path.display()), error);
        let mut file = File::open(path).map_err(context)?;
        let length = file.metadata().map_err(context)?.len();
        let mut page = [0; SEGMENT_HEADER_BYTES];
        file.read_exact(&mut page).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => corrupt(path, 0, "it is shorter than its header"),
            _ => context(error),
        })?;
        let header = SegmentHeader::decode(&page, path)?;
        Ok(Self {
            path: path.to_owned(),
            header,
            file: BufReader::with_capacity(SCAN_BUFFER_BYTES, file),
            length,
            offset: SEGMENT_HEADER_BYTES as u64,
            next_sequence: header.first_sequence,
        })
    }

    /// The segment's header.
    pub(super) fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// The segment's file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the next frame begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes to a frame whose place and sequence are known.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn seek(&mut self, offset: u64, sequence: u64) -> Result<()> {
        self.file.seek(SeekFrom::Start(offset)).map_err(|error| self.io(error))?;
        (self.offset, self.next_sequence) = (offset, sequence);
        Ok(())
    }

    /// Reads the next frame.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn next_frame(&mut self) -> Result<Next> {
        match self.read_at_offset(self.offset)? {
            Some((header, content)) if header.sequence == self.next_sequence => {
                let SegmentHeader { layout, alignment, .. } = self.header;
                let bytes = header.frame_bytes(alignment, layout) as u64;
                let frame = ReadFrame { offset: self.offset, header, bytes, layout, content };
                self.offset += bytes;
                self.next_sequence += 1;
                Ok(Next::Frame(frame))
            }
            _ => Ok(Next::End),
        }
    }

    /// Tells, after `next_frame` found no more, a torn frame from a damaged one.
    ///
    /// # Errors
    /// `Corrupt` with the offset when an acknowledged frame is damaged; `Io`.
    pub(super) fn judge_tail(&mut self) -> Result<Tail> {
        let tail = Tail { offset: self.offset, end_of_data: self.end_of_data()? };
        if tail.end_of_data > tail.offset {
            if let Some(later) = self.later_frame()? {
                let why = format!("a bad frame with a good one after it, at offset {later}");
                return Err(self.corrupt(tail.offset, &why));
            }
            self.check_torn(&tail)?;
        }
        Ok(tail)
    }

    /// Refuses what cannot be the frame that was being written when the machine stopped.
    fn check_torn(&mut self, tail: &Tail) -> Result<()> {
        let path = self.path.clone();
        let damaged = |why: &str| Err(corrupt(&path, tail.offset, why));
        let SegmentHeader { layout, alignment, salt, .. } = self.header;
        self.file.seek(SeekFrom::Start(tail.offset)).map_err(|error| self.io(error))?;
        let mut sector = [0; SECTOR_BYTES];
        if !self.read_exact(&mut sector)? {
            return damaged("the file ends within a frame");
        }
        if is_zero(&sector) {
            return Ok(());
        }
        let Some(header) = frame::peek_header(&sector, salt, layout) else {
            return damaged("the header of a frame is not what was written");
        };
        if header.sequence != self.next_sequence {
            return damaged(&format!("frame {} where {} must be", header.sequence, self.next_sequence));
        }
        let end = tail.offset + header.frame_bytes(alignment, layout) as u64;
        if end > self.length || end < tail.end_of_data {
            return damaged("a bad frame that does not end where the data does");
        }
        for _ in 1..layout.written_sectors(header.payload_bytes, alignment) {
            if !self.read_exact(&mut sector)? {
                return damaged("the file ends within a frame");
            }
            if is_zero(&sector) {
                return Ok(());
            }
        }
        damaged("every sector of a frame was written, and its checksum does not match")
    }

    /// The place of a good frame at or after the end that `next_frame` found, of a sequence not below the one expected
    /// there. There is one only when something before it was damaged. Looks at every place where a frame could begin.
    fn later_frame(&mut self) -> Result<Option<u64>> {
        let SegmentHeader { layout, alignment, salt, .. } = self.header;
        let step = alignment as u64;
        let mut at = self.offset;
        self.file.seek(SeekFrom::Start(at)).map_err(|error| self.io(error))?;
        let mut first = vec![0; alignment];
        while at + step <= self.length && self.read_exact(&mut first)? {
            let header = frame::peek_header(&first, salt, layout);
            if header.is_some_and(|header| header.sequence >= self.next_sequence) {
                if self.read_at_offset(at)?.is_some() {
                    return Ok(Some(at));
                }
                self.file.seek(SeekFrom::Start(at + step)).map_err(|error| self.io(error))?;
            }
            at += step;
        }
        Ok(None)
    }

    /// End of what is not zero in the file, at least `offset()`.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn end_of_data(&mut self) -> Result<u64> {
        self.file.seek(SeekFrom::Start(self.offset)).map_err(|error| self.io(error))?;
        let mut end = self.offset;
        let mut at = self.offset;
        let mut buffer = vec![0; SCAN_BUFFER_BYTES];
        loop {
            let read = self.file.read(&mut buffer).map_err(|error| self.io(error))?;
            if read == 0 {
                return Ok(end);
            }
            if let Some(last) = buffer[..read].iter().rposition(|&byte| byte != 0) {
                end = at + last as u64 + 1;
            }
            at += read as u64;
        }
    }

    /// An error about this segment that says what to do.
    pub(super) fn corrupt(&self, offset: u64, why: &str) -> DfsError {
        corrupt(&self.path, offset, why)
    }

    /// The frame that begins at `at`, if an intact one does. Leaves the file position behind it when it does.
    fn read_at_offset(&mut self, at: u64) -> Result<Option<(FrameHeader, Vec<u8>)>> {
        let SegmentHeader { layout, alignment, salt, .. } = self.header;
        let left = self.length.saturating_sub(at);
        let position = self.file.stream_position().map_err(|error| self.io(error))?;
        if position != at {
            let distance = i64::try_from(at).unwrap_or(i64::MAX) - i64::try_from(position).unwrap_or(i64::MAX);
            self.file.seek_relative(distance).map_err(|error| self.io(error))?;
        }
        let mut start = [0; FRAME_HEADER_BYTES];
        if left < start.len() as u64 || !self.read_exact(&mut start)? {
            return Ok(None);
        }
        let Some(header) = frame::peek_header(&start, salt, layout) else { return Ok(None) };
        let length = header.frame_bytes(alignment, layout);
        if length as u64 > left {
            return Ok(None);
        }
        let mut bytes = vec![0; length];
        bytes[..FRAME_HEADER_BYTES].copy_from_slice(&start);
        if !self.read_exact(&mut bytes[FRAME_HEADER_BYTES..])? {
            return Ok(None);
        }
        Ok(frame::intact_content(bytes, salt, layout).map(|content| (header, content)))
    }

    /// Fills `bytes`; false at the end of the file, which comes nearer when a finished segment is trimmed meanwhile.
    fn read_exact(&mut self, bytes: &mut [u8]) -> Result<bool> {
        match self.file.read_exact(bytes) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(self.io(error)),
        }
    }

    fn io(&self, error: io::Error) -> DfsError {
        DfsError::io(format!("read {}", self.path.display()), error)
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

fn corrupt(path: &Path, offset: u64, why: &str) -> DfsError {
    DfsError::new(
        ErrorKind::Corrupt,
        format!(
            "edit log {} is damaged at offset {offset}: {why}. Acknowledged changes may be in the damaged part, so it is \
             not skipped: restore the directory from a copy, or start from the SecondaryNameNode's latest \
             image: dfs-server import-checkpoint",
            path.display()
        ),
    )
}
