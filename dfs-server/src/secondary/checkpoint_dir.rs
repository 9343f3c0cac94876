//! The SecondaryNameNode's directory.
//!
//! ```text
//! <dfs.namenode.checkpoint.dir>/
//!   in_use.lock
//!   current/
//!     VERSION                          the NameNode's cluster; storageType=SECONDARY_NAME_NODE
//!     fsimage_0000000000000001234      the last checkpoint
//!     merged.tmp                       the next checkpoint, until the NameNode has taken it or has one as new
//!     fetched/                         the NameNode's image that the next one begins with, if it is not the last checkpoint
//!     edits/                           what was fetched behind that image
//! ```
//!
//! Nothing here is called on a runtime's thread. Every file is whole or absent. An older image goes only when the newer one, which
//! contains it, is on disk, has been read back, and was not refused by the NameNode: a lost one is restored from what is here.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dfs_common::disk;
use dfs_common::durable::{self, TEMPORARY_SUFFIX};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::TxId;
use dfs_common::storage_info::{StorageInfo, StorageType};
use dfs_proto::v1::ManifestFile;

use super::transfer::{check_name, io};
use crate::namenode::fold::fold;
use crate::namenode::image::format::ImageReader;
use crate::namenode::image::records;
use crate::namenode::journal::EditReader;
use crate::namenode::storage_dir::{
    CURRENT, EDITS, FETCHED, VERSION, check_identity, image_path, is_unusable, list_images, lock,
    remove_temporary_files,
};

/// The next checkpoint. Its suffix marks it as unfinished.
const MERGED: &str = "merged.tmp";

/// The directory, locked for this process.
pub(super) struct CheckpointDir {
    root: PathBuf,
    current: PathBuf,
    fetched: PathBuf,
    edits: PathBuf,
    _lock: File,
}

/// The last checkpoint.
pub(super) struct LastCheckpoint {
    /// Its last transaction.
    pub txid: TxId,
    /// How long ago it was made. None by a clock that was set back.
    pub age: Option<Duration>,
}

/// What image and edits came to.
pub(super) struct Merged {
    /// The image.
    pub path: PathBuf,
    /// Its last transaction.
    pub txid: TxId,
    /// There were edits: it is not the NameNode's own image.
    pub is_new: bool,
}

impl CheckpointDir {
    /// Makes the directory when it is not there, locks it, and removes what was never finished.
    ///
    /// # Errors
    /// `Busy` when another daemon has it; `WrongCluster` when it is a NameNode's or a DataNode's, or has files and no VERSION; else of
    /// writing.
    pub(super) fn open(root: &Path) -> Result<Self> {
        durable::create_dir_all(root).map_err(io("create", root))?;
        let lock = lock(root)?;
        let current = root.join(CURRENT);
        let (fetched, edits) = (current.join(FETCHED), current.join(EDITS));
        let dir = Self { root: root.to_owned(), current, fetched, edits, _lock: lock };
        match StorageInfo::load(&dir.current.join(VERSION))? {
            None => dir.refuse_unknown_files()?,
            Some(info) if info.storage_type == StorageType::SecondaryNameNode => {}
            Some(_) => {
                let why = format!(
                    "{} is the directory of another daemon; give the SecondaryNameNode its own",
                    root.display()
                );
                return Err(DfsError::new(ErrorKind::WrongCluster, why));
            }
        }
        for directory in [&dir.current, &dir.fetched, &dir.edits] {
            durable::create_dir_all(directory).map_err(io("create", directory))?;
            remove_temporary_files(directory)?;
        }
        Ok(dir)
    }

