//! The container of an fsimage: a stream of records in numbered sections, of which no byte can be lost or changed
//! unnoticed. What the records say is `records.rs`'s; this file knows only their bytes.
//!
//! All numbers are little-endian.
//!
//! ```text
//! file    := prelude item* trailer                    nothing may follow the trailer
//! prelude := magic        8 bytes  "DFSIMAGE"
//!            layout       u32      1
//!            length       u32      of the header
//!            crc          u32      CRC32C of the 16 bytes before it, then of the header
//!            header       protobuf message ImageHeader
//! item    := kind         u32      1 section begins, 2 block, 3 section ends, 4 trailer
//!            length       u32      of the body
//!            count        u32      records in the body (blocks), else 0
//!            crc          u32      CRC32C of the 12 bytes before it, then of the body
//!            body
//!
//! section begins: u32 section number; numbers rise through the file, each appears at most once
//! block:          records, each a protobuf varint length and so many bytes; about 64 KiB, more only for one long record
//! section ends:   u32 section number, u64 records in the section
//! trailer:        u64 records in the file, u64 file offset of the trailer item, u32 chain
//! ```
//!
//! `chain` is the CRC32C of the prelude's crc and of every item's crc in order, so whole blocks cannot be exchanged,
//! dropped or repeated either. A reader has the whole truth only when `next_record` has returned `None`: whoever loads
//! an image uses nothing of it before.
//!
//! Files are written as `NAME.tmp`, synced, renamed, and the directory synced: an image is whole or absent.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use dfs_common::checksum;
use dfs_common::durable::{self, TEMPORARY_SUFFIX};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::TxId;
use dfs_common::sys;
use prost::Message;

const MAGIC: &[u8; 8] = b"DFSIMAGE";
/// Version of this container and of the records in it.
pub const IMAGE_LAYOUT: u32 = 1;

const PRELUDE_BYTES: usize = 20;
const PREFIX_BYTES: usize = 16;
const TRAILER_BODY_BYTES: usize = 20;
/// Blocks are closed at this size: large enough that headers and CRC calls cost nothing, small enough for the cache.
const BLOCK_BYTES: usize = 64 * 1024;
/// Longest record: an inode with more than a million blocks. Bounds what a reader allocates.
pub const RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A block is at most one longest record and its length, or a full block and a record that still fitted.
const BODY_BYTES_MAX: usize = RECORD_BYTES_MAX + 16;
/// Identities and the group's membership: kilobytes.
const HEADER_BYTES_MAX: usize = 1024 * 1024;
const FILE_BUFFER_BYTES: usize = 1024 * 1024;
/// Write-back is started this often, so that the sync at the end does not hold up the log's device for seconds.
const WRITEBACK_BYTES: u64 = 8 * 1024 * 1024;

const KIND_SECTION_BEGIN: u32 = 1;
const KIND_BLOCK: u32 = 2;
const KIND_SECTION_END: u32 = 3;
const KIND_TRAILER: u32 = 4;

/// What an image is of and up to where.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ImageHeader {
    /// `CID-...`.
    #[prost(string, tag = "1")]
    pub cluster_id: String,
    /// The namespace within the cluster.
    #[prost(uint32, tag = "2")]
    pub namespace_id: u32,
    /// `BP-...`.
    #[prost(string, tag = "3")]
    pub block_pool_id: String,
    /// Last transaction the image contains; 0: none.
    #[prost(uint64, tag = "4")]
    pub last_txid: u64,
    /// Last entry of the replicated log it contains; none in the image that `format` makes.
    #[prost(message, optional, tag = "5")]
    pub last_log: Option<LogPosition>,
    /// The group's membership at `last_log`, as the journal encodes it; empty when none was logged.
    #[prost(bytes = "bytes", tag = "6")]
    pub membership: Bytes,
}

impl ImageHeader {
    /// Last transaction the image contains.
    pub fn txid(&self) -> TxId {
        TxId(self.last_txid)
    }
}

