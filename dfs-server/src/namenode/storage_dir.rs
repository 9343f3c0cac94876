//! The NameNode's directory: who may use it, what is in it, what may be thrown away.
//!
//! ```text
//! <dfs.namenode.name.dir>/
//!   in_use.lock                        locked by the running daemon; holds its pid
//!   current/
//!     VERSION                          cluster, namespace, block pool, layout
//!     RESTORED                         it was imported from a checkpoint, and nobody has said yet that it may go on
//!     fsimage_0000000000000001234      the state after transaction 1234 (image/format.rs)
//!     edits/                           the edit log (journal/)
//! ```
//!
//! `format` makes such a directory, once, under another name until it is whole; `open` locks it for a daemon. What ends in `.tmp`
//! was never finished: files are removed at open, a directory by the next one of its kind (`format`, `import`). The SecondaryNameNode's directory is laid out the same, but for its type. Images are immutable; the
//! newest few are kept (`dfs.namenode.num.checkpoints.retained`), and with them all edits that the oldest of them needs, so
//! that a damaged image costs time and nothing else.
//!
//! A directory of an older layout is only read until its images and edits were found good (`raise_layout`): when the start
//! fails, the older program can still start in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use dfs_common::disk;
use dfs_common::durable::{self, TEMPORARY_SUFFIX};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::TxId;
use dfs_common::storage_info::{StorageInfo, StorageType};
use tracing::{info, warn};

use super::image::format::{ImageHeader, ImageReader};
use super::new_identity::{check_cluster_id, new_storage_info};

pub(crate) const CURRENT: &str = "current";
pub(crate) const VERSION: &str = "VERSION";
pub(super) const RESTORED: &str = "RESTORED";
/// What an import that did not come to its end leaves behind.
pub(super) const IMPORTING: &str = "import.tmp";
/// What a format that did not come to its end leaves behind.
const FORMATTING: &str = "format.tmp";
const LOCK: &str = "in_use.lock";
pub(crate) const EDITS: &str = "edits";
/// In a SecondaryNameNode's directory: the NameNode's image that its next checkpoint begins with.
pub(crate) const FETCHED: &str = "fetched";
const IMAGE_PREFIX: &str = "fsimage_";
/// Appended to the name of an image that was found damaged, or that its device did not give: kept for whoever wants to look, never
/// read again.
const DAMAGED_SUFFIX: &str = ".damaged";
/// Digits of a number in a file name: enough for 2^63, so that names sort as numbers do (HDFS's width).
pub const NUMBER_DIGITS: usize = 19;
/// mkfs puts it into the root of a fresh ext file system, which is where a dedicated device's directory begins.
const LOST_AND_FOUND: &str = "lost+found";

/// An image in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFile {
    /// Last transaction it contains.
    pub txid: TxId,
    /// Where it is.
    pub path: PathBuf,
}

/// Images of no use, each with what is wrong with it.
pub type Useless = Vec<(ImageFile, DfsError)>;

/// What the newest image that is of use has given.
pub struct FirstOfUse<T> {
    /// None when no image is of use.
    pub served: Option<T>,
    /// The images before it.
    pub useless: Useless,
}

impl<T> FirstOfUse<T> {
    /// What was given, with the images before it. `None` when there is no image at all.
    ///
    /// # Errors
    /// What is wrong with the newest image, when none is of use.
    pub fn or_why(self) -> Result<Option<(T, Useless)>> {
        match self.served {
            Some(served) => Ok(Some((served, self.useless))),
            None => self.useless.into_iter().next().map_or(Ok(None), |(_, error)| Err(error)),
        }
    }
}

/// The directory, locked for this process.
#[derive(Debug)]
pub struct NameDir {
    root: PathBuf,
    /// The layout in it is this program's: VERSION says an older one until `raise_layout`.
    info: StorageInfo,
    /// Held until the directory is dropped; the kernel lets go of it when the process dies.
    _lock: File,
}

impl NameDir {
    /// Makes `root` the directory of a new namespace in the cluster `cluster_id` (none: a new one), durably; `fill` is given where
    /// images are, and writes the first one.
    ///
    /// # Errors
    /// `AlreadyExists` when it holds a namespace or foreign files; `Busy` when a daemon uses it; else of writing.
    pub fn format(
        root: &Path,
        cluster_id: Option<String>,
        fill: impl FnOnce(&Path, &StorageInfo) -> Result<()>,
    ) -> Result<StorageInfo> {
        let context = |error| DfsError::io(format!("format {}", root.display()), error);
        if let Some(cluster_id) = &cluster_id {
            check_cluster_id(cluster_id)?;
        }
        let _lock = lock_empty(root)?;
        let (current, formatting) = (root.join(CURRENT), root.join(FORMATTING));
        if formatting.exists() {
            disk::remove_dir_all(&formatting).map_err(context)?;
        }
        durable::create_dir_all(&formatting.join(EDITS)).map_err(context)?;
        let info = new_storage_info(cluster_id);
        fill(&formatting, &info)?;
        info.store(&formatting.join(VERSION))?;
        durable::rename(&formatting, &current).map_err(context)?;
        info!(directory = %root.display(), cluster = info.cluster_id, pool = info.block_pool_id, "formatted");
        Ok(info)
    }

