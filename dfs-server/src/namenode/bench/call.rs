//! Which call an operation stands for.

use dfs_common::ids::ClientId;
use dfs_proto::v1::RetryId;

/// A call of a client that has answered for all calls before it.
pub(super) fn retry(client: ClientId, incarnation: u64, call: u64) -> RetryId {
    RetryId { client_id: client.0.to_vec().into(), incarnation, call_id: call, lowest_pending_call_id: call }
}
