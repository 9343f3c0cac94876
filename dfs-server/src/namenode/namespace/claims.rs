//! What clients have of files: leases and holds, found by file and by the life of the client that has them.
//!
//! A life may have a hundred thousand of them when it ends, and there may be millions of other clients'. So nothing here is
//! found by looking at all: a life's claims are a range, the files that wait for recovery are a set of their own.

use std::collections::{BTreeMap, BTreeSet};

use dfs_common::ids::{BlockId, CallId, ClientId, GenerationStamp, Incarnation, InodeId};

/// One life of a client.
pub type Life = (ClientId, Incarnation);

/// Changes of leases that are told one by one. A batch of ops makes fewer, unless it ends sessions or settles calls: each of these may
/// end hundreds.
const CHANGES_MAX: usize = 4096;

const FIRST: InodeId = InodeId(0);
const LAST: InodeId = InodeId(u64::MAX);

/// The right to write a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Who writes. A client whose session ended keeps the lease until the file is recovered.
    pub client: ClientId,
    /// The life of the client that took it.
    pub incarnation: Incarnation,
    /// The call of that life that took it: with it every lease has a name of its own. 0: taken before calls were noted.
    pub call: CallId,
    /// The last block has been allocated or reopened and its length is not committed.
    pub open_block: Option<BlockId>,
    /// DataNodes and volumes of the open block, for retries, for readers, and for its recovery: those that may have bytes of it.
    /// Never in an image: none are known then.
    pub targets: Vec<(String, String)>,
    /// The writer is gone with a block open, or the block is being cut: the file waits for block recovery.
    pub needs_recovery: bool,
    /// The recovery begun last: a generation stamp. Only this one may close the file.
    pub recovery_id: Option<GenerationStamp>,
    /// The recovery is to cut the open block to its recorded length.
    pub is_truncating: bool,
}

impl Lease {
    /// A lease just taken: nothing is open yet.
    pub fn taken_by(client: ClientId, incarnation: Incarnation, call: CallId) -> Self {
        Self {
            client,
            incarnation,
            call,
            open_block: None,
            targets: Vec::new(),
            needs_recovery: false,
            recovery_id: None,
            is_truncating: false,
        }
    }

    /// Whether this life has it.
    pub fn is_of(&self, life: Life) -> bool {
        (self.client, self.incarnation) == life
    }
}

/// All leases.
#[derive(Debug, Default)]
pub struct Leases {
    by_file: BTreeMap<InodeId, Lease>,
    /// Of those that have a writer.
    by_life: BTreeSet<(Life, InodeId)>,
    /// Of those whose file waits for recovery.
    waiting: BTreeSet<(ClientId, InodeId)>,
    changes: LeaseChanges,
}

/// What has become of leases since somebody asked last.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LeaseChanges {
    /// Files whose lease has ended or has lost its writer.
    pub files: Vec<InodeId>,
    /// There were more of them: whoever only applies ops never asks.
    pub are_more: bool,
    /// A file has begun to wait for recovery.
    pub waits_begun: bool,
    /// The life of a client has ended: whoever wants a file that it still has may take it.
    pub life_over: bool,
}

impl LeaseChanges {
    fn note(&mut self, id: InodeId) {
        if self.files.len() < CHANGES_MAX {
            self.files.push(id);
        } else {
            self.are_more = true;
        }
    }
}

