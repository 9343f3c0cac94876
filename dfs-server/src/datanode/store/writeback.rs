//! Starts the writing of dirty bytes early, so that an fsync at any time finds little left, and forgets what is written.
//!
//! The system call that starts it waits while the device's queue is full. On the thread that takes packets that would hold
//! a stream to the speed of the device although there is memory for it: so each volume has a thread that waits instead.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tracing::warn;

use super::disk::DiskFile;

/// Ranges that may wait for one device: beyond it the kernel's own writeback is as good.
const WAITING_MAX: usize = 16;
/// Bytes that the device is probably busy with, and that are not forgotten before more have come.
const UNDER_WAY_MAX: u64 = 16 << 20;
/// Time after which the device has written them if no more come.
const SETTLE_TIME: Duration = Duration::from_secs(1);

/// Dirty bytes of a file.
#[derive(Debug)]
pub(super) struct DirtyRange {
    pub(super) file: Arc<DiskFile>,
    pub(super) offset: u64,
    pub(super) length: u64,
    /// Whether the page cache is to forget it once it is on disk.
    pub(super) drop_behind: bool,
}

/// The thread of one volume, started when it is first needed; it ends when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Writeback {
    sender: OnceLock<Option<SyncSender<DirtyRange>>>,
}

impl Writeback {
    /// Has the device begin with a range of a file. False when too much waits already: ask again with more.
    pub(super) fn start(&self, range: DirtyRange) -> bool {
        let Some(sender) = self.sender.get_or_init(spawn) else { return true };
        sender.try_send(range).is_ok()
    }
}

fn spawn() -> Option<SyncSender<DirtyRange>> {
    let (sender, ranges) = sync_channel(WAITING_MAX);
    match thread::Builder::new().name("dn-writeback".into()).spawn(move || serve(&ranges)) {
        Ok(_) => Some(sender),
        Err(error) => {
            warn!(%error, "no thread for early writeback; the kernel's own has to do");
            None
        }
    }
}

fn serve(ranges: &Receiver<DirtyRange>) {
    let mut under_way = VecDeque::new();
    loop {
        let received = if under_way.is_empty() {
            ranges.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            ranges.recv_timeout(SETTLE_TIME)
        };
        match received {
            Ok(range) => {
                range.file.start_writeback(range.offset, range.length);
                if range.drop_behind {
                    under_way.push_back(range);
                }
                while under_way.iter().map(|range| range.length).sum::<u64>() > UNDER_WAY_MAX {
                    under_way.pop_front().iter().for_each(forget);
                }
            }
            Err(RecvTimeoutError::Timeout) => under_way.drain(..).for_each(|range| forget(&range)),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Has the page cache forget a file up to the end of a range. Only advice: what is not on disk yet stays.
fn forget(range: &DirtyRange) {
    range.file.forget_cached(range.offset + range.length);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_takes_a_range_and_holds_the_file_no_longer_than_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = Arc::new(DiskFile::create(&dir.path().join("blk_1")).unwrap());
        let writeback = Writeback::default();
        let range = DirtyRange { file: Arc::clone(&file), offset: 0, length: 0, drop_behind: true };
        assert!(writeback.start(range));
        drop(writeback);
        // The thread lets go of the file once it is done with it.
        while Arc::strong_count(&file) > 1 {
            thread::yield_now();
        }
    }
}
