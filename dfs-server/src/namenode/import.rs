//! A lost NameNode's directory made anew from the SecondaryNameNode's: `dfs-server import-checkpoint`.
//!
//! ```text
//! 1. lock both directories; the NameNode's must be empty
//! 2. load the newest image that is whole, also one that was only fetched, and apply the edits fetched behind it
//! 3. prepare it to go on (namespace/restore.rs): counters jump, sessions end
//! 4. write VERSION (the same cluster), RESTORED, the image and an empty log into import.tmp; sync
//! 5. rename import.tmp to current
//! ```
//!
//! A crash before 5 leaves a directory in which nothing is, and the import is done again. In the
//! SecondaryNameNode's directory only the lock file is written. RESTORED keeps the NameNode in safe mode until somebody has looked.

use std::path::{Path, PathBuf};

use dfs_common::clock::{Clock, SystemClock};
use dfs_common::config_file::Config;
use dfs_common::disk;
use dfs_common::durable;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::storage_info::{StorageInfo, StorageType};

use super::daemon::name_dir;
use super::fold::apply_logged;
use super::image::format::{ImageHeader, ImageReader, LogPosition};
use super::image::records;
use super::journal::{self, EditReader};
use super::namespace::Namespace;
use super::storage_dir::{
    CURRENT, EDITS, FETCHED, IMPORTING, ImageFile, RESTORED, VERSION, check_identity, image_path, list_images, lock,
    lock_empty,
};

/// Terms of the journal that the lost NameNode may have begun since the checkpoint: one per start.
const TERM_JUMP: u64 = 1 << 20;

/// Makes the configured NameNode directory from the checkpoint in `from` (none: the configured one); says what it did.
///
/// # Errors
/// `AlreadyExists` when the directory holds a namespace or anything else; `NotFound` without a checkpoint; `Corrupt` when
/// no image in it is whole; `Busy` when a daemon uses either; of reading and writing.
pub fn import_checkpoint(config: &Config, from: Option<PathBuf>) -> Result<String> {
    let root = name_dir(config)?;
    let from = from.map_or_else(|| checkpoint_dir(config), Ok)?;
    let info = checkpoint_info(&from)?;
    let _source_lock = lock(&from)?;
    let _lock = lock_empty(&root)?;
    let (image, mut header, mut namespace) = load_newest(&from.join(CURRENT), &info)?;
    let edits = apply_edits(&from.join(CURRENT).join(EDITS), &info, &mut header, &mut namespace)?;
    let (txid, (files, directories, blocks)) = (namespace.counters().last_txid, namespace.counts());
    let clock = SystemClock;
    namespace.go_on_after_loss(clock.now_ns())?;
    header.last_txid = namespace.counters().last_txid.0;
    header.last_log = header.last_log.map(|last| LogPosition { term: last.term + TERM_JUMP, ..last });
    let report = format!(
        "imported {} and {edits} transactions behind it: everything up to transaction {txid}, \
         {files} files, {directories} directories, {blocks} blocks of cluster {}",
        image.path.display(),
        info.cluster_id
    );
    let storage_type = StorageType::NameNode;
    let info = StorageInfo { storage_type, layout_version: storage_type.layout(), ..info };
    write_dir(&root, &info, &header, &namespace, &report)?;
    Ok(format!("{report}\nstart the NameNode in {}; it is read-only until: dfs admin safemode leave", root.display()))
}

/// The configured directory of the SecondaryNameNode.
///
/// # Errors
/// `InvalidArgument` when there is not exactly one.
pub fn checkpoint_dir(config: &Config) -> Result<PathBuf> {
    match config.list("dfs.namenode.checkpoint.dir").as_slice() {
        [dir] => Ok(PathBuf::from(dir)),
        _ => Err(DfsError::new(ErrorKind::InvalidArgument, "set dfs.namenode.checkpoint.dir to one directory")),
    }
}

