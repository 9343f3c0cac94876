//! Everything at once, from a seed: a workload on two mounts, faults under it, and one checker per invariant.
//!
//! ```text
//! scenario   what happens when: storms of faults, each healed before the damage is more than replication survives
//! load       what runs meanwhile, in a process of its own (dfs-chaos-load): its verdict comes back as text
//! shared_log one file that both mounts append to
//! ```
//!
//! The load has its own process because a process with files open on a mount that stands still cannot start others: their
//! exec closes the inherited descriptors, which is a flush (see [`crate::process`]).

pub mod load;
pub mod scenario;
pub mod shared_log;
