//! The height of a directory: how many directories stand below it, one in the other (`depth` says what for).

use std::collections::BTreeMap;

/// Directories above one another: as many as a path of 4,096 bytes can name. A rename goes up some five times, which is one to two
/// milliseconds.
pub const DEPTH_MAX: usize = 2_048;

/// Height of all that are higher than may be. So a change goes no further up than this.
const HEIGHT_MAX: u16 = DEPTH_MAX as u16 + 1;

/// How many subdirectories of a directory have which height.
#[derive(Debug, Default)]
pub struct Heights(BTreeMap<u16, u32>);

impl Heights {
    /// The directory's own height: 0 without subdirectories.
    pub fn height(&self) -> u16 {
        self.0.last_key_value().map_or(0, |(highest, _)| (highest + 1).min(HEIGHT_MAX))
    }

    pub(super) fn replace(&mut self, before: Option<u16>, after: Option<u16>) {
        if let Some(before) = before
            && let Some(count) = self.0.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&before);
            }
        }
        if let Some(after) = after {
            *self.0.entry(after).or_default() += 1;
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.0.values().sum()
    }
}
