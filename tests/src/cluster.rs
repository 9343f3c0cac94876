//! A cluster of real processes in a temporary directory: one NameNode and some DataNodes, on free ports of 127.0.0.1.
//!
//! Intervals are short (heartbeats 200 ms, stale after 2 s, dead after 5 s), so that what takes minutes in service takes
//! seconds here. A node that is killed and restarted keeps its ports, its directories and its identity.

mod http;
mod nodes;

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use dfs_common::units::ByteCount;
use tempfile::TempDir;

pub use self::http::{http_get, http_status};
use self::nodes::start_serving;
pub use self::nodes::{DataNodeProcess, NameNodeProcess};
use crate::device::LoopDevice;
use crate::mount::Mount;
use crate::network::Network;
use crate::ports::free_port;
use crate::process::{Daemon, program, require_root};
use crate::wait::{REPAIR, STARTUP, poll, wait_until};

/// What the daemons' storage lies on.
#[derive(Clone, Copy, Debug)]
pub enum Devices {
    /// Folders of the temporary directory.
    Folders,
    /// One XFS loop device per NameNode and per volume, of this size.
    Loop(ByteCount),
    /// The same, and the disks of DataNodes can be made to fail; see [`crate::faulty_disk`].
    Faulty(ByteCount),
}

/// Shape of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    datanodes: usize,
    volumes: usize,
    racks: usize,
    replication: usize,
    devices: Devices,
    on_hosts: bool,
    open_files: Option<u64>,
    settings: Vec<String>,
}

impl Default for ClusterBuilder {
    fn default() -> Self {
        Self {
            datanodes: 3,
            volumes: 1,
            racks: 1,
            replication: 3,
            devices: Devices::Folders,
            on_hosts: false,
            open_files: None,
            settings: Vec::new(),
        }
    }
}

impl ClusterBuilder {
    /// Number of DataNodes; the replication is lowered to it.
    #[must_use]
    pub fn datanodes(mut self, count: usize) -> Self {
        self.datanodes = count;
        self.replication = self.replication.min(count);
        self
    }

    /// Volumes of each DataNode.
    #[must_use]
    pub fn volumes(mut self, count: usize) -> Self {
        self.volumes = count;
        self
    }

    /// Racks, over which the DataNodes are spread.
    #[must_use]
    pub fn racks(mut self, count: usize) -> Self {
        self.racks = count;
        self
    }

    /// Replicas of new files.
    #[must_use]
    pub fn replication(mut self, count: usize) -> Self {
        self.replication = count;
        self
    }

    /// What the storage lies on.
    #[must_use]
    pub fn devices(mut self, devices: Devices) -> Self {
        self.devices = devices;
        self
    }

    /// Every daemon on a host of its own: host 0 is the NameNode's, host n + 1 that of DataNode n.
    #[must_use]
    pub fn on_hosts(mut self) -> Self {
        self.on_hosts = true;
        self
    }

    /// Files that each daemon may have open at most, its connections included.
    #[must_use]
    pub fn open_files(mut self, limit: u64) -> Self {
        self.open_files = Some(limit);
        self
    }

    /// A configuration key for all daemons, `key=value`.
    #[must_use]
    pub fn set(mut self, assignment: impl Into<String>) -> Self {
        self.settings.push(assignment.into());
        self
    }

    /// Formats, starts everything and waits until all DataNodes have registered.
    ///
    /// # Panics
    /// When that fails, with the logs.
    pub fn start(self) -> Cluster {
        let mut cluster = self.prepare();
        cluster.format();
        cluster.start_namenode();
        for index in 0..cluster.datanodes.len() {
            cluster.start_datanode(index);
        }
        cluster.wait_datanodes_live(cluster.datanodes.len());
        cluster
    }

