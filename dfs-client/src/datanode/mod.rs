//! DataNodes as a client sees them: where they are, the connections kept to them, and which ones failed lately.

mod located;
mod node;
mod pool;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use dfs_common::block::ExtendedBlock;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::data_transfer::decode_delimited;
use dfs_proto::data_transfer::required::WireMessage;
use dfs_proto::v1::client_datanode_client::ClientDatanodeClient;
use dfs_proto::{GRPC_MESSAGE_MAX, status, v1};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::transport::Channel;

pub(crate) use located::{Located, Replica};
pub(crate) use node::Node;

use crate::rpc::{dial_data, grpc_channel};

pub(crate) type DatanodeClient = ClientDatanodeClient<Channel>;

/// DataNodes remembered at once (addresses, channels, failures): far above any cluster this client may meet; beyond it
/// the table is emptied and fills again.
const NODES_MAX: usize = 16_384;
/// How long a node may take to tell how much of a replica may be seen.
const VISIBLE_LENGTH_DEADLINE: Duration = Duration::from_secs(3);
/// How long a node that failed is asked last. HDFS remembers per stream; a client that opens many files wants it shared.
const SUSPECT_FOR: Duration = Duration::from_secs(60);
/// The same for one that has only been slow to answer: it may have been the machine here.
const SLOW_FOR: Duration = Duration::from_secs(10);

/// A data connection on loan; given back with [`Datanodes::give_back`] when it is between two operations.
pub(crate) struct DataConnection {
    pub(crate) stream: TcpStream,
    /// It has served an operation before: its peer may have gone since.
    pub(crate) is_reused: bool,
}

/// Everything that is kept per DataNode.
pub(crate) struct Datanodes {
    connect_timeout: Duration,
    pool: Mutex<pool::Pool>,
    nodes: Mutex<HashMap<String, Arc<Node>>>,
    channels: Mutex<HashMap<String, DatanodeClient>>,
    /// Until when.
    suspects: Mutex<HashMap<String, Instant>>,
}

impl Datanodes {
    pub(crate) fn new(connect_timeout: Duration) -> Self {
        Self {
            connect_timeout,
            pool: Mutex::default(),
            nodes: Mutex::default(),
            channels: Mutex::default(),
            suspects: Mutex::default(),
        }
    }

    /// A connection kept from before, or else a new one.
    pub(crate) async fn connection(&self, node: &Node) -> Result<DataConnection> {
        let pooled = self.pool.lock().take(&node.data_address, Instant::now());
        match pooled {
            Some(stream) => Ok(DataConnection { stream, is_reused: true }),
            None => self.fresh_connection(node).await,
        }
    }

    /// A new connection.
    pub(crate) async fn fresh_connection(&self, node: &Node) -> Result<DataConnection> {
        let stream = dial_data(&node.data_address, self.connect_timeout).await?;
        Ok(DataConnection { stream, is_reused: false })
    }

    /// Keeps a connection on which no operation is under way.
    pub(crate) fn give_back(&self, node: &Node, connection: DataConnection) {
        self.pool.lock().put(&node.data_address, connection.stream, Instant::now());
    }

    /// Closes what has been idle for too long.
    pub(crate) fn close_idle(&self, now: Instant) {
        self.pool.lock().close_idle(now);
    }

    /// Bytes of a block, in its generation or a newer one, that readers may see at a node.
    pub(crate) async fn visible_length(&self, node: &Node, block: &ExtendedBlock) -> Result<u64> {
        let request =
            v1::GetReplicaVisibleLengthRequest { block_pool_id: block.pool.clone(), block: Some(block.block.into()) };
        let ask =
            |mut datanode: DatanodeClient, request| async move { datanode.get_replica_visible_length(request).await };
        Ok(self.call(node, VISIBLE_LENGTH_DEADLINE, request, ask).await?.length)
    }

