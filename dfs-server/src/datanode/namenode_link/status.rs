//! What a link has come to, for people.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Silence of a NameNode that is worth a look, and heartbeats without an answer that are, where these come seldom.
const SILENCE: Duration = Duration::from_secs(10);
const UNANSWERED: u32 = 3;

/// What is known of one NameNode.
#[derive(Debug)]
pub(crate) struct LinkStatus {
    address: String,
    /// Silence for which it still counts as in touch.
    patience: Duration,
    known: Mutex<Known>,
}

/// Held for a few instructions; no other lock is taken under it.
#[derive(Debug, Default)]
struct Known {
    pool: Option<String>,
    is_registered: bool,
    last_answer: Option<Instant>,
}

/// A look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkReport {
    /// `host:port`.
    pub(crate) address: String,
    /// The block pool of its namespace, once it has said which that is.
    pub(crate) pool: Option<String>,
    /// Registered there, and it answers.
    pub(crate) is_in_touch: bool,
    /// Time since it answered a heartbeat or the registration.
    pub(crate) silent_for: Option<Duration>,
}

impl LinkStatus {
    pub(super) fn new(address: &str, heartbeat_interval: Duration) -> Self {
        let patience = SILENCE.max(heartbeat_interval.saturating_mul(UNANSWERED));
        Self { address: address.to_owned(), patience, known: Mutex::default() }
    }

    /// It has said which namespace it is.
    pub(super) fn on_met(&self, pool: &str) {
        self.known.lock().pool = Some(pool.to_owned());
    }

    pub(super) fn on_registered(&self) {
        let mut known = self.known.lock();
        known.is_registered = true;
        known.last_answer = Some(Instant::now());
    }

    /// It has answered a heartbeat.
    pub(super) fn on_answer(&self) {
        self.known.lock().last_answer = Some(Instant::now());
    }

    /// The registration is not valid any more.
    pub(super) fn on_registration_lost(&self) {
        self.known.lock().is_registered = false;
    }

    pub(crate) fn report(&self) -> LinkReport {
        let known = self.known.lock();
        let silent_for = known.last_answer.map(|at| at.elapsed());
        LinkReport {
            address: self.address.clone(),
            pool: known.pool.clone(),
            is_in_touch: known.is_registered && silent_for.is_some_and(|silence| silence <= self.patience),
            silent_for,
        }
    }
}
