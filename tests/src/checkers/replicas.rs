//! All replicas of a block are the same bytes, with the checksums of these bytes, and there are as many as there should be; and
//! there is none of a block that no file has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use dfs_proto::data_transfer::meta_file::META_HEADER_LEN;
use dfs_proto::data_transfer::{ChecksumKind, MetaHeader};

use crate::cluster::Cluster;
use crate::replica::{BlockName, Replica, all_replicas, id_of, replica_files};

/// Whether every finalized block has `count` replicas, identical in data, generation and checksums, and each of them proven
/// by its checksums. A file of bytes without checksums is no replica.
///
/// # Errors
/// Naming the first block that has not.
pub fn check_identical(cluster: &Cluster, count: usize) -> Result<(), String> {
    check_replicas(&all_replicas(cluster), count)
}

/// A replica with its data and its checksum file.
type Content<'a> = (&'a Replica, Vec<u8>, Vec<u8>);

/// Whether these are `count` identical and proven replicas of each block.
///
/// # Errors
/// Naming the first block of which they are not.
pub fn check_replicas(replicas: &[Replica], count: usize) -> Result<(), String> {
    let mut blocks: BTreeMap<u64, Vec<Content<'_>>> = BTreeMap::new();
    for replica in replicas {
        let read = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        let (data, meta) = (read(&replica.data)?, read(&replica.meta)?);
        check_proven(&data, &meta).map_err(|why| format!("{}: {why}", replica.data.display()))?;
        blocks.entry(replica.block.id).or_default().push((replica, data, meta));
    }
    for (id, replicas) in blocks {
        if replicas.len() != count {
            return Err(format!("blk_{id} has {} replicas instead of {count}", replicas.len()));
        }
        let (first, data, meta) = &replicas[0];
        for (other, other_data, other_meta) in &replicas[1..] {
            if other.block != first.block {
                return Err(format!("{} beside {}", other.block, first.block));
            }
            if other_data != data || other_meta != meta {
                return Err(format!("the replicas of {} differ", first.block));
            }
        }
    }
    Ok(())
}

/// Whether the checksums are those of the data, of the kind that every replica of ours has.
fn check_proven(data: &[u8], meta: &[u8]) -> Result<(), String> {
    let header = MetaHeader::decode(meta).map_err(|error| error.to_string())?;
    if header.checksum.kind() != ChecksumKind::Crc32c {
        return Err("the header promises no checksums".to_owned());
    }
    let proven = header.checksum.verify(data, &meta[META_HEADER_LEN..]);
    proven.map_err(|offset| format!("the checksum of the chunk at {offset} is of other bytes"))
}

/// Whether the blocks on the devices are the blocks of the files, by name.
///
/// # Errors
/// What is on the devices and belongs to no file, and the other way round.
pub fn check_orphans(on_devices: &BTreeSet<BlockName>, of_files: &BTreeSet<BlockName>) -> Result<(), String> {
    let names = |blocks: Vec<&BlockName>| blocks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let orphans: Vec<_> = on_devices.difference(of_files).collect();
    let missing: Vec<_> = of_files.difference(on_devices).collect();
    if orphans.is_empty() && missing.is_empty() {
        return Ok(());
    }
    Err(format!("replicas of no file: [{}], blocks without a replica: [{}]", names(orphans), names(missing)))
}

/// Names of all blocks with a replica on some device. A file of bytes without checksums counts with generation 0, which no
/// block has, unless it is of a block in `damaged`: a DataNode leaves alone what it cannot explain.
pub fn blocks_on_devices(cluster: &Cluster, damaged: &BTreeSet<u64>) -> BTreeSet<BlockName> {
    let whole = all_replicas(cluster);
    let proven: BTreeSet<&Path> = whole.iter().map(|replica| replica.data.as_path()).collect();
    let files = (0..cluster.datanodes.len()).flat_map(|node| replica_files(cluster, node));
    let bare = files.filter(|file| !proven.contains(file.as_path())).filter_map(|file| id_of(&file));
    let bare = bare.filter(|id| !damaged.contains(id)).map(|id| BlockName { id, stamp: 0 });
    bare.chain(whole.iter().map(|replica| replica.block)).collect()
}

/// Names of the blocks of all files, as `dfs fsck --blocks` prints them.
pub fn blocks_of_files(fsck: &str) -> BTreeSet<BlockName> {
    fsck.split_ascii_whitespace().filter_map(BlockName::parse).collect()
}

