//! [`DfsClient`]: the handle. One method per call, by what the calls are about.

mod admin;
mod datanode_report;
mod files;
mod health;
mod metadata;
mod path;
mod replies;
mod requests;
mod turn;

use std::sync::Arc;

use dfs_common::error::{DfsError, Result};
use dfs_proto::v1;
use tracing::warn;

pub use admin::MoveStep;
pub use datanode_report::{AdminState, DatanodeReport, DatanodeState, VolumeReport};
pub use health::{BlockHealth, ClusterReport, FileHealth, FilesHealth, Moves, RepairReport, ReplicaHealth};
pub use metadata::HeldInode;
pub use replies::{ContentSummary, CreatedFile, DirEntry, FsStats, Listing, SafeModeStatus};
pub use requests::{CreateOptions, RenameFlag, SafeModeAction, SetAttr, TimeSet, XAttrSetFlag};
#[cfg(test)]
pub(crate) use turn::HANDOVER;
pub use turn::{FileTurn, Turn};

use crate::client_core::{ClientCore, Delegations, DirectoryCache, FileWaits, ServerDefaults, TendedList};
use crate::config::ClientConfig;
use crate::datanode::Datanodes;
use crate::read::PrefetchBudget;
use crate::rpc::{NamenodeLink, Patience, Sessions, rpc};
use crate::{lease_renewer, settle};

/// A client of one cluster. Clones share everything.
#[derive(Clone)]
pub struct DfsClient {
    pub(crate) core: Arc<ClientCore>,
    /// Its calls wait for files that another client has.
    waits_for_files: bool,
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
            file_waits: FileWaits::new(),
            datanodes: Arc::new(Datanodes::new(config.data_connect_timeout)),
            on_opened: |core, session| {
                lease_renewer::spawn_renewal(core, session);
                settle::spawn_settling(core, session);
            },
            writers: TendedList::default(),
            prefetch_budget: PrefetchBudget::new(config.prefetch_budget),
            config,
        });
        lease_renewer::spawn_upkeep(&core);
        Ok(Self { core, waits_for_files: true })
    }

    /// The same client for one who waits for files that another client has in his own way ([`turn`](Self::turn)): calls that
    /// meet such a file fail at once with `Busy`.
    #[must_use]
    pub fn without_waiting(self) -> Self {
        Self { waits_for_files: false, ..self }
    }

    /// Returns when no call that was given up until now can still be made: the NameNode says so, or the session has ended.
    pub async fn wait_given_up_calls_settled(&self) {
        if let Some(session) = self.core.sessions.live() {
            session.wait_given_up_calls_settled().await;
        }
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
            self.core.sessions.close();
            let retry = v1::RetryId {
                client_id: session.client_id.0.to_vec().into(),
                incarnation: session.incarnation.0,
                ..v1::RetryId::default()
            };
            let header = v1::RequestHeader { caller: None, retry: Some(retry) };
            let request = v1::CloseSessionRequest { header: Some(header) };
            // One try: without it the NameNode ends the session by itself.
            let patience = Patience { total: self.core.config.metadata_deadline, ..self.core.patience() };
            if let Err(failed) = self.core.namenode.call(patience, request, rpc!(close_session)).await {
                let error = DfsError::from(failed);
                warn!(error = %error.chain(), "session not closed; the NameNode will end it in time");
            }
            session.mark_dead();
        }
    }
}
