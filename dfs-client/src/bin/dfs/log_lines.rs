//! The client's warnings on their way to standard error, which a thread of their own writes: whoever has something to warn of
//! may be moving bytes, and must not wait for a pipe that nobody reads.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Lines that may wait to be written; what does not fit is lost. With the most talkative `DFS_LOG`, some seconds' worth.
const QUEUED_LINES: usize = 16 << 10;
/// How long the end of the command waits for them.
const PATIENCE: Duration = Duration::from_millis(200);

/// Takes lines. Clones share the thread.
#[derive(Clone, Debug)]
pub(crate) struct LogLines(SyncSender<Item>);

#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    /// Everything before it has been written when this is answered.
    Mark(SyncSender<()>),
}

impl LogLines {
    /// Starts the thread, and logging.
    ///
    /// # Errors
    /// When there is no thread.
    pub(crate) fn start(filter: &str) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUED_LINES);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&receiver, io::stderr()))?;
        let lines = Self(sender);
        let writer = lines.clone();
        dfs_common::logging::init_to(move || writer.clone(), Some(filter));
        Ok(lines)
    }

    /// Waits until everything so far has been written, but not for long.
    pub(crate) fn finish(&self) {
        let (written, is_written) = sync_channel(1);
        if self.0.try_send(Item::Mark(written)).is_ok() {
            // Who does not read it now does not get it.
            let _ = is_written.recv_timeout(PATIENCE);
        }
    }
}

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // One that finds no room is lost: nobody has read the thousands before it.
        let _ = self.0.try_send(Item::Line(line.to_vec()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(items: &Receiver<Item>, mut sink: impl Write) {
    for item in items {
        // Where a complaint cannot be written, nobody is left to complain to.
        let _ = match item {
            Item::Line(line) => sink.write_all(&line).is_ok(),
            Item::Mark(written) => written.send(()).is_ok(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_never_waits_and_finish_waits_for_what_was_written() {
        let (sender, receiver) = sync_channel(2);
        let mut lines = LogLines(sender);
        for line in ["one\n", "two\n", "three\n"] {
            assert_eq!(lines.write(line.as_bytes()).unwrap(), line.len());
        }
        // Nobody takes them: no room, no answer, and no wait without end.
        lines.finish();
        let writer = std::thread::spawn(move || {
            let mut written = Vec::new();
            write_all(&receiver, &mut written);
            written
        });
        lines.finish();
        drop(lines);
        assert_eq!(writer.join().unwrap(), b"one\ntwo\n");
    }
}
