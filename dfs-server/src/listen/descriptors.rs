//! How the descriptors that a process may have are shared out, so that a flood of connections never takes those of files.
//!
//! Configured limits hold where there are descriptors enough; where `ulimit -n` is small, they are lowered to what is left
//! after the files.

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::sys;

/// Descriptors kept for files, the runtime, newcomers that wait for a place, and connections that the daemon opens itself.
const RESERVED: usize = 256;
/// Below this there would be nothing to serve with.
const LIMIT_MIN: usize = 512;
/// HTTP is for people and monitoring.
const HTTP_MAX: usize = 256;
/// Idle connections to other DataNodes: each occupies a thread of the far side.
const PEERS_MAX: usize = 256;
/// gRPC calls of a DataNode that work on files, each with two of them and a directory.
const PER_FILE_CALL: usize = 3;
/// Replicas that stay open after they were read, and the descriptors of each.
const REPLICAS_MAX: usize = 256;
const PER_REPLICA: usize = 2;
/// A transfer at work: its socket, the next node's, data and checksums of the replica, the directory being synced.
const PER_TRANSFER: usize = 5;

/// Connections of a NameNode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameNodeShares {
    pub(crate) grpc: usize,
    pub(crate) http: usize,
}

/// Connections of a DataNode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DataNodeShares {
    pub(crate) grpc: usize,
    pub(crate) http: usize,
    /// gRPC calls that work on files at once.
    pub(crate) file_calls: usize,
    /// Idle ones to other DataNodes.
    pub(crate) peers: usize,
    /// Replicas that stay open after they were read.
    pub(crate) replicas: usize,
    /// Data connections.
    pub(crate) transfers: usize,
}

/// Descriptors that are left for connections under the process's limit.
///
/// # Errors
/// `InvalidArgument` when the limit is too low to serve.
pub(crate) fn available() -> Result<usize> {
    available_of(sys::descriptor_limit())
}

fn available_of(limit: usize) -> Result<usize> {
    if limit < LIMIT_MIN {
        let what = format!("the limit of open files is {limit}; raise it to {LIMIT_MIN} at least (ulimit -n)");
        return Err(DfsError::new(ErrorKind::InvalidArgument, what));
    }
    Ok(limit - RESERVED)
}

impl NameNodeShares {
    /// `grpc` as configured.
    pub(crate) fn of(available: usize, grpc: usize) -> Self {
        let http = HTTP_MAX.min(available / 8);
        Self { grpc: grpc.min(available - http), http }
    }
}

impl DataNodeShares {
    /// `grpc` and `transfers` as configured; `file_calls` as many as there are threads for.
    pub(crate) fn of(available: usize, grpc: usize, file_calls: usize, transfers: usize) -> Self {
        let http = HTTP_MAX.min(available / 16);
        let grpc = grpc.min(available / 8);
        let file_calls = file_calls.min(available / 8 / PER_FILE_CALL);
        let peers = PEERS_MAX.min(available / 8);
        let replicas = REPLICAS_MAX.min(available / 8 / PER_REPLICA);
        let rest = available - http - grpc - PER_FILE_CALL * file_calls - peers - PER_REPLICA * replicas;
        Self { grpc, http, file_calls, peers, replicas, transfers: transfers.min(rest / PER_TRANSFER) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_leave_the_files_theirs_at_every_limit() {
        for limit in (LIMIT_MIN..4096).chain([1 << 16, 1 << 20, 1 << 30]) {
            let available = available_of(limit).unwrap();
            let namenode = NameNodeShares::of(available, 4096);
            assert!(namenode.grpc + namenode.http <= limit - RESERVED && namenode.grpc >= 128, "{limit}: {namenode:?}");
            let DataNodeShares { grpc, http, file_calls, peers, replicas, transfers } =
                DataNodeShares::of(available, 4096, 256, 4096);
            let files = PER_FILE_CALL * file_calls + PER_REPLICA * replicas + PER_TRANSFER * transfers;
            let taken = grpc + http + peers + files;
            assert!(taken <= limit - RESERVED, "{limit}: {taken}");
            assert!(transfers >= 16 && http >= 16 && grpc >= 16 && file_calls >= 8, "{limit}");
        }
        assert_eq!(DataNodeShares::of(1 << 16, 4096, 256, 4096).transfers, 4096);
        assert_eq!(NameNodeShares::of(1 << 16, 4096).grpc, 4096);
        assert!(available_of(LIMIT_MIN - 1).is_err());
    }
}
