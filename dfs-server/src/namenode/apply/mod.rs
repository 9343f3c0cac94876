//! The only road by which durable state changes: `Namespace::apply`, one edit op after the other, live and in replay.
//!
//! Each op is first checked whole and then carried out, so a refused op changes only the transaction counter, its
//! recorded outcome and the digest. The leader calls the same checks (`check`) before logging, to refuse early; ops in
//! flight may overtake that, which is why apply checks again. Time and choices come with the op: the same log gives the
//! same state, on every member.
//!
//! No op takes long: its work is bounded by what it carries, by the limit of steps in it (`leftovers`), or is handed on as a
//! whole. What the block manager must know leaves as [`BlockEvent`]s, in order.

mod attributes;
pub(in crate::namenode) mod entries;
mod files;
mod leftovers;
mod privileges;
mod recovery;
mod sessions;
#[cfg(test)]
pub(super) mod tests;

use dfs_common::error::{DfsError, ErrorKind, Result, RetryClass};
use dfs_common::ids::{CallId, ClientId, Incarnation, InodeId};
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{EditOp, RetryId};

use self::privileges::Asked;
use super::blocks::BlockEvent;
use super::namespace::inode::{BlockList, Content, Inode};
use super::namespace::permission::Identity;
use super::namespace::{Lease, Namespace, RecordedError, Session};
use super::outcome::Outcome;

/// Unanswered calls of one session that the retry cache keeps; a client has far fewer calls in flight.
const OUTCOMES_PER_SESSION_MAX: usize = 16_384;

/// Blocks of one file of which the block manager is told one by one, while everybody waits.
const EVENTS_PER_FILE_MAX: usize = 16;

/// Inodes that all clients together may hold. They ask only for files that somebody removes while they have them open.
const HOLDS_MAX: usize = 1 << 20;

/// Outcomes that all sessions together may have in the retry cache, those of former lives included: some hundred megabytes,
/// should each be a refusal with a long message.
const OUTCOMES_MAX: usize = 1 << 20;

/// What a session may have in any case, of outcomes and of holds, also when others have taken all.
const SHARE_MIN: usize = 16;

/// Outcomes that each of so many sessions may have.
fn outcomes_share(sessions: usize) -> usize {
    (OUTCOMES_MAX / sessions.max(1)).clamp(SHARE_MIN, OUTCOMES_PER_SESSION_MAX)
}

/// Who asks, when, and where block events go: what every op's code needs besides its fields.
pub(super) struct Context<'a> {
    pub who: Identity,
    pub now_ns: i64,
    pub key: Option<CallKey>,
    /// Entries, leases and holds that the op may still take away; see [`Context::pay`].
    pub steps_left: u32,
    /// Logged before there were steps. It is replayed by the rules of then: a removal checks the tree itself, no directory is
    /// too deep, every refusal is remembered, files keep their capabilities.
    pub is_old: bool,
    pub events: &'a mut Vec<BlockEvent>,
}

impl Context<'_> {
    /// Pays for an entry or claim taken away: a step, or as many as events were told since there were `told`. Others wait
    /// for the events, too.
    fn pay(&mut self, told: usize) {
        let steps = (self.events.len() - told).max(1);
        self.steps_left = self.steps_left.saturating_sub(u32::try_from(steps).unwrap_or(u32::MAX));
    }

    /// Whose call it is, for ops that need leases or holds.
    fn key(&self) -> Result<CallKey> {
        self.key.ok_or_else(|| DfsError::new(ErrorKind::InvalidArgument, "this call needs a session"))
    }

    /// A lease taken by this call.
    fn lease(&self) -> Result<Lease> {
        self.key().map(|key| Lease::taken_by(key.client, key.incarnation, key.call))
    }
}

/// A client's call, checked for form.
#[derive(Clone, Copy, Debug)]
pub struct CallKey {
    /// Who.
    pub client: ClientId,
    /// Which life.
    pub incarnation: Incarnation,
    /// Which call.
    pub call: CallId,
    /// Calls below are answered.
    pub lowest_pending: CallId,
}

impl TryFrom<&RetryId> for CallKey {
    type Error = DfsError;

    fn try_from(retry: &RetryId) -> Result<Self> {
        let client = client_id(&retry.client_id)?;
        if retry.call_id == 0 || retry.lowest_pending_call_id > retry.call_id {
            return Err(DfsError::new(ErrorKind::InvalidArgument, "call ids start at 1 and are not below the lowest"));
        }
        Ok(Self {
            client,
            incarnation: Incarnation(retry.incarnation),
            call: CallId(retry.call_id),
            lowest_pending: CallId(retry.lowest_pending_call_id),
        })
    }
}

