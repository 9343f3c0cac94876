//! Reading a replica: an open pair of files, how far they may be read, and checksums that fit what is read.
//!
//! A replica being written shows its first `acked` bytes. When they end inside a chunk, the entry on disk is the CRC of a
//! longer piece, and may be changing. Then the chunk is read once, proven by the CRC its writer holds in memory (or by its
//! final entry, when the writer is past the chunk), and the CRC of the visible part computed. What is sent is therefore
//! always vouched for by what the client sent.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_common::block::Block;
use dfs_common::checksum::crc32c;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::data_transfer::DataChecksum;

use super::disk::DiskFile;
use super::faults::is_shortage;
use super::meta_file::MetaFile;
use super::replica::OpenReplica;
use super::suspects::Suspects;
use super::volume::Volume;

/// Replicas up to this size are read from the device while their checksums are looked at: most readers want all of them.
const SMALL: u64 = 128 * 1024;

/// A replica opened for reading. Stays readable when the replica is finalized, extended or deleted.
#[derive(Debug)]
pub(crate) struct ReplicaReader {
    block: Block,
    files: Arc<ReplicaFiles>,
    volume: Arc<Volume>,
    /// CRC of the visible part of the last chunk, when that is not its entry.
    tail_crc: Option<u32>,
    /// Where to note that a finalized replica does not give what it should; `None` for whoever judges it himself.
    doubts: Option<(Arc<Suspects>, Arc<str>)>,
}

/// The open files of a replica.
#[derive(Debug)]
pub(crate) struct ReplicaFiles {
    data: DiskFile,
    meta: MetaFile,
    /// All checksums of a small finalized replica.
    small_sums: Option<Vec<u8>>,
    /// CRC of the last chunk of a larger one, when it is not whole: an append that comes later changes its entry.
    tail_crc: Option<u32>,
}

impl ReplicaFiles {
    /// Whether files that were kept open are still those of a replica so long: somebody may have removed or cut them.
    pub(super) fn are_of(&self, length: u64) -> bool {
        let is_there = |file: &DiskFile| file.stat().is_ok_and(|(_, links)| links > 0);
        self.data.stat().is_ok_and(|(data_len, links)| links > 0 && data_len == length) && is_there(self.meta.file())
    }

    /// Opens a finalized replica's files, by one of `DiskFile`'s functions. Those that do not have the lengths that they
    /// should are `InvalidData`.
    fn open_finalized(
        block: Block,
        paths: &(PathBuf, PathBuf),
        open: impl Fn(&Path) -> io::Result<DiskFile>,
    ) -> io::Result<Self> {
        let data = open(&paths.0)?;
        let (meta, small_sums) = if block.length <= SMALL {
            data.read_ahead();
            let (meta, sums) = MetaFile::open_with_checksums(&paths.1, open, block.length)?;
            (meta, Some(sums))
        } else {
            (MetaFile::open(&paths.1, open)?, None)
        };
        let lengths = (data.len()?, meta.file().len()?);
        if lengths != (block.length, meta.header().meta_len(block.length)) {
            let words = format!("data and checksums of {block} are {} and {} bytes long", lengths.0, lengths.1);
            return Err(io::Error::new(io::ErrorKind::InvalidData, words));
        }
        let tail_crc = match tail_start(block.length, meta.checksum()) {
            Some(start) if small_sums.is_none() => Some(meta.read_crc(start)?),
            _ => None,
        };
        Ok(Self { data, meta, small_sums, tail_crc })
    }

    fn read_checksums(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let checksum = self.meta.checksum();
        let from = (offset / checksum.bytes_per_checksum() as u64) as usize * checksum.checksum_size();
        match self.small_sums.as_ref().and_then(|sums| sums.get(from..from + out.len())) {
            Some(sums) => out.copy_from_slice(sums),
            None => self.meta.read_checksums(offset, out)?,
        }
        Ok(())
    }
}

impl ReplicaReader {
    /// Opens a finalized replica's files, see [`ReplicaFiles::open_finalized`].
    pub(super) fn open_finalized(
        block: Block,
        volume: Arc<Volume>,
        paths: &(PathBuf, PathBuf),
        open: impl Fn(&Path) -> io::Result<DiskFile>,
    ) -> io::Result<Self> {
        let files = Arc::new(ReplicaFiles::open_finalized(block, paths, open)?);
        Ok(Self::of_finalized(block, files, volume))
    }

    /// Reads a finalized replica whose files are open.
    pub(super) fn of_finalized(block: Block, files: Arc<ReplicaFiles>, volume: Arc<Volume>) -> Self {
        let tail_crc = files.tail_crc;
        Self { block, files, volume, tail_crc, doubts: None }
    }

    /// Its files, for the next reader.
    pub(super) fn files(&self) -> &Arc<ReplicaFiles> {
        &self.files
    }

    /// Has errors noted: the replica is then verified.
    pub(super) fn with_doubts(mut self, suspects: &Arc<Suspects>, pool: &Arc<str>) -> Self {
        self.doubts = Some((Arc::clone(suspects), Arc::clone(pool)));
        self
    }

    /// Opens what is visible of a replica that is not finalized.
    pub(super) fn open_growing(replica: &OpenReplica) -> Result<Self> {
        let volume = Arc::clone(&replica.volume);
        let files = replica.hold_files();
        let (visible, on_disk, crc) = {
            let state = replica.state();
            (replica.visible(&state), state.on_disk(), state.tail().crc)
        };
        let block = Block { id: replica.id, generation_stamp: files.generation_stamp, length: visible };
        let opened =
            DiskFile::open(&files.data).and_then(|data| Ok((data, MetaFile::open(&files.meta, DiskFile::open)?)));
        drop(files);
        let (data, meta) = volume.check(opened, || format!("open {block}"))?;
        let files = Arc::new(ReplicaFiles { data, meta, small_sums: None, tail_crc: None });
        let mut reader = Self { block, files, volume, tail_crc: None, doubts: None };
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
        self.volume.check(self.files.data.read_exact_at(&mut chunk, start), doing)?;
        let expected = if on_disk < chunk_end {
            crc_on_disk
        } else {
            self.volume.check(self.files.meta.read_crc(start), doing)?
        };
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
        self.files.meta.checksum()
    }

    /// The data file, for advice about it.
    pub(crate) fn data(&self) -> &DiskFile {
        &self.files.data
    }

    /// Whoever meets an error here has the replica verified, and the device looked at when it may be to blame.
    fn check<T>(&self, result: io::Result<T>, doing: impl FnOnce() -> String) -> Result<T> {
        if let Err(error) = &result
            && !is_shortage(error)
            && let Some((suspects, pool)) = &self.doubts
        {
            suspects.add(self.volume.index(), pool, self.block.id);
        }
        self.volume.check(result, doing)
    }

    /// Fills `out` with bytes from `offset` on; they must be below the block's length.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let result = self.files.data.read_exact_at(out, offset);
        self.check(result, || format!("read {} bytes at {offset} of {}", out.len(), self.block))
    }

    /// Fills `out` with the checksums of the chunks from the one with the byte at `offset` on. Those beyond the block's
    /// end must not be asked for.
    pub(crate) fn read_checksums(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let result = self.files.read_checksums(offset, out);
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
    (inside != 0).then(|| length - inside)
}
