//! The SecondaryNameNode: makes checkpoints for a NameNode, on another machine if need be, while that one serves.
//!
//! A checkpoint, in the five steps HDFS is taught with:
//! 1. the NameNode rolls its edits, so that what came before is in finished segments;
//! 2. image and edits are fetched;
//! 3. they are merged: `namenode::fold`;
//! 4. the new image is pushed back;
//! 5. the NameNode takes it as its newest image and retires the edits it no longer needs. Only then is it the last checkpoint
//!    here, too; one that the NameNode refuses is none, and the next try begins at the first step.
//!
//! Its HTTP port shows people how old the last checkpoint is (`page`).
//!
//! The directory (`dfs.namenode.checkpoint.dir`, see `checkpoint_dir`) always holds the last checkpoint whole, from which
//! `dfs-server import-checkpoint` makes a lost NameNode's directory anew. Either side may die at any step: what was not
//! finished is thrown away, and the next checkpoint begins at the first step.

mod checkpoint_dir;
mod page;
mod status;
#[cfg(test)]
mod tests;
mod transfer;

#[cfg(test)]
pub(crate) use transfer::tests::power_cut_scenario;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use dfs_common::config_file::Config;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::TxId;
use dfs_common::retry::Backoff;
use dfs_common::shutdown::Shutdown;
use dfs_common::storage_info::{StorageInfo, StorageType};
use dfs_proto::GRPC_MESSAGE_MAX;
use dfs_proto::convert::required;
use dfs_proto::status::from_status;
use dfs_proto::v1::namenode_client::NamenodeClient;
use dfs_proto::v1::{GetManifestRequest, NamenodeVersionRequest, RollEditLogRequest};
use tonic::transport::Endpoint;
use tonic::{Response, Status};

use self::checkpoint_dir::{CheckpointDir, LastCheckpoint};
use self::page::Shape;
use self::status::Status as Progress;
use self::transfer::Client;
use crate::blocking::blocking;
use crate::listen::descriptors::{self, NameNodeShares};
use crate::listen::http::Protocol;
use crate::listen::{self, HostNames};
use crate::pages::starting::Front;
use crate::start_progress::StartProgress;
use crate::{OnReady, Running};

/// How often it is asked whether a checkpoint is due.
const TICK: Duration = Duration::from_secs(5);
/// A NameNode that does not accept within this is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A NameNode that does not answer a short call within this is away.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// A silent connection is asked this often whether it lives.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// And given up after this.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Between tries after a failure.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(60) };

/// Runs until told to stop.
///
/// # Errors
/// When the port is taken, or the directory cannot be used or belongs to another cluster. A NameNode that is away is waited for.
pub fn run<'a>(config: &'a Config, stop: Shutdown, on_ready: OnReady<'a, SocketAddr>) -> Running<'a> {
    Box::pin(run_until_told(config, stop, on_ready))
}

