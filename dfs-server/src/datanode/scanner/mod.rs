//! The block scanner: reads every finalized replica now and then and compares it with its checksums, so that damage is
//! found while there are good replicas to repair it from.
//!
//! ```text
//!           period over, or asked for           last replica
//! waiting ────────────────────────▶ scanning ───────────────▶ waiting
//!                                    │    ▲
//!                                    └────┘ asked for meanwhile: from the start, without limit
//! ```
//!
//! One thread per volume, so that a slow device slows no other one. How far it has come is stored in the volume
//! (`cursor`). A pass has the replicas that were there when it began. A bad replica is reported and left alone: the NameNode decides when there are enough good ones to delete
//! it. What somebody suspects is verified at once, by the threads for orders ([`verify_suspects`]).

mod cursor;
mod directory;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dfs_common::block::ExtendedBlock;
use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use tracing::{info, warn};

use super::metrics::Metrics;
use super::store::{Cursor, ReplicaStore, Volume, VolumeIndex};
use super::transfer::Pace;
use cursor::ScanCursor;
use verify::{Finding, verify};

pub(crate) use directory::DirectoryScanner;
pub(crate) use verify::verify_suspects;

/// Longest wait before a thread looks at its volume again: it may have come back.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Progress that a crash may cost.
const SAVE_INTERVAL: Duration = Duration::from_secs(30);

/// Bytes that each replica counts for beside its own: what a disk could have read in the time of its seeks. Else a volume of small
/// files would be busy with the scanner alone.
const REPLICA_COST: usize = 128 * 1024;

/// What the operator decided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScannerSettings {
    /// Bytes per second read of each volume at most; 0: no scans but those asked for.
    pub(crate) bytes_per_second: u64,
    /// Time between the beginnings of two passes.
    pub(crate) period: Duration,
}

/// Progress of one volume's scan since start.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ScanStatus {
    /// Directory of the volume.
    pub(crate) volume: String,
    /// A pass is under way.
    pub(crate) is_scanning: bool,
    /// When the last pass began, in seconds since the epoch; 0: never.
    pub(crate) begun: u64,
    /// Replicas that had their turn in this pass.
    pub(crate) replicas: u64,
    /// Bad ones among them.
    pub(crate) bad: u64,
    /// Passes that came to their end.
    pub(crate) passes: u64,
}

/// The threads' common ground.
#[derive(Debug)]
pub(crate) struct BlockScanner {
    store: Arc<ReplicaStore>,
    metrics: Arc<Metrics>,
    settings: ScannerSettings,
    control: Mutex<Control>,
    changed: Condvar,
}

#[derive(Debug)]
struct Control {
    is_stopping: bool,
    /// Scans asked for so far.
    asked: u64,
    /// By volume.
    status: Vec<ScanStatus>,
}

