//! A checkpoint: image + edits -> image, off the serving path (design D2).
//!
//! ```text
//! 1. finish the current segment; note the last applied entry X and transaction T
//! 2. fold the newest image and the edits after it, up to X, into fsimage_T.tmp    a thread of its own, no lock
//! 3. sync; compare it with our own state at T; rename to fsimage_T                 the image exists
//! 4. tell openraft of it                                                            a follower far behind gets it
//! 5. delete all but the newest images; purge edits that neither the oldest kept nor this one needs
//! ```
//!
//! A crash between any two steps leaves a directory that starts: left-overs are removed at the next open, edits are deleted
//! last. The SecondaryNameNode does step 2 elsewhere, and `adopt_image` the rest.
//!
//! A caller may give up. The thread that works for it then goes on to its end, and keeps the next checkpoint waiting so long.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_common::disk;
use dfs_common::durable;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::TxId;
use openraft::SnapshotMeta;
use tokio::sync::OwnedMutexGuard;
use tracing::info;

use super::Journal;
use super::contract::{Folder, Machine};
use super::edit_reader::{EditReader, decode_membership, encode_membership};
use super::log_index::LogIndex;
use super::raft_types::{Payload, log_id_of, position_of};
use super::state_machine::{AppliedTo, CurrentImage};
use crate::namenode::image::format::{IMAGE_LAYOUT, ImageHeader, ImageReader, LogPosition};
use crate::namenode::namespace::state_digest::StateDigest;
use crate::namenode::storage_dir::{FirstOfUse, ImageFile, NameDir, is_unusable, set_aside};

/// The right to make a checkpoint. Whoever works on one has it, also when nobody waits any more.
type Alone = OwnedMutexGuard<()>;

impl<M: Machine> Journal<M> {
    /// Makes an image of everything applied so far; returns its last transaction. Without new transactions the newest image
    /// is already that.
    ///
    /// # Errors
    /// Of folding and writing; the images and edits there were are untouched then.
    pub async fn checkpoint(&self) -> Result<TxId> {
        let alone = self.checkpointing.clone().lock_owned().await;
        let applied = self.state.applied.lock().clone();
        let dir = self.dir.clone();
        let (on_disk, alone) = on_own_thread(alone, move || newest_on_disk(&dir)).await?;
        // One that is not published is made again, and so is one that was set aside.
        if on_disk?.map_or(TxId(0), |image| image.txid).min(self.newest_image()) >= applied.txid {
            return Ok(applied.txid);
        }
        let Some(log_id) = applied.log_id else { return Ok(applied.txid) };
        self.io.roll().await?;
        let header = ImageHeader {
            last_txid: applied.txid.0,
            last_log: Some(position_of(&log_id)),
            membership: encode_membership(&applied.membership),
            state_digest: applied.digest.0,
            ..self.dir.image_header()
        };
        let out = self.dir.image_path(applied.txid);
        let log = self.index.lock().clone();
        let folder = self.options.folder.clone();
        let (folded, alone) = {
            let (dir, header, out) = (self.dir.clone(), header.clone(), out.clone());
            let edits =
                move |image: &ImageHeader| EditReader::of_index(&log, image.last_log, image.txid(), log_id.index + 1);
            on_own_thread(alone, move || fold_newest(&*folder, &dir, &edits, &header, &out)).await?
        };
        folded?;
        self.publish(&header, &out, alone).await?;
        Ok(applied.txid)
    }

    /// Last transaction in the image that was published last.
    pub fn newest_image(&self) -> TxId {
        self.state.image.lock().as_ref().map_or(TxId(0), |image| image.txid)
    }