    /// Directories, devices and configuration files, nothing started.
    ///
    /// # Panics
    /// When not root, or a device cannot be made.
    pub fn prepare(self) -> Cluster {
        require_root();
        let dir = test_dir();
        std::fs::create_dir(dir.path().join("logs")).expect("make directory of logs");
        let network = self.on_hosts.then(|| Network::new(self.datanodes + 1, dir.path()));
        let place = Place { dir: dir.path(), network: network.as_ref(), open_files: self.open_files };
        let namenode = self.prepare_namenode(&place);
        let datanodes = (0..self.datanodes).map(|index| self.prepare_datanode(&place, index, &namenode)).collect();
        Cluster { datanodes, namenode, network, dir }
    }

    fn prepare_storage(&self, path: &Path, is_datanode: bool) -> Option<LoopDevice> {
        match self.devices {
            Devices::Folders => {
                std::fs::create_dir_all(path).expect("make storage directory");
                None
            }
            Devices::Faulty(size) if is_datanode => Some(LoopDevice::create_faulty(path, size)),
            Devices::Loop(size) | Devices::Faulty(size) => Some(LoopDevice::create(path, size)),
        }
    }

    fn prepare_namenode(&self, place: &Place<'_>) -> NameNodeProcess {
        let storage = place.dir.join("namenode");
        let devices = self.prepare_storage(&storage, false).into_iter().collect();
        let (rpc_port, http_port) = (free_port(), free_port());
        let host = place.host(0);
        let lines = [
            format!("dfs.namenode.name.dir={}", storage.join("name").display()),
            format!("dfs.namenode.rpc-address={host}:{rpc_port}"),
            format!("dfs.namenode.http-address={host}:{http_port}"),
        ];
        let config = self.write_config(place.dir, "namenode", &lines);
        let daemon = place.server_daemon("namenode", 0, "namenode", &config);
        NameNodeProcess { daemon, devices, host, rpc_port, http_port, config }
    }

    fn prepare_datanode(&self, place: &Place<'_>, index: usize, namenode: &NameNodeProcess) -> DataNodeProcess {
        let name = format!("datanode-{index}");
        let mut devices = Vec::new();
        let mut data_dirs = Vec::new();
        for volume in 0..self.volumes {
            let path = place.dir.join(format!("{name}-volume-{volume}"));
            devices.extend(self.prepare_storage(&path, true));
            data_dirs.push(path.join("data"));
            std::fs::create_dir_all(path.join("data")).expect("make data directory");
        }
        let [data_port, grpc_port, http_port] = [free_port(), free_port(), free_port()];
        let host = place.host(index + 1);
        let rack = if self.racks > 1 { format!("/rack{}", index % self.racks + 1) } else { "/default-rack".to_owned() };
        let dirs: Vec<String> = data_dirs.iter().map(|path| path.display().to_string()).collect();
        let lines = [
            format!("dfs.namenode.address={}:{}", namenode.host, namenode.rpc_port),
            format!("dfs.datanode.data.dir={}", dirs.join(",")),
            format!("dfs.datanode.hostname={host}"),
            format!("dfs.datanode.address={host}:{data_port}"),
            format!("dfs.datanode.ipc.address={host}:{grpc_port}"),
            format!("dfs.datanode.http.address={host}:{http_port}"),
            format!("dfs.datanode.rack={rack}"),
        ];
        let config = self.write_config(place.dir, &name, &lines);
        let daemon = place.server_daemon(&name, index + 1, "datanode", &config);
        DataNodeProcess { daemon, devices, data_dirs, host, data_port, grpc_port, http_port, config }
    }

    fn write_config(&self, dir: &Path, name: &str, lines: &[String]) -> PathBuf {
        let common = [
            "dfs.heartbeat.interval=200ms".to_owned(),
            "dfs.namenode.stale.datanode.interval=2s".to_owned(),
            "dfs.namenode.dead.interval=5s".to_owned(),
            "dfs.namenode.safemode.extension=0s".to_owned(),
            format!("dfs.replication={}", self.replication),
        ];
        let mut table = std::collections::BTreeMap::new();
        for assignment in common.iter().chain(lines).chain(&self.settings) {
            let (key, value) = assignment.split_once('=').expect("settings are key=value");
            table.insert(key, value);
        }
        let text: String = table.iter().map(|(key, value)| format!("\"{key}\" = \"{value}\"\n")).collect();
        let path = dir.join(format!("{name}.toml"));
        std::fs::write(&path, text).expect("write configuration");
        path
    }
}

