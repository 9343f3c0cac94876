//! Copies in the cluster that are not whole yet.
//!
//! Their names are made exclusively, so that they are ours alone: two commands that write to one place do not write into one
//! file, and a user's own `doc._COPYING_` is left alone. Whoever makes one either publishes it, which renames it to its
//! final name in one step, or discards it. `local_temporary` does the same on this machine.

use std::future::Future;
use std::sync::Arc;

use dfs_client::{Caller, DfsClient, RenameFlag};
use dfs_common::attr::FileKind;
use dfs_common::ids::InodeId;
use dfs_common::{DfsError, ErrorKind};

use crate::context::Context;
use crate::destination::Target;
use crate::failure::{Failure, Outcome};
use crate::leftovers::{Leftover, LeftoverId, Leftovers, Place};
use crate::temporary_name::{TRIES, temporary_name};

/// Said of a fifo, socket or device that has the name of a copy.
pub(crate) const NOT_REPLACED: &str = "not a regular file; it is not replaced by one";

/// Something of ours in the cluster that has no final name yet.
#[derive(Debug)]
pub(crate) struct RemoteTemporary {
    parent: InodeId,
    name: Vec<u8>,
    inode: InodeId,
    leftover: LeftoverId,
}

impl RemoteTemporary {
    /// Makes something, with `make`, beside what will be `target`. `make` gets the name, must refuse one that is taken,
    /// and returns the inode with whatever the caller needs.
    ///
    /// # Errors
    /// Those of `make`; `Cancelled` when the command has ended.
    pub(crate) async fn make<T, F>(
        ctx: &Context,
        target: &Target,
        make: impl Fn(DfsClient, Caller, Vec<u8>) -> F,
    ) -> Outcome<(T, Self)>
    where
        T: Send + 'static,
        F: Future<Output = dfs_common::Result<(InodeId, T)>> + Send + 'static,
    {
        let parent = target.parent;
        let mut tries = 1;
        loop {
            let name = temporary_name(&target.name);
            let making = make(ctx.client.clone(), ctx.caller.clone(), name.clone());
            match Self::make_noted(&ctx.leftovers, parent, name, making).await {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && tries < TRIES => tries += 1,
                made => return made.map_err(|error| Failure::dfs(&target.path, error)),
            }
        }
    }

    async fn make_noted<T: Send + 'static>(
        leftovers: &Arc<Leftovers>,
        parent: InodeId,
        name: Vec<u8>,
        making: impl Future<Output = dfs_common::Result<(InodeId, T)>> + Send + 'static,
    ) -> dfs_common::Result<(T, Self)> {
        let Some(leftover) = leftovers.expect(Place::Cluster) else {
            return Err(DfsError::new(ErrorKind::Cancelled, ""));
        };
        let leftovers = Arc::clone(leftovers);
        // A task of its own: the transfer may be ended while the NameNode makes the file, and then nobody would know of it.
        let made = tokio::spawn(async move {
            let made = making.await;
            let note = |inode| Leftover::Remote { parent, name: name.clone(), inode };
            match &made {
                Ok((inode, _)) => leftovers.made(leftover, note(Some(*inode))),
                Err(error) if error.is_refusal() => leftovers.forget(leftover),
                // It may be there, or come to be there.
                Err(_) => leftovers.made(leftover, note(None)),
            }
            made.map(|(inode, made)| (made, Self { parent, name, inode, leftover }))
        });
        made.await.unwrap_or_else(|error| Err(DfsError::new(ErrorKind::Internal, error.to_string())))
    }

    /// Gives it its final name, in place of a file or link of that name if `replace` is set.
    ///
    /// # Errors
    /// When something else has the name; of rename.
    pub(crate) async fn publish(&self, ctx: &Context, target: &Target, replace: bool) -> Outcome {
        let failed = |error| Failure::dfs(&target.path, error);
        match ctx.client.lookup(&ctx.caller, self.parent, &self.name).await {
            Ok(there) if there.inode == self.inode => {}
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            Ok(_) | Err(_) => {
                let words = "the unfinished copy was removed by somebody else";
                return Err(Failure::refused(&target.path, words).with_hint("run the command again"));
            }
        }
        let flag = if replace { RenameFlag::Replace } else { RenameFlag::NoReplace };
        if replace {
            // The NameNode would put a file into the place of anything but a directory.
            check_remote_place(ctx, target, replace).await?;
        }
        let (from, to) = ((self.parent, self.name.as_slice()), (target.parent, target.name.as_slice()));
        match ctx.client.rename(&ctx.caller, from, to, flag).await {
            Ok(()) => ctx.leftovers.forget(self.leftover),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && !replace => return Err(exists(target)),
            Err(error) => return Err(failed(error)),
        }
        Ok(())
    }

    /// Removes it, because of a failure.
    pub(crate) async fn discard(self, ctx: &Context, because: &Failure) {
        ctx.leftovers.discard(&ctx.client, &ctx.caller, self.leftover, because).await;
    }
}

/// Refuses early what would be refused only after all bytes are there, and what must not be replaced by a copy.
///
/// # Errors
/// With what is there.
pub(crate) async fn check_remote_place(ctx: &Context, target: &Target, replace: bool) -> Outcome {
    let there = match ctx.client.lookup(&ctx.caller, target.parent, &target.name).await {
        Ok(there) => there,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::dfs(&target.path, error)),
    };
    match there.kind {
        FileKind::Directory => Err(Failure::kind(&target.path, ErrorKind::IsADirectory)),
        FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => {
            Err(Failure::refused(&target.path, NOT_REPLACED))
        }
        FileKind::File | FileKind::Symlink if !replace => Err(exists(target)),
        FileKind::File | FileKind::Symlink => Ok(()),
    }
}

fn exists(target: &Target) -> Failure {
    Failure::kind(&target.path, ErrorKind::AlreadyExists).with_hint("use -f to replace it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn make_noted_forgets_only_what_was_surely_not_made() {
        use dfs_common::error::CallFate;
        for (fate, is_noted) in [(CallFate::Refused, false), (CallFate::Unknown, true), (CallFate::Unanswered, true)] {
            let leftovers = Arc::new(Leftovers::default());
            let making = async move { Err(DfsError::new(ErrorKind::TimedOut, "").with_fate(fate)) };
            let made = RemoteTemporary::make_noted::<()>(&leftovers, InodeId(1), b"t".to_vec(), making).await;
            assert!(made.is_err());
            assert_eq!(leftovers.are_left(), is_noted, "{fate:?}");
        }
    }
}
