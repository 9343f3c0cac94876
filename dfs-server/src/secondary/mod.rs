//! The SecondaryNameNode: makes checkpoints for a NameNode, on another machine if need be, while that one serves.
//!
//! A checkpoint, in the five steps HDFS is taught with:
//! 1. the NameNode rolls its edits, so that what came before is in finished segments;
//! 2. image and edits are fetched;
//! 3. they are merged: the fold of `namenode::checkpoint`;
//! 4. the new image is pushed back;
//! 5. the NameNode takes it as its newest image and retires the edits it no longer needs.
//!
//! The directory (`dfs.namenode.checkpoint.dir`) is laid out as a NameNode's, so that a lost NameNode can be started from
//! a copy of it: everything up to the last checkpoint and the edits fetched with it is there.

mod transfer;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dfs_common::config_file::Config;
use dfs_common::durable;
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
use tonic::transport::{Channel, Endpoint};

use crate::namenode::checkpoint::fold;
use crate::namenode::image::format::{ImageHeader, ImageReader};
use crate::namenode::journal::EditReader;
use crate::namenode::storage_dir::image_path;

/// How often it is asked whether a checkpoint is due.
const TICK: Duration = Duration::from_secs(5);
/// A NameNode that does not accept within this is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between tries after a failure.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(60) };

/// Runs until told to stop.
///
/// # Errors
/// When the directory cannot be used or belongs to another cluster. A NameNode that is away is waited for.
pub async fn run(config: &Config, mut stop: Shutdown, on_ready: impl FnOnce()) -> Result<()> {
    let secondary = Secondary::open(config)?;
    on_ready();
    let mut failures = 0;
    loop {
        let wait = match secondary.checkpoint_if_due().await {
            Ok(()) => {
                failures = 0;
                TICK
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
    directory: PathBuf,
    channel: Channel,
    period: Duration,
    txns: u64,
    last: parking_lot::Mutex<Instant>,
}

impl Secondary {
    fn open(config: &Config) -> Result<Self> {
        let directories = config.list("dfs.namenode.checkpoint.dir");
        let [directory] = directories.as_slice() else {
            return Err(DfsError::new(ErrorKind::InvalidArgument, "set dfs.namenode.checkpoint.dir to one directory"));
        };
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
        let directory = PathBuf::from(directory);
        durable::create_dir_all(&directory.join("current/edits"))
            .map_err(|error| DfsError::io(format!("create {}", directory.display()), error))?;
        Ok(Self {
            directory,
            channel: endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect_lazy(),
            period: config.duration("dfs.namenode.checkpoint.period"),
            txns: config.count("dfs.namenode.checkpoint.txns"),
            last: parking_lot::Mutex::new(Instant::now()),
        })
    }

    fn client(&self) -> NamenodeClient<Channel> {
        NamenodeClient::new(self.channel.clone()).max_decoding_message_size(GRPC_MESSAGE_MAX)
    }

    async fn checkpoint_if_due(&self) -> Result<()> {
        let version = self.client().version_request(NamenodeVersionRequest {}).await;
        let version = version.map_err(|status| from_status(&status))?.into_inner();
        let namespace = required(version.namespace, "namespace")?;
        let info = StorageInfo {
            storage_type: StorageType::NameNode,
            cluster_id: namespace.cluster_id,
            namespace_id: namespace.namespace_id,
            block_pool_id: namespace.block_pool_id,
            layout_version: namespace.layout_version,
            storage_uuid: None,
            datanode_uuid: None,
        };
        self.adopt(&info)?;
        let since = version.last_applied_txid.saturating_sub(version.checkpoint_txid);
        let is_due = since > 0 && (since >= self.txns || self.last.lock().elapsed() >= self.period);
        if !is_due {
            return Ok(());
        }
        let started = Instant::now();
        let TxId(txid) = self.checkpoint(&info).await?;
        *self.last.lock() = Instant::now();
        tracing::info!(txid, elapsed = ?started.elapsed(), "checkpoint pushed to the NameNode");
        Ok(())
    }

    /// Takes the directory into the NameNode's cluster, once; refuses another one's afterwards.
    fn adopt(&self, info: &StorageInfo) -> Result<()> {
        let path = self.current().join("VERSION");
        match StorageInfo::load(&path)? {
            None => info.store(&path),
            Some(own) if own == *info => Ok(()),
            Some(own) => Err(DfsError::new(
                ErrorKind::WrongCluster,
                format!(
                    "{} belongs to cluster {} (namespace {}), the NameNode to {} ({}); use another directory",
                    path.display(),
                    own.cluster_id,
                    own.namespace_id,
                    info.cluster_id,
                    info.namespace_id
                ),
            )),
        }
    }

    fn current(&self) -> PathBuf {
        self.directory.join("current")
    }

    async fn checkpoint(&self, info: &StorageInfo) -> Result<TxId> {
        let mut client = self.client();
        client.roll_edit_log(RollEditLogRequest {}).await.map_err(|status| from_status(&status))?;
        let manifest = client.get_manifest(GetManifestRequest {}).await.map_err(|status| from_status(&status))?;
        let manifest = manifest.into_inner();
        let image = required(manifest.image, "image")?;
        let image = transfer::fetch(&mut client, &image, &self.current()).await?;
        let edits = self.current().join("edits");
        transfer::forget_others(&edits, &manifest.edits)?;
        for file in &manifest.edits {
            transfer::fetch(&mut client, file, &edits).await?;
        }
        let (current, namespace_id) = (self.current(), info.namespace_id);
        let merged = tokio::task::spawn_blocking(move || merge(&image, &edits, &current, namespace_id))
            .await
            .map_err(|error| DfsError::new(ErrorKind::Internal, "merge").with_source(error))??;
        let txid = transfer::push(&mut client, &merged).await?;
        transfer::forget_other_images(&self.current(), &merged)?;
        Ok(txid)
    }
}

/// Merges image and edits into a new image beside it; gives its path.
fn merge(image: &Path, edits: &Path, current: &Path, namespace_id: u32) -> Result<PathBuf> {
    let header: ImageHeader = ImageReader::open(image)?.header().clone();
    // A first pass over the edits tells where they end, which the new image's name and header say.
    let mut reader = EditReader::open(edits, namespace_id, &header)?;
    while reader.next_ops()?.is_some() {}
    let merged_header = reader.header_after(&header);
    let path = image_path(current, merged_header.txid());
    let mut reader = EditReader::open(edits, namespace_id, &header)?;
    fold(image, &mut reader, &merged_header, &path)?;
    Ok(path)
}