fn checkpoint_info(from: &Path) -> Result<StorageInfo> {
    let info = StorageInfo::load(&from.join(CURRENT).join(VERSION))?;
    info.filter(|info| info.storage_type == StorageType::SecondaryNameNode).ok_or_else(|| {
        DfsError::new(
            ErrorKind::NotFound,
            format!("{} is not the directory of a SecondaryNameNode that has seen its NameNode", from.display()),
        )
    })
}

/// The newest image that is whole. Damaged ones before it are told of, and left where they are. One that cannot be read gives way only
/// to another copy of it: nothing here makes up for it, as edits do for the NameNode, and it may well be given once it may be read.
fn load_newest(current: &Path, info: &StorageInfo) -> Result<(ImageFile, ImageHeader, Namespace)> {
    let (mut damaged, mut unread) = (None, None);
    let mut images = list_images(current)?;
    let fetched = current.join(FETCHED);
    if fetched.exists() {
        images.extend(list_images(&fetched)?);
        images.sort_by_key(|image| std::cmp::Reverse(image.txid));
    }
    for image in images {
        if unread.as_ref().is_some_and(|(txid, _)| *txid > image.txid) {
            break;
        }
        let loaded = ImageReader::open(&image.path)
            .and_then(|reader| check_identity(info, reader.header(), &image.path))
            .and_then(|()| records::load(&image.path));
        match loaded {
            Ok((header, namespace)) => return Ok((image, header, namespace)),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!("{}; an older one is looked for", error.chain());
                damaged.get_or_insert(error);
            }
            Err(error) if error.kind() == ErrorKind::Io => {
                unread.get_or_insert((image.txid, error));
            }
            Err(error) => return Err(error),
        }
    }
    if let Some((_, error)) = unread {
        let advice = "make the image readable, or move it away to import an older one";
        return Err(DfsError::new(ErrorKind::Io, advice).with_source(error));
    }
    Err(damaged.unwrap_or_else(|| {
        DfsError::new(
            ErrorKind::NotFound,
            format!("there is no image in {}: no checkpoint was made", current.display()),
        )
    }))
}

/// Applies what was fetched behind the image, when the SecondaryNameNode died before it had merged it; gives the number of
/// transactions. Edits that do not continue the image are left out: it is whole without them. Edits that this program does not
/// understand are not: a newer one can apply them.
fn apply_edits(edits: &Path, info: &StorageInfo, header: &mut ImageHeader, namespace: &mut Namespace) -> Result<u64> {
    let mut count = 0;
    let mut reader = match EditReader::open(edits, info.namespace_id, header) {
        Ok(reader) => reader,
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            tracing::warn!("no edits are applied: {}", error.chain());
            return Ok(0);
        }
        Err(error) => return Err(error),
    };
    loop {
        match reader.next_ops() {
            Ok(Some(logged)) => {
                apply_logged(namespace, &logged)?;
                count += logged.ops.len() as u64;
            }
            Ok(None) => break,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!("edits after transaction {} are left out: {}", header.last_txid + count, error.chain());
                break;
            }
            Err(error) => return Err(error),
        }
    }
    *header = reader.header_after(header);
    Ok(count)
}

fn write_dir(root: &Path, info: &StorageInfo, header: &ImageHeader, namespace: &Namespace, report: &str) -> Result<()> {
    let importing = root.join(IMPORTING);
    let context = |error| DfsError::io(format!("write {}", importing.display()), error);
    if importing.exists() {
        disk::remove_dir_all(&importing).map_err(context)?;
    }
    let edits = importing.join(EDITS);
    durable::create_dir_all(&edits).map_err(context)?;
    if let Some(last) = &header.last_log {
        journal::begin_after(&edits, last)?;
    }
    records::save(namespace, &image_path(&importing, header.txid()), header)?;
    durable::write_file(&importing.join(RESTORED), format!("{report}\n").as_bytes()).map_err(context)?;
    info.store(&importing.join(VERSION))?;
    let current = root.join(CURRENT);
    durable::rename(&importing, &current).map_err(|error| DfsError::io(format!("make {}", current.display()), error))
}

#[cfg(test)]
#[path = "import_tests.rs"]
pub(super) mod tests;
