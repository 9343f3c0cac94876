//! Calls that concern whole trees, which may be as large as the namespace: they go through it page by page, and what is
//! removed is taken apart step by step, so that nobody waits for them. Before a tree is removed, its directories are checked;
//! `tree_checks` says how others are kept from changing it meanwhile.

use std::sync::Arc;

use dfs_common::error::Result;
use dfs_common::ids::InodeId;
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{ForgetOp, RemoveOp, RenameOp, RequestHeader};
use roaring::RoaringTreemap;

use super::apply::CallKey;
use super::apply::entries::check_may_remove;
use super::journal::Token;
use super::namespace::heights::DEPTH_MAX;
use super::namespace::inode::Inode;
use super::namespace::permission::Identity;
use super::namespace::read::ContentSummary;
use super::namespace::walk::{TreeWalk, WALK_PAGE};
use super::namesystem::{Namesystem, call_key};
use super::outcome::Outcome;
use super::tree_checks::{TreeCheck, TreeRemoval};

impl Namesystem {
    /// Moves an entry, or exchanges two.
    ///
    /// # Errors
    /// As `mutate`.
    pub async fn rename(&self, header: Option<RequestHeader>, op: RenameOp) -> Result<Outcome> {
        let directories = [InodeId(op.src_parent), InodeId(op.dst_parent)];
        let checks = &self.tree_checks;
        let under_way = loop {
            let ended = checks.ended.notified();
            let under_way = Arc::clone(&checks.renames).read_owned().await;
            if !self.is_being_checked(directories) {
                break under_way;
            }
            drop(under_way);
            ended.await;
        };
        self.mutate_holding(header, Op::Rename(op), Some(Box::new(under_way))).await
    }

    /// Whether one of the directories lies in a tree that is being checked.
    fn is_being_checked(&self, directories: [InodeId; 2]) -> bool {
        if self.tree_checks.tops.lock().is_empty() {
            return false;
        }
        let namespace = self.namespace().read();
        let tops = self.tree_checks.tops.lock();
        let is_in_one = |id| {
            let mut way = namespace.way_up(id);
            // One deeper than directories can be made is taken for one that does.
            way.by_ref().take(DEPTH_MAX + 1).any(|id| tops.contains_key(&id)) || way.next().is_some()
        };
        directories.into_iter().any(is_in_one)
    }

    /// Removes an entry and all below it. Who is not root must be allowed to empty each directory in the tree: that is looked
    /// at before, page by page, and not again when the op is applied.
    ///
    /// # Errors
    /// As `mutate`.
    pub async fn remove_tree(&self, header: Option<RequestHeader>, mut op: RemoveOp) -> Result<Outcome> {
        let mut held: Token = None;
        if self.recorded(header.as_ref())?.is_none() {
            let who = Identity::of(header.as_ref().and_then(|header| header.caller.as_ref()));
            let key = call_key(header.as_ref())?;
            // Who would be refused in any case has no tree walked over.
            let planned = self.check_writable().and_then(|()| {
                let namespace = self.namespace().read();
                namespace.check_call(key)?;
                namespace.plan_tree_removal(&who, &op)
            });
            let (kind, tree) = match planned {
                Ok(planned) => planned,
                // An earlier try of the same call may have been applied since it was looked for; so below.
                Err(error) => return self.recorded(header.as_ref())?.ok_or(error),
            };
            op.kind = kind.into();
            if let Some(top) = tree {
                op.inode = top.0;
                held = match self.check_tree(&key, &who, top).await {
                    Ok(checked) => Some(Box::new(checked)),
                    Err(error) => return self.recorded(header.as_ref())?.ok_or(error),
                };
            }
        }
        self.mutate_holding(header, Op::Remove(op), held).await
    }

    /// Looks whether the caller may remove the tree at `top`; what it gives keeps renames out until it is dropped. Dropped
    /// before its end, it goes on when the call comes again.
    async fn check_tree(&self, key: &CallKey, who: &Identity, top: InodeId) -> Result<Arc<TreeRemoval>> {
        let call = ((key.client, key.incarnation), key.call);
        let removal = self.tree_removals.join(call, who, top, self.clock.instant());
        let mut progress = removal.progress.lock().await;
        if progress.check.is_none() {
            progress.check = Some(TreeCheck::begin(&self.tree_checks, top).await);
        }
        let mut visit = |parent: Option<&Inode>, _, inode: &Inode| check_may_remove(who, parent, inode);
        loop {
            let mut walk = progress.walk.take().unwrap_or_else(|| TreeWalk::new(top));
            let went_on = walk.go_on(&self.namespace().read(), WALK_PAGE, &mut visit);
            if !matches!(went_on, Ok(true)) {
                self.tree_removals.end(call);
            }
            let is_more = went_on?;
            progress.walk = Some(walk);
            if !is_more {
                break;
            }
            *removal.latest.lock() = self.clock.instant();
            tokio::task::yield_now().await;
        }
        drop(progress);
        Ok(removal)
    }

    /// Totals of the tree at `id`. What has several names in it counts once, as in du.
    ///
    /// # Errors
    /// `PermissionDenied` for a directory in it that the caller may not read.
    pub async fn content_summary(&self, who: &Identity, id: InodeId) -> Result<ContentSummary> {
        let mut summary = ContentSummary::default();
        // Those seen that have other names, which may lie in the tree too.
        let mut seen = RoaringTreemap::new();
        let add = |id: InodeId, inode: &Inode| {
            let may_come_again = inode.directory().is_none() && inode.nlink > 1;
            if may_come_again && !seen.insert(id.0) { Ok(()) } else { summary.add(who, inode) }
        };
        self.walk(id, add).await?;
        Ok(summary)
    }

    /// Visits a tree page by page; others have their turn between.
    async fn walk(&self, top: InodeId, mut visit: impl FnMut(InodeId, &Inode) -> Result<()>) -> Result<()> {
        let mut walk = TreeWalk::new(top);
        let mut visit = |_: Option<&Inode>, id, inode: &Inode| visit(id, inode);
        while walk.go_on(&self.namespace().read(), WALK_PAGE, &mut visit)? {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Takes away what is left of removed trees and ended sessions, step by step, until nothing is.
    ///
    /// # Errors
    /// Of logging.
    pub async fn forget_leftovers(&self) -> Result<()> {
        while self.blocks().is_active() && !self.blocks().is_read_only() && self.namespace().read().has_leftovers() {
            self.mutate_internally(Op::Forget(ForgetOp {})).await?;
        }
        Ok(())
    }

    /// Returns when something may be left.
    pub async fn leftovers_made(&self) {
        self.leftovers.notified().await;
    }
}

#[cfg(test)]
#[path = "trees_tests.rs"]
pub(super) mod tests;
