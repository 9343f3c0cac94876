//! Sessions: each is one life of a client, with the outcomes of its unanswered calls.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{CallId, ClientId, Incarnation};

use crate::namenode::outcome::Outcome;

/// One life of a client.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Which life.
    pub incarnation: Incarnation,
    /// Host and mount point, or command: for people.
    pub name: String,
    /// The process of the client that opened it, and which of its openings this is; 0: it did not say.
    pub opener: (u64, u64),
    /// Time in the client's last op or of the session's end, nanoseconds since the epoch.
    pub last_op_ns: i64,
    /// Calls below are forgotten: each has been answered.
    pub lowest_pending: CallId,
    /// Outcomes of calls from `lowest_pending` on: the retry cache.
    pub outcomes: Outcomes,
    /// The session ended; late calls of it are refused.
    pub ended: bool,
    /// Lives before in which the client still waits for answers, the latest first.
    pub former: Vec<FormerLife>,
}

/// Outcomes of calls that may not have been answered.
pub type Outcomes = BTreeMap<CallId, Result<Outcome, RecordedError>>;

/// A life of a client that is over, with calls whose answers the client waits for: what was done in it is told, nothing
/// more is done.
#[derive(Clone, Debug)]
pub struct FormerLife {
    /// Which life.
    pub incarnation: Incarnation,
    /// When the next one took its place, nanoseconds since the epoch.
    pub ended_ns: i64,
    /// As a session's.
    pub lowest_pending: CallId,
    /// As a session's.
    pub outcomes: Outcomes,
}

impl Session {
    /// A life before this one that is remembered.
    pub fn former(&self, incarnation: Incarnation) -> Option<&FormerLife> {
        self.former.iter().find(|life| life.incarnation == incarnation)
    }

    /// It ended, and nobody has asked for anything in it since `since_ns`: it may be forgotten.
    pub fn is_idle(&self, since_ns: i64) -> bool {
        self.ended && self.last_op_ns < since_ns
    }

    /// Outcomes kept, those of former lives included.
    pub fn remembered(&self) -> usize {
        self.outcomes.len() + self.former.iter().map(|life| life.outcomes.len()).sum::<usize>()
    }

    /// When the first of its lives ended that is over and remembered.
    fn first_end(&self) -> Option<i64> {
        let own = self.ended.then_some(self.last_op_ns);
        self.former.iter().map(|life| life.ended_ns).chain(own).min()
    }
}

/// Longest message kept of a refusal, bytes: a session keeps thousands, and names in them come from clients.
const RECORDED_MESSAGE_MAX: usize = 256;

/// A refusal in the retry cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedError {
    /// Kind of the error.
    pub kind: ErrorKind,
    /// Its words.
    pub message: String,
}

impl RecordedError {
    /// What to keep of `error`.
    pub fn of(error: &DfsError) -> Self {
        let mut message = error.chain();
        message.truncate(message.floor_char_boundary(RECORDED_MESSAGE_MAX));
        Self { kind: error.kind(), message }
    }

    /// The error again.
    pub fn to_error(&self) -> DfsError {
        DfsError::new(self.kind, self.message.clone())
    }
}

/// All sessions. Beside them stands what would otherwise be found only by looking at each: when lives ended, and how many
/// outcomes there are.
#[derive(Debug, Default)]
pub struct Sessions {
    by_client: BTreeMap<ClientId, Session>,
    /// Of clients with a life that is over, the end of the first.
    by_end: BTreeSet<(i64, ClientId)>,
    outcomes: usize,
}

impl Sessions {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_client.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_client.is_empty()
    }

    /// Outcomes in all of them.
    pub fn outcomes(&self) -> usize {
        self.outcomes
    }

    /// A client's.
    pub fn get(&self, client: &ClientId) -> Option<&Session> {
        self.by_client.get(client)
    }

    /// Those of the clients after `after`.
    pub fn after(&self, after: Option<ClientId>) -> impl Iterator<Item = (ClientId, &Session)> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_client.range((after, Bound::Unbounded)).map(|(id, session)| (*id, session))
    }

    /// Clients with a life that ended before `time_ns`, by the time.
    pub fn ended_before(&self, time_ns: i64) -> impl Iterator<Item = ClientId> {
        self.by_end.range(..(time_ns, ClientId([0; 16]))).map(|(_, client)| *client)
    }

    /// Puts a session in place of the client's one before.
    pub fn insert(&mut self, client: ClientId, session: Session) {
        self.remove(client);
        self.outcomes += session.remembered();
        self.by_end.extend(session.first_end().map(|end| (end, client)));
        self.by_client.insert(client, session);
    }

    /// Takes a client's session out.
    pub fn remove(&mut self, client: ClientId) -> Option<Session> {
        let session = self.by_client.remove(&client)?;
        self.outcomes -= session.remembered();
        if let Some(end) = session.first_end() {
            self.by_end.remove(&(end, client));
        }
        Some(session)
    }

    /// Changes a client's session, if it has one.
    pub fn change(&mut self, client: ClientId, change: impl FnOnce(&mut Session)) {
        let Some(session) = self.by_client.get_mut(&client) else { return };
        let (end, remembered) = (session.first_end(), session.remembered());
        change(session);
        self.outcomes = self.outcomes - remembered + session.remembered();
        let end_now = session.first_end();
        if end != end_now {
            self.by_end.extend(end_now.map(|end| (end, client)));
            if let Some(end) = end {
                self.by_end.remove(&(end, client));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: ClientId = ClientId([1; 16]);

    fn outcomes(calls: u64) -> Outcomes {
        (1..=calls).map(|call| (CallId(call), Ok(Outcome::Done))).collect()
    }

    #[test]
    fn ends_and_outcomes_follow_every_change() {
        let mut sessions = Sessions::default();
        let former = |ended_ns| FormerLife {
            incarnation: Incarnation(1),
            ended_ns,
            lowest_pending: CallId(1),
            outcomes: outcomes(3),
        };
        let life = Session { outcomes: outcomes(2), last_op_ns: 9, former: vec![former(5)], ..Session::default() };
        sessions.insert(CLIENT, life.clone());
        sessions.insert(CLIENT, life);
        let ended = |sessions: &Sessions, time| sessions.ended_before(time).count();
        assert_eq!((sessions.outcomes(), ended(&sessions, 5), ended(&sessions, 6)), (5, 0, 1));
        sessions.change(CLIENT, |session| session.former.clear());
        assert_eq!((sessions.outcomes(), ended(&sessions, i64::MAX)), (2, 0));
        sessions.change(CLIENT, |session| session.ended = true);
        assert_eq!((ended(&sessions, 9), ended(&sessions, 10)), (0, 1));
        sessions.change(CLIENT, |session| session.outcomes.clear());
        assert_eq!(sessions.outcomes(), 0);
        sessions.remove(CLIENT);
        assert!(sessions.is_empty() && ended(&sessions, i64::MAX) == 0);
    }
}