    /// Takes an image made elsewhere of this journal's own edits, from the file `received` in the NameNode's directory.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged; `WrongCluster`; `Unsupported` when it is of another layout; `InvalidArgument` when it is not
    /// of this log, as far as that goes back, or its header names another state than this NameNode had at its transaction;
    /// `AlreadyExists` when it is none of these, but not newer than the newest image. The file is left to the caller then.
    pub async fn adopt_image(&self, received: &Path) -> Result<TxId> {
        let alone = self.checkpointing.clone().lock_owned().await;
        let candidate = Candidate {
            received: received.to_owned(),
            dir: self.dir.clone(),
            applied: self.state.applied.lock().clone(),
            log: self.index.lock().clone(),
        };
        let (adopted, alone) = on_own_thread(alone, move || candidate.adopt()).await?;
        let (header, path): (ImageHeader, PathBuf) = adopted?;
        self.publish(&header, &path, alone).await?;
        Ok(header.txid())
    }

    /// Steps 4 and 5.
    async fn publish(&self, header: &ImageHeader, path: &Path, alone: Alone) -> Result<()> {
        let Some(position) = header.last_log else { return Ok(()) };
        let log_id = log_id_of(&position);
        let image = CurrentImage {
            meta: SnapshotMeta {
                last_log_id: Some(log_id),
                last_membership: decode_membership(header)?,
                snapshot_id: header.last_txid.to_string(),
            },
            txid: header.txid(),
        };
        *self.state.image.lock() = Some(image);
        let stopped = |error| DfsError::new(ErrorKind::Unavailable, "the journal has stopped").with_source(error);
        self.raft.trigger().snapshot().await.map_err(stopped)?;
        self.wait_metrics(|metrics| metrics.snapshot >= Some(log_id)).await?;
        info!(image = %path.display(), txid = header.last_txid, entry = position.index, "checkpoint");
        let (dir, retained) = (self.dir.clone(), self.options.images_retained);
        let (retired, _alone) = on_own_thread(alone, move || retire_images(&dir, retained)).await?;
        if let Some(needed_after) = retired? {
            // openraft purges no further than the image that it knows.
            let upto = needed_after.index.min(position.index);
            self.raft.trigger().purge_log(upto).await.map_err(stopped)?;
            self.wait_metrics(|metrics| metrics.purged.is_some_and(|purged| purged.index >= upto)).await?;
        }
        Ok(())
    }

    async fn wait_metrics(
        &self,
        mut reached: impl FnMut(&openraft::RaftMetrics<super::NodeId, openraft::BasicNode>) -> bool,
    ) -> Result<()> {
        let mut metrics = self.metrics.clone();
        let seen = metrics.wait_for(|metrics| metrics.running_state.is_err() || reached(metrics)).await;
        match seen {
            Ok(metrics) if metrics.running_state.is_ok() => Ok(()),
            _ => Err(DfsError::new(ErrorKind::Unavailable, "the journal has stopped")),
        }
    }
}

/// An image pushed by somebody, and what it is judged by.
struct Candidate {
    received: PathBuf,
    dir: Arc<NameDir>,
    applied: AppliedTo,
    log: LogIndex,
}

impl Candidate {
    /// Gives the image its name when it is what this NameNode would have made itself.
    fn adopt(&self) -> Result<(ImageHeader, PathBuf)> {
        let header = self.judge()?;
        let path = self.dir.image_path(header.txid());
        // Durable before it takes the place of another one and of edits.
        durable::sync_file(&self.received)
            .map_err(|error| DfsError::io(format!("sync {}", self.received.display()), error))?;
        durable::rename(&self.received, &path)
            .map_err(|error| DfsError::io(format!("adopt {}", path.display()), error))?;
        Ok((header, path))
    }