/// Name of an entry of the replicated log: who wrote it, in which term, at which index.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LogPosition {
    /// The leader's term.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// The leader.
    #[prost(uint64, tag = "2")]
    pub node: u64,
    /// Position, from 0.
    #[prost(uint64, tag = "3")]
    pub index: u64,
}

/// Sections in the order of the file. Numbers are on disk and never reused; the gaps are for sections to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Section {
    /// Id counters and keys, one record.
    Counters = 10,
    /// Clients and their retry outcomes.
    Sessions = 20,
    /// Inodes by id.
    Inodes = 30,
    /// Directory entries by (parent, cookie).
    Dentries = 40,
    /// Extended attributes too large to live in their inode.
    XAttrs = 50,
    /// Leases by inode.
    Leases = 60,
    /// Holds by (inode, client).
    Holds = 70,
}

impl Section {
    fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            10 => Self::Counters,
            20 => Self::Sessions,
            30 => Self::Inodes,
            40 => Self::Dentries,
            50 => Self::XAttrs,
            60 => Self::Leases,
            70 => Self::Holds,
            _ => return None,
        })
    }
}

/// Writes an image; without `finish` nothing of it stays.
pub struct ImageWriter {
    file: BufWriter<File>,
    path: PathBuf,
    temporary: PathBuf,
    block: Vec<u8>,
    block_records: u32,
    section: Option<Section>,
    section_records: u64,
    total_records: u64,
    offset: u64,
    written_back: u64,
    chain: u32,
    finished: bool,
}

