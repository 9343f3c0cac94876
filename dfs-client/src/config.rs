//! What a client needs to know before it speaks to anyone.

use std::time::Duration;

use dfs_common::config_file::Config;
use dfs_common::ids::ClientId;
use dfs_proto::data_transfer::patience::HUNG_AFTER;

/// Settings of one client. Start from [`ClientConfig::new`] or [`ClientConfig::from_config`] and change fields.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `host:port` of every NameNode of the group, in any order.
    pub namenodes: Vec<String>,
    /// Durable identity: a mount keeps it across restarts, a command makes a fresh one.
    pub client_id: ClientId,
    /// For people: host and mount point, or the command.
    pub name: String,
    /// How long a call is tried again while no NameNode answers. Minutes for a hard mount, seconds for a soft one.
    pub retry_timeout: Duration,
    /// How long [`connect`](crate::DfsClient::connect) waits for the first answer.
    pub connect_timeout: Duration,
    /// How long one try of a metadata call may take.
    pub metadata_deadline: Duration,
    /// Data in a packet of the write pipeline, bytes; a multiple of 512.
    pub packet_size: usize,
    /// Bytes that a writer may have sent and not yet acknowledged.
    pub max_in_flight: usize,
    /// Silence of a pipeline with packets outstanding after which it has failed.
    pub ack_timeout: Duration,
    /// Whether a pipeline that lost a node asks for another one.
    pub replace_datanodes: bool,
    /// How long opening a data connection may take.
    pub data_connect_timeout: Duration,
    /// Silence of a DataNode in a read after which another replica is asked; in later rounds over all replicas, a multiple.
    pub read_timeout: Duration,
    /// How long a read waits for replicas that nobody has, and a writer asks nodes that failed when there are no others. A
    /// NameNode that was away learns of nodes with their next heartbeats, and nodes that were killed come back.
    pub absence_timeout: Duration,
    /// Most bytes read ahead of one sequential reader.
    pub prefetch_window: usize,
    /// Most bytes read ahead over all files of this client.
    pub prefetch_budget: usize,
}

impl ClientConfig {
    /// The defaults, for the NameNodes at these addresses.
    pub fn new(namenodes: Vec<String>) -> Self {
        Self { namenodes, ..Self::from_config(&Config::default()) }
    }

    /// What the configuration file says, defaults for the rest.
    pub fn from_config(config: &Config) -> Self {
        let size = |key: &str| usize::try_from(config.bytes(key)).unwrap_or(usize::MAX);
        Self {
            namenodes: config.list("dfs.namenode.address"),
            client_id: ClientId::random(),
            name: format!("client {}", std::process::id()),
            retry_timeout: config.duration("dfs.client.failover.timeout"),
            connect_timeout: Duration::from_secs(10),
            metadata_deadline: Duration::from_secs(10),
            packet_size: size("dfs.client-write-packet-size"),
            max_in_flight: size("dfs.client.write.max-in-flight"),
            ack_timeout: HUNG_AFTER,
            replace_datanodes: config.flag("dfs.client.block.write.replace-datanode-on-failure.enable"),
            data_connect_timeout: Duration::from_secs(3),
            read_timeout: HUNG_AFTER,
            // About as long as HDFS's clients wait.
            absence_timeout: Duration::from_secs(10),
            // Two round trips of a long-distance link at 10 Gb/s fit; more only costs memory.
            prefetch_window: 8 << 20,
            prefetch_budget: 256 << 20,
        }
    }
}
