//! Questions that the NameNode answers when a file is free, or after seconds: how many of this client's wait for that at once.
//!
//! All calls of a client share one connection, and a NameNode takes so many calls at once of each. If waiting took all of them,
//! everything else would queue behind it: the renewal of the session, and the very calls that give files back.
//! So those who want the same file share one question, and only some questions wait at once.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dfs_common::ids::{Incarnation, InodeId};
use dfs_proto::v1::FileHolder;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Questions that wait for an answer at once; a NameNode takes 200 calls of a connection.
pub(crate) const QUESTIONS_MAX: usize = 32;

/// Who asks for which file.
pub(crate) type Wanted = (Incarnation, InodeId);

/// The answer; none if there was none.
type Question = BoxFuture<'static, Option<FileHolder>>;

/// See the module.
pub(crate) struct FileWaits {
    places: Semaphore,
    /// What can be joined. Never held across an await.
    under_way: Arc<Mutex<HashMap<Wanted, WeakShared<Question>>>>,
}

/// An answer to somebody who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) holder: Option<FileHolder>,
    /// Somebody else had asked, who may have been less patient.
    pub(crate) is_anothers: bool,
}

impl FileWaits {
    pub(crate) fn new() -> Self {
        Self { places: Semaphore::new(QUESTIONS_MAX), under_way: Arc::default() }
    }

    /// A place among the questions that wait; none if it does not come in time.
    pub(crate) async fn place(&self, patience: Duration) -> Option<SemaphorePermit<'_>> {
        tokio::time::timeout(patience, self.places.acquire()).await.ok()?.ok()
    }

    /// Asks for a file, unless somebody asks for it already: then his answer is waited for, `patience` at most. None without it.
    pub(crate) async fn ask(
        &self,
        wanted: Wanted,
        patience: Duration,
        question: impl Future<Output = Option<FileHolder>> + Send + 'static,
    ) -> Option<Answer> {
        let (shared, is_anothers) = self.join(wanted, question);
        let holder = if is_anothers { tokio::time::timeout(patience, shared).await.ok()? } else { shared.await };
        Some(Answer { holder, is_anothers })
    }

    fn join(
        &self,
        wanted: Wanted,
        question: impl Future<Output = Option<FileHolder>> + Send + 'static,
    ) -> (Shared<Question>, bool) {
        let mut under_way = self.under_way.lock();
        if let Some(shared) = under_way.get(&wanted).and_then(WeakShared::upgrade) {
            return (shared, true);
        }
        // Those whose askers have all gone.
        under_way.retain(|_, question| question.upgrade().is_some());
        let all = Arc::clone(&self.under_way);
        let question = async move {
            let holder = question.await;
            // It says how things are now: whoever comes later asks anew.
            all.lock().remove(&wanted);
            holder
        };
        let shared = question.boxed().shared();
        under_way.extend(shared.downgrade().map(|weak| (wanted, weak)));
        (shared, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = (Incarnation(1), InodeId(7));

    async fn never() -> Option<FileHolder> {
        panic!("asked twice")
    }

    #[tokio::test]
    async fn ask_shares_a_question_under_way_and_no_other() {
        let waits = FileWaits::new();
        let (tell, told) = tokio::sync::oneshot::channel();
        let first = waits.ask(WANTED, Duration::ZERO, async move { told.await.ok() });
        let long = Duration::from_secs(60);
        let (second, third) = (waits.ask(WANTED, long, never()), waits.ask(WANTED, long, never()));
        let answer = async {
            tokio::task::yield_now().await;
            assert_eq!(waits.ask(WANTED, Duration::from_millis(1), never()).await, None);
            tell.send(FileHolder::None).unwrap();
        };
        let (first, second, third, ()) = futures::join!(first, second, third, answer);
        let holder = Some(FileHolder::None);
        assert_eq!(first, Some(Answer { holder, is_anothers: false }));
        assert_eq!([second, third], [Some(Answer { holder, is_anothers: true }); 2]);
        let later = waits.ask(WANTED, long, async { None }).await;
        assert_eq!(later, Some(Answer { holder: None, is_anothers: false }), "an answer is not kept");
        assert!(waits.under_way.lock().is_empty());
    }

    #[tokio::test]
    async fn question_of_somebody_who_has_gone_is_asked_anew() {
        let waits = FileWaits::new();
        let mut gone = Box::pin(waits.ask(WANTED, Duration::ZERO, std::future::pending()));
        assert!(futures::poll!(&mut gone).is_pending());
        drop(gone);
        let holder = Some(FileHolder::Asker);
        let answer = waits.ask(WANTED, Duration::ZERO, async move { holder }).await;
        assert_eq!(answer, Some(Answer { holder, is_anothers: false }));
    }
}