    /// Locks and opens a formatted directory, and removes left-overs of what was never finished.
    ///
    /// # Errors
    /// `NotFound` when it is not formatted; `Busy` when another daemon has it; `WrongCluster` when it is a DataNode's or of
    /// a newer layout; else of reading.
    pub fn open(root: &Path) -> Result<Self> {
        let version = root.join(CURRENT).join(VERSION);
        let not_formatted = || {
            let why = match root.join(CURRENT).exists() {
                true => without_version(root),
                false => format!("{} is not a NameNode directory; run `dfs-server format` first", root.display()),
            };
            DfsError::new(ErrorKind::NotFound, why)
        };
        if !root.is_dir() {
            return Err(not_formatted());
        }
        let lock = lock(root)?;
        let mut info = StorageInfo::load(&version)?.ok_or_else(not_formatted)?;
        let foreign = match info.storage_type {
            StorageType::NameNode => None,
            StorageType::DataNode => Some("a DataNode; give the NameNode a directory of its own"),
            StorageType::SecondaryNameNode => Some(
                "a SecondaryNameNode; give the NameNode an empty directory and import this one into it: \
                 dfs-server import-checkpoint",
            ),
        };
        if let Some(whose) = foreign {
            return Err(DfsError::new(ErrorKind::WrongCluster, format!("{} belongs to {whose}", root.display())));
        }
        info.layout_version = info.storage_type.layout();
        let dir = Self { root: root.to_owned(), info, _lock: lock };
        remove_temporary_files(&dir.current())?;
        durable::create_dir_all(&dir.edits())
            .map_err(|error| DfsError::io(format!("create {}", dir.edits().display()), error))?;
        Ok(dir)
    }

    /// The directory as configured.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whose it is.
    pub fn info(&self) -> &StorageInfo {
        &self.info
    }

    /// Where VERSION and images are.
    pub fn current(&self) -> PathBuf {
        self.root.join(CURRENT)
    }

    /// Where the edit log is.
    pub fn edits(&self) -> PathBuf {
        self.current().join(EDITS)
    }

    /// Where the image up to `txid` is or will be.
    pub fn image_path(&self, txid: TxId) -> PathBuf {
        image_path(&self.current(), txid)
    }

    /// A header for an image of this namespace, without position.
    pub fn image_header(&self) -> ImageHeader {
        ImageHeader {
            cluster_id: self.info.cluster_id.clone(),
            namespace_id: self.info.namespace_id,
            block_pool_id: self.info.block_pool_id.clone(),
            ..ImageHeader::default()
        }
    }

    /// The images, newest first.
    ///
    /// # Errors
    /// Of reading the directory.
    pub fn images(&self) -> Result<Vec<ImageFile>> {
        list_images(&self.current())
    }

