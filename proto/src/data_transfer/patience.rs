//! How long the members of a write pipeline wait for one another before they take the next one for hung.
//!
//! A node that has been busy with its disk for a second ([`LIFE_SIGN_INTERVAL`]) without an answer says so, and again each
//! half second: by an ack of seqno [`HEARTBEAT_SEQNO`](super::packet::HEARTBEAT_SEQNO), which Hadoop's clients ignore, and
//! before the pipeline stands by a response of status IN_PROGRESS, to those who ask for it. So silence means that a process or
//! a link hangs. Everybody in front of the hung node hears nothing; the one next to it must speak first, or the wrong one
//! is thrown out. Therefore patience shrinks towards the end:
//!
//! ```text
//! writer --5 s--> node 0 --4.2 s--> node 1 --3.3 s--> node 2        (of three)
//! ```

use std::time::Duration;

/// Silence after which a writer that waits for acks takes the first node for hung.
pub const HUNG_AFTER: Duration = Duration::from_secs(5);
/// How long a node leaves a writer without an answer while it is busy with its disk, before it says so.
pub const LIFE_SIGN_INTERVAL: Duration = Duration::from_secs(1);
/// A disk call that takes longer is a failed device: no sign of life is given any more.
pub const DISK_CALL_MAX: Duration = Duration::from_secs(30);
/// The same before the pipeline of a new replica stands. Nothing of the block is acknowledged then, and another node can take
/// it: an application need not wait for so long.
pub const SET_UP_CALL_MAX: Duration = Duration::from_secs(8);
/// Most that patience shrinks from one node to the next.
const STEP_MAX: Duration = Duration::from_secs(1);

/// How long a node with `behind` of a pipeline's `nodes` behind it waits for the next one.
pub fn relay_patience(nodes: usize, behind: usize) -> Duration {
    let nodes = nodes.max(behind + 1).clamp(1, super::ack::PIPELINE_LEN_MAX) as u32;
    let behind = (behind as u32).min(nodes - 1);
    // At least half is left at the end, and with it two signs of life.
    let step = STEP_MAX.min(HUNG_AFTER / 2 / nodes);
    HUNG_AFTER - step * (nodes - behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_patience_shrinks_towards_the_end() {
        for nodes in 1..=super::super::ack::PIPELINE_LEN_MAX {
            let mut before = HUNG_AFTER;
            for behind in (0..nodes).rev() {
                let patience = relay_patience(nodes, behind);
                assert!(patience < before, "{nodes} nodes, {behind} behind");
                assert!(patience >= 2 * LIFE_SIGN_INTERVAL + LIFE_SIGN_INTERVAL / 2, "{nodes} nodes, {behind} behind");
                before = patience;
            }
        }
    }

    #[test]
    fn relay_patience_of_nonsense_is_bounded() {
        assert!(relay_patience(0, 5) < HUNG_AFTER);
        assert!(relay_patience(usize::MAX, usize::MAX - 1) < HUNG_AFTER);
    }
}
