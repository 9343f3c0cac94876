//! The protocols: messages and services generated from `proto/*.proto`, conversions between them and the domain's types,
//! the mapping of errors to gRPC status, and the wire format of data transfer.
//!
//! Wire to domain is `TryFrom` and never panics: a peer is not trusted.

pub mod convert;
pub mod data_transfer;
pub mod status;

/// Generated: the services and messages of package `dfs.v1`. A test renews it: see `generator`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod v1 {
    include!("generated/dfs.v1.rs");
}

/// Generated: Hadoop's data transfer messages.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod hadoop {
    include!("generated/hadoop.hdfs.rs");
}

/// Largest gRPC message any of our servers or clients takes, bytes: a listing page of 1,000 longest names with attributes
/// and a block report page of 50,000 replicas both fit well.
pub const GRPC_MESSAGE_MAX: usize = 4 * 1024 * 1024;