    /// Refuses an image that is not whole, not of this log, of another state than ours was, or not newer.
    fn judge(&self) -> Result<ImageHeader> {
        let reader = ImageReader::open(&self.received)?;
        if reader.layout() != IMAGE_LAYOUT {
            let why =
                format!("it has layout {}, ours is {IMAGE_LAYOUT}: run the same version everywhere", reader.layout());
            return Err(self.refuse_as(ErrorKind::Unsupported, &why));
        }
        let header = reader.verify()?;
        self.dir.check_identity(&header, &self.received)?;
        // An image whose membership cannot be read would keep the NameNode from starting.
        decode_membership(&header)?;
        let position = header.last_log.ok_or_else(|| self.refuse("it names no log entry"))?;
        // Before it is said to be there already: whoever has pushed it then keeps it.
        let ours = self.our_digest(&header, position)?;
        // After edits of layout 1 neither side knows one.
        if StateDigest(header.state_digest).or_first() != ours.or_first() {
            return Err(
                self.refuse("the edits gave it another state than they gave this NameNode; are both the same version?")
            );
        }
        let Some(newest) = newest_on_disk(&self.dir)? else { return Ok(header) };
        if header.txid() <= newest.txid {
            let why = format!("it ends at transaction {}, ours at {}", header.txid(), newest.txid);
            return Err(self.refuse_as(ErrorKind::AlreadyExists, &why));
        }
        let last = match image_header(&newest.path) {
            Ok(newest) => newest.last_log,
            // The more reason to take another one.
            Err(error) if is_unusable(&error) => None,
            Err(error) => return Err(error),
        };
        if last.is_some_and(|last| last.index >= position.index) {
            return Err(self.refuse(&format!("its last entry {} is in an older image already", position.index)));
        }
        Ok(header)
    }

    /// The digest of our own state where the image ends: that of our image of the same end, else what the log says.
    fn our_digest(&self, header: &ImageHeader, position: LogPosition) -> Result<StateDigest> {
        if let Some(image) = self.dir.images()?.into_iter().find(|image| image.txid == header.txid()) {
            // Entries without operations may stand between, or the image is of no use: then the log tells.
            match image_header(&image.path) {
                Ok(ours) if ours.last_log == Some(position) => return Ok(StateDigest(ours.state_digest)),
                Err(error) if !is_unusable(&error) => return Err(error),
                _ => {}
            }
        }
        let has_applied = self.applied.log_id.is_some_and(|log_id| log_id.index >= position.index);
        if !has_applied || self.applied.txid < header.txid() {
            let why = format!("it ends at transaction {}, we have applied {}", header.txid(), self.applied.txid);
            return Err(self.refuse(&why));
        }
        if self.log.segments.first().is_none_or(|first| first.header.first_index > position.index) {
            let why = format!("our log does not go back to its last entry {}: begin with our image", position.index);
            return Err(self.refuse(&why));
        }
        let entry = self.log.entries(position.index, position.index + 1).next_entry()?;
        if entry.map(|entry| position_of(&entry.log_id)) != Some(position) {
            return Err(self.refuse(&format!("its last entry {} is another one in our log", position.index)));
        }
        self.digest_after(header, position.index)
    }

    /// The digest of our own state after the entry `index`: the batch that came next says it, unless it is of layout 1.
    fn digest_after(&self, header: &ImageHeader, index: u64) -> Result<StateDigest> {
        if self.applied.txid == header.txid() {
            return Ok(self.applied.digest);
        }
        let mut later = self.log.entries(index + 1, self.log.next_index);
        while let Some(entry) = later.next_entry()? {
            if let Payload::Normal(batch) = entry.payload {
                return Ok(batch.state_digest.unwrap_or_default());
            }
        }
        Ok(StateDigest::default())
    }

    fn refuse(&self, why: &str) -> DfsError {
        self.refuse_as(ErrorKind::InvalidArgument, why)
    }

    fn refuse_as(&self, kind: ErrorKind, why: &str) -> DfsError {
        DfsError::new(kind, format!("image {} is not taken: {why}", self.received.display()))
    }
}

/// The newest image that there is. Not the one that was published last: that may have been set aside since, or one was made whose
/// caller gave up before it was published.
fn newest_on_disk(dir: &NameDir) -> Result<Option<ImageFile>> {
    Ok(dir.images()?.into_iter().next())
}

