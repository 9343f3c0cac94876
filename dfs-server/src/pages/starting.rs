//! The HTTP port of a daemon that starts. It answers from the first moment, with how far the start is; once the daemon serves, the
//! daemon's own answers come from the same port.
//!
//! Until then every answer is 503, so that whoever asks whether the daemon is up (`/health`, `/status`) never takes it for that.

use std::sync::{Arc, OnceLock};

use askama::Template;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use tonic::codegen::Service as _;

use super::{answer, text};
use crate::start_progress::{StartProgress, StartReport};

/// Seconds after which one may ask again.
const ASK_AGAIN: &str = "5";

/// What a daemon that starts answers with, and then what it serves.
#[derive(Clone, Debug)]
pub(crate) struct Front {
    who: &'static str,
    progress: Arc<StartProgress>,
    serving: Arc<OnceLock<Router>>,
}

/// The page.
#[derive(Template)]
#[template(path = "starting.html")]
struct Page {
    who: &'static str,
    doing: &'static str,
    percent: Option<u64>,
    facts: Vec<(&'static str, String)>,
}

impl Front {
    /// Of the daemon called `who`.
    pub(crate) fn new(who: &'static str, progress: &Arc<StartProgress>) -> Self {
        Self { who, progress: Arc::clone(progress), serving: Arc::default() }
    }

    /// All that the port answers, now and later.
    pub(crate) fn router(&self) -> Router {
        let front = self.clone();
        Router::new().fallback(move |request: Request| front.clone().answer(request))
    }

    /// The daemon serves: from now on `router` answers.
    pub(crate) fn serve(&self, router: Router) {
        // Only the first one counts, and there is one.
        let _ = self.serving.set(router);
    }

    async fn answer(self, request: Request) -> Response {
        if let Some(router) = self.serving.get() {
            return match router.clone().call(request).await {
                Ok(answer) => answer,
                Err(never) => match never {},
            };
        }
        let report = self.progress.report();
        let mut told = match request.uri().path() {
            "/status" => (StatusCode::SERVICE_UNAVAILABLE, Json(as_json(&report))).into_response(),
            "/health" | "/metrics" => (StatusCode::SERVICE_UNAVAILABLE, format!("{report}\n")).into_response(),
            _ => {
                let mut page = answer(StatusCode::SERVICE_UNAVAILABLE, &Page::new(self.who, &report));
                page.headers_mut().insert(header::REFRESH, header::HeaderValue::from_static(ASK_AGAIN));
                page
            }
        };
        told.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static(ASK_AGAIN));
        told
    }
}

impl Page {
    fn new(who: &'static str, report: &StartReport) -> Self {
        let mut facts = vec![("Starting for", text::span(report.elapsed))];
        if report.total > 0 {
            facts.push(("Done", format!("{} of {} {}", report.done, report.total, report.unit)));
        }
        Self { who, doing: report.doing, percent: report.percent(), facts }
    }
}

fn as_json(report: &StartReport) -> serde_json::Value {
    serde_json::json!({
        "state": "starting",
        "doing": report.doing,
        "done": report.done,
        "total": report.total,
        "unit": report.unit,
        "elapsed_seconds": report.elapsed.as_secs(),
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;

    use super::*;

    async fn ask(front: &Front, path: &str) -> (StatusCode, String) {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let answer = front.clone().answer(request).await;
        let status = answer.status();
        let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn front_tells_the_start_and_then_serves() {
        let progress = Arc::new(StartProgress::default());
        let front = Front::new("NameNode", &progress);
        progress.begin_counted("replaying the edit log", "entries", 40);
        progress.advance_to(10);
        for path in ["/", "/health", "/status", "/metrics", "/browse/"] {
            let (status, text) = ask(&front, path).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
            assert!(text.contains("replaying the edit log") && text.contains("10"), "{path}: {text}");
        }
        let status: serde_json::Value = serde_json::from_str(&ask(&front, "/status").await.1).unwrap();
        assert_eq!((&status["state"], &status["done"], &status["total"]), (&"starting".into(), &10.into(), &40.into()));
        front.serve(Router::new().route("/health", get(|| async { "ok\n" })));
        assert_eq!(ask(&front, "/health").await, (StatusCode::OK, "ok\n".to_owned()));
        assert_eq!(ask(&front, "/nothing").await.0, StatusCode::NOT_FOUND);
    }
}
