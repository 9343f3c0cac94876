//! The data port: accepting connections, a bounded pool of threads, and the loop that serves one connection.
//!
//! A thread serves one connection until it closes; between operations the connection is idle and keeps its thread, as in
//! HDFS. Threads that have nothing to do are kept for a while and take the next connection. When all
//! `dfs.datanode.max.transfer.threads` are taken, the connection that has been idle longest is closed to make room; if
//! none is idle the newcomer is refused.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Shutdown as SocketShutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::data_transfer::WireError;
use dfs_proto::data_transfer::op::Request;
use parking_lot::{Condvar, Mutex};
use tracing::{debug, info, warn};

use super::DataPlane;
use super::block_checksum::checksum_block;
use super::block_receiver::receive_block;
use super::block_sender::send_block;
use super::connection::Connection;
use super::replica_transfer::transfer_replica;
use super::reply::{encoded, error_response, protocol_error};

/// How long a connection may be idle: well above the time for which our own nodes and clients keep theirs (`peer_pool`),
/// so that it is they who close.
const IDLE_CONNECTION: Duration = Duration::from_secs(120);
/// How long a thread without a connection is kept.
const IDLE_THREAD: Duration = Duration::from_secs(30);
/// Stack of a serving thread: its buffers are on the heap, and the deepest calls are a log line.
const STACK_SIZE: usize = 512 * 1024;
/// Pause after accept fails for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What becomes of the connection after an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It serves the next request.
    Serve,
    /// Its peer must read our last words; then it is closed.
    Linger,
    /// It is of no more use.
    Close,
}

#[derive(Debug)]
struct Served {
    socket: Arc<TcpStream>,
    /// Since when no operation runs on it.
    idle_since: Option<Instant>,
}

#[derive(Debug, Default)]
struct Pool {
    waiting: VecDeque<Arc<TcpStream>>,
    threads: usize,
    idle_threads: usize,
    served: HashMap<u64, Served>,
    next_id: u64,
    stopping: bool,
}

#[derive(Debug)]
struct Shared {
    plane: Arc<DataPlane>,
    threads_max: usize,
    pool: Mutex<Pool>,
    /// A connection waits, or all must stop.
    work: Condvar,
    /// A thread has ended.
    ended: Condvar,
}

/// The running service.
#[derive(Debug)]
pub(crate) struct DataService {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl DataService {
    /// Starts accepting on `listener`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start(listener: TcpListener, plane: Arc<DataPlane>, threads_max: usize) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            plane,
            threads_max,
            pool: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
        });
        let acceptor = std::thread::Builder::new().name("dn-accept".into()).spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        })?;
        Ok(Self { shared, address, acceptor: Mutex::new(Some(acceptor)) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Operations being served.
    pub(crate) fn active_transfers(&self) -> usize {
        let pool = self.shared.pool.lock();
        pool.served.values().filter(|served| served.idle_since.is_none()).count()
    }

    /// Breaks off every operation and waits until all threads have ended, at most `patience`.
    pub(crate) fn stop(&self, patience: Duration) {
        {
            let mut pool = self.shared.pool.lock();
            pool.stopping = true;
            pool.waiting.clear();
            for served in pool.served.values() {
                let _ = served.socket.shutdown(SocketShutdown::Both);
            }
            self.shared.work.notify_all();
        }
        // Accept has no time limit: a connection of our own makes it look up.
        let wake = match self.address {
            SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v4.port())),
            SocketAddr::V6(v6) if v6.ip().is_unspecified() => SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], v6.port())),
            address => address,
        };
        let _ = TcpStream::connect_timeout(&wake, Duration::from_secs(1));
        let acceptor = self.acceptor.lock().take();
        if let Some(acceptor) = acceptor {
            let _ = acceptor.join();
        }
        let deadline = Instant::now() + patience;
        let mut pool = self.shared.pool.lock();
        while pool.threads > 0 && !self.shared.ended.wait_until(&mut pool, deadline).timed_out() {}
        if pool.threads > 0 {
            warn!(threads = pool.threads, "stopping although transfers have not ended");
        }
    }
}

impl Drop for DataService {
    fn drop(&mut self) {
        if self.acceptor.lock().is_some() {
            self.stop(Duration::from_secs(1));
        }
    }
}

