//! Trees that are being checked before they are removed: what keeps renames out of them, and how far each check is.
//!
//! A caller that is not root may remove a tree if it may empty each directory in it. That is checked page by page, and between
//! the pages others change the tree. A rename could carry something that the caller may not remove past the check, into the
//! part that was looked at already. So renames into a tree that is being checked wait until it is removed or refused
//! ([`TreeChecks`]), and the op names the inode that was checked. If there was nothing to check (a file, an empty directory),
//! the op removes no more than that.
//!
//! The check of a very large tree takes longer than a client waits for an answer. The client then calls again, and the check
//! goes on where it stood ([`TreeRemovals`]).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::ids::{CallId, InodeId};
use parking_lot::Mutex;
use tokio::sync::{Notify, RwLock};

use super::namespace::claims::Life;
use super::namespace::permission::Identity;
use super::namespace::walk::TreeWalk;

/// A check whose call does not come again for this long is given up. Clients try again within a second or two.
pub(super) const CHECK_PATIENCE: Duration = Duration::from_secs(20);

/// Checks that are kept between the tries of their calls. Beyond this number a check begins anew with each try.
const CHECKS_KEPT_MAX: usize = 1_024;

/// Trees that are being checked, and renames under way.
#[derive(Default)]
pub(super) struct TreeChecks {
    /// The top of each tree, with the number of checks that run on it. No other lock is taken under this one.
    pub(super) tops: Mutex<BTreeMap<InodeId, usize>>,
    /// A check is over.
    pub(super) ended: Notify,
    /// Each rename holds it shared until it is applied. A check that begins takes it alone for a moment: so it waits until
    /// the renames before it are applied.
    pub(super) renames: Arc<RwLock<()>>,
}

/// A tree is being checked until this is dropped.
pub(super) struct TreeCheck {
    pub(super) checks: Arc<TreeChecks>,
    pub(super) top: InodeId,
}

impl TreeCheck {
    pub(super) async fn begin(checks: &Arc<TreeChecks>, top: InodeId) -> Self {
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

/// A tree that a call is to remove, once it has been walked over.
pub(super) struct TreeRemoval {
    pub(super) who: Identity,
    pub(super) top: InodeId,
    /// When the check made progress last.
    pub(super) latest: Mutex<Instant>,
    pub(super) progress: tokio::sync::Mutex<Progress>,
}

/// How far its check is.
#[derive(Default)]
pub(super) struct Progress {
    /// There from the beginning of the check until the op is applied or refused.
    pub(super) check: Option<TreeCheck>,
    /// None: not begun, or ended by a refusal.
    pub(super) walk: Option<TreeWalk>,
}

/// Removals whose trees are being checked, by the call that asked.
#[derive(Default)]
pub(super) struct TreeRemovals(pub(super) Mutex<BTreeMap<(Life, CallId), Arc<TreeRemoval>>>);

impl TreeRemovals {
    /// The removal that this call has begun, or a new one.
    pub(super) fn join(&self, call: (Life, CallId), who: &Identity, top: InodeId, now: Instant) -> Arc<TreeRemoval> {
        let mut removals = self.0.lock();
        if let Some(begun) = removals.get(&call).filter(|removal| removal.who == *who && removal.top == top) {
            return Arc::clone(begun);
        }
        let (latest, progress) = (Mutex::new(now), tokio::sync::Mutex::default());
        let begun = Arc::new(TreeRemoval { who: who.clone(), top, latest, progress });
        if removals.len() < CHECKS_KEPT_MAX {
            removals.insert(call, Arc::clone(&begun));
        }
        begun
    }

    /// The check is over: the call is answered, or its op is logged.
    pub(super) fn end(&self, call: (Life, CallId)) {
        self.0.lock().remove(&call);
    }

    /// Gives up checks that nobody goes on with.
    pub(super) fn expire(&self, now: Instant) {
        self.0.lock().retain(|_, removal| now.saturating_duration_since(*removal.latest.lock()) < CHECK_PATIENCE);
    }
}
