//! The data port: a bounded pool of threads, and the loop that serves one connection.
//!
//! A thread serves one connection until it closes; between operations the connection is idle and keeps its thread, as in
//! HDFS. Threads that have nothing to do are kept for a while and take the next connection. There are as many threads at
//! most as the door lets connections in (`listen`): `dfs.datanode.max.transfer.threads`, or what the descriptors suffice for.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown as SocketShutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::data_transfer::WireError;
use dfs_proto::data_transfer::op::Request;
use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::gauge::Gauge;
use tracing::{debug, info, warn};

use super::after::After;
use super::block_checksum::checksum_block;
use super::block_receiver::receive_block;
use super::block_sender::send_block;
use super::connection::Connection;
use super::data_plane::DataPlane;
use super::replica_transfer::transfer_replica;
use super::reply::{encoded, error_response, protocol_error};
use crate::listen::Acceptor;
use crate::listen::door::{CallPatience, Door, Limits, Pass};

/// How long a connection may be idle: well above the time for which our own nodes and clients keep theirs (`peer_pool`),
/// so that it is they who close, unless its place is wanted before.
const IDLE_CONNECTION: Duration = Duration::from_secs(120);
/// How long one may be open without a request: our nodes and clients connect when they have one.
const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// How long a thread without a connection is kept.
const IDLE_THREAD: Duration = Duration::from_secs(30);
/// Stack of a serving thread: its buffers are on the heap, and the deepest calls are a log line.
const STACK_SIZE: usize = 512 * 1024;

/// A connection that was let in.
type Admitted = (Arc<TcpStream>, Pass);

#[derive(Debug, Default)]
struct Pool {
    waiting: VecDeque<Admitted>,
    threads: usize,
    idle_threads: usize,
    stopping: bool,
}

#[derive(Debug)]
struct Shared {
    plane: Arc<DataPlane>,
    threads_max: usize,
    door: Arc<Door>,
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
    acceptor: Acceptor,
}

impl DataService {
    /// Starts accepting on `listener`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start(listener: TcpListener, plane: Arc<DataPlane>, threads_max: usize) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let limits = Limits::of(threads_max, FIRST_REQUEST, IDLE_CONNECTION, CallPatience::Its);
        let door = Door::new(limits, Some(plane.metrics.connections_refused.clone()));
        let shared = Arc::new(Shared {
            plane,
            threads_max,
            door: Arc::clone(&door),
            pool: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
        });
        let acceptor = Acceptor::start("dn-accept", listener, door, {
            let shared = Arc::clone(&shared);
            move |socket, peer, pass| shared.take(Arc::new(socket), peer, pass)
        })?;
        Ok(Self { shared, address, acceptor })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Operations being served.
    pub(crate) fn active_transfers(&self) -> usize {
        self.shared.door.busy()
    }

    /// Breaks off every operation and waits until all threads have ended, at most `patience`.
    pub(crate) fn stop(&self, patience: Duration) {
        self.acceptor.stop();
        let waiting = {
            let mut pool = self.shared.pool.lock();
            pool.stopping = true;
            self.shared.work.notify_all();
            std::mem::take(&mut pool.waiting)
        };
        drop(waiting);
        self.shared.door.end_all();
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
        if !self.shared.pool.lock().stopping {
            self.stop(Duration::from_secs(1));
        }
    }
}

impl Shared {
    /// Hands a connection to a thread.
    fn take(self: &Arc<Self>, socket: Arc<TcpStream>, peer: SocketAddr, pass: Pass) {
        let of_door = Arc::clone(&socket);
        pass.on_end(move || {
            let _ = of_door.shutdown(SocketShutdown::Both);
        });
        let mut pool = self.pool.lock();
        pool.waiting.push_back((socket, pass));
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
                let refused = pool.waiting.pop_back();
                drop(pool);
                drop(refused);
                self.plane.metrics.connections_refused.inc();
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
            if let Some((socket, pass)) = pool.waiting.pop_front() {
                drop(pool);
                self.serve_contained(socket, &pass);
                drop(pass);
                pool = self.pool.lock();
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
    fn serve_contained(&self, socket: Arc<TcpStream>, pass: &Pass) {
        let _open = Counted::one_more(&self.plane.metrics.connections);
        let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.serve(socket, pass)));
        if served.is_err() {
            tracing::error!("a data connection met a bug; it was closed");
        }
    }

    /// Serves one connection, one operation after another.
    fn serve(&self, socket: Arc<TcpStream>, pass: &Pass) {
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
            let after = {
                let _active = Counted::one_more(&self.plane.metrics.active_transfers);
                let _busy = pass.busy();
                self.operate(&mut connection, request)
            };
            match after {
                After::Serve => connection.shrink(),
                After::Linger => return connection.linger(),
                After::Close => return,
            }
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

/// Counts in a gauge for as long as it lives, also while a panic unwinds.
struct Counted<'a>(&'a Gauge);

impl<'a> Counted<'a> {
    fn one_more(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
