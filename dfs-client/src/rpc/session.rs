//! Sessions: one life of this client at the NameNode, and the numbering of the calls made in it.
//!
//! Opened by the first call that changes something. When the NameNode says that it is over (another client took the
//! identity, or it was not renewed in time), it is dead for good: its writers fail, and later calls open a new one.
//!
//! ```text
//! (none) --first mutating call--> open --answered LeaseLost--> dead --next mutating call--> open (a new one)
//! ```
//!
//! Nothing that a session has asked for is left to itself. A call whose answer nobody waits for any more may still be made:
//! it stays pending, so that the NameNode keeps its outcome, until it is settled: what it took is given back, or it is never
//! made. The same goes for leases and holds whose owners have gone. [`settle`](crate::settle) does both, and the end
//! of the session does it at once.
//!
//! ```text
//!  begun --answered--> over          lease, hold --owner dropped--+
//!    +-----dropped--> unsettled --settled--> over                 +--> left --given back--> over
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use dfs_common::error::{CallFate, DfsError, ErrorKind, Result};
use dfs_common::ids::{CallId, ClientId, Incarnation, InodeId};
use dfs_proto::v1;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Calls that may wait to be settled. An outage leaves one behind for each call that is given up in it: from here on no
/// further ones are begun before the NameNode answers.
const UNSETTLED_MAX: usize = 16_384;
/// Earlier lives that an opening tells of.
const FORMER_MAX: usize = 8;

/// One life of this client.
pub(crate) struct Session {
    pub(crate) client_id: ClientId,
    pub(crate) incarnation: Incarnation,
    dead: AtomicBool,
    /// Protects the numbering and what is to be settled; never held across an await.
    calls: Mutex<Calls>,
    /// There is something to settle, or there never will be again. The settling task keeps it.
    pub(crate) work: Arc<Notify>,
    /// Something has been settled.
    settled: Notify,
}

/// Which call ids were given out and not yet answered.
#[derive(Debug)]
struct Calls {
    next: CallId,
    pending: BTreeSet<CallId>,
    /// Those of the pending ones whose callers have gone.
    unsettled: BTreeSet<CallId>,
    /// What owners have left behind.
    left: VecDeque<Claim>,
}

/// What a call has taken and its owner does not want any more: a name of its own, so that giving it back twice, or late,
/// takes nothing from whoever has it next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Lease { inode: InodeId, call: CallId },
    Hold { inode: InodeId, call: CallId },
}

/// Something to be settled.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Calls, and the lowest one that is pending and not among them.
    Calls(Vec<CallId>, CallId),
    Claims(Vec<Claim>),
}

impl Calls {
    fn begin(&mut self) -> CallId {
        let id = self.next;
        self.next = id.next();
        self.pending.insert(id);
        id
    }

    fn has_left_lease(&self, file: InodeId) -> bool {
        self.left.iter().any(|claim| matches!(claim, Claim::Lease { inode, .. } if *inode == file))
    }
}

/// A call that awaits its answer; dropped without one it is to be settled.
pub(crate) struct PendingCall {
    session: Arc<Session>,
    id: CallId,
    /// Then what it took has an owner.
    is_answered: bool,
}

impl Session {
    pub(crate) fn new(client_id: ClientId, incarnation: Incarnation) -> Self {
        let calls =
            Calls { next: CallId(1), pending: BTreeSet::new(), unsettled: BTreeSet::new(), left: VecDeque::new() };
        Self {
            client_id,
            incarnation,
            dead: AtomicBool::new(false),
            calls: Mutex::new(calls),
            work: Arc::new(Notify::new()),
            settled: Notify::new(),
        }
    }

