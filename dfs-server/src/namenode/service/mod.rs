//! The gRPC face of the NameNode: decode, call, encode. No decision is made here.

pub mod client_service;
pub mod datanode_service;
pub mod namenode_service;

use std::net::IpAddr;

use dfs_common::error::Result;
use dfs_proto::status::to_status;
use tonic::{Request, Response, Status};

/// The result of a call as tonic wants it.
fn reply<T>(result: Result<T>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| to_status(&error))
}

/// Address of the caller, for placement and for the order of replicas.
fn peer_ip<T>(request: &Request<T>) -> Option<String> {
    let ip = request.remote_addr()?.ip();
    Some(match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(|| v6.to_string(), |v4| v4.to_string()),
        IpAddr::V4(v4) => v4.to_string(),
    })
}
