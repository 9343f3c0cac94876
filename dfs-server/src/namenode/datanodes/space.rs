//! Room on volumes, summed up.

/// Bytes of volumes. Wide enough for the sum of anything that they may claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Space {
    pub capacity: u128,
    pub used: u128,
    pub remaining: u128,
}
