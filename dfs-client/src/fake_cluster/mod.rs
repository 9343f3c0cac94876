//! A cluster in one process for this crate's tests: a NameNode that knows one directory's worth of files, and DataNodes that
//! keep replicas in memory. The first node of a pipeline stands for all of it. Faults are switched on per node.

mod data_port;
mod datanode;
mod namenode;
mod unsupported;
mod world;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use dfs_common::ids::ROOT_INODE;
use dfs_proto::v1;
use dfs_proto::v1::client_datanode_server::ClientDatanodeServer;
use dfs_proto::v1::client_namenode_server::ClientNamenodeServer;

use self::data_port::serve;
use self::datanode::FakeDatanode;
use self::namenode::FakeNamenode;
use self::world::Shared;
pub(crate) use self::world::{FakeReplica, Fault};
use crate::{ClientConfig, CreateOptions, DfsClient};

/// A file to be made and written.
pub(crate) fn new_file(name: &'static [u8]) -> CreateOptions<'static> {
    CreateOptions {
        parent: ROOT_INODE,
        name,
        mode: 0o644,
        replication: 0,
        block_size: 0,
        open_for_write: true,
        exclusive: true,
    }
}

/// The cluster; its servers end with the test's runtime, its node threads when their connections do.
pub(crate) struct FakeCluster {
    pub(crate) world: Shared,
    address: String,
}

impl FakeCluster {
    pub(crate) async fn start(nodes: usize) -> Self {
        let world = Shared::default();
        let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(ClientNamenodeServer::new(FakeNamenode(Arc::clone(&world))));
        tokio::spawn(server.serve_with_incoming(incoming));
        for index in 0..nodes {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = incoming.local_addr().unwrap();
            let service = ClientDatanodeServer::new(FakeDatanode { index, world: Arc::clone(&world) });
            tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
            world.lock().nodes.push(v1::DatanodeId {
                uuid: format!("node-{index}"),
                host: "127.0.0.1".into(),
                data_port: listener.local_addr().unwrap().port().into(),
                grpc_port: address.port().into(),
                ..Default::default()
            });
            let world = Arc::clone(&world);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let world = Arc::clone(&world);
                    world.lock().connections += 1;
                    std::thread::spawn(move || serve(index, stream.unwrap(), &world));
                }
            });
        }
        Self { world, address: address.to_string() }
    }

    pub(crate) async fn client(&self) -> DfsClient {
        self.client_with(|_| {}).await
    }

    pub(crate) async fn client_with(&self, change: impl FnOnce(&mut ClientConfig)) -> DfsClient {
        let mut config = ClientConfig::new(vec![self.address.clone()]);
        config.packet_size = 2048;
        config.ack_timeout = Duration::from_secs(2);
        config.read_timeout = Duration::from_secs(2);
        change(&mut config);
        DfsClient::connect(config).await.unwrap()
    }

    pub(crate) fn set_fault(&self, node: usize, fault: Fault) {
        self.world.lock().faults.insert(node, fault);
    }

    /// The same for all nodes.
    pub(crate) fn set_faults(&self, fault: Fault) {
        let mut world = self.world.lock();
        let all = 0..world.nodes.len();
        world.faults.extend(all.map(|node| (node, fault)));
    }

    pub(crate) fn calls(&self, name: &str) -> usize {
        self.world.lock().calls.get(name).copied().unwrap_or(0)
    }

    /// The calls since this was last asked, by name, and how often each came.
    pub(crate) fn take_calls(&self) -> Vec<(&'static str, usize)> {
        let mut calls: Vec<_> = self.world.lock().calls.drain().collect();
        calls.sort_unstable();
        calls
    }

    /// Content of a file as `node` has it.
    pub(crate) fn content(&self, inode: u64, node: usize) -> Vec<u8> {
        let world = self.world.lock();
        let replica = |block: &v1::Block| world.replicas.get(&(node, block.id)).map(|replica| replica.data.clone());
        world.files[&inode].blocks.iter().filter_map(replica).flatten().collect()
    }
}
