//! Which call an operation stands for, and calls over gRPC.

use std::net::SocketAddr;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::ClientId;
use dfs_proto::status::from_status;
use dfs_proto::v1::RetryId;
use tonic::transport::{Channel, Endpoint};

/// A call of a client that has answered for all calls before it.
pub(super) fn retry(client: ClientId, incarnation: u64, call: u64) -> RetryId {
    RetryId { client_id: client.0.to_vec().into(), incarnation, call_id: call, lowest_pending_call_id: call }
}

/// A connection to a NameNode.
///
/// # Errors
/// When it cannot be made.
pub(super) async fn connect(address: SocketAddr) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| DfsError::new(ErrorKind::Internal, "name the server").with_source(error))?;
    let connected = endpoint.tcp_nodelay(true).connect().await;
    connected.map_err(|error| DfsError::new(ErrorKind::Unavailable, "connect").with_source(error))
}

/// What a refused call says.
pub(super) fn refused(status: tonic::Status) -> DfsError {
    from_status(&status)
}
