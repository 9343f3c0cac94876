//! Reading a replica: an open pair of files, how far they may be read, and checksums that fit what is read.
//!
//! A replica being written shows its first `acked` bytes. When they end inside a chunk, the entry on disk is the CRC of a
//! longer piece, and may be changing. Then the chunk is read once, proven by the CRC its writer holds in memory (or by its
//! final entry, when the writer is past the chunk), and the CRC of the visible part computed. What is sent is therefore
//! always vouched for by what the client sent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use dfs_common::block::Block;
use dfs_common::checksum::crc32c;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::data_transfer::DataChecksum;
use rustix::fs::Advice;

use super::meta_file::MetaFile;
use super::replica::OpenReplica;
use super::volume::Volume;

/// Replicas up to this size are read from the device while their checksums are looked at: most readers want all of them.
const SMALL: u64 = 128 * 1024;

/// A replica opened for reading. Stays readable when the replica is finalized, extended or deleted.
#[derive(Debug)]
pub(crate) struct ReplicaReader {
    block: Block,
    data: File,
    meta: MetaFile,
    volume: Arc<Volume>,
    /// CRC of the visible part of the last chunk, when the block ends inside it.
    tail_crc: Option<u32>,
}

impl ReplicaReader {
    /// Opens a finalized replica's files.
    pub(super) fn open_finalized(block: Block, volume: Arc<Volume>, paths: (PathBuf, PathBuf)) -> io::Result<Self> {
        let (data_path, meta_path) = paths;
        let data = File::open(data_path)?;
        if block.length <= SMALL {
            // Advice only: a failure costs speed, and the read itself tells of real ones.
            let _ = rustix::fs::fadvise(&data, 0, None, Advice::WillNeed);
        }
        let meta = MetaFile::open(&meta_path, false)?;
        let tail_crc = match tail_start(block.length, meta.checksum()) {
            Some(start) => Some(meta.read_crc(start)?),
            None => None,
        };
        Ok(Self { block, data, meta, volume, tail_crc })
    }

    /// Opens what is visible of a replica that is not finalized.
    pub(super) fn open_growing(replica: &OpenReplica) -> Result<Self> {
        let volume = Arc::clone(&replica.volume);
        let files = replica.hold_files();
        let (visible, on_disk, crc) = {
            let state = replica.state.lock();
            (replica.visible(&state), state.on_disk, state.tail_crc)
        };
        let block = Block { id: replica.id, generation_stamp: files.generation_stamp, length: visible };
        let opened = File::open(&files.data).and_then(|data| Ok((data, MetaFile::open(&files.meta, false)?)));
        drop(files);
        let (data, meta) = volume.check(opened, || format!("open {block}"))?;
        let mut reader = Self { block, data, meta, volume, tail_crc: None };
        reader.tail_crc = reader.visible_tail_crc(on_disk, crc)?;
        Ok(reader)
    }

    /// CRC of the visible part of the last chunk, proven as the module's header tells.
    fn visible_tail_crc(&self, on_disk: u64, crc_on_disk: u32) -> Result<Option<u32>> {
        let checksum = self.checksum();
        let Some(start) = tail_start(self.block.length, checksum) else { return Ok(None) };
        if self.block.length == on_disk {
            return Ok(Some(crc_on_disk));
        }
        let chunk_end = start + checksum.bytes_per_checksum() as u64;
        let mut chunk = vec![0; (chunk_end.min(on_disk) - start) as usize];
        let doing = || format!("read the last chunk of {}", self.block);
        self.volume.check(self.data.read_exact_at(&mut chunk, start), doing)?;
        let expected =
            if on_disk < chunk_end { crc_on_disk } else { self.volume.check(self.meta.read_crc(start), doing)? };
        if crc32c(&chunk) != expected {
            return Err(DfsError::new(ErrorKind::Corrupt, format!("the last chunk of {} is corrupt", self.block)));
        }
        Ok(Some(crc32c(&chunk[..(self.block.length - start) as usize])))
    }

    /// The block, with the bytes that may be read as its length.
    pub(crate) fn block(&self) -> Block {
        self.block
    }

    /// How the replica is checksummed.
    pub(crate) fn checksum(&self) -> DataChecksum {
        self.meta.checksum()
    }

    /// The data file, for sending it without a copy.
    pub(crate) fn data(&self) -> &File {
        &self.data
    }

    /// Has the kernel forget what it cached of the replica, so that the next read asks the device. What cannot be forgotten
    /// (pages not written yet) stays.
    pub(crate) fn drop_cached(&self) {
        // Only advice: a kernel that does not take it costs memory, not correctness.
        for file in [&self.data, self.meta.file()] {
            let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }

    /// A file that ends too early is damage to this replica; other errors may be the device's.
    fn check<T>(&self, result: io::Result<T>, doing: impl FnOnce() -> String) -> Result<T> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(DfsError::new(ErrorKind::Corrupt, format!("{}: a file is too short", doing())))
            }
            result => self.volume.check(result, doing),
        }
    }

    /// Fills `out` with bytes from `offset` on; they must be below the block's length.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let result = self.data.read_exact_at(out, offset);
        self.check(result, || format!("read {} bytes at {offset} of {}", out.len(), self.block))
    }

    /// Fills `out` with the checksums of the chunks from the one with the byte at `offset` on. Those beyond the block's
    /// end must not be asked for.
    pub(crate) fn read_checksums(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let result = self.meta.read_checksums(offset, out);
        self.check(result, || format!("read checksums at {offset} of {}", self.block))?;
        let checksum = self.checksum();
        if let (Some(crc), Some(start)) = (self.tail_crc, tail_start(self.block.length, checksum)) {
            let first = offset / checksum.bytes_per_checksum() as u64;
            let at = (start / checksum.bytes_per_checksum() as u64).saturating_sub(first) as usize * 4;
            if let Some(entry) = out.get_mut(at..at + 4) {
                entry.copy_from_slice(&crc.to_be_bytes());
            }
        }
        Ok(())
    }
}

/// Where the last chunk starts, if the block ends inside it.
fn tail_start(length: u64, checksum: DataChecksum) -> Option<u64> {
    let inside = length % checksum.bytes_per_checksum() as u64;
    (inside != 0 && checksum.checksum_size() != 0).then(|| length - inside)
}
