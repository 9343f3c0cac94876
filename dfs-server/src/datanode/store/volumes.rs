//! The node's volumes together: whose they are, which one takes the next replica, which ones still work.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::storage_info::{DATANODE_LAYOUT, StorageInfo, StorageType};
use dfs_common::units::ByteCount;
use parking_lot::{Mutex, RwLock};
use tracing::{error, info, warn};

use super::layout::{CURRENT, POOL_PREFIX, VERSION_FILE};
use super::space::Space;
use super::volume::{Suspicion, Volume, VolumeIndex};

/// How long bytes that nobody was promised are waited for on a volume that has failed: as long as the NameNode waits for those
/// of a DataNode that is dead.
const AWAY_FOR: Duration = Duration::from_secs(3600);
/// Room a volume must have to take a new replica. A block's length is not known when it begins, so this only keeps nearly
/// full volumes from being chosen; growing replicas look again every few MiB.
const ROOM_FOR_NEW_REPLICA: ByteCount = ByteCount(1 << 20);
/// Devices that work answer a probe within this, even when they are busy.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);
/// Volumes of one DataNode.
const VOLUMES_MAX: usize = 256;

/// Whose blocks these are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `CID-...`
    pub(crate) cluster_id: String,
    /// The namespace.
    pub(crate) namespace_id: u32,
    /// `BP-...`
    pub(crate) block_pool_id: String,
}

/// A volume as heartbeats tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeReport {
    /// `DS-...`; empty for one that failed before its VERSION could be read.
    pub(crate) storage_uuid: Arc<str>,
    /// Its directory.
    pub(crate) path: PathBuf,
    /// Bytes; zeros when failed.
    pub(crate) space: Space,
    /// Taken out.
    pub(crate) failed: bool,
}

/// All volumes.
#[derive(Debug)]
pub(crate) struct Volumes {
    /// By index. A volume that comes back is a new one in the old one's place: writers of the old one notice nothing of it.
    all: RwLock<Vec<Arc<Volume>>>,
    reserved: ByteCount,
    datanode_uuid: String,
    /// What the VERSION files say, once there are any.
    cluster_id: Mutex<Option<String>>,
    next: AtomicUsize,
    suspicion: Arc<Suspicion>,
}

impl Volumes {
    /// Takes every directory; one that cannot be used becomes a failed volume.
    ///
    /// # Errors
    /// When none can be used, or they do not belong together.
    pub(super) fn open(dirs: &[PathBuf], reserved: ByteCount) -> Result<Self> {
        if dirs.len() > VOLUMES_MAX {
            return Err(DfsError::new(
                ErrorKind::InvalidArgument,
                format!("dfs.datanode.data.dir names {} volumes, the limit is {VOLUMES_MAX}", dirs.len()),
            ));
        }
        let suspicion = Arc::new(Suspicion::default());
        let mut all = Vec::new();
        let mut first: Option<(PathBuf, StorageInfo)> = None;
        for (index, dir) in dirs.iter().enumerate() {
            let index = VolumeIndex(u16::try_from(index).expect("VOLUMES_MAX fits"));
            let (volume, info) = Volume::open(index, dir, reserved, Arc::clone(&suspicion));
            match info {
                Ok(Some(info)) => {
                    check_version(dir, &info, first.as_ref())?;
                    first.get_or_insert_with(|| (dir.clone(), info));
                }
                Ok(None) => info!(volume = %dir.display(), "empty volume, to be taken into use"),
                Err(cause) if cause.kind() == ErrorKind::WrongCluster => return Err(cause),
                Err(cause) => error!(volume = %dir.display(), "volume cannot be used: {}", cause.chain()),
            }
            volume
                .space
                .keep_known()
                .map_err(|error| DfsError::io("start the thread that asks a volume for its room", error))?;
            all.push(Arc::new(volume));
        }
        if all.iter().all(|volume| volume.is_failed()) {
            return Err(DfsError::new(
                ErrorKind::Io,
                "none of the directories in dfs.datanode.data.dir can be used; the log above says why for each",
            ));
        }
        let datanode_uuid = first.as_ref().and_then(|(_, info)| info.datanode_uuid.clone());
        let volumes = Self {
            all: RwLock::new(all),
            reserved,
            datanode_uuid: datanode_uuid.unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
            cluster_id: Mutex::new(None),
            next: AtomicUsize::new(0),
            suspicion,
        };
        if let Some((_, info)) = first {
            // New volumes beside old ones are of the same cluster; no NameNode is needed to know it.
            volumes.adopt(&Identity {
                cluster_id: info.cluster_id,
                namespace_id: info.namespace_id,
                block_pool_id: info.block_pool_id,
            })?;
        }
        Ok(volumes)
    }

