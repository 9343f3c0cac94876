//! [`ClientCore`]: what all clones, readers and writers of a client share, and the road of its calls to the NameNode.
//!
//! ```text
//! query           changes nothing; tried again as long as the caller is patient
//! mutate, claim   change something, in whichever session lives; one is opened by the first of them
//! mutate_in       changes something and has its meaning in one session only: a writer's
//! ```
//!
//! Readers and writers stand on it. Those that are to be looked after while nobody drives them put themselves on its list
//! (`tended`), and what goes on while a session lives is begun by whoever made the core.

mod delegations;
mod directory_cache;
mod file_waits;
mod server_defaults;
mod tended;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::attr::FileAttr;
use dfs_common::error::{CallFate, DfsError, ErrorKind, Result};
use dfs_common::ids::{Incarnation, InodeId};
use dfs_proto::v1;
use tracing::{info, warn};

pub(crate) use delegations::{Adding, Delegations};
pub(crate) use directory_cache::DirectoryCache;
#[cfg(test)]
pub(crate) use file_waits::QUESTIONS_MAX;
pub(crate) use file_waits::{Answer, FileWaits};
pub use server_defaults::ServerDefaults;
pub(crate) use tended::{Tended, TendedList};

use crate::caller::Caller;
use crate::config::ClientConfig;
use crate::datanode::Datanodes;
use crate::read::PrefetchBudget;
use crate::rpc::{Failed, NamenodeClient, NamenodeLink, Patience, PendingCall, Session, Sessions, rpc};

/// What a walk over a large tree, or a checkpoint of it, may take.
const LONG_CALL: Duration = Duration::from_secs(600);

/// What all clones, readers and writers of a client share.
pub(crate) struct ClientCore {
    pub(crate) config: ClientConfig,
    /// How this client is known to DataNodes.
    pub(crate) client_name: String,
    pub(crate) defaults: ServerDefaults,
    pub(crate) namenode: NamenodeLink,
    pub(crate) sessions: Sessions,
    pub(crate) directories: DirectoryCache,
    pub(crate) delegations: Delegations,
    pub(crate) file_waits: FileWaits,
    pub(crate) datanodes: Arc<Datanodes>,
    /// Told of each session that is opened, to begin what goes on while it lives.
    pub(crate) on_opened: fn(&Arc<ClientCore>, &Arc<Session>),
    /// The open writers.
    pub(crate) writers: TendedList,
    /// Bytes that may be read ahead over all files.
    pub(crate) prefetch_budget: PrefetchBudget,
}

impl ClientCore {
    pub(crate) fn patience(&self) -> Patience {
        Patience { per_try: self.config.metadata_deadline, total: self.config.retry_timeout }
    }

    /// A call that changes nothing.
    pub(crate) async fn query<Req, Resp, Call, Fut>(&self, request: Req, call: Call) -> Result<Resp>
    where
        Req: Clone,
        Call: Fn(NamenodeClient, Req) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Resp>, tonic::Status>>,
    {
        Ok(self.namenode.call(self.patience(), request, call).await?)
    }

    /// A call that changes nothing and may take long: one try, with as much patience as all tries of others have together.
    pub(crate) async fn query_at_length<Req, Resp, Call, Fut>(&self, request: Req, call: Call) -> Result<Resp>
    where
        Req: Clone,
        Call: Fn(NamenodeClient, Req) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Resp>, tonic::Status>>,
    {
        let total = self.config.retry_timeout.max(LONG_CALL);
        Ok(self.namenode.call(Patience { per_try: total, total }, request, call).await?)
    }

    /// A call that changes something, in whichever session lives. It is made once: when the NameNode says that it was not made
    /// and never will be, because that session has ended, it is made in a new session.
    ///
    /// # Errors
    /// The NameNode's; `OutcomeUnknown` when it had gone unanswered and the NameNode has forgotten the session since.
    pub(crate) async fn mutate<Req, Resp, Build, Call, Fut>(
        self: &Arc<Self>,
        caller: &Caller,
        build: Build,
        call: Call,
    ) -> Result<Resp>
    where
        Req: Clone,
        Build: Fn(v1::RequestHeader) -> Req,
        Call: Fn(NamenodeClient, Req) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Resp>, tonic::Status>>,
    {
        let (answer, pending) = self.claim(caller, &build, &call).await?;
        pending.answered();
        Ok(answer)
    }

