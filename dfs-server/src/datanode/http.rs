//! Status and metrics over HTTP, and a page for people.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};

use super::metrics::Metrics;
use super::namenode_link::LinkStatus;
use super::page::{Facts, Page, VolumeFacts};
use super::scanner::{BlockScanner, DirectoryScanner};
use super::store::ReplicaStore;
use crate::openmetrics;
use crate::pages::{answer, redirect};

/// What the pages show.
#[derive(Clone)]
pub(crate) struct HttpState {
    /// The replicas.
    pub(crate) store: Arc<ReplicaStore>,
    /// Verifies replicas in the background.
    pub(crate) scanner: Arc<BlockScanner>,
    /// Compares files and records.
    pub(crate) directory_scanner: Arc<DirectoryScanner>,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// The NameNodes.
    pub(crate) links: Vec<Arc<LinkStatus>>,
}

/// `/` (the page), `/health`, `/metrics`, `/scanner` (progress of the block scanner), `POST /scan` (a scan at once).
pub(crate) fn router(state: HttpState) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/datanode.html", get(|| async { redirect("/") }))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/scanner", get(scanner))
        .route("/scan", post(scan))
        .with_state(state)
}

async fn page(State(state): State<HttpState>) -> Response {
    answer(StatusCode::OK, &Page::new(&facts(&state)))
}

/// What the page tells, as it is now.
fn facts(state: &HttpState) -> Facts {
    let volumes = state.store.volumes();
    let silent: Vec<bool> = volumes.all().iter().map(|volume| volume.is_silent()).collect();
    let scans = state.scanner.status();
    let of_volumes = volumes.reports().into_iter().enumerate().map(|(at, report)| VolumeFacts {
        report,
        is_silent: silent.get(at).copied().unwrap_or_default(),
        scan: scans.get(at).cloned().unwrap_or_default(),
    });
    Facts {
        uuid: volumes.datanode_uuid().to_owned(),
        replicas: state.store.replica_count(),
        transfers: state.metrics.active_transfers.get(),
        verified: state.metrics.blocks_verified.get(),
        found_bad: state.metrics.blocks_found_bad.get(),
        volumes: of_volumes.collect(),
        links: state.links.iter().map(|link| link.report()).collect(),
    }
}

/// 200 while every volume works, 503 when one is out. One that does not answer is named: a busy device may be silent for a second.
async fn health(State(state): State<HttpState>) -> impl IntoResponse {
    let Facts { uuid, replicas, volumes, .. } = facts(&state);
    let paths = |is_meant: fn(&VolumeFacts) -> bool| -> Vec<String> {
        volumes
            .iter()
            .filter(|volume| is_meant(volume))
            .map(|volume| volume.report.path.display().to_string())
            .collect()
    };
    let failed = paths(|volume| volume.report.failed);
    let silent = paths(|volume| volume.is_silent && !volume.report.failed);
    let is_healthy = failed.is_empty();
    let body = serde_json::json!({
        "healthy": is_healthy,
        "datanode_uuid": uuid,
        "volumes": volumes.len(),
        "failed_volumes": failed,
        "silent_volumes": silent,
        "replicas": replicas,
    });
    (if is_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body))
}

async fn scanner(State(state): State<HttpState>) -> impl IntoResponse {
    Json(state.scanner.status())
}

/// Has every volume scanned from the start, without limit, its directories too.
async fn scan(State(state): State<HttpState>) -> impl IntoResponse {
    state.directory_scanner.scan_now();
    state.scanner.scan_now();
    StatusCode::ACCEPTED
}

async fn metrics(State(state): State<HttpState>) -> impl IntoResponse {
    openmetrics::answer(&state.metrics.registry(&state.store))
}
