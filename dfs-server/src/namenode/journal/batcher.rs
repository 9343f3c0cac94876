//! Many callers, one sync: everything that waits when the log becomes free goes into one entry.
//!
//! openraft 0.9 flushes entry by entry, so without this 64 callers would wait for 64 syncs. There is no timer: a lone
//! operation leaves at once, and while it is being synced the next ones gather. One batch is under way at a time; its
//! outcomes are delivered by the state machine before the next one leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::v1::EditOp;
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::{mpsc, oneshot};

use super::Machine;
use super::log_files::check_entry_bytes;
use super::raft_types::{Batch, Raft, encoded_op_len};
use super::state_machine::{MachineState, Token, Waiter};

/// Operations that may wait: a second's worth of a busy NameNode. More callers are told to come back.
pub(super) const QUEUE_OPS_MAX: usize = 10_000;
/// Bytes of operations that may wait: the largest there are fit several times, and memory stays in bounds.
pub(super) const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Operations in one entry, so that the first of them does not wait for the whole queue to be applied.
const BATCH_OPS_MAX: usize = 1_024;
/// Bytes in one entry, except for a single larger operation.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

struct Item<O> {
    op: EditOp,
    bytes: usize,
    waiter: Waiter<O>,
}

/// How much waits.
#[derive(Default)]
struct Waiting {
    ops: AtomicUsize,
    bytes: AtomicUsize,
}

impl Waiting {
    /// Counts an operation in; false when there is no room.
    fn enter(&self, bytes: usize) -> bool {
        let ops_before = self.ops.fetch_add(1, Ordering::Relaxed);
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let is_room = ops_before < QUEUE_OPS_MAX && bytes_before.saturating_add(bytes) <= QUEUE_BYTES_MAX;
        if !is_room {
            self.leave(1, bytes);
        }
        is_room
    }

    fn leave(&self, ops: usize, bytes: usize) {
        self.ops.fetch_sub(ops, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The callers' end.
pub(super) struct Queue<O> {
    sender: mpsc::UnboundedSender<Item<O>>,
    waiting: Arc<Waiting>,
}

impl<O> Clone for Queue<O> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), waiting: self.waiting.clone() }
    }
}

impl<O: Send + 'static> Queue<O> {
    /// Has `op` logged and applied.
    ///
    /// # Errors
    /// The op's own outcome; `Unavailable` when too many wait or the journal has stopped; `NotLeader`; `InvalidArgument`
    /// when it is too large.
    pub(super) async fn submit(&self, op: EditOp, token: Token) -> Result<O> {
        let bytes = encoded_op_len(&op);
        check_entry_bytes(bytes)?;
        if !self.waiting.enter(bytes) {
            return Err(DfsError::new(ErrorKind::Unavailable, "too many changes wait for the edit log; try again"));
        }
        let (sender, outcome) = oneshot::channel();
        let waiter = Waiter::new(sender, token);
        self.sender.send(Item { op, bytes, waiter }).map_err(|_| stopped())?;
        outcome.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> DfsError {
    DfsError::new(ErrorKind::Unavailable, "the journal has stopped; the change may or may not have been made")
}

/// The end that proposes entries.
pub(super) struct Batcher<M: Machine> {
    inbox: mpsc::UnboundedReceiver<Item<M::Outcome>>,
    waiting: Arc<Waiting>,
    state: Arc<MachineState<M>>,
    last_ticket: u64,
}

/// A queue and its batcher.
pub(super) fn new<M: Machine>(state: Arc<MachineState<M>>) -> (Queue<M::Outcome>, Batcher<M>) {
    let (sender, inbox) = mpsc::unbounded_channel();
    let waiting = Arc::new(Waiting::default());
    (Queue { sender, waiting: waiting.clone() }, Batcher { inbox, waiting, state, last_ticket: 0 })
}

impl<M: Machine> Batcher<M> {
    /// Proposes batches until all queues are gone.
    pub(super) async fn run(mut self, raft: Raft) {
        let mut held = None;
        loop {
            let first = match held.take() {
                Some(item) => item,
                None => match self.inbox.recv().await {
                    Some(item) => item,
                    None => return,
                },
            };
            let mut bytes = first.bytes;
            let mut ops = vec![first.op];
            let mut waiters = vec![first.waiter];
            while ops.len() < BATCH_OPS_MAX {
                let Ok(item) = self.inbox.try_recv() else { break };
                if bytes + item.bytes > BATCH_BYTES_MAX {
                    held = Some(item);
                    break;
                }
                bytes += item.bytes;
                ops.push(item.op);
                waiters.push(item.waiter);
            }
            self.waiting.leave(ops.len(), bytes);
            self.propose(&raft, ops, waiters).await;
        }
    }

    async fn propose(&mut self, raft: &Raft, ops: Vec<EditOp>, waiters: Vec<Waiter<M::Outcome>>) {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.state.waiters.lock().insert(ticket, waiters);
        let written = raft.client_write(Batch { ops: Arc::new(ops), ticket }).await;
        // Applied entries have taken their waiters with them; what is left was not applied.
        let left = self.state.waiters.lock().remove(&ticket);
        let Some(left) = left else { return };
        let error = match written {
            Ok(_) => DfsError::new(ErrorKind::Internal, "an entry was applied without its outcomes"),
            Err(error) => write_error(error),
        };
        for waiter in left {
            waiter.tell(Err(error.duplicate()));
        }
    }
}

/// What a failed proposal means for its callers.
pub(super) fn write_error(
    error: RaftError<super::raft_types::NodeId, ClientWriteError<super::raft_types::NodeId, openraft::BasicNode>>,
) -> DfsError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            let leader = forward.leader_node.map(|node| node.addr);
            DfsError::new(ErrorKind::NotLeader, "this NameNode does not lead").with_leader(leader)
        }
        RaftError::APIError(other) => DfsError::new(ErrorKind::Internal, "the log refused an entry").with_source(other),
        RaftError::Fatal(fatal) => stopped().with_source(fatal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_has_room_for_many_small_or_few_large_operations() {
        let waiting = Waiting::default();
        assert!((0..QUEUE_OPS_MAX).all(|_| waiting.enter(100)));
        assert!(!waiting.enter(100));
        waiting.leave(QUEUE_OPS_MAX, QUEUE_OPS_MAX * 100);
        let large = QUEUE_BYTES_MAX / 4;
        assert!((0..4).all(|_| waiting.enter(large)));
        assert!(!waiting.enter(1), "few operations, but all the bytes");
        waiting.leave(1, large);
        assert!(waiting.enter(large));
    }
}
