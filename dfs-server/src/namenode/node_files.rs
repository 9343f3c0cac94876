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

use std::path::{Path, PathBuf};

use dfs_common::config_file::Config;
use dfs_common::error::{DfsError, ErrorKind, Result};
use serde::Deserialize;

use super::host_pattern::HostPattern;
use super::host_rules::{Duty, HostRules};
use super::racks::{RackTable, Racks, check_rack};

/// The files by their settings, and what was read of the racks.
#[derive(Debug)]
pub struct NodeFiles {
    include: Option<PathBuf>,
    exclude: Option<PathBuf>,
    table: Option<PathBuf>,
    racks: Racks,
}

impl NodeFiles {
    /// Takes the names of the files; nothing is read yet.
    pub fn new(config: &Config) -> Self {
        let path = |key: &str| Some(config.text(key)).filter(|text| !text.is_empty()).map(PathBuf::from);
        Self {
            include: path("dfs.hosts"),
            exclude: path("dfs.hosts.exclude"),
            table: path("net.topology.table.file.name"),
            racks: Racks::new(path("net.topology.script.file.name")),
        }
    }

    /// Reads all files. `rack_of` answers by them from now on; the rules are the caller's to apply.
    ///
    /// # Errors
    /// Naming file and line; then nothing has changed.
    pub fn read(&self) -> Result<HostRules> {
        let rules = read_rules(self.include.as_deref(), self.exclude.as_deref())?;
        let table = self.table.as_deref().map(|path| rack_table(path, &read_text(path)?)).transpose()?;
        self.racks.set_table(table);
        Ok(rules)
    }

    /// The rack of a DataNode with this host name, port and address, by table or script; none if there is neither, and the
    /// DataNode may say it. This may run the script, so it is not for a runtime's worker.
    pub fn rack_of(&self, host: &str, data_port: u32, address: &str) -> Option<String> {
        self.racks.rack_of(host, data_port, address)
    }
}

fn read_rules(include: Option<&Path>, exclude: Option<&Path>) -> Result<HostRules> {
    let (mut admitted, mut duties) = (Vec::new(), Vec::new());
    if let Some(path) = include {
        let text = read_text(path)?;
        if text.trim_start().starts_with(['[', '{']) {
            for (host, duty) in combined(&text).map_err(|why| wrong(path, &why))? {
                admitted.push(host.clone());
                duties.push((host, duty));
            }
        } else {
            admitted = hosts(path, &text)?;
        }
    }
    if let Some(path) = exclude {
        let excluded = hosts(path, &read_text(path)?)?;
        duties.extend(excluded.into_iter().map(|host| (host, Duty::Decommission)));
    }
    Ok(HostRules::new(admitted, duties))
}

/// HDFS's combined format.
fn combined(text: &str) -> Result<Vec<(HostPattern, Duty)>, String> {
    let many = text.trim_start().starts_with('[');
    let entries: Vec<HostEntry> = if many {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        let entries = serde_json::Deserializer::from_str(text).into_iter::<HostEntry>();
        entries.collect::<Result<_, _>>().map_err(|error| error.to_string())?
    };
    entries.into_iter().map(HostEntry::read).collect()
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

impl HostEntry {
    fn read(self) -> Result<(HostPattern, Duty), String> {
        let name = match self.port {
            Some(port) => format!("{}:{port}", self.host_name),
            None => self.host_name,
        };
        let duty = match self.admin_state {
            JsonState::Normal => Duty::Serve,
            JsonState::Decommissioned => Duty::Decommission,
            JsonState::InMaintenance => {
                let until_ns = self.maintenance_expire_time_ms.map(|ms| ms.saturating_mul(1_000_000));
                Duty::Maintain { until_ns }
            }
        };
        Ok((HostPattern::parse(&name)?, duty))
    }
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

fn rack_table(path: &Path, text: &str) -> Result<RackTable> {
    let mut table = RackTable::new();
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::os::unix::fs::PermissionsExt;

    use dfs_proto::v1;

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