async fn run_until_told(config: &Config, mut stop: Shutdown, on_ready: OnReady<'_, SocketAddr>) -> Result<()> {
    let key = "dfs.namenode.secondary.http-address";
    let http = listen::bind(key, &config.text(key))?;
    let address = listen::address_of(&http)?;
    let progress = Arc::new(StartProgress::default());
    let front = Front::new("SecondaryNameNode", &progress);
    let places = NameNodeShares::of(descriptors::available()?, 0).http;
    let names = Protocol::Http(Arc::new(HostNames::of(config)));
    let _acceptor = listen::http::serve("snn-accept-http", http, places, names, front.router())
        .map_err(|error| DfsError::io("start the HTTP service", error))?;
    let secondary = tokio::select! {
        opened = Secondary::open(config) => opened?,
        () = stop.wait() => return Ok(()),
    };
    front.serve(secondary.page());
    on_ready(address);
    let mut failures = 0;
    loop {
        let outcome = tokio::select! {
            outcome = secondary.try_checkpoint() => outcome,
            // A checkpoint may be dropped at any step.
            () = stop.wait() => return Ok(()),
        };
        let wait = match outcome {
            Ok(()) => {
                failures = 0;
                TICK.min(secondary.period)
            }
            Err(error) if error.kind() == ErrorKind::WrongCluster => return Err(error),
            Err(error) => {
                tracing::warn!("checkpoint: {}", error.chain());
                failures += 1;
                BACKOFF.delay(failures, &mut rand::rng())
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.wait() => return Ok(()),
        }
    }
}

struct Secondary {
    dir: Arc<CheckpointDir>,
    client: Client,
    /// `host:port` of the NameNode.
    namenode: String,
    /// What the page tells.
    progress: Arc<Progress>,
    period: Duration,
    txns: u64,
}

impl Secondary {
    async fn open(config: &Config) -> Result<Self> {
        let namenodes = config.list("dfs.namenode.address");
        let Some(namenode) = namenodes.first() else {
            return Err(DfsError::new(
                ErrorKind::InvalidArgument,
                "set dfs.namenode.address to the NameNode's host:port",
            ));
        };
        let endpoint = Endpoint::from_shared(format!("http://{namenode}")).map_err(|error| {
            DfsError::new(ErrorKind::InvalidArgument, format!("{namenode} is not host:port")).with_source(error)
        })?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .tcp_nodelay(true)
            .connect_lazy();
        let dir = crate::namenode::import::checkpoint_dir(config)?;
        let dir = blocking("open the directory", move || CheckpointDir::open(&dir)).await?;
        Ok(Self {
            dir: Arc::new(dir),
            client: NamenodeClient::new(channel).max_decoding_message_size(GRPC_MESSAGE_MAX),
            namenode: namenode.clone(),
            progress: Arc::default(),
            period: config.duration("dfs.namenode.checkpoint.period"),
            txns: config.count("dfs.namenode.checkpoint.txns"),
        })
    }

    fn page(&self) -> Router {
        let shape =
            Shape { namenode: self.namenode.clone(), dir: self.dir.root().display().to_string(), period: self.period };
        page::router(Arc::clone(&self.progress), shape)
    }

    /// Makes a checkpoint if it is time, and remembers what came of it: page and NameNode are told.
    async fn try_checkpoint(&self) -> Result<()> {
        let outcome = self.checkpoint_if_due().await;
        self.progress.on_tried(outcome.as_ref().err().map(DfsError::chain));
        outcome
    }

    async fn checkpoint_if_due(&self) -> Result<()> {
        let mut client = self.client.clone();
        let last = Some(self.progress.known().report(self.period));
        let version = answer(client.version_request(NamenodeVersionRequest { last })).await?;
        let namespace = required(version.namespace, "namespace")?;
        let storage_type = StorageType::SecondaryNameNode;
        if namespace.layout_version != storage_type.layout() {
            return Err(DfsError::new(
                ErrorKind::Unsupported,
                format!(
                    "the NameNode's layout is {}, this SecondaryNameNode's {}: run the same version of both",
                    namespace.layout_version,
                    storage_type.layout()
                ),
            ));
        }
        let info = StorageInfo {
            storage_type,
            cluster_id: namespace.cluster_id,
            namespace_id: namespace.namespace_id,
            block_pool_id: namespace.block_pool_id,
            layout_version: namespace.layout_version,
            storage_uuid: None,
            datanode_uuid: None,
        };
        let (dir, own) = (Arc::clone(&self.dir), info.clone());
        let last = blocking("look at the last checkpoint", move || {
            dir.adopt(&own)?;
            dir.last_checkpoint()
        });
        let (applied, last) = (TxId(version.last_applied_txid), last.await?);
        self.progress.on_looked(&info.cluster_id, applied, last.as_ref());
        if !self.is_due(applied, last)? {
            return Ok(());
        }
        let started = Instant::now();
        self.progress.on_begun();
        let txid = self.checkpoint(&info).await?;
        self.progress.on_checkpoint(txid);
        tracing::info!(%txid, elapsed = ?started.elapsed(), "checkpoint");
        Ok(())
    }

    /// Whether the last checkpoint here, which is what a lost NameNode would be restored from, is old enough. The
    /// NameNode's own checkpoints do not count: they are lost with it.
    fn is_due(&self, applied: TxId, last: Option<LastCheckpoint>) -> Result<bool> {
        let Some(last) = last else { return Ok(true) };
        let Some(since) = applied.0.checked_sub(last.txid.0) else {
            return Err(DfsError::new(
                ErrorKind::InvalidArgument,
                format!(
                    "the NameNode is at transaction {applied}, the checkpoint in {} at {}: the NameNode's directory is an \
                     older copy. Import the checkpoint, or keep it elsewhere and give this daemon an empty directory",
                    self.dir.root().display(),
                    last.txid
                ),
            ));
        };
        // One of the future is old enough.
        let is_old = |age: Option<Duration>| age.is_none_or(|age| age >= self.period);
        Ok(since > 0 && (since >= self.txns || is_old(last.age)))
    }

    /// The five steps; gives the transaction that the checkpoint ends with.
    async fn checkpoint(&self, info: &StorageInfo) -> Result<TxId> {
        let mut client = self.client.clone();
        let rolled = answer(client.roll_edit_log(RollEditLogRequest {})).await?;
        let manifest = answer(client.get_manifest(GetManifestRequest {})).await?;
        let image = required(manifest.image, "image")?;
        let (dir, edits, wanted) = (Arc::clone(&self.dir), manifest.edits.clone(), image.clone());
        let found = blocking("look at what is here", move || {
            dir.begin(&edits)?;
            dir.find_image(&wanted)
        });
        let path = match found.await? {
            Some(path) => path,
            None => transfer::fetch(&mut client, &image, self.dir.fetched()).await?,
        };
        let dir = Arc::clone(&self.dir);
        blocking("remove fetched images", move || dir.keep_fetched(&image)).await?;
        for file in &manifest.edits {
            transfer::fetch(&mut client, file, self.dir.edits()).await?;
        }
        let (dir, info) = (Arc::clone(&self.dir), info.clone());
        let merged = blocking("merge", move || dir.merge(&path, &info)).await?;
        let txid = merged.txid;
        if txid < TxId(rolled.last_txid) {
            return Err(DfsError::new(
                ErrorKind::Corrupt,
                format!(
                    "the edits fetched end at transaction {txid}, the NameNode rolled them at {}",
                    rolled.last_txid
                ),
            ));
        }
        if merged.is_new {
            match transfer::push(&mut client, &merged.path).await {
                // It has made a checkpoint of its own meanwhile.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    tracing::info!("not pushed: {}", error.chain())
                }
                pushed => pushed?,
            }
        }
        let dir = Arc::clone(&self.dir);
        blocking("remove what is merged", move || dir.keep_only(&merged)).await?;
        Ok(txid)
    }
}

/// The answer of a short call.
async fn answer<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T> {
    let answered = tokio::time::timeout(CALL_TIMEOUT, call).await;
    let answered = answered.map_err(|_| {
        DfsError::new(ErrorKind::TimedOut, format!("the NameNode has not answered within {CALL_TIMEOUT:?}"))
    })?;
    answered.map(Response::into_inner).map_err(|status| from_status(&status))
}
