//! `dfs-fuse`: a cluster mounted as a directory.
//!
//! ```text
//! cli        what was asked for            background  start that tells whether it worked
//! session    connect, mount, serve, end    identity    who the mount is to the cluster
//! adapter    fuser in, fuser out           driver      which thread runs sockets, timers and tasks
//! fs         what each POSIX call means, over the client library
//!   handles, inodes       what is open     writer, write_phase       the one writer of a file
//!   dirs, changes         listings         writer_view, lost_writes  what is known of it, and what it lost
//!   cache, kernel         what is remembered, here and there
//!   privileges            what a write takes from a program
//! errno      what programs see of errors   flags       what the kernel's flag words mean
//! caller     who asks                      killed      who needs no answer any more
//! ```

mod adapter;
mod background;
mod cache;
mod caller;
mod changes;
mod cli;
mod dirs;
mod driver;
mod errno;
/// The client's: a NameNode that counts its calls, and DataNodes, in this process.
#[cfg(test)]
#[path = "../../dfs-client/src/fake_cluster/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the client's own tests use the rest")]
mod fake_cluster;
mod flags;
mod fs;
mod handles;
mod identity;
mod inodes;
mod kernel;
mod killed;
mod lost_writes;
mod privileges;
mod session;
mod write_phase;
mod writer;
mod writer_view;

use std::ffi::OsString;
use std::process::ExitCode;

use cli::{Command, Mode};
#[cfg(test)]
use dfs_client::{ClientConfig, CreateOptions, DfsClient};
use dfs_common::{logging, sys};

/// Gives back and takes buffers of a megabyte without asking the kernel for pages each time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Log levels of a mount with the option `debug`: ours in full, the network libraries' not.
const DEBUG_FILTER: &str = "info,dfs_fuse=debug,dfs_client=debug";

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let command = match cli::parse(words.clone()) {
        Ok(command) => command,
        Err(error) => {
            if let Some(error) = error.downcast_ref::<clap::Error>() {
                error.exit();
            }
            eprintln!("dfs-fuse: {error:#}");
            return ExitCode::from(2);
        }
    };
    let outcome = match command.mode {
        Mode::Fake => Ok(()),
        Mode::Background => background::start(&words, command.options.log.as_deref()),
        Mode::Foreground => serve(&command, || {}),
        Mode::BackgroundChild => serve_in_background(&command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dfs-fuse: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(command: &Command, ready: impl FnOnce()) -> anyhow::Result<()> {
    let from_environment = std::env::var("DFS_LOG").ok();
    logging::init(from_environment.as_deref().or(command.options.debug.then_some(DEBUG_FILTER)));
    // Every open file may need connections of its own.
    if let Err(error) = sys::raise_descriptor_limit() {
        tracing::warn!("the limit of open files stays at {}: {error}", sys::descriptor_limit());
    }
    let notify_socket = std::env::var_os("NOTIFY_SOCKET");
    session::run(command, || {
        if let Err(error) = sys::notify_ready(notify_socket.as_deref()) {
            tracing::warn!(%error, "service manager not notified");
        }
        ready();
    })
}

fn serve_in_background(command: &Command) -> anyhow::Result<()> {
    // Absolute before the directory changes.
    let mountpoint = std::path::absolute(&command.mountpoint)?;
    let command = Command { mountpoint, ..command.clone() };
    background::detach()?;
    let mut is_ready = false;
    let outcome = serve(&command, || {
        is_ready = true;
        background::report(Ok(()));
    });
    if let (false, Err(error)) = (is_ready, &outcome) {
        background::report(Err(error));
    }
    outcome
}
