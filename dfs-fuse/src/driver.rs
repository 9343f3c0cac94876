//! Who runs the runtime: sockets, timers and tasks of the mount.
//!
//! Handing a request over to another thread wakes that thread, mostly on another core with cold caches: a fifth to a third of
//! the time of a `mkdir`. So a request that need not wait for anything, such as a read of bytes that are here, is answered by
//! the thread that took it from the kernel. One that must wait and is alone stays with that thread, too, which runs the runtime
//! itself until it is answered. With several requests under way the runtime has a thread of its own, the keeper, and all hand
//! theirs over.
//!
//! ```text
//!             request, alone                        answered, none left
//!            +---------------> loop thread runs it ----------------------------+
//!   nobody --+                      | others came, or more is fetched ahead    +--> nobody
//!    runs it |                      v                                          |
//!            +---------------> keeper runs it ---------------------------------+
//!             nothing asked for QUIET         answered, none left, nothing fetched ahead lately
//! ```
//!
//! The keeper is the thread that the session runs on ([`Driver::drive_until`]). While lone requests follow each other closely it
//! stays away, and what else there is to do (timers, answers to pings) waits for twice [`QUIET`] at most, or until a request
//! runs the runtime. A read of a stream is different: what it fetches ahead is under way when it is answered, so behind it
//! the keeper takes over and stays for a while. The only read of a small file, or one at random, leaves nothing behind.
//!
//! A request that takes longer than [`PATIENCE`] is handed over after all, so that loop threads can take others, and end when
//! the mount does. With several worker threads the runtime runs by itself, and with one loop thread that must stay free:
//! then nobody takes turns.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Notify;
use tracing::error;

/// How long the keeper stays away without any request.
const QUIET: Duration = Duration::from_millis(2);
/// How long it stays away at most: what it was given to run looks for signals.
const AWAY_MAX: Duration = Duration::from_millis(250);
/// How long it stays for what a read fetches ahead: far longer than between two reads of a stream.
const STREAM_LASTS: Duration = Duration::from_millis(20);
/// How long a loop thread runs the runtime for one request.
const PATIENCE: Duration = Duration::from_millis(200);

/// A request that owns its reply.
pub(crate) type Request = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Nobody,
    Keeper,
    LoopThread,
}

struct State {
    holder: Holder,
    /// Requests that are not answered yet.
    under_way: usize,
    /// The keeper is to take over.
    is_wanted: bool,
    /// Counts the times that a loop thread ran the runtime.
    turns: u64,
    /// When a read was last answered that fetches ahead.
    streamed_at: Option<Instant>,
}

/// See the module.
pub(crate) struct Driver {
    runtime: Runtime,
    /// Loop threads may run the runtime.
    takes_turns: bool,
    /// Never held while anything else is done.
    state: Mutex<State>,
    /// The keeper is wanted.
    wanted: Condvar,
    /// The keeper may go: nothing is under way.
    relieved: Notify,
    drained: Notify,
}

/// A request that is not answered yet.
pub(crate) struct Entered(Arc<Driver>);

impl Drop for Entered {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.under_way -= 1;
        if state.under_way == 0 {
            self.0.drained.notify_waiters();
        }
    }
}

impl Driver {
    /// A runtime of `workers` threads for a mount of `loop_threads`.
    ///
    /// # Errors
    /// Of starting it.
    pub(crate) fn new(workers: usize, loop_threads: usize) -> io::Result<Arc<Self>> {
        let is_single = workers == 1;
        let mut builder = if is_single { Builder::new_current_thread() } else { Builder::new_multi_thread() };
        if !is_single {
            builder.worker_threads(workers);
        }
        let state = State { holder: Holder::Nobody, under_way: 0, is_wanted: false, turns: 0, streamed_at: None };
        Ok(Arc::new(Self {
            runtime: builder.thread_name("dfs-fuse").enable_all().build()?,
            takes_turns: is_single && loop_threads > 1,
            state: Mutex::new(state),
            wanted: Condvar::new(),
            relieved: Notify::new(),
            drained: Notify::new(),
        }))
    }

    /// Where tasks are spawned.
    pub(crate) fn handle(&self) -> &Handle {
        self.runtime.handle()
    }

    /// To be kept by a request until it is answered.
    pub(crate) fn enter(self: &Arc<Self>) -> Entered {
        self.state.lock().under_way += 1;
        Entered(Arc::clone(self))
    }

    /// Runs a request, which has entered: at once when nothing needs waiting for, otherwise as the module says. A panic
    /// in it ends the request only.
    pub(crate) fn run(self: &Arc<Self>, mut request: Request) {
        if self.poll_once(&mut request) {
            return;
        }
        if !self.take_turn() {
            self.hand_over(request);
            return;
        }
        let ran = catch_unwind(AssertUnwindSafe(|| {
            self.runtime.block_on(async { tokio::time::timeout(PATIENCE, request.as_mut()).await.is_ok() })
        }));
        match ran {
            Ok(true) => {}
            Ok(false) => self.hand_over(request),
            Err(_) => log_panic(),
        }
        self.end_turn();
    }

