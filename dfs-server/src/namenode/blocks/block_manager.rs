//! The block manager itself. What it can be asked and told is beside it, by whom it comes from: `calls` (services and the
//! namespace), `reporting` (DataNodes), `moves` (the balancer), `ticks` (the clock). All go through `holds`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use dfs_common::clock::Clock;
use dfs_common::config_file::Config;
use parking_lot::Mutex;

use super::settings::Settings;
use super::state::SoftState;
use crate::namenode::listening::ListeningClock;
use crate::namenode::lock_times::LockTimes;

/// The block manager. Shared by services, the journal's machine and the monitor.
pub struct BlockManager {
    /// Taken for one slice of work. Under it only the listening clock's lock is taken, and only for a moment.
    pub(super) state: Mutex<SoftState>,
    pub(super) clock: Arc<dyn Clock>,
    /// By which the silence of DataNodes is judged.
    pub(super) listening: Arc<ListeningClock>,
    pub(super) lock_times: Arc<LockTimes>,
    /// Safe mode's.
    pub(super) read_only: Arc<AtomicBool>,
}

impl BlockManager {
    /// A block manager that knows no block and no DataNode yet. `seed` feeds every random choice and the numbers of
    /// registrations: it must differ from run to run, but for tests.
    pub fn new(config: &Config, clock: Arc<dyn Clock>, seed: u64) -> Self {
        let state = SoftState::new(Settings::from(config), seed, clock.instant());
        let read_only = Arc::clone(state.safe_mode.read_only());
        let listening = Arc::new(ListeningClock::new(Arc::clone(&clock)));
        Self { state: Mutex::new(state), clock, listening, lock_times: Arc::default(), read_only }
    }

    /// The clock by which silences are judged: whoever hears DataNodes and clients keeps it going.
    pub fn listening(&self) -> &Arc<ListeningClock> {
        &self.listening
    }

    /// How long the lock was held.
    pub fn lock_times(&self) -> &Arc<LockTimes> {
        &self.lock_times
    }
}
