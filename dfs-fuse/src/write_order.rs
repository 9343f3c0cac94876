//! Where a write belongs in a file that grows at its end only (pure).
//!
//! The kernel cuts one large call into requests of 1 MiB and, for asynchronous I/O, sends them side by side, so they arrive
//! slightly out of order. A request a little ahead of the end waits for the one that fills the gap; what lies before the
//! end, or far ahead of it, would change bytes or leave a hole and is refused.

use std::time::Duration;

/// How far ahead of the end a write may wait: an asynchronous call of 16 MiB, as `dd` and `fio` make them. It also bounds the
/// data that waits per file.
pub(crate) const REORDER_WINDOW: u64 = 16 * 1024 * 1024;

/// How long it may wait. Requests of one call are microseconds apart; a gap that lasts longer is a hole that the program
/// meant. Long enough for a loop thread that was descheduled on a loaded machine.
pub(crate) const REORDER_PATIENCE: Duration = Duration::from_secs(2);

/// Where a write is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Right after the last byte.
    AtEnd,
    /// After bytes that may still be on their way.
    Ahead,
    /// Not possible.
    Elsewhere,
}

/// Places a write at `offset` into a file of `end` bytes. A handle that appends writes at the end, whatever offset the
/// kernel's idea of the size gave it.
pub(crate) fn place(offset: u64, end: u64, appends: bool) -> Place {
    if appends || offset == end {
        Place::AtEnd
    } else if offset > end && offset - end <= REORDER_WINDOW {
        Place::Ahead
    } else {
        Place::Elsewhere
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn place_is_at_end_only_for_the_end_and_for_appends() {
        assert_eq!(place(0, 0, false), Place::AtEnd);
        assert_eq!(place(10, 10, false), Place::AtEnd);
        assert_eq!(place(3, 10, true), Place::AtEnd);
        assert_eq!(place(99, 10, true), Place::AtEnd);
    }

    #[test]
    fn place_refuses_the_past_and_the_far_future() {
        assert_eq!(place(9, 10, false), Place::Elsewhere);
        assert_eq!(place(11, 10, false), Place::Ahead);
        assert_eq!(place(10 + REORDER_WINDOW, 10, false), Place::Ahead);
        assert_eq!(place(11 + REORDER_WINDOW, 10, false), Place::Elsewhere);
        assert_eq!(place(u64::MAX, 0, false), Place::Elsewhere);
    }

    proptest! {
        /// However the requests of one call are shuffled, handing each out once it is at the end writes every byte in order.
        #[test]
        fn shuffled_requests_come_out_in_order(lengths in prop::collection::vec(1u64..1 << 20, 1..16), seed: u64) {
            let mut requests: Vec<(u64, u64)> = lengths
                .iter()
                .scan(0, |offset, len| {
                    let at = *offset;
                    *offset += len;
                    Some((at, *len))
                })
                .collect();
            let total: u64 = lengths.iter().sum();
            let mut state = seed | 1;
            for i in (1..requests.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                requests.swap(i, usize::try_from(state >> 33).unwrap() % (i + 1));
            }
            let mut end = 0;
            while !requests.is_empty() {
                let next = requests.iter().position(|&(offset, _)| place(offset, end, false) == Place::AtEnd).unwrap();
                prop_assert!(requests.iter().all(|&(offset, _)| place(offset, end, false) != Place::Elsewhere));
                end += requests.swap_remove(next).1;
            }
            prop_assert_eq!(end, total);
        }
    }
}
