//! The `dfs` command: parses, connects, runs one command, prints what went wrong.
//!
//! ```text
//! hdfs_spelling, cli                     the command line, as Hadoop's scripts write it and as it is
//! <command>.rs                           one file per command: its arguments and how it is done
//! context    what every command uses     failure       errors and their words
//! location, path, glob, tree             arguments, paths, patterns, listings and walks
//! destination, local_destination,        where copies go and how they are made: whole or not at all
//! new_file, local_file, make_dir,
//! temporary, leftovers, identity,
//! just_created, copied, kept_mode
//! content, crew, each, local_tree        bytes, files and changes on their way, several at once
//! output, json, format, mode, owner,     how results look
//! xattr_value, progress
//! ```
//!
//! Exit status: 0 when everything asked for was done, 1 when something failed (it has been told), 2 for a command line that
//! makes no sense, 130 and 141 when interrupted or when the reader of the output has gone, as a shell expects.

mod admin;
mod admin_recover_lease;
mod admin_report;
mod append_to_file;
mod balancer;
mod cat;
mod checksum;
mod chgrp;
mod chmod;
mod chown;
mod cli;
mod content;
mod context;
mod copied;
mod count;
mod cp;
mod crew;
mod destination;
mod df;
mod du;
mod each;
mod failure;
mod find;
mod format;
mod fsck;
mod fsck_report;
mod get;
mod getfattr;
mod getmerge;
mod glob;
mod hdfs_spelling;
mod head;
mod identity;
mod json;
mod just_created;
mod kept_mode;
mod leftovers;
mod local_destination;
mod local_file;
mod local_id;
mod local_tree;
mod location;
mod ls;
mod make_dir;
mod mkdir;
mod mode;
mod move_from_local;
mod mv;
mod new_file;
mod output;
mod owner;
mod path;
mod progress;
mod put;
mod remote_file;
mod rm;
mod rmdir;
mod setfattr;
mod setrep;
mod stat;
mod tail;
mod temporary;
mod test;
mod text;
mod touch;
mod touchz;
mod tree;
mod truncate;
mod xattr_value;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use dfs_client::{Caller, ClientConfig, DfsClient};
use dfs_common::config_file::Config;
use tokio::signal::unix::{SignalKind, signal};

use cli::{Cli, Command};
use context::{Context, FileDefaults, Settings};
use failure::{Failure, Outcome};

const EXIT_FAILED: u8 = 1;
/// 128 + SIGINT, what a shell expects of an interrupted command.
const EXIT_INTERRUPTED: u8 = 130;
/// 128 + SIGPIPE.
const EXIT_BROKEN_PIPE: u8 = 141;
/// How long removing temporary files and ending the session may take at the end: whoever interrupts a command because
/// the cluster is away must not wait for it again.
const CLEANUP_PATIENCE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    dfs_common::logging::init(Some(std::env::var("DFS_LOG").as_deref().unwrap_or("warn")));
    let cli = Cli::parse_from(hdfs_spelling::translate(std::env::args_os().collect()));
    let umask = current_umask();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::tell(&format!("dfs: cannot start: {error}"));
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let status = runtime.block_on(run(cli, umask));
    // A thread may still wait for standard input; there is nothing it could do for us.
    runtime.shutdown_background();
    ExitCode::from(status)
}

async fn run(cli: Cli, umask: u32) -> u8 {
    let command = cli.command.name();
    let ctx = match start(&cli, umask).await {
        Ok(ctx) => ctx,
        Err(failure) => {
            output::tell(&format!("dfs: {command}: {failure}"));
            return EXIT_FAILED;
        }
    };
    let (outcome, interrupted) = execute(&ctx, cli.command).await;
    // What was printed before a signal came.
    let outcome = outcome.and_then(|()| ctx.output.flush());
    ctx.progress.finish();
    let broken_pipe = outcome.as_ref().err().is_some_and(Failure::is_broken_pipe);
    if let Err(failure) = &outcome {
        ctx.report(failure);
    }
    let cleanup = async {
        ctx.leftovers.discard_all(&ctx.client, &ctx.caller).await;
        ctx.client.clone().close().await;
    };
    if tokio::time::timeout(CLEANUP_PATIENCE, cleanup).await.is_err() && !ctx.leftovers.is_empty() {
        output::tell(&format!("dfs: {command}: temporary files (*._COPYING_) are left behind; remove them later"));
    }
    match (interrupted, broken_pipe, ctx.has_failed()) {
        (true, ..) => EXIT_INTERRUPTED,
        (_, true, _) => EXIT_BROKEN_PIPE,
        (_, _, true) => EXIT_FAILED,
        (false, false, false) => 0,
    }
}

