//! VERSION: the file that says to which cluster a storage directory belongs.
//!
//! HDFS's own form, a Java properties file, one `key=value` a line:
//!
//! ```text
//! namespaceID=1234567
//! clusterID=CID-...
//! blockpoolID=BP-...
//! storageType=NAME_NODE     (SECONDARY_NAME_NODE, DATA_NODE)
//! layoutVersion=2           (DataNode volumes: 1)
//! storageID=DS-...          (DataNode volumes)
//! datanodeUuid=...          (DataNode volumes)
//! ```
//!
//! A daemon refuses a directory whose cluster or namespace is not its own, and one whose layout is newer than it knows. An older
//! layout is read, and the directory is taken to the daemon's own before anything is written into it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::durable;
use crate::error::{DfsError, ErrorKind, Result};

/// Layout of the NameNode's directory, its edit log and its images, and of the SecondaryNameNode's copies. Rises with every kind
/// of operation or record and with every field that is added, so that no program reads what it would understand only in part.
///
/// 1: the first. 2: sectors of the log have marks; log and images carry a digest of the state; what is removed or over is taken
/// apart in steps, by ops that say how much each takes; holds name the life that has them.
pub const NAMENODE_LAYOUT: u32 = 2;
/// Layout of a DataNode's volume.
pub const DATANODE_LAYOUT: u32 = 1;
/// The first layout of either.
const FIRST_LAYOUT: u32 = 1;

/// Longest VERSION file that is read.
const VERSION_FILE_MAX: u64 = 64 * 1024;

/// Whose directory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageType {
    /// Image and edits.
    NameNode,
    /// A copy of them, as of the last checkpoint. A type of its own, so that no NameNode starts in it by mistake and hands
    /// out ids again that were handed out since.
    SecondaryNameNode,
    /// Blocks.
    DataNode,
}

impl StorageType {
    /// The layout that this program writes, and the newest it reads.
    pub fn layout(self) -> u32 {
        match self {
            Self::NameNode | Self::SecondaryNameNode => NAMENODE_LAYOUT,
            Self::DataNode => DATANODE_LAYOUT,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::NameNode => "NAME_NODE",
            Self::SecondaryNameNode => "SECONDARY_NAME_NODE",
            Self::DataNode => "DATA_NODE",
        }
    }
}

/// Content of a VERSION file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageInfo {
    /// Whose directory.
    pub storage_type: StorageType,
    /// `CID-...`: the cluster.
    pub cluster_id: String,
    /// The namespace within it.
    pub namespace_id: u32,
    /// `BP-...`: the namespace's blocks.
    pub block_pool_id: String,
    /// Format of the directory.
    pub layout_version: u32,
    /// `DS-...` of a DataNode's volume.
    pub storage_uuid: Option<String>,
    /// Identity of the DataNode, the same on all its volumes.
    pub datanode_uuid: Option<String>,
}

impl StorageInfo {
    /// Text of the VERSION file.
    pub fn encode(&self) -> String {
        let mut text = format!(
            "namespaceID={}\nclusterID={}\nblockpoolID={}\nstorageType={}\nlayoutVersion={}\n",
            self.namespace_id,
            self.cluster_id,
            self.block_pool_id,
            self.storage_type.as_str(),
            self.layout_version
        );
        for (key, value) in [("storageID", &self.storage_uuid), ("datanodeUuid", &self.datanode_uuid)] {
            if let Some(value) = value {
                text.push_str(&format!("{key}={value}\n"));
            }
        }
        text
    }

