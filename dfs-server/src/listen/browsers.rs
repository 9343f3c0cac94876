//! What a browser may be made to do here by somebody else's page: nothing.
//!
//! The HTTP ports know no users: whoever reaches one is served. A browser inside the network reaches it, and does what pages
//! from anywhere tell it to do. So every request is looked at here before a daemon sees it, and every answer passes here:
//!
//! - it is asked for by a name of this machine or by an address ([`HostNames`]), else by a page that pretends to be us;
//! - what may change something (all but GET, HEAD and OPTIONS) does not come from another site. Browsers say where a request
//!   comes from; curl and scripts do not, and are served;
//! - no answer is run, framed, embedded or kept where it should not ([`seal`]).

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::host_names::{HostNames, NAMES_KEY};

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Bytes of what a request says that are said back.
const QUOTED_MAX: usize = 100;

/// What every answer carries. Widths of bars are attributes, so style is allowed inline; a form may ask this daemon only.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // For browsers that do not know `frame-ancestors`.
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    // Paths are not told to the DataNodes that a page links to.
    (header::REFERRER_POLICY, "no-referrer"),
    // What it shows is true now, and paths are nobody's to keep.
    (header::CACHE_CONTROL, "no-store"),
];

/// Gives an answer the headers that all have.
pub(super) fn seal(headers: &mut HeaderMap) {
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// The answer to a request that a browser should not have sent; none for one that may be served.
pub(super) fn turn_away<B>(names: &HostNames, request: &Request<B>) -> Option<Response> {
    let asked = match asked_hosts(request) {
        Ok(asked) => asked,
        Err(why) => return Some(refuse(StatusCode::BAD_REQUEST, why.to_owned())),
    };
    if let Some(foreign) = asked.iter().find(|asked| !names.has(asked.host())) {
        let name = quoted(foreign.host());
        let words = format!(
            "{name:?} is not known as a name of this machine, and a page elsewhere may have made your browser ask by it. Ask by an \
             address instead, or add the name to {NAMES_KEY:?} in this daemon's configuration and restart it."
        );
        return Some(refuse(StatusCode::MISDIRECTED_REQUEST, words));
    }
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return None;
    }
    let from = foreign_site(request.headers(), asked.last())?;
    let words = format!(
        "This request comes from another site ({:?}) and may change something here: it is refused. Send it with curl.",
        quoted(&from)
    );
    Some(refuse(StatusCode::FORBIDDEN, words))
}

fn refuse(status: StatusCode, words: String) -> Response {
    (status, words + "\n").into_response()
}

fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_MAX).collect()
}

/// By which names it is asked: in the request line, where proxies are asked so, and in the header. Programs may leave both out,
/// browsers cannot.
fn asked_hosts<B>(request: &Request<B>) -> Result<Vec<Authority>, &'static str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let of_header = hosts.next();
    if hosts.next().is_some() {
        return Err("A request names one host.");
    }
    let of_header = of_header.filter(|host| !host.is_empty()).map(|host| {
        let authority = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
        authority.ok_or("The Host header is not host:port.")
    });
    let of_line = request.uri().authority().cloned().map(Ok);
    of_line.into_iter().chain(of_header).collect()
}

/// The other site that a browser says a request comes from.
fn foreign_site(headers: &HeaderMap, asked: Option<&Authority>) -> Option<String> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    // No page can set it, and it says all.
    if let Some(site) = headers.get(FETCH_SITE) {
        return (!matches!(site.as_bytes(), b"same-origin" | b"none"))
            .then(|| headers.get(header::ORIGIN).map_or_else(|| text(site), text));
    }
    let origin = headers.get(header::ORIGIN)?;
    let of_page = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let is_own = of_page
        .is_some_and(|page| page.authority().is_some_and(|page| asked.is_some_and(|asked| is_same(page, asked))));
    (!is_own).then(|| text(origin))
}

fn is_same(one: &Authority, other: &Authority) -> bool {
    one.as_str().eq_ignore_ascii_case(other.as_str())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    /// Status of the refusal, if it is one.
    fn status_of(names: &HostNames, method: Method, headers: &[(&str, &str)]) -> Option<StatusCode> {
        let mut request = Request::builder().method(method).uri("/scan");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        turn_away(names, &request.body(Body::empty()).unwrap()).map(|answer| answer.status())
    }

    #[test]
    fn turn_away_meets_names_that_are_not_ours() {
        let names = HostNames::default();
        let asked = |host: &str| status_of(&names, Method::GET, &[("host", host)]);
        for ours in ["localhost:9870", "127.0.0.1:9870", "[::1]:9870", "10.1.2.3", ""] {
            assert_eq!(asked(ours), None, "{ours}");
        }
        for foreign in ["evil.example:9870", "evil.example"] {
            assert_eq!(asked(foreign), Some(StatusCode::MISDIRECTED_REQUEST), "{foreign}");
        }
        assert_eq!(asked("a b"), Some(StatusCode::BAD_REQUEST));
        let two = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(status_of(&names, Method::GET, &two), Some(StatusCode::BAD_REQUEST));
        assert_eq!(status_of(&names, Method::GET, &[]), None, "a program that names no host");
        let proxied =
            Request::builder().uri("http://evil.example/").header("host", "localhost").body(Body::empty()).unwrap();
        assert_eq!(turn_away(&names, &proxied).unwrap().status(), StatusCode::MISDIRECTED_REQUEST);
    }

    #[test]
    fn turn_away_meets_changes_that_other_sites_ask_for() {
        let names = HostNames::default();
        let post = |headers: &[(&str, &str)]| {
            let headers = [&[("host", "localhost:9864")], headers].concat();
            status_of(&names, Method::POST, &headers)
        };
        for own in [
            &[][..],
            &[("origin", "http://localhost:9864")],
            &[("sec-fetch-site", "same-origin"), ("origin", "https://proxy.example")],
            &[("sec-fetch-site", "none")],
        ] {
            assert_eq!(post(own), None, "{own:?}");
        }
        for foreign in [
            &[("origin", "http://evil.example")][..],
            &[("origin", "null")],
            &[("origin", "http://localhost:8000")],
            &[("origin", "http://localhost")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site"), ("origin", "http://localhost:9864")],
        ] {
            assert_eq!(post(foreign), Some(StatusCode::FORBIDDEN), "{foreign:?}");
        }
        let looking = [("host", "localhost:9864"), ("origin", "http://evil.example")];
        assert_eq!(status_of(&names, Method::GET, &looking), None, "the page there cannot read the answer");
    }
}