impl Leases {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_file.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_file.is_empty()
    }

    /// The lease of a file.
    pub fn get(&self, id: InodeId) -> Option<&Lease> {
        self.by_file.get(&id)
    }

    /// Whether the file is leased.
    pub fn contains(&self, id: InodeId) -> bool {
        self.by_file.contains_key(&id)
    }

    /// The lease of a file, to be changed; but not whose it is, nor that its file waits.
    pub fn get_mut(&mut self, id: InodeId) -> Option<&mut Lease> {
        self.by_file.get_mut(&id)
    }

    /// The file has lost its writer and waits for recovery.
    pub fn wait_for_recovery(&mut self, id: InodeId) {
        let Some(lease) = self.by_file.get_mut(&id).filter(|lease| !lease.needs_recovery) else { return };
        lease.needs_recovery = true;
        self.changes.note(id);
        self.changes.waits_begun = true;
        self.by_life.remove(&((lease.client, lease.incarnation), id));
        self.waiting.insert((lease.client, id));
    }

    /// Puts a lease in place of the one that was there.
    pub fn insert(&mut self, id: InodeId, lease: Lease) {
        self.remove(id);
        if lease.needs_recovery {
            self.changes.waits_begun = true;
            self.waiting.insert((lease.client, id));
        } else {
            self.by_life.insert(((lease.client, lease.incarnation), id));
        }
        self.by_file.insert(id, lease);
    }

    /// Takes a lease away.
    pub fn remove(&mut self, id: InodeId) -> Option<Lease> {
        let lease = self.by_file.remove(&id)?;
        self.changes.note(id);
        if lease.needs_recovery {
            self.waiting.remove(&(lease.client, id));
        } else {
            self.by_life.remove(&((lease.client, lease.incarnation), id));
        }
        Some(lease)
    }

    /// All of them, by file.
    pub fn iter(&self) -> impl Iterator<Item = (InodeId, &Lease)> {
        self.by_file.iter().map(|(id, lease)| (*id, lease))
    }

    /// Lives that have any, each once or more.
    pub fn lives(&self) -> impl Iterator<Item = Life> {
        self.by_life.iter().map(|(life, _)| *life)
    }

    /// A file that this life writes.
    pub fn first_of(&self, life: Life) -> Option<InodeId> {
        self.by_life.range((life, FIRST)..=(life, LAST)).next().map(|(_, id)| *id)
    }

    /// Whether any lease is the client's, in whichever life, waiting files included.
    pub fn has_any(&self, client: ClientId) -> bool {
        let lives = ((client, Incarnation(0)), FIRST)..=((client, Incarnation(u64::MAX)), LAST);
        self.by_life.range(lives).next().is_some()
            || self.waiting.range((client, FIRST)..=(client, LAST)).next().is_some()
    }

    /// The life of a client has ended. What it has is taken from it afterwards, perhaps in steps.
    pub fn note_life_over(&mut self) {
        self.changes.life_over = true;
    }

    /// What has changed since this was asked last.
    pub fn take_changes(&mut self) -> LeaseChanges {
        std::mem::take(&mut self.changes)
    }

    /// Files that wait for recovery, those after `after` in an order of their own.
    pub fn waiting_after(&self, after: Option<(ClientId, InodeId)>) -> impl Iterator<Item = (ClientId, InodeId)> {
        let after = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.waiting.range((after, std::ops::Bound::Unbounded)).copied()
    }
}

/// All holds: a client has the inode open and somebody may remove its last name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// With the call that said so last; 0: said before calls were noted.
    by_file: BTreeMap<(InodeId, Life), CallId>,
    by_life: BTreeSet<(Life, InodeId)>,
    counts: BTreeMap<Life, usize>,
}