/// The one place where data connections are accepted.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.pool.lock().stopping {
            return;
        }
        match accepted {
            Ok((socket, peer)) => shared.admit(Arc::new(socket), peer),
            Err(error) => {
                warn!(%error, "accept failed");
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

impl Shared {
    /// Hands a connection to a thread, or refuses it.
    fn admit(self: &Arc<Self>, socket: Arc<TcpStream>, peer: SocketAddr) {
        let mut pool = self.pool.lock();
        if pool.idle_threads <= pool.waiting.len() && pool.threads >= self.threads_max && !close_longest_idle(&mut pool)
        {
            self.plane.metrics.connections_refused.inc();
            warn!(%peer, threads = self.threads_max,
                "refusing a data connection: all threads are busy (dfs.datanode.max.transfer.threads)");
            return;
        }
        pool.waiting.push_back(socket);
        if pool.idle_threads >= pool.waiting.len() || pool.threads >= self.threads_max {
            self.work.notify_one();
            return;
        }
        let shared = Arc::clone(self);
        let spawned =
            std::thread::Builder::new().name("dn-transfer".into()).stack_size(STACK_SIZE).spawn(move || shared.work());
        match spawned {
            Ok(_) => pool.threads += 1,
            Err(error) => {
                pool.waiting.pop_back();
                warn!(%peer, %error, "refusing a data connection: no thread can be started");
            }
        }
    }

    /// A thread's life: connection after connection.
    fn work(&self) {
        let mut pool = self.pool.lock();
        loop {
            if pool.stopping {
                break;
            }
            if let Some(socket) = pool.waiting.pop_front() {
                let id = pool.next_id;
                pool.next_id += 1;
                pool.served.insert(id, Served { socket: Arc::clone(&socket), idle_since: Some(Instant::now()) });
                drop(pool);
                self.serve_contained(id, socket);
                pool = self.pool.lock();
                pool.served.remove(&id);
                continue;
            }
            pool.idle_threads += 1;
            let timed_out = self.work.wait_for(&mut pool, IDLE_THREAD).timed_out();
            pool.idle_threads -= 1;
            if timed_out && pool.waiting.is_empty() {
                break;
            }
        }
        pool.threads -= 1;
        drop(pool);
        self.ended.notify_all();
    }

    /// A bug met on one connection must not cost the pool a thread, nor others their service.
    fn serve_contained(&self, id: u64, socket: Arc<TcpStream>) {
        self.plane.metrics.connections.inc();
        let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.serve(id, socket)));
        self.plane.metrics.connections.dec();
        if served.is_err() {
            tracing::error!("a data connection met a bug; it was closed");
        }
    }

    /// Serves one connection, one operation after another.
    fn serve(&self, id: u64, socket: Arc<TcpStream>) {
        let Ok(mut connection) = Connection::new(socket) else { return };
        loop {
            let request = match connection.read_request(IDLE_CONNECTION) {
                Ok(Some(request)) => request,
                Ok(None) => return,
                Err(error) => {
                    self.refuse(connection, error);
                    return;
                }
            };
            self.mark(id, None);
            self.plane.metrics.active_transfers.inc();
            let after = self.operate(&mut connection, request);
            self.plane.metrics.active_transfers.dec();
            match after {
                After::Serve => connection.shrink(),
                After::Linger => return connection.linger(),
                After::Close => return,
            }
            self.mark(id, Some(Instant::now()));
        }
    }

    fn mark(&self, id: u64, idle_since: Option<Instant>) {
        if let Some(served) = self.pool.lock().served.get_mut(&id) {
            served.idle_since = idle_since;
        }
    }

    fn operate(&self, connection: &mut Connection, request: Request) -> After {
        let plane = &*self.plane;
        match request {
            Request::WriteBlock(request) => receive_block(plane, connection, *request),
            Request::ReadBlock(request) => send_block(plane, connection, &request),
            Request::BlockChecksum(request) => checksum_block(plane, connection, &request),
            Request::TransferBlock(request) => transfer_replica(plane, connection, &request),
            Request::ReplaceBlock(_)
            | Request::CopyBlock(_)
            | Request::RequestShortCircuitFds(_)
            | Request::ReleaseShortCircuitFds(_)
            | Request::RequestShortCircuitShm(_) => {
                let refusal = DfsError::new(ErrorKind::Unsupported, format!("{:?} is not supported", request.op()));
                answer(connection, &refusal, plane.timeout).map_or(After::Close, |()| After::Serve)
            }
        }
    }

    /// Says what was wrong with a request, when it looked like one.
    fn refuse(&self, connection: Connection, error: WireError) {
        let peer = connection.peer_address();
        match error {
            WireError::Io { .. } => debug!(?peer, "data connection ended: {}", protocol_error(error).chain()),
            error => {
                self.plane.metrics.operations_failed.inc();
                let error = protocol_error(error);
                info!(?peer, "refusing a data connection: {}", error.chain());
                if answer(&connection, &error, Duration::from_secs(1)).is_ok() {
                    connection.linger();
                }
            }
        }
    }
}

fn answer(connection: &Connection, error: &DfsError, patience: Duration) -> Result<()> {
    connection.send_all(&encoded(&error_response(error)), patience).map_err(|error| DfsError::io("answer", error))
}

/// Makes room: its thread will be free in a moment.
fn close_longest_idle(pool: &mut Pool) -> bool {
    let Some(served) =
        pool.served.values_mut().filter(|served| served.idle_since.is_some()).min_by_key(|served| served.idle_since)
    else {
        return false;
    };
    served.idle_since = None;
    let _ = served.socket.shutdown(SocketShutdown::Both);
    true
}