/// Runs the command until it ends or a signal comes, and says whether one did.
async fn execute(ctx: &Arc<Context>, command: Command) -> (Outcome, bool) {
    let complete = async {
        let outcome = command.run(ctx).await;
        outcome.and(ctx.output.close().await)
    };
    tokio::select! {
        outcome = complete => (outcome, false),
        signal = end_asked_for() => interrupted(signal),
    }
}

fn interrupted(signal: io::Result<()>) -> (Outcome, bool) {
    match signal {
        Ok(()) => (Ok(()), true),
        Err(error) => (Err(Failure::refused("signal handlers", error.to_string())), false),
    }
}

/// Returns when somebody wants the command to end: by SIGINT or SIGTERM, or because the terminal has gone. A signal that
/// was ignored when we were started stays so: by nohup, or by a shell that has put us into the background.
async fn end_asked_for() -> io::Result<()> {
    // Read before the first handler is there.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let arrival = async |kind: SignalKind| {
        if is_ignored(&status, kind.as_raw_value()) {
            return std::future::pending().await;
        }
        signal(kind)?.recv().await;
        Ok(())
    };
    tokio::select! {
        signal = arrival(SignalKind::interrupt()) => signal,
        signal = arrival(SignalKind::terminate()) => signal,
        signal = arrival(SignalKind::hangup()) => signal,
    }
}

/// Whether a process ignores a signal, by its `/proc/PID/status`.
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Reads the settings and connects.
async fn start(cli: &Cli, umask: u32) -> Outcome<Arc<Context>> {
    let mut config = Config::load(cli.config.as_deref()).map_err(Failure::cluster)?;
    for assignment in &cli.define {
        config.set(assignment).map_err(Failure::cluster)?;
    }
    let mut client_config = ClientConfig::from_config(&config);
    let named = cli.namenode.clone().or_else(|| std::env::var("DFS_NAMENODES").ok());
    if let Some(named) = named.filter(|named| !named.trim().is_empty()) {
        client_config.namenodes = split_addresses(&named);
    }
    if client_config.namenodes.is_empty() {
        let hint =
            "give --namenode HOST:PORT, or set DFS_NAMENODES, or \"dfs.namenode.address\" in a file named by --config";
        return Err(Failure::refused("no NameNode is named", "cannot tell which cluster is meant").with_hint(hint));
    }
    client_config.name = format!("dfs {} (pid {})", cli.command.name(), std::process::id());
    let client = DfsClient::connect(client_config).await.map_err(Failure::cluster)?;
    let settings =
        Settings { command: cli.command.name(), json: cli.json, umask, file_defaults: file_defaults(&config) };
    Ok(Context::new(client, Caller::current(), settings))
}

/// What the user set; what nobody set is the cluster's business.
fn file_defaults(config: &Config) -> FileDefaults {
    let replication = config.is_set("dfs.replication").then(|| config.count("dfs.replication"));
    let block_size = config.is_set("dfs.blocksize").then(|| config.bytes("dfs.blocksize"));
    FileDefaults {
        replication: replication.map_or(0, |replicas| u32::try_from(replicas).unwrap_or(u32::MAX)),
        block_size: block_size.unwrap_or(0),
    }
}

fn split_addresses(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|address| !address.is_empty()).map(str::to_owned).collect()
}

/// The process's umask, which can only be read by setting it: done before there is a second thread.
fn current_umask() -> u32 {
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask);
    umask.bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ignored_reads_the_mask() {
        let status = "Name:\tdfs\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n";
        assert!(is_ignored(status, libc::SIGHUP) && is_ignored(status, libc::SIGPIPE));
        assert!(!is_ignored(status, libc::SIGINT) && !is_ignored("", libc::SIGHUP));
    }

    #[test]
    fn split_addresses_drops_blanks() {
        assert_eq!(split_addresses("a:1, b:2 ,,"), ["a:1", "b:2"]);
        assert!(split_addresses(" ,").is_empty());
    }

    #[test]
    fn file_defaults_are_only_what_was_set() {
        let mut config = Config::load(None).unwrap();
        let defaults = file_defaults(&config);
        assert_eq!((defaults.replication, defaults.block_size), (0, 0));
        config.set("dfs.replication=2").unwrap();
        config.set("dfs.blocksize=1MiB").unwrap();
        let defaults = file_defaults(&config);
        assert_eq!((defaults.replication, defaults.block_size), (2, 1 << 20));
    }
}
