//! One volume: a directory on a device of its own.
//!
//! ```text
//!              VERSION absent          first NameNode seen
//! directory ──────────────────▶ empty ────────────────────▶ good ──▶ failed
//!     │        VERSION of our cluster                         ▲        ▲
//!     ├───────────────────────────────────────────────────────┘        │
//!     └── missing, unwritable, locked ─────────────────────────────────┘
//! ```
//!
//! A failed volume stays failed. When its device works again (the same VERSION, a probe written), a new volume takes its
//! place with whatever replicas are found on it (`Volumes::reopen`), so that nothing that still holds the old one can
//! write to it.
//!
//! Whoever meets an I/O error on a volume reports it through [`Volume::check`]; the store's checker then writes a probe
//! and decides.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use dfs_common::durable;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::storage_info::StorageInfo;
use dfs_common::units::ByteCount;
use parking_lot::{Condvar, Mutex};
use tracing::{info, warn};

use super::faults::{blames_device, is_damage, is_shortage};
use super::layout::{CURRENT, VERSION_FILE};
use super::look::{Look, Progress};
use super::space::{Lack, VolumeSpace};
use super::volume_dir::{lock, place_of, probe, refuse_foreign_entries};
use super::writeback::Writeback;

/// A device that does not answer within this has failed.
const DISK_PATIENCE: Duration = Duration::from_secs(30);
/// Looks that must have found it silent: after a pause of this process or its machine the time alone says nothing.
const SILENT_ROUNDS_MIN: u32 = 5;

/// Place of a volume in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct VolumeIndex(pub(crate) u16);

/// Wakes the checker when a volume is suspected.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    pub(super) raised: Mutex<bool>,
    pub(super) changed: Condvar,
}

impl Suspicion {
    fn raise(&self) {
        *self.raised.lock() = true;
        self.changed.notify_all();
    }
}

/// One directory of `dfs.datanode.data.dir`.
#[derive(Debug)]
pub(crate) struct Volume {
    index: VolumeIndex,
    root: PathBuf,
    /// Set once VERSION is read or written.
    storage_uuid: OnceLock<Arc<str>>,
    /// Since when it has been out, if it is.
    failed: OnceLock<Instant>,
    suspected: AtomicBool,
    /// One probe at a time: they share a file. On a device that hangs it is never free again.
    probing: Mutex<()>,
    /// The checker's look at the device, until it has an outcome.
    look: Mutex<Option<Look<io::Result<()>>>>,
    /// Times that the look was found to take its time: whatever else is asked of the device would too.
    silent_rounds: AtomicU32,
    pub(super) space: VolumeSpace,
    suspicion: Arc<Suspicion>,
    pub(super) writeback: Writeback,
    /// Device and inode of the directory when it was taken: another file system in its place is not this volume.
    place: Option<(u64, u64)>,
    /// Keeps the flock; `None` when the volume was bad from the start.
    lock: Mutex<Option<File>>,
}

impl Volume {
    /// Takes a directory: lock, probe, VERSION. One that cannot be used comes back failed, with the reason.
    pub(super) fn open(
        index: VolumeIndex,
        root: &Path,
        reserved: ByteCount,
        suspicion: Arc<Suspicion>,
    ) -> (Self, Result<Option<StorageInfo>>) {
        let opened = lock(root).and_then(|lock| {
            let info = StorageInfo::load(&root.join(CURRENT).join(VERSION_FILE))?;
            if info.is_none() {
                refuse_foreign_entries(root)?;
            }
            probe(root).map_err(|error| DfsError::io(format!("write to volume {}", root.display()), error))?;
            Ok((lock, info))
        });
        let (lock, info) = match opened {
            Ok((lock, info)) => (Some(lock), Ok(info)),
            Err(error) => (None, Err(error)),
        };
        let volume = Self {
            index,
            root: root.to_owned(),
            storage_uuid: OnceLock::new(),
            failed: info.is_err().then(Instant::now).map(OnceLock::from).unwrap_or_default(),
            suspected: AtomicBool::new(false),
            probing: Mutex::new(()),
            look: Mutex::new(None),
            silent_rounds: AtomicU32::new(0),
            space: VolumeSpace::new(root, reserved),
            suspicion,
            writeback: Writeback::default(),
            place: place_of(root).ok(),
            lock: Mutex::new(lock),
        };
        if let Ok(Some(StorageInfo { storage_uuid: Some(uuid), .. })) = &info {
            volume.set_storage_uuid(uuid);
        }
        (volume, info)
    }

