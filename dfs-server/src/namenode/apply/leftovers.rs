//! What is removed as a whole and taken apart in steps: trees, and the leases and holds of lives that are over.
//!
//! ```text
//!   Remove of a tree          --> detached: its top has lost its name    (condemned)  --+
//!   OpenSession, EndSession   --> ended: none of its calls is taken       (over)      --+--Forget, Forget, ...--> gone
//! ```
//!
//! An op takes as much away at once as the leader wrote into it (`EditOp.step_limit`): small trees and ordinary sessions are
//! gone with the op itself. For the rest the leader logs `Forget` ops, one after the other, until nothing is left; after a
//! restart it goes on. So nobody waits for the lock longer than one step takes, however large a tree is. Ops logged before
//! there were steps have no limit: they are replayed as they were applied.
//!
//! What others see meanwhile: no directory of a removed tree has attributes to be asked for, can be listed or searched, or
//! gets or loses entries (`check_reachable`); it is gone. What is asked for by number alone is as if it had been opened before
//! the removal: a file below goes when its step comes, or stays for who has it open, and whoever sets an attribute of a
//! directory below sets it in vain.

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{InodeId, ROOT_INODE};

use super::context::Context;
use crate::namenode::namespace::claims::Life;
use crate::namenode::namespace::heights::DEPTH_MAX;
use crate::namenode::namespace::{Namespace, gone};
use crate::namenode::outcome::Outcome;

impl Namespace {
    /// The next step of taking away what is removed or over.
    pub(super) fn apply_forget(&mut self, context: &mut Context<'_>) -> Result<Outcome> {
        while context.steps_left > 0
            && let Some(&id) = self.condemned.last()
        {
            self.empty_condemned(context, id)?;
        }
        while context.steps_left > 0
            && let Some(&life) = self.over.first()
        {
            self.take_claims(context, life);
        }
        Ok(Outcome::Done)
    }

    /// An entry of `parent` that named `id` is gone: the link count falls, a directory goes with all below it.
    pub(super) fn drop_name(&mut self, context: &mut Context<'_>, parent: InodeId, id: InodeId) -> Result<()> {
        if let Some(directory) = self.inode(id)?.directory() {
            let height = directory.heights.height();
            self.inode_mut(parent)?.nlink -= 1;
            self.change_height(parent, Some(height), None)?;
        }
        self.unlink(context, id)?;
        if self.condemned.contains(&id) { self.empty_condemned(context, id) } else { Ok(()) }
    }

    /// An inode has one name less. A directory with entries is condemned; what nothing keeps is gone.
    fn unlink(&mut self, context: &mut Context<'_>, id: InodeId) -> Result<()> {
        let inode = self.inode_mut(id)?;
        inode.ctime_ns = context.now_ns;
        match inode.directory().map(|directory| directory.is_empty()) {
            None => inode.nlink -= 1,
            Some(is_empty) => {
                inode.nlink = 0;
                if !is_empty {
                    self.condemned.insert(id);
                    return Ok(());
                }
            }
        }
        self.reap(id, context.events);
        Ok(())
    }

    /// Empties a condemned directory and those it condemns, as far as the op's steps reach. It goes down first, so that few
    /// are condemned at a time.
    fn empty_condemned(&mut self, context: &mut Context<'_>, top: InodeId) -> Result<()> {
        let mut path = vec![top];
        while context.steps_left > 0
            && let Some(&id) = path.last()
        {
            let told = context.events.len();
            let directory = self.directory_mut(id)?;
            let entry = directory.pop_first();
            // Never left empty: an image tells the condemned by their entries.
            if directory.is_empty() {
                path.pop();
                self.condemned.remove(&id);
                self.reap(id, context.events);
            }
            if let Some(entry) = entry {
                self.unlink(context, entry.inode)?;
                if self.condemned.contains(&entry.inode) {
                    path.push(entry.inode);
                }
            }
            context.pay(told);
        }
        Ok(())
    }

    /// A life has ended: its leases and holds go. A file whose last block is still open stays leased until it is recovered.
    pub(super) fn end_life(&mut self, context: &mut Context<'_>, life: Life) {
        self.over.insert(life);
        self.leases.note_life_over();
        self.take_claims(context, life);
    }

    fn take_claims(&mut self, context: &mut Context<'_>, life: Life) {
        loop {
            let (leased, held) = (self.leases.first_of(life), self.holds.first_of(life));
            if leased.is_none() && held.is_none() {
                // Costs no step: after a start from an image a life without claims is not among them.
                self.over.remove(&life);
                return;
            }
            if context.steps_left == 0 {
                return;
            }
            let told = context.events.len();
            if let Some(id) = leased {
                self.revoke(context, id);
            } else if let Some(id) = held {
                self.holds.remove(id, life);
                self.reap(id, context.events);
            }
            context.pay(told);
        }
    }

    /// Refuses a directory that hangs in a removed tree: it is gone, although its step has not come. When no tree is being
    /// taken apart, as mostly, this costs nothing.
    ///
    /// # Errors
    /// `Stale`. `Unavailable` for one deeper than directories can be made: until those trees are gone nobody knows.
    pub fn check_reachable(&self, id: InodeId) -> Result<()> {
        if self.condemned.is_empty() {
            return Ok(());
        }
        let mut at = id;
        for _ in 0..=DEPTH_MAX {
            if at == ROOT_INODE {
                return Ok(());
            }
            let inode = self.inode(at).map_err(|_| gone(id))?;
            // One that was itself removed stays for who holds it.
            if inode.nlink == 0 && !(at == id && self.holds.has(id)) {
                return Err(gone(id));
            }
            let Some(directory) = inode.directory() else { return Err(gone(id)) };
            if inode.nlink == 0 {
                return Ok(());
            }
            at = directory.parent;
        }
        let words =
            format!("inode {id} stands too deep to be looked for while trees are being removed; try again later");
        Err(DfsError::new(ErrorKind::Unavailable, words))
    }

    /// What an image does not say of itself: what is condemned, which lives are over, and how high directories are.
    pub(in crate::namenode) fn find_leftovers(&mut self) {
        self.find_heights();
        let is_condemned = |inode: &crate::namenode::namespace::inode::Inode| {
            inode.nlink == 0 && inode.directory().is_some_and(|directory| !directory.is_empty())
        };
        let condemned = self.all_inodes().filter(|(_, inode)| is_condemned(inode)).map(|(id, _)| id).collect();
        let over = self.leases.lives().chain(self.holds.lives()).filter(|life| !self.is_alive(*life)).collect();
        self.condemned = condemned;
        self.over = over;
    }
}