impl Holds {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_file.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_file.is_empty()
    }

    /// How many this life has.
    pub fn count_of(&self, life: Life) -> usize {
        self.counts.get(&life).copied().unwrap_or(0)
    }

    /// Whether anybody holds the inode.
    pub fn has(&self, id: InodeId) -> bool {
        let first = (id, (ClientId([0; 16]), Incarnation(0)));
        self.by_file.range(first..=(id, (ClientId([0xff; 16]), Incarnation(u64::MAX)))).next().is_some()
    }

    /// Adds one, said by `call`. One that is there is that of the later call.
    pub fn insert(&mut self, id: InodeId, life: Life, call: CallId) {
        let latest = self.by_file.entry((id, life)).or_insert(call);
        *latest = call.max(*latest);
        if self.by_life.insert((life, id)) {
            *self.counts.entry(life).or_default() += 1;
        }
    }

    /// The call that said last that this life holds the inode.
    pub fn call_of(&self, id: InodeId, life: Life) -> Option<CallId> {
        self.by_file.get(&(id, life)).copied()
    }

    /// Takes one away; false when it is not there.
    pub fn remove(&mut self, id: InodeId, life: Life) -> bool {
        if self.by_file.remove(&(id, life)).is_none() {
            return false;
        }
        self.by_life.remove(&(life, id));
        if let Some(count) = self.counts.get_mut(&life) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&life);
            }
        }
        true
    }

    /// All of them, by inode.
    pub fn iter(&self) -> impl Iterator<Item = (InodeId, Life, CallId)> {
        self.by_file.iter().map(|((id, life), call)| (*id, *life, *call))
    }

    /// Lives that have any.
    pub fn lives(&self) -> impl Iterator<Item = Life> {
        self.counts.keys().copied()
    }

    /// An inode that this life holds.
    pub fn first_of(&self, life: Life) -> Option<InodeId> {
        self.by_life.range((life, FIRST)..=(life, LAST)).next().map(|(_, id)| *id)
    }

    /// Whether the client holds anything, in whichever life.
    pub fn has_any(&self, client: ClientId) -> bool {
        self.counts.range((client, Incarnation(0))..=(client, Incarnation(u64::MAX))).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: ClientId = ClientId([1; 16]);

    #[test]
    fn leases_are_listed_by_life_until_their_file_waits() {
        let mut leases = Leases::default();
        let life = (CLIENT, Incarnation(4));
        leases.insert(InodeId(20), Lease::taken_by(life.0, life.1, CallId(1)));
        leases.insert(InodeId(20), Lease::taken_by(life.0, Incarnation(5), CallId(1)));
        assert_eq!((leases.first_of(life), leases.first_of((CLIENT, Incarnation(5)))), (None, Some(InodeId(20))));
        leases.wait_for_recovery(InodeId(20));
        assert_eq!(leases.lives().count(), 0);
        assert_eq!(leases.waiting_after(None).collect::<Vec<_>>(), [(CLIENT, InodeId(20))]);
        assert_eq!(leases.waiting_after(Some((CLIENT, InodeId(20)))).count(), 0);
        assert!(leases.has_any(CLIENT));
        leases.remove(InodeId(20));
        assert!(!leases.has_any(CLIENT) && leases.waiting_after(None).next().is_none());
    }

    #[test]
    fn changes_are_told_once_and_are_bounded() {
        let life = (CLIENT, Incarnation(1));
        let lease = Lease::taken_by(life.0, life.1, CallId(1));
        let mut leases = Leases::default();
        leases.insert(InodeId(20), lease.clone());
        assert_eq!(leases.take_changes(), LeaseChanges::default());
        leases.wait_for_recovery(InodeId(20));
        leases.wait_for_recovery(InodeId(20));
        let told = LeaseChanges { files: vec![InodeId(20)], waits_begun: true, ..LeaseChanges::default() };
        assert_eq!(leases.take_changes(), told);
        leases.remove(InodeId(20));
        let told = LeaseChanges { files: vec![InodeId(20)], ..LeaseChanges::default() };
        assert_eq!((leases.take_changes(), leases.take_changes()), (told, LeaseChanges::default()));
        for id in 0..CHANGES_MAX as u64 + 1 {
            leases.insert(InodeId(id), lease.clone());
            leases.remove(InodeId(id));
        }
        let told = leases.take_changes();
        assert_eq!((told.files.len(), told.are_more), (CHANGES_MAX, true));
    }

    #[test]
    fn holds_are_counted_by_life() {
        let mut holds = Holds::default();
        let (old, new) = ((CLIENT, Incarnation(1)), (CLIENT, Incarnation(2)));
        for life in [old, new, new] {
            holds.insert(InodeId(20), life, CallId(1));
        }
        assert_eq!((holds.len(), holds.count_of(old), holds.count_of(new)), (2, 1, 1));
        assert!(holds.remove(InodeId(20), old) && !holds.remove(InodeId(20), old));
        assert!(holds.has(InodeId(20)) && !holds.has(InodeId(21)));
        assert_eq!((holds.first_of(old), holds.first_of(new)), (None, Some(InodeId(20))));
        assert!(holds.remove(InodeId(20), new) && !holds.has_any(CLIENT) && holds.is_empty());
    }
}