    /// As [`mutate`](Self::mutate), for a call that may take a lease or a hold. Once somebody owns what it took, the caller says
    /// [`answered`](PendingCall::answered). Otherwise the call is dropped, and what it took is given back.
    pub(crate) async fn claim<Req, Resp, Build, Call, Fut>(
        self: &Arc<Self>,
        caller: &Caller,
        build: &Build,
        call: &Call,
    ) -> Result<(Resp, PendingCall)>
    where
        Req: Clone,
        Build: Fn(v1::RequestHeader) -> Req,
        Call: Fn(NamenodeClient, Req) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Resp>, tonic::Status>>,
    {
        let session = self.session().await?;
        match self.claim_within(self.patience(), &session, caller, build, call).await.map_err(DfsError::from) {
            Err(error) if error.kind() == ErrorKind::LeaseLost && session.is_dead() => {
                warn!(error = %error.chain(), "session ended, going on in a new one");
                let session = self.session().await?;
                // Boxed, as all that is rare: it would make the futures of all calls larger.
                Ok(Box::pin(self.claim_within(self.patience(), &session, caller, build, call)).await?)
            }
            outcome => outcome,
        }
    }

    /// A call that changes something and has its meaning only in `session`: a writer's.
    ///
    /// # Errors
    /// `LeaseLost` once the session has ended.
    pub(crate) async fn mutate_in<Req, Resp, Build, Call, Fut>(
        &self,
        session: &Arc<Session>,
        caller: &Caller,
        build: &Build,
        call: &Call,
    ) -> Result<Resp>
    where
        Req: Clone,
        Build: Fn(v1::RequestHeader) -> Req,
        Call: Fn(NamenodeClient, Req) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Resp>, tonic::Status>>,
    {
        Ok(self.mutate_within(self.patience(), session, caller, build, call).await?)
    }

    /// As [`mutate_in`](Self::mutate_in), with a patience of its own, and for those who must know whether it was answered.
    pub(crate) async fn mutate_within<Req, Resp, Build, Call, Fut>(
        &self,
        patience: Patience,
        session: &Arc<Session>,
        caller: &Caller,
        build: &Build,
        call: &Call,
    ) -> Result<Resp, Failed>
    where
        Req: Clone,
        Build: Fn(v1::RequestHeader) -> Req,
        Call: Fn(NamenodeClient, Req) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Resp>, tonic::Status>>,
    {
        let (answer, pending) = self.claim_within(patience, session, caller, build, call).await?;
        pending.answered();
        Ok(answer)
    }

    async fn claim_within<Req, Resp, Build, Call, Fut>(
        &self,
        patience: Patience,
        session: &Arc<Session>,
        caller: &Caller,
        build: &Build,
        call: &Call,
    ) -> Result<(Resp, PendingCall), Failed>
    where
        Req: Clone,
        Build: Fn(v1::RequestHeader) -> Req,
        Call: Fn(NamenodeClient, Req) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Resp>, tonic::Status>>,
    {
        let pending = session.begin_call().map_err(|error| Failed::Refused { error, was_repeated: false })?;
        let request = || build(v1::RequestHeader { caller: Some(caller.into()), retry: Some(pending.retry_id()) });
        match self.namenode.call_anew(patience, request, call).await {
            Ok(answer) => Ok((answer, pending)),
            Err(Failed::Refused { error, was_repeated }) => {
                // A try that went unanswered may be made yet: then the call is settled, and what it takes is given back.
                if !was_repeated {
                    pending.answered();
                }
                let error = Box::pin(self.refused(session, error, was_repeated)).await;
                Err(Failed::Refused { error, was_repeated })
            }
            Err(unanswered @ Failed::Unanswered(_)) => {
                // It may have changed what is remembered.
                self.directories.forget_all();
                Err(unanswered)
            }
        }
    }

