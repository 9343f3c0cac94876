//! The retry cache: outcomes of calls whose clients may not have heard of them, so that a call repeated is not made twice. How
//! many a session may have, and which calls it may still make.

use dfs_common::error::{DfsError, ErrorKind, Result, RetryClass};
use dfs_common::ids::{CallId, Incarnation};
use dfs_proto::v1::EditOp;

use super::context::CallKey;
use crate::namenode::namespace::{Namespace, RecordedError, Session};
use crate::namenode::outcome::Outcome;

/// Unanswered calls of one session that the retry cache keeps; a client has far fewer calls in flight.
pub(super) const OUTCOMES_PER_SESSION_MAX: usize = 16_384;

/// Outcomes that all sessions together may have in the retry cache, those of former lives included: some hundred megabytes,
/// should each be a refusal with a long message.
pub(super) const OUTCOMES_MAX: usize = 1 << 20;

/// What a session may have in any case, of outcomes and of holds, also when others have taken all.
pub(super) const SHARE_MIN: usize = 16;

/// Outcomes that each of so many sessions may have.
pub(super) fn outcomes_share(sessions: usize) -> usize {
    (OUTCOMES_MAX / sessions.max(1)).clamp(SHARE_MIN, OUTCOMES_PER_SESSION_MAX)
}

impl Namespace {
    /// Whether its session may make this call now, whatever it asks for.
    ///
    /// # Errors
    /// The refusal.
    pub(in crate::namenode) fn check_call(&self, key: CallKey) -> Result<()> {
        self.check_session(key)?;
        self.check_share(key)
    }

    /// Refuses a new call of a session that has more unanswered ones than its share: the cache is in memory and in every
    /// image. The oldest unanswered call is always let through: its answer is what makes room.
    fn check_share(&self, key: CallKey) -> Result<()> {
        let Some(session) = self.sessions.get(&key.client) else { return Ok(()) };
        let makes_room = session.outcomes.range(..key.lowest_pending).next().is_some();
        if key.call == key.lowest_pending || makes_room {
            Ok(())
        } else {
            self.check_room(session, session.outcomes.len())
        }
    }

    /// Refuses one more outcome of a session that has `outcomes` in its present life, when that is its share.
    pub(super) fn check_room(&self, session: &Session, outcomes: usize) -> Result<()> {
        let of_former = session.remembered() - session.outcomes.len();
        let is_full = self.sessions.outcomes() >= OUTCOMES_MAX && outcomes + of_former >= SHARE_MIN;
        if is_full || outcomes >= outcomes_share(self.sessions.len()) {
            let words = "too many unanswered calls in this session, beside those of others";
            return Err(DfsError::new(ErrorKind::Unavailable, words));
        }
        Ok(())
    }

    /// Refuses a call that its session does not (any more) allow. To be asked after the call has been looked up: `LeaseLost` says
    /// that it was not made and never will be, `OutcomeUnknown` that nobody can tell.
    pub(super) fn check_session(&self, key: CallKey) -> Result<()> {
        let refuse = |kind, why: &str| Err(DfsError::new(kind, format!("client {}: {why}", key.client)));
        let Some(session) = self.sessions.get(&key.client) else {
            return refuse(ErrorKind::OutcomeUnknown, "its session is not known (any more)");
        };
        let Some(lowest_pending) = session.lowest_pending_of(key.incarnation) else {
            return refuse(ErrorKind::OutcomeUnknown, "this life of it is not known (any more)");
        };
        if key.call < lowest_pending {
            return refuse(ErrorKind::OutcomeUnknown, "the call was answered before");
        }
        if session.incarnation != key.incarnation {
            return refuse(ErrorKind::LeaseLost, "a newer incarnation has taken its place");
        }
        if session.ended {
            return refuse(ErrorKind::LeaseLost, "its session has ended");
        }
        // An outcome that may be asked for is never dropped to make room: new calls wait. The oldest unanswered call is always
        // let through: its answer is what makes room.
        let is_oldest = key.call == key.lowest_pending;
        let makes_room = key.lowest_pending > session.lowest_pending;
        if session.outcomes.len() >= OUTCOMES_PER_SESSION_MAX && !is_oldest && !makes_room {
            return refuse(ErrorKind::Unavailable, "too many unanswered calls in its session");
        }
        Ok(())
    }

    pub(super) fn forget_answered(&mut self, key: CallKey) {
        self.sessions.change(key.client, |session| session.forget_below(key.lowest_pending));
    }

    /// Remembers what a call came to. Not a refusal that passes, which the client takes as "again": it changed nothing, and the
    /// same call is to be made when there is room.
    pub(super) fn record_outcome(&mut self, key: CallKey, op: &EditOp, outcome: &Result<Outcome>) {
        let is_old = op.step_limit == 0;
        let recorded = match outcome {
            Ok(outcome) => Some(Ok(outcome.clone())),
            Err(error) if is_old || error.kind().retry_class() == RetryClass::Never => {
                Some(Err(RecordedError::of(error)))
            }
            Err(_) => None,
        };
        self.sessions.change(key.client, |session| {
            session.last_op_ns = op.time_ns;
            session.outcomes.extend(recorded.map(|recorded| (key.call, recorded)));
        });
    }
}

impl Session {
    /// Calls of that life below this one are forgotten; none when the life itself is.
    fn lowest_pending_of(&self, incarnation: Incarnation) -> Option<CallId> {
        if self.incarnation == incarnation {
            return Some(self.lowest_pending);
        }
        self.former(incarnation).map(|life| life.lowest_pending)
    }

    /// Drops the outcomes that the client says it has.
    pub(super) fn forget_below(&mut self, lowest_pending: CallId) {
        if lowest_pending > self.lowest_pending {
            self.lowest_pending = lowest_pending;
            self.outcomes = self.outcomes.split_off(&lowest_pending);
        }
    }
}
