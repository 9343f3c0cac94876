//! A stretch of wire between a client and its server that loses what comes back: the server has done what it was asked, and
//! the client does not know.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Forwards connections to one server until the process ends.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    wire: Arc<Wire>,
}

#[derive(Debug, Default)]
struct Wire {
    loses_answers: AtomicBool,
    /// Both ends of every connection.
    ends: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// Listens on a port of its own for clients of `server`, `host:port`.
    ///
    /// # Panics
    /// When no port can be had.
    pub fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the relay");
        let address = listener.local_addr().expect("the relay's port");
        let wire = Arc::new(Wire::default());
        let kept = Arc::clone(&wire);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A server that is away refuses; so does the relay.
                let Ok(server) = TcpStream::connect(&server) else { continue };
                if let Err(error) = kept.join(&client, &server) {
                    eprintln!("relay: {error}");
                }
            }
        });
        Self { address, wire }
    }

    /// What clients are given instead of the server's address.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on requests reach the server and nothing comes back.
    pub fn lose_answers(&self) {
        self.wire.loses_answers.store(true, Ordering::SeqCst);
    }

    /// Lets everything pass again. Connections that have lost something are broken.
    ///
    /// # Panics
    /// Never: the lock is not held by anyone who could panic.
    pub fn restore(&self) {
        // In this order: a connection made in between has lost nothing.
        self.wire.loses_answers.store(false, Ordering::SeqCst);
        for end in std::mem::take(&mut *self.wire.ends.lock().expect("ends of connections")) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Wire {
    fn join(self: &Arc<Self>, client: &TcpStream, server: &TcpStream) -> std::io::Result<()> {
        for end in [client, server] {
            end.set_nodelay(true)?;
            self.ends.lock().expect("ends of connections").push(end.try_clone()?);
        }
        for (from, to, is_answer) in [(client, server, false), (server, client, true)] {
            let (from, to, wire) = (from.try_clone()?, to.try_clone()?, Arc::clone(self));
            std::thread::spawn(move || wire.carry(from, to, is_answer));
        }
        Ok(())
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream, is_answer: bool) {
        let mut buffer = vec![0; 64 * 1024];
        // Once something is lost, nothing that comes behind it can be understood.
        let mut has_lost = false;
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            has_lost |= is_answer && self.loses_answers.load(Ordering::SeqCst);
            if !has_lost && to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        for end in [from, to] {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}
