//! How a request runs: as a future that owns its reply, with a deadline of its class; on which thread, says
//! [`Driver`].
//!
//! Nothing cancels a request from outside (fuser does not deliver interrupts), hence the deadlines. A request that is given
//! up answers ETIMEDOUT; one that panics drops its reply, which answers EIO.
//!
//! A program that is killed cannot end before its request is answered. So who waits long is [looked at](crate::killed), and
//! once he is being killed, he gets an answer that he will not see. What becomes of the work is said by its [`Class`].
//!
//! What the kernel is given or told by an answer is given back, or stays to be told, when the answer is not made:
//! [`Opened`](crate::fs::Opened) closes its handle, an error that tells of lost bytes counts as told only once it is
//! [answered](FsError::tell).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dfs_common::error::ErrorKind;
use fuser::{
    Errno, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr,
};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use crate::driver::Driver;
use crate::errno::{FsError, FsResult};
use crate::killed::Look;

/// What kind of waiting a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Questions to the NameNode, changes of names and xattrs, opening files, reading directories.
    Metadata,
    /// Bytes from DataNodes.
    Read,
    /// Bytes to DataNodes, and changes of attributes, the length among them. What fails of writing is logged by the writer.
    Write,
    /// Runs to its end: nobody waits for it, and what it completes must be completed.
    Release,
}

impl Class {
    fn deadline(self, deadlines: Deadlines) -> Option<Duration> {
        match self {
            Self::Metadata => Some(deadlines.metadata),
            Self::Read | Self::Write => Some(deadlines.data),
            Self::Release => None,
        }
    }

    /// Whether its work ends with who asked for it. A write does not: it may be half done, and others write the same file.
    fn ends_with_asker(self) -> bool {
        match self {
            Self::Metadata | Self::Read => true,
            Self::Write | Self::Release => false,
        }
    }
}

/// How long a request of each class may take; longer than the client's own patience, which ends first and knows why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    pub(crate) metadata: Duration,
    pub(crate) data: Duration,
}

/// A request as it is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) class: Class,
    pub(super) operation: &'static str,
    /// The thread that waits for the answer; 0 when nobody knows.
    pub(super) thread: u32,
}

/// When it is first looked whether who waits for a request is being killed: most requests have ended by then.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// The times between looks double until they are this long: a look reads two small files of /proc.
const LOOK_INTERVAL_MAX: Duration = Duration::from_millis(250);

/// A reply that can refuse.
pub(super) trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

refuse!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

/// Runs requests.
pub(super) struct Dispatcher {
    driver: Arc<Driver>,
    deadlines: Deadlines,
}

impl Dispatcher {
    pub(super) fn new(driver: Arc<Driver>, deadlines: Deadlines) -> Self {
        Self { driver, deadlines }
    }

    /// Runs `work` and answers with `answer`, or refuses.
    pub(super) fn run<R: Refuse, T: Send + 'static>(
        &self,
        asked: Asked,
        reply: R,
        work: impl Future<Output = FsResult<T>> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) {
        let Asked { class, operation, .. } = asked;
        let deadline = class.deadline(self.deadlines);
        let entered = self.driver.enter();
        // Once: futures of some thousand bytes would be moved from place to place with every request.
        let mut work = Box::pin(work);
        let request = Box::pin(async move {
            let _entered = entered;
            let mut reply = Some(reply);
            let outcome = match deadline {
                Some(deadline) => match wait(&mut work, deadline, asked, &mut reply).await {
                    Waited::Ended(outcome) => outcome,
                    Waited::GivenUp => return,
                    Waited::Late => {
                        warn!(operation, ?deadline, "given up: no end within its deadline");
                        return refuse_with(reply, Errno::ETIMEDOUT);
                    }
                },
                None => work.await,
            };
            match (outcome, reply) {
                (Ok(value), Some(reply)) => answer(reply, value),
                // What it has taken goes with it.
                (Ok(_), None) => {}
                (Err(failure), reply) => {
                    log(operation, &failure);
                    if reply.is_some() {
                        let errno = tell(failure, asked).await;
                        refuse_with(reply, errno);
                    }
                }
            }
        });
        self.driver.run(request);
    }
}

/// How waiting for work has come to its end.
enum Waited<T> {
    Ended(FsResult<T>),
    /// Who asked for it is being killed, and it ends with him.
    GivenUp,
    Late,
}

