//! Reading and writing a replica's `.meta` file; its format is `dfs_proto::data_transfer::meta_file`'s.

use std::io;
use std::path::Path;

use dfs_proto::data_transfer::meta_file::{META_HEADER_LEN, MetaHeader};
use dfs_proto::data_transfer::{DataChecksum, WireError};

use super::disk::DiskFile;

/// The only checksums that this store makes and takes: `write_setup` refuses others, and lengths of files are compared by
/// them. A header that says otherwise is damaged; were it believed, the bytes would be held to checksums that are not theirs.
const CHECKSUM: DataChecksum = DataChecksum::DEFAULT;

/// A `.meta` file and how its checksums are made.
#[derive(Debug)]
pub(super) struct MetaFile {
    file: DiskFile,
    header: MetaHeader,
}

impl MetaFile {
    /// A new file with its header and the first `checksums`; what was at `path` is gone.
    pub(super) fn create(path: &Path, checksum: DataChecksum, checksums: &[u8]) -> io::Result<Self> {
        let file = DiskFile::create(path)?;
        let header = MetaHeader { checksum };
        file.write_all_at(&[&header.encode(), checksums].concat(), 0)?;
        Ok(Self { file, header })
    }

    /// An existing file, opened by one of `DiskFile`'s functions. A header that this store does not write is `InvalidData`.
    pub(super) fn open(path: &Path, open: impl FnOnce(&Path) -> io::Result<DiskFile>) -> io::Result<Self> {
        let file = open(path)?;
        let mut bytes = [0; META_HEADER_LEN];
        file.read_exact_at(&mut bytes, 0)?;
        Self::with_header(file, &bytes)
    }

    /// The same, with all checksums of `data_length` bytes, in one read.
    pub(super) fn open_with_checksums(
        path: &Path,
        open: impl FnOnce(&Path) -> io::Result<DiskFile>,
        data_length: u64,
    ) -> io::Result<(Self, Vec<u8>)> {
        let file = open(path)?;
        let mut bytes = vec![0; META_HEADER_LEN + CHECKSUM.checksums_len(data_length as usize)];
        file.read_exact_at(&mut bytes, 0)?;
        let checksums = bytes.split_off(META_HEADER_LEN);
        Ok((Self::with_header(file, &bytes)?, checksums))
    }

    fn with_header(file: DiskFile, bytes: &[u8]) -> io::Result<Self> {
        let header = MetaHeader::decode(bytes).map_err(invalid)?;
        if header.checksum != CHECKSUM {
            let words = format!("a checksum file that says {:?}, where only {CHECKSUM:?} is written", header.checksum);
            return Err(io::Error::new(io::ErrorKind::InvalidData, words));
        }
        Ok(Self { file, header })
    }

    /// How its checksums are made.
    pub(super) fn checksum(&self) -> DataChecksum {
        self.header.checksum
    }

    /// Its header.
    pub(super) fn header(&self) -> MetaHeader {
        self.header
    }

    /// The file.
    pub(super) fn file(&self) -> &DiskFile {
        &self.file
    }

    /// Fills `out` with the checksums of the chunks from the one with the byte at `data_offset` on.
    pub(super) fn read_checksums(&self, data_offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, self.header.checksum_offset(data_offset))
    }

    /// Writes the checksums of the chunks from the one with the byte at `data_offset` on.
    pub(super) fn write_checksums(&self, data_offset: u64, checksums: &[u8]) -> io::Result<()> {
        self.file.write_all_at(checksums, self.header.checksum_offset(data_offset))
    }

    /// The CRC of the chunk with the byte at `data_offset`.
    pub(super) fn read_crc(&self, data_offset: u64) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.read_checksums(data_offset, &mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }
}

fn invalid(error: WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