/// Where the daemons of a cluster are put.
struct Place<'a> {
    dir: &'a Path,
    network: Option<&'a Network>,
    open_files: Option<u64>,
}

impl Place<'_> {
    fn host(&self, index: usize) -> String {
        if self.network.is_some() { Network::address(index) } else { "127.0.0.1".to_owned() }
    }

    fn server_daemon(&self, name: &str, host: usize, role: &str, config: &Path) -> Daemon {
        let mut arguments = vec![OsString::from(role), "--config".into(), config.into()];
        let mut program = program("dfs-server");
        if let Some(limit) = self.open_files {
            arguments.splice(0..0, [format!("--nofile={limit}:{limit}").into(), program.into_os_string()]);
            program = "prlimit".into();
        }
        let (program, arguments) = match self.network {
            Some(network) => network.wrap(host, &program, arguments),
            None => (program, arguments),
        };
        Daemon::new(name, program, arguments, self.dir.join(format!("logs/{name}.log")))
    }
}

/// A directory for one test, where `scripts/test` will look for leftovers.
///
/// # Panics
/// When it cannot be made.
pub fn test_dir() -> TempDir {
    let base = std::env::var_os("DFS_TEST_BASE").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    // Readable by others: tests of permissions go in as other users.
    let permissions = std::fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("dfs-test-").permissions(permissions).tempdir_in(base).expect("make test directory")
}

/// A cluster. Fields are dropped in order: processes first, with their devices, then hosts, then the directory.
#[derive(Debug)]
pub struct Cluster {
    /// All DataNodes, by index.
    pub datanodes: Vec<DataNodeProcess>,
    /// The NameNode.
    pub namenode: NameNodeProcess,
    /// The hosts, of a cluster that has them.
    pub network: Option<Network>,
    dir: TempDir,
}

