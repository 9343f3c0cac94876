//! The daemons' HTTP ports, asked.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Status of a GET, when there is an answer at all.
pub fn http_status(host: &str, port: u16, path: &str) -> Option<u16> {
    http_get(host, port, path).map(|(status, _)| status)
}

/// Status and body of a GET from a daemon.
pub fn http_get(host: &str, port: u16, path: &str) -> Option<(u16, String)> {
    http_ask("GET", host, port, path)
}

/// Status and body of an answer.
pub(super) fn http_ask(method: &str, host: &str, port: u16, path: &str) -> Option<(u16, String)> {
    let timeout = Some(Duration::from_secs(5));
    let mut stream = TcpStream::connect((host, port)).ok()?;
    stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout)).ok()?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let body = answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned());
    Some((status, body))
}
