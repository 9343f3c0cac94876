//! Which bytes to fetch ahead, by the pattern of reads so far. Pure: offsets in, ranges out.
//!
//! A file has up to [`STREAMS_MAX`] streams, each a place where somebody reads on. A read near a stream's front belongs to
//! it: the kernel sends read-ahead requests several at a time and not always in order, so a little before or behind the
//! front is near. Any other read starts a stream of its own, which fetches nothing until a second read continues it.
//!
//! ```text
//!          front            scheduled      front + window
//! ----------|==================|..................|----------> file
//!   read     fetched or under way   next to fetch
//! ```
//!
//! The window starts at [`WINDOW_FIRST`], doubles each time half of it has been consumed, and is bounded by a setting.
//! More is scheduled once half a window is missing, so that requests to DataNodes are large.

use std::ops::Range;

/// Places in one file that are read on at the same time.
pub(crate) const STREAMS_MAX: usize = 4;
/// First window: little is lost when the second read was chance.
const WINDOW_FIRST: u64 = 256 * 1024;
/// How many lengths of the read from the front still count as near: the kernel keeps a few requests in flight.
const NEAR_READS: u64 = 8;
/// Nothing further away is near, however large the reads.
const NEAR_MAX: u64 = 8 * 1024 * 1024;
/// Smallest and largest piece fetched by one request to a DataNode.
const PART_MIN: u64 = 256 * 1024;
const PART_MAX: u64 = 2 * 1024 * 1024;

/// One place where a file is read on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stream {
    /// Behind the furthest byte asked for.
    front: u64,
    /// Everything between the front and here is fetched or under way.
    scheduled: u64,
    /// Bytes to keep ahead of the front; 0 until a second read came.
    window: u64,
    /// Bytes the front has moved since the window last grew.
    consumed: u64,
    /// When it was last used, in reads of this file.
    used_at: u64,
}

/// All streams of one file.
#[derive(Debug)]
pub(crate) struct Streams {
    streams: Vec<Stream>,
    reads: u64,
    window_max: u64,
}

impl Streams {
    /// `window_max` of 0 fetches nothing ahead.
    pub(crate) fn new(window_max: u64) -> Self {
        Self { streams: Vec::new(), reads: 0, window_max }
    }

    /// Takes note of a read of `range` (not empty) in a file of `file_len` bytes, and says what to fetch ahead of it.
    pub(crate) fn on_read(&mut self, range: Range<u64>, file_len: u64) -> Range<u64> {
        self.reads += 1;
        let now = self.reads;
        let len = range.end - range.start;
        let Some(index) = self.nearest(range.start, len) else {
            self.start_stream(range.end);
            return range.end..range.end;
        };
        let window_max = self.window_max;
        let stream = &mut self.streams[index];
        stream.used_at = now;
        stream.advance(range.end, len, window_max);
        stream.schedule(file_len)
    }

    /// Whether some stream may still come to read `range`.
    pub(crate) fn is_wanted(&self, range: &Range<u64>) -> bool {
        self.streams.iter().any(|stream| range.end + stream.window > stream.front && range.start <= stream.scheduled)
    }

    /// What was fetched ahead is gone: the next reads schedule it again.
    pub(crate) fn on_parts_lost(&mut self) {
        for stream in &mut self.streams {
            stream.scheduled = stream.front;
        }
    }

    fn nearest(&self, offset: u64, len: u64) -> Option<usize> {
        let near = |stream: &Stream| {
            let distance = offset.abs_diff(stream.front);
            let limit = (NEAR_READS * len).min(NEAR_MAX).min(stream.window).max(2 * len);
            (distance <= limit).then_some(distance)
        };
        let distances = self.streams.iter().enumerate().filter_map(|(index, stream)| Some((near(stream)?, index)));
        distances.min().map(|(_, index)| index)
    }

    fn start_stream(&mut self, front: u64) {
        let stream = Stream { front, scheduled: front, used_at: self.reads, ..Stream::default() };
        if self.streams.len() < STREAMS_MAX {
            self.streams.push(stream);
        } else if let Some(oldest) = self.streams.iter_mut().min_by_key(|stream| stream.used_at) {
            *oldest = stream;
        }
    }
}

impl Stream {
    fn advance(&mut self, end: u64, len: u64, window_max: u64) {
        if end > self.front {
            self.consumed += end - self.front;
            self.front = end;
        }
        if self.window == 0 {
            self.window = WINDOW_FIRST.max(2 * len).min(window_max);
            self.consumed = 0;
        } else if self.consumed >= self.window / 2 {
            self.window = (self.window * 2).min(window_max);
            self.consumed = 0;
        }
        self.scheduled = self.scheduled.max(self.front);
    }

    fn schedule(&mut self, file_len: u64) -> Range<u64> {
        let target = (self.front + self.window).min(file_len);
        let from = self.scheduled;
        let missing = target.saturating_sub(from);
        if missing == 0 || (missing < self.window / 2 && target < file_len) {
            return from..from;
        }
        self.scheduled = target;
        from..target
    }
}

/// Cuts a range to fetch into parts that are fetched side by side.
pub(crate) fn split(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let part = ((range.end - range.start) / 2).clamp(PART_MIN, PART_MAX).next_multiple_of(PART_MIN);
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        // Up to a multiple of the part's length, so that later reads, which are aligned, fall into one part each.
        let end = (at + part).min(range.end);
        let aligned = end - end % PART_MIN;
        let end = if aligned > at && end < range.end { aligned } else { end };
        let piece = at..end;
        at = end;
        Some(piece)
    })
}

#[cfg(test)]
#[path = "prefetch_tests.rs"]
mod tests;
