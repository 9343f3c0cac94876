//! A listener at work: a thread that only accepts. Newcomers that find no place at once wait for one; nobody waits behind them.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use tracing::warn;

use super::door::{Admission, Door, Pass, neighbourhood};

/// Pause after accept fails for want of descriptors or memory: until then some may have been given back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often idle connections are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Trouble with newcomers is told this often at most: there may be thousands of them a second.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// How long a newcomer waits for a place that is made free, and how often it asks.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);
const ROOM_INTERVAL: Duration = Duration::from_millis(5);
/// Newcomers that wait, in all and of one address; they have descriptors beyond those of the places (`descriptors`).
const WAITING_MAX: usize = 32;
const WAITING_OF_ADDRESS_MAX: usize = 24;

/// A listener at work; dropped, it accepts no more. Connections that are open stay.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listener: Arc<TcpListener>,
    is_stopping: Arc<AtomicBool>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Acceptor {
    /// Accepts on `listener` in a thread called `name`; `take` is given the connections, and must not block.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(
        name: &'static str,
        listener: TcpListener,
        door: Arc<Door>,
        take: impl FnMut(TcpStream, SocketAddr, Pass) + Send + 'static,
    ) -> io::Result<Self> {
        // A connection may be gone between the poll and the accept.
        listener.set_nonblocking(true)?;
        let listener = Arc::new(listener);
        let is_stopping = Arc::new(AtomicBool::new(false));
        let (of_thread, stop) = (Arc::clone(&listener), Arc::clone(&is_stopping));
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || accept_all(name, &of_thread, &door, &stop, take))?;
        Ok(Self { listener, is_stopping, thread: Mutex::new(Some(thread)) })
    }

    /// Accepts no more.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        // Wakes the thread out of its poll.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The one place where connections are accepted.