    /// Writes VERSION into an empty volume.
    pub(super) fn format(&self, info: &StorageInfo) -> Result<()> {
        let current = self.root.join(CURRENT);
        durable::create_dir_all(&current)
            .map_err(|error| DfsError::io(format!("create {}", current.display()), error))?;
        info.store(&current.join(VERSION_FILE))?;
        if let Some(uuid) = &info.storage_uuid {
            self.set_storage_uuid(uuid);
        }
        Ok(())
    }

    fn set_storage_uuid(&self, uuid: &str) {
        // Set at most once: by open, or by the format that open made necessary.
        let _ = self.storage_uuid.set(uuid.into());
    }

    /// Its place in the configuration.
    pub(crate) fn index(&self) -> VolumeIndex {
        self.index
    }

    /// Its directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `DS-...`; empty until a NameNode was seen.
    pub(crate) fn storage_uuid(&self) -> Arc<str> {
        self.storage_uuid.get().cloned().unwrap_or_else(|| "".into())
    }

    /// Whether VERSION has been written.
    pub(crate) fn is_formatted(&self) -> bool {
        self.storage_uuid.get().is_some()
    }

    /// Whether it was taken out.
    pub(crate) fn is_failed(&self) -> bool {
        self.failed.get().is_some()
    }

    /// For how long it has been out, if it is.
    pub(super) fn failed_for(&self) -> Option<Duration> {
        self.failed.get().map(Instant::elapsed)
    }

    /// Takes it out; false when it was out already. Its file system can be unmounted and come back.
    pub(super) fn fail(&self) -> bool {
        let is_first = self.failed.set(Instant::now()).is_ok();
        if is_first {
            self.release();
        }
        is_first
    }

    /// Whether an error was met since the last check; the question clears it.
    pub(super) fn take_suspicion(&self) -> bool {
        self.suspected.swap(false, Ordering::AcqRel)
    }

    /// Names what was being done when a call failed, and has the device checked when it may be to blame. What the files say
    /// that cannot be is `Corrupt`.
    pub(crate) fn check<T>(&self, result: io::Result<T>, doing: impl FnOnce() -> String) -> Result<T> {
        result.map_err(|error| {
            if is_damage(&error) {
                return DfsError::new(ErrorKind::Corrupt, doing()).with_source(error);
            }
            if blames_device(&error) {
                self.suspect();
            }
            DfsError::io(doing(), error)
        })
    }

    /// Lets another daemon take the volume; nothing may be written to it any more.
    pub(super) fn release(&self) {
        self.lock.lock().take();
    }

    /// Has the volume checked soon.
    pub(super) fn suspect(&self) {
        self.suspected.store(true, Ordering::Release);
        self.suspicion.raise();
    }

    /// Begins a look at the device unless one is under way.
    pub(super) fn begin_look(self: &Arc<Self>) {
        let mut look = self.look.lock();
        if look.is_some() {
            return;
        }
        let probed = Arc::clone(self);
        match Look::begin("dn-probe", move || probed.probe()) {
            Ok(begun) => *look = Some(begun),
            Err(cause) => self.look_again(&cause),
        }
    }

    /// Why the volume has to be taken out, if the look has found that; it has until `deadline`, or goes on.
    pub(super) fn find_failure(&self, deadline: Instant) -> Option<io::Error> {
        let mut look = self.look.lock();
        let begun = look.as_ref()?;
        let Progress::Ended(outcome) = begun.wait_until(deadline) else {
            let rounds = self.silent_rounds.fetch_add(1, Ordering::AcqRel);
            if begun.elapsed() >= DISK_PATIENCE && rounds >= SILENT_ROUNDS_MIN {
                return Some(io::Error::other(format!("a write takes longer than {DISK_PATIENCE:?}")));
            }
            if rounds == 0 {
                warn!(volume = %self.root.display(), "volume does not answer, new replicas go to others");
            }
            return None;
        };
        *look = None;
        if self.silent_rounds.swap(0, Ordering::AcqRel) > 0 {
            info!(volume = %self.root.display(), "volume answers again");
        }
        match outcome {
            Ok(()) => None,
            Err(cause) if is_shortage(&cause) => {
                self.look_again(&cause);
                None
            }
            Err(cause) => Some(cause),
        }
    }

