//! Starts the writing of dirty bytes early, so that an fsync at any time finds little left.
//!
//! The system call that starts it waits while the device's queue is full. On the thread that takes packets that would hold
//! a stream to the speed of the device although there is memory for it: so each volume has a thread that waits instead.

use std::fs::File;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;

use dfs_common::sys;
use tracing::warn;

/// Ranges that may wait for one device: beyond it the kernel's own writeback is as good.
const WAITING_MAX: usize = 16;

#[derive(Debug)]
struct Range {
    file: Arc<File>,
    offset: u64,
    length: u64,
}

/// The thread of one volume, started when it is first needed; it ends when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Writeback {
    sender: OnceLock<Option<SyncSender<Range>>>,
}

impl Writeback {
    /// Has the device begin with a range of a file. False when too much waits already: ask again with more.
    pub(super) fn start(&self, file: &Arc<File>, offset: u64, length: u64) -> bool {
        let Some(sender) = self.sender.get_or_init(spawn) else { return true };
        sender.try_send(Range { file: Arc::clone(file), offset, length }).is_ok()
    }
}

fn spawn() -> Option<SyncSender<Range>> {
    let (sender, ranges) = sync_channel(WAITING_MAX);
    match thread::Builder::new().name("dn-writeback".into()).spawn(move || serve(&ranges)) {
        Ok(_) => Some(sender),
        Err(error) => {
            warn!(%error, "no thread for early writeback; the kernel's own has to do");
            None
        }
    }
}

fn serve(ranges: &Receiver<Range>) {
    while let Ok(Range { file, offset, length }) = ranges.recv() {
        // Whoever needs the bytes on disk syncs, and gets the error then.
        let _ = sys::start_writeback(&file, offset, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_takes_a_range_and_holds_the_file_no_longer_than_it() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let writeback = Writeback::default();
        assert!(writeback.start(&file, 0, 0));
        drop(writeback);
        // The thread lets go of the file once it is done with it.
        while Arc::strong_count(&file) > 1 {
            thread::yield_now();
        }
    }
}
