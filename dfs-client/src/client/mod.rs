//! [`DfsClient`]: the handle, what stands behind it, and how its calls reach the NameNode.

mod admin;
mod answers;
mod delegations;
mod directory_cache;
mod files;
mod health;
mod metadata;
mod path;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::Incarnation;
use dfs_proto::v1;
use tokio::sync::Semaphore;
use tracing::{info, warn};

pub use admin::MoveStep;
pub use answers::{
    ContentSummary, CreateOptions, CreatedFile, DatanodeReport, DatanodeState, DirEntry, FsStats, Listing, RenameFlag,
    SafeModeAction, SafeModeStatus, ServerDefaults, SetAttr, TimeSet, VolumeReport, XAttrSetFlag,
};
pub use health::{AdminState, BlockHealth, ClusterReport, FileHealth, FilesHealth, Moves, RepairReport, ReplicaHealth};

use self::delegations::Delegations;
use self::directory_cache::DirectoryCache;
use crate::caller::Caller;
use crate::config::ClientConfig;
use crate::datanode::Datanodes;
use crate::lease_renewer;
use crate::read::{BUDGET_UNIT, PREFETCH_UNITS_MAX};
use crate::rpc::{NamenodeClient, NamenodeLink, Patience, Session, Sessions};
use crate::write::WriterRegistry;

/// Shapes one generated client method into what [`NamenodeLink::call`] takes.
macro_rules! rpc {
    ($method:ident) => {
        |mut namenode: crate::rpc::NamenodeClient, request| async move { namenode.$method(request).await }
    };
}
pub(crate) use rpc;

/// What a walk over a large tree, or a checkpoint of it, may take.
const LONG_CALL: Duration = Duration::from_secs(600);

/// A client of one cluster. Clones share everything.
#[derive(Clone)]
pub struct DfsClient {
    pub(crate) core: Arc<ClientCore>,
}

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
    pub(crate) datanodes: Arc<Datanodes>,
    pub(crate) writers: WriterRegistry,
    /// Bytes that may be read ahead over all files, in units of [`BUDGET_UNIT`].
    pub(crate) prefetch_budget: Arc<Semaphore>,
}

impl DfsClient {
    /// Finds the NameNode and asks for its defaults. Opens no session: that waits for the first change.
    ///
    /// # Errors
    /// `InvalidArgument` for malformed addresses; otherwise the last NameNode's failure, with its address.
    pub async fn connect(config: ClientConfig) -> Result<Self> {
        let namenode = NamenodeLink::new(config.namenodes.clone())?;
        let patience = Patience { per_try: config.metadata_deadline, total: config.connect_timeout };
        let request = v1::GetServerDefaultsRequest { header: None };
        let answer = namenode.call(patience, request, rpc!(get_server_defaults)).await?;
        let core = Arc::new(ClientCore {
            client_name: format!("DFSClient_{}", config.client_id),
            defaults: answer.try_into()?,
            namenode,
            sessions: Sessions::default(),
            directories: DirectoryCache::new(),
            delegations: Delegations::new(),
            datanodes: Arc::new(Datanodes::new(config.data_connect_timeout)),
            writers: WriterRegistry::default(),
            prefetch_budget: Arc::new(Semaphore::new((config.prefetch_budget / BUDGET_UNIT).min(PREFETCH_UNITS_MAX))),
            config,
        });
        lease_renewer::spawn_upkeep(&core);
        Ok(Self { core })
    }

    /// What the cluster does unless told otherwise.
    pub fn defaults(&self) -> &ServerDefaults {
        &self.core.defaults
    }

    /// The settings this client was made with.
    pub fn config(&self) -> &ClientConfig {
        &self.core.config
    }

    /// Ends the session, if one was opened: its leases and holds go at once. Files still being written are not completed.
    pub async fn close(self) {
        if let Some(session) = self.core.sessions.live() {
            self.core.sessions.set(None);
            let call = session.begin_call();
            let header = v1::RequestHeader { caller: None, retry: Some(call.retry_id()) };
            let request = v1::CloseSessionRequest { header: Some(header) };
            // One try: without it the NameNode ends the session by itself.
            let patience = Patience { total: self.core.config.metadata_deadline, ..self.core.patience() };
            if let Err(error) = self.core.namenode.call(patience, request, rpc!(close_session)).await {
                warn!(error = %error.chain(), "session not closed; the NameNode will end it in time");
            }
            session.mark_dead();
        }
    }
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
        self.namenode.call(self.patience(), request, call).await
    }

    /// A call that changes nothing and may take long: one try, with as much patience as all tries of others have together.
    pub(crate) async fn query_at_length<Req, Resp, Call, Fut>(&self, request: Req, call: Call) -> Result<Resp>
    where
        Req: Clone,
        Call: Fn(NamenodeClient, Req) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Resp>, tonic::Status>>,
    {
        let total = self.config.retry_timeout.max(LONG_CALL);
        self.namenode.call(Patience { per_try: total, total }, request, call).await
    }

    /// A call that changes something, in whichever session lives. When the NameNode refuses it because that one has ended, the
    /// call is made once more in a new session. One that was not answered may have happened: it is not repeated.
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
        let session = self.session().await?;
        match self.mutate_in(&session, caller, &build, &call).await {
            Err(error) if error.kind() == ErrorKind::LeaseLost && session.is_dead() => {
                warn!(error = %error.chain(), "session ended, going on in a new one");
                let session = self.session().await?;
                self.mutate_in(&session, caller, &build, &call).await
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
        if session.is_dead() {
            return Err(session.lost_error());
        }
        let pending = session.begin_call();
        let header = v1::RequestHeader { caller: Some(caller.into()), retry: Some(pending.retry_id()) };
        let outcome = self.namenode.call(self.patience(), build(header), call).await;
        match outcome {
            // `Stale` is also said of an inode that is gone: ask about the session itself.
            Err(error) if matches!(error.kind(), ErrorKind::Stale | ErrorKind::LeaseLost) => {
                if self.renew(session).await.is_err() && session.is_dead() {
                    return Err(session.lost_error().with_source(error));
                }
                Err(error)
            }
            outcome => outcome,
        }
    }

    /// The live session, opened if there is none.
    pub(crate) async fn session(self: &Arc<Self>) -> Result<Arc<Session>> {
        if let Some(session) = self.sessions.live() {
            return Ok(session);
        }
        let _opening = self.sessions.opening.lock().await;
        if let Some(session) = self.sessions.live() {
            return Ok(session);
        }
        let request = v1::OpenSessionRequest {
            header: None,
            client_id: self.config.client_id.0.to_vec().into(),
            name: self.config.name.clone(),
        };
        let answer = self.query(request, rpc!(open_session)).await?;
        let session = Arc::new(Session::new(self.config.client_id, Incarnation(answer.incarnation)));
        self.sessions.set(Some(Arc::clone(&session)));
        lease_renewer::spawn_renewal(self, &session);
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
pub(crate) fn attr_of(attr: Option<v1::FileAttr>) -> Result<dfs_common::attr::FileAttr> {
    let attr =
        attr.ok_or_else(|| DfsError::new(ErrorKind::Protocol, "NameNode's answer lacks the file's attributes"))?;
    (&attr).try_into()
}
