//! A connection that sends what belongs together in one piece.
//!
//! h2 hands over the header of a request before its body has been given to it, so each call would leave as two segments
//! and wake the NameNode twice: 30 to 50 us of a call of 150. Here a write waits for one turn of the scheduler, in which the
//! body arrives, and both leave together.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};

/// See the module.
pub(super) struct GatheringStream<T> {
    inner: T,
    /// The write under way has waited.
    has_waited: bool,
}

impl<T> GatheringStream<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, has_waited: false }
    }

    fn gather(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.has_waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn sent(&mut self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        // A socket that takes no more ends the wait for others: what is left goes at once.
        self.has_waited = outcome.is_pending();
        outcome
    }
}

impl<T: Read + Unpin> Read for GatheringStream<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: Write + Unpin> Write for GatheringStream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.gather(cx));
        let outcome = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.sent(outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.gather(cx));
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.sent(outcome)
    }
}

impl<T: Connection> Connection for GatheringStream<T> {
    fn connected(&self) -> Connected {
        self.inner.connected()
    }
}
