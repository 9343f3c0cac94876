//! Sessions and holds: lives of clients, and inodes kept for them.
//!
//! A call happens once, also when it goes unanswered for so long that its session ends: the session's end leaves the
//! outcomes, and so does the next life as far as the client says that it waits for them. What stands in them is
//! answered; what does not stand in them was not done, and the client does it in its new life.
//!
//! A client that stops waiting for a call has it settled: a lease or hold that the call took is given back by the number of
//! the call, and a call that comes after that is refused. So nothing is ever taken that nobody knows of.

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{CallId, ClientId, Incarnation, InodeId};
use dfs_proto::v1::{AwaitedLife, EndSessionOp, ForgetSessionsOp, HoldOp, OpenSessionOp, ReleaseHoldOp, SettleCallsOp};

use super::{Context, OUTCOMES_PER_SESSION_MAX};
use crate::namenode::namespace::claims::Life;
use crate::namenode::namespace::{FormerLife, Namespace, RecordedError, Session};
use crate::namenode::outcome::Outcome;

/// Longest name of a session, bytes: host and mount point.
const SESSION_NAME_MAX: usize = 512;

/// Sessions at once; a mount has one, a command has one while it runs.
const SESSIONS_MAX: usize = 100_000;

/// Inodes one client may hold.
const HOLDS_PER_CLIENT_MAX: usize = 65_536;

/// Lives before the current one that are remembered. A client is told the outcome of a call by the first answer that reaches
/// it, so that two ends of a session seldom lie between.
const FORMER_LIVES_MAX: usize = 2;

/// Calls settled by one op.
const SETTLED_AT_ONCE_MAX: usize = 1_024;

impl Namespace {
    /// A new life of a client ends the one before it. An opening that comes again changes nothing.
    pub(super) fn apply_open_session(&mut self, context: &mut Context<'_>, op: &OpenSessionOp) -> Result<Outcome> {
        let client = client_id(&op.client_id)?;
        if op.name.len() > SESSION_NAME_MAX {
            return Err(DfsError::new(ErrorKind::InvalidArgument, "the session's name is too long"));
        }
        if self.sessions.len() >= SESSIONS_MAX && !self.sessions.contains_key(&client) {
            return Err(DfsError::new(ErrorKind::Unavailable, "too many clients have a session; try again later"));
        }
        if let Some(session) = self.sessions.get(&client)
            && op.opener != 0
            && session.opener.0 == op.opener
            && op.opening <= session.opener.1
        {
            if op.opening == session.opener.1 {
                return Ok(Outcome::Session(session.incarnation));
            }
            return Err(DfsError::new(ErrorKind::LeaseLost, "the session has been opened again since"));
        }
        let before = self.sessions.remove(&client);
        if let Some(before) = &before {
            self.end_life(context, (client, before.incarnation));
        }
        let session = Session {
            // The transaction's number: never used before, even when the client's earlier lives have been forgotten.
            incarnation: Incarnation(self.counters.last_txid.0),
            name: op.name.clone(),
            opener: (op.opener, op.opening),
            last_op_ns: context.now_ns,
            former: before.map_or_else(Vec::new, |before| awaited_lives(before, &op.awaited, context.now_ns)),
            ..Session::default()
        };
        let incarnation = session.incarnation;
        self.sessions.insert(client, session);
        Ok(Outcome::Session(incarnation))
    }

    pub(super) fn apply_end_session(&mut self, context: &mut Context<'_>, op: &EndSessionOp) -> Result<Outcome> {
        let client = client_id(&op.client_id)?;
        let Some(session) = self.sessions.get_mut(&client) else { return Ok(Outcome::Done) };
        if op.incarnation != 0 && session.incarnation.0 != op.incarnation {
            return Ok(Outcome::Done);
        }
        session.ended = true;
        // From here on it is remembered for a while.
        session.last_op_ns = session.last_op_ns.max(context.now_ns);
        let life = (client, session.incarnation);
        self.end_life(context, life);
        Ok(Outcome::Done)
    }

