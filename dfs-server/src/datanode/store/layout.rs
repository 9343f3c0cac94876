//! Names of files and directories under a volume: HDFS's layout. The only place that knows it.
//!
//! ```text
//! in_use.lock                                    flock of the running daemon
//! current/VERSION                                which cluster, which DataNode, which volume
//! current/BP-.../tmp/                            copies on their way in; dropped at start
//! current/BP-.../orphaned/                       files that recovery could not explain; never served, never deleted
//! current/BP-.../doubted/<id>                    empty; a sync of this block's replica has failed
//! current/BP-.../doubted/all-noted               empty; every replica whose sync has failed is named beside it
//! current/BP-.../current/rbw/                    replicas being written, or waiting for recovery
//! current/BP-.../current/finalized/subdirA/subdirB/   A = id >> 16 & 31, B = id >> 8 & 31
//! ```
//!
//! In each: `blk_<id>` holds the bytes, `blk_<id>_<generation stamp>.meta` the checksums.

use std::path::{Path, PathBuf};

use dfs_common::ids::{BlockId, GenerationStamp};

/// Lock file of a volume.
pub(super) const LOCK_FILE: &str = "in_use.lock";
/// Everything but the lock is below.
pub(super) const CURRENT: &str = "current";
/// Identity of a volume, in `current`.
pub(super) const VERSION_FILE: &str = "VERSION";
/// How directories of block pools begin.
pub(super) const POOL_PREFIX: &str = "BP-";
/// Subdirectories on each of the two levels below `finalized`.
pub(super) const SUBDIRS: usize = 32;

const META_SUFFIX: &str = ".meta";

/// What a file's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileName {
    /// `blk_<id>`
    Data(BlockId),
    /// `blk_<id>_<gs>.meta`
    Meta(BlockId, GenerationStamp),
}

impl FileName {
    /// Reads a name; `None` when it is not one of ours.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("blk_")?;
        match rest.strip_suffix(META_SUFFIX) {
            None => Some(Self::Data(BlockId(number(rest)?))),
            Some(stem) => {
                let (id, stamp) = stem.split_once('_')?;
                Some(Self::Meta(BlockId(number(id)?), GenerationStamp(number(stamp)?)))
            }
        }
    }
}

/// A number as we write it: digits only, no leading zero, so that one replica has one name.
fn number(text: &str) -> Option<u64> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| canonical)
}

/// Name of the data file.
pub(super) fn data_name(id: BlockId) -> String {
    format!("blk_{id}")
}

/// Name of the metadata file.
pub(super) fn meta_name(id: BlockId, stamp: GenerationStamp) -> String {
    format!("blk_{id}_{stamp}{META_SUFFIX}")
}

/// Which subdirectory of each level holds a finalized replica.
pub(super) fn subdirs(id: BlockId) -> (usize, usize) {
    (((id.0 >> 16) & 31) as usize, ((id.0 >> 8) & 31) as usize)
}

/// Directories of one block pool on one volume.
#[derive(Debug)]
pub(super) struct PoolPaths {
    /// Copies on their way in.
    pub(super) tmp: PathBuf,
    /// What is set aside.
    pub(super) orphaned: PathBuf,
    /// Notes of replicas whose syncs have failed.
    pub(super) doubted: PathBuf,
    /// There as long as none of these notes is missing.
    pub(super) all_noted: PathBuf,
    /// Replicas being written.
    pub(super) rbw: PathBuf,
    /// Parent of the subdirectories.
    pub(super) finalized: PathBuf,
}

impl PoolPaths {
    /// The pool's directories below a volume's root.
    pub(super) fn new(root: &Path, pool: &str) -> Self {
        let base = root.join(CURRENT).join(pool);
        Self {
            tmp: base.join("tmp"),
            orphaned: base.join("orphaned"),
            doubted: base.join("doubted"),
            all_noted: base.join("doubted").join("all-noted"),
            rbw: base.join(CURRENT).join("rbw"),
            finalized: base.join(CURRENT).join("finalized"),
        }
    }

    /// Directory of a finalized replica.
    pub(super) fn finalized_dir(&self, id: BlockId) -> PathBuf {
        let (first, second) = subdirs(id);
        self.finalized_subdir(first, second)
    }

    /// Directory of finalized replicas by its numbers on the two levels.
    pub(super) fn finalized_subdir(&self, first: usize, second: usize) -> PathBuf {
        self.finalized_parent(first).join(format!("subdir{second}"))
    }

    /// Directory on the first level.
    pub(super) fn finalized_parent(&self, first: usize) -> PathBuf {
        self.finalized.join(format!("subdir{first}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_reads_what_is_written() {
        let (id, stamp) = (BlockId(1_073_741_825), GenerationStamp(1001));
        assert_eq!(FileName::parse(&data_name(id)), Some(FileName::Data(id)));
        assert_eq!(FileName::parse(&meta_name(id, stamp)), Some(FileName::Meta(id, stamp)));
        assert_eq!(meta_name(id, stamp), "blk_1073741825_1001.meta");
    }

    #[test]
    fn parse_refuses_other_names() {
        for name in ["", "blk_", "blk_1_2", "blk_x", "blk_01", "blk_1_.meta", "blk_1.meta", "blk_-1", "blk_+1", "dncp"]
        {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn subdirs_follow_hdfs() {
        assert_eq!(subdirs(BlockId(1_073_741_825)), (0, 0));
        assert_eq!(subdirs(BlockId(0x4000_0000 + 0x3_0500)), (3, 5));
        assert_eq!(subdirs(BlockId(u64::MAX)), (31, 31));
    }
}
