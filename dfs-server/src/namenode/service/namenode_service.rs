//! NamenodeProtocol: what a SecondaryNameNode asks. Files are named as the manifest names them; nothing else can be fetched.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use dfs_common::disk::{self, DiskFile};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::TxId;
use dfs_proto::status::to_status;
use dfs_proto::v1::namenode_server::Namenode;
use dfs_proto::v1::*;
use tokio::sync::{OwnedMutexGuard, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::reply;
use crate::blocking::blocking;
use crate::namenode::image::format::{ImageReader, LogPosition};
use crate::namenode::journal::EditFile;
use crate::namenode::namesystem::Namesystem;
use crate::namenode::room;
use crate::namenode::storage_dir::{ImageFile, NameDir, is_unusable};
use crate::pieces::{self, Incoming, Outgoing, PIECES_AHEAD};

/// Where an image is received before it is looked at; the suffix marks it as unfinished.
const RECEIVED_IMAGE: &str = "fsimage_received.tmp";

type Reply<T> = Result<Response<T>, Status>;

/// Files that are sent at a time; a SecondaryNameNode asks for one after the other.
const SENT_AT_ONCE: usize = 4;

/// Serves other NameNodes' daemons.
pub struct NamenodeService {
    namesystem: Arc<Namesystem>,
    /// One image is received at a time: they share a temporary name.
    receiving: Arc<tokio::sync::Mutex<()>>,
    /// Files sent at a time: each has a thread.
    sending: Arc<Semaphore>,
    /// Looks at the directory, one at a time: they wait for its device.
    looking: Arc<Semaphore>,
}

/// An image on its way in; removed unless it was adopted, which renames it. Holds the right to the temporary name.
struct Upload {
    file: DiskFile,
    path: PathBuf,
    received: u64,
    length: u64,
    alone: Option<OwnedMutexGuard<()>>,
}

impl Upload {
    fn create(path: PathBuf, length: u64, alone: OwnedMutexGuard<()>) -> Result<Self> {
        let context = |error| DfsError::io(format!("create {}", path.display()), error);
        let file = DiskFile::create(&path).map_err(context)?;
        Ok(Self { file, path, received: 0, length, alone: Some(alone) })
    }

    fn write(mut self, piece: &FilePiece) -> Result<Self> {
        let end = self.received + piece.data.len() as u64;
        let is_next = piece.offset == self.received && !piece.data.is_empty();
        if !is_next || end > self.length || piece.last != (end == self.length) {
            return Err(DfsError::new(ErrorKind::Protocol, "a piece of the image does not follow the one before"));
        }
        room::leave_to_edits(&self.path, self.length - self.received, room::free_beside(self.file.file()))?;
        self.file
            .write_all(&piece.data)
            .map_err(|error| DfsError::io(format!("write {}", self.path.display()), error))?;
        self.received = end;
        Ok(self)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Already renamed when it was adopted; otherwise a left-over that the next image or the next start removes at the
        // latest. The name stays taken until it is gone, and it goes on a thread for it: this may be a runtime's.
        let (path, alone) = (std::mem::take(&mut self.path), self.alone.take());
        let remove = move || {
            let _ = disk::remove_file(&path);
            drop(alone);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// A file that may be fetched and how many bytes of it mean something.
struct Fetchable {
    path: PathBuf,
    length: u64,
    /// Of an image.
    state_digest: u64,
}

impl NamenodeService {
    /// A service over `namesystem`.
    pub fn new(namesystem: Arc<Namesystem>) -> Self {
        Self {
            namesystem,
            receiving: Arc::default(),
            sending: Arc::new(Semaphore::new(SENT_AT_ONCE)),
            looking: Arc::new(Semaphore::new(1)),
        }
    }

    /// The newest image, and the finished edit segments that hold what came after it.
    async fn files(&self) -> Result<(Option<Fetchable>, Vec<Fetchable>)> {
        let dir = Arc::clone(self.namesystem.name_dir());
        // Taken until the look ends, also when nobody waits for it any more: on a device that hangs it keeps its thread.
        let look = Arc::clone(&self.looking).acquire_owned().await;
        let look =
            look.map_err(|error| DfsError::new(ErrorKind::Internal, "look at the newest image").with_source(error))?;
        let newest = blocking("look at the newest image", move || {
            let newest = newest_image(&dir);
            drop(look);
            newest
        });
        let (image, after) = newest.await?;
        let edits = self.namesystem.journal().edit_files(after).into_iter();
        let fetchable = |file: EditFile| Fetchable { path: file.path, length: file.length, state_digest: 0 };
        Ok((image, edits.map(fetchable).collect()))
    }

    /// Takes an image piece by piece into a file of its own.
    async fn receive(&self, pieces: Streaming<FilePiece>) -> Result<Upload> {
        let mut pieces = Incoming::waited_for(pieces);
        let mut upload: Option<Upload> = None;
        loop {
            let Some(piece) = pieces.next().await? else {
                return Err(DfsError::new(ErrorKind::Protocol, "the image ended before its last piece"));
            };
            let begun = match upload.take() {
                Some(begun) => begun,
                None => {
                    let alone = Arc::clone(&self.receiving).try_lock_owned().map_err(|_| {
                        DfsError::new(
                            ErrorKind::Busy,
                            "another image is being received; is there a second SecondaryNameNode?",
                        )
                    })?;
                    let (path, length) = (self.namesystem.name_dir().current().join(RECEIVED_IMAGE), piece.length);
                    blocking("create the image", move || Upload::create(path, length, alone)).await?
                }
            };
            let last = piece.last;
            let written = blocking("write the image", move || begun.write(&piece)).await?;
            if last {
                return Ok(written);
            }
            upload = Some(written);
        }
    }
}

#[tonic::async_trait]
impl Namenode for NamenodeService {
    async fn version_request(&self, request: Request<NamenodeVersionRequest>) -> Reply<NamenodeVersionResponse> {
        let applied = self.namesystem.txid();
        self.namesystem.checkpoints().on_look(request.into_inner().last.as_ref(), applied);
        reply(Ok(NamenodeVersionResponse {
            namespace: Some(self.namesystem.info().clone()),
            last_applied_txid: applied.0,
            checkpoint_txid: self.namesystem.journal().newest_image().0,
        }))
    }

    async fn roll_edit_log(&self, _: Request<RollEditLogRequest>) -> Reply<RollEditLogResponse> {
        self.namesystem.checkpoints().on_work();
        reply(self.namesystem.journal().roll().await.map(|TxId(last_txid)| RollEditLogResponse { last_txid }))
    }

    async fn get_manifest(&self, _: Request<GetManifestRequest>) -> Reply<GetManifestResponse> {
        let manifest = self.files().await;
        reply(manifest.map(|(image, edits)| GetManifestResponse {
            image: image.as_ref().map(manifest_file),
            edits: edits.iter().map(manifest_file).collect(),
        }))
    }

    type FetchFileStream = ReceiverStream<Result<FilePiece, Status>>;

    async fn fetch_file(&self, request: Request<FetchFileRequest>) -> Reply<Self::FetchFileStream> {
        let name = request.into_inner().name;
        self.namesystem.checkpoints().on_work();
        let found = self.files().await.and_then(|(image, edits)| {
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
        let Ok(permit) = Arc::clone(&self.sending).try_acquire_owned() else {
            let words = format!("{SENT_AT_ONCE} files are being sent already");
            return reply(Err(DfsError::new(ErrorKind::Unavailable, words)));
        };
        let (pieces, receiver) = mpsc::channel(PIECES_AHEAD);
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut pieces = Outgoing::new(pieces);
            if let Err(error) = pieces::cut(&file.path, &name, file.length, |piece| pieces.send(&runtime, Ok(piece))) {
                pieces.send(&runtime, Err(to_status(&error)));
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn put_image(&self, request: Request<Streaming<FilePiece>>) -> Reply<PutImageResponse> {
        self.namesystem.checkpoints().on_work();
        let put = async {
            let upload = self.receive(request.into_inner()).await?;
            let namesystem = Arc::clone(&self.namesystem);
            // To its end, whether or not the caller waits for the answer.
            let adopted = tokio::spawn(async move {
                let adopted = namesystem.journal().adopt_image(&upload.path).await;
                drop(upload);
                if adopted.is_ok() {
                    namesystem.checkpoints().on_adopted();
                }
                adopted
            });
            let TxId(checkpoint_txid) = adopted
                .await
                .map_err(|error| DfsError::new(ErrorKind::Internal, "adopt the image").with_source(error))??;
            Ok(PutImageResponse { checkpoint_txid })
        };
        reply(put.await)
    }
}

/// The newest image of use, as far as its header tells, and the log entry that it ends with.
fn newest_image(dir: &NameDir) -> Result<(Option<Fetchable>, Option<LogPosition>)> {
    let look = |image: &ImageFile| {
        let reader = ImageReader::open(&image.path)?;
        let metadata = std::fs::metadata(&image.path)
            .map_err(|error| DfsError::io(format!("look at {}", image.path.display()), error))?;
        let header = reader.header();
        let fetchable =
            Fetchable { path: image.path.clone(), length: metadata.len(), state_digest: header.state_digest };
        Ok((fetchable, header.last_log))
    };
    let newest = dir.first_of_use(look, |_, error| is_unusable(error))?.or_why()?;
    Ok(newest.map_or((None, None), |((image, last_log), _)| (Some(image), last_log)))
}

fn file_name(path: &std::path::Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn manifest_file(file: &Fetchable) -> ManifestFile {
    ManifestFile { name: file_name(&file.path), length: file.length, state_digest: file.state_digest }
}

#[cfg(test)]
mod tests {
    use dfs_common::config_file::Config;
    use tokio_stream::StreamExt;

    use super::*;
    use crate::namenode::daemon;
    use crate::power_cut::Recorder;

    #[test]
    fn pieces_of_an_image_bring_it_further_and_leave_room_for_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let begin = |length| {
            let alone = Arc::new(tokio::sync::Mutex::new(())).try_lock_owned().unwrap();
            Upload::create(dir.path().join("image"), length, alone).unwrap()
        };
        let piece =
            |offset, bytes: usize, last| FilePiece { offset, data: vec![1; bytes].into(), last, ..Default::default() };
        let refused = |upload: Upload, piece| upload.write(&piece).err().map(|error| error.kind());
        let upload = begin(10).write(&piece(0, 4, false)).unwrap();
        assert_eq!(upload.write(&piece(4, 6, true)).unwrap().received, 10);
        // Empty, a gap, too long, an end that is none.
        for wrong in
            [piece(0, 0, false), piece(1, 4, false), piece(0, 11, false), piece(0, 10, false), piece(0, 4, true)]
        {
            assert_eq!(refused(begin(10), wrong), Some(ErrorKind::Protocol));
        }
        assert_eq!(refused(begin(0), piece(0, 0, true)), Some(ErrorKind::Protocol));
        // Room is asked for at each piece, for all that is to come.
        let mut upload = begin(10).write(&piece(0, 4, false)).unwrap();
        upload.length = u64::MAX >> 1;
        assert_eq!(refused(upload, piece(4, 6, false)), Some(ErrorKind::NoSpace));
    }

    #[tokio::test]
    async fn files_are_listed_and_fetched_away_from_the_thread_that_serves() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.set(&format!("dfs.namenode.name.dir={}", dir.path().display())).unwrap();
        daemon::format(&config, None).unwrap();
        let namesystem = daemon::start(&config).await.unwrap();
        let recorder = Recorder::new(dir.path());
        let service = NamenodeService::new(Arc::clone(&namesystem));
        service.version_request(Request::new(NamenodeVersionRequest::default())).await.unwrap();
        service.roll_edit_log(Request::new(RollEditLogRequest {})).await.unwrap();
        let manifest = service.get_manifest(Request::new(GetManifestRequest {})).await.unwrap().into_inner();
        let image = manifest.image.unwrap();
        let fetched = service.fetch_file(Request::new(FetchFileRequest { name: image.name })).await.unwrap();
        let pieces: Vec<_> = fetched.into_inner().collect().await;
        assert_eq!(pieces.iter().map(|piece| piece.as_ref().unwrap().data.len() as u64).sum::<u64>(), image.length);
        namesystem.leave_safe_mode().await.unwrap();
        assert_eq!(recorder.done_by(std::thread::current().id()), Vec::<String>::new());
        drop(recorder);
        for image in namesystem.name_dir().images().unwrap() {
            std::fs::write(image.path, "damaged").unwrap();
        }
        // Why there is none is told.
        let error = service.get_manifest(Request::new(GetManifestRequest {})).await.unwrap_err();
        assert!(error.message().contains("fsimage_"), "{}", error.message());
        namesystem.journal().shutdown().await.unwrap();
    }
}