fn accept_all(
    name: &'static str,
    listener: &TcpListener,
    door: &Arc<Door>,
    is_stopping: &AtomicBool,
    take: impl FnMut(TcpStream, SocketAddr, Pass),
) {
    let mut trouble = Trouble::default();
    let mut swept = Instant::now();
    let (waiting, refusals) = (VecDeque::new(), Trouble::default());
    let mut reception = Reception { name, door, take, waiting, asked: swept, refusals };
    loop {
        wait_readable(listener, if reception.waiting.is_empty() { SWEEP_INTERVAL } else { ROOM_INTERVAL });
        if is_stopping.load(Ordering::Relaxed) {
            return;
        }
        if swept.elapsed() >= SWEEP_INTERVAL {
            swept = Instant::now();
            door.sweep(swept);
        }
        reception.ask_again();
        match listener.accept() {
            Ok((socket, peer)) => reception.receive(Newcomer { socket, peer, came: Instant::now() }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                trouble.tell(|count| warn!(listener = name, %error, count, "accept failed; trying again"));
                if is_shortage(&error) {
                    std::thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }
}

/// A connection that has no place yet.
struct Newcomer {
    socket: TcpStream,
    peer: SocketAddr,
    came: Instant,
}

/// Newcomers of a listener: those that find no place at once wait here for one, and nobody waits behind them.
struct Reception<'a, T> {
    name: &'static str,
    door: &'a Arc<Door>,
    take: T,
    /// In the order in which they came.
    waiting: VecDeque<Newcomer>,
    /// When they last asked.
    asked: Instant,
    refusals: Trouble,
}

impl<T: FnMut(TcpStream, SocketAddr, Pass)> Reception<'_, T> {
    fn receive(&mut self, newcomer: Newcomer) {
        let Some(newcomer) = self.try_admit(newcomer, self.waiting.len() + 1) else { return };
        let address = neighbourhood(newcomer.peer.ip());
        let is_neighbour = |other: &Newcomer| neighbourhood(other.peer.ip()) == address;
        let of_address = self.waiting.iter().filter(|other| is_neighbour(other)).count();
        if of_address < WAITING_OF_ADDRESS_MAX && self.waiting.len() < WAITING_MAX {
            return self.waiting.push_back(newcomer);
        }
        // Its address makes room for it: the newcomer that has waited longest has the least time left.
        match self.waiting.iter().position(is_neighbour).and_then(|at| self.waiting.remove(at)) {
            Some(first) => {
                self.refuse(&first);
                self.waiting.push_back(newcomer);
            }
            None => self.refuse(&newcomer),
        }
    }

    /// Those that wait ask for a place again.
    fn ask_again(&mut self) {
        if self.asked.elapsed() < ROOM_INTERVAL {
            return;
        }
        self.asked = Instant::now();
        let newcomers = self.waiting.len();
        for newcomer in std::mem::take(&mut self.waiting) {
            match self.try_admit(newcomer, newcomers) {
                Some(newcomer) if newcomer.came.elapsed() < ROOM_PATIENCE => self.waiting.push_back(newcomer),
                Some(newcomer) => self.refuse(&newcomer),
                None => {}
            }
        }
    }

    /// Gives the newcomer back if it may wait for a place.
    fn try_admit(&mut self, newcomer: Newcomer, newcomers: usize) -> Option<Newcomer> {
        match self.door.admit(newcomer.peer.ip(), newcomers) {
            Admission::In(pass) => (self.take)(newcomer.socket, newcomer.peer, pass),
            Admission::Later => return Some(newcomer),
            Admission::Full => self.refuse(&newcomer),
        }
        None
    }

    fn refuse(&mut self, newcomer: &Newcomer) {
        self.door.on_refused();
        let (listener, peer, limits) = (self.name, newcomer.peer, self.door.limits());
        self.refusals.tell(|count| {
            warn!(listener, %peer, count, ?limits, "refusing connections: all places, or those of an address, are taken");
        });
    }
}

/// Whether accept would fail again at once. Other errors are those of the one connection that was to be accepted.
fn is_shortage(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_none_or(|errno| !matches!(errno, Errno::CONNABORTED | Errno::INTR | Errno::PERM | Errno::PROTO))
}

fn wait_readable(listener: &TcpListener, patience: Duration) {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let timeout = Timespec { tv_sec: patience.as_secs().cast_signed(), tv_nsec: patience.subsec_nanos().into() };
    // Whatever it says, accept says more.
    let _ = rustix::event::poll(&mut fds, Some(&timeout));
}

/// Counts what goes wrong again and again, and tells of it now and then.
#[derive(Debug, Default)]
struct Trouble {
    count: u64,
    told: Option<Instant>,
}

impl Trouble {
    /// Has it told with the number of times it happened since it was told last, unless that was a moment ago.
    fn tell(&mut self, tell: impl FnOnce(u64)) {
        self.count += 1;
        if self.told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL) {
            tell(std::mem::take(&mut self.count));
            self.told = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::mpsc;

    use super::super::door::{CallPatience, Limits};
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn accept_shortages_pause_and_aborted_connections_do_not() {
        for (errno, pauses) in [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::NOBUFS, true),
            (Errno::NOMEM, true),
            (Errno::CONNABORTED, false),
            (Errno::INTR, false),
        ] {
            assert_eq!(is_shortage(&errno.into()), pauses, "{errno}");
        }
    }

    #[test]
    fn acceptor_ends_the_oldest_idle_connection_and_stops_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { total: 2, per_address: 2, first_request: HOUR, idle: HOUR, calls: CallPatience::Its };
        let door = Door::new(limits, None);
        let (taken, all) = mpsc::channel();
        let acceptor = Acceptor::start("test-accept", listener, door, move |socket, _, pass| {
            let (end, ended) = mpsc::channel::<()>();
            pass.on_end(move || drop(end));
            std::thread::spawn(move || {
                let _ = ended.recv();
                drop((socket, pass));
            });
            let _ = taken.send(());
        })
        .unwrap();
        let mut far: Vec<_> = (0..5).map(|_| TcpStream::connect(address).unwrap()).collect();
        for _ in 0..5 {
            all.recv_timeout(Duration::from_secs(30)).expect("each is accepted");
        }
        for socket in &mut far[..3] {
            assert_eq!(socket.read(&mut [0]).unwrap(), 0, "its place went to a later one");
        }
        let begun = Instant::now();
        drop(acceptor);
        assert!(begun.elapsed() < SWEEP_INTERVAL / 2, "stopping does not wait for a round");
        assert!(TcpStream::connect(address).is_err());
    }
}
