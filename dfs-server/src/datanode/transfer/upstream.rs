//! The way back to the writer of a block, and the signs of life on it while a disk call runs.
//!
//! The thread that receives a block cannot speak while the disk keeps it waiting. So its answers lie in a buffer that two
//! may send from: that thread, and the one [`Pulse`] thread of the data plane. It looks at all writes each half second, and
//! gives a sign of life where the thread is in a disk call and the writer has been owed an answer for a second: for one long
//! call, or for a row of shorter ones. The sign is an ack of seqno -1, marked slow; before the set-up is answered, it is
//! a response of status IN_PROGRESS, for those that take them. To those, silence means a hung process or a lost link, never
//! a slow disk. When one call lasts longer than a disk may take, no more signs are given and the volume is checked: such
//! a device has failed, and the writer must go on without it.
//!
//! A copy that a writer has ordered for its pipeline (`replica_transfer`) is watched as well. All of it counts as one call, and
//! no volume is checked when it takes too long: the target may be to blame.
//!
//! Locks: the pulse's list, then one upstream's state. Both are held for moments; sends do not block.

use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use dfs_proto::data_transfer::packet::HEARTBEAT_SEQNO;
use dfs_proto::data_transfer::patience::{DISK_CALL_MAX, LIFE_SIGN_INTERVAL};
use dfs_proto::data_transfer::{PipelineAck, Reply, SlowNode};
use dfs_proto::hadoop::{BlockOpResponseProto, Status};
use parking_lot::{Condvar, Mutex};

use super::connection::send_now;
use super::reply::encoded;

/// A sign of life from behind is passed on if the last one was at least so long ago: nodes give two a second, and one that
/// floods us with them must not flood the writer.
const SIGN_PAUSE: Duration = Duration::from_millis(LIFE_SIGN_INTERVAL.as_millis() as u64 / 4);

/// What is on its way to a writer.
#[derive(Debug)]
pub(super) struct Upstream {
    socket: Arc<TcpStream>,
    state: Mutex<State>,
}

struct State {
    /// Whole messages, the first of which may have gone in part.
    out: Vec<u8>,
    /// The set-up was answered: acks may follow.
    is_open: bool,
    /// Signs of life may be given before.
    takes_early_signs: bool,
    /// How long a disk call may last before the set-up is answered.
    set_up_call_max: Duration,
    /// Since when the receiving thread is in a disk call.
    busy_since: Option<Instant>,
    /// When the first disk call began since the writer was last answered.
    owed_since: Option<Instant>,
    /// When a sign of life from behind was last passed on.
    sign_passed: Option<Instant>,
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
fn choose_sign(state: &State, now: Instant) -> Sign {
    let Some(busy_since) = state.busy_since else { return Sign::None };
    let elapsed = |since| now.saturating_duration_since(since);
    let busy_max = if state.takes_early_signs && !state.is_open { state.set_up_call_max } else { DISK_CALL_MAX };
    if elapsed(busy_since) >= busy_max {
        return Sign::Hung;
    }
    if state.owed_since.is_none_or(|since| elapsed(since) < LIFE_SIGN_INTERVAL) {
        return Sign::None;
    }
    match (state.is_open, state.takes_early_signs) {
        (true, _) => Sign::Alive,
        (false, true) => Sign::SettingUp,
        (false, false) => Sign::None,
    }
}

impl Upstream {
    /// `takes_early_signs`: the writer has said that it understands them; a disk call before the set-up is answered may then
    /// last for `set_up_call_max`.
    pub(super) fn new(socket: Arc<TcpStream>, takes_early_signs: bool, set_up_call_max: Duration) -> Self {
        Self { socket, state: Mutex::new(State::new(takes_early_signs, set_up_call_max)) }
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
        state.owed_since = None;
    }

    /// Ends with an answer: what the writer has not taken, and it. No sign of life follows.
    pub(super) fn end_with(&self, response: &[u8]) -> Vec<u8> {
        self.push_response(response);
        std::mem::take(&mut self.state.lock().out)
    }

    /// Adds an ack; false when it cannot be encoded.
    pub(super) fn push_ack(&self, ack: &PipelineAck) -> bool {
        let mut state = self.state.lock();
        state.owed_since = None;
        ack.encode(&mut state.out).is_ok()
    }

    /// Whether a sign of life from behind is to be passed on now; then the next one is not for a while.
    pub(super) fn is_sign_due(&self) -> bool {
        let mut state = self.state.lock();
        let is_due = state.sign_passed.is_none_or(|passed| passed.elapsed() >= SIGN_PAUSE);
        if is_due {
            state.sign_passed = Some(Instant::now());
        }
        is_due
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
        {
            let mut state = self.state.lock();
            let now = Instant::now();
            state.busy_since = Some(now);
            state.owed_since.get_or_insert(now);
        }
        let outcome = call();
        self.state.lock().busy_since = None;
        outcome
    }

