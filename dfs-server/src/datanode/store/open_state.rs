//! What changes of a replica while it is open, and the steps by which it does: nothing else changes it.
//!
//! Positions, each a promise: `synced <= promised <= on_disk`, `acked <= on_disk`. Bytes below `acked` are visible to readers:
//! every node behind this one has them. Bytes below `synced` survive a loss of power; those below `promised` must not lose that
//! while a sync of them is under way.

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::GenerationStamp;

use super::append_plan::Tail;

/// The directory that holds a replica's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tmp,
    Rbw,
    Finalized,
}

/// What happens to an open replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A packet was written: data and checksums end here.
    Grown(Tail),
    /// All nodes behind this one have so many bytes.
    Acked(u64),
    /// A sync of all that is written is about to begin.
    Promised,
    /// A sync has succeeded that began when so many bytes were promised.
    Synced(u64),
    /// A sync has failed.
    SyncFailed,
    /// A sync of it may have failed before, or its files are not what this says; no more than so many bytes were read from the
    /// device since. Says nothing new of one that is doubted.
    Doubted(u64),
    /// The recovery that has it has read so many bytes of it from the device.
    Proven(u64),
    /// All that is to stay of it was read from the device.
    Trusted,
    /// What nobody behind this node has was cut off.
    Cut(Tail),
    /// It was brought to the length that a recovery has agreed on, and all of it is on the device.
    Recovered(Tail),
    /// Its files have other names.
    Moved(Place, GenerationStamp),
    /// A recovery has taken it from its writer.
    TakenOver(GenerationStamp),
    /// Its files go, or have become another's: whoever still has it must leave them alone. Its length stays what it was.
    Doomed,
}

/// What changes while a replica is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenState {
    generation_stamp: GenerationStamp,
    place: Place,
    /// What data file and checksums have: also the bytes received, since each packet is written before the next one is
    /// looked at.
    tail: Tail,
    acked: u64,
    promised: u64,
    synced: u64,
    /// A sync has failed, perhaps before a restart; no more than so many bytes were read from the device since.
    doubted: Option<u64>,
    doomed: bool,
    /// Not known any more after a restart.
    recovery: Option<GenerationStamp>,
}

impl OpenState {
    /// Of a replica without a byte.
    pub(super) fn new(place: Place, generation_stamp: GenerationStamp) -> Self {
        let tail = Tail { length: 0, crc: 0 };
        let (acked, promised, synced) = (0, 0, 0);
        Self { generation_stamp, place, tail, acked, promised, synced, doubted: None, doomed: false, recovery: None }
    }

    /// Of one that is opened again or was found. `maybe_synced`: somebody may have been told that it survives a loss of power.
    pub(super) fn reopened(place: Place, generation_stamp: GenerationStamp, tail: Tail, maybe_synced: bool) -> Self {
        let synced = if maybe_synced { tail.length } else { 0 };
        Self { tail, acked: tail.length, promised: synced, synced, ..Self::new(place, generation_stamp) }
    }

    /// The one place where it changes.
    pub(super) fn step(&mut self, step: Step) {
        match step {
            // What it has was given back with it: nothing is counted any more.
            Step::Grown(_) | Step::Cut(_) | Step::Recovered(_) if self.doomed => {}
            Step::Grown(tail) => self.tail = tail,
            Step::Acked(length) => self.acked = self.acked.max(length.min(self.tail.length)),
            Step::Promised => self.promised = self.tail.length,
            Step::Synced(promised) => self.synced = self.synced.max(promised.min(self.promised)),
            Step::SyncFailed => self.doubted = Some(0),
            Step::Doubted(on_device) => self.doubted = self.doubted.or(Some(on_device)),
            Step::Proven(on_device) => self.doubted = self.doubted.and(Some(on_device)),
            Step::Trusted => self.doubted = None,
            Step::Cut(tail) => {
                (self.tail, self.acked) = (tail, tail.length);
                self.promised = self.promised.min(tail.length);
                self.synced = self.synced.min(tail.length);
            }
            Step::Recovered(tail) => {
                (self.tail, self.acked, self.promised, self.synced) = (tail, tail.length, tail.length, tail.length);
            }
            Step::Moved(place, stamp) => (self.place, self.generation_stamp) = (place, stamp),
            Step::TakenOver(recovery) => self.recovery = Some(recovery),
            Step::Doomed => self.doomed = true,
        }
    }

    /// The version.
    pub(super) fn generation_stamp(&self) -> GenerationStamp {
        self.generation_stamp
    }

    /// Where the files are; it changes only under the replica's `files` lock, as the version does.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Bytes that data file and checksums have.
    pub(super) fn on_disk(&self) -> u64 {
        self.tail.length
    }

    /// The end of what they have.
    pub(super) fn tail(&self) -> Tail {
        self.tail
    }

