//! The SecondaryNameNode's directory.
//!
//! ```text
//! <dfs.namenode.checkpoint.dir>/
//!   in_use.lock
//!   current/
//!     VERSION                          the NameNode's cluster; storageType=SECONDARY_NAME_NODE
//!     fsimage_0000000000000001234      the last checkpoint; beside it, for a while, the image that the next one begins with
//!     merged.tmp                       the next checkpoint, until the NameNode has taken it or has one as new
//!     edits/                           what was fetched for the checkpoint being made
//! ```
//!
//! Nothing here is called on a runtime's thread. Every file is whole or absent. An older image goes only when the newer one, which
//! contains it, is on disk, has been read back, and was not refused by the NameNode: a lost one is restored from what is here.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dfs_common::disk;
use dfs_common::durable;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::TxId;
use dfs_common::storage_info::{StorageInfo, StorageType};
use dfs_proto::v1::ManifestFile;

use super::transfer::{check_name, io};
use crate::namenode::checkpoint::fold;
use crate::namenode::image::format::ImageReader;
use crate::namenode::image::records;
use crate::namenode::journal::EditReader;
use crate::namenode::storage_dir::{check_identity, image_path, list_images, lock, remove_temporary_files};

/// The next checkpoint. Its suffix marks it as unfinished.
const MERGED: &str = "merged.tmp";

/// The directory, locked for this process.
pub(super) struct CheckpointDir {
    root: PathBuf,
    current: PathBuf,
    edits: PathBuf,
    _lock: File,
}

/// The newest image in the directory.
pub(super) struct LastCheckpoint {
    /// Its last transaction.
    pub txid: TxId,
    /// How long ago it was made.
    pub age: Duration,
}

/// What image and edits came to.
pub(super) struct Merged {
    /// The image.
    pub path: PathBuf,
    /// Its last transaction.
    pub txid: TxId,
    /// There were edits: it is not the image that was fetched, and has no name yet.
    pub is_new: bool,
}