    /// Names of the pools that lie on the volumes. One that cannot be listed is taken out.
    pub(super) fn pools_on_disk(&self) -> BTreeSet<String> {
        let mut pools = BTreeSet::new();
        for volume in self.good().filter(|volume| volume.is_formatted()) {
            match names_in(&volume.root().join(CURRENT)) {
                Ok(names) => pools.extend(names.into_iter().filter(|name| name.starts_with(POOL_PREFIX))),
                Err(cause) => {
                    error!(volume = %volume.root().display(), %cause, "volume failed while its block pools were listed");
                    volume.fail();
                }
            }
        }
        pools
    }

    /// Fails while a volume is out that was in use less than `AWAY_FOR` ago, or should have been when the daemon started: it may have
    /// what none of the others has.
    pub(super) fn check_all_there(&self) -> Result<()> {
        let away = self.all().into_iter().find(|volume| volume.failed_for().is_some_and(|time| time < AWAY_FOR));
        let Some(volume) = away else { return Ok(()) };
        let words = format!("volume {} of this DataNode has failed and may come back", volume.root().display());
        Err(DfsError::new(ErrorKind::Unavailable, words))
    }

    /// Checks that the volumes are this cluster's, and formats empty ones.
    ///
    /// # Errors
    /// `WrongCluster`.
    pub(super) fn adopt(&self, identity: &Identity) -> Result<()> {
        let mut known = self.cluster_id.lock();
        if let Some(cluster_id) = known.as_ref()
            && *cluster_id != identity.cluster_id
        {
            let roots: Vec<String> = self.good().map(|volume| volume.root().display().to_string()).collect();
            return Err(DfsError::new(
                ErrorKind::WrongCluster,
                format!(
                    "{} belongs to cluster {cluster_id}, the NameNode to {}; \
                     point dfs.datanode.data.dir or dfs.namenode.address elsewhere",
                    roots.join(", "),
                    identity.cluster_id
                ),
            ));
        }
        for volume in self.good().filter(|volume| !volume.is_formatted()) {
            let formatted = volume.format(&StorageInfo {
                storage_type: StorageType::DataNode,
                cluster_id: identity.cluster_id.clone(),
                namespace_id: identity.namespace_id,
                block_pool_id: identity.block_pool_id.clone(),
                layout_version: DATANODE_LAYOUT,
                storage_uuid: Some(format!("DS-{}", uuid::Uuid::new_v4())),
                datanode_uuid: Some(self.datanode_uuid.clone()),
            });
            match formatted {
                Ok(()) => {
                    info!(volume = %volume.root().display(), cluster = identity.cluster_id, "volume taken into use")
                }
                Err(cause) => {
                    error!(volume = %volume.root().display(), "volume failed while formatting: {}", cause.chain());
                    volume.fail();
                }
            }
        }
        *known = Some(identity.cluster_id.clone());
        Ok(())
    }

    /// Identity of this DataNode, the same on all volumes.
    pub(crate) fn datanode_uuid(&self) -> &str {
        &self.datanode_uuid
    }

    /// All volumes, failed ones too.
    pub(crate) fn all(&self) -> Vec<Arc<Volume>> {
        self.all.read().clone()
    }

    /// Volumes that work.
    pub(crate) fn good(&self) -> impl Iterator<Item = Arc<Volume>> + use<> {
        self.all().into_iter().filter(|volume| !volume.is_failed())
    }

    /// The volume of a new replica: the one asked for if it has room, else the next in turn that has; one that is
    /// silent only when no other has. `usable` says which volumes have the pool.
    ///
    /// # Errors
    /// `NoSpace` with the last volume's reason.
    pub(super) fn choose(&self, hint: Option<&str>, usable: impl Fn(VolumeIndex) -> bool) -> Result<Arc<Volume>> {
        let mut candidates: Vec<_> = self.good().filter(|volume| usable(volume.index())).collect();
        if !candidates.is_empty() {
            let turn = self.next.fetch_add(1, Ordering::Relaxed) % candidates.len();
            candidates.rotate_left(turn);
        }
        // Stable: in turn, but for these.
        candidates.sort_by_key(|volume| (volume.is_silent(), hint != Some(&*volume.storage_uuid())));
        let mut refusal = DfsError::new(ErrorKind::NoSpace, "no volume of this DataNode works and has the block pool");
        for volume in &candidates {
            match volume.require_space(ROOM_FOR_NEW_REPLICA) {
                Ok(()) => return Ok(Arc::clone(volume)),
                Err(cause) => refusal = cause,
            }
        }
        Err(refusal)
    }

    /// Has all checked soon: one of them hangs.
    pub(crate) fn suspect_all(&self) {
        self.good().for_each(|volume| volume.suspect());
    }

    /// Every volume as heartbeats tell of it. Waits for no device.
    pub(crate) fn reports(&self) -> Vec<VolumeReport> {
        let report = |volume: &Arc<Volume>| {
            let known = if volume.is_failed() { None } else { Some(volume.space.known()) };
            if known == Some(None) {
                volume.suspect();
            }
            let space = known.flatten();
            VolumeReport {
                storage_uuid: volume.storage_uuid(),
                path: volume.root().to_owned(),
                failed: volume.is_failed(),
                space: space.unwrap_or_default(),
            }
        };
        self.all.read().iter().map(report).collect()
    }

