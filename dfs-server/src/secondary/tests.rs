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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_image_is_no_checkpoint_and_is_pushed_again() {
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
    let to_refuse = Arc::new(AtomicUsize::new(2));
    let service = Refusing { service: NamenodeService::new(Arc::clone(&namesystem)), to_refuse: to_refuse.clone() };
    let routes = Routes::new(NamenodeServer::new(service)).into_axum_router();
    let grpc = listen::http::Protocol::Grpc { call_window: 1 << 20, connection_window: 4 << 20 };
    let acceptor = listen::http::serve("test-accept", listener, 10, grpc, routes).unwrap();

    // Any change makes a checkpoint due.
    let secondary = Secondary { txns: 1, ..Secondary::open(&config).unwrap() };
    let images = || {
        let images = list_images(secondary.dir.current()).unwrap();
        images.into_iter().map(|image| image.txid).collect::<Vec<_>>()
    };
    secondary.checkpoint_if_due().await.unwrap();
    assert_eq!(images(), [TxId(0)], "nothing was changed yet");
    let open = OpenSessionRequest { client_id: vec![9; 16].into(), ..Default::default() };
    namesystem.open_session(open).await.unwrap();
    let txid = namesystem.txid();
    for left in [1, 0] {
        let error = secondary.checkpoint_if_due().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!((to_refuse.load(Ordering::Acquire), images()), (left, vec![TxId(0)]));
    }
    secondary.checkpoint_if_due().await.unwrap();
    assert_eq!(images(), [txid]);
    assert_eq!(namesystem.journal().newest_image(), txid);
    drop(acceptor);
    namesystem.journal().shutdown().await.unwrap();
}
