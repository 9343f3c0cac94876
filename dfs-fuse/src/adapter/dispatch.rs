//! How a request runs: as a future that owns its reply, with a deadline of its class, and nothing it does can take a loop
//! thread with it.
//!
//! The loop thread polls it once: what needs no waiting (a write that fits, bytes read ahead, a cached answer) is answered
//! without any other thread. Otherwise the runtime goes on with it, and the loop takes the next request.
//!
//! Nothing cancels a request from outside (fuser does not deliver interrupts), hence the deadlines. A request that is given
//! up, and one that panics, drops its reply, which answers EIO.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use dfs_common::error::ErrorKind;
use fuser::{
    Errno, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr,
};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tracing::{debug, error, warn};

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

/// Requests that are not answered yet.
#[derive(Default)]
pub(crate) struct InFlight {
    count: AtomicUsize,
    drained: Notify,
}

impl InFlight {
    fn enter(self: &Arc<Self>) -> Entered {
        self.count.fetch_add(1, Ordering::AcqRel);
        Entered(Arc::clone(self))
    }

    /// Returns once all are answered.
    pub(crate) async fn drained(&self) {
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            if self.count.load(Ordering::Acquire) == 0 {
                return;
            }
            drained.await;
        }
    }
}

struct Entered(Arc<InFlight>);

impl Drop for Entered {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.drained.notify_waiters();
        }
    }
}

/// Runs requests.
pub(super) struct Dispatcher {
    runtime: Handle,
    deadlines: Deadlines,
    in_flight: Arc<InFlight>,
}

impl Dispatcher {
    pub(super) fn new(runtime: Handle, deadlines: Deadlines, in_flight: Arc<InFlight>) -> Self {
        Self { runtime, deadlines, in_flight }
    }

    /// Runs `work` and answers with `answer`, or refuses.
    pub(super) fn run<R: Refuse, T: Send + 'static>(
        &self,
        (class, operation): (Class, &'static str),
        reply: R,
        work: impl Future<Output = FsResult<T>> + Send + 'static,
        answer: impl FnOnce(R, T) + Send + 'static,
    ) {
        let deadline = match class {
            Class::Metadata => Some(self.deadlines.metadata),
            Class::Read | Class::Write => Some(self.deadlines.data),
            Class::Release => None,
        };
        let entered = self.in_flight.enter();
        self.start(Box::pin(async move {
            let _entered = entered;
            let outcome = match deadline {
                Some(deadline) => match tokio::time::timeout(deadline, work).await {
                    Ok(outcome) => outcome,
                    Err(_) => {
                        warn!(operation, ?deadline, "given up: no end within its deadline");
                        return reply.refuse(Errno::ETIMEDOUT);
                    }
                },
                None => work.await,
            };
            match outcome {
                Ok(value) => answer(reply, value),
                Err(failure) => {
                    log(operation, &failure);
                    reply.refuse(failure.errno());
                }
            }
        }));
    }

    fn start(&self, mut request: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let _runtime = self.runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        match catch_unwind(AssertUnwindSafe(|| request.as_mut().poll(&mut context))) {
            Ok(Poll::Ready(())) => {}
            // Polled again at once by the task, with a waker that counts: nothing that happens meanwhile is missed.
            Ok(Poll::Pending) => _ = self.runtime.spawn(request),
            Err(_) => error!("a request panicked and is answered with EIO"),
        }
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

    use super::*;

    struct Probe(mpsc::Sender<Result<u32, Errno>>);

    impl Refuse for Probe {
        fn refuse(self, errno: Errno) {
            self.0.send(Err(errno)).unwrap();
        }
    }

    fn dispatcher(runtime: &tokio::runtime::Runtime) -> (Dispatcher, Arc<InFlight>) {
        let in_flight = Arc::new(InFlight::default());
        let deadlines = Deadlines { metadata: Duration::from_millis(20), data: Duration::from_secs(60) };
        (Dispatcher::new(runtime.handle().clone(), deadlines, Arc::clone(&in_flight)), in_flight)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    fn ask(
        dispatcher: &Dispatcher,
        class: Class,
        work: impl Future<Output = FsResult<u32>> + Send + 'static,
    ) -> mpsc::Receiver<Result<u32, Errno>> {
        let (sender, receiver) = mpsc::channel();
        dispatcher.run((class, "probe"), Probe(sender), work, |probe, value| probe.0.send(Ok(value)).unwrap());
        receiver
    }

    #[test]
    fn run_answers_at_once_what_needs_no_waiting() {
        let runtime = runtime();
        let (dispatcher, _) = dispatcher(&runtime);
        assert_eq!(ask(&dispatcher, Class::Metadata, async { Ok(7) }).try_recv().unwrap(), Ok(7));
        let refused = ask(&dispatcher, Class::Metadata, async { Err(Errno::EPERM.into()) });
        assert_eq!(refused.try_recv().unwrap(), Err(Errno::EPERM));
    }

    #[test]
    fn run_goes_on_elsewhere_with_what_waits() {
        let runtime = runtime();
        let (dispatcher, _) = dispatcher(&runtime);
        let (go, wait) = tokio::sync::oneshot::channel();
        let answer = ask(&dispatcher, Class::Read, async move { Ok(wait.await.unwrap()) });
        go.send(9).unwrap();
        assert_eq!(answer.recv().unwrap(), Ok(9));
    }

    #[test]
    fn run_gives_up_at_the_deadline_but_not_a_release() {
        let runtime = runtime();
        let (dispatcher, in_flight) = dispatcher(&runtime);
        let (go, wait) = tokio::sync::oneshot::channel();
        let release = ask(&dispatcher, Class::Release, async move { Ok(wait.await.unwrap()) });
        let late = ask(&dispatcher, Class::Metadata, std::future::pending());
        assert_eq!(late.recv().unwrap(), Err(Errno::ETIMEDOUT));
        go.send(1).unwrap();
        assert_eq!(release.recv().unwrap(), Ok(1));
        runtime.block_on(in_flight.drained());
    }

    #[test]
    fn run_contains_panics() {
        let runtime = runtime();
        let (dispatcher, in_flight) = dispatcher(&runtime);
        let at_once = ask(&dispatcher, Class::Metadata, async { panic!("on the loop's thread") });
        assert!(at_once.recv().is_err(), "the reply is dropped");
        let later = ask(&dispatcher, Class::Metadata, async {
            tokio::task::yield_now().await;
            panic!("on the runtime's thread")
        });
        assert!(later.recv().is_err(), "the reply is dropped");
        runtime.block_on(in_flight.drained());
        assert_eq!(ask(&dispatcher, Class::Metadata, async { Ok(1) }).recv().unwrap(), Ok(1));
    }
}
