//! What `/metrics` answers: the same form from every daemon, and the name of that form with it.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// OpenMetrics text, which a scraper reads by other rules than the older Prometheus text.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All that is registered, as an answer.
pub(crate) fn answer(registry: &Registry) -> Response {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = encode(&mut text, registry);
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answer_says_what_form_it_has() {
        let answer = answer(&Registry::default());
        assert_eq!(answer.headers()[header::CONTENT_TYPE], CONTENT_TYPE);
        let body = axum::body::to_bytes(answer.into_body(), 100).await.unwrap();
        assert_eq!(body, "# EOF\n", "the end that this form asks for");
    }
}
