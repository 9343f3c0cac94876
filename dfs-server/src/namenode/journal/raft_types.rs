//! The types openraft is asked to work with: what an entry carries, who the members are.

use std::fmt;
use std::sync::Arc;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::v1::{EditBatch, EditOp};
use openraft::BasicNode;
use prost::Message;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::namenode::image::format::LogPosition;

/// A member of the group.
pub(super) type NodeId = u64;

openraft::declare_raft_types!(
    /// The journal's types for openraft. Outcomes do not travel through openraft (`R` is empty): the state machine hands
    /// them to the callers itself.
    pub(super) TypeConfig:
        D = Batch,
        R = (),
        NodeId = NodeId,
        Node = BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = tokio::fs::File,
);

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
    /// Who waits for the outcomes, in this process only; 0: nobody.
    pub ticket: u64,
}

impl Batch {
    /// A batch nobody waits for.
    pub(super) fn of(ops: Vec<EditOp>) -> Self {
        Self { ops: Arc::new(ops), ticket: 0 }
    }

    /// Bytes of the encoded form.
    pub(super) fn encoded_len(&self) -> usize {
        self.ops.iter().map(encoded_op_len).sum()
    }

    /// Appends the protobuf message EditBatch.
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        for op in self.ops.iter() {
            prost::encoding::message::encode(EDIT_BATCH_OPS, op, into);
        }
    }

    /// Reads the protobuf message EditBatch.
    ///
    /// # Errors
    /// `Corrupt` when it is none.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        EditBatch::decode(bytes).map(|batch| Self::of(batch.ops)).map_err(|error| {
            DfsError::new(ErrorKind::Corrupt, "a log entry holds no edit batch; it was written by another version")
                .with_source(error)
        })
    }
}

/// Field number of `EditBatch.ops`: the message is encoded field by field so that its operations can stay shared.
const EDIT_BATCH_OPS: u32 = 1;

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