impl ImageWriter {
    /// Begins the image that will appear at `path` when it is finished.
    ///
    /// # Errors
    /// Of creating and writing.
    pub fn create(path: &Path, header: &ImageHeader) -> Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(TEMPORARY_SUFFIX);
        let temporary = PathBuf::from(name);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .map_err(|error| DfsError::io(format!("create image {}", temporary.display()), error))?;
        let mut writer = Self {
            file: BufWriter::with_capacity(FILE_BUFFER_BYTES, file),
            path: path.to_owned(),
            temporary,
            block: Vec::with_capacity(BLOCK_BYTES + 4096),
            block_records: 0,
            section: None,
            section_records: 0,
            total_records: 0,
            offset: 0,
            written_back: 0,
            chain: 0,
            finished: false,
        };
        let body = header.encode_to_vec();
        if body.len() > HEADER_BYTES_MAX {
            return Err(DfsError::new(ErrorKind::InvalidArgument, format!("image header of {} bytes", body.len())));
        }
        let mut prelude = Vec::with_capacity(PRELUDE_BYTES);
        prelude.extend_from_slice(MAGIC);
        prelude.extend_from_slice(&IMAGE_LAYOUT.to_le_bytes());
        prelude.extend_from_slice(&length_u32(body.len()).to_le_bytes());
        let crc = checksum::crc32c_append(checksum::crc32c(&prelude), &body);
        prelude.extend_from_slice(&crc.to_le_bytes());
        writer.chain = checksum::crc32c_append(writer.chain, &crc.to_le_bytes());
        writer.write(&prelude)?;
        writer.write(&body)?;
        Ok(writer)
    }

    /// Begins the next section; sections come in the order of their numbers.
    ///
    /// # Errors
    /// `Internal` out of order; else of writing.
    pub fn begin_section(&mut self, section: Section) -> Result<()> {
        if self.section.is_some_and(|current| current >= section) {
            return Err(DfsError::new(
                ErrorKind::Internal,
                format!("image section {section:?} after {:?}: sections have a fixed order", self.section),
            ));
        }
        self.end_section()?;
        self.section = Some(section);
        self.item(KIND_SECTION_BEGIN, 0, &(section as u32).to_le_bytes())
    }

    /// Adds a record to the current section.
    ///
    /// # Errors
    /// `Internal` outside a section, `FileTooLarge` above [`RECORD_BYTES_MAX`]; else of writing.
    pub fn record(&mut self, record: &impl Message) -> Result<()> {
        if self.section.is_none() {
            return Err(DfsError::new(ErrorKind::Internal, "image record outside a section"));
        }
        let length = record.encoded_len();
        if length > RECORD_BYTES_MAX {
            return Err(DfsError::new(
                ErrorKind::FileTooLarge,
                format!("image record of {length} bytes; the limit is {RECORD_BYTES_MAX}"),
            ));
        }
        if !self.block.is_empty() && self.block.len() + length > BLOCK_BYTES {
            self.flush_block()?;
        }
        record
            .encode_length_delimited(&mut self.block)
            .map_err(|error| DfsError::new(ErrorKind::Internal, "encode image record").with_source(error))?;
        self.block_records += 1;
        if self.block.len() >= BLOCK_BYTES { self.flush_block() } else { Ok(()) }
    }

    /// Writes the trailer and makes the image appear, durably.
    ///
    /// # Errors
    /// Of writing, syncing and renaming; nothing then appears.
    pub fn finish(mut self) -> Result<()> {
        self.end_section()?;
        let mut body = Vec::with_capacity(TRAILER_BODY_BYTES);
        body.extend_from_slice(&self.total_records.to_le_bytes());
        body.extend_from_slice(&self.offset.to_le_bytes());
        body.extend_from_slice(&self.chain.to_le_bytes());
        self.item(KIND_TRAILER, 0, &body)?;
        let context = |error| DfsError::io(format!("write image {}", self.temporary.display()), error);
        self.file.flush().map_err(context)?;
        self.file.get_ref().sync_all().map_err(context)?;
        durable::rename(&self.temporary, &self.path)
            .map_err(|error| DfsError::io(format!("rename image to {}", self.path.display()), error))?;
        self.finished = true;
        Ok(())
    }

    fn end_section(&mut self) -> Result<()> {
        let Some(section) = self.section else { return Ok(()) };
        self.flush_block()?;
        let mut body = Vec::with_capacity(12);
        body.extend_from_slice(&(section as u32).to_le_bytes());
        body.extend_from_slice(&self.section_records.to_le_bytes());
        self.total_records += self.section_records;
        self.section_records = 0;
        self.item(KIND_SECTION_END, 0, &body)
    }

    fn flush_block(&mut self) -> Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = std::mem::take(&mut self.block);
        self.section_records += u64::from(self.block_records);
        self.item(KIND_BLOCK, self.block_records, &block)?;
        self.block_records = 0;
        self.block = block;
        self.block.clear();
        Ok(())
    }

    fn item(&mut self, kind: u32, count: u32, body: &[u8]) -> Result<()> {
        let prefix = ItemPrefix::of(kind, count, body);
        self.chain = checksum::crc32c_append(self.chain, &prefix.crc.to_le_bytes());
        self.write(&prefix.encode())?;
        self.write(body)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|error| DfsError::io(format!("write image {}", self.temporary.display()), error))?;
        self.offset += bytes.len() as u64;
        if self.offset - self.written_back >= WRITEBACK_BYTES {
            // A hint only: where the file system cannot, the sync at the end does all the work.
            let _ = sys::start_writeback(self.file.get_ref(), self.written_back, self.offset - self.written_back);
            self.written_back = self.offset;
        }
        Ok(())
    }
}

impl Drop for ImageWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: what stays behind carries the temporary suffix and is removed at the next start.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// The 16 bytes before each body.
struct ItemPrefix {
    kind: u32,
    length: u32,
    count: u32,
    crc: u32,
}

impl ItemPrefix {
    fn of(kind: u32, count: u32, body: &[u8]) -> Self {
        let mut prefix = Self { kind, length: length_u32(body.len()), count, crc: 0 };
        prefix.crc = prefix.crc_over(body);
        prefix
    }

    fn crc_over(&self, body: &[u8]) -> u32 {
        checksum::crc32c_append(checksum::crc32c(&self.encode()[..12]), body)
    }

