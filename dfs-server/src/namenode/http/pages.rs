//! The pages' addresses, and how many pages are made at once.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Query, RawQuery, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::Semaphore;

use super::apart::apart;
use super::browse::{Start, browse};
use super::facts::Facts;
use super::overview::Overview;
use super::tree_path::{BROWSE, TreePath};
use crate::namenode::namesystem::Namesystem;
use crate::pages::{answer, redirect};

/// Pages made at once; others wait. The threads that make them are those that wait for disks too.
const AT_ONCE: usize = 4;

#[derive(Clone)]
struct Pages {
    namesystem: Arc<Namesystem>,
    started: Instant,
    places: Arc<Semaphore>,
}

/// `/`, `/browse/...`, `/explorer?path=...`, and the addresses that HDFS's users remember.
pub(super) fn router(namesystem: Arc<Namesystem>) -> Router {
    let pages = Pages { namesystem, started: Instant::now(), places: Arc::new(Semaphore::new(AT_ONCE)) };
    Router::new()
        .route("/", get(overview))
        .route("/dfshealth.html", get(|| async { redirect("/") }))
        .route("/browse", get(tree))
        .route(BROWSE, get(tree))
        .route("/browse/{*path}", get(tree))
        .route("/explorer", get(explorer))
        .route("/explorer.html", get(explorer))
        .with_state(pages)
}

async fn overview(State(pages): State<Pages>) -> Response {
    let started = pages.started;
    pages
        .make(move |namesystem| {
            let overview = Overview::new(Facts::of(namesystem, started.elapsed()));
            answer(StatusCode::OK, &overview)
        })
        .await
}

async fn tree(State(pages): State<Pages>, uri: Uri, Query(start): Query<Start>) -> Response {
    pages.make(move |namesystem| browse(namesystem, uri.path(), start)).await
}

/// Where the path in `path=` is.
async fn explorer(RawQuery(query): RawQuery) -> Response {
    let field = query.iter().flat_map(|query| query.split('&')).find_map(|field| field.strip_prefix("path="));
    redirect(&TreePath::of_field(field.unwrap_or_default()).address(true))
}

impl Pages {
    async fn make(self, page: impl FnOnce(&Namesystem) -> Response + Send + 'static) -> Response {
        // It is never closed.
        let Ok(place) = self.places.acquire_owned().await else {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        };
        let made = apart(move || {
            let page = page(&self.namesystem);
            drop(place);
            page
        });
        made.await.unwrap_or_else(IntoResponse::into_response)
    }
}
