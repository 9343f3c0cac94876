//! Connections come in here: the gRPC, HTTP and data listeners of every daemon accept by one function.
//!
//! ```text
//!   listener ──▶ accept thread ──▶ door: a place, in all and by address ──▶ a task (`http`) or a thread (data transfers)
//! ```
//!
//! Each listener has a thread that only accepts, so that neither a busy runtime nor a full one keeps newcomers waiting in
//! the kernel's queue. What it promises:
//! - there are never more connections served than `Limits` says; they are chosen so that files keep their descriptors
//!   (`descriptors`);
//! - connections that ask for nothing are ended after a while, and at once when their place is wanted (`door`);
//! - a newcomer that waits for a place keeps nobody else waiting;
//! - browsers cannot be made to ask for what their users did not want, on any HTTP port (`browsers`);
//! - an accept that fails, for want of descriptors or memory too, is tried again; a listener ends only with its daemon.

mod acceptor;
mod browsers;
mod budget;
pub(crate) mod connection;
pub(crate) mod descriptors;
pub(crate) mod door;
mod host_names;
pub(crate) mod http;

use std::io;
use std::net::{SocketAddr, TcpListener};

use dfs_common::error::{DfsError, Result};

pub(crate) use acceptor::Acceptor;
pub(crate) use host_names::HostNames;

/// Listens at the address of a configuration key.
///
/// # Errors
/// With the address and the key, and what to do when the port is taken.
pub(crate) fn bind(key: &str, address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("address {address} is in use; stop what uses it or set {key} to another port")
            }
            _ => format!("cannot listen on {address} ({key})"),
        };
        DfsError::io(what, error)
    })
}

/// Where a listener is.
///
/// # Errors
/// Of the system call.
pub(crate) fn address_of(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|error| DfsError::io("ask for a listener's address", error))
}
