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
mod context;
pub(in crate::namenode) mod entries;
mod files;
mod lease_recovery;
mod leftovers;
mod privileges;
mod reaping;
mod retry_cache;
mod sessions;
#[cfg(test)]
pub(super) mod tests;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::v1::EditOp;
use dfs_proto::v1::edit_op::Op;

use self::context::Context;
pub use self::context::{CallKey, client_id};
use self::privileges::Asked;
use super::blocks::BlockEvent;
use super::namespace::Namespace;
use super::namespace::permission::Identity;
use super::outcome::Outcome;

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
}

fn required_op(op: &EditOp) -> Result<&Op> {
    op.op.as_ref().ok_or_else(|| DfsError::new(ErrorKind::InvalidArgument, "edit op of an unknown kind"))
}
