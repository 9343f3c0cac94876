//! Making a file in the cluster as HDFS's shell does: under `NAME._COPYING_`, renamed once it is whole.
//!
//! So nobody ever sees half a file under the final name, and a transfer that fails leaves nothing. The rename names what
//! may be replaced, and is made only while the temporary name still leads to our own file: a second transfer to the same
//! place may have taken the name, but it can never publish the other's half-written file.

use bytes::Bytes;
use dfs_client::{CreateOptions, CreatedFile, FileWriter, RenameFlag, SetAttr};
use dfs_common::checksum::crc32c;
use dfs_common::ids::InodeId;
use dfs_common::name::NAME_MAX;
use dfs_common::{DfsError, ErrorKind};
use futures::stream::{Stream, StreamExt};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::leftovers::Leftover;
use crate::path::DfsPath;

/// What is behind the name of a file that is not whole yet; HDFS's.
pub(crate) const COPYING_SUFFIX: &[u8] = b"._COPYING_";

/// A file to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewFile {
    /// Its directory.
    pub(crate) parent: InodeId,
    /// Its name there.
    pub(crate) name: Vec<u8>,
    /// Both, for complaints.
    pub(crate) path: DfsPath,
    /// Permission bits.
    pub(crate) mode: u32,
    /// What else it gets before it appears.
    pub(crate) attributes: SetAttr,
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
        check_name(ctx, new).await?;
    }
    let temporary = temporary_name(&new.name);
    let file = create(ctx, new, &temporary).await?;
    let leftover = Leftover::Remote { parent: new.parent, name: temporary.clone(), inode: file.attr.inode };
    let leftover = ctx.leftovers.add(leftover);
    let outcome = fill_and_publish(ctx, new, &temporary, &file, content).await;
    match &outcome {
        Ok(_) => ctx.leftovers.forget(leftover),
        Err(_) => ctx.leftovers.discard(&ctx.client, &ctx.caller, leftover).await,
    }
    outcome
}

/// Refuses early what the rename would refuse only after all bytes are there.
async fn check_name(ctx: &Context, new: &NewFile) -> Outcome {
    match ctx.client.lookup(&ctx.caller, new.parent, &new.name).await {
        Ok(attr) if attr.kind == dfs_common::attr::FileKind::Directory => {
            Err(Failure::kind(&new.path, ErrorKind::IsADirectory))
        }
        Ok(_) if !new.replace => Err(exists(&new.path)),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Failure::dfs(&new.path, error)),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn exists(path: &DfsPath) -> Failure {
    Failure::kind(path, ErrorKind::AlreadyExists).with_hint("use -f to replace it")
}

/// Makes the temporary file. One that an earlier transfer left is removed; one that is being written only by force.
async fn create(ctx: &Context, new: &NewFile, temporary: &[u8]) -> Outcome<CreatedFile> {
    let failed = |error| Failure::dfs(&new.path, error);
    let options = CreateOptions {
        parent: new.parent,
        name: temporary,
        mode: new.mode,
        replication: ctx.settings.file_defaults.replication,
        block_size: ctx.settings.file_defaults.block_size,
        open_for_write: true,
        exclusive: true,
    };
    match ctx.client.create(&ctx.caller, options.clone()).await {
        Ok(file) => return Ok(file),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let old = ctx.client.lookup(&ctx.caller, new.parent, temporary).await;
    match old {
        Ok(attr) if attr.under_construction && !new.replace => {
            let place = new.path.parent().unwrap_or_else(DfsPath::root).join(temporary);
            let words = format!("another transfer writes {place}");
            return Err(Failure::refused(&new.path, words).with_hint("wait for it, or use -f to take its place"));
        }
        Ok(_) => match ctx.client.unlink(&ctx.caller, new.parent, temporary).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    ctx.client.create(&ctx.caller, options).await.map_err(failed)
}

async fn fill_and_publish(
    ctx: &Context,
    new: &NewFile,
    temporary: &[u8],
    file: &CreatedFile,
    content: impl Stream<Item = Outcome<Bytes>>,
) -> Outcome<u64> {
    let failed = |error| Failure::dfs(&new.path, error);
    let not_opened = || DfsError::new(ErrorKind::Internal, "the new file was not opened for writing");
    let writer = file.writer.as_ref().ok_or_else(|| failed(not_opened()))?;
    let written = match fill(ctx, new, writer, content).await {
        Ok(written) => written,
        Err(failure) => {
            writer.abort().await;
            return Err(failure);
        }
    };
    if new.attributes != SetAttr::default() {
        ctx.client.set_attr(&ctx.caller, file.attr.inode, new.attributes).await.map_err(failed)?;
    }
    match ctx.client.lookup(&ctx.caller, new.parent, temporary).await {
        Ok(there) if there.inode == file.attr.inode => {}
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        Ok(_) | Err(_) => {
            let words = "another transfer to the same place has taken over";
            return Err(Failure::refused(&new.path, words).with_hint("run one at a time"));
        }
    }
    let flag = if new.replace { RenameFlag::Replace } else { RenameFlag::NoReplace };
    let renamed = ctx.client.rename(&ctx.caller, (new.parent, temporary), (new.parent, &new.name), flag).await;
    match renamed {
        Ok(()) => Ok(written),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(exists(&new.path)),
        Err(error) => Err(failed(error)),
    }
}

/// Writes everything and closes the file; what the NameNode then says of its length must agree.
async fn fill(
    ctx: &Context,
    new: &NewFile,
    writer: &FileWriter,
    content: impl Stream<Item = Outcome<Bytes>>,
) -> Outcome<u64> {
    let failed = |error| Failure::dfs(&new.path, error);
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

/// The name of a file that is not whole yet. A name too long for the suffix is cut, and told apart by its checksum.
pub(crate) fn temporary_name(name: &[u8]) -> Vec<u8> {
    if name.len() + COPYING_SUFFIX.len() <= NAME_MAX {
        return [name, COPYING_SUFFIX].concat();
    }
    let tail = format!(".{:08x}", crc32c(name));
    let kept = NAME_MAX - COPYING_SUFFIX.len() - tail.len();
    [&name[..kept.min(name.len())], tail.as_bytes(), COPYING_SUFFIX].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_name_is_hdfs_own() {
        assert_eq!(temporary_name(b"a.txt"), b"a.txt._COPYING_");
    }

    #[test]
    fn temporary_name_of_any_name_is_a_name() {
        for length in 240..=NAME_MAX {
            let name = vec![b'x'; length];
            assert!(temporary_name(&name).len() <= NAME_MAX, "{length}");
        }
        let (mut one, mut other) = (vec![b'x'; NAME_MAX], vec![b'x'; NAME_MAX]);
        (one[254], other[254]) = (b'1', b'2');
        assert_ne!(temporary_name(&one), temporary_name(&other));
    }
}