    /// Bytes that this node and all behind it have.
    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    /// Bytes that were promised to survive a loss of power, or are about to be: a sync of them is under way.
    pub(super) fn promised(&self) -> u64 {
        self.promised
    }

    /// Bytes that a sync has brought to the device.
    pub(super) fn synced(&self) -> u64 {
        self.synced
    }

    /// Bytes that were read from the device since a sync has failed, if one has.
    pub(super) fn doubted(&self) -> Option<u64> {
        self.doubted
    }

    /// Whether its files go, or are another's.
    pub(super) fn is_doomed(&self) -> bool {
        self.doomed
    }

    /// The recovery that has taken it from its writer.
    pub(super) fn recovery(&self) -> Option<GenerationStamp> {
        self.recovery
    }

    /// Fails when whoever wrote the replica must not change it any more.
    pub(super) fn check_writable(&self) -> Result<()> {
        self.check_trusted()?;
        match (self.doomed, self.recovery) {
            (false, None) => Ok(()),
            (true, _) => Err(DfsError::new(ErrorKind::Cancelled, "the deletion of this block was ordered")),
            (false, Some(id)) => {
                Err(DfsError::new(ErrorKind::Cancelled, format!("block recovery {id} has taken the replica over")))
            }
        }
    }

    /// Fails when a sync of it has failed, or a write that could not be taken back.
    pub(super) fn check_trusted(&self) -> Result<()> {
        match self.doubted {
            None => Ok(()),
            Some(_) => Err(DfsError::new(ErrorKind::Io, "a write or a sync of this replica has failed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tail(length: u64) -> Tail {
        Tail { length, crc: length as u32 }
    }

    fn step() -> impl Strategy<Value = Step> {
        let stamp = || (1..5_u64).prop_map(GenerationStamp);
        let place = prop_oneof![Just(Place::Tmp), Just(Place::Rbw), Just(Place::Finalized)];
        prop_oneof![
            (0..50_u64).prop_map(|more| Step::Grown(tail(more))),
            (0..200_u64).prop_map(Step::Acked),
            Just(Step::Promised),
            (0..200_u64).prop_map(Step::Synced),
            Just(Step::SyncFailed),
            (0..200_u64).prop_map(Step::Doubted),
            (0..200_u64).prop_map(Step::Proven),
            Just(Step::Trusted),
            Just(Step::Cut(tail(0))),
            (0..200_u64).prop_map(|length| Step::Recovered(tail(length))),
            (place, stamp()).prop_map(|(place, stamp)| Step::Moved(place, stamp)),
            stamp().prop_map(Step::TakenOver),
            Just(Step::Doomed),
        ]
    }

    proptest! {
        /// Steps as callers take them: it grows by what a packet brings, and is cut to what was acknowledged.
        #[test]
        fn positions_keep_their_order_by_every_step(steps in prop::collection::vec(step(), 0..60)) {
            let mut state = OpenState::new(Place::Rbw, GenerationStamp(1));
            for step in steps {
                let before = state;
                state.step(match step {
                    Step::Grown(more) => Step::Grown(tail(before.on_disk() + more.length)),
                    Step::Cut(_) => Step::Cut(tail(before.acked())),
                    other => other,
                });
                prop_assert!(state.synced <= state.promised && state.promised <= state.on_disk(), "{step:?}: {state:?}");
                prop_assert!(state.acked <= state.on_disk(), "{step:?}: {state:?}");
                let may_lose = matches!(step, Step::Cut(_) | Step::Recovered(_));
                prop_assert!(may_lose || before.synced <= state.synced && before.acked <= state.acked, "{step:?}");
                prop_assert!(!before.doomed || state.doomed, "what is doomed stays so");
                let is_cleared = before.doubted.is_some() && state.doubted.is_none();
                prop_assert!(!is_cleared || step == Step::Trusted, "{step:?} forgets that a sync has failed");
            }
        }
    }

    #[test]
    fn what_is_known_of_a_failed_sync_is_this_table() {
        let after = |steps: &[Step]| {
            let mut state = OpenState::new(Place::Rbw, GenerationStamp(1));
            steps.iter().for_each(|&step| state.step(step));
            state.doubted()
        };
        use Step::{Doubted, Proven, SyncFailed, Trusted};
        for (steps, doubted) in [
            (&[Proven(9)][..], None),
            (&[SyncFailed], Some(0)),
            (&[Doubted(5)], Some(5)),
            (&[SyncFailed, Proven(9)], Some(9)),
            (&[SyncFailed, Proven(9), Doubted(5)], Some(9)),
            (&[SyncFailed, Proven(9), SyncFailed], Some(0)),
            (&[SyncFailed, Trusted], None),
        ] {
            assert_eq!(after(steps), doubted, "{steps:?}");
        }
    }
}