    /// Tells the writer what there is to tell; the hook of a disk call that has just been found to hang.
    fn give_sign(&self, now: Instant) -> Option<OnHung> {
        let mut state = self.state.lock();
        match choose_sign(&state, now) {
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
    fn new(takes_early_signs: bool, set_up_call_max: Duration) -> Self {
        Self {
            out: Vec::new(),
            is_open: false,
            takes_early_signs,
            set_up_call_max,
            busy_since: None,
            owed_since: None,
            sign_passed: None,
            on_hung: None,
        }
    }

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
    use dfs_proto::data_transfer::patience::SET_UP_CALL_MAX;

    use super::*;
    use crate::datanode::transfer::stage::Stage;

    #[test]
    fn choose_sign_table() {
        use Stage::{Append, Close, Copy, CopyToRbw, Create, Resume};
        let now = Instant::now();
        let ago = |ms| now.checked_sub(Duration::from_millis(ms));
        let (new, old) = (&[Create, Copy, CopyToRbw][..], &[Append, Resume, Close][..]);
        let all = &[new, old].concat()[..];
        // Whether the set-up was answered; since when it is busy, and an answer is owed; what is said, and to a writer that
        // takes early signs.
        for (stages, is_open, busy_since, owed_since, expected, expected_early) in [
            (all, true, None, None, Sign::None, Sign::None),
            (all, false, None, None, Sign::None, Sign::None),
            (all, true, None, ago(5000), Sign::None, Sign::None),
            (all, true, ago(999), ago(999), Sign::None, Sign::None),
            (all, false, ago(999), ago(999), Sign::None, Sign::None),
            (all, true, ago(1000), ago(1000), Sign::Alive, Sign::Alive),
            (all, false, ago(1000), ago(1000), Sign::None, Sign::SettingUp),
            // Many short calls.
            (all, true, ago(1), ago(1000), Sign::Alive, Sign::Alive),
            (all, false, ago(1), ago(1000), Sign::None, Sign::SettingUp),
            (all, true, ago(1), ago(40_000), Sign::Alive, Sign::Alive),
            (all, true, ago(29_999), ago(29_999), Sign::Alive, Sign::Alive),
            (all, false, ago(7_999), ago(7_999), Sign::None, Sign::SettingUp),
            (new, false, ago(8_000), ago(8_000), Sign::None, Sign::Hung),
            // The replica has bytes that were acknowledged: nobody can take its place.
            (old, false, ago(8_000), ago(8_000), Sign::None, Sign::SettingUp),
            (old, false, ago(29_999), ago(29_999), Sign::None, Sign::SettingUp),
            (all, true, ago(30_000), ago(30_000), Sign::Hung, Sign::Hung),
            (all, false, ago(30_000), ago(30_000), Sign::Hung, Sign::Hung),
        ] {
            for stage in stages {
                let what = format!("{stage:?}, open {is_open}, busy since {busy_since:?}, owed since {owed_since:?}");
                let state = |takes_early_signs| {
                    let state = State::new(takes_early_signs, stage.set_up_call_max());
                    State { is_open, busy_since, owed_since, ..state }
                };
                assert_eq!(choose_sign(&state(false), now), expected, "{what}");
                assert_eq!(choose_sign(&state(true), now), expected_early, "early, {what}");
            }
        }
        assert_eq!(SET_UP_CALL_MAX, Duration::from_secs(8), "as the table has it");
    }

    #[test]
    fn answer_is_owed_from_the_first_disk_call_since_the_last_one() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = Arc::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let upstream = Upstream::new(socket, true, SET_UP_CALL_MAX);
        let owed_since = || upstream.state.lock().owed_since;
        let first = upstream.while_busy(owed_since);
        assert!(first.is_some());
        assert_eq!(upstream.while_busy(owed_since), first, "nothing was said");
        upstream.push_early_sign();
        assert_eq!(upstream.while_busy(owed_since), first, "a sign of life is no answer");
        upstream.push_response(&[]);
        assert_eq!(owed_since(), None);
        let second = upstream.while_busy(owed_since);
        assert!(second > first);
        let ack = PipelineAck { seqno: 0, replies: vec![Reply::new(Status::Success)], downstream_ack_time_nanos: 0 };
        assert!(upstream.push_ack(&ack));
        assert_eq!(owed_since(), None);
    }
}
