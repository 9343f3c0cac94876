//! Making a file in the cluster as HDFS's shell does: under a temporary name, renamed once it is whole.
//!
//! So nobody ever sees half a file under the final name, and a transfer that fails leaves nothing. The temporary name is
//! ours alone (`temporary.rs`): of several transfers to one place each publishes its own whole file.

use bytes::Bytes;
use dfs_client::{CreateOptions, CreatedFile, FileWriter};
use dfs_common::{DfsError, ErrorKind};
use futures::stream::{Stream, StreamExt};

use crate::context::Context;
use crate::destination::Target;
use crate::failure::{Failure, Outcome};
use crate::kept::Kept;
use crate::temporary::{self, RemoteTemporary};

/// A file to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewFile {
    /// Its place.
    pub(crate) target: Target,
    /// Permission bits.
    pub(crate) mode: u32,
    /// What else it gets before it appears.
    pub(crate) kept: Kept,
    /// A file of that name is replaced.
    pub(crate) replace: bool,
    /// The directory is new and ours: no file of that name can be there.
    pub(crate) is_surely_new: bool,
}

/// Makes the file with this content, and says how many bytes that was.
///
/// # Errors
/// `AlreadyExists` without `replace`, `IsADirectory`; the content's failure; the writer's.
pub(crate) async fn store(ctx: &Context, new: &NewFile, content: impl Stream<Item = Outcome<Bytes>>) -> Outcome<u64> {
    if !new.is_surely_new {
        temporary::check_remote_place(ctx, &new.target, new.replace).await?;
    }
    let (file, temporary) = create(ctx, new).await?;
    let outcome = async {
        let written = fill(ctx, new, &file, content).await?;
        temporary.publish(ctx, &new.target, new.replace).await?;
        Ok(written)
    }
    .await;
    if let Err(failure) = &outcome {
        temporary.discard(ctx, failure).await;
    }
    outcome
}

async fn create(ctx: &Context, new: &NewFile) -> Outcome<(CreatedFile, RemoteTemporary)> {
    let (parent, mode, defaults) = (new.target.parent, new.mode, ctx.settings.file_defaults);
    RemoteTemporary::make(ctx, &new.target, move |client, caller, name| async move {
        let options = CreateOptions {
            parent,
            name: &name,
            mode,
            replication: defaults.replication,
            block_size: defaults.block_size,
            open_for_write: true,
            exclusive: true,
        };
        let file = client.create(&caller, options).await?;
        Ok((file.attr.inode, file))
    })
    .await
}

/// Writes everything, closes the file and gives it its attributes.
async fn fill(
    ctx: &Context,
    new: &NewFile,
    file: &CreatedFile,
    content: impl Stream<Item = Outcome<Bytes>>,
) -> Outcome<u64> {
    let failed = |error| Failure::dfs(&new.target.path, error);
    let not_opened = || DfsError::new(ErrorKind::Internal, "the new file was not opened for writing");
    let writer = file.writer.as_ref().ok_or_else(|| failed(not_opened()))?;
    let written = match write(ctx, new, writer, content).await {
        Ok(written) => written,
        Err(failure) => {
            give_up(writer, &failure).await;
            return Err(failure);
        }
    };
    new.kept.apply(&ctx.client, &ctx.caller, file.attr.inode, &new.target.path).await?;
    Ok(written)
}

/// Gives a file up because of a failure. One that ends the command is told first: nobody waits for the NameNode, which may be why,
/// and the file's lease ends with the command's session.
pub(crate) async fn give_up(writer: &FileWriter, because: &Failure) {
    if !because.is_fatal() {
        writer.abort().await;
    }
}

/// Writes everything and closes the file; what the NameNode then says of its length must agree.
async fn write(
    ctx: &Context,
    new: &NewFile,
    writer: &FileWriter,
    content: impl Stream<Item = Outcome<Bytes>>,
) -> Outcome<u64> {
    let failed = |error| Failure::dfs(&new.target.path, error);
    let mut content = std::pin::pin!(content);
    let mut written = 0;
    while let Some(piece) = content.next().await {
        let piece = piece?;
        writer.write(&piece).await.map_err(failed)?;
        written += piece.len() as u64;
        ctx.progress.moved(piece.len() as u64);
    }
    let closed = writer.complete().await.map_err(failed)?;
    if closed.length != written {
        let words = format!("{written} bytes were written, the NameNode counts {}", closed.length);
        return Err(failed(DfsError::new(ErrorKind::Internal, words)));
    }
    Ok(written)
}