    /// One small question to a DataNode.
    pub(crate) async fn call<Req, Resp, Call, Fut>(
        &self,
        node: &Node,
        deadline: Duration,
        request: Req,
        call: Call,
    ) -> Result<Resp>
    where
        Call: FnOnce(DatanodeClient, Req) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Resp>, tonic::Status>>,
    {
        let client = self.channel(&node.grpc_address)?;
        let named = |error: &DfsError| {
            DfsError::new(error.kind(), format!("DataNode {}: {}", node.grpc_address, error.chain()))
        };
        match tokio::time::timeout(deadline, call(client, request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(named(&status::from_status(&status))),
            Err(_) => Err(named(&DfsError::new(
                ErrorKind::TimedOut,
                format!("no answer within {} s", deadline.as_secs_f32()),
            ))),
        }
    }

    fn channel(&self, address: &str) -> Result<DatanodeClient> {
        let mut channels = self.channels.lock();
        if let Some(client) = channels.get(address) {
            return Ok(client.clone());
        }
        if channels.len() >= NODES_MAX {
            channels.clear();
        }
        let client = ClientDatanodeClient::new(grpc_channel(address)?).max_decoding_message_size(GRPC_MESSAGE_MAX);
        channels.insert(address.to_owned(), client.clone());
        Ok(client)
    }

    /// The one value that stands for this node: thousands of located blocks name the same few.
    fn intern(&self, node: Node) -> Arc<Node> {
        let mut nodes = self.nodes.lock();
        if let Some(known) = nodes.get(&node.uuid).filter(|known| ***known == node) {
            return Arc::clone(known);
        }
        if nodes.len() >= NODES_MAX {
            nodes.clear();
        }
        let node = Arc::new(node);
        nodes.insert(node.uuid.clone(), Arc::clone(&node));
        node
    }

    /// Notes that `node` failed: it is asked last for a while.
    pub(crate) fn suspect(&self, node: &Node) {
        self.suspect_for(node, SUSPECT_FOR);
    }

    /// Notes that `node` was slow to answer: it is asked last for a shorter while.
    pub(crate) fn note_slow(&self, node: &Node) {
        self.suspect_for(node, SLOW_FOR);
    }

    fn suspect_for(&self, node: &Node, time: Duration) {
        let until = Instant::now() + time;
        let mut suspects = self.suspects.lock();
        if suspects.len() >= NODES_MAX {
            suspects.clear();
        }
        suspects.entry(node.uuid.clone()).and_modify(|known| *known = until.max(*known)).or_insert(until);
    }

    /// Whether `node` failed or was slow lately.
    pub(crate) fn is_suspect(&self, node: &Node) -> bool {
        let mut suspects = self.suspects.lock();
        let until = suspects.get(&node.uuid);
        let is_recent = until.is_some_and(|until| *until > Instant::now());
        if until.is_some() && !is_recent {
            suspects.remove(&node.uuid);
        }
        is_recent
    }
}

/// Reads one delimited message; bytes behind it stay in `buffer`.
pub(crate) async fn receive_message<M: WireMessage>(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    silence: Duration,
) -> Result<M> {
    loop {
        match decode_delimited::<M>(buffer) {
            Ok(Some((message, used))) => {
                bytes::Buf::advance(buffer, used);
                return Ok(message);
            }
            Ok(None) => receive(stream, buffer, silence).await?,
            Err(error) => return Err(DfsError::new(ErrorKind::Protocol, "answer of a DataNode").with_source(error)),
        }
    }
}

/// Reads whatever comes next into the free part of `buffer`.
///
/// # Errors
/// `TimedOut` after `silence`, `Io` when the connection broke or was closed.
pub(crate) async fn receive(
    stream: &mut TcpStream,
    buffer: &mut (impl bytes::BufMut + Send),
    silence: Duration,
) -> Result<()> {
    match tokio::time::timeout(silence, stream.read_buf(buffer)).await {
        Ok(Ok(0)) => Err(closed_error()),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(DfsError::io("read from a DataNode", error)),
        Err(_) => Err(DfsError::new(ErrorKind::TimedOut, format!("DataNode silent for {} s", silence.as_secs_f32()))),
    }
}

/// The peer closed the connection in mid-operation.
pub(crate) fn closed_error() -> DfsError {
    DfsError::io("read from a DataNode", std::io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(uuid: &str, port: u32) -> Node {
        let id = dfs_proto::v1::DatanodeId {
            uuid: uuid.into(),
            host: "127.0.0.1".into(),
            data_port: port,
            grpc_port: port,
            ..Default::default()
        };
        Node::try_from(id).unwrap()
    }

    #[test]
    fn intern_gives_one_value_until_the_node_moves() {
        let datanodes = Datanodes::new(Duration::from_secs(1));
        let first = datanodes.intern(node("a", 1));
        assert!(Arc::ptr_eq(&first, &datanodes.intern(node("a", 1))));
        let moved = datanodes.intern(node("a", 2));
        assert_eq!(moved.data_address, "127.0.0.1:2");
        assert!(Arc::ptr_eq(&moved, &datanodes.intern(node("a", 2))));
    }

    #[test]
    fn suspect_is_remembered_by_uuid() {
        let datanodes = Datanodes::new(Duration::from_secs(1));
        datanodes.suspect(&node("a", 1));
        assert!(datanodes.is_suspect(&node("a", 2)));
        assert!(!datanodes.is_suspect(&node("b", 1)));
        datanodes.note_slow(&node("b", 1));
        assert!(datanodes.is_suspect(&node("b", 1)));
    }

    #[test]
    fn note_slow_does_not_shorten_the_memory_of_a_failure() {
        let datanodes = Datanodes::new(Duration::from_secs(1));
        datanodes.suspect(&node("a", 1));
        datanodes.note_slow(&node("a", 1));
        assert!(datanodes.suspects.lock()["a"] > Instant::now() + SLOW_FOR);
    }
}
