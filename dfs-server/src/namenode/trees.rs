//! Calls that concern whole trees, which may be as large as the namespace: they go through it page by page, and what is
//! removed is taken apart step by step, so that nobody waits for them.
//!
//! Who is not root may remove a tree if he may empty each directory in it. Between the pages of that check others change the
//! tree, and a rename could carry what he may not remove past it: into the part that was looked at, or from before to behind
//! where the check stands. So renames into a tree that is being checked wait until it is removed or refused
//! ([`TreeChecks`]), and the op names the inode that was looked at.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use dfs_common::error::Result;
use dfs_common::ids::InodeId;
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{ForgetOp, RemoveOp, RenameOp, RequestHeader};
use parking_lot::Mutex;
use tokio::sync::{Notify, RwLock};

use super::apply::entries::check_may_remove;
use super::journal::Token;
use super::namespace::inode::Inode;
use super::namespace::permission::Identity;
use super::namespace::read::ContentSummary;
use super::namespace::walk::{TreeWalk, WALK_PAGE};
use super::namesystem::Namesystem;
use super::outcome::Outcome;

/// Trees that are being checked, and renames under way.
#[derive(Default)]
pub(super) struct TreeChecks {
    /// Tops, each with how many checks it is under. A leaf among the locks.
    tops: Mutex<BTreeMap<InodeId, usize>>,
    /// A check is over.
    ended: Notify,
    /// Held by renames until they are applied, and by a check that begins for a moment: those before it are over then.
    renames: Arc<RwLock<()>>,
}

/// A tree is being checked until this is dropped.
struct TreeCheck {
    checks: Arc<TreeChecks>,
    top: InodeId,
}

impl TreeCheck {
    async fn begin(checks: &Arc<TreeChecks>, top: InodeId) -> Self {
        *checks.tops.lock().entry(top).or_default() += 1;
        let check = Self { checks: Arc::clone(checks), top };
        drop(checks.renames.write().await);
        check
    }
}

impl Drop for TreeCheck {
    fn drop(&mut self) {
        let mut tops = self.checks.tops.lock();
        if let Entry::Occupied(mut count) = tops.entry(self.top) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.checks.ended.notify_waiters();
    }
}

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
        directories.into_iter().any(|id| namespace.way_up(id).any(|id| tops.contains_key(&id)))
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
            let tree = self.namespace().read().tree_to_check(&who, &op)?;
            if let Some(top) = tree {
                let check = TreeCheck::begin(&self.tree_checks, top).await;
                self.walk(top, |parent, inode| check_may_remove(&who, parent, inode)).await?;
                op.inode = top.0;
                held = Some(Box::new(check));
            }
        }
        let outcome = self.mutate_holding(header, Op::Remove(op), held).await?;
        self.leftovers.notify_one();
        Ok(outcome)
    }

    /// Totals of the tree at `id`.
    ///
    /// # Errors
    /// `PermissionDenied` for a directory in it that the caller may not read.
    pub async fn content_summary(&self, who: &Identity, id: InodeId) -> Result<ContentSummary> {
        let mut summary = ContentSummary::default();
        self.walk(id, |_, inode| summary.add(who, inode)).await?;
        Ok(summary)
    }

    /// Visits a tree page by page; others have their turn between.
    async fn walk(&self, top: InodeId, mut visit: impl FnMut(Option<&Inode>, &Inode) -> Result<()>) -> Result<()> {
        let mut walk = TreeWalk::new(top);
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
            // Files of a life that is over may begin to wait.
            self.recovery.wanted.notify_one();
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
mod tests;