    /// Reads the text of a VERSION file.
    ///
    /// # Errors
    /// `InvalidArgument` naming the line or key that is wrong.
    pub fn decode(text: &str) -> Result<Self> {
        let bad = |what: String| DfsError::new(ErrorKind::InvalidArgument, what);
        let mut fields = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) = line.split_once('=').ok_or_else(|| bad(format!("line {line:?} has no '='")))?;
            fields.insert(key.trim(), value.trim().to_owned());
        }
        let take = |key: &str| fields.get(key).cloned().ok_or_else(|| bad(format!("key {key} is missing")));
        let number = |key: &str| -> Result<u32> {
            let value = take(key)?;
            value.parse().map_err(|_| bad(format!("{key}={value} is not a number")))
        };
        let storage_type = match take("storageType")?.as_str() {
            "NAME_NODE" => StorageType::NameNode,
            "SECONDARY_NAME_NODE" => StorageType::SecondaryNameNode,
            "DATA_NODE" => StorageType::DataNode,
            other => return Err(bad(format!("storageType={other} is unknown"))),
        };
        Ok(Self {
            storage_type,
            cluster_id: take("clusterID")?,
            namespace_id: number("namespaceID")?,
            block_pool_id: take("blockpoolID")?,
            layout_version: number("layoutVersion")?,
            storage_uuid: fields.get("storageID").cloned(),
            datanode_uuid: fields.get("datanodeUuid").cloned(),
        })
    }

    /// Reads `path`; `None` when there is no such file.
    ///
    /// # Errors
    /// Of reading; `InvalidArgument` when the file is not a VERSION file; `WrongCluster` when its layout is newer than this
    /// program knows.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        let length = match std::fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DfsError::io(format!("read {}", path.display()), error)),
        };
        let describe = |error: DfsError| {
            DfsError::new(error.kind(), format!("{} is not a valid VERSION file", path.display())).with_source(error)
        };
        if length > VERSION_FILE_MAX {
            return Err(describe(DfsError::new(ErrorKind::InvalidArgument, format!("it has {length} bytes"))));
        }
        let text =
            std::fs::read_to_string(path).map_err(|error| DfsError::io(format!("read {}", path.display()), error))?;
        let info = Self::decode(&text).map_err(describe)?;
        let known = FIRST_LAYOUT..=info.storage_type.layout();
        if !known.contains(&info.layout_version) {
            return Err(DfsError::new(
                ErrorKind::WrongCluster,
                format!(
                    "{} has layout version {}, this program knows {} to {}; use the program that wrote it, or a newer one",
                    path.display(),
                    info.layout_version,
                    known.start(),
                    known.end()
                ),
            ));
        }
        Ok(Some(info))
    }

    /// Raises an older layout to this program's, durably; true when it was older. To be called before anything else is written
    /// in the directory: from then on an older program refuses it, instead of misreading what is new.
    ///
    /// # Errors
    /// Of writing.
    pub fn upgrade(&mut self, path: &Path) -> Result<bool> {
        let layout = self.storage_type.layout();
        if self.layout_version >= layout {
            return Ok(false);
        }
        self.layout_version = layout;
        self.store(path).map(|()| true)
    }

    /// Writes `path` durably.
    ///
    /// # Errors
    /// Of writing.
    pub fn store(&self, path: &Path) -> Result<()> {
        durable::write_file(path, self.encode().as_bytes())
            .map_err(|error| DfsError::io(format!("write {}", path.display()), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> StorageInfo {
        StorageInfo {
            storage_type: StorageType::DataNode,
            cluster_id: "CID-1".into(),
            namespace_id: 7,
            block_pool_id: "BP-1".into(),
            layout_version: DATANODE_LAYOUT,
            storage_uuid: Some("DS-1".into()),
            datanode_uuid: Some("u".into()),
        }
    }

    #[test]
    fn decode_returns_what_encode_wrote() {
        assert_eq!(StorageInfo::decode(&sample().encode()).unwrap(), sample());
    }

    #[test]
    fn decode_names_what_is_missing() {
        let text = sample().encode().replace("clusterID", "clusterid");
        assert!(StorageInfo::decode(&text).unwrap_err().message().contains("clusterID"));
    }

    #[test]
    fn load_reads_older_layouts_and_refuses_newer_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("VERSION");
        assert!(StorageInfo::load(&path).unwrap().is_none());
        for storage_type in [StorageType::NameNode, StorageType::SecondaryNameNode, StorageType::DataNode] {
            for layout in [0, storage_type.layout() + 1] {
                StorageInfo { storage_type, layout_version: layout, ..sample() }.store(&path).unwrap();
                let error = StorageInfo::load(&path).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::WrongCluster);
                assert!(error.message().contains(&format!("layout version {layout}")), "{}", error.message());
            }
            for layout in FIRST_LAYOUT..=storage_type.layout() {
                StorageInfo { storage_type, layout_version: layout, ..sample() }.store(&path).unwrap();
                let mut info = StorageInfo::load(&path).unwrap().unwrap();
                assert_eq!(info.upgrade(&path).unwrap(), layout < storage_type.layout());
                assert_eq!(StorageInfo::load(&path).unwrap().unwrap().layout_version, storage_type.layout());
            }
        }
    }
}
