//! Idle connections to other DataNodes, kept for the next block: a new one costs a pipeline of small blocks more than
//! the block does.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::connection::Connection;

/// Time to connect; a node that takes longer is taken for dead, and another one serves the pipeline. One lost packet is
/// made up for within it, and the writer's own patience with us is longer.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(2500);
/// Idle connections kept to one node: as many small blocks in flight at once find one.
const IDLE_PER_PEER_MAX: usize = 32;
/// How long an idle connection is kept. Far below the time after which the far side closes it (`data_service`), so that
/// one is hardly ever taken out of the pool while it is being closed: only when the far side needs its place at that moment.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// The pool.
#[derive(Debug)]
pub(crate) struct PeerPool {
    idle_max: usize,
    idle: Mutex<HashMap<String, Vec<Idle>>>,
}

impl PeerPool {
    /// A pool that keeps at most `idle_max` connections: each occupies a descriptor here and a thread of the far side.
    pub(crate) fn new(idle_max: usize) -> Self {
        Self { idle_max, idle: Mutex::default() }
    }

    /// A connection to `host:port`, from the pool or new.
    pub(super) fn take(&self, address: &str) -> io::Result<Connection> {
        while let Some(idle) = self.pop(address) {
            if idle.since.elapsed() < IDLE_TIME && idle.connection.is_quiet() {
                return Ok(idle.connection);
            }
        }
        Connection::dial(address, CONNECT_TIMEOUT)
    }

    fn pop(&self, address: &str) -> Option<Idle> {
        self.idle.lock().get_mut(address)?.pop()
    }

    /// Keeps a connection on which nothing is outstanding.
    pub(super) fn put(&self, address: String, mut connection: Connection) {
        connection.shrink();
        let mut idle = self.idle.lock();
        if idle.values().map(Vec::len).sum::<usize>() >= self.idle_max {
            return;
        }
        let of_peer = idle.entry(address).or_default();
        if of_peer.len() < IDLE_PER_PEER_MAX {
            of_peer.push(Idle { connection, since: Instant::now() });
        }
    }

    /// Closes what has been idle too long.
    pub(crate) fn sweep(&self) {
        let mut idle = self.idle.lock();
        for of_peer in idle.values_mut() {
            of_peer.retain(|idle| idle.since.elapsed() < IDLE_TIME);
        }
        idle.retain(|_, of_peer| !of_peer.is_empty());
    }
}
