//! The types openraft is asked to work with: what an entry carries, who the members are.

use std::fmt;
use std::sync::Arc;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{EditBatch, EditOp, RemoveKind, RenameFlag, XAttrSetFlag};
use openraft::BasicNode;
use prost::Message;
use prost::encoding::fixed64;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::namenode::image::format::LogPosition;
use crate::namenode::namespace::state_digest::StateDigest;

/// A member of the group.
pub(super) type NodeId = u64;

/// The lone member of a group of one.
pub(super) const LONE_NODE: NodeId = 1;

openraft::declare_raft_types!(
    /// The journal's types for openraft. Outcomes do not travel through openraft (`R` is empty): the state machine hands
    /// them to the callers itself.
    pub(super) TypeConfig:
        D = Batch,
        R = (),
        NodeId = NodeId,
        Node = BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = SnapshotData,
);

/// The bytes of an image on their way to a follower: a group of one has none.
pub(super) type SnapshotData = std::io::Cursor<Vec<u8>>;

/// Names an entry: leader, term and index.
pub(super) type LogId = openraft::LogId<NodeId>;
/// An entry of the log.
pub(super) type Entry = openraft::Entry<TypeConfig>;
/// What is inside an entry.
pub(super) type Payload = openraft::EntryPayload<TypeConfig>;
/// Who may lead in which term.
pub(super) type Vote = openraft::Vote<NodeId>;
/// The members, and where in the log they were decided.
pub(super) type StoredMembership = openraft::StoredMembership<NodeId, BasicNode>;
/// A failure of the storage below openraft; openraft stops at it.
pub(super) type StorageError = openraft::StorageError<NodeId>;
/// openraft's handle.
pub(super) type Raft = openraft::Raft<TypeConfig>;

/// Operations that travel, are logged and are applied together: one entry, one sync.
#[derive(Clone, Default)]
pub(super) struct Batch {
    /// The operations in order; shared between the log's cache and the state machine.
    pub ops: Arc<Vec<EditOp>>,
    /// Of the state before the first of them, as the proposer had it; none in logs of layout 1.
    pub state_digest: Option<StateDigest>,
    /// Who waits for the outcomes, in this process only; 0: nobody.
    pub ticket: u64,
}

impl Batch {
    /// A batch nobody waits for.
    #[cfg(test)]
    pub(super) fn of(ops: Vec<EditOp>) -> Self {
        Self { ops: Arc::new(ops), ..Self::default() }
    }

    /// Bytes of the encoded form.
    pub(super) fn encoded_len(&self) -> usize {
        let digest = self.state_digest.map_or(0, |_| DIGEST_BYTES);
        self.ops.iter().map(encoded_op_len).sum::<usize>() + digest
    }

    /// Appends the protobuf message EditBatch.
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        for op in self.ops.iter() {
            prost::encoding::message::encode(EDIT_BATCH_OPS, op, into);
        }
        if let Some(StateDigest(digest)) = &self.state_digest {
            fixed64::encode(EDIT_BATCH_STATE_DIGEST, digest, into);
        }
    }

    /// Reads the protobuf message EditBatch.
    ///
    /// # Errors
    /// `Corrupt` when it is none; `Unsupported` when it holds kinds or fields that only a newer version knows. The decoder skips
    /// those, so the batch is encoded again here: if it is shorter then, something was skipped, and applying the rest would give
    /// another state.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let batch = EditBatch::decode(bytes)
            .map_err(|error| DfsError::new(ErrorKind::Corrupt, "a log entry holds no edit batch").with_source(error))?;
        if batch.encoded_len() != bytes.len() {
            return Err(unknown("an operation or a field in an entry of the edit log"));
        }
        batch.ops.iter().try_for_each(check_known)?;
        Ok(Self { ops: Arc::new(batch.ops), state_digest: batch.state_digest.map(StateDigest), ticket: 0 })
    }
}

/// A refusal to read what only a newer version understands. It ends whatever reads the log or an image: what was skipped
/// would be missing from the state.
pub(super) fn unknown(what: impl std::fmt::Display) -> DfsError {
    DfsError::new(
        ErrorKind::Unsupported,
        format!("{what} is not known to this program; use the one that wrote it, or a newer one"),
    )
}

/// Field numbers of `EditBatch`: the message is encoded field by field so that its operations can stay shared.
const EDIT_BATCH_OPS: u32 = 1;
const EDIT_BATCH_STATE_DIGEST: u32 = 2;
/// What the digest takes in an encoded batch: tag and number.
pub(super) const DIGEST_BYTES: usize = 9;

/// Refuses an operation of no kind, or with a choice that this program does not know. No leader logs either.
fn check_known(op: &EditOp) -> Result<()> {
    let is_known = match &op.op {
        None => false,
        Some(Op::Remove(op)) => RemoveKind::try_from(op.kind).is_ok(),
        Some(Op::Rename(op)) => RenameFlag::try_from(op.flag).is_ok(),
        Some(Op::SetXattr(op)) => XAttrSetFlag::try_from(op.flag).is_ok(),
        Some(_) => true,
    };
    if is_known { Ok(()) } else { Err(unknown("an operation of the edit log, or a choice in it,")) }
}

/// Bytes an operation takes in a batch.
pub(super) fn encoded_op_len(op: &EditOp) -> usize {
    prost::encoding::message::encoded_len(EDIT_BATCH_OPS, op)
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} ops)", self.ops.len())
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        self.encode(&mut bytes);
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct BatchVisitor;
        impl Visitor<'_> for BatchVisitor {
            type Value = Batch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of an edit batch")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> std::result::Result<Batch, E> {
                Batch::decode(bytes).map_err(E::custom)
            }
        }
        deserializer.deserialize_bytes(BatchVisitor).map_err(D::Error::custom)
    }
}

/// The image's form of a log id.
pub(super) fn position_of(log_id: &LogId) -> LogPosition {
    LogPosition { term: log_id.leader_id.term, node: log_id.leader_id.node_id, index: log_id.index }
}

/// openraft's form of a position.
pub(super) fn log_id_of(position: &LogPosition) -> LogId {
    LogId::new(openraft::LeaderId::new(position.term, position.node), position.index)
}
