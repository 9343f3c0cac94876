//! What the journal applies committed ops to: the namespace, and through it the block manager.

use std::sync::Arc;

use dfs_common::error::Result;
use dfs_common::ids::TxId;
use dfs_proto::v1::EditOp;
use tokio::sync::Notify;

use super::blocks::BlockManager;
use super::journal::{self, Applied};
use super::lease_watch::LeaseWatch;
use super::namespace::lock::NamespaceLock;
use super::namespace::state_digest::StateDigest;
use super::outcome::Outcome;

/// Events of blocks that may gather before they are handed on: so the time that this takes is seen between two ops.
const GATHERED_EVENTS_MAX: usize = 256;

/// The NameNode's state machine.
pub struct Machine {
    /// The durable state; written only here.
    pub namespace: Arc<NamespaceLock>,
    /// Soft state, told of every change of blocks in order.
    pub blocks: Arc<BlockManager>,
    /// Who waits for files, told of every change of leases.
    pub leases: Arc<LeaseWatch>,
    /// Told while something was removed or has ended of which parts are left.
    pub leftovers: Arc<Notify>,
}

impl journal::Machine for Machine {
    type Outcome = Outcome;

    fn apply(&self, first_txid: TxId, state_digest: Option<StateDigest>, ops: &[EditOp]) -> Result<Applied<Outcome>> {
        let mut events = Vec::new();
        let mut outcomes = Vec::with_capacity(ops.len());
        let mut namespace = self.namespace.write();
        assert_eq!(
            namespace.counters().last_txid.next(),
            first_txid,
            "the log and the namespace disagree on the next transaction"
        );
        namespace.meet_digest(state_digest)?;
        for op in ops {
            outcomes.push(namespace.apply(op, &mut events));
            if events.len() >= GATHERED_EVENTS_MAX {
                self.blocks.on_events(events.drain(..));
            }
            // Nobody needs the ops of one entry to be seen together, and a batch of a thousand may take long.
            if namespace.is_due() {
                self.blocks.on_events(events.drain(..));
                namespace.give_way();
            }
        }
        // Still under the namespace's lock: nobody may see a block that the block manager does not know.
        self.blocks.on_events(events);
        let (changes, state_digest) = (namespace.take_lease_changes(), namespace.counters().digest);
        let has_leftovers = namespace.has_leftovers();
        drop(namespace);
        // Here, and not where the ops were asked for: whoever asked may have gone.
        self.leases.tell(&changes);
        if has_leftovers {
            self.leftovers.notify_one();
        }
        Ok(Applied { outcomes, state_digest })
    }

    fn last_applied_txid(&self) -> TxId {
        self.namespace.read().counters().last_txid
    }
}
