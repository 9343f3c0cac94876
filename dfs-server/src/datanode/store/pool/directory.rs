//! A volume's finalized files compared with the records of them: what was done to its directories behind our back.
//!
//! ```text
//! record   data and checksum files                        then
//! yes      both, of the lengths they should have          as it should be
//! yes      one of them is gone                            the record goes, the NameNode is told; files are left alone
//! yes      other lengths                                  reported as corrupt: the NameNode decides
//! none     a whole pair                                   taken in and reported
//! none     anything else                                  left to the next start, which sets it aside
//! ```
//!
//! A second replica of a block that another volume has is left to the next start as well.
//!
//! Files are looked at without any lock, for a device may hang. A difference counts when the record was the same before and
//! after the files were looked at once more; writers and deleters change records before they touch files.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;

use dfs_common::block::Block;
use dfs_common::error::Result;
use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_proto::data_transfer::{DataChecksum, MetaHeader};
use tracing::{info, warn};

use super::super::events::EventKind;
use super::super::layout::{self, SUBDIRS};
use super::super::open_state::Place;
use super::super::recovery::{Found, FoundMeta, Verdict, decide};
use super::super::replica::{Condition, Entry, Finalized};
use super::super::scan::list_dir;
use super::super::volume::VolumeIndex;
use super::{Home, Pool, add_suspect, used};

/// What a comparison found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DirectoryFindings {
    /// Records compared.
    pub(crate) replicas: u64,
    /// Records whose files are gone.
    pub(crate) lost: u64,
    /// Files of wrong lengths.
    pub(crate) damaged: u64,
    /// Replicas without a record, taken in.
    pub(crate) found: u64,
    /// Files that are no replica.
    pub(crate) unexplained: u64,
}

/// Where files and record do not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    Lost,
    Damaged,
    Unrecorded { stamp: GenerationStamp, length: u64 },
    Unexplained,
}

/// The table.
fn compare(found: &Found, record: Option<&Finalized>) -> Option<Difference> {
    let checksum = DataChecksum::DEFAULT;
    let Some(record) = record else {
        return match decide(found, checksum.bytes_per_checksum() as u64) {
            (Verdict::None, leftovers) if leftovers.is_empty() => None,
            (Verdict::Finalized { stamp, length }, leftovers) if leftovers.is_empty() => {
                Some(Difference::Unrecorded { stamp, length })
            }
            _ => Some(Difference::Unexplained),
        };
    };
    let meta = found.metas.iter().find(|meta| meta.stamp == record.generation_stamp);
    let (Some(data), Some(meta)) = (found.finalized, meta) else { return Some(Difference::Lost) };
    let expected = MetaHeader { checksum }.meta_len(record.length);
    ((data, meta.length) != (record.length, expected)).then_some(Difference::Damaged)
}

impl Pool {
    /// See `ReplicaStore::compare_directory`.
    pub(in crate::datanode::store) fn compare_directory(
        &self,
        index: VolumeIndex,
        is_over: &dyn Fn() -> bool,
    ) -> Result<DirectoryFindings> {
        let mut findings = DirectoryFindings::default();
        let Some(home) = self.home(index) else { return Ok(findings) };
        let mut records = self.finalized_on(index);
        findings.replicas = records.len() as u64;
        let mut suspects: Vec<(BlockId, GenerationStamp)> = Vec::new();
        for number in 0..SUBDIRS * SUBDIRS {
            if is_over() {
                return Ok(findings);
            }
            let dir = home.1.paths.finalized_subdir(number / SUBDIRS, number % SUBDIRS);
            let mut found = HashMap::new();
            let listed = list_dir(&home.1.paths, &dir, Place::Finalized, &mut found);
            home.0.check(listed, || format!("list {}", dir.display()))?;
            for (id, files) in found {
                let record = records.remove(&id);
                if let Some(difference) = compare(&files, record.as_ref()) {
                    let stamp = match difference {
                        Difference::Unrecorded { stamp, .. } => stamp,
                        _ => files.metas.iter().map(|meta| meta.stamp).max().unwrap_or_default(),
                    };
                    suspects.push((id, stamp));
                }
            }
        }
        suspects.extend(records.iter().map(|(&id, record)| (id, record.generation_stamp)));
        if !suspects.is_empty() {
            // Under a device that is away lies an empty directory.
            home.0.check(home.0.probe(), || format!("write to {}", home.0.root().display()))?;
        }
        for (id, stamp) in suspects {
            self.settle(&home, id, stamp, &mut findings)?;
        }
        Ok(findings)
    }

    fn finalized_on(&self, index: VolumeIndex) -> BTreeMap<BlockId, Finalized> {
        let mut records = BTreeMap::new();
        self.walk(|id, entry| {
            if let Entry::Finalized(finalized) = entry
                && finalized.volume == index
            {
                records.insert(id, *finalized);
            }
        });
        records
    }