    /// Gives the images to `serve`, newest first, until one is of use. Those before it are only named: they are set aside when
    /// what was made of it has come to its end, and not when that fails after all, nor when none is of use.
    ///
    /// # Errors
    /// At once any that `is_its_fault` does not lay at the image's door; else of reading the directory.
    pub fn first_of_use<T>(
        &self,
        mut serve: impl FnMut(&ImageFile) -> Result<T>,
        is_its_fault: impl Fn(&ImageFile, &DfsError) -> bool,
    ) -> Result<FirstOfUse<T>> {
        let mut useless = Vec::new();
        for image in self.images()? {
            match serve(&image) {
                Ok(served) => return Ok(FirstOfUse { served: Some(served), useless }),
                Err(error) if is_its_fault(&image, &error) => useless.push((image, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(FirstOfUse { served: None, useless })
    }

    /// Gives the images to `load`, newest first, until one is accepted: the edits since the oldest kept image are there. Those
    /// before it, damaged or not given by their device, come with it, to be set aside when the edits are found good as well. `None`
    /// when there is no image at all.
    ///
    /// # Errors
    /// The first one when no image can be loaded, and at once any that is neither `Corrupt` nor `Io`.
    pub fn load_newest<T>(&self, mut load: impl FnMut(&Path) -> Result<T>) -> Result<Option<(T, Useless)>> {
        let load = |image: &ImageFile| self.check_header(image).and_then(|()| load(&image.path));
        self.first_of_use(load, |_, error| is_unusable(error))?.or_why()
    }

    /// Refuses an image of another cluster or namespace, or one whose name lies.
    ///
    /// # Errors
    /// `WrongCluster`, `Corrupt`; else of reading.
    pub fn check_header(&self, image: &ImageFile) -> Result<()> {
        let reader = ImageReader::open(&image.path)?;
        let header = reader.header();
        self.check_identity(header, &image.path)?;
        if header.txid() != image.txid {
            return Err(DfsError::new(
                ErrorKind::Corrupt,
                format!(
                    "image {} says it ends at transaction {}; it was renamed by somebody",
                    image.path.display(),
                    header.last_txid
                ),
            ));
        }
        Ok(())
    }

    /// Refuses an image header of another cluster or namespace.
    ///
    /// # Errors
    /// `WrongCluster` naming both.
    pub fn check_identity(&self, header: &ImageHeader, from: &Path) -> Result<()> {
        check_identity(&self.info, header, from)
    }

    /// Whether the namespace was imported from a checkpoint and waits to be told that it may go on.
    pub fn is_restored(&self) -> bool {
        self.current().join(RESTORED).exists()
    }

    /// It has been told.
    ///
    /// # Errors
    /// Of removing the mark: then it still waits.
    pub fn end_restore(&self) -> Result<()> {
        let path = self.current().join(RESTORED);
        let removed = match disk::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            removed => removed.and_then(|()| durable::sync_dir(&self.current())),
        };
        removed.map_err(|error| DfsError::io(format!("remove {}", path.display()), error))
    }

    /// Deletes all but the newest `retained` images.
    ///
    /// # Errors
    /// Of deleting.
    pub fn retire_images(&self, retained: usize) -> Result<()> {
        let images = self.images()?;
        let retired = images.get(retained.max(1)..).unwrap_or_default();
        // The oldest first: should it end in between, those that are left need the fewest edits.
        for image in retired.iter().rev() {
            disk::remove_file(&image.path)
                .map_err(|error| DfsError::io(format!("retire {}", image.path.display()), error))?;
            info!(image = %image.path.display(), "retired");
        }
        Ok(())
    }
}

/// Whether an image that gave this error is of no use, while an older one may be: it is damaged, or its device does not give it.
pub fn is_unusable(error: &DfsError) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Io)
}

/// Renames images that are of no use, so that they do not count among those that are kept: they are kept to be of use. To be
/// called when another one has served.
///
/// # Errors
/// Of renaming.
pub fn set_aside(useless: &Useless) -> Result<()> {
    for (image, why) in useless {
        let mut name = image.path.as_os_str().to_owned();
        name.push(DAMAGED_SUFFIX);
        warn!(image = %image.path.display(), error = why.chain(), "image set aside; an older one and more edits serve");
        durable::rename(&image.path, Path::new(&name))
            .map_err(|error| DfsError::io(format!("set {} aside", image.path.display()), error))?;
    }
    Ok(())
}

/// Refuses an image header of another cluster or namespace than `ours`.
///
/// # Errors
/// `WrongCluster` naming both.
pub fn check_identity(ours: &StorageInfo, header: &ImageHeader, from: &Path) -> Result<()> {
    let is_ours = (&ours.cluster_id, ours.namespace_id, &ours.block_pool_id)
        == (&header.cluster_id, header.namespace_id, &header.block_pool_id);
    if is_ours {
        return Ok(());
    }
    Err(DfsError::new(
        ErrorKind::WrongCluster,
        format!(
            "image {} is of cluster {}, namespace {}, pool {}; expected {}, {}, {}",
            from.display(),
            header.cluster_id,
            header.namespace_id,
            header.block_pool_id,
            ours.cluster_id,
            ours.namespace_id,
            ours.block_pool_id
        ),
    ))
}

/// Has VERSION in `current` say this program's layout. To be called when what is there was read, and before anything is written
/// that an older program would misread.
///
/// # Errors
/// Of reading and writing VERSION.
pub fn raise_layout(current: &Path) -> Result<()> {
    let version = current.join(VERSION);
    let Some(mut stored) = StorageInfo::load(&version)? else {
        return Err(DfsError::new(ErrorKind::NotFound, format!("{} is gone", version.display())));
    };
    let older = stored.layout_version;
    if stored.upgrade(&version)? {
        info!(from = older, to = stored.layout_version, "layout of the directory raised; older programs refuse it");
    }
    Ok(())
}

/// Where in `directory` the image up to `txid` is or will be.
pub fn image_path(directory: &Path, txid: TxId) -> PathBuf {
    directory.join(format!("{IMAGE_PREFIX}{:0NUMBER_DIGITS$}", txid.0))
}

/// The images in `directory`, newest first.
///
/// # Errors
/// Of reading the directory.
pub fn list_images(directory: &Path) -> Result<Vec<ImageFile>> {
    let context = |error| DfsError::io(format!("list {}", directory.display()), error);
    let mut images = Vec::new();
    disk::reads(directory);
    for entry in fs::read_dir(directory).map_err(context)? {
        let entry = entry.map_err(context)?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(IMAGE_PREFIX)).and_then(parse_number);
        if let Some(txid) = number {
            images.push(ImageFile { txid: TxId(txid), path: entry.path() });
        }
    }
    images.sort_by_key(|image| std::cmp::Reverse(image.txid));
    Ok(images)
}

