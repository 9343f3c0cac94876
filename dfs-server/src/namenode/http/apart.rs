//! Answers that go over much are made apart from the threads that hear requests.

use axum::http::StatusCode;

/// What goes over all DataNodes is no work for the thread that hears them.
///
/// # Errors
/// 500 after a bug, which is logged.
pub(super) async fn apart<T: Send + 'static>(tell: impl FnOnce() -> T + Send + 'static) -> Result<T, StatusCode> {
    tokio::task::spawn_blocking(tell).await.map_err(|error| {
        tracing::error!(%error, "a page for monitoring met a bug");
        StatusCode::INTERNAL_SERVER_ERROR
    })
}