/// Waits for work, and answers early for who is being killed.
async fn wait<R: Refuse, T>(
    work: &mut Pin<Box<impl Future<Output = FsResult<T>>>>,
    deadline: Duration,
    asked: Asked,
    reply: &mut Option<R>,
) -> Waited<T> {
    let Asked { class, operation, thread } = asked;
    let end = Instant::now() + deadline;
    let (mut until_look, mut look) = (FIRST_LOOK, Look::at(thread));
    loop {
        let look_at = Instant::now() + until_look;
        let wait_until = if reply.is_some() { end.min(look_at) } else { end };
        if let Ok(outcome) = timeout_at(wait_until, work.as_mut()).await {
            return Waited::Ended(outcome);
        }
        if wait_until == end {
            return Waited::Late;
        }
        let is_being_killed = tokio::select! {
            biased;
            outcome = work.as_mut() => return Waited::Ended(outcome),
            is_being_killed = look.is_being_killed() => is_being_killed,
        };
        if is_being_killed {
            debug!(operation, thread, "who waits for it is being killed");
            refuse_with(reply.take(), Errno::EINTR);
            if class.ends_with_asker() {
                return Waited::GivenUp;
            }
        }
        until_look = LOOK_INTERVAL_MAX.min(2 * until_look);
    }
}

fn refuse_with(reply: Option<impl Refuse>, errno: Errno) {
    if let Some(reply) = reply {
        reply.refuse(errno);
    }
}

/// The errno of a failure that is about to be answered. Of bytes that were lost nobody is told by an answer to who is being
/// killed.
async fn tell(failure: FsError, asked: Asked) -> Errno {
    if failure.tells_loss() && Look::at(asked.thread).is_being_killed().await {
        failure.errno()
    } else {
        failure.tell()
    }
}

