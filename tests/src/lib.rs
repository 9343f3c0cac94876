//! The test house: real clusters of real processes, real mounts, faults, and the models and checkers that judge them.
//!
//! ```text
//! suite      cases that share one cluster, torn down after the last one
//! cluster    NameNode and DataNodes as processes, on folders or on XFS loop devices     process, device, ports
//! faulty_disk  a disk below a loop device whose reads fail, hang or are slow
//! secondary  a SecondaryNameNode beside a cluster
//! mount      a dfs-fuse process and its mount point
//! async_io   asynchronous writes, which the standard library has not
//! network    hosts of their own, with cables that can be pulled     relay  a wire that loses answers
//! wait       conditions with deadlines: nothing here sleeps a fixed time
//! workload   deterministic bytes and trees, random file system operations
//! model      what must be true of a file system, given what it acknowledged
//! violation  an answer that must never be given, told from an error
//! replica    replicas as they lie on devices
//! fault      what goes wrong: kills, stops, dead devices, flipped bits
//! checkers   one invariant each
//! chaos      all of that at once, from a seed
//! mutation   changes of the product that some test must notice
//! bench      the same work on several mounted directories
//! ```
//!
//! Nothing survives a test: children die with it (parent-death signal), `Drop` unmounts and frees devices, and whatever
//! a killed test leaves carries the name of its directory, which `scripts/test` looks for.

pub mod async_io;
pub mod bench;
pub mod chaos;
pub mod checkers;
pub mod cluster;
pub mod device;
pub mod fault;
pub mod faulty_disk;
pub mod model;
pub mod mount;
pub mod mutation;
pub mod network;
pub mod ports;
pub mod process;
pub mod relay;
pub mod replica;
pub mod secondary;
pub mod suite;
pub mod violation;
pub mod wait;
pub mod workload;
