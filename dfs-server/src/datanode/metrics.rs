//! Counters of the DataNode, in Prometheus's form.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::store::ReplicaStore;

/// What is counted, since start.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Bytes of blocks received.
    pub(crate) bytes_written: Counter,
    /// Bytes of blocks sent to readers.
    pub(crate) bytes_read: Counter,
    /// Replicas finalized.
    pub(crate) blocks_written: Counter,
    /// Read requests served.
    pub(crate) blocks_read: Counter,
    /// Operations refused or broken off.
    pub(crate) operations_failed: Counter,
    /// Packets whose checksums did not match.
    pub(crate) corrupt_packets: Counter,
    /// Replicas that the scanner found good.
    pub(crate) blocks_verified: Counter,
    /// Bytes of them.
    pub(crate) bytes_verified: Counter,
    /// Replicas that the scanner found bad.
    pub(crate) blocks_found_bad: Counter,
    /// Replicas whose files were gone.
    pub(crate) replicas_lost: Counter,
    /// Replicas that lay in a volume without a record.
    pub(crate) replicas_found: Counter,
    /// Connections refused: no place was free, in all or for their address, or no thread could be started.
    pub(crate) connections_refused: Counter,
    /// Data connections open, idle ones too.
    pub(crate) connections: Gauge,
    /// Operations being served.
    pub(crate) active_transfers: Gauge,
}

impl Metrics {
    /// All of them, as they are now.
    pub(crate) fn registry(&self, store: &ReplicaStore) -> Registry {
        let mut registry = Registry::with_prefix("dfs_datanode");
        let counters = [
            ("bytes_written", "Bytes of blocks received", &self.bytes_written),
            ("bytes_read", "Bytes of blocks sent to readers", &self.bytes_read),
            ("blocks_written", "Replicas finalized", &self.blocks_written),
            ("blocks_read", "Read requests served", &self.blocks_read),
            ("operations_failed", "Operations refused or broken off", &self.operations_failed),
            ("corrupt_packets", "Packets whose checksums did not match", &self.corrupt_packets),
            ("blocks_verified", "Replicas that the scanner found good", &self.blocks_verified),
            ("bytes_verified", "Bytes of replicas that the scanner found good", &self.bytes_verified),
            ("blocks_found_bad", "Replicas that the scanner found bad", &self.blocks_found_bad),
            ("replicas_lost", "Replicas whose files were gone", &self.replicas_lost),
            ("replicas_found", "Replicas that lay in a volume without a record", &self.replicas_found),
            ("connections_refused", "Connections refused for want of a place or a thread", &self.connections_refused),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register("connections", "Data connections open", self.connections.clone());
        registry.register("active_transfers", "Operations being served", self.active_transfers.clone());
        let reports = store.volumes().reports();
        let total = |of: fn(&super::store::VolumeReport) -> u64| reports.iter().map(of).sum::<u64>();
        let gauges = [
            ("replicas", "Replicas held", store.replica_count() as u64),
            ("capacity_bytes", "Capacity of all volumes", total(|report| report.space.capacity)),
            ("used_bytes", "Bytes used by replicas", total(|report| report.space.used)),
            ("remaining_bytes", "Bytes left for replicas", total(|report| report.space.remaining)),
            ("volumes_failed", "Volumes taken out", total(|report| u64::from(report.failed))),
        ];
        for (name, help, value) in gauges {
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        }
        registry
    }
}
