//! The operator's files about DataNodes, HDFS's: who may join (`dfs.hosts`), who is to leave (`dfs.hosts.exclude`), and who
//! stands on which rack (`net.topology.table.file.name`, `net.topology.script.file.name`).
//!
//! A list of hosts has one name per line: a host, an address, either with `:port` of data transfers where several
//! DataNodes share a machine, or a DataNode's uuid; `#` begins a comment. When `dfs.hosts` holds JSON (HDFS's combined
//! format), it says everything at once:
//!
//! ```json
//! [{"hostName": "dn1", "port": 9866, "adminState": "DECOMMISSIONED"},
//!  {"hostName": "10.0.0.2", "adminState": "IN_MAINTENANCE", "maintenanceExpireTimeInMS": 1893456000000}]
//! ```
//!
//! A table of racks has a name or address and its rack per line. All files are read at start and by `dfs admin
//! refresh-nodes`; the files are the record, so what they say survives a restart. A file with an error changes nothing, and
//! the error names its line.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use dfs_common::config_file::Config;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::v1;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;

/// How long the script may take for an address.
const SCRIPT_PATIENCE: Duration = Duration::from_secs(10);

/// Racks asked of the script that are kept: as many as DataNodes.
const RACKS_CACHED_MAX: usize = 100_000;

/// What is to become of a DataNode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duty {
    /// It serves.
    #[default]
    Serve,
    /// Its replicas are to be copied elsewhere, then it may go.
    Decommission,
    /// It will be away for a while: its replicas count meanwhile. Ends by itself at this time (ns since the epoch).
    Maintain {
        /// None: only the operator ends it.
        until_ns: Option<i64>,
    },
}

/// A name that a file gives.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HostPattern {
    text: String,
    /// The addresses behind a name.
    addresses: Vec<IpAddr>,
    port: Option<u32>,
}

impl HostPattern {
    fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = match text.rsplit_once(':') {
            // An IPv6 address has more than one colon.
            Some((host, port)) if !host.contains(':') => {
                let port: u16 = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
                (host, Some(u32::from(port)))
            }
            _ => (text, None),
        };
        if host.is_empty() || host.contains(['/', '*', ',']) {
            return Err(format!("{text:?} is not a host, an address or a uuid"));
        }
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![address.to_canonical()],
            // A uuid or a name that nobody knows stands for itself.
            Err(_) => (host, 0u16)
                .to_socket_addrs()
                .map_or(Vec::new(), |found| found.map(|address| address.ip().to_canonical()).collect()),
        };
        Ok(Self { text: host.to_owned(), addresses, port })
    }

    fn matches(&self, id: &v1::DatanodeId, addresses: &[IpAddr]) -> bool {
        if self.text == id.uuid {
            return true;
        }
        let is_host = self.text.eq_ignore_ascii_case(&id.host);
        let is_address = self.addresses.iter().any(|address| addresses.contains(address));
        (is_host || is_address) && self.port.is_none_or(|port| port == id.data_port)
    }
}

/// Who may join, and what is to become of whom.
#[derive(Clone, Debug, Default)]
pub struct HostRules {
    /// Empty: everybody may join.
    include: Vec<HostPattern>,
    duties: Vec<(HostPattern, Duty)>,
}

impl HostRules {
    /// Rules for these uuids; all others serve.
    #[cfg(test)]
    pub(crate) fn of_duties(duties: &[(&str, Duty)]) -> Self {
        let duty = |&(uuid, duty): &(&str, Duty)| (HostPattern::parse(uuid).unwrap(), duty);
        Self { include: Vec::new(), duties: duties.iter().map(duty).collect() }
    }

    /// Rules by which only these uuids may join.
    #[cfg(test)]
    pub(crate) fn of_members(uuids: &[&str]) -> Self {
        Self { include: uuids.iter().map(|uuid| HostPattern::parse(uuid).unwrap()).collect(), duties: Vec::new() }
    }

    /// Whether the DataNode may join.
    pub fn admits(&self, id: &v1::DatanodeId, addresses: &[IpAddr]) -> bool {
        self.include.is_empty() || self.include.iter().any(|host| host.matches(id, addresses))
    }