    /// Without VERSION nobody knows whose files these are: they may be all that is left of a NameNode. Only VERSION itself may be half
    /// written, which it is before anything else is there.
    fn refuse_unknown_files(&self) -> Result<()> {
        let half_written = format!("{VERSION}{TEMPORARY_SUFFIX}");
        for directory in [&self.current, &self.fetched, &self.edits] {
            let entries = match fs::read_dir(directory) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries.map_err(io("list", directory))?,
            };
            for entry in entries {
                let path = entry.map_err(io("list", directory))?.path();
                if path == self.fetched || path == self.edits || path == self.current.join(&half_written) {
                    continue;
                }
                return Err(DfsError::new(
                    ErrorKind::WrongCluster,
                    format!(
                        "{} has no {VERSION}, but there is {}: bring {VERSION} back from a copy, or give the SecondaryNameNode an \
                         empty directory",
                        self.current.display(),
                        path.display()
                    ),
                ));
            }
        }
        Ok(())
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the last checkpoint is.
    #[cfg(test)]
    pub(super) fn current(&self) -> &Path {
        &self.current
    }

    /// Where images of the NameNode are put.
    pub(super) fn fetched(&self) -> &Path {
        &self.fetched
    }

    /// Where edits are.
    pub(super) fn edits(&self) -> &Path {
        &self.edits
    }

