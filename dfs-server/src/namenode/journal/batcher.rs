//! Many callers, one sync: everything that waits when the log becomes free goes into one entry.
//!
//! openraft 0.9 flushes entry by entry, so without this 64 callers would wait for 64 syncs. There is no timer: a lone
//! operation leaves at once, and while it is being synced the next ones gather. One batch is under way at a time; its
//! outcomes are delivered by the state machine before the next one leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::v1::EditOp;
use openraft::error::{ClientWriteError, RaftError};
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use super::contract::Machine;
use super::log_files::check_entry_bytes;
use super::raft_types::{Batch, Raft, encoded_op_len};
use super::state_machine::{MachineState, Token, Waiter};

/// What may wait: ten thousand small operations, a second's worth of a busy NameNode. More callers are told to come back.
pub(super) const QUEUE_BYTES_MAX: usize = 80 * 1024 * 1024;
/// Held by an operation that waits, beside its own bytes: the call that waits with it, and what its connection keeps for it.
pub(super) const WAITING_OP_BYTES: usize = 8 * 1024;
/// Operations in one entry, so that the first of them does not wait for the whole queue to be applied.
const BATCH_OPS_MAX: usize = 1_024;
/// Bytes in one entry, except for a single larger operation.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

struct Item<O> {
    op: EditOp,
    bytes: usize,
    waiter: Waiter<O>,
}

/// The callers' end.
pub(super) struct Queue<O> {
    sender: mpsc::UnboundedSender<Item<O>>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl<O> Clone for Queue<O> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), waiting_bytes: self.waiting_bytes.clone() }
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
        let held = bytes + WAITING_OP_BYTES;
        if self.waiting_bytes.fetch_add(held, Ordering::Relaxed) + held > QUEUE_BYTES_MAX {
            self.waiting_bytes.fetch_sub(held, Ordering::Relaxed);
            return Err(DfsError::new(ErrorKind::Unavailable, "too many changes wait for the edit log; try again"));
        }
        let op = unshared(op);
        let (sender, outcome) = oneshot::channel();
        let waiter = Waiter::new(sender, token);
        self.sender.send(Item { op, bytes, waiter }).map_err(|_| stopped())?;
        outcome.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// The operation in a buffer of its own. The fields of one that was received are slices of its message, which is larger if the
/// client wants it so, and would be kept as long as the operation.
fn unshared(op: EditOp) -> EditOp {
    EditOp::decode(Bytes::from(op.encode_to_vec())).expect("what prost encodes it decodes")
}

fn stopped() -> DfsError {
    DfsError::new(ErrorKind::Unavailable, "the journal has stopped; the change may or may not have been made")
}

/// The end that proposes entries.
pub(super) struct Batcher<M: Machine> {
    inbox: mpsc::UnboundedReceiver<Item<M::Outcome>>,
    waiting_bytes: Arc<AtomicUsize>,
    state: Arc<MachineState<M>>,
    last_ticket: u64,
}

/// A queue and its batcher.
pub(super) fn new<M: Machine>(state: Arc<MachineState<M>>) -> (Queue<M::Outcome>, Batcher<M>) {
    let (sender, inbox) = mpsc::unbounded_channel();
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    (Queue { sender, waiting_bytes: waiting_bytes.clone() }, Batcher { inbox, waiting_bytes, state, last_ticket: 0 })
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
            self.waiting_bytes.fetch_sub(bytes + ops.len() * WAITING_OP_BYTES, Ordering::Relaxed);
            self.propose(&raft, ops, waiters).await;
        }
    }

    async fn propose(&mut self, raft: &Raft, ops: Vec<EditOp>, waiters: Vec<Waiter<M::Outcome>>) {
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.state.waiters.lock().insert(ticket, waiters);
        // The batch before has been applied: this is the state that the ops will meet.
        let state_digest = Some(self.state.applied.lock().digest.or_first());
        let written = raft.client_write(Batch { ops: Arc::new(ops), state_digest, ticket }).await;
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
