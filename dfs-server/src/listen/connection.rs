//! Accepted connections, as the libraries that speak gRPC and HTTP on them use them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::door::{Busy, Pass};

/// An accepted gRPC connection on which a short answer leaves in one piece.
///
/// An answer is three HTTP/2 frames: headers, message, trailers. Where writes can be vectored, h2 keeps a message above 256
/// bytes out of its buffer, and sends the trailers behind it by a write of their own: the client wakes up twice, and has its
/// answer 60 to 130 us later. Where they cannot, it copies messages up to 1 KiB, which is what nearly all answers are.
#[derive(Debug)]
pub(crate) struct ClientConnection(pub(crate) TcpStream);

impl AsyncRead for ClientConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        false
    }
}

/// An accepted HTTP/1 connection on which an answer is under way until the peer has taken it. The answer is over for hyper when it
/// is in a buffer; a slow reader takes that for minutes, and must not be taken for one who does not ask.
pub(crate) struct AnsweredConnection {
    socket: TcpStream,
    pass: Arc<Pass>,
    /// While there is something that the socket does not take.
    pending: Option<Busy>,
}

impl AnsweredConnection {
    pub(crate) fn new(socket: TcpStream, pass: Arc<Pass>) -> Self {
        Self { socket, pass, pending: None }
    }

    fn on_written(&mut self, written: &Poll<io::Result<usize>>) {
        if written.is_pending() {
            self.pending.get_or_insert_with(|| self.pass.writing());
        } else if self.pending.take().is_none() {
            // Dropping the other is progress, too.
            self.pass.on_progress();
        }
    }
}

impl AsyncRead for AnsweredConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for AnsweredConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.on_written(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, pieces);
        self.on_written(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, TcpListener};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::door::{Admission, CallPatience, Door, Limits};
    use super::*;

    #[tokio::test]
    async fn connection_is_at_work_until_its_peer_has_taken_what_was_written() {
        let hour = Duration::from_secs(3600);
        let door = Door::new(Limits::of(4, hour, hour, CallPatience::Its), None);
        let Admission::In(pass) = door.admit(IpAddr::from([10, 0, 0, 1]), 1) else { panic!("nobody is in yet") };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut connection = AnsweredConnection::new(TcpStream::from_std(socket).unwrap(), Arc::new(pass));
        let answer = vec![7; 1 << 20];
        let mut written = 0;
        // Until nobody takes any more.
        loop {
            let mut context = Context::from_waker(std::task::Waker::noop());
            match Pin::new(&mut connection).poll_write(&mut context, &answer) {
                Poll::Ready(bytes) => written += bytes.unwrap(),
                // The peer's side may take a moment to fill.
                Poll::Pending => break,
            }
            assert!(door.busy() == 0);
        }
        assert_eq!(door.busy(), 1);
        let reading = tokio::spawn(async move {
            let mut taken = vec![0; written];
            peer.read_exact(&mut taken).await.unwrap();
            peer
        });
        connection.write_all(b"the end").await.unwrap();
        assert_eq!(door.busy(), 0);
        drop(reading.await.unwrap());
    }
}
