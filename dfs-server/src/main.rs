//! `dfs-server <role>`: one binary, one role a process. In the foreground, logs to stderr. SIGTERM or SIGINT stops it,
//! at any moment of its life; a second one ends it at once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use dfs_common::config_file::Config;
use dfs_common::shutdown::{self, Shutdown};
use dfs_common::sys::{self, notify_ready};
use dfs_common::{DfsError, logging};
use dfs_server::Running;

/// Returns memory to the system and fragments little under millions of small inodes.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Daemons of the distributed filesystem.
#[derive(Parser)]
#[command(name = "dfs-server", version)]
struct Cli {
    #[command(subcommand)]
    role: Role,
}

#[derive(Args, Clone)]
struct Settings {
    /// Configuration file (TOML, HDFS's property names as quoted keys).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one key, over the file; may be repeated.
    #[arg(short = 'D', value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Settings {
    fn load(&self) -> Result<Config, DfsError> {
        let mut config = Config::load(self.config.as_deref())?;
        for assignment in &self.set {
            config.set(assignment)?;
        }
        Ok(config)
    }
}

#[derive(Subcommand)]
enum Role {
    /// Serves the namespace.
    #[cfg(feature = "namenode")]
    Namenode(Settings),
    /// Serves blocks.
    #[cfg(feature = "datanode")]
    Datanode(Settings),
    /// Makes checkpoints for a NameNode.
    #[cfg(feature = "namenode")]
    SecondaryNamenode(Settings),
    /// Prepares an empty NameNode directory.
    #[cfg(feature = "namenode")]
    Format {
        #[command(flatten)]
        settings: Settings,
        /// Cluster to join; a new one by default.
        #[arg(long, value_name = "CID")]
        cluster_id: Option<String>,
    },
    /// Makes the directory of a lost NameNode anew, from the SecondaryNameNode's.
    #[cfg(feature = "namenode")]
    ImportCheckpoint {
        #[command(flatten)]
        settings: Settings,
        /// The SecondaryNameNode's directory or a copy of it; `dfs.namenode.checkpoint.dir` by default.
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
    },
    /// Measures the NameNode alone: operations per second, bytes of memory per file.
    #[cfg(feature = "namenode")]
    BenchNamenode(dfs_server::namenode::bench::BenchArgs),
}

/// Time for a daemon to stop. Its parts have shorter ones of their own; this is for what they forget.
const STOP_MAX: Duration = Duration::from_secs(15);
/// Time for work on files to end after that.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    logging::init(std::env::var("DFS_LOG").ok().as_deref());
    match run(Cli::parse().role) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dfs-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(role: Role) -> anyhow::Result<()> {
    match role {
        #[cfg(feature = "namenode")]
        Role::Format { settings, cluster_id } => {
            let config = settings.load().map_err(describe)?;
            let formatted = dfs_server::namenode::format(&config, cluster_id).map_err(describe)?;
            println!("{formatted}");
            Ok(())
        }
        #[cfg(feature = "namenode")]
        Role::ImportCheckpoint { settings, from } => {
            let config = settings.load().map_err(describe)?;
            let imported = dfs_server::namenode::import_checkpoint(&config, from).map_err(describe)?;
            println!("{imported}");
            Ok(())
        }
        #[cfg(feature = "namenode")]
        Role::Namenode(settings) => {
            let config = settings.load().map_err(describe)?;
            let on_ready = |addresses: dfs_server::namenode::Addresses| ready("NameNode", &addresses.to_string());
            serve(|stop| dfs_server::namenode::run(&config, stop, Box::new(on_ready)))
        }
        #[cfg(feature = "datanode")]
        Role::Datanode(settings) => {
            let config = settings.load().map_err(describe)?;
            let on_ready = |addresses: dfs_server::datanode::ReadyInfo| ready("DataNode", &addresses.to_string());
            serve(|stop| dfs_server::datanode::run(&config, stop, Box::new(on_ready)))
        }
        #[cfg(feature = "namenode")]
        Role::SecondaryNamenode(settings) => {
            let config = settings.load().map_err(describe)?;
            let on_ready = |http: SocketAddr| ready("SecondaryNameNode", &format!("(HTTP {http})"));
            serve(|stop| dfs_server::secondary::run(&config, stop, Box::new(on_ready)))
        }
        #[cfg(feature = "namenode")]
        Role::BenchNamenode(args) => dfs_server::namenode::bench::run(&args).map_err(describe),
    }
}

/// Runs a daemon until it ends by itself or a signal asks for it. One thread: the daemons' calls are short, and wake-ups
/// between threads cost more than they do; blocking work has threads of its own.
fn serve<'a>(daemon: impl FnOnce(Shutdown) -> Running<'a>) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let (trigger, stop) = shutdown::channel();
    // Nothing is logged there: whoever should read it may have stopped to do so, and that may be what holds up the rest.
    let stop_daemon = move || {
        trigger.trigger();
        let end_late = || {
            std::thread::sleep(STOP_MAX + 2 * STOP_PATIENCE);
            sys::exit_at_once(1);
        };
        // Without a thread for it, a second signal still ends the process.
        let _ = std::thread::Builder::new().name("late-end".to_owned()).spawn(end_late);
    };
    shutdown::obey_signals(stop_daemon, || sys::exit_at_once(1)).context("listen for signals")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let outcome = runtime.block_on(async {
        let mut told = stop.clone();
        let mut daemon = daemon(stop);
        tokio::select! {
            result = &mut daemon => return result.map_err(describe),
            () = told.wait() => tracing::info!("stopping; told again, it ends at once, as if killed"),
        }
        match tokio::time::timeout(STOP_MAX, daemon).await {
            Ok(result) => result.map_err(describe),
            Err(_) => anyhow::bail!("the daemon has not stopped within {STOP_MAX:?}: it ends as if killed"),
        }
    });
    // Dropped, it would wait without end for work on files, and a device that hangs never ends that.
    runtime.shutdown_timeout(STOP_PATIENCE);
    outcome
}

/// Connections and files are many; with the limit as it was, fewer are served.
fn raise_descriptor_limit() {
    if let Err(error) = sys::raise_descriptor_limit() {
        tracing::warn!("the limit of open files stays at {}: {error}", sys::descriptor_limit());
    }
}

fn ready(role: &str, addresses: &str) {
    tracing::info!("{role} is ready {addresses}");
    if let Err(error) = notify_ready(std::env::var_os("NOTIFY_SOCKET").as_deref()) {
        tracing::warn!("the service manager could not be told: {error}");
    }
}

/// The whole chain, for a person at a terminal.
fn describe(error: DfsError) -> anyhow::Error {
    anyhow::anyhow!("{}", error.chain())
}