    /// Whether the request has ended without waiting.
    fn poll_once(&self, request: &mut Request) -> bool {
        let _runtime = self.runtime.enter();
        // Polled again at once by whoever goes on with it, with a waker that counts: nothing that happens meanwhile is missed.
        let mut context = Context::from_waker(Waker::noop());
        match catch_unwind(AssertUnwindSafe(|| request.as_mut().poll(&mut context))) {
            Ok(poll) => poll.is_ready(),
            Err(_) => {
                log_panic();
                true
            }
        }
    }

    fn hand_over(self: &Arc<Self>, request: Request) {
        let driver = Arc::clone(self);
        self.runtime.spawn(async move {
            request.await;
            driver.relieve();
        });
    }

    fn take_turn(&self) -> bool {
        let mut state = self.state.lock();
        let may = self.takes_turns && state.holder == Holder::Nobody && !state.is_wanted;
        if may {
            state.holder = Holder::LoopThread;
        }
        may
    }

    fn end_turn(&self) {
        let mut state = self.state.lock();
        state.holder = Holder::Nobody;
        state.turns += 1;
        if state.under_way > 0 || state.is_wanted {
            self.want_keeper(&mut state);
        }
    }

    /// A read is answered, and what it fetches ahead is not here yet: the keeper is to run it.
    pub(crate) fn on_fetch_ahead(&self) {
        if !self.takes_turns {
            return;
        }
        let mut state = self.state.lock();
        state.streamed_at = Some(Instant::now());
        match state.holder {
            Holder::Nobody if !state.is_wanted => self.want_keeper(&mut state),
            // Calls the keeper at the end of its turn.
            Holder::LoopThread => state.is_wanted = true,
            Holder::Nobody | Holder::Keeper => {}
        }
    }

    fn want_keeper(&self, state: &mut State) {
        state.is_wanted = true;
        self.wanted.notify_one();
    }

    /// Lets the keeper go, when what it has run was the last request.
    fn relieve(&self) {
        let state = self.state.lock();
        let has_stream = state.streamed_at.is_some_and(|last| last.elapsed() < STREAM_LASTS);
        if self.takes_turns && state.holder == Holder::Keeper && state.under_way == 0 && !has_stream {
            self.relieved.notify_one();
        }
    }

    /// Returns once all requests are answered.
    pub(crate) async fn drained(&self) {
        loop {
            let mut drained = pin!(self.drained.notified());
            drained.as_mut().enable();
            if self.state.lock().under_way == 0 {
                return;
            }
            drained.await;
        }
    }

    /// Keeps the runtime until `future` has ended. To be called by one thread.
    pub(crate) fn drive_until<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        // At once: it may be about signals.
        self.state.lock().is_wanted = true;
        loop {
            self.wait_until_wanted();
            let outcome = self.runtime.block_on(async {
                loop {
                    tokio::select! {
                        biased;
                        outcome = future.as_mut() => return Some(outcome),
                        () = self.relieved.notified() => {}
                    }
                    // Whoever has handed a request over since the notification counts on the keeper.
                    let mut state = self.state.lock();
                    if state.under_way == 0 {
                        state.holder = Holder::Nobody;
                        return None;
                    }
                }
            });
            if let Some(outcome) = outcome {
                self.state.lock().holder = Holder::Nobody;
                return outcome;
            }
        }
    }

    fn wait_until_wanted(&self) {
        let begun = Instant::now();
        let mut state = self.state.lock();
        let mut turns = None;
        // Quiet: nobody has run it since the last look.
        while state.holder != Holder::Nobody || !(state.is_wanted || turns == Some(state.turns)) {
            turns = Some(state.turns);
            self.wanted.wait_for(&mut state, QUIET);
            state.is_wanted |= begun.elapsed() >= AWAY_MAX;
        }
        state.holder = Holder::Keeper;
        state.is_wanted = false;
    }
}

