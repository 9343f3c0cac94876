//! HTTP for monitoring: `/health`, `/metrics` (for Prometheus), `/status` (JSON). And for people: pages (`pages`).

mod apart;
mod browse;
mod facts;
mod overview;
mod pages;
#[cfg(test)]
mod pages_tests;
mod tree_path;
mod verdict;
mod verdict_on_checkpoints;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use self::apart::Apart;
use super::checkpoints::Known;
use super::lock_times::LockHistogram;
use super::namesystem::Namesystem;
use crate::openmetrics;
use crate::pages::text::span;

/// What programs are told.
#[derive(Clone)]
struct Told {
    namesystem: Arc<Namesystem>,
    apart: Apart,
}

impl Told {
    async fn told<T: Send + 'static>(
        self,
        tell: impl FnOnce(&Namesystem) -> T + Send + 'static,
    ) -> Result<T, StatusCode> {
        let namesystem = self.namesystem;
        self.apart.make(move || tell(&namesystem)).await
    }
}

/// What is served.
pub(super) fn router(namesystem: Arc<Namesystem>) -> Router {
    // Places of their own: whoever watches is not kept waiting by those who browse.
    let told = Told { namesystem: Arc::clone(&namesystem), apart: Apart::new() };
    Router::new()
        .route("/health", get(async |State(of): State<Told>| health(of.namesystem.journal().log_silence())))
        .route("/status", get(async |State(of): State<Told>| of.told(|namesystem| Json(status(namesystem))).await))
        .route("/metrics", get(async |State(of): State<Told>| of.told(metrics).await))
        .with_state(told)
        .merge(pages::router(namesystem))
}

/// 503 while nothing can be changed: the edit log's device does not answer.
fn health(log_silence: Option<Duration>) -> (StatusCode, String) {
    match log_silence {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(silence) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("the edit log's device does not answer for {}\n", span(silence)))
        }
    }
}

fn status(namesystem: &Namesystem) -> serde_json::Value {
    let (files, directories, blocks) = namesystem.namespace().read().counts();
    let stats = namesystem.blocks().fs_stats();
    let repair = namesystem.blocks().repair_report();
    let (safe_mode, safe_mode_status) = namesystem.blocks().safe_mode_status();
    let checkpoints = namesystem.checkpoints().known();
    let secondary = checkpoints.secondary.as_ref().map(|secondary| {
        serde_json::json!({
            "silent_seconds": secondary.heard.elapsed().as_secs(),
            "checkpoint_txid": secondary.told.last.map(|last| last.txid.0),
            "failure": secondary.told.failure.as_ref().map(|(_, why)| why),
        })
    });
    serde_json::json!({
        "state": "serving",
        "cluster_id": namesystem.info().cluster_id,
        "block_pool_id": namesystem.info().block_pool_id,
        "last_txid": namesystem.txid().0,
        "files": files,
        "directories": directories,
        "blocks": blocks,
        "capacity_bytes": stats.capacity,
        "used_bytes": stats.used,
        "remaining_bytes": stats.remaining,
        "live_datanodes": stats.live_datanodes,
        "dead_datanodes": stats.dead_datanodes,
        "under_replicated_blocks": stats.under_replicated_blocks,
        "corrupt_blocks": stats.corrupt_blocks,
        "missing_blocks": stats.missing_blocks,
        "misplaced_blocks": repair.misplaced,
        "pending_replication_blocks": repair.pending,
        "excess_blocks": repair.excess,
        "unknown_replicas": namesystem.blocks().unknown_replicas(),
        "safe_mode": safe_mode,
        "safe_mode_status": safe_mode_status,
        "checkpoint_txid": namesystem.journal().newest_image().0,
        "checkpoint_failure": checkpoints.own_failure.as_ref().map(|(_, why)| why),
        "name_dir_free_bytes": checkpoints.free_bytes(),
        "log_silence_seconds": namesystem.journal().log_silence().map_or(0, |silence| silence.as_secs()),
        "secondary_namenode": secondary,
    })
}

