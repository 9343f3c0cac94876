//! The pages' addresses.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Query, RawQuery, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::apart::Apart;
use super::browse::{Start, browse};
use super::facts::Facts;
use super::overview::Overview;
use super::tree_path::{BROWSE, TreePath};
use crate::namenode::namesystem::Namesystem;
use crate::pages::{answer, redirect};

#[derive(Clone)]
struct Pages {
    namesystem: Arc<Namesystem>,
    started: Instant,
    apart: Apart,
}

/// `/`, `/browse/...`, `/explorer?path=...`, and the addresses that HDFS's users remember.
pub(super) fn router(namesystem: Arc<Namesystem>) -> Router {
    let pages = Pages { namesystem, started: Instant::now(), apart: Apart::new() };
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
        let namesystem = self.namesystem;
        self.apart.make(move || page(&namesystem)).await.unwrap_or_else(IntoResponse::into_response)
    }
}