fn log_panic() {
    error!("a request panicked and is answered with EIO");
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::mpsc;
    use std::thread::{self, ThreadId};

    use tokio::sync::oneshot;
    use tokio::time::sleep;

    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    async fn short() {
        sleep(SHORT).await;
    }

    /// A request of two parts with `wait` in between, and where each part ran.
    fn request(
        driver: &Arc<Driver>,
        wait: impl Future<Output = ()> + Send + 'static,
    ) -> (Request, mpsc::Receiver<ThreadId>) {
        let (sender, ran_on) = mpsc::channel();
        let entered = driver.enter();
        let request = async move {
            let _entered = entered;
            // Whoever does not listen has no question.
            let _ = sender.send(thread::current().id());
            wait.await;
            let _ = sender.send(thread::current().id());
        };
        (Box::pin(request), ran_on)
    }

    /// Runs `loops` beside a keeper, which ends when they do.
    pub(crate) fn with_keeper(driver: &Arc<Driver>, loops: impl FnOnce() + Send) {
        let (ended, end) = oneshot::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                let _ended = ended;
                loops();
            });
            driver.drive_until(async { _ = end.await });
        });
    }

    fn wait_for_holder(driver: &Driver, holder: Holder) {
        while driver.state.lock().holder != holder {
            thread::yield_now();
        }
    }

    #[test]
    fn run_uses_the_own_thread_for_lone_requests() {
        let driver = Driver::new(1, 2).unwrap();
        with_keeper(&driver, || {
            let here = thread::current().id();
            // While the keeper is there they are handed over; it goes when the first has ended. On a busy machine it may be
            // back before the next one comes.
            let ran_here = (0..1_000).any(|_| {
                let (lone, ran_on) = request(&driver, short());
                driver.run(lone);
                ran_on.iter().all(|thread| thread == here)
            });
            assert!(ran_here);
        });
    }

    #[test]
    fn run_hands_over_what_comes_while_another_waits() {
        let driver = Driver::new(1, 2).unwrap();
        with_keeper(&driver, || {
            let (answer, answered) = oneshot::channel();
            let (waiting, _) = request(&driver, async { answered.await.unwrap() });
            thread::scope(|scope| {
                scope.spawn(|| driver.run(waiting));
                let (other, ran_on) = request(&driver, short());
                driver.run(other);
                assert_eq!(ran_on.iter().count(), 2, "it ends before the one that came first");
                answer.send(()).unwrap();
            });
            driver.handle().block_on(driver.drained());
        });
    }

    #[test]
    fn run_gives_a_request_that_takes_long_away() {
        let driver = Driver::new(1, 2).unwrap();
        with_keeper(&driver, || {
            // After it the keeper is gone, most likely.
            let (first, ran_on) = request(&driver, short());
            driver.run(first);
            assert_eq!(ran_on.iter().count(), 2);
            let (answer, answered) = oneshot::channel();
            let (long, ran_on) = request(&driver, async { answered.await.unwrap() });
            driver.run(long);
            answer.send(()).unwrap();
            assert_eq!(ran_on.iter().count(), 2);
        });
    }

    #[test]
    fn keeper_does_what_nobody_asked_for() {
        let driver = Driver::new(1, 2).unwrap();
        with_keeper(&driver, || {
            let (lone, _) = request(&driver, short());
            driver.run(lone);
            let (sender, done) = mpsc::channel();
            driver.handle().spawn(async move {
                sleep(SHORT).await;
                sender.send(()).unwrap();
            });
            done.recv().unwrap();
        });
    }

    #[test]
    fn keeper_stays_behind_reads_that_fetch_ahead() {
        let driver = Driver::new(1, 2).unwrap();
        with_keeper(&driver, || {
            let (read, ran_on) = request(&driver, std::future::ready(()));
            driver.run(read);
            assert_eq!(ran_on.iter().count(), 2);
            driver.on_fetch_ahead();
            wait_for_holder(&driver, Holder::Keeper);
            let (other, _) = request(&driver, short());
            driver.run(other);
            driver.handle().block_on(driver.drained());
            let state = driver.state.lock();
            let is_long_ago = state.streamed_at.is_some_and(|last| last.elapsed() >= STREAM_LASTS);
            assert!(state.holder == Holder::Keeper || is_long_ago);
        });
    }

    #[test]
    fn keeper_comes_at_the_end_of_a_turn_that_leaves_bytes_to_fetch() {
        let driver = Driver::new(1, 2).unwrap();
        with_keeper(&driver, || {
            // The keeper goes when a request has ended that was handed over to it.
            let is_turn = (0..1_000).any(|_| {
                let (lone, ran_on) = request(&driver, short());
                driver.run(lone);
                assert_eq!(ran_on.iter().count(), 2);
                driver.take_turn()
            });
            assert!(is_turn);
            driver.on_fetch_ahead();
            driver.end_turn();
            let state = driver.state.lock();
            assert!(state.is_wanted || state.holder == Holder::Keeper);
        });
    }

    #[test]
    fn drive_until_comes_to_its_end_under_lone_requests_without_pause() {
        let driver = Driver::new(1, 2).unwrap();
        let (stop, stopped) = mpsc::channel::<()>();
        let driver = &driver;
        thread::scope(|scope| {
            scope.spawn(move || {
                while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    let (lone, _) = request(driver, short());
                    driver.run(lone);
                }
            });
            driver.drive_until(async { sleep(SHORT * 10).await });
            drop(stop);
        });
    }

    #[test]
    fn several_workers_run_by_themselves() {
        let driver = Driver::new(2, 2).unwrap();
        let (some, ran_on) = request(&driver, short());
        driver.run(some);
        assert_eq!(ran_on.iter().count(), 2);
    }
}
