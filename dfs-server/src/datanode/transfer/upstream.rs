//! The way back to the writer of a block, and the signs of life on it while a disk call runs.
//!
//! The thread that receives a block cannot speak while the disk keeps it waiting. So its answers lie in a buffer that two
//! may send from: that thread, and the one [`Pulse`] thread of the data plane, which looks at all writes each second and
//! adds a sign of life where a disk call has lasted that long: an ack of seqno -1, marked slow, or, before the set-up is
//! answered, a response of status IN_PROGRESS for those that take them. Silence therefore means a hung process or
//! a lost link, never a slow disk. After [`DISK_CALL_MAX`] ([`SET_UP_CALL_MAX`]) no more signs are given and the volume is checked: such a
//! device has failed, and the writer must go on without it.
//!
//! Locks: the pulse's list, then one upstream's state. Both are held for moments; sends do not block.

use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::sync::{Arc, Weak};
use std::time::Instant;

use dfs_proto::data_transfer::packet::HEARTBEAT_SEQNO;
use dfs_proto::data_transfer::patience::{DISK_CALL_MAX, LIFE_SIGN_INTERVAL, SET_UP_CALL_MAX};
use dfs_proto::data_transfer::{PipelineAck, Reply, SlowNode};
use dfs_proto::hadoop::{BlockOpResponseProto, Status};
use parking_lot::{Condvar, Mutex};

use super::connection::send_now;
use super::reply::encoded;

/// What is on its way to a writer.
#[derive(Debug)]
pub(super) struct Upstream {
    socket: Arc<TcpStream>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whole messages, the first of which may have gone in part.
    out: Vec<u8>,
    /// The set-up was answered: acks may follow.
    is_open: bool,
    /// Signs of life may be given before.
    takes_early_signs: bool,
    /// Since when the receiving thread is in a disk call.
    busy_since: Option<Instant>,
    /// Called once when a disk call lasts too long.
    on_hung: Option<OnHung>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("out", &self.out.len()).field("is_open", &self.is_open).finish_non_exhaustive()
    }
}

/// What a look at a write found.
#[derive(Debug, PartialEq, Eq)]
enum Sign {
    /// Nothing to say.
    None,
    /// It is busy with its disk: an ack says so.
    Alive,
    /// The same before the set-up is answered: a response says so.
    SettingUp,
    /// Its disk call lasts so long that the device has failed.
    Hung,
}

/// Chooses what to tell the writer.
fn choose_sign(is_open: bool, takes_early_signs: bool, busy_since: Option<Instant>, now: Instant) -> Sign {
    let busy_max = if takes_early_signs && !is_open { SET_UP_CALL_MAX } else { DISK_CALL_MAX };
    match busy_since.map(|since| now.saturating_duration_since(since)) {
        Some(busy) if busy >= busy_max => Sign::Hung,
        Some(busy) if is_open && busy >= LIFE_SIGN_INTERVAL => Sign::Alive,
        Some(busy) if takes_early_signs && busy >= LIFE_SIGN_INTERVAL => Sign::SettingUp,
        _ => Sign::None,
    }
}

impl Upstream {
    /// `takes_early_signs`: the writer has said that it understands them.
    pub(super) fn new(socket: Arc<TcpStream>, takes_early_signs: bool) -> Self {
        Self { socket, state: Mutex::new(State { takes_early_signs, ..State::default() }) }
    }

    /// What is called once when a disk call lasts too long.
    pub(super) fn on_hung(&self, hook: impl FnOnce() + Send + 'static) {
        self.state.lock().on_hung = Some(Box::new(hook));
    }

    /// Passes on that a node behind waits for its disk while the pipeline is set up.
    pub(super) fn push_early_sign(&self) {
        let mut state = self.state.lock();
        if state.takes_early_signs && !state.is_open {
            state.push_in_progress();
        }
    }

    /// Adds the answer to the set-up.
    pub(super) fn push_response(&self, bytes: &[u8]) {
        let mut state = self.state.lock();
        state.out.extend_from_slice(bytes);
        state.is_open = true;
    }

    /// Adds an ack; false when it cannot be encoded.
    pub(super) fn push_ack(&self, ack: &PipelineAck) -> bool {
        ack.encode(&mut self.state.lock().out).is_ok()
    }

    /// Bytes that the writer has not taken.
    pub(super) fn unsent(&self) -> usize {
        self.state.lock().out.len()
    }

