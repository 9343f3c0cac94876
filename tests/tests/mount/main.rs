//! What a program sees of a mount, one module per group of kernel operations. All cases share one cluster of three
//! DataNodes with blocks of 4 MiB, and two mounts of it; each works in a directory of its own. Those of `killed` start clusters
//! of their own.

mod append;
mod coherence;
mod directory;
mod killed;
mod links;
mod open;
mod permission;
mod rename;
mod setattr;
mod shell_copies;
mod sync;
mod tools;
mod truncate;
mod unlink;
mod unmount;
mod write;
mod xattr;

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};

use dfs_tests::cases;
use dfs_tests::cluster::Cluster;
use dfs_tests::mount::Mount;
use dfs_tests::suite::{self, Case, Shared};
use rustix::io::Errno;

/// Small, so that a file of some MiB has several blocks.
const BLOCK_SIZE: u64 = 4 << 20;

/// Two mounts of one cluster, as of two machines. Fields are dropped in order: mounts before the cluster.
struct Mounts {
    mount: Mount,
    other: Mount,
    cluster: Cluster,
}

impl Shared for Mounts {
    fn set_up() -> Self {
        let cluster = Cluster::builder().set(format!("dfs.blocksize={BLOCK_SIZE}")).start();
        Self { mount: cluster.mount("mount"), other: cluster.mount("other"), cluster }
    }

    fn diagnostics(&self) -> String {
        [self.cluster.diagnostics(), self.mount.diagnostics(), self.other.diagnostics()].join("\n")
    }
}

/// Asserts that a call failed with this errno.
#[track_caller]
fn assert_errno<T: Debug>(result: io::Result<T>, expected: Errno) {
    match result {
        Ok(value) => panic!("expected {expected:?}, got {value:?}"),
        Err(error) => assert_eq!(Errno::from_io_error(&error), Some(expected), "{error}"),
    }
}

/// Asserts that a call of rustix failed with this errno.
#[track_caller]
fn assert_fails<T: Debug>(result: rustix::io::Result<T>, expected: Errno) {
    assert_errno(result.map_err(io::Error::from), expected);
}

/// Runs a shell script in a directory; its output. It must succeed.
#[track_caller]
fn shell(dir: &Path, script: &str) -> String {
    let output =
        Command::new("bash").args(["-euo", "pipefail", "-c", script]).current_dir(dir).output().expect("run bash");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{}\n{stderr}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn main() -> ExitCode {
    let groups: [&[Case<Mounts>]; 17] = [
        &open::CASES,
        &write::CASES,
        &append::CASES,
        &sync::CASES,
        &truncate::CASES,
        &rename::CASES,
        &unlink::CASES,
        &unmount::CASES,
        &links::CASES,
        &directory::CASES,
        &xattr::CASES,
        &setattr::CASES,
        &permission::CASES,
        &coherence::CASES,
        &killed::CASES,
        &tools::CASES,
        &shell_copies::CASES,
    ];
    suite::run(groups.concat())
}
