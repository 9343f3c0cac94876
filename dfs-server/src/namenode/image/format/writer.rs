//! Writing an image, as a stream, with bounded memory.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use dfs_common::checksum;
use dfs_common::disk::{self, DiskFile};
use dfs_common::durable::{self, TEMPORARY_SUFFIX};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::sys;
use prost::Message;

use super::{
    BLOCK_BYTES, FILE_BUFFER_BYTES, HEADER_BYTES_MAX, IMAGE_LAYOUT, ImageHeader, ItemPrefix, KIND_BLOCK,
    KIND_SECTION_BEGIN, KIND_SECTION_END, KIND_TRAILER, MAGIC, PRELUDE_BYTES, RECORD_BYTES_MAX, Section,
    TRAILER_BODY_BYTES, length_u32,
};
use crate::namenode::room;

/// Write-back is started this often, so that the sync at the end does not hold up the log's device for seconds.
const WRITEBACK_BYTES: u64 = 8 * 1024 * 1024;
/// It is asked this often whether there is room for so much more: what the buffer holds back.
const ROOM_STEP: u64 = FILE_BUFFER_BYTES as u64;

/// Says how many bytes are free where a file is.
type FreeBytes = fn(&File) -> std::io::Result<u64>;

/// Writes an image; without `finish` nothing of it stays.
pub struct ImageWriter {
    file: BufWriter<DiskFile>,
    path: PathBuf,
    temporary: PathBuf,
    block: Vec<u8>,
    block_records: u32,
    section: Option<Section>,
    section_records: u64,
    total_records: u64,
    offset: u64,
    written_back: u64,
    free_bytes: FreeBytes,
    /// There was room up to this offset.
    room_end: u64,
    chain: u32,
    finished: bool,
}

impl ImageWriter {
    /// Begins the image that will appear at `path` when it is finished.
    ///
    /// # Errors
    /// `NoSpace` when it would take the edit log's room, also of what comes later; else of creating and writing.
    pub fn create(path: &Path, header: &ImageHeader) -> Result<Self> {
        Self::create_where(path, header, room::free_beside)
    }

    fn create_where(path: &Path, header: &ImageHeader, free_bytes: FreeBytes) -> Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(TEMPORARY_SUFFIX);
        let temporary = PathBuf::from(name);
        let file = DiskFile::create(&temporary)
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
            free_bytes,
            room_end: 0,
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
        let end = self.offset + bytes.len() as u64;
        if end > self.room_end {
            let step = (bytes.len() as u64).max(ROOM_STEP);
            room::leave_to_edits(&self.path, step, (self.free_bytes)(self.file.get_ref().file()))?;
            self.room_end = self.offset + step;
        }
        self.file
            .write_all(bytes)
            .map_err(|error| DfsError::io(format!("write image {}", self.temporary.display()), error))?;
        self.offset = end;
        if self.offset - self.written_back >= WRITEBACK_BYTES {
            // A hint only: where the file system cannot, the sync at the end does all the work.
            let _ =
                sys::start_writeback(self.file.get_ref().file(), self.written_back, self.offset - self.written_back);
            self.written_back = self.offset;
        }
        Ok(())
    }
}

impl Drop for ImageWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: what stays behind carries the temporary suffix and is removed at the next start.
            let _ = disk::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough to begin with.
    fn little(_: &File) -> std::io::Result<u64> {
        Ok(room::ROOM_FOR_EDITS_BYTES + ROOM_STEP)
    }

    #[test]
    fn an_image_leaves_the_edit_log_its_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let header = ImageHeader::default();
        let error = ImageWriter::create_where(&path, &header, |file| Ok(little(file)? - 1)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        let mut writer = ImageWriter::create_where(&path, &header, little).unwrap();
        // The log grows meanwhile.
        writer.free_bytes = |file| Ok(little(file)? - 1);
        writer.begin_section(Section::Inodes).unwrap();
        let record = dfs_proto::v1::InodeRecord { target: vec![7; 60_000].into(), ..Default::default() };
        let error = (0..64).find_map(|_| writer.record(&record).err()).unwrap();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(writer.offset <= ROOM_STEP && writer.offset > ROOM_STEP / 2, "{}", writer.offset);
        drop(writer);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing stays");
    }
}