impl Cluster {
    /// Three DataNodes on folders.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::default()
    }

    /// The cluster's directory; mount points and test files may lie in it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What clients are given: `host:port`.
    pub fn namenodes(&self) -> String {
        format!("{}:{}", self.namenode.host, self.namenode.rpc_port)
    }

    /// Runs `dfs-server format`.
    ///
    /// # Panics
    /// When it fails.
    pub fn format(&self) {
        let output =
            Command::new(program("dfs-server")).args(["format", "--config"]).arg(&self.namenode.config).output();
        let output = output.expect("run dfs-server format");
        assert!(output.status.success(), "format: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts the NameNode and waits until it serves.
    ///
    /// # Panics
    /// When it does not.
    pub fn start_namenode(&mut self) {
        let node = &mut self.namenode;
        start_serving(&mut node.daemon, &node.host, node.http_port);
    }

    /// Starts a DataNode and waits until it serves.
    ///
    /// # Panics
    /// When it does not.
    pub fn start_datanode(&mut self, index: usize) {
        let node = &mut self.datanodes[index];
        start_serving(&mut node.daemon, &node.host, node.http_port);
    }

    /// Kills (SIGKILL) the NameNode and all DataNodes.
    pub fn kill_all(&mut self) {
        self.namenode.daemon.kill();
        for node in &mut self.datanodes {
            node.daemon.kill();
        }
    }

    /// Starts whatever does not run and waits until all DataNodes are live.
    ///
    /// # Panics
    /// When that fails.
    pub fn restart_all(&mut self) {
        if !self.namenode.daemon.is_running() {
            self.start_namenode();
        }
        for index in 0..self.datanodes.len() {
            if !self.datanodes[index].daemon.is_running() {
                self.start_datanode(index);
            }
        }
        self.wait_datanodes_live(self.datanodes.len());
    }

    /// Waits until the NameNode counts `count` live DataNodes.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn wait_datanodes_live(&self, count: usize) {
        wait_until(STARTUP, format!("{count} live DataNodes"), || self.live_datanodes() == Some(count));
    }

    /// Live DataNodes by the NameNode's count.
    pub fn live_datanodes(&self) -> Option<usize> {
        usize::try_from(self.status("live_datanodes")?).ok()
    }

    /// A number of the NameNode's status page.
    pub fn status(&self, field: &str) -> Option<u64> {
        let (_, body) = http_get(&self.namenode.host, self.namenode.http_port, "/status")?;
        serde_json::from_str::<serde_json::Value>(&body).ok()?.get(field)?.as_u64()
    }

    /// Waits until every block has all its replicas.
    ///
    /// # Panics
    /// When that does not happen in time, with what fsck finds.
    #[track_caller]
    pub fn wait_fully_replicated(&self) {
        let fields = ["under_replicated_blocks", "missing_blocks", "corrupt_blocks"];
        let is_whole = || fields.iter().all(|field| self.status(field) == Some(0)).then_some(());
        if poll(REPAIR, is_whole).is_none() {
            let counts = fields.map(|field| format!("{field}: {:?}", self.status(field)));
            let found = self.dfs_command(&["fsck", "/", "--locations"]).output().expect("run dfs fsck");
            let found = String::from_utf8_lossy(&found.stdout);
            panic!("waited {REPAIR:?} in vain for all replicas of every block; {}\n{found}", counts.join(", "));
        }
    }

    /// Mounts at a directory of this name beside the daemons' ones and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn mount(&self, name: &str) -> Mount {
        self.mount_with(name, &[])
    }

    /// Mounts with options.
    ///
    /// # Panics
    /// When the mount does not answer.
    pub fn mount_with(&self, name: &str, options: &[&str]) -> Mount {
        let mount = Mount::start(self.dir(), name, &self.namenodes(), options);
        // The first write needs a DataNode; a test must not be the one to find out.
        wait_until(STARTUP, "room on the mount", || mount.room() > 0);
        mount
    }

    /// The shell's command line, to be run.
    pub fn dfs_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("dfs"));
        command.env("DFS_NAMENODES", self.namenodes()).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs a shell command; its standard output, or what it complained about.
    ///
    /// # Errors
    /// Its output when it fails.
    pub fn try_dfs(&self, arguments: &[&str]) -> Result<Vec<u8>, Output> {
        let output = self.dfs_command(arguments).output().expect("run dfs");
        if output.status.success() { Ok(output.stdout) } else { Err(output) }
    }

    /// Runs a shell command that must succeed.
    ///
    /// # Panics
    /// When it fails.
    pub fn dfs(&self, arguments: &[&str]) -> String {
        let stdout = self.try_dfs(arguments).unwrap_or_else(|output| panic!("dfs {arguments:?}: {output:?}"));
        String::from_utf8(stdout).expect("dfs prints UTF-8")
    }

    /// Ends of all logs.
    pub fn diagnostics(&self) -> String {
        let mut tails = vec![self.namenode.daemon.log_tail()];
        tails.extend(self.datanodes.iter().map(|node| node.daemon.log_tail()));
        tails.join("\n")
    }

    /// Whether every daemon runs and answers its health check; else what does not.
    ///
    /// # Errors
    /// The name of the first that does not.
    pub fn check_all_serving(&mut self) -> Result<(), String> {
        let nodes = self.datanodes.iter_mut().map(|node| (&mut node.daemon, &node.host, node.http_port));
        let namenode = &mut self.namenode;
        for (daemon, host, port) in nodes.chain([(&mut namenode.daemon, &namenode.host, namenode.http_port)]) {
            if !daemon.is_running() {
                return Err(format!("{} is gone\n{}", daemon.name(), daemon.log_tail()));
            }
            if poll(Duration::from_secs(10), || http_status(host, port, "/health").filter(|status| *status == 200))
                .is_none()
            {
                return Err(format!("{} does not serve\n{}", daemon.name(), daemon.log_tail()));
            }
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.diagnostics());
        }
        // A process that waits for its disk does not die.
        self.datanodes.iter().flat_map(|node| &node.devices).for_each(LoopDevice::mend);
        self.kill_all();
    }
}