impl Namespace {
    /// Applies the next op of the log. Block events are appended to `events`.
    ///
    /// # Errors
    /// The refusal, which is the op's outcome: only the counter, the recorded outcome and the digest have changed.
    ///
    /// # Panics
    /// When the op is of a kind that this program does not know. The leader refuses it before it is logged, and whoever reads
    /// the log before it comes here.
    pub fn apply(&mut self, op: &EditOp, events: &mut Vec<BlockEvent>) -> Result<Outcome> {
        self.counters.last_txid = self.counters.last_txid.next();
        let named = self.named_by(op);
        let outcome = self.apply_once(op, events);
        self.digest_op(&named, &outcome);
        outcome
    }

    fn apply_once(&mut self, op: &EditOp, events: &mut Vec<BlockEvent>) -> Result<Outcome> {
        let key = op.retry.as_ref().map(CallKey::try_from).transpose()?;
        if let Some(key) = key {
            if let Some(outcome) = self.recorded_outcome(key.client, key.incarnation, key.call) {
                return outcome.map_err(|error| error.to_error());
            }
            self.check_session(key)?;
            self.forget_answered(key);
        }
        let is_old = op.step_limit == 0;
        let context = Context {
            who: Identity::of(op.caller.as_ref()),
            now_ns: op.time_ns,
            key,
            steps_left: if is_old { u32::MAX } else { op.step_limit },
            is_old,
            events,
        };
        let outcome = self.dispatch(op, context);
        if let Some(key) = key {
            self.record_outcome(key, op, &outcome);
        }
        outcome
    }

    fn dispatch(&mut self, op: &EditOp, mut context: Context<'_>) -> Result<Outcome> {
        let context = &mut context;
        match op.op.as_ref().expect("an op of an unknown kind was refused before it came here") {
            Op::OpenSession(op) => self.apply_open_session(context, op),
            Op::EndSession(op) => self.apply_end_session(context, op),
            Op::ForgetSessions(op) => self.apply_forget_sessions(context, op),
            Op::SettleCalls(op) => self.apply_settle_calls(context, op),
            Op::Forget(_) => self.apply_forget(context),
            Op::Create(op) => self.apply_create(context, op),
            Op::MakeNode(op) => self.apply_make_node(context, op),
            Op::Link(op) => self.apply_link(context, op),
            Op::Remove(op) => self.apply_remove(context, op),
            Op::Rename(op) => self.apply_rename(context, op),
            Op::OpenForAppend(op) => self.apply_open_for_append(context, op),
            Op::AddBlock(op) => self.apply_add_block(context, op),
            Op::AbandonBlock(op) => self.apply_abandon_block(context, op),
            Op::Complete(op) => self.apply_complete(context, op),
            Op::RecordLength(op) => self.apply_record_length(context, op),
            Op::NewGenerationStamp(op) => self.apply_new_generation_stamp(context, op),
            Op::UpdatePipeline(op) => self.apply_update_pipeline(context, op),
            Op::CloseRecovered(op) => self.apply_close_recovered(context, op),
            Op::RevokeLease(op) => self.apply_revoke_lease(context, op),
            Op::StartRecovery(op) => self.apply_start_recovery(op),
            Op::ReclaimBlock(op) => self.apply_reclaim_block(context, op),
            Op::SetAttr(op) => self.apply_set_attr(context, op),
            Op::Truncate(op) => self.apply_truncate(context, op),
            Op::SetReplication(op) => self.apply_set_replication(context, op),
            Op::SetXattr(op) => self.apply_set_xattr(context, op),
            Op::RemoveXattr(op) => self.apply_remove_xattr(context, op),
            Op::Hold(op) => self.apply_hold(context, op),
            Op::ReleaseHold(op) => self.apply_release_hold(context, op),
        }
    }

    /// What the leader asks before logging: would this op be refused now?
    ///
    /// # Errors
    /// The refusal.
    pub fn check(&self, op: &EditOp) -> Result<()> {
        let key = op.retry.as_ref().map(CallKey::try_from).transpose()?;
        if let Some(key) = key {
            self.check_call(key)?;
        }
        let who = Identity::of(op.caller.as_ref());
        let asked = Asked { who: &who, life: key.map(|key| (key.client, key.incarnation)), is_old: false };
        match required_op(op)? {
            Op::Create(op) => self.plan_create(&who, op).map(drop),
            Op::MakeNode(op) => {
                self.check_depth_of_new(op)?;
                self.plan_make_node(&who, op).map(drop)
            }
            Op::Link(op) => self.plan_link(&who, op).map(drop),
            Op::Remove(op) => self.plan_remove(&who, op).map(drop),
            Op::Rename(op) => {
                self.check_depth_of_moved(op)?;
                self.plan_rename(&who, op).map(drop)
            }
            Op::OpenForAppend(op) => self.check_open_for_append(&who, op),
            Op::SetAttr(op) => self.plan_set_attr(asked, op).map(drop),
            Op::Truncate(op) => self.check_truncate(&who, op),
            Op::SetReplication(op) => self.check_set_replication(&who, op),
            Op::SetXattr(op) => self.check_set_xattr(asked, op),
            Op::RemoveXattr(op) => self.check_remove_xattr(&who, op),
            Op::Hold(_) => self.check_holds(op.retry.as_ref()),
            Op::SettleCalls(op) => self.check_settle(op),
            // A writer's steps and the NameNode's own ops are rarely refused; apply does it.
            Op::OpenSession(_)
            | Op::EndSession(_)
            | Op::ForgetSessions(_)
            | Op::Forget(_)
            | Op::AddBlock(_)
            | Op::AbandonBlock(_)
            | Op::Complete(_)
            | Op::RecordLength(_)
            | Op::NewGenerationStamp(_)
            | Op::UpdatePipeline(_)
            | Op::CloseRecovered(_)
            | Op::RevokeLease(_)
            | Op::StartRecovery(_)
            | Op::ReclaimBlock(_)
            | Op::ReleaseHold(_) => Ok(()),
        }
    }

