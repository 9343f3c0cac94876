//! Idle data connections, kept for the next operation on the same DataNode: opening one costs more than a small block.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use tokio::net::TcpStream;

/// Well below the silence after which DataNodes close a connection (30 s).
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections to one node: as many as operations are likely to run at once.
const IDLE_PER_NODE_MAX: usize = 32;
/// Idle connections in all, far below a process's usual limit of descriptors (1,024).
const IDLE_MAX: usize = 256;

/// Idle connections by address, the freshest at the back.
#[derive(Default)]
pub(crate) struct Pool {
    idle: HashMap<String, VecDeque<(TcpStream, Instant)>>,
    count: usize,
}

impl Pool {
    /// The freshest connection to `address` that is still open.
    pub(crate) fn take(&mut self, address: &str, now: Instant) -> Option<TcpStream> {
        let queue = self.idle.get_mut(address)?;
        while let Some((stream, since)) = queue.pop_back() {
            self.count -= 1;
            if now.duration_since(since) < IDLE_TIMEOUT && is_quiet(&stream) {
                return Some(stream);
            }
        }
        None
    }

    /// Keeps a connection, unless there are enough.
    pub(crate) fn put(&mut self, address: &str, stream: TcpStream, now: Instant) {
        if self.count >= IDLE_MAX {
            return;
        }
        let queue = match self.idle.get_mut(address) {
            Some(queue) => queue,
            None => self.idle.entry(address.to_owned()).or_default(),
        };
        if queue.len() < IDLE_PER_NODE_MAX {
            queue.push_back((stream, now));
            self.count += 1;
        }
    }

    /// Closes what has been idle for too long.
    pub(crate) fn close_idle(&mut self, now: Instant) {
        if self.count == 0 {
            return;
        }
        self.idle.retain(|_, queue| {
            while queue.front().is_some_and(|(_, since)| now.duration_since(*since) >= IDLE_TIMEOUT) {
                queue.pop_front();
                self.count -= 1;
            }
            !queue.is_empty()
        });
    }
}

/// Whether the connection is open and nothing has arrived: between operations a peer has nothing to say, so either its
/// end or a stray byte makes it useless. Asks the kernel, for tokio learns of it only when polled.
fn is_quiet(stream: &TcpStream) -> bool {
    let mut byte = [0; 1];
    match rustix::net::recv(stream, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Err(error) => error == rustix::io::Errno::AGAIN,
        Ok(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        (ours.unwrap(), theirs.unwrap().0)
    }

    #[tokio::test]
    async fn take_gives_only_open_quiet_and_fresh_connections() {
        let now = Instant::now();
        let mut pool = Pool::default();
        let (ours, theirs) = pair().await;
        pool.put("a", ours, now);
        assert!(pool.take("b", now).is_none());
        let ours = pool.take("a", now).unwrap();
        assert!(pool.take("a", now).is_none());
        pool.put("a", ours, now);
        assert!(pool.take("a", now + IDLE_TIMEOUT).is_none(), "too old");
        drop(theirs);

        let (ours, theirs) = pair().await;
        pool.put("a", ours, now);
        theirs.try_write(b"stray").unwrap();
        assert!(pool.take("a", now).is_none(), "out of step");

        let (ours, theirs) = pair().await;
        pool.put("a", ours, now);
        drop(theirs);
        assert!(pool.take("a", now).is_none(), "closed");
        assert_eq!(pool.count, 0);
    }

    #[tokio::test]
    async fn close_idle_keeps_the_fresh_ones() {
        let now = Instant::now();
        let mut pool = Pool::default();
        let (first, second) = pair().await;
        pool.put("a", first, now);
        pool.put("a", second, now + Duration::from_secs(5));
        pool.close_idle(now + IDLE_TIMEOUT);
        assert_eq!(pool.count, 1);
        pool.close_idle(now + IDLE_TIMEOUT * 2);
        assert!(pool.idle.is_empty() && pool.count == 0);
    }
}
