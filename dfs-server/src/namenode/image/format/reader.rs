//! Reading an image, as a stream, believing nothing.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use dfs_common::checksum;
use dfs_common::disk;
use dfs_common::error::{DfsError, ErrorKind, Result};
use prost::Message;

use super::{
    BODY_BYTES_MAX, FILE_BUFFER_BYTES, HEADER_BYTES_MAX, IMAGE_LAYOUT, ImageHeader, ItemPrefix, KIND_BLOCK,
    KIND_SECTION_BEGIN, KIND_SECTION_END, KIND_TRAILER, MAGIC, PREFIX_BYTES, PRELUDE_BYTES, Section,
    TRAILER_BODY_BYTES, section_of,
};

/// Reads an image from its beginning to its end, once.
pub struct ImageReader {
    file: BufReader<File>,
    path: PathBuf,
    layout: u32,
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
        disk::reads(path);
        let file = File::open(path).map_err(context)?;
        let file_length = file.metadata().map_err(context)?.len();
        let mut reader = Self {
            file: BufReader::with_capacity(FILE_BUFFER_BYTES, file),
            path: path.to_owned(),
            layout: 0,
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

    /// Layout of the NameNode that wrote it.
    pub fn layout(&self) -> u32 {
        self.layout
    }

    /// What the image is of.
    pub fn header(&self) -> &ImageHeader {
        &self.header
    }

    /// Bytes of the file, and those that were read.
    pub fn progress(&self) -> (u64, u64) {
        (self.file_length, self.offset)
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
        if !(1..=IMAGE_LAYOUT).contains(&layout) {
            return Err(self.unsupported(&format!("it has layout {layout}, this program knows 1 to {IMAGE_LAYOUT}")));
        }
        self.layout = layout;
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
        if self.header.encoded_len() != length {
            return Err(self.unsupported("its header has fields that this program does not know"));
        }
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
        let Some(section) = section_of(number) else {
            return Err(self.unsupported(&format!("section {number} is not known to this program")));
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
        if section_of(number) != self.section || records != self.section_records {
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

    fn unsupported(&self, why: &str) -> DfsError {
        DfsError::new(
            ErrorKind::Unsupported,
            format!("image {}: {why}; use the program that wrote it, or a newer one", self.path.display()),
        )
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
