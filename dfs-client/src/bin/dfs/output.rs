//! Standard output: buffered, bytes as they are, and a reader that goes away is no error worth a word. Standard error: lines;
//! it is no matter if their reader has gone. One that is there and does not read is waited for.
//!
//! Text goes out from wherever it is made: a command that prints has nothing better to do than wait for its reader, and has
//! a thread of its own for it (`ending`). The bytes of files take another way, through threads of theirs (`content`). Both
//! end with [`Output::close`], and neither leaves anything in the buffer of the standard library: that one is written out
//! when the process ends, whoever waits for the end.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;

use rustix::io::Errno;
use serde::Serialize;

use crate::content;
use crate::failure::{Failure, Outcome};

/// Where results go.
pub(crate) struct Output {
    stdout: Mutex<BufWriter<content::Stdout>>,
    is_terminal: bool,
}

impl Output {
    /// This process's standard output.
    pub(crate) fn new() -> Self {
        let stdout = BufWriter::with_capacity(64 << 10, content::Stdout);
        Self { stdout: Mutex::new(stdout), is_terminal: io::stdout().is_terminal() }
    }

    /// A line of text.
    ///
    /// # Errors
    /// When standard output cannot be written; a broken pipe is told apart.
    pub(crate) fn line(&self, text: impl AsRef<[u8]>) -> Outcome {
        self.ended_by(b'\n', text)
    }

    /// Text with another byte behind it than a line's end.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn ended_by(&self, end: u8, text: impl AsRef<[u8]>) -> Outcome {
        let mut stdout = self.stdout.lock().expect("no holder panics");
        let written = if self.is_terminal {
            stdout.write_all(&printable(text.as_ref()))
        } else {
            stdout.write_all(text.as_ref())
        };
        written.and_then(|()| stdout.write_all(&[end])).map_err(Failure::stdout)
    }

    /// One JSON document.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn json(&self, document: &impl Serialize) -> Outcome {
        let mut stdout = self.stdout.lock().expect("no holder panics");
        serde_json::to_writer_pretty(&mut *stdout, document)
            .map_err(io::Error::from)
            .and_then(|()| stdout.write_all(b"\n"))
            .map_err(Failure::stdout)
    }

    /// Hands everything to the operating system.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn flush(&self) -> Outcome {
        self.stdout.lock().expect("no holder panics").flush().map_err(Failure::stdout)
    }

    /// Says that nothing more will come, and hears whether everything has arrived. Closing any duplicate does that; the
    /// descriptor itself stays, or its number would go to the next file or connection that is opened.
    ///
    /// # Errors
    /// As [`Output::line`]; those of close(2).
    pub(crate) async fn close(&self) -> Outcome {
        self.flush()?;
        match rustix::io::fcntl_dupfd_cloexec(io::stdout().as_fd(), 0) {
            Ok(duplicate) => content::close(duplicate).await.map_err(Failure::stdout),
            // It was closed when we were started: nobody wants to see anything.
            Err(Errno::BADF) => Ok(()),
            Err(error) => Err(Failure::stdout(error.into())),
        }
    }
}

/// Writes a line to standard error. When that fails, nobody is left to be told, and the work goes on: what is half done
/// has to be removed, and the exit status says the rest.
pub(crate) fn tell(line: &str) {
    let mut stderr = io::stderr();
    let _ = stderr.write_all(&told(line, stderr.is_terminal()));
}

fn told(line: &str, is_terminal: bool) -> Vec<u8> {
    let mut bytes = if is_terminal { printable(line.as_bytes()) } else { line.as_bytes().to_vec() };
    bytes.push(b'\n');
    bytes
}

/// Names may hold control characters, with which a file could move the reader's cursor or worse: on a terminal they
/// are shown as question marks. A tab stays.
fn printable(text: &[u8]) -> Vec<u8> {
    without_controls(text, |shown| shown == '\t')
}

/// Puts question marks in place of control characters, of which `stays` may leave some. What is no UTF-8 stays, but for the
/// bytes that are control characters to terminals with another character set.
pub(crate) fn without_controls(text: &[u8], stays: impl Fn(char) -> bool) -> Vec<u8> {
    let mut shown = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        let valid =
            chunk.valid().chars().map(|letter| if letter.is_control() && !stays(letter) { '?' } else { letter });
        shown.extend(valid.collect::<String>().bytes());
        shown.extend(chunk.invalid().iter().map(|byte| if (0x80..=0x9f).contains(byte) { b'?' } else { *byte }));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_hides_control_characters_only() {
        assert_eq!(printable(b"a\x1b[2J\nb\t\xc3\xa9\x7f"), b"a?[2J?b\t\xc3\xa9?");
        // CSI is one character in UTF-8, and one byte elsewhere.
        assert_eq!(printable("a\u{9b}2J".as_bytes()), b"a?2J");
        assert_eq!(printable(b"a\x9b2J\xe9"), b"a?2J\xe9");
        assert_eq!(without_controls(b"a\tb", |_| false), b"a?b");
    }

    #[test]
    fn told_is_one_line_on_a_terminal() {
        assert_eq!(told("dfs: ls: /a\x1bc\nb: no", true), b"dfs: ls: /a?c?b: no\n");
        assert_eq!(told("dfs: ls: /a\x1bc\nb: no", false), b"dfs: ls: /a\x1bc\nb: no\n");
    }
}
