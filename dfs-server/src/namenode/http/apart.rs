//! Answers that go over much are made apart from the threads that hear requests, and few at a time: the threads that make them
//! are those that wait for disks too, and an answer may itself have to wait for a lock.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::Semaphore;

/// Answers made at once; others wait.
const AT_ONCE: usize = 4;

/// Whoever makes such answers.
#[derive(Clone, Debug)]
pub(super) struct Apart {
    places: Arc<Semaphore>,
}

impl Apart {
    pub(super) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// What goes over all DataNodes is no work for the thread that hears them.
    ///
    /// # Errors
    /// 500 after a bug, which is logged.
    pub(super) async fn make<T: Send + 'static>(
        &self,
        tell: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StatusCode> {
        // It is never closed.
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        };
        // The place is taken until the answer is made, also when nobody waits for it any more.
        let made = tokio::task::spawn_blocking(move || {
            let answer = tell();
            drop(place);
            answer
        });
        made.await.map_err(|error| {
            tracing::error!(%error, "a page for monitoring met a bug");
            StatusCode::INTERNAL_SERVER_ERROR
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn make_takes_no_more_threads_than_it_has_places() {
        let apart = Apart::new();
        let (at_work, mut begun) = tokio::sync::mpsc::unbounded_channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = Arc::new(parking_lot::Mutex::new(wait));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..3 * AT_ONCE {
            let (apart, at_work, wait) = (apart.clone(), at_work.clone(), Arc::clone(&wait));
            tasks.spawn(async move {
                let tell = move || {
                    at_work.send(()).unwrap();
                    let _ = wait.lock().recv();
                };
                apart.make(tell).await
            });
        }
        for _ in 0..AT_ONCE {
            begun.recv().await.unwrap();
        }
        assert_eq!(apart.places.available_permits(), 0);
        assert!(begun.try_recv().is_err());
        drop(go);
        assert!(tasks.join_all().await.iter().all(Result::is_ok));
    }
}