    /// Whether its device keeps the checker waiting.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent_rounds.load(Ordering::Acquire) > 0
    }

    fn look_again(&self, cause: &io::Error) {
        warn!(volume = %self.root.display(), %cause, "volume could not be looked at");
        self.suspected.store(true, Ordering::Release);
    }

    /// Writes, syncs and removes a small file, where the volume has always been.
    pub(super) fn probe(&self) -> io::Result<()> {
        if self.place != Some(place_of(&self.root)?) {
            return Err(io::Error::other("another directory has taken the volume's place; was it unmounted?"));
        }
        let _probing = self.probing.lock();
        probe(&self.root)
    }

    /// Fails with `NoSpace` unless `wanted` bytes fit beside what is reserved.
    pub(super) fn require_space(&self, wanted: ByteCount) -> Result<()> {
        let lack = self.space.lack(wanted);
        match self.check(lack, || format!("ask the free space of {}", self.root.display()))? {
            None => Ok(()),
            Some(Lack { left, reserved }) => Err(DfsError::new(
                ErrorKind::NoSpace,
                format!(
                    "volume {} has {left} left beside the {reserved} reserved by dfs.datanode.du.reserved",
                    self.root.display()
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::disk::watch::{Call, Watch};
    use super::super::volume_dir::PROBE_FILE;
    use super::*;

    fn open(root: &Path) -> (Volume, Result<Option<StorageInfo>>) {
        Volume::open(VolumeIndex(0), root, ByteCount(0), Arc::default())
    }

    #[test]
    fn open_twice_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (first, info) = open(dir.path());
        assert!(info.unwrap().is_none() && !first.is_failed());
        let (second, info) = open(dir.path());
        assert_eq!(info.unwrap_err().kind(), ErrorKind::Busy);
        assert!(second.is_failed());
    }

    #[test]
    fn open_refuses_a_directory_with_other_files() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "years").unwrap();
        let error = open(dir.path()).1.unwrap_err();
        assert!(error.message().contains("thesis.tex"), "{error}");
    }

    #[test]
    fn open_missing_directory_is_a_failed_volume() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, info) = open(&dir.path().join("absent"));
        assert_eq!(info.unwrap_err().kind(), ErrorKind::Io);
        assert!(volume.is_failed());
    }

    #[test]
    fn full_volume_is_taken_and_kept() {
        for (call, code) in [(Call::Open, libc::ENOSPC), (Call::Write, libc::EDQUOT), (Call::Sync, libc::ENOSPC)] {
            let dir = tempfile::tempdir().unwrap();
            let watch = Watch::begin(dir.path());
            watch.fail(call, PROBE_FILE, code, usize::MAX);
            let (volume, info) = open(dir.path());
            assert!(info.is_ok() && !volume.is_failed(), "{call:?}: {info:?}");
            let volume = Arc::new(volume);
            volume.begin_look();
            let failure = volume.find_failure(Instant::now() + Duration::from_secs(20));
            assert!(failure.is_none() && volume.look.lock().is_none(), "{call:?}: {failure:?}");
            assert!(!dir.path().join(PROBE_FILE).exists(), "{call:?}");
        }
    }

    #[test]
    fn probes_at_once_do_not_disturb_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, _) = open(dir.path());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..50).for_each(|_| volume.probe().unwrap()));
            }
        });
    }

    #[test]
    fn device_that_takes_its_time_is_silent_until_it_answers() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Arc::new(open(dir.path()).0);
        let hung = volume.probing.lock();
        volume.begin_look();
        volume.begin_look();
        assert!(volume.find_failure(Instant::now() + Duration::from_millis(10)).is_none());
        assert!(volume.is_silent());
        drop(hung);
        assert!(volume.find_failure(Instant::now() + Duration::from_secs(20)).is_none());
        assert!(!volume.is_silent() && volume.look.lock().is_none());
    }

    #[test]
    fn require_space_respects_what_is_reserved() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, _) = Volume::open(VolumeIndex(0), dir.path(), ByteCount(u64::MAX / 2), Arc::default());
        let error = volume.require_space(ByteCount(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.message().contains("dfs.datanode.du.reserved"));
    }
}
