//! Room on volumes, summed up.

use super::storage::Storage;

/// Bytes of volumes. Wide enough for the sum of anything that they may claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Space {
    pub capacity: u128,
    pub used: u128,
    pub remaining: u128,
}

impl Space {
    /// That of these volumes together.
    pub(super) fn of<'a>(volumes: impl Iterator<Item = &'a Storage>) -> Self {
        let mut space = Self::default();
        for volume in volumes {
            space.capacity += u128::from(volume.capacity);
            space.used += u128::from(volume.used);
            space.remaining += u128::from(volume.remaining);
        }
        space
    }

    pub(super) fn add(&mut self, other: Self) {
        self.capacity += other.capacity;
        self.used += other.used;
        self.remaining += other.remaining;
    }

    pub(super) fn subtract(&mut self, other: Self) {
        self.capacity -= other.capacity;
        self.used -= other.used;
        self.remaining -= other.remaining;
    }
}