impl CheckpointDir {
    /// Makes the directory when it is not there, locks it, and removes what was never finished.
    ///
    /// # Errors
    /// `Busy` when another daemon has it; `WrongCluster` when it is a NameNode's or a DataNode's; else of writing.
    pub(super) fn open(root: &Path) -> Result<Self> {
        durable::create_dir_all(root).map_err(io("create", root))?;
        let lock = lock(root)?;
        let current = root.join("current");
        let edits = current.join("edits");
        if let Some(info) = StorageInfo::load(&current.join("VERSION"))?
            && info.storage_type != StorageType::SecondaryNameNode
        {
            return Err(DfsError::new(
                ErrorKind::WrongCluster,
                format!("{} is the directory of another daemon; give the SecondaryNameNode its own", root.display()),
            ));
        }
        durable::create_dir_all(&edits).map_err(io("create", &edits))?;
        remove_temporary_files(&current)?;
        remove_temporary_files(&edits)?;
        Ok(Self { root: root.to_owned(), current, edits, _lock: lock })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where images are.
    pub(super) fn current(&self) -> &Path {
        &self.current
    }

    /// Where edits are.
    pub(super) fn edits(&self) -> &Path {
        &self.edits
    }

    /// Takes the directory into the NameNode's cluster, once; refuses another one's afterwards.
    ///
    /// # Errors
    /// `WrongCluster` naming both.
    pub(super) fn adopt(&self, info: &StorageInfo) -> Result<()> {
        let path = self.current.join("VERSION");
        match StorageInfo::load(&path)? {
            None => info.store(&path),
            Some(mut own) if (StorageInfo { layout_version: info.layout_version, ..own.clone() }) == *info => {
                own.upgrade(&path).map(drop)
            }
            Some(own) => Err(DfsError::new(
                ErrorKind::WrongCluster,
                format!(
                    "{} belongs to cluster {} (namespace {}), the NameNode to {} ({}); use another directory",
                    path.display(),
                    own.cluster_id,
                    own.namespace_id,
                    info.cluster_id,
                    info.namespace_id
                ),
            )),
        }
    }

    /// The newest image, if there is one.
    ///
    /// # Errors
    /// Of reading the directory.
    pub(super) fn last_checkpoint(&self) -> Result<Option<LastCheckpoint>> {
        let Some(image) = list_images(&self.current)?.into_iter().next() else { return Ok(None) };
        let made =
            fs::metadata(&image.path).and_then(|metadata| metadata.modified()).map_err(io("look at", &image.path))?;
        // Of the future, by a clock that was set back: old enough.
        let age = made.elapsed().unwrap_or(Duration::MAX);
        Ok(Some(LastCheckpoint { txid: image.txid, age }))
    }

    /// Whether the NameNode's image is here already, as it is after every checkpoint but the first.
    ///
    /// # Errors
    /// Of a name that is none, or of reading.
    pub(super) fn has_image(&self, image: &ManifestFile) -> Result<bool> {
        check_name(image)?;
        let path = self.current.join(&image.name);
        if !fs::metadata(&path).is_ok_and(|metadata| metadata.len() == image.length) {
            return Ok(false);
        }
        match ImageReader::open(&path).and_then(ImageReader::verify) {
            Ok(header) => Ok(header.state_digest == image.state_digest),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!("{}; it is fetched again", error.chain());
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes what an earlier try has left and this one does not need: unfinished files, edits that are not in the manifest.
    ///
    /// # Errors
    /// Of removing.
    pub(super) fn begin(&self, manifest: &[ManifestFile]) -> Result<()> {
        remove_temporary_files(&self.current)?;
        self.forget_edits(manifest)
    }

    fn forget_edits(&self, manifest: &[ManifestFile]) -> Result<()> {
        let wanted: BTreeSet<&str> = manifest.iter().map(|file| file.name.as_str()).collect();
        for entry in fs::read_dir(&self.edits).map_err(io("list", &self.edits))? {
            let entry = entry.map_err(io("list", &self.edits))?;
            if !wanted.contains(entry.file_name().to_string_lossy().as_ref()) {
                disk::remove_file(&entry.path()).map_err(io("remove", &entry.path()))?;
            }
        }
        Ok(())
    }

    /// Merges the image and the edits that were fetched into a new image without a name, and reads that back.
    ///
    /// # Errors
    /// `Corrupt` when they do not fit, `WrongCluster` when the image is not of `info`; of reading and writing.
    pub(super) fn merge(&self, image: &ManifestFile, info: &StorageInfo) -> Result<Merged> {
        merge(&self.current.join(&image.name), &self.edits, &self.current, info)
    }

    /// Makes this the last checkpoint, and removes what it contains: all edits, all other images.
    ///
    /// # Errors
    /// Of renaming and removing.
    pub(super) fn keep_only(&self, merged: &Merged) -> Result<()> {
        let keep = image_path(&self.current, merged.txid);
        if merged.is_new {
            durable::rename(&merged.path, &keep).map_err(io("make", &keep))?;
        }
        self.forget_edits(&[])?;
        for image in list_images(&self.current)? {
            if image.path != keep {
                disk::remove_file(&image.path).map_err(io("remove", &image.path))?;
            }
        }
        Ok(())
    }
}

fn merge(image: &Path, edits: &Path, current: &Path, info: &StorageInfo) -> Result<Merged> {
    let header = ImageReader::open(image)?.header().clone();
    check_identity(info, &header, image)?;
    // A first pass over the edits tells where they end, which the new image's name and header say.
    let mut reader = EditReader::open(edits, info.namespace_id, &header)?;
    while reader.next_ops()?.is_some() {}
    let merged_header = reader.header_after(&header);
    let txid = merged_header.txid();
    if txid == header.txid() {
        return Ok(Merged { path: image.to_owned(), txid, is_new: false });
    }
    let path = current.join(MERGED);
    let mut reader = EditReader::open(edits, info.namespace_id, &header)?;
    fold(image, &mut reader, &merged_header, &path)?;
    // As a NameNode that starts from it will: what cannot be loaded must not take another image's place.
    records::load(&path)?;
    Ok(Merged { path, txid, is_new: true })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namenode::image::format::{ImageHeader, ImageWriter};

    #[test]
    fn an_image_of_another_state_is_not_the_namenodes() {
        let root = tempfile::tempdir().unwrap();
        let dir = CheckpointDir::open(root.path()).unwrap();
        let header = ImageHeader { last_txid: 7, state_digest: 5, ..ImageHeader::default() };
        let path = image_path(dir.current(), TxId(7));
        ImageWriter::create(&path, &header).unwrap().finish().unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let length = fs::metadata(&path).unwrap().len();
        let has =
            |length, state_digest| dir.has_image(&ManifestFile { name: name.clone(), length, state_digest }).unwrap();
        assert!(has(length, 5));
        assert!(!has(length, 6) && !has(length + 1, 5));
    }
}
