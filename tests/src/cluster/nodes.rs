//! The daemons of a cluster, and how to reach them.

use std::path::PathBuf;

use super::http::{http_ask, http_status};
use crate::device::LoopDevice;
use crate::process::Daemon;
use crate::wait::{STARTUP, poll};

/// The NameNode and how to reach it.
#[derive(Debug)]
pub struct NameNodeProcess {
    /// The process.
    pub daemon: Daemon,
    /// Its block device, on loop devices.
    pub devices: Vec<LoopDevice>,
    /// Its address.
    pub host: String,
    /// gRPC.
    pub rpc_port: u16,
    /// Status.
    pub http_port: u16,
    /// Configuration file.
    pub config: PathBuf,
}

/// A DataNode and how to reach it.
#[derive(Debug)]
pub struct DataNodeProcess {
    /// The process.
    pub daemon: Daemon,
    /// Its block devices, on loop devices.
    pub devices: Vec<LoopDevice>,
    /// Directories of its volumes.
    pub data_dirs: Vec<PathBuf>,
    /// Its address.
    pub host: String,
    /// Data transfer.
    pub data_port: u16,
    /// gRPC.
    pub grpc_port: u16,
    /// Status.
    pub http_port: u16,
    /// Configuration file.
    pub config: PathBuf,
}

impl DataNodeProcess {
    /// Has it verify all its replicas at once.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn scan(&self) {
        let (status, body) = http_ask("POST", &self.host, self.http_port, "/scan").expect("the DataNode answers");
        assert_eq!(status, 202, "{body}");
    }
}

/// Starts a daemon and waits until it serves.
pub(super) fn start_serving(daemon: &mut Daemon, host: &str, http_port: u16) {
    daemon.start();
    let serves = poll(STARTUP, || {
        if http_status(host, http_port, "/health") == Some(200) {
            return Some(true);
        }
        (!daemon.is_running()).then_some(false)
    });
    assert!(
        serves == Some(true),
        "{} does not serve (ended: {})\n{}",
        daemon.name(),
        serves.is_some(),
        daemon.log_tail()
    );
}