    fn encode(&self) -> [u8; PREFIX_BYTES] {
        let mut bytes = [0; PREFIX_BYTES];
        bytes[0..4].copy_from_slice(&self.kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    fn decode(mut bytes: &[u8]) -> Self {
        Self {
            kind: bytes.get_u32_le(),
            length: bytes.get_u32_le(),
            count: bytes.get_u32_le(),
            crc: bytes.get_u32_le(),
        }
    }
}

/// Lengths are checked against their limits, all far below 2^32, before they come here.
fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("limits of the format are below 4 GiB")
}

/// Reads an image from its beginning to its end, once.
pub struct ImageReader {
    file: BufReader<File>,
    path: PathBuf,
    header: ImageHeader,
    file_length: u64,
    offset: u64,
    chain: u32,
    section: Option<Section>,
    in_section: bool,
    section_records: u64,
    total_records: u64,
    block: Bytes,
    block_records: u32,
    complete: bool,
}

impl ImageReader {
    /// Opens an image and reads its header.
    ///
    /// # Errors
    /// `Io` of reading; `Corrupt` when it is not an image or damaged; `Unsupported` when its layout is unknown.
    pub fn open(path: &Path) -> Result<Self> {
        let context = |error| DfsError::io(format!("read image {}", path.display()), error);
        let file = File::open(path).map_err(context)?;
        let file_length = file.metadata().map_err(context)?.len();
        let mut reader = Self {
            file: BufReader::with_capacity(FILE_BUFFER_BYTES, file),
            path: path.to_owned(),
            header: ImageHeader::default(),
            file_length,
            offset: 0,
            chain: 0,
            section: None,
            in_section: false,
            section_records: 0,
            total_records: 0,
            block: Bytes::new(),
            block_records: 0,
            complete: false,
        };
        reader.read_header()?;
        Ok(reader)
    }

    /// What the image is of.
    pub fn header(&self) -> &ImageHeader {
        &self.header
    }

    /// The next record; `None` once the whole image has been read and found whole.
    ///
    /// # Errors
    /// `Corrupt` with the offset of the damage; `Io` of reading.
    pub fn next_record(&mut self) -> Result<Option<(Section, Bytes)>> {
        loop {
            if self.complete {
                return Ok(None);
            }
            if self.block_records > 0 {
                let section = self.section.ok_or_else(|| self.corrupt("a block outside a section"))?;
                return Ok(Some((section, self.record_of_block()?)));
            }
            if self.block.has_remaining() {
                return Err(self.corrupt("bytes after the last record of a block"));
            }
            self.next_item()?;
        }
    }

    /// Reads the rest of the image, only to know that it is whole.
    ///
    /// # Errors
    /// As of `next_record`.
    pub fn verify(mut self) -> Result<ImageHeader> {
        while self.next_record()?.is_some() {}
        Ok(self.header)
    }

    fn read_header(&mut self) -> Result<()> {
        let prelude = self.read_bytes(PRELUDE_BYTES)?;
        if &prelude[..8] != MAGIC {
            return Err(self.corrupt("it does not begin with DFSIMAGE"));
        }
        let mut fields = &prelude[8..];
        let (layout, length, crc) = (fields.get_u32_le(), fields.get_u32_le() as usize, fields.get_u32_le());
        if layout != IMAGE_LAYOUT {
            return Err(DfsError::new(
                ErrorKind::Unsupported,
                format!(
                    "image {} has layout {layout}, this program knows {IMAGE_LAYOUT}; use the program that wrote it",
                    self.path.display()
                ),
            ));
        }
        if length > HEADER_BYTES_MAX {
            return Err(self.corrupt("its header is longer than any header"));
        }
        let body = self.read_bytes(length)?;
        if checksum::crc32c_append(checksum::crc32c(&prelude[..16]), &body) != crc {
            return Err(self.corrupt("the checksum of its header does not match"));
        }
        self.chain = checksum::crc32c_append(self.chain, &crc.to_le_bytes());
        self.header = ImageHeader::decode(body)
            .map_err(|error| self.corrupt("its header cannot be decoded").with_source(error))?;
        Ok(())
    }

