//! gRPC calls that work on files: off the runtime, a bounded number at once for each volume.
//!
//! A device that hangs keeps every thread that touches it. So the calls of one volume can only fill their own part of the
//! runtime's blocking threads; those of other volumes, and whatever else the runtime needs such threads for, go on. A call
//! that finds its part full waits for as long as its client does.

use std::sync::Arc;

use dfs_common::block::ExtendedBlock;
use dfs_common::error::{DfsError, ErrorKind, Result};
use tokio::sync::Semaphore;

use super::store::{ReplicaStore, VolumeIndex};

/// Calls at work.
#[derive(Clone, Debug)]
pub(crate) struct FileCalls {
    store: Arc<ReplicaStore>,
    /// By volume; the last for what is on none.
    places: Arc<[Arc<Semaphore>]>,
}

impl FileCalls {
    /// At most `total` calls at once, shared out evenly, and one for each volume at least.
    pub(crate) fn new(store: &Arc<ReplicaStore>, total: usize) -> Self {
        let parts = store.volumes().all().len() + 1;
        let places = (0..parts).map(|_| Arc::new(Semaphore::new((total / parts).max(1)))).collect();
        Self { store: Arc::clone(store), places }
    }

    /// The volume that a block's replica is on.
    pub(crate) fn volume_of(&self, block: &ExtendedBlock) -> Option<VolumeIndex> {
        self.store.volume_of(block)
    }

    /// Bytes of a block's replica that may be read. Needs no place: it is in memory, and no lock on its way is held over a call
    /// to a device.
    ///
    /// # Errors
    /// `NotFound`, `StaleGeneration`.
    pub(crate) fn visible_length(&self, block: &ExtendedBlock) -> Result<u64> {
        self.store.visible_length(block)
    }

    /// Does work on files of a volume.
    ///
    /// # Errors
    /// Of the work; `Internal` when it panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        volume: Option<VolumeIndex>,
        work: impl FnOnce(&ReplicaStore) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let of_none = self.places.len() - 1;
        let place = Arc::clone(&self.places[volume.map_or(of_none, |volume| usize::from(volume.0).min(of_none))]);
        let store = Arc::clone(&self.store);
        let met_a_bug =
            |error| DfsError::new(ErrorKind::Internal, "work on files met a bug or was stopped").with_source(error);
        // Never closed.
        let place = place
            .acquire_owned()
            .await
            .map_err(|error| DfsError::new(ErrorKind::Internal, "no place for work on files").with_source(error))?;
        // The place is held by the work, not by the caller: who stops waiting frees no thread.
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work(&store)
        });
        done.await.map_err(met_a_bug)?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::datanode::transfer::test_client::store_settings;

    #[tokio::test]
    async fn run_of_a_volume_that_hangs_leaves_places_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(ReplicaStore::open(&store_settings(dir.path())).unwrap());
        let files = FileCalls::new(&store, 8);
        let (device, answers) = mpsc::channel::<()>();
        let answers = Arc::new(parking_lot::Mutex::new(answers));
        let (begun, mut under_way) = tokio::sync::mpsc::unbounded_channel();
        let hung: Vec<_> = (0..20)
            .map(|_| {
                let (files, answers, begun) = (files.clone(), Arc::clone(&answers), begun.clone());
                tokio::spawn(async move {
                    let work = move |_: &ReplicaStore| {
                        let _ = begun.send(());
                        // Until the device answers: its sender is dropped.
                        let _ = answers.lock().recv();
                        Ok(())
                    };
                    files.run(Some(VolumeIndex(0)), work).await
                })
            })
            .collect();
        for _ in 0..4 {
            under_way.recv().await.unwrap();
        }
        let others = tokio::time::timeout(Duration::from_secs(20), files.run(None, |_| Ok(7))).await;
        assert_eq!(others.expect("calls elsewhere go on").unwrap(), 7);
        assert!(under_way.try_recv().is_err(), "no more than its part waits for the device");
        drop(device);
        for call in hung {
            call.await.unwrap().unwrap();
        }
    }
}