impl BlockScanner {
    /// Starts a thread per volume.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn start(
        store: Arc<ReplicaStore>,
        metrics: Arc<Metrics>,
        settings: ScannerSettings,
    ) -> std::io::Result<Arc<Self>> {
        let volumes = store.volumes().all();
        let status = volumes
            .iter()
            .map(|volume| ScanStatus { volume: volume.root().display().to_string(), ..ScanStatus::default() });
        let control = Mutex::new(Control { is_stopping: false, asked: 0, status: status.collect() });
        let indexes: Vec<_> = volumes.iter().map(|volume| volume.index()).collect();
        let scanner = Arc::new(Self { store, metrics, settings, control, changed: Condvar::new() });
        for index in indexes {
            let scanner = Arc::clone(&scanner);
            std::thread::Builder::new().name(format!("dn-scan-{}", index.0)).spawn(move || scanner.run(index))?;
        }
        Ok(scanner)
    }

    /// Has every volume scanned from the start, at once and without limit.
    pub(crate) fn scan_now(&self) {
        self.control.lock().asked += 1;
        self.changed.notify_all();
    }

    /// Ends the threads soon.
    pub(crate) fn stop(&self) {
        self.control.lock().is_stopping = true;
        self.changed.notify_all();
    }

    /// Progress, by volume.
    pub(crate) fn status(&self) -> Vec<ScanStatus> {
        self.control.lock().status.clone()
    }

    fn run(&self, index: VolumeIndex) {
        // Scans asked for that this thread has begun.
        let mut begun = 0;
        loop {
            let mut control = self.control.lock();
            if control.is_stopping {
                return;
            }
            let asked = control.asked;
            let volume = self.store.volumes().good().find(|volume| volume.index() == index);
            let Some(volume) = volume.filter(|volume| volume.is_formatted()) else {
                self.changed.wait_for(&mut control, LOOK_INTERVAL);
                continue;
            };
            drop(control);
            let is_asked = asked > begun;
            let Some(start) = self.next_pass(&volume, is_asked) else {
                let mut control = self.control.lock();
                if !control.is_stopping && control.asked == asked {
                    self.changed.wait_for(&mut control, LOOK_INTERVAL);
                }
                continue;
            };
            begun = asked;
            self.pass(&volume, start, asked, is_asked);
        }
    }

    /// Where a scan of the volume begins or goes on now; `None` when none is due.
    fn next_pass(&self, volume: &Volume, is_asked: bool) -> Option<ScanCursor> {
        if is_asked {
            return Some(ScanCursor::begin(now()));
        }
        if self.settings.bytes_per_second == 0 {
            return None;
        }
        let what = || format!("read the scanner's cursor in {}", volume.root().display());
        match volume.check(ScanCursor::load(volume.root()), what) {
            Ok(cursor) if cursor.due_in(now(), self.settings.period.as_secs()) > 0 => None,
            Ok(cursor) if cursor.is_finished || cursor.begun == 0 => Some(ScanCursor::begin(now())),
            Ok(cursor) => Some(cursor),
            Err(error) => {
                warn!("{}", error.chain());
                None
            }
        }
    }

    /// One pass over a volume, until its end, the daemon's, the volume's, or until another scan is asked for.
    fn pass(&self, volume: &Volume, start: ScanCursor, asked: u64, is_asked: bool) {
        let index = usize::from(volume.index().0);
        self.begin_status(index, start.begun);
        let pace = (!is_asked).then(|| Pace::new(self.settings.bytes_per_second));
        let from = start.pool.clone();
        let mut pass = Pass { scanner: self, volume, asked, pace, cursor: start, saved: Instant::now() };
        let mut pools = self.store.pool_names();
        pools.sort();
        let is_whole =
            pools.iter().filter(|pool| from.as_deref().is_none_or(|from| &***pool >= from)).all(|pool| pass.scan(pool));
        pass.cursor.is_finished = is_whole;
        save(volume, &pass.cursor);
        let mut control = self.control.lock();
        let status = &mut control.status[index];
        status.is_scanning = false;
        status.passes += u64::from(is_whole);
        info!(volume = status.volume, replicas = status.replicas, bad = status.bad, is_whole, "scan ended");
    }

    fn begin_status(&self, index: usize, begun: u64) {
        let mut control = self.control.lock();
        let status = &mut control.status[index];
        (status.is_scanning, status.begun, status.replicas, status.bad) = (true, begun, 0, 0);
    }

    fn is_over(&self, volume: &Volume, asked: u64) -> bool {
        let control = self.control.lock();
        control.is_stopping || control.asked != asked || volume.is_failed()
    }
}

/// A pass under way.
struct Pass<'a> {
    scanner: &'a BlockScanner,
    volume: &'a Volume,
    /// The number of the scan asked for that it is.
    asked: u64,
    /// None: as fast as the device can.
    pace: Option<Pace>,
    cursor: ScanCursor,
    saved: Instant,
}

impl Pass<'_> {
    /// Scans what is left of a pool; false when the pass is over before its end.
    fn scan(&mut self, pool: &str) -> bool {
        if self.cursor.pool.as_deref() != Some(pool) {
            self.cursor.pool = Some(pool.to_owned());
            self.cursor.after = None;
        }
        // What comes later was verified on its way in: a pass that ran after it would never end while files are written.
        let Some(last) = self.scanner.store.last_block(pool) else { return true };
        loop {
            // A pool that cannot be asked is gone.
            let at = Cursor { volume: self.volume.index(), after: self.cursor.after };
            let Ok(page) = self.scanner.store.report_page(pool, at) else { return true };
            for item in page.items.iter().filter(|item| item.open.is_none() && item.block.id <= last) {
                if self.scanner.is_over(self.volume, self.asked) {
                    return false;
                }
                self.verify(&ExtendedBlock { pool: pool.to_owned(), block: item.block });
            }
            self.cursor.after = page.next;
            if page.next.is_none_or(|next| next >= last) {
                return true;
            }
        }
    }

    fn verify(&mut self, block: &ExtendedBlock) {
        let BlockScanner { store, metrics, .. } = self.scanner;
        let mut wait = |bytes: usize| {
            if let Some(pace) = &self.pace {
                pace.wait(bytes, 0);
            }
        };
        wait(REPLICA_COST);
        let finding = verify(store, metrics, block, &mut wait);
        let mut control = self.scanner.control.lock();
        let status = &mut control.status[usize::from(self.volume.index().0)];
        status.replicas += 1;
        status.bad += u64::from(finding == Finding::Bad);
        drop(control);
        self.cursor.after = Some(block.block.id);
        if self.saved.elapsed() >= SAVE_INTERVAL {
            save(self.volume, &self.cursor);
            self.saved = Instant::now();
        }
    }
}

/// Stores progress. A volume that refuses is checked; the scan itself does not need the file.
fn save(volume: &Volume, cursor: &ScanCursor) {
    if volume.is_failed() {
        return;
    }
    let what = || format!("store the scanner's cursor in {}", volume.root().display());
    if let Err(error) = volume.check(cursor.store(volume.root()), what) {
        warn!("{}", error.chain());
    }
}

/// Seconds since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