/// Deletes all but the newest images that are of use, as far as their headers tell; gives the log entry that the oldest kept one ends
/// with. Edits up to it are not needed. Should none be of use, they are all that there is, and stay.
fn retire_images(dir: &NameDir, retained: usize) -> Result<Option<LogPosition>> {
    let retained = retained.max(1);
    let (mut kept, mut useless) = (Vec::new(), Vec::new());
    for image in dir.images()? {
        match image_header(&image.path) {
            Ok(header) => kept.push(header),
            Err(error) if is_unusable(&error) => useless.push((image, error)),
            Err(error) => return Err(error),
        }
        if kept.len() == retained {
            break;
        }
    }
    let Some(oldest) = kept.pop() else { return Ok(None) };
    set_aside(&useless)?;
    dir.retire_images(retained)?;
    Ok(oldest.last_log)
}

/// Folds from the newest image that is of use, or from none where the edits go back to the beginning, and gives the result its name.
/// Images that were of no use are set aside before that: one may have the same name.
fn fold_newest(
    folder: &dyn Folder,
    dir: &NameDir,
    edits: &dyn Fn(&ImageHeader) -> EditReader,
    header: &ImageHeader,
    out: &Path,
) -> Result<()> {
    // Under a name that no start takes for an image, until it was found right. The next start would remove it, too.
    let folded = out.with_extension("tmp");
    let remove = |_: &DfsError| drop(disk::remove_file(&folded));
    let from_image = |image: &ImageFile| {
        let base = image_header(&image.path)?;
        fold(folder, Some(&image.path), edits(&base), header, &folded).inspect_err(remove)
    };
    // Not the edits, nor what was being written.
    let is_its_fault =
        |image: &ImageFile, error: &DfsError| is_unusable(error) && trouble_of_image(&image.path) == Some(error.kind());
    let FirstOfUse { served, useless } = dir.first_of_use(from_image, is_its_fault)?;
    if served.is_none() {
        let from_none = fold(folder, None, edits(&ImageHeader::default()), header, &folded).inspect_err(remove);
        if let Err(error) = from_none {
            return Err(useless.into_iter().next().map_or(error, |(_, of_image)| of_image));
        }
    }
    set_aside(&useless).inspect_err(remove)?;
    durable::rename(&folded, out).map_err(|error| DfsError::io(format!("rename image to {}", out.display()), error))
}

/// What goes wrong when the whole image is read.
fn trouble_of_image(path: &Path) -> Option<ErrorKind> {
    ImageReader::open(path).and_then(ImageReader::verify).err().map(|error| error.kind())
}

fn image_header(path: &Path) -> Result<ImageHeader> {
    ImageReader::open(path).map(|reader| reader.header().clone())
}

fn fold(
    folder: &dyn Folder,
    image: Option<&Path>,
    mut edits: EditReader,
    header: &ImageHeader,
    folded: &Path,
) -> Result<()> {
    folder.fold(image, &mut edits, header, folded)?;
    let written = image_header(folded)?;
    // All edits must have gone into it, it must say so, and it must have come to the state that they gave us.
    let what = match (edits.next_ops()?.is_none(), &written == header) {
        (true, true) => return Ok(()),
        (true, false) if written.state_digest != header.state_digest => "gave another state than ours",
        _ => "is not complete",
    };
    Err(DfsError::new(ErrorKind::Internal, format!("the fold into {} {what}", folded.display())))
}

/// Blocking work of seconds to minutes gets a thread of its own; a runtime's are for short work. The thread has `alone` until
/// it ends: its caller may be gone before.
async fn on_own_thread<T: Send + 'static>(
    alone: Alone,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<(T, Alone)> {
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("checkpoint".into())
        .spawn(move || {
            // Nobody listens when the checkpoint was given up.
            let _ = done.send((work(), alone));
        })
        .map_err(|error| DfsError::io("start the checkpoint's thread", error))?;
    result.await.map_err(|_| DfsError::new(ErrorKind::Internal, "the checkpoint's thread panicked"))
}
