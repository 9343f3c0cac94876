//! The bar over a long transfer: only on a terminal, and only once the transfer has taken a while. It is drawn by a thread of
//! its own: a terminal that is stopped stops nobody who moves bytes.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output;

/// Transfers shorter than this show no bar: it would only flicker.
const PATIENCE: Duration = Duration::from_millis(700);
/// Between two drawings of the bar.
const DRAW_INTERVAL: Duration = Duration::from_millis(125);

/// Bytes moved so far, over all files of a command.
pub(crate) struct Progress {
    bar: ProgressBar,
    started: Instant,
    /// A bar may be shown and is not yet.
    waiting: AtomicBool,
    is_shown: AtomicBool,
}

impl Progress {
    /// A bar that stays hidden unless standard error is a terminal and `wanted` is set.
    pub(crate) fn new(wanted: bool) -> Self {
        let style =
            "{percent:>3}% [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left {msg}";
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden()).with_style(style);
        let waiting = AtomicBool::new(wanted && std::io::stderr().is_terminal());
        Self { bar, started: Instant::now(), waiting, is_shown: AtomicBool::new(false) }
    }

    /// More bytes are to be moved than was known.
    pub(crate) fn expect(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    /// These bytes have been moved.
    pub(crate) fn moved(&self, bytes: u64) {
        self.bar.inc(bytes);
        if self.waiting.load(Ordering::Relaxed)
            && self.started.elapsed() > PATIENCE
            && self.waiting.swap(false, Ordering::Relaxed)
        {
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
            self.bar.enable_steady_tick(DRAW_INTERVAL);
            self.is_shown.store(true, Ordering::Relaxed);
        }
    }

    /// Writes to standard error without tearing the bar. Where there is none, it is not locked: a reader that is waited for
    /// here must not keep those waiting who count bytes.
    pub(crate) fn say(&self, line: &str) {
        if self.is_shown.load(Ordering::Relaxed) {
            self.bar.suspend(|| output::tell(line));
        } else {
            output::tell(line);
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.waiting.store(false, Ordering::Relaxed);
        self.bar.finish_and_clear();
    }
}
