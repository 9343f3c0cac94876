//! NamenodeProtocol: what a SecondaryNameNode asks. Files are named as the manifest names them; nothing else can be fetched.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::TxId;
use dfs_proto::status::{from_status, to_status};
use dfs_proto::v1::namenode_server::Namenode;
use dfs_proto::v1::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::reply;
use crate::namenode::namesystem::Namesystem;

/// Bytes in a piece of a file; well below the message limit.
pub const PIECE_BYTES: usize = 1 << 20;
/// Where an image is received before it is looked at; the suffix marks it as unfinished.
const RECEIVED_IMAGE: &str = "fsimage_received.tmp";
/// Pieces read ahead of the network.
const PIECES_AHEAD: usize = 4;

type Reply<T> = Result<Response<T>, Status>;

/// Serves other NameNodes' daemons.
pub struct NamenodeService {
    namesystem: Arc<Namesystem>,
    /// One image is received at a time: they share a temporary name.
    receiving: tokio::sync::Mutex<()>,
}

/// An image on its way in; removed unless it was adopted, which renames it.
struct Upload {
    file: File,
    path: PathBuf,
    length: u64,
}

impl Upload {
    fn create(path: PathBuf) -> Result<Self> {
        let file = File::create(&path).map_err(|error| DfsError::io(format!("create {}", path.display()), error))?;
        Ok(Self { file, path, length: 0 })
    }

    fn write(mut self, offset: u64, data: &[u8], last: bool) -> Result<Self> {
        if offset != self.length {
            return Err(DfsError::new(ErrorKind::Protocol, "a piece of the image is out of order"));
        }
        let written = self.file.write_all(data).and_then(|()| if last { self.file.sync_all() } else { Ok(()) });
        written.map_err(|error| DfsError::io(format!("write {}", self.path.display()), error))?;
        self.length += data.len() as u64;
        Ok(self)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Already renamed when it was adopted; otherwise a left-over that the next start removes at the latest.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A file that may be fetched and how many bytes of it mean something.
struct Fetchable {
    path: PathBuf,
    length: u64,
}

impl NamenodeService {
    /// A service over `namesystem`.
    pub fn new(namesystem: Arc<Namesystem>) -> Self {
        Self { namesystem, receiving: tokio::sync::Mutex::new(()) }
    }

    /// The newest image and the finished edit segments.
    fn files(&self) -> Result<(Option<Fetchable>, Vec<Fetchable>)> {
        let image = self.namesystem.name_dir().images()?.into_iter().next();
        let image = image.map(|image| -> Result<Fetchable> {
            let metadata = std::fs::metadata(&image.path)
                .map_err(|error| DfsError::io(format!("look at {}", image.path.display()), error))?;
            Ok(Fetchable { path: image.path, length: metadata.len() })
        });
        let edits = self.namesystem.journal().edit_files().into_iter();
        let edits = edits.map(|file| Fetchable { path: file.path, length: file.length }).collect();
        Ok((image.transpose()?, edits))
    }
}

#[tonic::async_trait]
impl Namenode for NamenodeService {
    async fn version_request(&self, _: Request<NamenodeVersionRequest>) -> Reply<NamenodeVersionResponse> {
        reply(Ok(NamenodeVersionResponse {
            namespace: Some(self.namesystem.info().clone()),
            last_applied_txid: self.namesystem.txid().0,
            checkpoint_txid: match self.namesystem.checkpoint_txid() {
                Ok(TxId(txid)) => txid,
                Err(error) => return reply(Err(error)),
            },
        }))
    }

    async fn roll_edit_log(&self, _: Request<RollEditLogRequest>) -> Reply<RollEditLogResponse> {
        reply(self.namesystem.journal().roll().await.map(|TxId(last_txid)| RollEditLogResponse { last_txid }))
    }

    async fn get_manifest(&self, _: Request<GetManifestRequest>) -> Reply<GetManifestResponse> {
        let manifest = self.files();
        reply(manifest.map(|(image, edits)| GetManifestResponse {
            image: image.as_ref().map(manifest_file),
            edits: edits.iter().map(manifest_file).collect(),
        }))
    }

    type FetchFileStream = ReceiverStream<Result<FilePiece, Status>>;

    async fn fetch_file(&self, request: Request<FetchFileRequest>) -> Reply<Self::FetchFileStream> {
        let name = request.into_inner().name;
        let found = self.files().and_then(|(image, edits)| {
            image.into_iter().chain(edits).find(|file| file_name(&file.path) == name).ok_or_else(|| {
                DfsError::new(
                    ErrorKind::NotFound,
                    format!("{name} is not (any more) in the manifest; ask for a new one"),
                )
            })
        });
        let file = match found {
            Ok(file) => file,
            Err(error) => return reply(Err(error)),
        };
        let (pieces, receiver) = mpsc::channel(PIECES_AHEAD);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = send_file(&file, &name, &pieces) {
                // A closed channel is a peer that went away: nobody is left to tell.
                let _ = pieces.blocking_send(Err(to_status(&error)));
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn put_image(&self, request: Request<Streaming<FilePiece>>) -> Reply<PutImageResponse> {
        let mut pieces = request.into_inner();
        let receive = async {
            let _alone = self.receiving.lock().await;
            let path = self.namesystem.name_dir().current().join(RECEIVED_IMAGE);
            let mut upload = Upload::create(path)?;
            loop {
                let piece = pieces.message().await.map_err(|status| from_status(&status))?;
                let Some(piece) = piece else {
                    return Err(DfsError::new(ErrorKind::Protocol, "the image ended before its last piece"));
                };
                let last = piece.last;
                upload = tokio::task::spawn_blocking(move || upload.write(piece.offset, &piece.data, last))
                    .await
                    .map_err(|error| DfsError::new(ErrorKind::Internal, "write the image").with_source(error))??;
                if last {
                    break;
                }
            }
            let TxId(checkpoint_txid) = self.namesystem.journal().adopt_image(&upload.path).await?;
            Ok(PutImageResponse { checkpoint_txid })
        };
        reply(receive.await)
    }
}

fn file_name(path: &std::path::Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn manifest_file(file: &Fetchable) -> ManifestFile {
    ManifestFile { name: file_name(&file.path), length: file.length }
}

fn send_file(source: &Fetchable, name: &str, pieces: &mpsc::Sender<Result<FilePiece, Status>>) -> Result<()> {
    let context = |error| DfsError::io(format!("read {}", source.path.display()), error);
    let mut file = File::open(&source.path).map_err(context)?.take(source.length);
    let mut offset = 0;
    loop {
        let mut data = Vec::with_capacity(PIECE_BYTES);
        let read = file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut data).map_err(context)? as u64;
        let last = offset + read >= source.length;
        if read == 0 && !last {
            return Err(DfsError::new(ErrorKind::Io, format!("{} is shorter than it was", source.path.display())));
        }
        let piece = FilePiece { name: name.to_owned(), offset, data: data.into(), last };
        if pieces.blocking_send(Ok(piece)).is_err() || last {
            return Ok(());
        }
        offset += read;
    }
}
