//! Settling what a session has been left with: see [`Session`].
//!
//! One task a session. It ends with the session, or when nobody has the client any more.

use std::sync::{Arc, Weak};
use std::time::Duration;

use dfs_common::error::{DfsError, ErrorKind};
use dfs_common::ids::CallId;
use dfs_proto::v1;
use futures::future::join_all;
use tracing::{debug, warn};

use crate::caller::Caller;
use crate::client_core::ClientCore;
use crate::rpc::{Claim, Failed, Patience, Session, Work, rpc};

/// Calls or claims settled at once. Claims are calls of their own, which run side by side.
const BATCH_MAX: usize = 256;
/// Before what was not settled is tried again; a NameNode that does not answer is given its time by the call itself.
const PAUSE: Duration = Duration::from_millis(500);

/// Settles what `session` has been left with until it or its client is gone.
pub(crate) fn spawn_settling(core: &Arc<ClientCore>, session: &Arc<Session>) {
    let (core, work) = (Arc::downgrade(core), Arc::clone(&session.work));
    let session = Arc::downgrade(session);
    tokio::spawn(async move {
        while let Some(after) = settle_some(&core, &session).await {
            match after {
                After::Nothing => work.notified().await,
                After::Success => {}
                After::Failure => tokio::time::sleep(PAUSE).await,
            }
        }
    });
}

/// How a round went.
enum After {
    /// There was nothing to settle.
    Nothing,
    Success,
    /// Something is left of it.
    Failure,
}

/// One round; none when there is nobody left to do it for. Keeps the client for as long as one call may take.
async fn settle_some(core: &Weak<ClientCore>, session: &Weak<Session>) -> Option<After> {
    let (core, session) = (core.upgrade()?, session.upgrade()?);
    if session.is_dead() {
        return None;
    }
    let is_success = match session.next_work(BATCH_MAX) {
        None => return Some(After::Nothing),
        Some(Work::Calls(ids, lowest)) => settle_calls(&core, &session, &ids, lowest).await,
        Some(Work::Claims(claims)) => {
            let returned = join_all(claims.iter().map(|claim| give_back(&core, &session, *claim))).await;
            returned.into_iter().all(|is_over| is_over)
        }
    };
    Some(if is_success { After::Success } else { After::Failure })
}

async fn settle_calls(core: &ClientCore, session: &Session, ids: &[CallId], lowest: CallId) -> bool {
    let retry = v1::RetryId {
        client_id: session.client_id.0.to_vec().into(),
        incarnation: session.incarnation.0,
        call_id: lowest.0,
        lowest_pending_call_id: lowest.0,
    };
    let header = Some(v1::RequestHeader { caller: None, retry: Some(retry) });
    let request = v1::SettleCallsRequest { header, call_ids: ids.iter().map(|id| id.0).collect() };
    let outcome = core.namenode.call(one_round(core), request, rpc!(settle_calls)).await;
    let is_over = is_over(outcome, "calls not settled");
    if is_over {
        session.calls_settled(ids);
    }
    is_over
}

async fn give_back(core: &Arc<ClientCore>, session: &Arc<Session>, claim: Claim) -> bool {
    let (who, patience) = (Caller::root(), one_round(core));
    let outcome = match claim {
        Claim::Lease { inode, call } => {
            let build =
                |header| v1::RecoverLeaseRequest { header: Some(header), inode: inode.0, own: true, call_id: call.0 };
            core.mutate_within(patience, session, &who, &build, &rpc!(recover_lease)).await.map(|_| ())
        }
        Claim::Hold { inode, call } => {
            let build = |header| v1::ReleaseHoldRequest { header: Some(header), inode: inode.0, call_id: call.0 };
            core.mutate_within(patience, session, &who, &build, &rpc!(release_hold)).await.map(|_| ())
        }
    };
    let is_over = is_over(outcome, "lease or hold not given back");
    if is_over {
        session.given_back(claim);
    }
    is_over
}

fn one_round(core: &ClientCore) -> Patience {
    Patience { per_try: core.config.metadata_deadline, total: core.config.metadata_deadline }
}

/// Whether it need not be tried again: it was done, or refused for a reason that lasts.
fn is_over<T>(outcome: Result<T, Failed>, what: &'static str) -> bool {
    let Err(failed) = outcome else { return true };
    // What has not been answered says nothing of what was asked, whatever kind of error it is.
    let is_final = matches!(&failed, Failed::Refused { error, .. } if is_final(error.kind()));
    let error = DfsError::from(failed);
    match (is_final, error.kind()) {
        // The end of the session has done it; an inode that is gone has neither.
        (true, ErrorKind::LeaseLost | ErrorKind::Stale | ErrorKind::OutcomeUnknown) => {}
        (true, _) => warn!(error = %error.chain(), what),
        (false, _) => debug!(error = %error.chain(), what, "trying on"),
    }
    is_final
}

/// Whether a NameNode that refuses so would do it again, however often it is asked. Safe mode ends, and so may a fault of the
/// NameNode's own.
fn is_final(refusal: ErrorKind) -> bool {
    matches!(
        refusal,
        ErrorKind::LeaseLost
            | ErrorKind::Stale
            | ErrorKind::OutcomeUnknown
            | ErrorKind::NotFound
            | ErrorKind::InvalidArgument
            | ErrorKind::PermissionDenied
            | ErrorKind::NotPermitted
            | ErrorKind::Unsupported
            | ErrorKind::WrongCluster
            | ErrorKind::Protocol
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_over_only_when_done_or_refused_for_good() {
        let refused = |kind| Failed::Refused { error: DfsError::new(kind, "no"), was_repeated: false };
        assert!(is_over(Ok(()), "done"));
        for kind in [ErrorKind::LeaseLost, ErrorKind::Stale, ErrorKind::OutcomeUnknown, ErrorKind::InvalidArgument] {
            assert!(is_over::<()>(Err(refused(kind)), "refused"), "{kind:?}");
            let unanswered = Failed::Unanswered(DfsError::new(kind, "of the transport"));
            assert!(!is_over::<()>(Err(unanswered), "not answered"), "{kind:?}");
        }
        for kind in [ErrorKind::ReadOnly, ErrorKind::Internal, ErrorKind::Io, ErrorKind::Unavailable] {
            assert!(!is_over::<()>(Err(refused(kind)), "refused for now"), "{kind:?}");
        }
    }
}