fn metrics(namesystem: &Namesystem) -> Response {
    let (files, directories, blocks) = namesystem.namespace().read().counts();
    let stats = namesystem.blocks().fs_stats();
    let mut registry = Registry::with_prefix("dfs_namenode");
    let mut gauge = |name: &str, help: &str, unit: Option<Unit>, value: u64| {
        let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, value),
            None => registry.register(name, help, value),
        }
    };
    let log_silence = namesystem.journal().log_silence().map_or(0, |silence| silence.as_secs());
    gauge("log_silence", "Time for which the edit log's device has not answered", Some(Unit::Seconds), log_silence);
    gauge("last_txid", "Transaction applied last", None, namesystem.txid().0);
    gauge("files", "Files and other leaves", None, files);
    gauge("directories", "Directories", None, directories);
    gauge("blocks", "Blocks", None, blocks);
    gauge("capacity", "Raw capacity of live volumes", Some(Unit::Bytes), stats.capacity);
    gauge("used", "Raw bytes used by blocks", Some(Unit::Bytes), stats.used);
    gauge("remaining", "Raw bytes left", Some(Unit::Bytes), stats.remaining);
    gauge("live_datanodes", "DataNodes heard of recently", None, u64::from(stats.live_datanodes));
    gauge("dead_datanodes", "DataNodes given up", None, u64::from(stats.dead_datanodes));
    gauge("under_replicated_blocks", "Blocks with too few replicas", None, stats.under_replicated_blocks);
    gauge(
        "corrupt_blocks",
        "Blocks with a replica that is corrupt, of a wrong length or unfinished",
        None,
        stats.corrupt_blocks,
    );
    gauge("missing_blocks", "Blocks without a good replica", None, stats.missing_blocks);
    let repair = namesystem.blocks().repair_report();
    gauge("misplaced_blocks", "Blocks on too few racks", None, repair.misplaced);
    gauge("pending_replication_blocks", "Blocks being copied", None, repair.pending);
    gauge("excess_blocks", "Blocks with too many replicas", None, repair.excess);
    gauge(
        "pending_deletion_replicas",
        "Replicas whose deletion is decided and not ordered",
        None,
        repair.pending_deletions,
    );
    let unknown = namesystem.blocks().unknown_replicas();
    gauge("unknown_replicas", "Replicas that no file explains, and that are kept", None, unknown as u64);
    add_checkpoints(namesystem, &mut gauge);
    let (namespace, blocks) = (namesystem.namespace(), namesystem.blocks());
    for (name, help, times) in [
        ("namespace_lock_reads_held", "Time for which readers held the namespace's lock", namespace.read_times()),
        ("namespace_lock_writes_held", "Time for which writers held the namespace's lock", namespace.write_times()),
        ("block_lock_held", "Time for which the block manager's lock was held", blocks.lock_times()),
    ] {
        registry.register_with_unit(name, help, Unit::Seconds, LockHistogram(Arc::clone(times)));
        let longest = ConstGauge::new(times.longest().as_secs_f64());
        registry.register_with_unit(format!("{name}_longest"), "The longest of these times", Unit::Seconds, longest);
    }
    openmetrics::answer(&registry)
}

fn add_checkpoints(namesystem: &Namesystem, gauge: &mut impl FnMut(&str, &str, Option<Unit>, u64)) {
    let known = namesystem.checkpoints().known();
    let free = known.free_bytes();
    let Known { own_failure, secondary, .. } = known;
    let newest = namesystem.journal().newest_image().0;
    gauge("checkpoint_txid", "Last transaction of the newest image", None, newest);
    gauge("checkpoint_failed", "The NameNode's last try of a checkpoint failed", None, own_failure.is_some().into());
    if let Some(free) = free {
        gauge("name_dir_free", "Bytes free on the NameNode's device", Some(Unit::Bytes), free);
    }
    let Some(secondary) = secondary else { return };
    let failed = secondary.told.failure.is_some();
    gauge(
        "secondary_checkpoint_failed",
        "The SecondaryNameNode's last try of a checkpoint failed",
        None,
        failed.into(),
    );
    if let Some(last) = secondary.told.last {
        gauge("secondary_checkpoint_txid", "Last transaction of the SecondaryNameNode's checkpoint", None, last.txid.0);
    }
}
