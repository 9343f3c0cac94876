//! The `dfs` command: parses, connects, runs one command, prints what went wrong.
//!
//! ```text
//! hdfs_spelling, cli                     the command line, as Hadoop's scripts write it and as it is
//! ending, exit_status                    which thread does what, what ends them all, and what is told of it
//! <command>.rs                           one file per command: its arguments and how it is done
//! context    what every command uses     failure       errors and their words
//! location, path, glob, name_pattern,    arguments, paths, patterns, listings and walks
//! tree, remote_file
//! destination, local_destination,        where copies go and how they are made: whole or not at all
//! local_name, local_id, new_file,
//! local_file, make_dir, temporary_name,
//! temporary, local_temporary, leftovers,
//! taken, copied
//! preserved, kept, kept_mode,            which attributes they get, and when
//! local_attributes, unfinished
//! identity, same_cluster                 what is one file, or one cluster, under two names
//! content, crew, each, local_tree, aside bytes, files and changes on their way, several at once
//! output, json, format, mode, owner,     how results look
//! xattr_value, progress, log_lines
//! ```
//!
//! Exit status: 0 when everything asked for was done, 1 when something failed (it has been told), 2 for a command line that
//! makes no sense, 141 when the reader of the output has gone, and 128 and its number after a signal, as a shell expects.

mod admin;
mod admin_recover_lease;
mod admin_report;
mod append_to_file;
mod aside;
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
mod ending;
mod exit_status;
mod expunge;
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
mod kept;
mod kept_mode;
mod leftovers;
mod local_attributes;
mod local_destination;
mod local_file;
mod local_id;
mod local_name;
mod local_temporary;
mod local_tree;
mod location;
mod log_lines;
mod ls;
mod make_dir;
mod mkdir;
mod mode;
mod move_from_local;
mod mv;
mod name_pattern;
mod new_file;
mod output;
mod owner;
mod path;
mod preserved;
mod progress;
mod put;
mod remote_file;
mod rm;
mod rmdir;
mod same_cluster;
mod setfattr;
mod setrep;
mod stat;
mod tail;
mod taken;
mod temporary;
mod temporary_name;
mod test;
mod text;
mod touch;
mod touchz;
mod tree;
mod truncate;
mod unfinished;
mod xattr_value;

use std::mem::ManuallyDrop;
use std::sync::Arc;

use clap::Parser;
use dfs_client::{Caller, ClientConfig, DfsClient};
use dfs_common::config_file::Config;
use tokio::runtime::Builder;

use cli::Cli;
use context::{Context, FileDefaults, Settings};
use ending::Begun;
use failure::{Failure, Outcome};
use log_lines::LogLines;

fn main() {
    let umask = current_umask();
    let log = LogLines::start(std::env::var("DFS_LOG").as_deref().unwrap_or("warn"));
    let cli = Cli::parse_from(hdfs_spelling::translate(std::env::args_os().collect()));
    let status = supervise(cli, umask).unwrap_or_else(|error| {
        output::tell(&format!("dfs: cannot start: {error}"));
        exit_status::FAILED
    });
    if let Ok(log) = log {
        log.finish();
    }
    std::process::exit(status.into());
}

/// Has the command done by the threads of a runtime, watched over by this one.
fn supervise(cli: Cli, umask: u32) -> std::io::Result<u8> {
    let watch = Builder::new_current_thread().enable_all().build()?;
    // Until the process ends: dropping it would wait for its threads, which may wait for standard input.
    let workers = ManuallyDrop::new(Builder::new_multi_thread().enable_all().build()?);
    watch.block_on(ending::supervise(workers.handle(), move |begun| run(cli, umask, begun)))
}

async fn run(cli: Cli, umask: u32, begun: Begun) -> u8 {
    let command = cli.command.name();
    let ctx = match start(&cli, umask).await {
        Ok(ctx) => ctx,
        Err(failure) => {
            output::tell(&format!("dfs: {command}: {failure}"));
            return exit_status::FAILED;
        }
    };
    let ctx = begun.get_or_init(|| ctx);
    let outcome = cli.command.run(ctx).await;
    let outcome = outcome.and(ctx.output.close().await);
    ctx.progress.finish();
    if let Err(failure) = &outcome {
        ctx.report(failure);
    }
    ending::clean_up(ctx).await;
    match (&outcome, ctx.has_failed()) {
        (Err(failure), _) if failure.is_broken_pipe() => exit_status::BROKEN_PIPE,
        (Err(_), _) | (Ok(()), true) => exit_status::FAILED,
        (Ok(()), false) => 0,
    }
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