    fn record_of_block(&mut self) -> Result<Bytes> {
        let length = prost::decode_length_delimiter(&mut self.block)
            .map_err(|error| self.corrupt("a record without a length").with_source(error))?;
        if length > self.block.remaining() {
            return Err(self.corrupt("a record longer than its block"));
        }
        self.block_records -= 1;
        Ok(self.block.split_to(length))
    }

    fn next_item(&mut self) -> Result<()> {
        let at = self.offset;
        let prefix = ItemPrefix::decode(&self.read_bytes(PREFIX_BYTES)?);
        if prefix.length as usize > BODY_BYTES_MAX {
            return Err(self.corrupt_at(at, "an item longer than any item"));
        }
        let body = self.read_bytes(prefix.length as usize)?;
        if prefix.crc_over(&body) != prefix.crc {
            return Err(self.corrupt_at(at, "a checksum does not match"));
        }
        let chain_before = self.chain;
        self.chain = checksum::crc32c_append(self.chain, &prefix.crc.to_le_bytes());
        match prefix.kind {
            KIND_SECTION_BEGIN => self.begin_section(at, &body),
            KIND_BLOCK if self.in_section && prefix.count > 0 => {
                self.section_records += u64::from(prefix.count);
                self.block_records = prefix.count;
                self.block = body;
                Ok(())
            }
            KIND_SECTION_END => self.end_section(at, &body),
            KIND_TRAILER => self.end(at, &body, chain_before),
            _ => Err(self.corrupt_at(at, "an item that does not belong here")),
        }
    }

    fn begin_section(&mut self, at: u64, mut body: &[u8]) -> Result<()> {
        if body.len() != 4 || self.in_section {
            return Err(self.corrupt_at(at, "a section begins wrongly"));
        }
        let number = body.get_u32_le();
        let Some(section) = Section::from_number(number) else {
            return Err(self.corrupt_at(at, &format!("section {number} is unknown")));
        };
        if self.section.is_some_and(|previous| previous >= section) {
            return Err(self.corrupt_at(at, "sections are out of order"));
        }
        (self.section, self.in_section, self.section_records) = (Some(section), true, 0);
        Ok(())
    }

    fn end_section(&mut self, at: u64, mut body: &[u8]) -> Result<()> {
        if body.len() != 12 || !self.in_section {
            return Err(self.corrupt_at(at, "a section ends wrongly"));
        }
        let (number, records) = (body.get_u32_le(), body.get_u64_le());
        if Section::from_number(number) != self.section || records != self.section_records {
            return Err(self.corrupt_at(at, "a section's count of records is wrong"));
        }
        self.total_records += records;
        self.in_section = false;
        Ok(())
    }

    fn end(&mut self, at: u64, mut body: &[u8], chain: u32) -> Result<()> {
        if body.len() != TRAILER_BODY_BYTES || self.in_section {
            return Err(self.corrupt_at(at, "the file ends wrongly"));
        }
        let (records, offset, expected) = (body.get_u64_le(), body.get_u64_le(), body.get_u32_le());
        if records != self.total_records || offset != at || expected != chain {
            return Err(self.corrupt_at(at, "the trailer does not fit the file"));
        }
        if self.offset != self.file_length {
            return Err(self.corrupt("bytes after the trailer"));
        }
        self.complete = true;
        Ok(())
    }

    /// Reads exactly `length` bytes. Allocates only what the file really has left.
    fn read_bytes(&mut self, length: usize) -> Result<Bytes> {
        if length as u64 > self.file_length - self.offset {
            return Err(self.corrupt("the file is cut off"));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact(&mut bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.corrupt("the file is cut off"),
            _ => DfsError::io(format!("read image {}", self.path.display()), error),
        })?;
        self.offset += length as u64;
        Ok(Bytes::from(bytes))
    }

    fn corrupt(&self, why: &str) -> DfsError {
        self.corrupt_at(self.offset, why)
    }

    fn corrupt_at(&self, offset: u64, why: &str) -> DfsError {
        DfsError::new(
            ErrorKind::Corrupt,
            format!(
                "image {} is damaged at offset {offset}: {why}; use an older image or another copy",
                self.path.display()
            ),
        )
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
