//! How a request runs: as a future that owns its reply, with a deadline of its class; on which thread, says
//! [`Driver`].
//!
//! Nothing cancels a request from outside (fuser does not deliver interrupts), hence the deadlines. A request that is given
//! up answers ETIMEDOUT; one that panics drops its reply, which answers EIO.
//!
//! A program that is killed cannot end before its request is answered. So who waits long is looked at, and once he is being
//! killed, his request is given up. A write goes on without him: half of it may be done, and others write the same file.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dfs_common::error::ErrorKind;
use fuser::{
    Errno, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr,
};
use tracing::{debug, warn};

use crate::driver::Driver;
use crate::errno::{FsError, FsResult};

/// What kind of waiting a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Questions to the NameNode.
    Metadata,
    /// Bytes from DataNodes.
    Read,
    /// Bytes to DataNodes. Its failures are logged by the writer.
    Write,
    /// Runs to its end: nobody waits for it, and what it completes must be completed.
    Release,
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

/// How often it is looked whether who waits for a request is being killed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Whether a thread has a SIGKILL to die of as soon as it can. The kernel makes one of every signal that ends a process.
fn is_being_killed(thread: u32) -> bool {
    const KILL: u64 = 1 << (libc::SIGKILL - 1);
    if thread == 0 {
        return false;
    }
    let Ok(status) = std::fs::read_to_string(format!("/proc/{thread}/status")) else { return false };
    let pending = |line: &str| u64::from_str_radix(line.strip_prefix("SigPnd:")?.trim(), 16).ok();
    status.lines().find_map(pending).is_some_and(|signals| signals & KILL != 0)
}

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
        let Asked { class, operation, thread } = asked;
        let deadline = match class {
            Class::Metadata => Some(self.deadlines.metadata),
            Class::Read | Class::Write => Some(self.deadlines.data),
            Class::Release => None,
        };
        let entered = self.driver.enter();
        // Once: futures of some thousand bytes would be moved from place to place with every request.
        let mut work = Box::pin(work);
        let request = Box::pin(async move {
            let _entered = entered;
            let mut reply = Some(reply);
            let outcome = match deadline {
                Some(deadline) => {
                    let mut left = deadline;
                    loop {
                        let wait = left.min(LOOK_INTERVAL);
                        if let Ok(outcome) = tokio::time::timeout(wait, work.as_mut()).await {
                            break outcome;
                        }
                        left -= wait;
                        if left.is_zero() {
                            warn!(operation, ?deadline, "given up: no end within its deadline");
                            return reply.into_iter().for_each(|reply| reply.refuse(Errno::ETIMEDOUT));
                        }
                        if reply.is_some() && is_being_killed(thread) {
                            debug!(operation, thread, "who waits for it is being killed");
                            reply.take().into_iter().for_each(|reply| reply.refuse(Errno::EINTR));
                            if class != Class::Write {
                                return;
                            }
                        }
                    }
                }
                None => work.await,
            };
            match (outcome, reply) {
                (Ok(value), Some(reply)) => answer(reply, value),
                (Ok(_), None) => {}
                (Err(failure), reply) => {
                    log(operation, &failure);
                    reply.into_iter().for_each(|reply| reply.refuse(failure.errno()));
                }
            }
        });
        self.driver.run(request);
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

    use super::*;
    use crate::driver::tests::with_keeper;

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
        let (sender, receiver) = mpsc::channel();
        let asked = Asked { class, operation: "probe", thread: 0 };
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
}
