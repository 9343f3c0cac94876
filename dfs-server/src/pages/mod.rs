//! Pages for people: what the HTTP port of each daemon shows in a browser.
//!
//! A page is a template of `templates/`, compiled in, with its style in it. It needs no script and fetches nothing. Each daemon
//! fills its own templates (`namenode::http`, `datanode::page`, `secondary::page`); what they share is here, and what they show until they
//! serve (`starting`).
//!
//! What it promises:
//! - everything that others chose (names, addresses, errors) is escaped by the templates, and bytes that are no text are shown
//!   in its place and linked as they are (`text`);
//! - a browser that meets something it should not still runs no script of it, loads nothing and frames nothing
//!   (`listen/browsers.rs`, for every answer);
//! - nothing here changes any state: pages are asked for by GET.

pub(crate) mod health;
pub(crate) mod starting;
pub(crate) mod text;

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};

/// The style of all pages, put into each of them.
pub(crate) const STYLE: &str = include_str!("../../templates/style.css");

/// A page, as an answer.
pub(crate) fn answer(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be filled");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Sends the browser to another address of this daemon.
pub(crate) fn redirect(to: &str) -> Response {
    match HeaderValue::from_str(to) {
        Ok(to) => (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response(),
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

/// A share that is drawn as a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bar {
    /// Bytes used by blocks.
    pub(crate) used: u64,
    /// Bytes there are.
    pub(crate) capacity: u64,
    /// Bytes that blocks may still take.
    pub(crate) remaining: u64,
}

impl Bar {
    /// Of the capacity, what blocks take.
    pub(crate) fn percent(&self) -> u64 {
        text::percent(self.used, self.capacity)
    }

    /// Of the capacity, what is taken by blocks and by everything else: what the bar shows.
    pub(crate) fn full_percent(&self) -> u64 {
        if self.capacity == 0 { 0 } else { 100 - text::percent(self.remaining, self.capacity) }
    }

    /// One line for people.
    pub(crate) fn words(&self) -> String {
        let [used, capacity, remaining] = [self.used, self.capacity, self.remaining].map(text::size);
        format!("{used} of {capacity} used, {remaining} free")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Template)]
    #[template(source = "<p>{{ name }}</p>", ext = "html")]
    struct Page {
        name: &'static str,
    }

    #[test]
    fn answer_escapes() {
        let answer = answer(StatusCode::OK, &Page { name: "<script>'\"&" });
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
        let text = Page { name: "<script>'\"&" }.render().unwrap();
        assert!(!text.contains("<script>") && !text.contains('"') && !text.contains('\''), "{text}");
    }

    #[test]
    fn redirect_never_carries_a_line_break() {
        assert_eq!(redirect("/browse/a/").headers()[header::LOCATION], "/browse/a/");
        assert_eq!(redirect("/a\r\nSet-Cookie: b").status(), StatusCode::BAD_REQUEST);
    }

    #[test]
    fn bar_shows_what_others_take_too() {
        let bar = Bar { used: 10 << 20, capacity: 100 << 20, remaining: 60 << 20 };
        assert_eq!((bar.percent(), bar.full_percent()), (10, 40));
        assert_eq!(bar.words(), "10 MiB of 100 MiB used, 60 MiB free");
        let nothing = Bar { used: 0, capacity: 0, remaining: 0 };
        assert_eq!((nothing.percent(), nothing.full_percent()), (0, 0));
    }
}
