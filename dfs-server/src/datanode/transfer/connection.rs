//! One TCP connection with its receive buffer, for threads that block.
//!
//! Sockets stay in blocking mode, but every call here is non-blocking with a `poll` behind it, so that each wait has a
//! deadline and a pipeline's thread can wait for several sockets at once.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_proto::data_transfer::frame::decode_delimited;
use dfs_proto::data_transfer::op::{Request, decode_request};
use dfs_proto::data_transfer::packet::PACKET_LEN_MAX;
use dfs_proto::data_transfer::{PacketFrame, WireError};
use dfs_proto::hadoop::{ClientReadStatusProto, Status};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use tracing::debug;

/// First size of a receive buffer, and the most that is read when the length of what comes is not known: many small
/// packets in one call, and little to move when a large one follows.
const READ_CHUNK: usize = 64 * 1024;
/// A packet at least this long is read by itself, so that the next one starts at the buffer's start.
const LONG_PACKET: usize = 32 * 1024;
/// Bytes read beyond a long packet: the lengths and header of the next one.
const NEXT_HEADER: usize = 64;
/// A buffer above this is given back when its connection falls idle.
const IDLE_BUFFER_MAX: usize = 1 << 20;
/// Time to send the whole of a request after its first byte.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Time and bytes for a peer to read our last words before the connection is cut.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 << 20;

/// Received bytes, contiguous.
#[derive(Debug, Default)]
struct ReceiveBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl ReceiveBuffer {
    fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn consume(&mut self, len: usize) {
        self.start += len;
        debug_assert!(self.start <= self.end, "no more can be consumed than was received");
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Room for `limit` more bytes, or for as many as the buffer may grow by now. It doubles at most with each call, so
    /// that a peer must send bytes before it gets memory.
    fn room(&mut self, limit: usize) -> &mut [u8] {
        let filled = self.end - self.start;
        if self.bytes.len() - self.end < limit {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, filled);
            let wanted = (filled + limit).min((2 * filled).max(READ_CHUNK)).min(PACKET_LEN_MAX + READ_CHUNK);
            if self.bytes.len() < wanted {
                self.bytes.resize(wanted, 0);
            }
        }
        let end = (self.end + limit).min(self.bytes.len());
        &mut self.bytes[self.end..end]
    }
}

/// A connection and what was received on it.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Arc<TcpStream>,
    buffer: ReceiveBuffer,
    /// All that had arrived was taken, and no [`wait`] has found more since: asking would be in vain.
    is_drained: bool,
    /// The reader of the last block has yet to say whether it was content.
    owes_verdict: bool,
}

