//! Sessions: one life of this client at the NameNode, and the numbering of the calls made in it.
//!
//! Opened by the first call that changes something. When the NameNode says that it is over (another client took the
//! identity, or it was not renewed in time), it is dead for good: its writers fail, and later calls open a new one.
//!
//! ```text
//! (none) --first mutating call--> open --answered Stale / LeaseLost--> dead --next mutating call--> open (a new one)
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dfs_common::error::{DfsError, ErrorKind};
use dfs_common::ids::{CallId, ClientId, Incarnation};
use dfs_proto::v1;
use parking_lot::Mutex;

/// One life of this client.
pub(crate) struct Session {
    pub(crate) client_id: ClientId,
    pub(crate) incarnation: Incarnation,
    dead: AtomicBool,
    /// Protects the numbering; never held across an await.
    calls: Mutex<Calls>,
}

/// Which call ids were given out and not yet answered.
#[derive(Debug)]
struct Calls {
    next: CallId,
    pending: BTreeSet<CallId>,
}

impl Calls {
    fn begin(&mut self) -> (CallId, CallId) {
        let id = self.next;
        self.next = id.next();
        self.pending.insert(id);
        (id, *self.pending.first().unwrap_or(&id))
    }
}

/// A call that awaits its answer; dropping it means that nobody will ask again.
pub(crate) struct PendingCall {
    session: Arc<Session>,
    id: CallId,
    lowest_pending: CallId,
}

impl Session {
    pub(crate) fn new(client_id: ClientId, incarnation: Incarnation) -> Self {
        let calls = Calls { next: CallId(1), pending: BTreeSet::new() };
        Self { client_id, incarnation, dead: AtomicBool::new(false), calls: Mutex::new(calls) }
    }

    /// Gives out the next call id.
    pub(crate) fn begin_call(self: &Arc<Self>) -> PendingCall {
        let (id, lowest_pending) = self.calls.lock().begin();
        PendingCall { session: Arc::clone(self), id, lowest_pending }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    pub(crate) fn mark_dead(&self) {
        self.dead.store(true, Ordering::Release);
    }

    /// What a writer of a dead session is told.
    pub(crate) fn lost_error(&self) -> DfsError {
        DfsError::new(
            ErrorKind::LeaseLost,
            format!("session {} of client {} has ended: its leases are gone", self.incarnation, self.client_id),
        )
    }
}

impl PendingCall {
    pub(crate) fn retry_id(&self) -> v1::RetryId {
        v1::RetryId {
            client_id: self.session.client_id.0.to_vec().into(),
            incarnation: self.session.incarnation.0,
            call_id: self.id.0,
            lowest_pending_call_id: self.lowest_pending.0,
        }
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        self.session.calls.lock().pending.remove(&self.id);
    }
}

/// The session that new calls use.
#[derive(Default)]
pub(crate) struct Sessions {
    current: Mutex<Option<Arc<Session>>>,
    /// Held while a session is being opened, so that callers who arrive together open one.
    pub(crate) opening: tokio::sync::Mutex<()>,
}

impl Sessions {
    /// The current session, unless there is none or it is dead.
    pub(crate) fn live(&self) -> Option<Arc<Session>> {
        self.current.lock().as_ref().filter(|session| !session.is_dead()).cloned()
    }

    pub(crate) fn set(&self, session: Option<Arc<Session>>) {
        *self.current.lock() = session;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_id_names_the_lowest_unanswered_call() {
        let session = Arc::new(Session::new(ClientId([7; 16]), Incarnation(3)));
        let first = session.begin_call();
        let second = session.begin_call();
        assert_eq!((first.retry_id().call_id, first.retry_id().lowest_pending_call_id), (1, 1));
        assert_eq!((second.retry_id().call_id, second.retry_id().lowest_pending_call_id), (2, 1));
        drop(first);
        let third = session.begin_call();
        assert_eq!((third.retry_id().call_id, third.retry_id().lowest_pending_call_id), (3, 2));
        drop((second, third));
        assert_eq!(session.begin_call().retry_id().lowest_pending_call_id, 4);
    }

    #[test]
    fn live_session_is_not_a_dead_one() {
        let sessions = Sessions::default();
        assert!(sessions.live().is_none());
        let session = Arc::new(Session::new(ClientId([7; 16]), Incarnation(1)));
        sessions.set(Some(Arc::clone(&session)));
        assert!(sessions.live().is_some());
        session.mark_dead();
        assert!(sessions.live().is_none());
        assert_eq!(session.lost_error().kind(), ErrorKind::LeaseLost);
    }
}