    /// Sends what the socket takes now.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.state.lock().flush(&self.socket)
    }

    /// Runs a call that may wait for the disk.
    pub(super) fn while_busy<T>(&self, call: impl FnOnce() -> T) -> T {
        self.state.lock().busy_since = Some(Instant::now());
        let outcome = call();
        self.state.lock().busy_since = None;
        outcome
    }

    /// Tells the writer what there is to tell; the hook of a disk call that has just been found to hang.
    fn give_sign(&self, now: Instant) -> Option<OnHung> {
        let mut state = self.state.lock();
        match choose_sign(state.is_open, state.takes_early_signs, state.busy_since, now) {
            Sign::None => None,
            Sign::SettingUp => {
                state.push_in_progress();
                let _ = state.flush(&self.socket);
                None
            }
            Sign::Alive => {
                let reply = Reply { slow: SlowNode::Slow, ..Reply::new(Status::Success) };
                let ack = PipelineAck { seqno: HEARTBEAT_SEQNO, replies: vec![reply], downstream_ack_time_nanos: 0 };
                // One reply always encodes. A writer that has gone is the receiving thread's to notice.
                let _ = ack.encode(&mut state.out);
                let _ = state.flush(&self.socket);
                None
            }
            Sign::Hung => state.on_hung.take(),
        }
    }
}

impl State {
    fn push_in_progress(&mut self) {
        let response = BlockOpResponseProto { status: Status::InProgress.into(), ..Default::default() };
        self.out.extend_from_slice(&encoded(&response));
    }

    fn flush(&mut self, socket: &TcpStream) -> io::Result<()> {
        if !self.out.is_empty() {
            let sent = send_now(socket, &[IoSlice::new(&self.out)])?;
            self.out.drain(..sent);
        }
        Ok(())
    }
}

type OnHung = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Shared {
    watched: Mutex<Vec<Weak<Upstream>>>,
    stopped: Condvar,
}

/// The thread that gives signs of life for writes whose own thread waits for a disk. Ends when it is dropped.
pub(crate) struct Pulse {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Pulse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pulse").finish_non_exhaustive()
    }
}

impl Pulse {
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start() -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let weak = Arc::downgrade(&shared);
        std::thread::Builder::new().name("dn-pulse".into()).spawn(move || beat(&weak))?;
        Ok(Self { shared })
    }

    /// Watches a write until its upstream is dropped.
    pub(super) fn watch(&self, upstream: &Arc<Upstream>) {
        let mut watched = self.shared.watched.lock();
        // Writes come and go faster than the thread looks.
        if watched.len() == watched.capacity() {
            watched.retain(|upstream| upstream.strong_count() > 0);
        }
        watched.push(Arc::downgrade(upstream));
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.shared.stopped.notify_all();
    }
}

fn beat(shared: &Weak<Shared>) {
    while let Some(shared) = shared.upgrade() {
        let mut watched = shared.watched.lock();
        // Half the interval, so that the first sign is never late by more than that.
        shared.stopped.wait_for(&mut watched, LIFE_SIGN_INTERVAL / 2);
        let now = Instant::now();
        watched.retain(|upstream| {
            let Some(upstream) = upstream.upgrade() else { return false };
            if let Some(on_hung) = upstream.give_sign(now) {
                on_hung();
            }
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn choose_sign_table() {
        let now = Instant::now();
        let ago = |ms| now.checked_sub(Duration::from_millis(ms));
        for (is_open, busy_since, expected, expected_early) in [
            (true, None, Sign::None, Sign::None),
            (false, None, Sign::None, Sign::None),
            (true, ago(999), Sign::None, Sign::None),
            (false, ago(999), Sign::None, Sign::None),
            (true, ago(1000), Sign::Alive, Sign::Alive),
            (false, ago(1000), Sign::None, Sign::SettingUp),
            (true, ago(29_999), Sign::Alive, Sign::Alive),
            (false, ago(7_999), Sign::None, Sign::SettingUp),
            (false, ago(8_000), Sign::None, Sign::Hung),
            (true, ago(30_000), Sign::Hung, Sign::Hung),
            (false, ago(30_000), Sign::Hung, Sign::Hung),
        ] {
            let what = format!("open {is_open}, busy since {busy_since:?}");
            assert_eq!(choose_sign(is_open, false, busy_since, now), expected, "{what}");
            assert_eq!(choose_sign(is_open, true, busy_since, now), expected_early, "early, {what}");
        }
    }
}