    /// Takes the directory into the NameNode's cluster, once; refuses another one's afterwards.
    ///
    /// # Errors
    /// `WrongCluster` naming both, or when there are files already.
    pub(super) fn adopt(&self, info: &StorageInfo) -> Result<()> {
        let path = self.current.join(VERSION);
        match StorageInfo::load(&path)? {
            None => {
                self.refuse_unknown_files()?;
                info.store(&path)
            }
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

    /// The last checkpoint, if there is one.
    ///
    /// # Errors
    /// Of reading the directory.
    pub(super) fn last_checkpoint(&self) -> Result<Option<LastCheckpoint>> {
        let Some(image) = list_images(&self.current)?.into_iter().next() else { return Ok(None) };
        let made =
            fs::metadata(&image.path).and_then(|metadata| metadata.modified()).map_err(io("look at", &image.path))?;
        Ok(Some(LastCheckpoint { txid: image.txid, age: made.elapsed().ok() }))
    }

    /// Where the NameNode's image is, when it is here already: as the last checkpoint, which it mostly is, or fetched by a try
    /// that came no further.
    ///
    /// # Errors
    /// Of a name that is none, or of reading.
    pub(super) fn find_image(&self, image: &ManifestFile) -> Result<Option<PathBuf>> {
        check_name(image)?;
        for directory in [&self.current, &self.fetched] {
            let path = directory.join(&image.name);
            if is_image(&path, image)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Removes what an earlier try has left and this one does not need: unfinished files, and edits that are not in the
    /// manifest. An image that was fetched stays until a newer one is here: it may be all that is left.
    ///
    /// # Errors
    /// Of removing.
    pub(super) fn begin(&self, edits: &[ManifestFile]) -> Result<()> {
        for directory in [&self.current, &self.fetched] {
            remove_temporary_files(directory)?;
        }
        remove_all_but(edits, &self.edits)
    }

    /// Removes all images that were only fetched, but for `image`, which is here.
    ///
    /// # Errors
    /// Of removing.
    pub(super) fn keep_fetched(&self, image: &ManifestFile) -> Result<()> {
        remove_all_but(std::slice::from_ref(image), &self.fetched)
    }

    /// Merges `image` and the edits that were fetched into a new image without a name, and reads that back.
    ///
    /// # Errors
    /// `Corrupt` when they do not fit, `WrongCluster` when the image is not of `info`; of reading and writing.
    pub(super) fn merge(&self, image: &Path, info: &StorageInfo) -> Result<Merged> {
        merge(image, &self.edits, &self.current, info)
    }

    /// Makes this the last checkpoint, and removes what it contains: all edits, all other images.
    ///
    /// # Errors
    /// Of renaming and removing.
    pub(super) fn keep_only(&self, merged: &Merged) -> Result<()> {
        let keep = image_path(&self.current, merged.txid);
        if merged.path != keep {
            durable::rename(&merged.path, &keep).map_err(io("make", &keep))?;
        }
        remove_all_but(&[], &self.edits)?;
        remove_all_but(&[], &self.fetched)?;
        for image in list_images(&self.current)? {
            if image.path != keep {
                disk::remove_file(&image.path).map_err(io("remove", &image.path))?;
            }
        }
        Ok(())
    }
}

/// Whether this is the NameNode's image, whole.
fn is_image(path: &Path, image: &ManifestFile) -> Result<bool> {
    if !fs::metadata(path).is_ok_and(|metadata| metadata.len() == image.length) {
        return Ok(false);
    }
    match ImageReader::open(path).and_then(ImageReader::verify) {
        Ok(header) => Ok(header.state_digest == image.state_digest),
        Err(error) if is_unusable(&error) => {
            tracing::warn!("{}; it is fetched again", error.chain());
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn remove_all_but(wanted: &[ManifestFile], directory: &Path) -> Result<()> {
    let wanted: BTreeSet<&str> = wanted.iter().map(|file| file.name.as_str()).collect();
    for entry in fs::read_dir(directory).map_err(io("list", directory))? {
        let entry = entry.map_err(io("list", directory))?;
        if !wanted.contains(entry.file_name().to_string_lossy().as_ref()) {
            disk::remove_file(&entry.path()).map_err(io("remove", &entry.path()))?;
        }
    }
    Ok(())
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
        records::load(image)?;
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
    fn a_directory_without_version_is_taken_only_when_nothing_is_in_it() {
        let root = tempfile::tempdir().unwrap();
        let info = StorageInfo {
            storage_type: StorageType::SecondaryNameNode,
            layout_version: StorageType::SecondaryNameNode.layout(),
            cluster_id: "CID-1".to_owned(),
            namespace_id: 1,
            block_pool_id: "BP-1".to_owned(),
            storage_uuid: None,
            datanode_uuid: None,
        };
        let dir = CheckpointDir::open(root.path()).unwrap();
        let (current, version) = (dir.current.clone(), dir.current.join(VERSION));
        drop(dir);
        // As a NameNode's log, or an image, that has lost its VERSION.
        for name in ["edits/edits_1", "fetched/fsimage_1", "fsimage_1"] {
            let file = current.join(name);
            fs::write(&file, "all that is left").unwrap();
            let error = CheckpointDir::open(root.path()).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::WrongCluster);
            assert!(error.message().contains(file.to_str().unwrap()), "{}", error.message());
            fs::remove_file(&file).unwrap();
        }
        fs::write(current.join(format!("{VERSION}{TEMPORARY_SUFFIX}")), "half of it").unwrap();
        let dir = CheckpointDir::open(root.path()).unwrap();
        dir.adopt(&info).unwrap();
        fs::write(current.join("edits/edits_1"), "edits").unwrap();
        drop(dir);
        // VERSION goes while it runs.
        let dir = CheckpointDir::open(root.path()).unwrap();
        fs::remove_file(&version).unwrap();
        assert_eq!(dir.adopt(&info).unwrap_err().kind(), ErrorKind::WrongCluster);
    }

    #[test]
    fn an_image_of_another_state_is_not_the_namenodes() {
        let root = tempfile::tempdir().unwrap();
        let dir = CheckpointDir::open(root.path()).unwrap();
        let header = ImageHeader { last_txid: 7, state_digest: 5, ..ImageHeader::default() };
        let path = image_path(dir.current(), TxId(7));
        ImageWriter::create(&path, &header).unwrap().finish().unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let length = fs::metadata(&path).unwrap().len();
        let found =
            |length, state_digest| dir.find_image(&ManifestFile { name: name.clone(), length, state_digest }).unwrap();
        assert_eq!(found(length, 5), Some(path));
        assert_eq!((found(length, 6), found(length + 1, 5)), (None, None));
    }
}