    /// What is to become of the DataNode.
    pub fn duty_of(&self, id: &v1::DatanodeId, addresses: &[IpAddr]) -> Duty {
        let found = self.duties.iter().find(|(host, _)| host.matches(id, addresses));
        found.map_or(Duty::Serve, |(_, duty)| *duty)
    }

    fn read(include: Option<&Path>, exclude: Option<&Path>) -> Result<Self> {
        let mut rules = Self::default();
        if let Some(path) = include {
            let text = read_text(path)?;
            if text.trim_start().starts_with(['[', '{']) {
                rules.take_json(&text).map_err(|why| wrong(path, &why))?;
            } else {
                rules.include = hosts(path, &text)?;
            }
        }
        if let Some(path) = exclude {
            let excluded = hosts(path, &read_text(path)?)?;
            rules.duties.extend(excluded.into_iter().map(|host| (host, Duty::Decommission)));
        }
        Ok(rules)
    }

    fn take_json(&mut self, text: &str) -> Result<(), String> {
        let many = text.trim_start().starts_with('[');
        let entries: Vec<HostEntry> = if many {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            let entries = serde_json::Deserializer::from_str(text).into_iter::<HostEntry>();
            entries.collect::<Result<_, _>>().map_err(|error| error.to_string())?
        };
        for entry in entries {
            let name = match entry.port {
                Some(port) => format!("{}:{port}", entry.host_name),
                None => entry.host_name.clone(),
            };
            let host = HostPattern::parse(&name)?;
            let duty = match entry.admin_state {
                JsonState::Normal => Duty::Serve,
                JsonState::Decommissioned => Duty::Decommission,
                JsonState::InMaintenance => {
                    let until_ns = entry.maintenance_expire_time_ms.map(|ms| ms.saturating_mul(1_000_000));
                    Duty::Maintain { until_ns }
                }
            };
            self.include.push(host.clone());
            self.duties.push((host, duty));
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostEntry {
    #[serde(rename = "hostName")]
    host_name: String,
    port: Option<u16>,
    #[serde(rename = "adminState", default)]
    admin_state: JsonState,
    #[serde(rename = "maintenanceExpireTimeInMS")]
    maintenance_expire_time_ms: Option<i64>,
    #[serde(rename = "upgradeDomain")]
    _upgrade_domain: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum JsonState {
    #[default]
    Normal,
    Decommissioned,
    InMaintenance,
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| DfsError::io(format!("read {}", path.display()), error))
}

fn wrong(path: &Path, why: &str) -> DfsError {
    DfsError::new(ErrorKind::InvalidArgument, format!("{}: {why}", path.display()))
}

/// The lines that say something, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line.split('#').next().unwrap_or_default().trim()))
        .filter(|(_, line)| !line.is_empty())
}

fn hosts(path: &Path, text: &str) -> Result<Vec<HostPattern>> {
    let mut hosts = Vec::new();
    for (number, line) in lines(text) {
        for name in line.split_whitespace() {
            hosts.push(HostPattern::parse(name).map_err(|why| wrong(path, &format!("line {number}: {why}")))?);
        }
    }
    Ok(hosts)
}

/// A rack's name as HDFS writes it: absolute, no empty component.
fn check_rack(rack: &str) -> Result<(), String> {
    let is_path = rack.len() > 1 && rack.starts_with('/') && !rack.ends_with('/') && !rack.contains("//");
    if is_path { Ok(()) } else { Err(format!("{rack:?} is not a rack; racks look like /rack1 or /dc1/rack1")) }
}

fn rack_table(path: &Path, text: &str) -> Result<BTreeMap<String, String>> {
    let mut table = BTreeMap::new();
    for (number, line) in lines(text) {
        let at_line = |why: String| wrong(path, &format!("line {number}: {why}"));
        let mut words = line.split_whitespace();
        let (Some(host), Some(rack), None) = (words.next(), words.next(), words.next()) else {
            return Err(at_line(format!("expected a host and its rack, found {line:?}")));
        };
        check_rack(rack).map_err(at_line)?;
        if let Some(other) = table.insert(host.to_owned(), rack.to_owned())
            && other != rack
        {
            return Err(at_line(format!("{host} stands on {other} and on {rack}")));
        }
    }
    Ok(table)
}

/// Where the racks come from.
#[derive(Debug, Default)]
struct RackSource {
    /// From the table; none: there is no table.
    table: Option<BTreeMap<String, String>>,
    /// Answers of the script.
    answers: BTreeMap<String, String>,
}

/// The files by their settings, and what was read of the racks.
#[derive(Debug)]
pub struct NodeFiles {
    include: Option<PathBuf>,
    exclude: Option<PathBuf>,
    table: Option<PathBuf>,
    script: Option<PathBuf>,
    racks: Mutex<RackSource>,
}

impl NodeFiles {
    /// Takes the names of the files; nothing is read yet.
    pub fn new(config: &Config) -> Self {
        let path = |key: &str| Some(config.text(key)).filter(|text| !text.is_empty()).map(PathBuf::from);
        Self {
            include: path("dfs.hosts"),
            exclude: path("dfs.hosts.exclude"),
            table: path("net.topology.table.file.name"),
            script: path("net.topology.script.file.name"),
            racks: Mutex::default(),
        }
    }

    /// Reads all files. `rack_of` answers by them from now on; the rules are the caller's to apply.
    ///
    /// # Errors
    /// Naming file and line; then nothing has changed.
    pub fn read(&self) -> Result<HostRules> {
        let rules = HostRules::read(self.include.as_deref(), self.exclude.as_deref())?;
        let table = self.table.as_deref().map(|path| rack_table(path, &read_text(path)?)).transpose()?;
        *self.racks.lock() = RackSource { table, answers: BTreeMap::new() };
        Ok(rules)
    }

    /// The rack of a DataNode with this host name, port and address by table or script; none: it may say itself. May run
    /// the script: not for a runtime's worker.
    pub fn rack_of(&self, host: &str, data_port: u32, address: &str) -> Option<String> {
        let names =
            [format!("{host}:{data_port}"), format!("{address}:{data_port}"), host.to_owned(), address.to_owned()];
        {
            let racks = self.racks.lock();
            if let Some(table) = &racks.table {
                let found = names.iter().find_map(|name| table.get(name));
                // Who is not in the table stands on the default rack, as in HDFS.
                return Some(found.cloned().unwrap_or_default());
            }
            if let Some(rack) = racks.answers.get(address) {
                return Some(rack.clone());
            }
        }
        let script = self.script.as_deref()?;
        let rack = match ask(script, address, SCRIPT_PATIENCE) {
            Ok(rack) => rack,
            Err(why) => {
                tracing::error!(script = %script.display(), address, why, "no rack; the default one is taken");
                return Some(String::new());
            }
        };
        let mut racks = self.racks.lock();
        if racks.answers.len() < RACKS_CACHED_MAX {
            racks.answers.insert(address.to_owned(), rack.clone());
        }
        Some(rack)
    }
}

/// Runs the script for one address. It is ended, with what it has started, when it takes too long: a DataNode waits to register.
fn ask(script: &Path, address: &str, patience: Duration) -> Result<String, String> {
    let child = Command::new(script)
        .arg(address)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("cannot run it: {error}"))?;
    let group = Pid::from_child(&child);
    let (sender, ended) = mpsc::channel();
    let waiter = thread::Builder::new().name("rack-script".into()).spawn(move || {
        // Nobody listens when it took too long.
        let _ = sender.send(child.wait_with_output());
    });
    let output = waiter.map(|_| ended.recv_timeout(patience));
    let Ok(Ok(output)) = output else {
        // Gone already otherwise.
        let _ = kill_process_group(group, Signal::KILL);
        return Err(format!("it did not end within {patience:?}"));
    };
    let output = output.map_err(|error| format!("cannot read what it prints: {error}"))?;
    if !output.status.success() {
        return Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let rack = text.split_whitespace().next().ok_or("it printed nothing")?;
    check_rack(rack)?;
    Ok(rack.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn id(uuid: &str, host: &str, data_port: u32) -> v1::DatanodeId {
        v1::DatanodeId { uuid: uuid.into(), host: host.into(), data_port, ..v1::DatanodeId::default() }
    }

    fn files(settings: &[(&str, &Path)]) -> NodeFiles {
        let mut config = Config::default();
        for (key, path) in settings {
            config.set(&format!("{key}={}", path.display())).unwrap();
        }
        NodeFiles::new(&config)
    }

    #[test]
    fn read_without_files_admits_all() {
        let files = files(&[]);
        let rules = files.read().unwrap();
        assert!(rules.admits(&id("u", "h", 1), &[]));
        assert_eq!(rules.duty_of(&id("u", "h", 1), &[]), Duty::Serve);
        assert_eq!(files.rack_of("h", 1, "10.0.0.1"), None);
    }

    #[test]
    fn duty_of_follows_the_exclude_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exclude");
        std::fs::write(&path, "# leaving\n10.0.0.1:9866\nDN-Uuid # a uuid\n\nHost2\n").unwrap();
        let rules = files(&[("dfs.hosts.exclude", &path)]).read().unwrap();
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        for (node, addresses, expected) in [
            (id("a", "10.0.0.1", 9866), vec![address], Duty::Decommission),
            (id("a", "10.0.0.1", 9867), vec![address], Duty::Serve),
            (id("DN-Uuid", "x", 1), vec![], Duty::Decommission),
            (id("a", "host2", 1), vec![], Duty::Decommission),
            (id("a", "host3", 1), vec![], Duty::Serve),
        ] {
            assert_eq!(rules.duty_of(&node, &addresses), expected, "{node:?}");
        }
    }

    #[test]
    fn read_takes_hdfs_combined_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        let text = r#"[{"hostName": "a"}, {"hostName": "b", "port": 5, "adminState": "DECOMMISSIONED"},
            {"hostName": "c", "adminState": "IN_MAINTENANCE", "maintenanceExpireTimeInMS": 7}]"#;
        std::fs::write(&path, text).unwrap();
        let rules = files(&[("dfs.hosts", &path)]).read().unwrap();
        assert!(rules.admits(&id("", "a", 1), &[]) && !rules.admits(&id("", "d", 1), &[]));
        assert_eq!(rules.duty_of(&id("", "b", 5), &[]), Duty::Decommission);
        assert_eq!(rules.duty_of(&id("", "c", 5), &[]), Duty::Maintain { until_ns: Some(7_000_000) });
    }

