//! The leader's side of sessions: it opens and ends them, settles their calls, and forgets what is over for long. Who was heard
//! of when is not logged: only a session's end is.

use std::time::Duration;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{ClientId, Incarnation};
use dfs_proto::v1;
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{EndSessionOp, ForgetSessionsOp};

use super::apply::client_id;
use super::namesystem::{Namesystem, unexpected};
use super::outcome::Outcome;

/// A client not heard of for this long loses its session.
const LEASE_HARD_LIMIT: Duration = Duration::from_secs(120);
/// A session that ended or fell silent is remembered this long, to refuse late calls of it.
const SESSION_MEMORY: Duration = Duration::from_secs(600);
/// Sessions looked at in one hold of the namespace's lock.
const SESSIONS_PAGE: usize = 1_000;
/// Earlier lives that an opening of a session may name: more than are remembered.
const AWAITED_LIVES_MAX: usize = 16;

impl Namesystem {
    /// Starts a life of a client.
    ///
    /// # Errors
    /// As `mutate`; `LeaseLost` for a late try of an opening that others have followed.
    pub async fn open_session(&self, request: v1::OpenSessionRequest) -> Result<Incarnation> {
        let client = client_id(&request.client_id)?;
        let v1::OpenSessionRequest { name, opener, opening, mut awaited, .. } = request;
        awaited.truncate(AWAITED_LIVES_MAX);
        self.touch(client);
        let op = v1::OpenSessionOp { client_id: client.0.to_vec().into(), name, opener, opening, awaited };
        match self.mutate_internally(Op::OpenSession(op)).await? {
            Outcome::Session(incarnation) => Ok(incarnation),
            other => Err(unexpected(&other)),
        }
    }

    /// Keeps a session alive.
    ///
    /// # Errors
    /// `LeaseLost` when the session is not (or no more) known.
    pub fn renew_lease(&self, client: &[u8], incarnation: Incarnation) -> Result<()> {
        let client = client_id(client)?;
        let known = self
            .namespace()
            .read()
            .session(client)
            .is_some_and(|session| session.incarnation == incarnation && !session.ended);
        if !known {
            return Err(DfsError::new(ErrorKind::LeaseLost, "the session has ended"));
        }
        self.touch(client);
        Ok(())
    }

    /// Settles calls that a client has stopped waiting for.
    ///
    /// # Errors
    /// Of logging; `InvalidArgument` for too many calls, `Unavailable` when they cannot be noted before others are answered.
    pub async fn settle_calls(&self, request: v1::SettleCallsRequest) -> Result<()> {
        let retry = request.header.and_then(|header| header.retry);
        let retry =
            retry.ok_or_else(|| DfsError::new(ErrorKind::InvalidArgument, "calls are settled in their session"))?;
        let op = v1::SettleCallsOp {
            client_id: retry.client_id,
            incarnation: retry.incarnation,
            call_ids: request.call_ids,
            lowest_pending_call_id: retry.lowest_pending_call_id,
        };
        let op = Op::SettleCalls(op);
        self.namespace().read().check(&self.edit_op(None, None, op.clone()))?;
        self.mutate_internally(op).await.map(drop)
    }

    pub(super) fn touch(&self, client: ClientId) {
        self.renewals.lock().insert(client, self.blocks().listening().now());
    }

    pub(super) fn silent_for(&self, client: ClientId) -> Duration {
        let now = self.blocks().listening().now();
        now.since(*self.renewals.lock().entry(client).or_insert(now))
    }

    /// Ends sessions past the hard limit, and forgets those long gone and what calls have left behind. Called every few
    /// seconds.
    ///
    /// # Errors
    /// Of logging.
    pub async fn expire_sessions(&self) -> Result<()> {
        let idle_since_ns = self.clock.now_ns() - i64::try_from(SESSION_MEMORY.as_nanos()).unwrap_or(i64::MAX);
        let mut last = None;
        loop {
            let page: Vec<(ClientId, Incarnation, bool)> = {
                let namespace = self.namespace().read();
                let sessions = namespace.sessions_after(last).take(SESSIONS_PAGE);
                sessions.map(|(id, session)| (id, session.incarnation, session.ended)).collect()
            };
            last = page.last().map(|(client, ..)| *client);
            if last.is_none() {
                break;
            }
            for (client, incarnation, ended) in page {
                if !ended && self.silent_for(client) > LEASE_HARD_LIMIT {
                    tracing::warn!(%client, "the client is silent: its session ends");
                    self.end_session(client, incarnation).await?;
                }
            }
        }
        self.forget_sessions(idle_since_ns).await?;
        self.forget_renewals();
        self.tree_removals.expire(self.clock.instant());
        Ok(())
    }

    /// Forgets what ended before `idle_since_ns`, step by step.
    async fn forget_sessions(&self, idle_since_ns: i64) -> Result<()> {
        while self.namespace().read().remembers_any_ended_before(idle_since_ns) {
            self.mutate_internally(Op::ForgetSessions(ForgetSessionsOp { idle_since_ns })).await?;
        }
        Ok(())
    }

    /// Forgets when clients were heard of that have no session.
    fn forget_renewals(&self) {
        let clients: Vec<ClientId> = self.renewals.lock().keys().copied().collect();
        for page in clients.chunks(SESSIONS_PAGE) {
            let namespace = self.namespace().read();
            let mut renewals = self.renewals.lock();
            for client in page.iter().filter(|client| namespace.session(**client).is_none()) {
                renewals.remove(client);
            }
        }
    }

    /// Ends one life of a client.
    ///
    /// # Errors
    /// Of logging.
    pub async fn end_session(&self, client: ClientId, incarnation: Incarnation) -> Result<()> {
        let op = EndSessionOp { client_id: client.0.to_vec().into(), incarnation: incarnation.0 };
        self.mutate_internally(Op::EndSession(op)).await.map(drop)
    }
}