    /// Gives out the next call id.
    ///
    /// # Errors
    /// `LeaseLost` when the session is dead, `Unavailable` when too many calls wait to be settled.
    pub(crate) fn begin_call(self: &Arc<Self>) -> Result<PendingCall> {
        let mut calls = self.calls.lock();
        if self.is_dead() {
            return Err(self.lost_error());
        }
        if calls.unsettled.len() >= UNSETTLED_MAX {
            let words =
                format!("{UNSETTLED_MAX} calls were given up and the NameNode does not say what became of them");
            return Err(DfsError::new(ErrorKind::Unavailable, words).with_fate(CallFate::Unanswered));
        }
        let id = calls.begin();
        Ok(PendingCall { session: Arc::clone(self), id, is_answered: false })
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Its end has settled everything at the NameNode. Calls that are still being tried stay pending: their outcomes can be
    /// asked for.
    pub(crate) fn mark_dead(&self) {
        let mut calls = self.calls.lock();
        self.dead.store(true, Ordering::Release);
        let Calls { pending, unsettled, left, .. } = &mut *calls;
        pending.retain(|id| !unsettled.contains(id));
        unsettled.clear();
        left.clear();
        drop(calls);
        self.work.notify_one();
        self.settled.notify_waiters();
    }

    /// What a writer of a dead session is told.
    pub(crate) fn lost_error(&self) -> DfsError {
        DfsError::new(
            ErrorKind::LeaseLost,
            format!("session {} of client {} has ended: its leases are gone", self.incarnation, self.client_id),
        )
    }

    /// Has a lease or hold given back, as soon as the NameNode answers.
    pub(crate) fn leave(&self, claim: Claim) {
        let mut calls = self.calls.lock();
        if !self.is_dead() {
            calls.left.push_back(claim);
            drop(calls);
            self.work.notify_one();
        }
    }

    /// Returns when no lease of a file waits to be given back (any more): neither one that was left, nor one that a call has
    /// taken which is to be settled by now. False when there was nothing to wait for.
    pub(crate) async fn wait_lease_given_back(&self, inode: InodeId) -> bool {
        // Which file an unsettled call is about is not known. Later ones do not matter: they are waited for by others.
        let mut calls = self.calls.lock().unsettled.clone();
        let mut has_waited = false;
        loop {
            let settled = self.settled.notified();
            {
                let now = self.calls.lock();
                calls.retain(|id| now.unsettled.contains(id));
                if calls.is_empty() && !now.has_left_lease(inode) {
                    return has_waited;
                }
            }
            has_waited = true;
            settled.await;
        }
    }

    /// Returns when it is known of every call that was given up until now whether it was made, and none of them will be any more.
    pub(crate) async fn wait_given_up_calls_settled(&self) {
        let later = self.calls.lock().next;
        loop {
            let settled = self.settled.notified();
            if self.calls.lock().unsettled.range(..later).next().is_none() {
                return;
            }
            settled.await;
        }
    }

    /// Up to `max` of what is to be settled: calls first, because a lease that one took is given back with it.
    pub(crate) fn next_work(&self, max: usize) -> Option<Work> {
        let calls = self.calls.lock();
        if !calls.unsettled.is_empty() {
            let some: Vec<CallId> = calls.unsettled.iter().take(max).copied().collect();
            let rest = calls.pending.iter().find(|id| some.binary_search(id).is_err());
            let lowest = rest.copied().unwrap_or(calls.next);
            return Some(Work::Calls(some, lowest));
        }
        (!calls.left.is_empty()).then(|| Work::Claims(calls.left.iter().take(max).copied().collect()))
    }

    pub(crate) fn calls_settled(&self, ids: &[CallId]) {
        self.done(|calls| {
            for id in ids {
                calls.unsettled.remove(id);
                calls.pending.remove(id);
            }
        });
    }

    pub(crate) fn given_back(&self, claim: Claim) {
        self.done(|calls| {
            if let Some(at) = calls.left.iter().position(|left| *left == claim) {
                calls.left.remove(at);
            }
        });
    }

    fn done(&self, change: impl FnOnce(&mut Calls)) {
        change(&mut self.calls.lock());
        self.settled.notify_waiters();
    }

    /// The lowest call whose outcome may be asked for.
    fn lowest_awaited(&self) -> Option<CallId> {
        self.calls.lock().pending.first().copied()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.work.notify_one();
    }
}

impl PendingCall {
    pub(crate) fn id(&self) -> CallId {
        self.id
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// For one try. The next may name a later call as the lowest one pending: only that makes room at a NameNode that
    /// keeps as many outcomes of this session as it may.
    pub(crate) fn retry_id(&self) -> v1::RetryId {
        v1::RetryId {
            client_id: self.session.client_id.0.to_vec().into(),
            incarnation: self.session.incarnation.0,
            call_id: self.id.0,
            lowest_pending_call_id: self.session.lowest_awaited().unwrap_or(self.id).0,
        }
    }

    /// Its answer has come, and somebody owns what it took: the NameNode may forget the outcome.
    pub(crate) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for PendingCall {
    fn drop(&mut self) {
        let mut calls = self.session.calls.lock();
        if self.is_answered || self.session.is_dead() {
            calls.pending.remove(&self.id);
        } else {
            calls.unsettled.insert(self.id);
            drop(calls);
            self.session.work.notify_one();
        }
    }
}

/// The session that new calls use, and those before it.
pub(crate) struct Sessions {
    state: Mutex<State>,
    /// Names this process to the NameNode.
    opener: u64,
    /// Held while a session is being opened, so that callers who arrive together open one.
    pub(crate) opening: tokio::sync::Mutex<()>,
}

/// Never held across an await.
struct State {
    current: Option<Arc<Session>>,
    /// Dead ones, the latest first, as long as calls of them wait for their answers.
    former: VecDeque<Weak<Session>>,
    /// Openings that were answered.
    openings: u64,
}

impl Default for Sessions {
    fn default() -> Self {
        let state = State { current: None, former: VecDeque::new(), openings: 0 };
        // Not 0, which is nobody's.
        let opener = rand::random::<u64>() | 1;
        Self { state: Mutex::new(state), opener, opening: tokio::sync::Mutex::new(()) }
    }
}

impl Sessions {
    /// The current session, unless there is none or it is dead.
    pub(crate) fn live(&self) -> Option<Arc<Session>> {
        self.state.lock().current.as_ref().filter(|session| !session.is_dead()).cloned()
    }

    /// What is to be asked for a new session: the same until it is answered, so that asking again opens no other.
    pub(crate) fn opening_request(&self, client_id: ClientId, name: &str) -> v1::OpenSessionRequest {
        let mut state = self.state.lock();
        if let Some(dead) = state.current.take_if(|session| session.is_dead()) {
            state.former.push_front(Arc::downgrade(&dead));
            state.former.truncate(FORMER_MAX);
        }
        let awaited = |session: &Weak<Session>| {
            let session = session.upgrade()?;
            let CallId(lowest_pending_call_id) = session.lowest_awaited()?;
            Some(v1::AwaitedLife { incarnation: session.incarnation.0, lowest_pending_call_id })
        };
        v1::OpenSessionRequest {
            header: None,
            client_id: client_id.0.to_vec().into(),
            name: name.to_owned(),
            opener: self.opener,
            opening: state.openings + 1,
            awaited: state.former.iter().filter_map(awaited).collect(),
        }
    }

    /// Makes `session` the current one: it was opened by [`opening_request`](Self::opening_request).
    pub(crate) fn opened(&self, session: Arc<Session>) {
        let mut state = self.state.lock();
        state.openings += 1;
        state.current = Some(session);
    }

    /// Forgets the current session.
    pub(crate) fn close(&self) {
        self.state.lock().current = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Arc<Session> {
        Arc::new(Session::new(ClientId([7; 16]), Incarnation(3)))
    }

    #[test]
    fn retry_id_names_the_lowest_unanswered_call() {
        let session = session();
        let begin = || session.begin_call().unwrap();
        let (first, second) = (begin(), begin());
        assert_eq!((first.retry_id().call_id, first.retry_id().lowest_pending_call_id), (1, 1));
        assert_eq!((second.retry_id().call_id, second.retry_id().lowest_pending_call_id), (2, 1));
        first.answered();
        assert_eq!(second.retry_id().lowest_pending_call_id, 2, "its next try");
        let third = begin();
        assert_eq!((third.retry_id().call_id, third.retry_id().lowest_pending_call_id), (3, 2));
        second.answered();
        third.answered();
        assert_eq!(begin().retry_id().lowest_pending_call_id, 4);
    }

    #[test]
    fn call_dropped_without_an_answer_stays_pending_until_it_is_settled() {
        let session = session();
        drop(session.begin_call().unwrap());
        let second = session.begin_call().unwrap();
        assert_eq!(second.retry_id().lowest_pending_call_id, 1, "its outcome may be asked for");
        assert_eq!(session.next_work(9), Some(Work::Calls(vec![CallId(1)], CallId(2))));
        session.calls_settled(&[CallId(1)]);
        assert!(session.next_work(9).is_none());
        drop(second);
        assert_eq!(session.next_work(9), Some(Work::Calls(vec![CallId(2)], CallId(3))));
    }

    #[test]
    fn begin_call_refuses_when_too_many_calls_are_unsettled() {
        let session = session();
        for _ in 0..UNSETTLED_MAX {
            drop(session.begin_call().unwrap());
        }
        assert_eq!(session.begin_call().err().unwrap().kind(), ErrorKind::Unavailable);
        session.calls_settled(&[CallId(1)]);
        assert!(session.begin_call().is_ok());
    }

    #[test]
    fn mark_dead_leaves_nothing_to_settle() {
        let session = session();
        drop(session.begin_call().unwrap());
        let tried = session.begin_call().unwrap();
        session.leave(Claim::Hold { inode: InodeId(5), call: CallId(1) });
        session.mark_dead();
        assert!(session.next_work(9).is_none());
        assert_eq!(session.lowest_awaited(), Some(CallId(2)), "its outcome can still be asked for");
        assert_eq!(session.begin_call().err().unwrap().kind(), ErrorKind::LeaseLost);
        drop(tried);
        assert!(session.lowest_awaited().is_none());
    }

    #[tokio::test]
    async fn wait_lease_given_back_waits_for_what_may_be_that_lease_only() {
        let session = session();
        let hold = |call| Claim::Hold { inode: InodeId(5), call: CallId(call) };
        let lease = |inode| Claim::Lease { inode: InodeId(inode), call: CallId(1) };
        session.leave(hold(1));
        session.leave(lease(6));
        assert!(!session.wait_lease_given_back(InodeId(5)).await, "neither is a lease of this file");
        session.leave(lease(5));
        drop(session.begin_call().unwrap());
        let waiting = std::pin::pin!(session.wait_lease_given_back(InodeId(5)));
        let settling = async {
            // What comes without pause meanwhile is not waited for.
            for call in 2..100 {
                session.leave(hold(call));
                session.given_back(hold(call - 1));
                drop(session.begin_call().unwrap());
                tokio::task::yield_now().await;
            }
            session.calls_settled(&[CallId(1)]);
            session.given_back(lease(5));
        };
        assert_eq!(tokio::join!(waiting, settling), (true, ()));
    }

    #[test]
    fn opening_request_is_the_same_until_it_is_answered_and_names_what_is_awaited() {
        let sessions = Sessions::default();
        assert!(sessions.live().is_none());
        let request = || sessions.opening_request(ClientId([7; 16]), "test");
        assert_eq!((request().opening, request()), (1, request()));
        let first = session();
        sessions.opened(Arc::clone(&first));
        assert!(sessions.live().is_some());
        first.begin_call().unwrap().answered();
        let tried = first.begin_call().unwrap();
        first.mark_dead();
        assert!(sessions.live().is_none());
        drop(first);
        let second = request();
        assert_eq!(second.opening, 2);
        assert_eq!(second.awaited, [v1::AwaitedLife { incarnation: 3, lowest_pending_call_id: 2 }]);
        drop(tried);
        assert!(request().awaited.is_empty());
    }
}