    #[test]
    fn errors_name_the_line_and_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let read = |key, text: &str| {
            std::fs::write(&path, text).unwrap();
            files(&[(key, &path)]).read().unwrap_err().message().to_owned()
        };
        for (key, text, expected) in [
            ("net.topology.table.file.name", "a /r1\nb\n", "line 2: expected"),
            ("net.topology.table.file.name", "a r1\n", "line 1: \"r1\" is not a rack"),
            ("net.topology.table.file.name", "a /r1\na /r2\n", "line 2: a stands on"),
            ("dfs.hosts.exclude", "\na:port\n", "line 2: \"port\" is not a port"),
            ("dfs.hosts", "[{\"hostname\": 1}]", "unknown field"),
        ] {
            let error = read(key, text);
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn rack_of_asks_table_then_default() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("table");
        std::fs::write(&path, "10.0.0.1 /r1\n10.0.0.1:7\t/r7\ndn2 /dc/r2\n").unwrap();
        let files = files(&[("net.topology.table.file.name", &path)]);
        files.read().unwrap();
        for (host, port, address, expected) in [
            ("x", 9866, "10.0.0.1", "/r1"),
            ("x", 7, "10.0.0.1", "/r7"),
            ("dn2", 1, "10.0.0.9", "/dc/r2"),
            ("dn3", 1, "10.0.0.9", ""),
        ] {
            assert_eq!(files.rack_of(host, port, address).as_deref(), Some(expected), "{host}:{port}");
        }
    }

    #[test]
    fn a_script_that_does_not_end_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("racks.sh");
        // The reader of its output waits for whoever can still write to it.
        std::fs::write(&path, "#!/bin/sh\nsleep 100000 &\necho /r1\nwait\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = ask(&path, "10.0.0.1", Duration::from_millis(50)).unwrap_err();
        assert!(error.contains("did not end"), "{error}");
    }

    #[test]
    fn rack_of_asks_the_script_and_falls_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("racks.sh");
        std::fs::write(&path, "#!/bin/sh\n[ $1 = 10.0.0.1 ] && echo /r1\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let files = files(&[("net.topology.script.file.name", &path)]);
        assert_eq!(files.rack_of("h", 1, "10.0.0.1").as_deref(), Some("/r1"));
        assert_eq!(files.rack_of("h", 1, "10.0.0.2").as_deref(), Some(""));
    }
}
