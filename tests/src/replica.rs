//! Finalized replicas as they lie on the DataNodes' devices: a file of bytes, and the `.meta` file beside it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::cluster::Cluster;

/// Which block a replica is of, in which generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockName {
    /// Its id.
    pub id: u64,
    /// Its generation stamp.
    pub stamp: u64,
}

impl BlockName {
    /// Reads `blk_<id>_<stamp>`, whatever follows a dot.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, stamp) = text.strip_prefix("blk_")?.split('.').next()?.split_once('_')?;
        Some(Self { id: id.parse().ok()?, stamp: stamp.parse().ok()? })
    }
}

impl fmt::Display for BlockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blk_{}_{}", self.id, self.stamp)
    }
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Index of the DataNode that has it.
    pub datanode: usize,
    /// What it is a replica of.
    pub block: BlockName,
    /// File of the bytes.
    pub data: PathBuf,
    /// File of the checksums.
    pub meta: PathBuf,
    /// Bytes of data.
    pub length: u64,
}

/// Files of a DataNode's finalized replicas (not their meta files).
pub fn replica_files(cluster: &Cluster, datanode: usize) -> Vec<PathBuf> {
    let is_replica = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("blk_")
            && !name.ends_with(".meta")
            && path.components().any(|part| part.as_os_str() == "finalized")
    };
    let dirs = &cluster.datanodes[datanode].data_dirs;
    let entries = dirs.iter().flat_map(WalkDir::new).filter_map(Result::ok);
    let mut files: Vec<PathBuf> = entries.map(walkdir::DirEntry::into_path).filter(|path| is_replica(path)).collect();
    files.sort();
    files
}

/// All replicas of a DataNode that have both their files. What goes while we look is not there.
pub fn replicas(cluster: &Cluster, datanode: usize) -> Vec<Replica> {
    let mut metas: BTreeMap<PathBuf, BTreeMap<u64, (BlockName, PathBuf)>> = BTreeMap::new();
    let mut found = Vec::new();
    for data in replica_files(cluster, datanode) {
        let dir = data.parent().expect("a replica lies in a directory").to_owned();
        let metas = metas.entry(dir).or_insert_with_key(|dir| metas_in(dir));
        let Some((block, meta)) = id_of(&data).and_then(|id| metas.get(&id)) else { continue };
        let Ok(length) = std::fs::metadata(&data).map(|metadata| metadata.len()) else { continue };
        found.push(Replica { datanode, block: *block, data, meta: meta.clone(), length });
    }
    found
}

/// All replicas of all DataNodes.
pub fn all_replicas(cluster: &Cluster) -> Vec<Replica> {
    (0..cluster.datanodes.len()).flat_map(|datanode| replicas(cluster, datanode)).collect()
}

/// Id of the block that a file of bytes is a replica of.
pub fn id_of(data: &Path) -> Option<u64> {
    data.file_name()?.to_str()?.strip_prefix("blk_")?.parse().ok()
}

fn metas_in(dir: &Path) -> BTreeMap<u64, (BlockName, PathBuf)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let names = entries.filter_map(|entry| {
        let name = entry.file_name();
        let name = name.to_str().filter(|name| name.ends_with(".meta"))?;
        Some((BlockName::parse(name)?, entry.path()))
    });
    names.map(|(block, path)| (block.id, (block, path))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let block = BlockName { id: 7, stamp: 1001 };
        assert_eq!(BlockName::parse(&block.to_string()), Some(block));
        assert_eq!(BlockName::parse("blk_7_1001.meta"), Some(block));
        for other in ["blk_7", "blk_7_", "blk_a_1", "7_1001", ""] {
            assert_eq!(BlockName::parse(other), None, "{other}");
        }
        assert_eq!(id_of(Path::new("/x/blk_7")), Some(7));
        assert_eq!(id_of(Path::new("/x/blk_7_1001.meta")), None);
    }
}
