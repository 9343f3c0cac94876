//! Everything at once, from a seed: a workload on two mounts, faults under it, and one checker per invariant.
//!
//! ```text
//! scenario    what happens when: storms of faults that stand together, healed before the next ones come
//! budget      which faults may stand together: as many as three replicas must survive
//! load        what runs meanwhile, in a process of its own (dfs-chaos-load): its verdict comes back as text
//! tasks       its programs: one operation after the other, a book of what was answered
//! attributes  modes, owners, times, extended attributes, links
//! shared_log  one file that both mounts append to
//! verdict     what is held against the file system, and what is excused
//! ```
//!
//! The load has its own process because a process with files open on a mount that stands still cannot start others: their
//! exec closes the inherited descriptors, which is a flush (see [`crate::process`]).

mod attributes;
mod budget;
pub mod load;
pub mod scenario;
pub mod shared_log;
mod tasks;
mod verdict;
