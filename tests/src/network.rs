//! Hosts of their own on this machine: network namespaces on one switch, whose cables can be pulled.
//!
//! ```text
//!   this process (10.99.0.1) ── bridge ─┬─ veth0 ── host 0 (10.99.0.10)
//!                                       ├─ veth1 ── host 1 (10.99.0.11)
//!                                       └─ ...
//! ```
//!
//! The bridge lies in a namespace that only this process has ([`enter_own_network`]); each host's namespace lives as long as
//! one process in it. So nothing is left behind, however the test ends.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Pid;

use crate::process::Daemon;
use crate::wait::{STARTUP, wait_until};

/// Set in the process that has a network of its own.
const MARK: &str = "DFS_TEST_OWN_NETWORK";
const BRIDGE: &str = "dfs-switch";

/// Makes this process start over in a network namespace of its own. To be called first in `main`.
///
/// # Panics
/// When unshare(1) cannot be run.
pub fn enter_own_network() {
    if std::env::var_os(MARK).is_some() {
        return;
    }
    let own = std::env::current_exe().expect("own path");
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]).arg(own).args(std::env::args_os().skip(1)).env(MARK, "1");
    panic!("run unshare: {}", command.exec());
}

/// A switch and its hosts.
#[derive(Debug)]
pub struct Network {
    hosts: Vec<Host>,
}

/// One host: what keeps its namespace alive.
#[derive(Debug)]
struct Host {
    keeper: Daemon,
}

impl Network {
    /// A switch with `count` hosts. One network at a time in a process.
    ///
    /// # Panics
    /// When ip(8) refuses, or outside a network of this process's own.
    pub fn new(count: usize, dir: &Path) -> Self {
        assert!(std::env::var_os(MARK).is_some(), "enter_own_network comes first in main");
        ip(&["link", "set", "lo", "up"]);
        ip(&["link", "add", BRIDGE, "type", "bridge"]);
        ip(&["addr", "add", "10.99.0.1/24", "dev", BRIDGE]);
        ip(&["link", "set", BRIDGE, "up"]);
        let mut network = Self { hosts: Vec::new() };
        for index in 0..count {
            let host = Host::start(index, dir);
            network.hosts.push(host);
            network.plug(index);
        }
        network
    }

    /// Address of a host.
    pub fn address(index: usize) -> String {
        format!("10.99.0.{}", 10 + index)
    }

    /// A command line that runs `program` on a host, under the same process id.
    pub fn wrap(&self, index: usize, program: &Path, arguments: Vec<OsString>) -> (PathBuf, Vec<OsString>) {
        let pid = self.hosts[index].pid().as_raw_nonzero().to_string();
        let mut wrapped: Vec<OsString> = vec!["-t".into(), pid.into(), "-n".into(), "--".into(), program.into()];
        wrapped.extend(arguments);
        (PathBuf::from("nsenter"), wrapped)
    }

    /// Pulls a host's cable.
    ///
    /// # Panics
    /// When ip(8) refuses.
    pub fn cut(&self, index: usize) {
        ip(&["link", "set", &cable(index), "down"]);
    }

    /// Plugs it in again.
    ///
    /// # Panics
    /// When ip(8) refuses.
    pub fn plug(&self, index: usize) {
        ip(&["link", "set", &cable(index), "up"]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The cables go with the hosts' namespaces; a switch that does not go now goes with this process.
        let _ = Command::new("ip").args(["link", "del", BRIDGE]).status();
    }
}

impl Host {
    fn start(index: usize, dir: &Path) -> Self {
        let arguments = ["--net", "sleep", "infinity"].map(OsString::from).to_vec();
        let log = dir.join(format!("logs/host-{index}.log"));
        let mut keeper = Daemon::new(format!("host-{index}"), PathBuf::from("unshare"), arguments, log);
        keeper.start();
        let host = Self { keeper };
        let pid = host.pid().as_raw_nonzero().to_string();
        let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
        let own = namespace("self");
        wait_until(STARTUP, format!("a network namespace for host {index}"), || {
            namespace(&pid).is_some_and(|theirs| Some(theirs) != own)
        });
        let cable = cable(index);
        ip(&["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
        ip(&["link", "set", &cable, "master", BRIDGE]);
        let inside = |arguments: &[&str]| run(Command::new("nsenter").args(["-t", &pid, "-n", "ip"]).args(arguments));
        inside(&["addr", "add", &format!("{}/24", Network::address(index)), "dev", "eth0"]);
        inside(&["link", "set", "lo", "up"]);
        inside(&["link", "set", "eth0", "up"]);
        host
    }

    fn pid(&self) -> Pid {
        self.keeper.pid().expect("a host's keeper lives as long as the host")
    }
}

fn cable(index: usize) -> String {
    format!("dfs-host{index}")
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
