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
use dfs_proto::v1::{
    AwaitedLife, EndSessionOp, ForgetSessionsOp, HoldOp, OpenSessionOp, ReleaseHoldOp, RetryId, SettleCallsOp,
};

use super::context::{CallKey, Context, client_id};
use super::retry_cache::{OUTCOMES_PER_SESSION_MAX, SHARE_MIN};
use crate::namenode::namespace::claims::Life;
use crate::namenode::namespace::{FormerLife, Namespace, RecordedError, Session};
use crate::namenode::outcome::Outcome;

/// Longest name of a session, bytes: host and mount point.
const SESSION_NAME_MAX: usize = 512;

/// Sessions at once; a mount has one, a command has one while it runs.
const SESSIONS_MAX: usize = 100_000;

/// Inodes that all clients together may hold. They ask only for files that somebody removes while they have them open.
pub(super) const HOLDS_MAX: usize = 1 << 20;

/// Inodes one client may hold.
const HOLDS_PER_CLIENT_MAX: usize = 65_536;

/// Lives before the current one that are remembered. A client tries a call again and again until it is answered, and a session
/// seldom ends twice in that time.
const FORMER_LIVES_MAX: usize = 2;

/// Calls settled by one op: as many as a client names at once. Each may give back a file that nothing else keeps.
const SETTLED_AT_ONCE_MAX: usize = 256;

/// Outcomes forgotten for a step: an entry of a directory costs as much.
const OUTCOMES_PER_STEP: usize = 16;

impl Namespace {
    /// A new life of a client ends the one before it. An opening that comes again changes nothing.
    pub(super) fn apply_open_session(&mut self, context: &mut Context<'_>, op: &OpenSessionOp) -> Result<Outcome> {
        let client = client_id(&op.client_id)?;
        if op.name.len() > SESSION_NAME_MAX {
            return Err(DfsError::new(ErrorKind::InvalidArgument, "the session's name is too long"));
        }
        if self.sessions.len() >= SESSIONS_MAX && self.sessions.get(&client).is_none() {
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
        let before = self.sessions.remove(client);
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
        let Some(incarnation) = self.sessions.get(&client).map(|session| session.incarnation) else {
            return Ok(Outcome::Done);
        };
        if op.incarnation != 0 && incarnation.0 != op.incarnation {
            return Ok(Outcome::Done);
        }
        self.sessions.change(client, |session| {
            session.ended = true;
            // From here on it is remembered for a while.
            session.last_op_ns = session.last_op_ns.max(context.now_ns);
        });
        self.end_life(context, (client, incarnation));
        Ok(Outcome::Done)
    }

    /// Forgets lives that are over for long, as many as the op's steps reach. What the last of them still has is taken from it
    /// without its session, too: files that wait for recovery may do so for ever.
    pub(super) fn apply_forget_sessions(
        &mut self,
        context: &mut Context<'_>,
        op: &ForgetSessionsOp,
    ) -> Result<Outcome> {
        let ended: Vec<ClientId> =
            self.sessions.ended_before(op.idle_since_ns).take(context.steps_left as usize).collect();
        for client in ended {
            if context.steps_left == 0 {
                break;
            }
            let before = self.sessions.outcomes();
            let has_claims = || self.leases.has_any(client) || self.holds.has_any(client);
            let is_idle = self.sessions.get(&client).is_some_and(|session| session.is_idle(op.idle_since_ns));
            if is_idle && !(context.is_old && has_claims()) {
                self.sessions.remove(client);
            } else {
                self.sessions.change(client, |session| session.former.retain(|life| life.ended_ns >= op.idle_since_ns));
            }
            let steps = 1 + (before - self.sessions.outcomes()) / OUTCOMES_PER_STEP;
            context.steps_left = context.steps_left.saturating_sub(u32::try_from(steps).unwrap_or(u32::MAX));
        }
        Ok(Outcome::Done)
    }

    /// Refuses a hold when there are too many, but to whom has few.
    pub(super) fn check_holds(&self, retry: Option<&RetryId>) -> Result<()> {
        if self.holds.len() < HOLDS_MAX {
            return Ok(());
        }
        let key = retry.map(CallKey::try_from).transpose()?;
        match key {
            Some(key) if self.holds.count_of((key.client, key.incarnation)) < SHARE_MIN => Ok(()),
            _ => Err(DfsError::new(ErrorKind::Unavailable, "too many removed files are open")),
        }
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
        let Settled { lowest_pending, made, to_note, kept } = Settled::of(session, op);
        if kept + to_note.len() > OUTCOMES_PER_SESSION_MAX {
            let words = format!("client {client}: too many unanswered calls in its session");
            return Err(DfsError::new(ErrorKind::Unavailable, words));
        }
        let took = made.iter().filter_map(|call| Some((*call, taken_by(session.outcomes.get(call)?.as_ref().ok()?)?)));
        for (call, inode) in took.collect::<Vec<_>>() {
            self.give_back(context, (client, Incarnation(op.incarnation)), call, inode)?;
        }
        let given_up = || RecordedError { kind: ErrorKind::Cancelled, message: "given up before it was made".into() };
        self.sessions.change(client, |session| {
            session.forget_below(lowest_pending);
            session.outcomes.extend(to_note.into_iter().map(|call| (call, Err(given_up()))));
        });
        Ok(Outcome::Done)
    }

    /// Refuses to note calls that were not made beyond the session's share of the retry cache. It is asked again when those
    /// below have been answered.
    pub(super) fn check_settle(&self, op: &SettleCallsOp) -> Result<()> {
        let Some(session) = self.sessions.get(&client_id(&op.client_id)?) else { return Ok(()) };
        if session.incarnation.0 != op.incarnation || op.call_ids.len() > SETTLED_AT_ONCE_MAX {
            return Ok(());
        }
        let settled = Settled::of(session, op);
        match settled.to_note.len().checked_sub(1) {
            Some(all_but_one) => self.check_room(session, settled.kept + all_but_one),
            None => Ok(()),
        }
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
        self.revoke(context, inode);
        Ok(())
    }
}

/// What settling calls means for a session.
struct Settled {
    lowest_pending: CallId,
    /// Calls with an outcome.
    made: Vec<CallId>,
    /// Calls without, which may still arrive.
    to_note: Vec<CallId>,
    /// Outcomes that stay.
    kept: usize,
}

impl Settled {
    fn of(session: &Session, op: &SettleCallsOp) -> Self {
        let lowest_pending = session.lowest_pending.max(CallId(op.lowest_pending_call_id));
        let calls = op.call_ids.iter().map(|&call| CallId(call)).filter(|call| *call >= session.lowest_pending);
        let (made, not_made): (Vec<_>, Vec<_>) = calls.partition(|call| session.outcomes.contains_key(call));
        let to_note = not_made.into_iter().filter(|call| *call >= lowest_pending).collect();
        Self { lowest_pending, made, to_note, kept: session.outcomes.range(lowest_pending..).count() }
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