    /// What a refusal means for the caller: `LeaseLost` with a dead session when the call was not made because of that.
    async fn refused(&self, session: &Session, error: DfsError, was_repeated: bool) -> DfsError {
        // `LeaseLost` is also said of a single file's lease: ask about the session itself.
        if !matches!(error.kind(), ErrorKind::LeaseLost | ErrorKind::OutcomeUnknown) {
            return error;
        }
        let is_over = self.renew(session).await.is_err() && session.is_dead();
        // One that was tried only once was not made, whatever the NameNode has forgotten.
        if is_over && (error.kind() == ErrorKind::LeaseLost || !was_repeated) {
            return session.lost_error().with_source(error);
        }
        error
    }

    /// Whether to try again what was refused for a file: a lease stood in the way that may have been this client's own, just
    /// being given back, and now it has been.
    pub(crate) async fn gave_way(&self, inode: InodeId, refusal: &DfsError) -> bool {
        let Some(session) = self.sessions.live() else { return false };
        if refusal.kind() != ErrorKind::Busy {
            return false;
        }
        let waited = tokio::time::timeout(self.config.metadata_deadline, session.wait_lease_given_back(inode)).await;
        waited.unwrap_or(false)
    }

    /// The live session, opened if there is none. Whoever finds another call opening it waits with the patience that it would
    /// have for the opening itself: else calls of an outage would be patient one after the other.
    async fn session(self: &Arc<Self>) -> Result<Arc<Session>> {
        if let Some(session) = self.sessions.live() {
            return Ok(session);
        }
        let begun = Instant::now();
        let opening = tokio::time::timeout(self.patience().total, self.sessions.opening.lock()).await;
        let _opening = opening.map_err(|_| {
            DfsError::new(ErrorKind::TimedOut, "another call still opens the session").with_fate(CallFate::Unanswered)
        })?;
        if let Some(session) = self.sessions.live() {
            return Ok(session);
        }
        let request = self.sessions.opening_request(self.config.client_id, &self.config.name);
        let patience = self.patience().after(begun.elapsed());
        let answer = self.namenode.call(patience, request, rpc!(open_session)).await?;
        let session = Arc::new(Session::new(self.config.client_id, Incarnation(answer.incarnation)));
        self.sessions.opened(Arc::clone(&session));
        (self.on_opened)(self, &session);
        Ok(session)
    }

    /// Tells the NameNode that `session` is alive; marks it dead when told that it is not.
    pub(crate) async fn renew(&self, session: &Session) -> Result<()> {
        let request = v1::RenewLeaseRequest {
            client_id: session.client_id.0.to_vec().into(),
            incarnation: session.incarnation.0,
        };
        let answer = self.query(request, rpc!(renew_lease)).await;
        if let Err(error) = &answer
            && matches!(error.kind(), ErrorKind::Stale | ErrorKind::LeaseLost | ErrorKind::NotFound)
            && !session.is_dead()
        {
            info!(error = %error.chain(), incarnation = %session.incarnation, "session has ended");
            session.mark_dead();
        }
        answer.map(|_| ())
    }
}

/// The attributes in an answer that must have them.
pub(crate) fn attr_of(attr: Option<v1::FileAttr>) -> Result<FileAttr> {
    let attr =
        attr.ok_or_else(|| DfsError::new(ErrorKind::Protocol, "NameNode's answer lacks the file's attributes"))?;
    (&attr).try_into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_cluster::{FakeCluster, new_file};

    #[tokio::test(flavor = "multi_thread")]
    async fn session_that_another_call_opens_is_waited_for_no_longer_than_an_answer() {
        let cluster = FakeCluster::start(1).await;
        let client = cluster.client_with(|config| config.retry_timeout = Duration::from_millis(50)).await;
        let _opening = client.core.sessions.opening.lock().await;
        let create = async { client.create(&Caller::root(), new_file(b"file")).await.err() };
        let error = tokio::time::timeout(Duration::from_secs(60), create).await.expect("it has an end").unwrap();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
        assert_eq!(cluster.calls("open_session"), 0);
    }
}
