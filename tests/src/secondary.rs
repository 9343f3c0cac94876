//! The SecondaryNameNode of a cluster, on the NameNode's host, and what is made of its directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::cluster::Cluster;
use crate::ports::free_port;
use crate::process::{Daemon, program};
use crate::wait::{REPAIR, wait_until};

/// A SecondaryNameNode that makes a checkpoint every second, when there is anything new.
#[derive(Debug)]
pub struct Secondary {
    /// The process.
    pub daemon: Daemon,
    /// Its page, on the NameNode's host.
    pub http_port: u16,
    dir: PathBuf,
    config: PathBuf,
}

impl Secondary {
    /// Of this cluster; not started. The NameNode makes no checkpoints of its own meanwhile.
    ///
    /// # Panics
    /// When its configuration cannot be written.
    pub fn new(cluster: &Cluster) -> Self {
        let (dir, config) = (cluster.dir().join("secondary"), cluster.dir().join("secondary.toml"));
        let common = std::fs::read_to_string(&cluster.namenode.config).expect("read the NameNode's configuration");
        let http_port = free_port();
        let text = format!(
            "{common}\"dfs.namenode.address\" = \"{}\"\n\"dfs.namenode.checkpoint.dir\" = \"{}\"\n\
             \"dfs.namenode.checkpoint.period\" = \"1s\"\n\
             \"dfs.namenode.secondary.http-address\" = \"{}:{http_port}\"\n",
            cluster.namenodes(),
            dir.display(),
            cluster.namenode.host
        );
        std::fs::write(&config, text).expect("write configuration");
        let arguments = vec!["secondary-namenode".into(), "--config".into(), config.clone().into()];
        let log = cluster.dir().join("logs/secondary.log");
        Self { daemon: Daemon::new("secondary", program("dfs-server"), arguments, log), http_port, dir, config }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Last transaction of its newest image.
    pub fn last_checkpoint(&self) -> Option<u64> {
        images(&self.dir).pop()
    }

    /// Waits until a checkpoint was made that contains this transaction.
    ///
    /// # Panics
    /// When none is in time.
    pub fn wait_checkpoint(&self, txid: u64) {
        wait_until(REPAIR, format!("a checkpoint of transaction {txid}"), || {
            self.last_checkpoint().is_some_and(|last| last >= txid)
        });
    }

    /// Whether it is between fetching edits and having pushed the image merged from them.
    pub fn is_merging(&self) -> bool {
        std::fs::read_dir(self.dir.join("current/edits")).is_ok_and(|mut edits| edits.next().is_some())
    }

    /// Runs `dfs-server import-checkpoint` into the NameNode's directory.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn import(&self) -> Output {
        let mut import = Command::new(program("dfs-server"));
        import.arg("import-checkpoint").arg("--config").arg(&self.config).output().expect("run dfs-server")
    }
}

impl Drop for Secondary {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.daemon.log_tail());
        }
    }
}

/// Last transactions of the images below a directory of either kind, oldest first.
pub fn images(dir: &Path) -> Vec<u64> {
    numbered(&dir.join("current"), "fsimage_")
}

/// First entries of the segments of the edit log below a NameNode's directory, oldest first.
pub fn edit_segments(dir: &Path) -> Vec<u64> {
    numbered(&dir.join("current/edits"), "edits_")
}

fn numbered(dir: &Path, prefix: &str) -> Vec<u64> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let mut numbers: Vec<u64> =
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}