    /// Looks at one block again, and acts on what still does not agree.
    fn settle(&self, home: &Home, id: BlockId, stamp: GenerationStamp, findings: &mut DirectoryFindings) -> Result<()> {
        let (volume, dirs) = home;
        let entry = self.replicas.lock().get(&id).cloned();
        let record = match &entry {
            None => None,
            Some(Entry::Finalized(finalized)) if finalized.volume == volume.index() => Some(*finalized),
            // On its way somewhere, or a second one beside another volume's.
            Some(_) => return Ok(()),
        };
        let stamp = record.map_or(stamp, |record| record.generation_stamp);
        let looked = look(&dirs.paths.finalized_dir(id), id, stamp);
        let found = volume.check(looked, || format!("look at the files of blk_{id}"))?;
        let Some(difference) = compare(&found, record.as_ref()) else { return Ok(()) };
        let is_noted = dirs.is_noted(id);
        let mut replicas = self.replicas.lock();
        let is_same = match (replicas.get(&id), &record) {
            (None, None) => true,
            (Some(Entry::Finalized(now)), Some(record)) => now == record,
            _ => false,
        };
        // Whoever takes the replicas of a failed volume out may be past this one, and its files may be read from a cache.
        if !is_same || volume.is_failed() {
            return Ok(());
        }
        let block = |stamp, length| Block { id, generation_stamp: stamp, length };
        // Whoever serves a request waits for the map; nothing is logged before it is free.
        match (difference, record) {
            (Difference::Lost, Some(record)) => {
                let block = block(record.generation_stamp, record.length);
                replicas.remove(&id);
                volume.space.subtract(used(&record));
                self.publish(EventKind::Deleted, block, volume);
                drop(replicas);
                warn!(%block, volume = %volume.root().display(), "the files of a replica are gone; it is reported as deleted");
                findings.lost += 1;
            }
            (Difference::Damaged, Some(record)) => {
                let block = block(record.generation_stamp, record.length);
                drop(replicas);
                self.report_corrupt(block);
                warn!(%block, volume = %volume.root().display(), "the files of a replica have other lengths");
                findings.damaged += 1;
            }
            (Difference::Unrecorded { stamp, length }, None) => {
                let block = block(stamp, length);
                let finalized = Finalized {
                    generation_stamp: stamp,
                    length,
                    volume: volume.index(),
                    maybe_synced: true,
                    // Its files have been away, and a sync of them had failed before.
                    condition: if is_noted { Condition::Suspect } else { Condition::Sound },
                };
                let entry = Entry::Finalized(finalized);
                add_suspect(&self.suspects, &self.name, id, &entry);
                replicas.insert(id, entry);
                volume.space.add(used(&finalized));
                self.publish(EventKind::Received, block, volume);
                drop(replicas);
                info!(%block, volume = %volume.root().display(), "a replica without a record is taken in");
                findings.found += 1;
            }
            _ => {
                drop(replicas);
                warn!(block = %id, dir = %dirs.paths.finalized_dir(id).display(), "files that are no whole replica");
                findings.unexplained += 1;
            }
        }
        Ok(())
    }
}

/// The files that a replica of this generation stamp has.
fn look(dir: &Path, id: BlockId, stamp: GenerationStamp) -> io::Result<Found> {
    let length = |name: String| match fs::metadata(dir.join(name)) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let finalized = length(layout::data_name(id))?;
    let meta = length(layout::meta_name(id, stamp))?;
    let metas = meta.map(|length| FoundMeta { place: Place::Finalized, stamp, length });
    Ok(Found { finalized, rbw: None, metas: metas.into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compare_is_this_table() {
        use Difference::{Damaged, Lost, Unexplained, Unrecorded};
        let stamp = GenerationStamp(1001);
        let (volume, condition) = (VolumeIndex(0), Condition::Sound);
        let record = Finalized { generation_stamp: stamp, length: 600, volume, maybe_synced: true, condition };
        let whole = MetaHeader { checksum: DataChecksum::DEFAULT }.meta_len(600);
        let older = GenerationStamp(1000);
        // data, checksum files, with a record, without
        for (data, metas, recorded, unrecorded) in [
            (Some(600), vec![(stamp, whole)], None, Some(Unrecorded { stamp, length: 600 })),
            (Some(600), vec![(stamp, whole), (older, whole)], None, Some(Unexplained)),
            (Some(600), vec![], Some(Lost), Some(Unexplained)),
            (None, vec![(stamp, whole)], Some(Lost), Some(Unexplained)),
            (None, vec![], Some(Lost), None),
            (Some(600), vec![(older, whole)], Some(Lost), Some(Unrecorded { stamp: older, length: 600 })),
            (Some(599), vec![(stamp, whole)], Some(Damaged), Some(Unrecorded { stamp, length: 599 })),
            (Some(600), vec![(stamp, whole - 4)], Some(Damaged), Some(Unexplained)),
        ] {
            let metas = metas.iter().map(|&(stamp, length)| FoundMeta { place: Place::Finalized, stamp, length });
            let found = Found { finalized: data, rbw: None, metas: metas.collect() };
            assert_eq!(compare(&found, Some(&record)), recorded, "{found:?}");
            assert_eq!(compare(&found, None), unrecorded, "{found:?}");
        }
    }
}
