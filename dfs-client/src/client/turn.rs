//! Waiting for a file that another client has: who has just closed it gives it back in a moment.
//!
//! A call that is refused with `Busy` takes nothing. Whoever wants the file asks whether his [`FileTurn`] comes, and makes the call
//! again, until it is made or the patience is over. Nothing that others need should be held meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::InodeId;
use dfs_proto::v1::{self, FileHolder};
use tokio::sync::SemaphorePermit;
use tracing::debug;

use super::DfsClient;
use crate::client_core::{Answer, ClientCore};
use crate::rpc::{Patience, Session, rpc};

/// How long a file is waited for. One that was just closed is given back within milliseconds, or, if a DataNode has just failed its
/// writer or the machine is busy, within seconds.
pub(crate) const HANDOVER: Duration = Duration::from_secs(5);

/// How often one tries who finds others quicker than him each time.
const TRIES_MAX: u32 = 256;

/// One who wants a file.
pub struct FileTurn {
    core: Arc<ClientCore>,
    inode: InodeId,
    /// None before the first refusal.
    until: Option<Instant>,
    tries: u32,
}

/// What there is to do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nobody has the file: the call is worth another try.
    Now,
    /// This client has it.
    Own,
    /// Another one keeps it.
    Never,
}

impl DfsClient {
    /// The turn of somebody who wants a file now.
    pub fn turn(&self, inode: InodeId) -> FileTurn {
        FileTurn { core: Arc::clone(&self.core), inode, until: None, tries: TRIES_MAX }
    }

    /// Makes a call of this client, again and again until no other one has the file or the patience is over. A client that waits
    /// for nobody makes it once.
    pub(super) async fn in_turn<T, F>(&self, inode: InodeId, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut turn = self.turn(inode);
        loop {
            match call().await {
                Err(error)
                    if self.waits_for_files
                        && error.kind() == ErrorKind::Busy
                        && Box::pin(turn.comes()).await == Turn::Now => {}
                outcome => return outcome,
            }
        }
    }
}

impl FileTurn {
    /// Waits until nobody else has the file, or the patience is over.
    pub async fn comes(&mut self) -> Turn {
        let until = *self.until.get_or_insert_with(|| Instant::now() + HANDOVER);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.tries == 0 {
                return Turn::Never;
            }
            self.tries -= 1;
            let Some(session) = self.core.sessions.live() else { return Turn::Never };
            let wanted = (session.incarnation, self.inode);
            let question = || ask_for_file(Arc::clone(&self.core), Arc::clone(&session), self.inode, until);
            let answer = match self.core.file_waits.ask(wanted, left, question()).await {
                Some(answer) => answer,
                // The other one's patience lasts, this one's is over: how is it now?
                None => Answer { holder: question().await, is_anothers: false },
            };
            match answer.holder {
                Some(FileHolder::None) => return Turn::Now,
                Some(FileHolder::Asker) => return Turn::Own,
                // This one's patience may last.
                Some(FileHolder::Other) if answer.is_anothers => {}
                Some(FileHolder::Other) | None => return Turn::Never,
            }
        }
    }
}

/// Waits until nobody but this client has the file; tells who has it then. None without an answer.
async fn ask_for_file(
    core: Arc<ClientCore>,
    session: Arc<Session>,
    inode: InodeId,
    until: Instant,
) -> Option<FileHolder> {
    let (_place, left) = place_and_patience(&core, until).await;
    let request = v1::AwaitFileRequest {
        inode: inode.0,
        client_id: session.client_id.0.to_vec().into(),
        incarnation: session.incarnation.0,
        lease: None,
        patience_ms: millis(left),
    };
    match core.namenode.call(patience_for(&core, left), request, rpc!(await_file)).await {
        Ok(answer) => Some(answer.holder()),
        Err(failed) => {
            let error = DfsError::from(failed);
            debug!(%inode, error = %error.chain(), "a file that another client has was not waited for");
            None
        }
    }
}

/// Waits until a lease of the file is over, `patience` at most; whether it is.
pub(super) async fn await_end_of_lease(
    core: &ClientCore,
    inode: InodeId,
    lease: v1::LeaseName,
    patience: Duration,
) -> Result<bool> {
    let (_place, patience) = place_and_patience(core, Instant::now() + patience).await;
    let request = v1::AwaitFileRequest {
        inode: inode.0,
        lease: Some(lease),
        patience_ms: millis(patience),
        ..v1::AwaitFileRequest::default()
    };
    let answer = core.namenode.call(patience_for(core, patience), request, rpc!(await_file)).await?;
    Ok(answer.holder() == FileHolder::None)
}

/// A place for a question that waits until then, and how long that still is. Who gets none in time asks without one, and is answered
/// at once.
async fn place_and_patience(core: &ClientCore, until: Instant) -> (Option<SemaphorePermit<'_>>, Duration) {
    let left = || until.saturating_duration_since(Instant::now());
    let place = core.file_waits.place(left()).await;
    let left = if place.is_some() { left() } else { Duration::ZERO };
    (place, left)
}

/// For a question whose answer the NameNode may take so long for: as patient as with any other while it does not answer at all.
fn patience_for(core: &ClientCore, answer: Duration) -> Patience {
    let usual = core.patience();
    let per_try = answer + usual.per_try;
    Patience { per_try, total: usual.total.max(per_try) }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