/// Refusals are the programs' business; what is wrong with the cluster is the log's, except that each write behind a failed
/// one fails as well.
fn log(operation: &'static str, failure: &FsError) {
    let is_trouble = matches!(
        failure.kind(),
        Some(
            ErrorKind::Unavailable
                | ErrorKind::TimedOut
                | ErrorKind::Corrupt
                | ErrorKind::Io
                | ErrorKind::Internal
                | ErrorKind::Protocol
                | ErrorKind::WrongCluster
        )
    );
    let cause = failure.cause().map(|cause| cause.chain()).unwrap_or_default();
    if is_trouble && operation != "write" {
        warn!(operation, errno = failure.errno().code(), cause, "failed");
    } else {
        debug!(operation, errno = failure.errno().code(), cause, "refused");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use dfs_common::error::DfsError;

    use super::*;
    use crate::driver::tests::with_keeper;
    use crate::killed::tests::Program;
    use crate::lost_writes::{LostWrites, Told};

    struct Probe(mpsc::Sender<Result<u32, Errno>>);

    impl Refuse for Probe {
        fn refuse(self, errno: Errno) {
            self.0.send(Err(errno)).unwrap();
        }
    }

    /// With several workers, and with one that the loop threads take turns with.
    fn dispatchers() -> [(Dispatcher, Arc<Driver>); 2] {
        let deadlines = Deadlines { metadata: Duration::from_millis(20), data: Duration::from_secs(60) };
        [2, 1].map(|workers| {
            let driver = Driver::new(workers, 2).unwrap();
            (Dispatcher::new(Arc::clone(&driver), deadlines), driver)
        })
    }

    fn ask(
        dispatcher: &Dispatcher,
        class: Class,
        work: impl Future<Output = FsResult<u32>> + Send + 'static,
    ) -> mpsc::Receiver<Result<u32, Errno>> {
        ask_for(0, dispatcher, class, work)
    }

    fn ask_for(
        thread: u32,
        dispatcher: &Dispatcher,
        class: Class,
        work: impl Future<Output = FsResult<u32>> + Send + 'static,
    ) -> mpsc::Receiver<Result<u32, Errno>> {
        let (sender, receiver) = mpsc::channel();
        let asked = Asked { class, operation: "probe", thread };
        dispatcher.run(asked, Probe(sender), work, |probe, value| probe.0.send(Ok(value)).unwrap());
        receiver
    }

    #[test]
    fn run_answers_or_refuses() {
        for (dispatcher, driver) in dispatchers() {
            assert_eq!(ask(&dispatcher, Class::Metadata, async { Ok(7) }).try_recv().unwrap(), Ok(7));
            let refused = ask(&dispatcher, Class::Metadata, async { Err(Errno::EPERM.into()) });
            assert_eq!(refused.try_recv().unwrap(), Err(Errno::EPERM));
            let waited = ask(&dispatcher, Class::Write, async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(9)
            });
            driver.drive_until(driver.drained());
            assert_eq!(waited.try_recv().unwrap(), Ok(9));
        }
    }

    #[test]
    fn run_gives_up_at_the_deadline_but_not_a_release() {
        for (dispatcher, driver) in dispatchers() {
            let late = ask(&dispatcher, Class::Metadata, std::future::pending());
            let (go, wait) = tokio::sync::oneshot::channel();
            let release = ask(&dispatcher, Class::Release, async move { Ok(wait.await.unwrap()) });
            driver.drive_until(async {
                while late.try_recv() != Ok(Err(Errno::ETIMEDOUT)) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                go.send(1).unwrap();
                driver.drained().await;
            });
            assert_eq!(release.try_recv().unwrap(), Ok(1));
        }
    }

    #[test]
    fn run_carries_a_lone_read_on_where_it_came_in() {
        let [_, (dispatcher, driver)] = dispatchers();
        with_keeper(&driver, || {
            let here = thread::current().id();
            // While the keeper is there requests are handed over, and on a busy machine it may come back between two.
            let ran_here = (0..1_000).any(|_| {
                let (sender, ran_on) = mpsc::channel();
                let read = ask(&dispatcher, Class::Read, async move {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    sender.send(thread::current().id()).unwrap();
                    Ok(1)
                });
                assert_eq!(read.recv().unwrap(), Ok(1));
                ran_on.recv().unwrap() == here
            });
            assert!(ran_here);
        });
    }

    #[test]
    fn run_contains_panics() {
        for (dispatcher, driver) in dispatchers() {
            let at_once = ask(&dispatcher, Class::Metadata, async { panic!("without waiting") });
            let later = ask(&dispatcher, Class::Metadata, async {
                tokio::task::yield_now().await;
                panic!("after waiting")
            });
            driver.drive_until(driver.drained());
            assert!(at_once.try_recv().is_err() && later.try_recv().is_err(), "the replies are dropped");
            assert_eq!(ask(&dispatcher, Class::Metadata, async { Ok(1) }).recv().unwrap(), Ok(1));
        }
    }

    #[test]
    fn run_answers_who_is_being_killed_and_goes_on_only_with_what_must_not_be_halved() {
        let killed = Program::killed();
        let deadlines = Deadlines { metadata: Duration::from_secs(60), data: Duration::from_secs(60) };
        for workers in [1, 2] {
            let driver = Driver::new(workers, 2).unwrap();
            let dispatcher = Dispatcher::new(Arc::clone(&driver), deadlines);
            for (class, goes_on) in [(Class::Metadata, false), (Class::Read, false), (Class::Write, true)] {
                let (go, wait) = tokio::sync::oneshot::channel();
                let (done, ended) = mpsc::channel();
                let answer = ask_for(killed.thread(), &dispatcher, class, async move {
                    let _done = wait.await.is_ok_and(|()| done.send(()).is_ok());
                    Ok(1)
                });
                driver.drive_until(async {
                    while answer.try_recv() != Ok(Err(Errno::EINTR)) {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    // Nobody listens when the work was dropped.
                    let _ = go.send(());
                    driver.drained().await;
                });
                assert_eq!(ended.try_recv().is_ok(), goes_on, "{class:?}");
                assert!(answer.try_recv().is_err(), "answered once");
            }
        }
    }

    #[test]
    fn run_tells_of_lost_bytes_who_lives() {
        let killed = Program::killed();
        let [(dispatcher, driver), _] = dispatchers();
        let losses = Arc::new(LostWrites::default());
        losses.add(&DfsError::new(ErrorKind::Io, "lost"));
        let fsync = |thread, told: &Arc<Told>, takes: Duration| {
            let (losses, told) = (Arc::clone(&losses), Arc::clone(told));
            let answer = ask_for(thread, &dispatcher, Class::Write, async move {
                tokio::time::sleep(takes).await;
                losses.check(&told).map(|()| 0).map_err(FsError::of_untold)
            });
            driver.drive_until(driver.drained());
            answer.try_recv().unwrap()
        };
        let told = losses.on_open();
        for takes in [Duration::ZERO, 3 * FIRST_LOOK] {
            assert!(fsync(killed.thread(), &told, takes).is_err());
            assert!(losses.is_untold(), "{takes:?}");
        }
        assert_eq!(fsync(0, &losses.on_open(), Duration::ZERO), Err(Errno::EIO));
        assert_eq!(fsync(0, &losses.on_open(), Duration::ZERO), Ok(0), "somebody was told");
        assert_eq!(fsync(0, &told, Duration::ZERO), Err(Errno::EIO), "this descriptor was not");
        assert_eq!(fsync(0, &told, Duration::ZERO), Ok(0));
    }
}