/// The number written with exactly [`NUMBER_DIGITS`] digits.
pub fn parse_number(digits: &str) -> Option<u64> {
    if digits.len() != NUMBER_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// Removes what was being written when a process died.
///
/// # Errors
/// Of listing or removing.
pub fn remove_temporary_files(directory: &Path) -> Result<()> {
    let context = |error| DfsError::io(format!("clean up {}", directory.display()), error);
    for entry in fs::read_dir(directory).map_err(context)? {
        let entry = entry.map_err(context)?;
        let temporary = entry.file_name().to_str().is_some_and(|name| name.ends_with(TEMPORARY_SUFFIX));
        if temporary && entry.file_type().map_err(context)?.is_file() {
            info!(file = %entry.path().display(), "removed what was never finished");
            disk::remove_file(&entry.path()).map_err(context)?;
        }
    }
    Ok(())
}

/// Makes and locks a directory that nothing is in yet.
///
/// # Errors
/// `AlreadyExists` when it holds a namespace or foreign files; `Busy`; else of writing.
pub(super) fn lock_empty(root: &Path) -> Result<File> {
    durable::create_dir_all(root).map_err(|error| DfsError::io(format!("create {}", root.display()), error))?;
    // Before a lock file is made: a directory that is somebody else's stays as it was.
    refuse_unless_empty(root)?;
    let lock = lock(root)?;
    refuse_unless_empty(root)?;
    Ok(lock)
}

/// Locks a directory for this process, until the file is dropped.
///
/// # Errors
/// `Busy` naming who has it; else of writing the lock file.
pub fn lock(root: &Path) -> Result<File> {
    let path = root.join(LOCK);
    let context = |error| DfsError::io(format!("lock {}", path.display()), error);
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(context)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // The pid is only for the message; a daemon that has locked but not yet written leaves it empty.
            let _ = file.take(32).read_to_string(&mut holder);
            let holder = if holder.trim().is_empty() { "unknown" } else { holder.trim() };
            return Err(DfsError::new(
                ErrorKind::Busy,
                format!("{} is in use by process {holder}; stop it first or use another directory", root.display()),
            ));
        }
        Err(TryLockError::Error(error)) => return Err(context(error)),
    }
    file.set_len(0).map_err(context)?;
    file.rewind().map_err(context)?;
    write!(file, "{}", std::process::id()).map_err(context)?;
    Ok(file)
}

fn refuse_unless_empty(root: &Path) -> Result<()> {
    let context = |error| DfsError::io(format!("list {}", root.display()), error);
    for entry in fs::read_dir(root).map_err(context)? {
        let name = entry.map_err(context)?.file_name();
        if name == LOCK || name == LOST_AND_FOUND || name == IMPORTING || name == FORMATTING {
            continue;
        }
        if name == CURRENT {
            let why = match root.join(CURRENT).join(VERSION).exists() {
                true => format!(
                    "{} holds a namespace already; give an empty directory, or move that one away",
                    root.display()
                ),
                false => without_version(root),
            };
            return Err(DfsError::new(ErrorKind::AlreadyExists, why));
        }
        return Err(DfsError::new(
            ErrorKind::AlreadyExists,
            format!("{} is not empty: it has {}; give an empty directory", root.display(), name.display()),
        ));
    }
    Ok(())
}

/// An older program's format leaves such a directory when it is interrupted, but so does whoever removes the file from a namespace.
fn without_version(root: &Path) -> String {
    format!(
        "{} has no {VERSION}: its format was interrupted, or somebody has removed that file. If nothing was ever stored in it, remove \
         {CURRENT} and format it again; else bring the file back from a copy",
        root.join(CURRENT).display()
    )
}

#[cfg(test)]
#[path = "storage_dir_tests.rs"]
mod tests;