/// Which part of a file is in the page cache.
///
/// # Errors
/// What fincore(1) says.
pub fn cached_share(path: &Path) -> io::Result<f64> {
    let output =
        Command::new("fincore").args(["--bytes", "--noheadings", "--output", "RES,SIZE"]).arg(path).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let sizes: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match sizes[..] {
        [cached, size] => Ok(cached / size.max(1.0)),
        _ => Err(io::Error::other(format!("fincore: {text}{}", String::from_utf8_lossy(&output.stderr)))),
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::data_transfer::DataChecksum;

    use super::*;

    const CHECKSUM: DataChecksum = DataChecksum::DEFAULT;

    fn make(dir: &Path, datanode: usize, stamp: u64, bytes: &[u8]) -> Replica {
        let block = BlockName { id: 7, stamp };
        let (data, meta) = (dir.join(format!("{datanode}-data")), dir.join(format!("{datanode}-meta")));
        let mut sums = vec![0; CHECKSUM.checksums_len(bytes.len())];
        CHECKSUM.compute(bytes, &mut sums);
        fs::write(&data, bytes).unwrap();
        fs::write(&meta, [&MetaHeader { checksum: CHECKSUM }.encode()[..], &sums].concat()).unwrap();
        Replica { datanode, block, data, meta, length: bytes.len() as u64 }
    }

    fn change(path: &Path, at: usize) {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    #[track_caller]
    fn refused(replicas: &[Replica], words: &str) {
        let why = check_replicas(replicas, 3).unwrap_err();
        assert!(why.contains(words), "{why}");
    }

    #[test]
    fn check_replicas_finds_every_way_to_differ() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = [9; 1300];
        let three = |bytes: &[u8]| [0, 1, 2].map(|datanode| make(dir.path(), datanode, 1001, bytes));
        let replicas = three(&bytes);
        check_replicas(&replicas, 3).unwrap();
        refused(&replicas[..2], "2 replicas instead of 3");
        change(&replicas[1].data, 600);
        refused(&replicas, "the chunk at 512");
        change(&three(&bytes)[1].meta, META_HEADER_LEN);
        refused(&replicas, "the chunk at 0");
        change(&three(&bytes)[2].meta, 0);
        refused(&replicas, "version");
        let mut none = fs::read(&three(&bytes)[2].meta).unwrap();
        none[2] = ChecksumKind::Null.code();
        fs::write(&replicas[2].meta, &none[..META_HEADER_LEN]).unwrap();
        refused(&replicas, "no checksums");
        three(&bytes);
        make(dir.path(), 2, 1001, &[8; 1300]);
        refused(&replicas, "differ");
        make(dir.path(), 2, 1001, &bytes[..1299]);
        refused(&replicas, "differ");
        let old = [replicas[0].clone(), replicas[1].clone(), make(dir.path(), 2, 1000, &bytes)];
        refused(&old, "blk_7_1000 beside blk_7_1001");
        fs::remove_file(&old[2].meta).unwrap();
        refused(&old, "2-meta");
    }

    #[test]
    fn check_orphans_names_what_has_no_counterpart() {
        let blocks = |ids: &[u64]| ids.iter().map(|id| BlockName { id: *id, stamp: 1 }).collect::<BTreeSet<_>>();
        check_orphans(&blocks(&[1, 2]), &blocks(&[1, 2])).unwrap();
        // As many of one as of the other.
        let why = check_orphans(&blocks(&[1, 3]), &blocks(&[1, 2])).unwrap_err();
        assert!(why.contains("no file: [blk_3_1]") && why.contains("replica: [blk_2_1]"), "{why}");
        let stale = BTreeSet::from([BlockName { id: 1, stamp: 2 }]);
        check_orphans(&blocks(&[1]), &stale).unwrap_err();
    }

    #[test]
    fn blocks_of_files_are_those_that_fsck_prints() {
        let text = "/a/f: blk_5_1001 (300 bytes) repl=3 of 3, OK\n/b: blk_6_1002 (1 bytes) repl=2 of 3, OK\nblocks 2\n";
        let names = [5, 6].map(|id| BlockName { id, stamp: 996 + id });
        assert_eq!(blocks_of_files(text), BTreeSet::from(names));
    }
}
