//! What a client needs to know before it speaks to anyone.

use std::time::Duration;

use dfs_common::config_file::Config;
use dfs_common::ids::ClientId;

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
            connect_timeout: config.duration("ipc.client.connect.timeout"),
            metadata_deadline: config.duration("ipc.client.rpc-timeout.ms"),
            packet_size: size("dfs.client-write-packet-size"),
            max_in_flight: size("dfs.client.write.max-in-flight"),
            ack_timeout: config.duration("dfs.client.socket-timeout"),
            replace_datanodes: config.flag("dfs.client.block.write.replace-datanode-on-failure.enable"),
            data_connect_timeout: Duration::from_secs(3),
            read_timeout: config.duration("dfs.client.socket-timeout"),
            absence_timeout: config.duration("dfs.client.absent-replica.timeout"),
            prefetch_window: size("dfs.client.cache.readahead"),
            prefetch_budget: size("dfs.client.cache.readahead.total"),
        }
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::data_transfer::patience::HUNG_AFTER;

    use super::*;

    #[test]
    fn from_config_takes_every_key_of_a_client() {
        let mut config = Config::default();
        for assignment in [
            "dfs.namenode.address=a:1,b:2",
            "dfs.client.failover.timeout=7s",
            "ipc.client.connect.timeout=8s",
            "ipc.client.rpc-timeout.ms=9s",
            "dfs.client-write-packet-size=64KiB",
            "dfs.client.write.max-in-flight=2MiB",
            "dfs.client.socket-timeout=11s",
            "dfs.client.block.write.replace-datanode-on-failure.enable=false",
            "dfs.client.absent-replica.timeout=12s",
            "dfs.client.cache.readahead=3MiB",
            "dfs.client.cache.readahead.total=5MiB",
        ] {
            config.set(assignment).unwrap();
        }
        let client = ClientConfig::from_config(&config);
        let seconds = Duration::from_secs;
        assert_eq!(client.namenodes, ["a:1", "b:2"]);
        assert_eq!((client.retry_timeout, client.connect_timeout), (seconds(7), seconds(8)));
        assert_eq!((client.metadata_deadline, client.absence_timeout), (seconds(9), seconds(12)));
        assert_eq!((client.packet_size, client.max_in_flight), (64 << 10, 2 << 20));
        assert_eq!((client.ack_timeout, client.read_timeout), (seconds(11), seconds(11)));
        assert!(!client.replace_datanodes);
        assert_eq!((client.prefetch_window, client.prefetch_budget), (3 << 20, 5 << 20));
    }

    #[test]
    fn socket_timeout_is_never_below_the_patience_of_a_pipeline() {
        let mut config = Config::default();
        assert_eq!(config.duration("dfs.client.socket-timeout"), HUNG_AFTER);
        assert!(config.set("dfs.client.socket-timeout=4s").is_err());
    }
}