    /// Blocks until an error was met on a volume, or `patience` is over; true when one was.
    pub(super) fn wait_suspicion(&self, patience: Duration) -> bool {
        let mut raised = self.suspicion.raised.lock();
        if !*raised {
            self.suspicion.changed.wait_for(&mut raised, patience);
        }
        std::mem::take(&mut *raised)
    }

    /// Ends a wait for suspicions.
    pub(super) fn end_wait(&self) {
        *self.suspicion.raised.lock() = true;
        self.suspicion.changed.notify_all();
    }

    /// Writes a probe to the volumes that met errors, or to `all`; returns those that failed this one or an earlier one.
    pub(super) fn probe_suspects(&self, all: bool) -> Vec<VolumeIndex> {
        let mut failed = Vec::new();
        for volume in self.good() {
            if volume.take_suspicion() || all {
                volume.begin_look();
            }
        }
        let deadline = Instant::now() + PROBE_PATIENCE;
        for volume in self.good() {
            let Some(cause) = volume.find_failure(deadline) else { continue };
            error!(volume = %volume.root().display(), %cause, "volume failed, taking it out");
            if volume.fail() {
                failed.push(volume.index());
            }
        }
        if !failed.is_empty() && self.good().next().is_none() {
            warn!("no volume is left");
        }
        failed
    }

    /// What looks at a failed volume's device as it is now: locks and probes it, when it works again and is the volume that it
    /// was. `None` before the first NameNode was met.
    pub(super) fn reopening(&self, old: &Arc<Volume>) -> Option<impl FnOnce() -> Option<Arc<Volume>> + Send + use<>> {
        let known = self.cluster_id.lock().clone()?;
        let (reserved, suspicion, old) = (self.reserved, Arc::clone(&self.suspicion), Arc::clone(old));
        let datanode_uuid = self.datanode_uuid.clone();
        let others = self.all().into_iter().filter(|other| other.index() != old.index());
        let others: Vec<_> = others.map(|other| other.storage_uuid()).collect();
        Some(move || {
            // Before anything is written: the bare directory under a device that is away is no volume.
            let Ok(Some(_)) = StorageInfo::load(&old.root().join(CURRENT).join(VERSION_FILE)) else { return None };
            let (volume, Ok(Some(info))) = Volume::open(old.index(), old.root(), reserved, suspicion) else {
                return None;
            };
            let is_ours = info.storage_type == StorageType::DataNode
                && info.cluster_id == known
                && info.datanode_uuid.as_deref() == Some(&datanode_uuid)
                && (!old.is_formatted() || old.storage_uuid() == volume.storage_uuid())
                && !others.contains(&volume.storage_uuid());
            if !is_ours {
                warn!(volume = %old.root().display(), "what lies in a failed volume's place is another volume");
            }
            is_ours.then(|| Arc::new(volume))
        })
    }

    /// Puts a volume that came back, and whose replicas are loaded, into its old place.
    pub(super) fn put_back(&self, volume: Arc<Volume>) {
        info!(volume = %volume.root().display(), "volume is back");
        if let Err(cause) = volume.space.keep_known() {
            warn!(volume = %volume.root().display(), %cause, "its room will be told as it is now");
        }
        let at = usize::from(volume.index().0);
        if let Some(place) = self.all.write().get_mut(at) {
            *place = volume;
        }
    }
}

/// The names in a directory that can be those of pools.
fn names_in(dir: &Path) -> std::io::Result<Vec<String>> {
    let names = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
    names.filter_map(Result::transpose).collect()
}

/// Volumes of one node belong to one cluster and one DataNode.
fn check_version(dir: &Path, info: &StorageInfo, first: Option<&(PathBuf, StorageInfo)>) -> Result<()> {
    let wrong = |what: String| Err(DfsError::new(ErrorKind::WrongCluster, what));
    if info.storage_type != StorageType::DataNode {
        return wrong(format!("{} belongs to a NameNode, not to a DataNode", dir.display()));
    }
    if info.storage_uuid.is_none() || info.datanode_uuid.is_none() {
        return wrong(format!("VERSION in {} lacks storageID or datanodeUuid", dir.display()));
    }
    let Some((first_dir, first)) = first else { return Ok(()) };
    if info.cluster_id != first.cluster_id {
        return wrong(format!(
            "{} belongs to cluster {}, but {} to {}",
            dir.display(),
            info.cluster_id,
            first_dir.display(),
            first.cluster_id
        ));
    }
    if info.datanode_uuid != first.datanode_uuid {
        return wrong(format!("{} and {} belong to different DataNodes", dir.display(), first_dir.display()));
    }
    if info.storage_uuid == first.storage_uuid {
        return wrong(format!("{} is a copy of {}", dir.display(), first_dir.display()));
    }
    Ok(())
}