    pub(super) fn apply_forget_sessions(
        &mut self,
        context: &mut Context<'_>,
        op: &ForgetSessionsOp,
    ) -> Result<Outcome> {
        for session in self.sessions.values_mut() {
            session.former.retain(|life| life.ended_ns >= op.idle_since_ns);
        }
        let has_claims = |client| self.leases.has_any(client) || self.holds.has_any(client);
        let idle = self.sessions();
        let idle = idle.filter(|(client, session)| session.is_idle(op.idle_since_ns) && !has_claims(*client));
        let idle: Vec<ClientId> = idle.map(|(client, _)| client).take(context.steps_left as usize).collect();
        for client in idle {
            self.sessions.remove(&client);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn apply_hold(&mut self, context: &mut Context<'_>, op: &HoldOp) -> Result<Outcome> {
        let key = context.key()?;
        let (id, life) = (InodeId(op.inode), (key.client, key.incarnation));
        self.inode(id)?;
        if self.holds.count_of(life) >= HOLDS_PER_CLIENT_MAX {
            return Err(DfsError::new(ErrorKind::Unavailable, "the client holds too many files"));
        }
        self.holds.insert(id, life, key.call);
        Ok(Outcome::Inode(id))
    }

    pub(super) fn apply_release_hold(&mut self, context: &mut Context<'_>, op: &ReleaseHoldOp) -> Result<Outcome> {
        let key = context.key()?;
        let call = (op.call_id != 0).then_some(CallId(op.call_id));
        self.release_hold(context, InodeId(op.inode), (key.client, key.incarnation), call);
        Ok(Outcome::Done)
    }

    /// Ends a hold, if `call` said so last.
    fn release_hold(&mut self, context: &mut Context<'_>, id: InodeId, life: Life, call: Option<CallId>) {
        let is_meant = |latest| call.is_none_or(|call| [call, CallId(0)].contains(&latest));
        if self.holds.call_of(id, life).is_some_and(is_meant) {
            self.holds.remove(id, life);
            self.reap(id, context.events);
        }
    }

    /// Calls that nobody waits for: what they took is given back, those not made yet are refused from now on. The end of
    /// a session has done as much.
    pub(super) fn apply_settle_calls(&mut self, context: &mut Context<'_>, op: &SettleCallsOp) -> Result<Outcome> {
        let client = client_id(&op.client_id)?;
        if op.call_ids.len() > SETTLED_AT_ONCE_MAX {
            let words = format!("more than {SETTLED_AT_ONCE_MAX} calls to be settled at once");
            return Err(DfsError::new(ErrorKind::InvalidArgument, words));
        }
        let Some(session) = self.sessions.get(&client) else { return Ok(Outcome::Done) };
        if session.incarnation.0 != op.incarnation || session.ended {
            return Ok(Outcome::Done);
        }
        let lowest_pending = session.lowest_pending.max(CallId(op.lowest_pending_call_id));
        let calls = op.call_ids.iter().map(|&call| CallId(call)).filter(|call| *call >= session.lowest_pending);
        let (made, not_made): (Vec<_>, Vec<_>) = calls.partition(|call| session.outcomes.contains_key(call));
        let to_note: Vec<CallId> = not_made.into_iter().filter(|call| *call >= lowest_pending).collect();
        if session.outcomes.range(lowest_pending..).count() + to_note.len() > OUTCOMES_PER_SESSION_MAX {
            let words = format!("client {client}: too many unanswered calls in its session");
            return Err(DfsError::new(ErrorKind::Unavailable, words));
        }
        let took = made.iter().filter_map(|call| Some((*call, taken_by(session.outcomes.get(call)?.as_ref().ok()?)?)));
        for (call, inode) in took.collect::<Vec<_>>() {
            self.give_back(context, (client, Incarnation(op.incarnation)), call, inode)?;
        }
        let Some(session) = self.sessions.get_mut(&client) else { return Ok(Outcome::Done) };
        session.forget_below(lowest_pending);
        let given_up = || RecordedError { kind: ErrorKind::Cancelled, message: "given up before it was made".into() };
        session.outcomes.extend(to_note.into_iter().map(|call| (call, Err(given_up()))));
        Ok(Outcome::Done)
    }

    /// Gives back the lease and the hold that a call took whose answer nobody has heard.
    fn give_back(&mut self, context: &mut Context<'_>, life: Life, call: CallId, inode: InodeId) -> Result<()> {
        self.release_hold(context, inode, life, Some(call));
        let Some(lease) = self.leases.get(inode) else { return Ok(()) };
        if !lease.is_of(life) || lease.call != call || lease.needs_recovery {
            return Ok(());
        }
        // The block that a file was made with: nobody was told of it, so nobody has written to it.
        let has_empty_block = self.file_blocks(inode)?.last().is_some_and(|last| last.length == 0);
        if let Some(lease) = self.leases.get_mut(inode).filter(|lease| has_empty_block && lease.open_block.is_some()) {
            lease.open_block = None;
            self.drop_last_block(context, inode)?;
        }
        self.revoke(inode, context.events);
        Ok(())
    }
}

/// The inode whose lease or hold a call may have taken.
fn taken_by(outcome: &Outcome) -> Option<InodeId> {
    match outcome {
        Outcome::Inode(inode) | Outcome::Created { inode, .. } | Outcome::Appended { inode, .. } => Some(*inode),
        Outcome::Done | Outcome::Session(_) | Outcome::Block(_) | Outcome::GenerationStamp(_) | Outcome::Closed(_) => {
            None
        }
    }
}

/// Of the lives of a client until now, those that it waits for answers of.
fn awaited_lives(before: Session, awaited: &[AwaitedLife], now_ns: i64) -> Vec<FormerLife> {
    let last = FormerLife {
        incarnation: before.incarnation,
        ended_ns: now_ns,
        lowest_pending: before.lowest_pending,
        outcomes: before.outcomes,
    };
    let lives = std::iter::once(last).chain(before.former);
    let awaited = lives.filter_map(|mut life| {
        let awaited = awaited.iter().find(|awaited| awaited.incarnation == life.incarnation.0)?;
        life.lowest_pending = life.lowest_pending.max(CallId(awaited.lowest_pending_call_id));
        life.outcomes = life.outcomes.split_off(&life.lowest_pending);
        Some(life)
    });
    awaited.take(FORMER_LIVES_MAX).collect()
}

fn client_id(bytes: &[u8]) -> Result<ClientId> {
    ClientId::from_bytes(bytes).ok_or_else(|| DfsError::new(ErrorKind::InvalidArgument, "a client id has 16 bytes"))
}
