//! The directory scanner: compares the files of every volume with the records of them now and then, so that replicas whose
//! files somebody removed are replaced before they are missed, and files that somebody brought back are used.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing::{info, warn};

use crate::datanode::metrics::Metrics;
use crate::datanode::store::{DirectoryFindings, ReplicaStore, Volume, VolumeIndex};

/// Each volume is scanned by a thread that ends with the scan: a device that hangs keeps only its own.
#[derive(Debug)]
pub(crate) struct DirectoryScanner {
    store: Arc<ReplicaStore>,
    metrics: Arc<Metrics>,
    interval: Duration,
    control: Mutex<Control>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Control {
    is_stopping: bool,
    is_asked: bool,
    /// Volumes being scanned.
    busy: HashSet<VolumeIndex>,
}

impl DirectoryScanner {
    /// Starts the thread. Its first scan comes within `interval`, at a random time: nodes started together do not scan
    /// together.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(
        store: Arc<ReplicaStore>,
        metrics: Arc<Metrics>,
        interval: Duration,
    ) -> std::io::Result<Arc<Self>> {
        let scanner = Arc::new(Self { store, metrics, interval, control: Mutex::default(), changed: Condvar::new() });
        let thread = Arc::clone(&scanner);
        std::thread::Builder::new().name("dn-dir-scan".into()).spawn(move || thread.run())?;
        Ok(scanner)
    }

    /// Has every volume scanned at once.
    pub(crate) fn scan_now(&self) {
        self.control.lock().is_asked = true;
        self.changed.notify_all();
    }

    /// Ends the thread soon.
    pub(crate) fn stop(&self) {
        self.control.lock().is_stopping = true;
        self.changed.notify_all();
    }

    fn run(self: &Arc<Self>) {
        let mut due = Instant::now() + self.interval.mul_f64(rand::random());
        loop {
            let mut control = self.control.lock();
            while !control.is_stopping && !control.is_asked && Instant::now() < due {
                self.changed.wait_until(&mut control, due);
            }
            if control.is_stopping {
                return;
            }
            control.is_asked = false;
            drop(control);
            for volume in self.store.volumes().good() {
                self.begin(volume);
            }
            due = Instant::now() + self.interval;
        }
    }

    fn begin(self: &Arc<Self>, volume: Arc<Volume>) {
        let index = volume.index();
        if !self.control.lock().busy.insert(index) {
            return;
        }
        let scanner = Arc::clone(self);
        let started = std::thread::Builder::new().name("dn-dir-scan".into()).spawn(move || {
            scanner.scan(&volume);
            scanner.control.lock().busy.remove(&index);
        });
        if let Err(error) = started {
            warn!(%error, "no thread for a directory scan");
            self.control.lock().busy.remove(&index);
        }
    }

    fn scan(&self, volume: &Volume) {
        let begun = Instant::now();
        let is_over = || self.control.lock().is_stopping || volume.is_failed();
        for pool in self.store.pool_names() {
            match self.store.compare_directory(&pool, volume.index(), &is_over) {
                Ok(findings) => self.tell(volume, &findings, begun),
                // The volume is suspected: whether it works is looked at apart.
                Err(error) => warn!("directory scan given up: {}", error.chain()),
            }
        }
    }

    fn tell(&self, volume: &Volume, findings: &DirectoryFindings, begun: Instant) {
        let DirectoryFindings { replicas, lost, damaged, found, unexplained } = *findings;
        self.metrics.replicas_lost.inc_by(lost);
        self.metrics.replicas_found.inc_by(found);
        self.metrics.blocks_found_bad.inc_by(damaged);
        let (volume, took) = (volume.root().display(), begun.elapsed());
        info!(%volume, replicas, lost, damaged, found, unexplained, ?took, "directory scan ended");
    }
}