    /// Whether its session may make this call now, whatever it asks for.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn check_call(&self, key: CallKey) -> Result<()> {
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
    fn check_room(&self, session: &Session, outcomes: usize) -> Result<()> {
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
    fn check_session(&self, key: CallKey) -> Result<()> {
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

    fn forget_answered(&mut self, key: CallKey) {
        self.sessions.change(key.client, |session| session.forget_below(key.lowest_pending));
    }

    /// Remembers what a call came to. Not a refusal that passes, which the client takes as "again": it changed nothing, and the
    /// same call is to be made when there is room.
    fn record_outcome(&mut self, key: CallKey, op: &EditOp, outcome: &Result<Outcome>) {
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

    /// Takes an inode out of the namespace when nothing keeps it: no name, no lease, no hold. A condemned directory goes when it
    /// is empty.
    fn reap(&mut self, id: InodeId, events: &mut Vec<BlockEvent>) {
        let unlinked = self.inode(id).is_ok_and(|inode| inode.nlink == 0) && !self.condemned.contains(&id);
        if !unlinked || self.holds.has(id) || self.leases.get(id).is_some_and(|lease| !lease.needs_recovery) {
            return;
        }
        // A file without a name whose writer is gone needs no recovery.
        self.leases.remove(id);
        if let Some(inode) = self.inodes.remove(id.0) {
            self.forget_content(inode, events);
        }
    }

    fn forget_content(&mut self, inode: Inode, events: &mut Vec<BlockEvent>) {
        match inode.content {
            Content::Directory(_) => self.directory_count -= 1,
            Content::File { blocks, .. } => {
                self.file_count -= 1;
                self.forget_blocks(blocks, events);
            }
            Content::Symlink(_) | Content::Special { .. } => self.file_count -= 1,
        }
    }

    /// No file has these blocks any more. A long list goes as it is: the block manager takes it apart in steps.
    fn forget_blocks(&mut self, blocks: BlockList, events: &mut Vec<BlockEvent>) {
        self.block_count -= blocks.len() as u64;
        if blocks.len() > EVENTS_PER_FILE_MAX {
            events.push(BlockEvent::ListRemoved { blocks });
        } else {
            events.extend(blocks.as_slice().iter().map(|block| BlockEvent::Removed { id: block.id }));
        }
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
    fn forget_below(&mut self, lowest_pending: CallId) {
        if lowest_pending > self.lowest_pending {
            self.lowest_pending = lowest_pending;
            self.outcomes = self.outcomes.split_off(&lowest_pending);
        }
    }
}

/// A choice that this version knows. One it does not know must not be taken for the default: it may promise something else.
fn known<T: TryFrom<i32>>(value: i32, what: &str) -> Result<T> {
    T::try_from(value).map_err(|_| DfsError::new(ErrorKind::InvalidArgument, format!("unknown {what}: {value}")))
}

/// A client id as it comes in messages.
///
/// # Errors
/// `InvalidArgument`.
pub fn client_id(bytes: &[u8]) -> Result<ClientId> {
    ClientId::from_bytes(bytes).ok_or_else(|| DfsError::new(ErrorKind::InvalidArgument, "a client id has 16 bytes"))
}

fn required_op(op: &EditOp) -> Result<&Op> {
    op.op.as_ref().ok_or_else(|| DfsError::new(ErrorKind::InvalidArgument, "edit op of an unknown kind"))
}

/// A file operation on something that is not a regular file.
fn not_a_file(id: InodeId, inode: &Inode) -> DfsError {
    match inode.content {
        Content::Directory(_) => DfsError::new(ErrorKind::IsADirectory, format!("inode {id} is a directory")),
        _ => DfsError::new(ErrorKind::InvalidArgument, format!("inode {id} is not a regular file")),
    }
}