impl Connection {
    /// Takes an open socket.
    pub(super) fn new(socket: Arc<TcpStream>) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self { socket, buffer: ReceiveBuffer::default(), is_drained: false, owes_verdict: false })
    }

    /// Connects to `host:port`. The one place where the data plane dials.
    pub(super) fn dial(address: &str, timeout: Duration) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for resolved in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&resolved, timeout) {
                Ok(socket) => return Self::new(Arc::new(socket)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// For others that send on it or shut it.
    pub(super) fn socket_handle(&self) -> Arc<TcpStream> {
        Arc::clone(&self.socket)
    }

    pub(super) fn peer_address(&self) -> Option<SocketAddr> {
        self.socket.peer_addr().ok()
    }

    /// What was received and not consumed.
    pub(super) fn filled(&self) -> &[u8] {
        self.buffer.filled()
    }

    /// Forgets the first `len` received bytes.
    pub(super) fn consume(&mut self, len: usize) {
        self.buffer.consume(len);
    }

    /// Gives back the memory that a large packet needed.
    pub(super) fn shrink(&mut self) {
        if self.buffer.bytes.len() > IDLE_BUFFER_MAX && self.buffer.filled().is_empty() {
            self.buffer = ReceiveBuffer::default();
        }
    }

    /// Takes what has arrived, without waiting. `None`: nothing yet, or nothing since [`Connection::note_readable`] was last told.
    /// `Some(0)`: the peer has closed.
    pub(super) fn receive(&mut self, limit: usize) -> io::Result<Option<usize>> {
        if self.is_drained {
            return Ok(None);
        }
        let room = self.buffer.room(limit);
        loop {
            match rustix::net::recv(&*self.socket, &mut *room, RecvFlags::DONTWAIT) {
                Ok((_, len)) => {
                    self.is_drained = 0 < len && len < room.len();
                    self.buffer.end += len;
                    return Ok(Some(len));
                }
                Err(rustix::io::Errno::AGAIN) => {
                    self.is_drained = true;
                    return Ok(None);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// There may be something to receive: a [`wait`] has found it, or nobody has waited.
    pub(super) fn note_readable(&mut self) {
        self.is_drained = false;
    }

    /// How much to receive when the buffer ends inside the packet that begins `at` bytes after its start.
    pub(super) fn packet_read_limit(&self, at: usize) -> usize {
        let partial = &self.filled()[at..];
        match PacketFrame::decode(partial) {
            Ok(Some(frame)) if frame.total_len() >= LONG_PACKET => frame.total_len() - partial.len() + NEXT_HEADER,
            _ => READ_CHUNK,
        }
    }

    /// Waits for more bytes; false when the peer has closed.
    pub(super) fn receive_by(&mut self, deadline: Instant) -> io::Result<bool> {
        loop {
            if let Some(len) = self.receive(READ_CHUNK)? {
                return Ok(len > 0);
            }
            if !wait(&mut [Watch::readable(&self.socket)], deadline)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.note_readable();
        }
    }

    /// A block has been sent: the next thing that comes is what its reader thinks of it. It is taken with the next request, so
    /// that nobody waits for it. A reader that has all it wants may just go.
    pub(super) fn expect_verdict(&mut self) {
        self.owes_verdict = true;
    }

    /// Takes the verdict that is owed, once it has arrived.
    fn take_verdict(&mut self) -> Result<(), WireError> {
        if self.owes_verdict
            && let Some((verdict, len)) = decode_delimited::<ClientReadStatusProto>(self.filled())?
        {
            self.consume(len);
            self.owes_verdict = false;
            if !matches!(verdict.status(), Status::Success | Status::ChecksumOk) {
                debug!(peer = ?self.peer_address(), verdict = ?verdict.status(), "a reader was not content");
            }
        }
        Ok(())
    }

    /// The next request, or `None` when the peer closed or said nothing for `idle`.
    pub(super) fn read_request(&mut self, idle: Duration) -> Result<Option<Request>, WireError> {
        let io = |source| WireError::Io { what: "request", source };
        self.take_verdict()?;
        while self.filled().is_empty() {
            match self.receive_by(Instant::now() + idle) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(None),
                Err(error) => return Err(io(error)),
            }
            self.take_verdict()?;
        }
        let deadline = Instant::now() + REQUEST_DEADLINE;
        loop {
            self.take_verdict()?;
            if !self.owes_verdict
                && let Some((request, len)) = decode_request(self.filled())?
            {
                self.consume(len);
                return Ok(Some(request));
            }
            if !self.receive_by(deadline).map_err(io)? {
                return Err(io(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Sends what the socket takes now of `parts`, in order; 0 when it takes nothing.
    pub(super) fn send(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        send_now(&self.socket, parts)
    }

    /// Sends all of `bytes`, which the peer must have taken within `patience`: one that takes a byte now and then would keep
    /// this thread for ever.
    pub(super) fn send_all(&self, mut bytes: &[u8], patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        while !bytes.is_empty() {
            let sent = self.send(&[IoSlice::new(bytes)])?;
            bytes = &bytes[sent..];
            if !bytes.is_empty() && !wait(&mut [Watch::writable(&self.socket)], deadline)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Whether an idle connection can be used: open, and nothing unexpected on it.
    pub(super) fn is_quiet(&self) -> bool {
        let mut byte = [0];
        let peeked = rustix::net::recv(&*self.socket, &mut byte, RecvFlags::DONTWAIT | RecvFlags::PEEK);
        self.filled().is_empty() && matches!(peeked, Err(rustix::io::Errno::AGAIN))
    }

    /// Ends a connection whose peer may still be sending: closing at once would make the kernel answer with a reset, which
    /// can destroy our last words before they are read.
    pub(super) fn linger(mut self) {
        let deadline = Instant::now() + LINGER;
        let mut budget = LINGER_BYTES;
        if self.socket.shutdown(std::net::Shutdown::Write).is_err() {
            return;
        }
        self.buffer = ReceiveBuffer::default();
        while budget > 0 && matches!(self.receive_by(deadline), Ok(true)) {
            let len = self.filled().len();
            self.consume(len);
            budget = budget.saturating_sub(len);
        }
    }
}

/// Sends what the socket takes now of `parts`, in order; 0 when it takes nothing.
pub(super) fn send_now(socket: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        match rustix::net::sendmsg(socket, parts, &mut SendAncillaryBuffer::default(), flags) {
            Ok(len) => return Ok(len),
            Err(rustix::io::Errno::AGAIN) => return Ok(0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A socket and what is awaited on it.
pub(super) struct Watch<'a> {
    socket: &'a TcpStream,
    flags: PollFlags,
    /// What [`wait`] found.
    pub(super) is_ready: bool,
}

impl<'a> Watch<'a> {
    pub(super) fn readable(socket: &'a TcpStream) -> Self {
        Self { socket, flags: PollFlags::IN, is_ready: false }
    }

    pub(super) fn writable(socket: &'a TcpStream) -> Self {
        Self { socket, flags: PollFlags::OUT, is_ready: false }
    }

    /// Awaits either, both, or only the end of the connection.
    pub(super) fn either(socket: &'a TcpStream, readable: bool, writable: bool) -> Self {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, readable);
        flags.set(PollFlags::OUT, writable);
        Self { socket, flags, is_ready: false }
    }
}

/// Waits until something awaited is there; false when the deadline comes first.
pub(super) fn wait(watches: &mut [Watch<'_>], deadline: Instant) -> io::Result<bool> {
    let mut fds: smallvec::SmallVec<[PollFd<'_>; 2]> =
        watches.iter().map(|watch| PollFd::new(watch.socket, watch.flags)).collect();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(ready) => {
                for (watch, fd) in watches.iter_mut().zip(&fds) {
                    watch.is_ready = !fd.revents().is_empty();
                }
                return Ok(ready > 0);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let near = Connection::new(Arc::new(listener.accept().unwrap().0)).unwrap();
        (near, far)
    }

    #[test]
    fn buffer_grows_only_with_what_it_received() {
        let mut buffer = ReceiveBuffer::default();
        assert_eq!(buffer.room(PACKET_LEN_MAX).len(), READ_CHUNK);
        buffer.end = READ_CHUNK;
        assert_eq!(buffer.room(PACKET_LEN_MAX).len(), READ_CHUNK);
        buffer.consume(READ_CHUNK / 2);
        assert_eq!(buffer.filled().len(), READ_CHUNK / 2);
    }

    #[test]
    fn read_request_ends_when_the_peer_closes_or_says_nothing() {
        let (mut near, far) = pair();
        assert!(near.read_request(Duration::from_millis(1)).unwrap().is_none());
        drop(far);
        assert!(near.read_request(Duration::from_secs(5)).unwrap().is_none());
    }

    #[test]
    fn is_quiet_tells_usable_from_closed_and_from_talking() {
        let (near, mut far) = pair();
        assert!(near.is_quiet());
        far.write_all(b"x").unwrap();
        assert!(wait(&mut [Watch::readable(near.socket())], Instant::now() + Duration::from_secs(5)).unwrap());
        assert!(!near.is_quiet());
        let (near, far) = pair();
        drop(far);
        assert!(wait(&mut [Watch::readable(near.socket())], Instant::now() + Duration::from_secs(5)).unwrap());
        assert!(!near.is_quiet());
    }
}
