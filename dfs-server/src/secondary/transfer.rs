//! Files between the NameNode and the SecondaryNameNode: whole or not at all, never longer than announced.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use dfs_common::disk::{self, DiskFile};
use dfs_common::durable::{self, TEMPORARY_SUFFIX};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::status::from_status;
use dfs_proto::v1::namenode_client::NamenodeClient;
use dfs_proto::v1::{FetchFileRequest, FilePiece, ManifestFile};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::blocking::blocking;
use crate::pieces::{self, Incoming, PIECES_AHEAD};

/// The way to the NameNode.
pub(super) type Client = NamenodeClient<Channel>;

/// The error of doing something to a path.
pub(super) fn io(doing: &str, path: &Path) -> impl Fn(std::io::Error) -> DfsError + use<> {
    let what = format!("{doing} {}", path.display());
    move |error| DfsError::io(what.clone(), error)
}

/// Refuses a name that leads out of the directory or hides in it.
///
/// # Errors
/// `Protocol`.
pub(super) fn check_name(file: &ManifestFile) -> Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !file.name.is_empty() && file.name.bytes().all(is_plain) {
        return Ok(());
    }
    Err(DfsError::new(ErrorKind::Protocol, format!("{:?} is not the name of an image or of edits", file.name)))
}

/// A file on its way in; removed unless it came to its end.
struct Download {
    file: DiskFile,
    temporary: PathBuf,
    target: PathBuf,
    received: u64,
    length: u64,
}

impl Download {
    fn create(file: &ManifestFile, directory: &Path) -> Result<Self> {
        check_name(file)?;
        let temporary = directory.join(format!("{}{TEMPORARY_SUFFIX}", file.name));
        Ok(Self {
            file: DiskFile::create(&temporary).map_err(io("create", &temporary))?,
            temporary,
            target: directory.join(&file.name),
            received: 0,
            length: file.length,
        })
    }

    /// Takes a piece; true after the last one.
    fn write(mut self, piece: &FilePiece) -> Result<(Self, bool)> {
        let end = self.received + piece.data.len() as u64;
        if piece.offset != self.received || end > self.length || piece.last != (end == self.length) {
            let why = format!("a piece of {} does not follow the one before", self.target.display());
            return Err(DfsError::new(ErrorKind::Protocol, why));
        }
        self.file.write_all(&piece.data).map_err(io("write", &self.temporary))?;
        self.received = end;
        if piece.last {
            self.file.sync_all().map_err(io("sync", &self.temporary))?;
            durable::rename(&self.temporary, &self.target).map_err(io("rename", &self.target))?;
        }
        Ok((self, piece.last))
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // Already renamed when it is whole; otherwise a left-over that the next start removes at the latest.
        let _ = disk::remove_file(&self.temporary);
    }
}

/// Fetches a file of the manifest into `directory`, in place of one of its name; gives its path.
///
/// # Errors
/// `Protocol` when it is not what was announced, `TimedOut`, `NotFound` when the NameNode has retired it since; of writing.
pub(super) async fn fetch(client: &mut Client, file: &ManifestFile, directory: &Path) -> Result<PathBuf> {
    let (announced, into) = (file.clone(), directory.to_owned());
    let mut download = blocking("create a file", move || Download::create(&announced, &into)).await?;
    let request = FetchFileRequest { name: file.name.clone() };
    let pieces = client.fetch_file(request).await.map_err(|status| from_status(&status))?.into_inner();
    let mut pieces = Incoming::new(pieces);
    loop {
        let piece = pieces.next().await?;
        let not_whole = || DfsError::new(ErrorKind::Unavailable, format!("{} was not sent to its end", file.name));
        let piece = piece.ok_or_else(not_whole)?;
        let (written, is_whole) = blocking("write a piece", move || download.write(&piece)).await?;
        if is_whole {
            return Ok(directory.join(&file.name));
        }
        download = written;
    }
}

/// Pushes an image.
///
/// # Errors
/// `AlreadyExists` when the NameNode has one as new; else its refusal, or of reading.
pub(super) async fn push(client: &mut Client, path: &Path) -> Result<()> {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let source = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || {
        let length = fs::metadata(&source).map_err(io("look at", &source))?.len();
        // A closed channel is a NameNode that has given its answer already.
        pieces::cut(&source, &name, length, |piece| sender.blocking_send(piece).is_ok())
    });
    let answer = client.put_image(ReceiverStream::new(receiver)).await;
    let read =
        reading.await.map_err(|error| DfsError::new(ErrorKind::Internal, "read the image").with_source(error))?;
    answer.map_err(|status| from_status(&status))?;
    read
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::power_cut::{Recorder, Scenario};

    /// A file is fetched in two pieces.
    pub(crate) fn power_cut_scenario() -> Scenario {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(dir.path());
        let (name, length) = ("fsimage_1".to_owned(), 3_000);
        let mut download =
            Download::create(&ManifestFile { name: name.clone(), length, state_digest: 0 }, dir.path()).unwrap();
        for (offset, end) in [(0, 1_000), (1_000, length)] {
            let data = vec![7; (end - offset) as usize].into();
            let piece = FilePiece { name: name.clone(), offset, data, last: end == length, length };
            download = download.write(&piece).unwrap().0;
        }
        let done = recorder.moment();
        drop(download);
        Scenario::new("fetch", recorder, move |moment, left| match fs::read(left.join(&name)) {
            Ok(bytes) if bytes == [7; 3_000] => Ok(()),
            Err(_) if moment < done => Ok(()),
            other => Err(format!("{:?}", other.map(|bytes| bytes.len()))),
        })
    }
}
