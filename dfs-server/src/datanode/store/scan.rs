//! Finding a volume's replicas at start, and carrying out what `recovery` decides about them.
//!
//! Costs one readdir per directory and one stat per file; only replicas that wait for recovery are read. Volumes are
//! scanned in parallel, each by a thread of its own.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_common::error::{DfsError, Result};
use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_common::units::ByteCount;
use dfs_proto::data_transfer::DataChecksum;
use tracing::{info, warn};

use super::append_plan::Tail;
use super::aside::set_aside;
use super::disk::{self, DiskFile};
use super::faults::{is_damage, is_full, is_shortage};
use super::layout::{self, FileName, PoolPaths, SUBDIRS};
use super::meta_file::MetaFile;
use super::open_state::{OpenState, Place, Step};
use super::pool_dirs::{Doubts, PoolDirs};
use super::recovery::{Found, FoundMeta, Leftover, Verdict, decide, verified_prefix};
use super::replica::{Condition, Entry, Finalized, OpenKind, OpenReplica};
use super::volume::Volume;

/// Bytes at a replica's end that are verified before it waits for recovery. Older ones are most likely on the device, since the
/// writer has the kernel start writing them every few MiB; readers and recoveries verify them anyway.
const VERIFY_WINDOW: u64 = 32 << 20;

/// What one volume has of a pool.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) volume: Arc<Volume>,
    pub(super) dirs: Arc<PoolDirs>,
    pub(super) entries: Vec<(BlockId, Entry)>,
}

/// Scans one pool on one volume. None when the pool is new to it and finds no room: a full volume is no broken one.
///
/// # Errors
/// `Io`: the volume is then not usable.
pub(super) fn scan_volume(volume: &Arc<Volume>, pool: &str) -> Result<Option<Scanned>> {
    let fail = |error: io::Error| DfsError::io(format!("scan {pool} on volume {}", volume.root().display()), error);
    let (dirs, doubts) = match PoolDirs::open(volume.root(), pool) {
        Err(error) if is_full(&error) && !PoolPaths::new(volume.root(), pool).finalized.is_dir() => {
            let volume = volume.root().display();
            warn!(%volume, pool, "the volume is full and takes no block pool that is new to it before the next start");
            return Ok(None);
        }
        opened => opened.map_err(fail)?,
    };
    let dirs = Arc::new(dirs);
    let mut scan = Scan { volume, dirs: &dirs, doubts, entries: Vec::new() };
    scan.run().map_err(fail)?;
    let Scan { doubts, entries, .. } = scan;
    dirs.settle_doubts(doubts, entries.iter().map(|(id, _)| *id));
    Ok(Some(Scanned { volume: Arc::clone(volume), dirs, entries }))
}

struct Scan<'a> {
    volume: &'a Arc<Volume>,
    dirs: &'a Arc<PoolDirs>,
    doubts: Doubts,
    entries: Vec<(BlockId, Entry)>,
}

