//! Waiting for a file that another client has: who has just closed it gives it back in a moment.
//!
//! A call that is refused with `Busy` takes nothing. Whoever wants the file asks whether his [`FileTurn`] comes, and makes the call
//! again, until it is made or the patience is over. Nothing that others need should be held meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::InodeId;
use dfs_proto::v1::{self, FileHolder};
use tracing::debug;

use super::DfsClient;
use crate::client_core::ClientCore;
use crate::rpc::{Patience, rpc};

/// How long a file is waited for. One that was just closed is given back within milliseconds, or, if a DataNode has just failed its
/// writer or the machine is busy, within seconds.
const HANDOVER: Duration = Duration::from_secs(5);

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
        let now = Instant::now();
        let left = self.until.get_or_insert(now + HANDOVER).saturating_duration_since(now);
        if left.is_zero() || self.tries == 0 {
            return Turn::Never;
        }
        self.tries -= 1;
        let Some(session) = self.core.sessions.live() else { return Turn::Never };
        let request = v1::AwaitFileRequest {
            inode: self.inode.0,
            client_id: session.client_id.0.to_vec().into(),
            incarnation: session.incarnation.0,
            lease: None,
            patience_ms: millis(left),
        };
        match self.core.namenode.call(patience_for(&self.core, left), request, rpc!(await_file)).await {
            Ok(answer) => match answer.holder() {
                FileHolder::None => Turn::Now,
                FileHolder::Asker => Turn::Own,
                FileHolder::Other => Turn::Never,
            },
            Err(failed) => {
                let error = DfsError::from(failed);
                debug!(inode = %self.inode, error = %error.chain(), "a file that another client has was not waited for");
                Turn::Never
            }
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
    let request = v1::AwaitFileRequest {
        inode: inode.0,
        lease: Some(lease),
        patience_ms: millis(patience),
        ..v1::AwaitFileRequest::default()
    };
    let answer = core.namenode.call(patience_for(core, patience), request, rpc!(await_file)).await?;
    Ok(answer.holder() == FileHolder::None)
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
