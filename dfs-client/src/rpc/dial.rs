//! The one place that opens connections: gRPC channels and data connections.

use std::time::Duration;

use dfs_common::error::{DfsError, ErrorKind, Result};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tower::Service;

use super::gathering_stream::GatheringStream;

/// How long a gRPC connection may take to open. Shorter than any deadline of a try, so that the reason is seen.
const GRPC_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pings while calls are outstanding find a peer that vanished without closing.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// Silence after a ping that ends the connection. With the interval it bounds what a hung process costs a caller that has
/// others to ask, such as an fsync of blocks on three nodes.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A channel to `host:port` that connects when first used, and again whenever it broke.
///
/// # Errors
/// `InvalidArgument` when the address is not of the form `host:port`.
pub(crate) fn grpc_channel(address: &str) -> Result<Channel> {
    let bad = |why: &str| {
        DfsError::new(ErrorKind::InvalidArgument, format!("address {address:?} is not of the form host:port: {why}"))
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(|| bad("no colon"))?;
    if host.is_empty() || port.parse::<u16>().is_err() {
        return Err(bad("empty host or not a port number"));
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| bad("not an address").with_source(error))?
        .connect_timeout(GRPC_CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    let connect = move |uri| {
        let opening = tcp.call(uri);
        async move { opening.await.map(GatheringStream::new) }
    };
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(connect)))
}

/// A data connection to `host:port`.
///
/// # Errors
/// `TimedOut` or `Io`, naming the address.
pub(crate) async fn dial_data(address: &str, timeout: Duration) -> Result<TcpStream> {
    match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Err(_) => Err(DfsError::new(
            ErrorKind::TimedOut,
            format!("DataNode {address} did not accept a connection within {} s", timeout.as_secs_f32()),
        )),
        Ok(Err(error)) => Err(DfsError::io(format!("connect to DataNode {address}"), error)),
        Ok(Ok(stream)) => {
            // Small packets must leave at once; without it only latency suffers.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
    }
}
