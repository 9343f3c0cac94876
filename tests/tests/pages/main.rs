//! What a browser gets from the daemons' HTTP ports: the pages of a real cluster, also of one that has lost a DataNode; what it is
//! refused; and what is answered while a NameNode starts.

mod browser;
mod served;
mod trouble;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use dfs_tests::suite::{self, Case, Nothing};

fn main() -> ExitCode {
    let groups: [&[Case<Nothing>]; 3] = [&served::CASES, &trouble::CASES, &browser::CASES];
    suite::run(groups.concat())
}

/// What a daemon answers.
struct Answer {
    status: u16,
    /// Status line and headers, as they came.
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Asks a daemon, and takes no silence for an answer.
#[track_caller]
fn ask(method: &str, host: &str, port: u16, path: &str) -> Answer {
    ask_as(method, host, port, path, &[("Host", host)])
}

/// As `ask`, with these headers only.
#[track_caller]
fn ask_as(method: &str, host: &str, port: u16, path: &str, headers: &[(&str, &str)]) -> Answer {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut stream = TcpStream::connect((host, port)).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set the timeout");
    write!(stream, "{method} {path} HTTP/1.1\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n").expect("ask");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("read the answer");
    let text = String::from_utf8(bytes).expect("pages are UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split_ascii_whitespace().nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// A page that must be there.
#[track_caller]
fn page(host: &str, port: u16, path: &str) -> Answer {
    let answer = ask("GET", host, port, path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer
}