impl Scan<'_> {
    fn run(&mut self) -> io::Result<()> {
        let paths = &self.dirs.paths;
        let mut open = HashMap::new();
        list_dir(paths, &paths.rbw, Place::Rbw, &mut open)?;
        for first in 0..SUBDIRS {
            if !paths.finalized_parent(first).is_dir() {
                continue;
            }
            for second in 0..SUBDIRS {
                let mut found = HashMap::new();
                list_dir(paths, &paths.finalized_subdir(first, second), Place::Finalized, &mut found)?;
                for (id, found) in found {
                    let found = match open.remove(&id) {
                        Some(in_rbw) => merge(found, in_rbw),
                        None => found,
                    };
                    self.settle(id, &found)?;
                }
            }
        }
        for (id, found) in open {
            self.settle(id, &found)?;
        }
        Ok(())
    }

    fn settle(&mut self, id: BlockId, found: &Found) -> io::Result<()> {
        let (verdict, leftovers) = decide(found, DataChecksum::DEFAULT.bytes_per_checksum() as u64);
        for leftover in leftovers {
            self.clear(id, leftover)?;
        }
        match verdict {
            Verdict::None => {}
            Verdict::Finalized { stamp, length } => {
                let header = dfs_proto::data_transfer::MetaHeader { checksum: DataChecksum::DEFAULT };
                self.volume.space.add(ByteCount(length + header.meta_len(length)));
                let finalized = Finalized {
                    generation_stamp: stamp,
                    length,
                    volume: self.volume.index(),
                    maybe_synced: true,
                    condition: if self.doubts.take(id) { Condition::Suspect } else { Condition::Sound },
                };
                self.entries.push((id, Entry::Finalized(finalized)));
            }
            Verdict::Waiting { data, meta, stamp } => self.settle_waiting(id, data, meta, stamp)?,
        }
        Ok(())
    }

    fn settle_waiting(&mut self, id: BlockId, data: Place, meta: Place, stamp: GenerationStamp) -> io::Result<()> {
        let paths = &self.dirs.paths;
        let (data_name, meta_name) = (layout::data_name(id), layout::meta_name(id, stamp));
        let (data_path, meta_path) = (paths.rbw.join(&data_name), paths.rbw.join(&meta_name));
        if data != Place::Rbw {
            disk::rename(&place_dir(paths, id, data).join(&data_name), &data_path)?;
        }
        if meta != Place::Rbw {
            disk::rename(&place_dir(paths, id, meta).join(&meta_name), &meta_path)?;
        }
        match cut_to_verified(&data_path, &meta_path) {
            Ok(cut) => {
                info!(block = %id, %stamp, length = cut.length, "replica waits for recovery");
                self.volume.space.add(ByteCount(cut.length));
                let tail = Tail { length: cut.length, crc: cut.tail_crc };
                let mut state = OpenState::reopened(Place::Rbw, stamp, tail, true);
                if self.doubts.take(id) {
                    state.step(Step::SyncFailed);
                }
                let home = (Arc::clone(self.volume), Arc::clone(self.dirs));
                let replica = OpenReplica::new(id, OpenKind::Waiting, cut.checksum, home, state);
                self.entries.push((id, Entry::Open(Arc::new(replica))));
            }
            Err(error) if is_damage(&error) => {
                warn!(block = %id, %error, "checksum file is unreadable, replica set aside");
                set_aside(paths, &data_path)?;
                set_aside(paths, &meta_path)?;
            }
            Err(error) if !is_shortage(&error) && !is_full(&error) && self.volume.probe().is_ok() => {
                // One bad sector in what was never finished is no reason to do without the whole volume. A read past the page
                // cache tells of it by the device's own code, ENODATA for one.
                warn!(block = %id, %error, "replica cannot be read, set aside");
                set_aside(paths, &data_path)?;
                set_aside(paths, &meta_path)?;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn clear(&self, id: BlockId, leftover: Leftover) -> io::Result<()> {
        let paths = &self.dirs.paths;
        match leftover {
            Leftover::DropData(place) => remove(&place_dir(paths, id, place).join(layout::data_name(id))),
            Leftover::DropMeta(place, stamp) => remove(&place_dir(paths, id, place).join(layout::meta_name(id, stamp))),
            Leftover::SetDataAside(place) => set_aside(paths, &place_dir(paths, id, place).join(layout::data_name(id))),
        }
    }
}

/// Adds what a directory has to `out`; nothing when there is no such directory.
pub(super) fn list_dir(
    paths: &PoolPaths,
    dir: &Path,
    place: Place,
    out: &mut HashMap<BlockId, Found>,
) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let file_name = entry.file_name();
        let Some(name) = file_name.to_str().and_then(FileName::parse) else {
            warn!(path = %entry.path().display(), "ignoring a file that is no replica's");
            continue;
        };
        let length = match entry.metadata() {
            Ok(metadata) => metadata.len(),
            // Gone since it was listed: of a volume in use.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let id = match name {
            FileName::Data(id) | FileName::Meta(id, _) => id,
        };
        if place == Place::Finalized && paths.finalized_dir(id) != dir {
            warn!(path = %entry.path().display(), "ignoring a replica in the wrong subdirectory");
            continue;
        }
        let found = out.entry(id).or_default();
        match (name, place) {
            (FileName::Data(_), Place::Finalized) => found.finalized = Some(length),
            (FileName::Data(_), _) => found.rbw = Some(length),
            (FileName::Meta(_, stamp), _) => found.metas.push(FoundMeta { place, stamp, length }),
        }
    }
    Ok(())
}

fn merge(mut found: Found, in_rbw: Found) -> Found {
    found.rbw = in_rbw.rbw;
    found.metas.extend(in_rbw.metas);
    found
}

fn place_dir(paths: &PoolPaths, id: BlockId, place: Place) -> PathBuf {
    match place {
        Place::Tmp => paths.tmp.clone(),
        Place::Rbw => paths.rbw.clone(),
        Place::Finalized => paths.finalized_dir(id),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    warn!(path = %path.display(), "removing what is left of a replica");
    disk::remove_file(path)
}

/// A replica cut to what its checksums prove.
struct Cut {
    length: u64,
    tail_crc: u32,
    checksum: DataChecksum,
}

fn cut_to_verified(data_path: &Path, meta_path: &Path) -> io::Result<Cut> {
    let data = DiskFile::open_writable(data_path)?;
    let meta = MetaFile::open(meta_path, DiskFile::open_writable)?;
    let (data_length, meta_length) = (data.len()?, meta.file().len()?);
    let checksum = meta.checksum();
    let chunk = checksum.bytes_per_checksum() as u64;
    let known = meta.header().data_len_max(meta_length).unwrap_or(0).min(data_length);
    // Not every sync that failed before this start need have been noted: what the page cache shows proves nothing.
    let (on_device, sums_on_device) =
        (DiskFile::open_device(data_path)?, MetaFile::open(meta_path, DiskFile::open_device)?);

    let mut end = known;
    let length = loop {
        let start = end.saturating_sub(VERIFY_WINDOW) / chunk * chunk;
        let mut bytes = vec![0; (end - start) as usize];
        on_device.read_exact_at(&mut bytes, start)?;
        let mut sums = vec![0; checksum.checksums_len(bytes.len())];
        sums_on_device.read_checksums(start, &mut sums)?;
        let proven = start + verified_prefix(&bytes, &sums, checksum, start / chunk) as u64;
        if proven > start || start == 0 {
            break proven;
        }
        end = start;
    };
    let inside = (length % chunk) as usize;
    let mut tail = vec![0; inside];
    on_device.read_exact_at(&mut tail, length - inside as u64)?;
    let tail_crc = if inside == 0 { 0 } else { dfs_common::checksum::crc32c(&tail) };
    if length < data_length {
        warn!(path = %data_path.display(), from = data_length, to = length, "cutting a replica to what is proven");
        data.set_len(length)?;
    }
    meta.file().set_len(meta.header().meta_len(length))?;
    if inside != 0 {
        meta.write_checksums(length, &tail_crc.to_be_bytes())?;
    }
    // Nothing of that need be on disk now: the checksums prove the same bytes whether the files are cut or not.
    Ok(Cut { length, tail_crc, checksum })
}
