//! The SecondaryNameNode and a NameNode that refuses its images.

use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use dfs_proto::v1::namenode_server::{Namenode, NamenodeServer};
use dfs_proto::v1::*;
use tonic::service::Routes;
use tonic::{Request, Streaming};

use super::*;
use crate::listen;
use crate::namenode::daemon;
use crate::namenode::namesystem::Namesystem;
use crate::namenode::service::namenode_service::NamenodeService;
use crate::namenode::storage_dir::list_images;

/// A NameNode that refuses some images, as if they were of another state.
struct Refusing {
    service: NamenodeService,
    to_refuse: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Namenode for Refusing {
    type FetchFileStream = <NamenodeService as Namenode>::FetchFileStream;

    async fn version_request(
        &self,
        request: Request<NamenodeVersionRequest>,
    ) -> Result<Response<NamenodeVersionResponse>, Status> {
        self.service.version_request(request).await
    }

    async fn roll_edit_log(
        &self,
        request: Request<RollEditLogRequest>,
    ) -> Result<Response<RollEditLogResponse>, Status> {
        self.service.roll_edit_log(request).await
    }

    async fn get_manifest(
        &self,
        request: Request<GetManifestRequest>,
    ) -> Result<Response<GetManifestResponse>, Status> {
        self.service.get_manifest(request).await
    }

    async fn fetch_file(&self, request: Request<FetchFileRequest>) -> Result<Response<Self::FetchFileStream>, Status> {
        self.service.fetch_file(request).await
    }

    async fn put_image(&self, request: Request<Streaming<FilePiece>>) -> Result<Response<PutImageResponse>, Status> {
        let refuse = self.to_refuse.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
        if refuse.is_ok() {
            let error = DfsError::new(ErrorKind::InvalidArgument, "it is of another state");
            return Err(dfs_proto::status::to_status(&error));
        }
        self.service.put_image(request).await
    }
}

/// A SecondaryNameNode for which any change makes a checkpoint due, and its NameNode.
struct Pair {
    dir: tempfile::TempDir,
    namesystem: Arc<Namesystem>,
    to_refuse: Arc<AtomicUsize>,
    secondary: Secondary,
    acceptor: listen::Acceptor,
}

impl Pair {
    /// The NameNode refuses the first `to_refuse` images.
    async fn start(to_refuse: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::default();
        for setting in [
            format!("dfs.namenode.name.dir={}", dir.path().join("name").display()),
            format!("dfs.namenode.checkpoint.dir={}", dir.path().join("secondary").display()),
            format!("dfs.namenode.address={}", listener.local_addr().unwrap()),
        ] {
            config.set(&setting).unwrap();
        }
        daemon::format(&config, None).unwrap();
        let namesystem = daemon::start(&config).await.unwrap();
        let to_refuse = Arc::new(AtomicUsize::new(to_refuse));
        let service = NamenodeService::new(Arc::clone(&namesystem));
        let routes = Routes::new(NamenodeServer::new(Refusing { service, to_refuse: to_refuse.clone() }));
        let grpc = listen::http::Protocol::Grpc { call_window: 1 << 20, connection_window: 4 << 20 };
        let acceptor = listen::http::serve("test-accept", listener, 10, grpc, routes.into_axum_router()).unwrap();
        let secondary = Secondary { txns: 1, ..Secondary::open(&config).await.unwrap() };
        Self { dir, namesystem, to_refuse, secondary, acceptor }
    }

    /// Changes something; gives the transaction.
    async fn change(&self) -> TxId {
        let client = self.namesystem.txid().0 as u8 + 1;
        let open = OpenSessionRequest { client_id: vec![client; 16].into(), ..Default::default() };
        self.namesystem.open_session(open).await.unwrap();
        self.namesystem.txid()
    }

    /// Transactions of the images that count as checkpoints.
    fn images(&self) -> Vec<TxId> {
        let images = list_images(self.secondary.dir.current()).unwrap();
        images.into_iter().map(|image| image.txid).collect()
    }

    /// Transactions of the images that were only fetched.
    fn fetched(&self) -> Vec<TxId> {
        let images = list_images(self.secondary.dir.fetched()).unwrap();
        images.into_iter().map(|image| image.txid).collect()
    }

    async fn stop(self) {
        let Self { dir, namesystem, acceptor, .. } = self;
        drop(acceptor);
        namesystem.journal().shutdown().await.unwrap();
        drop(dir);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_image_is_no_checkpoint_and_is_pushed_again() {
    let pair = Pair::start(2).await;
    pair.secondary.checkpoint_if_due().await.unwrap();
    assert_eq!(pair.images(), [TxId(0)], "nothing was changed yet");
    let txid = pair.change().await;
    for left in [1, 0] {
        let error = pair.secondary.checkpoint_if_due().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!((pair.to_refuse.load(Ordering::Acquire), pair.images()), (left, vec![TxId(0)]));
    }
    pair.secondary.checkpoint_if_due().await.unwrap();
    assert_eq!(pair.images(), [txid]);
    assert_eq!(pair.namesystem.journal().newest_image(), txid);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_was_only_fetched_is_no_checkpoint_and_does_not_stay() {
    let pair = Pair::start(2).await;
    pair.secondary.checkpoint_if_due().await.unwrap();
    for _ in 0..2 {
        // The NameNode makes a checkpoint of its own, with which the next one here begins.
        let own = pair.change().await;
        assert_eq!(pair.namesystem.journal().checkpoint().await.unwrap(), own);
        pair.change().await;
        let error = pair.secondary.checkpoint_if_due().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!((pair.images(), pair.fetched()), (vec![TxId(0)], vec![own]));
        assert_eq!(pair.secondary.dir.last_checkpoint().unwrap().unwrap().txid, TxId(0));
    }
    let txid = pair.namesystem.txid();
    pair.secondary.checkpoint_if_due().await.unwrap();
    assert_eq!((pair.images(), pair.fetched()), (vec![txid], vec![]));
    // Nothing came behind the NameNode's own: that is the checkpoint.
    let own = pair.change().await;
    pair.namesystem.journal().checkpoint().await.unwrap();
    pair.secondary.checkpoint_if_due().await.unwrap();
    assert_eq!((pair.images(), pair.fetched()), (vec![own], vec![]));
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_namenode_is_told_what_the_last_try_came_to() {
    let pair = Pair::start(1).await;
    let told = || pair.namesystem.checkpoints().known().secondary.unwrap().told;
    pair.secondary.try_checkpoint().await.unwrap();
    assert!(told().last.is_none() && told().failure.is_none(), "it has only just looked");
    let txid = pair.change().await;
    pair.secondary.try_checkpoint().await.unwrap_err();
    assert!(pair.namesystem.checkpoints().known().secondary.unwrap().is_at_work);
    pair.secondary.try_checkpoint().await.unwrap();
    assert!(told().failure.is_some_and(|(_, why)| why.contains("it is of another state")));
    pair.secondary.try_checkpoint().await.unwrap();
    assert!(told().failure.is_none());
    assert_eq!(told().last.unwrap().txid, txid);
    assert_eq!(pair.namesystem.checkpoints().known().secondary.unwrap().lag(txid), None);
    pair.stop().await;
}
