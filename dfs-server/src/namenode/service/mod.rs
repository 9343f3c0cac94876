//! The gRPC face of the NameNode: decode, call, encode. No decision is made here.

mod administration;
mod changes;
pub mod client_service;
pub mod datanode_service;
pub mod namenode_service;
mod writing;

use dfs_common::error::Result;
use dfs_proto::status::to_status;
use dfs_proto::v1::RequestHeader;
use tonic::{Request, Response, Status};

use super::namespace::permission::Identity;

/// The result of a call as tonic wants it.
fn reply<T>(result: Result<T>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| to_status(&error))
}

/// Address of the caller, for placement and for the order of replicas.
fn peer_ip<T>(request: &Request<T>) -> Option<String> {
    request.remote_addr().map(|address| address.ip().to_canonical().to_string())
}

/// Who asks.
fn identity(header: Option<&RequestHeader>) -> Identity {
    Identity::of(header.and_then(|header| header.caller.as_ref()))
}
