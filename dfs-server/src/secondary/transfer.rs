//! Files between the NameNode and the SecondaryNameNode: whole or not at all.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use dfs_common::durable::{self, TEMPORARY_SUFFIX};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::TxId;
use dfs_proto::status::from_status;
use dfs_proto::v1::namenode_client::NamenodeClient;
use dfs_proto::v1::{FetchFileRequest, FilePiece, ManifestFile};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::namenode::service::namenode_service::PIECE_BYTES;

/// Pieces in flight.
const PIECES_AHEAD: usize = 4;

fn io(doing: &str, path: &Path) -> impl Fn(std::io::Error) -> DfsError {
    let what = format!("{doing} {}", path.display());
    move |error| DfsError::io(what.clone(), error)
}

/// Fetches a file of the manifest into `directory`. One of the same name and length is kept: images never change and
/// finished segments do not either.
pub(super) async fn fetch(
    client: &mut NamenodeClient<Channel>,
    file: &ManifestFile,
    directory: &Path,
) -> Result<PathBuf> {
    let plain = !file.name.is_empty() && !file.name.contains('/') && !file.name.starts_with('.');
    if !plain {
        return Err(DfsError::new(ErrorKind::Protocol, format!("{:?} is not a file's name", file.name)));
    }
    let path = directory.join(&file.name);
    if file.name.starts_with("fsimage_") && fs::metadata(&path).is_ok_and(|metadata| metadata.len() == file.length) {
        return Ok(path);
    }
    let temporary = directory.join(format!("{}{TEMPORARY_SUFFIX}", file.name));
    let mut output = File::create(&temporary).map_err(io("create", &temporary))?;
    let request = FetchFileRequest { name: file.name.clone() };
    let mut pieces = client.fetch_file(request).await.map_err(|status| from_status(&status))?.into_inner();
    let mut received = 0;
    let mut is_whole = false;
    while let Some(piece) = pieces.message().await.map_err(|status| from_status(&status))? {
        if piece.offset != received {
            return Err(DfsError::new(ErrorKind::Protocol, format!("{} came out of order", file.name)));
        }
        received += piece.data.len() as u64;
        is_whole = piece.last;
        output = tokio::task::spawn_blocking(move || output.write_all(&piece.data).map(|()| output))
            .await
            .map_err(|error| DfsError::new(ErrorKind::Internal, "write a piece").with_source(error))?
            .map_err(io("write", &temporary))?;
    }
    if !is_whole {
        return Err(DfsError::new(ErrorKind::Unavailable, format!("{} was not sent to its end", file.name)));
    }
    output.sync_all().map_err(io("sync", &temporary))?;
    durable::rename(&temporary, &path).map_err(io("rename", &path))?;
    Ok(path)
}

/// Removes what is in `directory` and not in the manifest: segments that the NameNode has retired.
pub(super) fn forget_others(directory: &Path, manifest: &[ManifestFile]) -> Result<()> {
    let wanted: BTreeSet<&str> = manifest.iter().map(|file| file.name.as_str()).collect();
    for entry in fs::read_dir(directory).map_err(io("list", directory))? {
        let entry = entry.map_err(io("list", directory))?;
        if !wanted.contains(entry.file_name().to_string_lossy().as_ref()) {
            fs::remove_file(entry.path()).map_err(io("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// Keeps one image.
pub(super) fn forget_other_images(directory: &Path, keep: &Path) -> Result<()> {
    for image in crate::namenode::storage_dir::list_images(directory)? {
        if image.path != keep {
            fs::remove_file(&image.path).map_err(io("remove", &image.path))?;
        }
    }
    Ok(())
}

/// Pushes an image; gives the transaction the NameNode now has a checkpoint of.
pub(super) async fn push(client: &mut NamenodeClient<Channel>, path: &Path) -> Result<TxId> {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let source = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || read_pieces(&source, &name, &sender));
    let answer = client.put_image(ReceiverStream::new(receiver)).await;
    let read =
        reading.await.map_err(|error| DfsError::new(ErrorKind::Internal, "read the image").with_source(error))?;
    let answer = answer.map_err(|status| from_status(&status))?;
    read?;
    Ok(TxId(answer.into_inner().checkpoint_txid))
}

fn read_pieces(path: &Path, name: &str, pieces: &mpsc::Sender<FilePiece>) -> Result<()> {
    let context = io("read", path);
    let mut file = File::open(path).map_err(&context)?;
    let length = file.metadata().map_err(&context)?.len();
    let mut offset = 0;
    loop {
        let mut data = Vec::with_capacity(PIECE_BYTES);
        let read = Read::by_ref(&mut file).take(PIECE_BYTES as u64).read_to_end(&mut data).map_err(&context)? as u64;
        let last = offset + read >= length;
        let piece = FilePiece { name: name.to_owned(), offset, data: data.into(), last };
        // A closed channel is a NameNode that has given its answer already.
        if pieces.blocking_send(piece).is_err() || last {
            return Ok(());
        }
        offset += read;
    }
}
