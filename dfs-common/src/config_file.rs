//! The configuration file: one flat TOML table whose keys are HDFS's property names, quoted.
//!
//! ```toml
//! "dfs.blocksize" = "128MiB"
//! "dfs.namenode.name.dir" = ["/data/name"]
//! ```
//!
//! One file serves all roles, so every key of every role is in [`KEYS`], with unit, default and limits; docs/configuration.md
//! is this table in prose. A key that is not there is an error that names the nearest one. Roles read their keys once, at
//! start, through typed getters. Limits are checked when a value is taken in, and the errors name key and file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::error::{DfsError, ErrorKind, Result};
use crate::units::{ByteCount, parse_duration};

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// A size, minimum and maximum in bytes.
    Bytes(u64, u64),
    /// The same, a multiple of the 512 bytes that have one checksum.
    Chunks(u64, u64),
    /// A duration, minimum and maximum in milliseconds.
    Duration(u64, u64),
    /// A whole number with minimum and maximum.
    Count(u64, u64),
    /// A share, 0 to 1.
    Fraction,
    /// true or false.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text.
    Text,
    /// A list of texts; a single text is a list of one.
    List,
}

/// Bytes that have one checksum.
const CHUNK: u64 = 512;

/// One key: name, kind, default as written in a file (empty: none), meaning.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// HDFS's property name where HDFS has one.
    pub name: &'static str,
    /// Type and limits.
    pub kind: ValueKind,
    /// Default as one would write it; empty when there is none.
    pub default: &'static str,
    /// One line for docs and errors.
    pub meaning: &'static str,
}

/// What is allowed, for people.
impl fmt::Display for ValueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |ms: u64| match ms {
            0 => "0".to_owned(),
            ms if ms.is_multiple_of(DAY_MS) => format!("{}d", ms / DAY_MS),
            ms if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
            ms => format!("{ms}ms"),
        };
        match *self {
            Self::Bytes(low, high) => write!(f, "size, {} to {}", ByteCount(low), ByteCount(high)),
            Self::Chunks(low, high) => {
                write!(f, "size, {} to {}, a multiple of {CHUNK}", ByteCount(low), ByteCount(high))
            }
            Self::Duration(low, high) => write!(f, "duration, {} to {}", millis(low), millis(high)),
            Self::Count(low, high) if low == high => write!(f, "number, {low}"),
            Self::Count(low, u64::MAX) => write!(f, "number, from {low}"),
            Self::Count(low, high) => write!(f, "number, {low} to {high}"),
            Self::Fraction => f.write_str("share, 0 to 1"),
            Self::Flag => f.write_str("true or false"),
            Self::Choice(words) => f.write_str(&words.join(", ")),
            Self::Text => f.write_str("text"),
            Self::List => f.write_str("list of texts"),
        }
    }
}

const fn key(name: &'static str, kind: ValueKind, default: &'static str, meaning: &'static str) -> Key {
    Key { name, kind, default, meaning }
}

const DAY_MS: u64 = 86_400_000;

/// Every key of every role, sorted by name.
pub const KEYS: &[Key] = &[
    key(
        "dfs.block.scanner.volume.bytes.per.second",
        ValueKind::Bytes(0, 1 << 40),
        "1MiB",
        "bytes per second that the block scanner reads of each volume at most; 0: it scans only when asked to",
    ),
    key(
        "dfs.blockreport.intervalMsec",
        ValueKind::Duration(1_000, 30 * DAY_MS),
        "6h",
        "time between full block reports",
    ),
    key("dfs.blocksize", ValueKind::Chunks(512, 1 << 40), "128MiB", "block size of new files"),
    key("dfs.bytes-per-checksum", ValueKind::Count(512, 512), "512", "bytes per checksum"),
    key(
        "dfs.client-write-packet-size",
        ValueKind::Bytes(4096, 16 << 20),
        "256KiB",
        "data in a packet of the write pipeline",
    ),
    key(
        "dfs.client.absent-replica.timeout",
        ValueKind::Duration(0, 3_600_000),
        "10s",
        "how long a read waits for replicas that no DataNode has, and a write for DataNodes that failed when there are no others",
    ),
    key(
        "dfs.client.block.write.replace-datanode-on-failure.enable",
        ValueKind::Flag,
        "true",
        "whether a write that lost a DataNode takes another one in its place, when there is one; it goes on either way",
    ),
    key(
        "dfs.client.cache.readahead",
        ValueKind::Bytes(0, 1 << 30),
        "8MiB",
        "bytes that a client reads ahead of one sequential reader at most; 0: it never reads ahead",
    ),
    key(
        "dfs.client.cache.readahead.total",
        ValueKind::Bytes(0, 64 << 30),
        "256MiB",
        "bytes that a client reads ahead over all its open files at most",
    ),
    key(
        "dfs.client.failover.timeout",
        ValueKind::Duration(1_000, DAY_MS),
        "5m",
        "how long a call to the NameNode is tried again: by the dfs command and by hard mounts; soft ones do so for 10 s at most",
    ),
    key(
        "dfs.client.socket-timeout",
        // Less than the pipeline's own patience, and a writer would throw out the wrong node.
        ValueKind::Duration(5_000, 300_000),
        "5s",
        "silence of a DataNode after which a read asks another one and a write goes on without it",
    ),
    key(
        "dfs.client.write.max-in-flight",
        ValueKind::Bytes(1 << 20, 1 << 30),
        "16MiB",
        "bytes sent and not acknowledged, per file",
    ),
    key("dfs.datanode.address", ValueKind::Text, "0.0.0.0:9866", "where the DataNode takes data transfers"),
    key(
        "dfs.datanode.balance.bandwidthPerSec",
        ValueKind::Bytes(1 << 10, 1 << 40),
        "100MiB",
        "bytes per second that a DataNode sends for the balancer at most",
    ),
    key("dfs.datanode.data.dir", ValueKind::List, "", "directories of the DataNode's volumes, one per device"),
    key(
        "dfs.datanode.directoryscan.interval",
        ValueKind::Duration(1000, 365 * DAY_MS),
        "6h",
        "time between two comparisons of a DataNode's files with its records of them",
    ),
    key(
        "dfs.datanode.drop.cache.behind.writes",
        ValueKind::Choice(&["false", "mirrors", "true"]),
        "mirrors",
        "who drops large blocks from the page cache as they reach the disk: none, all but the first node of a pipeline, or all",
    ),
    key(
        "dfs.datanode.du.reserved",
        ValueKind::Bytes(0, 1 << 60),
        "64MiB",
        "bytes of each volume that blocks must leave free",
    ),
    key(
        "dfs.datanode.failed.volumes.tolerated",
        ValueKind::Count(0, 256),
        "256",
        "volumes that may fail before the DataNode stops; by default it goes on with none and waits for one to come back",
    ),
    key(
        "dfs.datanode.hostname",
        ValueKind::Text,
        "",
        "address that clients and DataNodes dial; default: as seen by the NameNode",
    ),
    key(
        "dfs.datanode.http.address",
        ValueKind::Text,
        "0.0.0.0:9864",
        "where the DataNode serves its page, status and metrics",
    ),
    key("dfs.datanode.ipc.address", ValueKind::Text, "0.0.0.0:9867", "where the DataNode serves gRPC"),
    key("dfs.datanode.max.transfer.threads", ValueKind::Count(16, 65_536), "4096", "data connections served at once"),
    key("dfs.datanode.rack", ValueKind::Text, "/default-rack", "network location of the DataNode"),
    key(
        "dfs.datanode.scan.period.hours",
        ValueKind::Count(1, 100_000),
        "504",
        "hours from one pass of the block scanner over a volume to the next",
    ),
    key(
        "dfs.datanode.socket.timeout",
        ValueKind::Duration(100, DAY_MS),
        "60s",
        "silence after which a transfer is given up",
    ),
    key("dfs.datanode.synconclose", ValueKind::Flag, "false", "sync every block when it is finalized"),
    key("dfs.heartbeat.interval", ValueKind::Duration(50, 600_000), "1s", "time between heartbeats"),
    key("dfs.hosts", ValueKind::Text, "", "file of the DataNodes that may join; none: all may"),
    key("dfs.hosts.exclude", ValueKind::Text, "", "file of the DataNodes to be decommissioned"),
    key(
        "dfs.http.server-names",
        ValueKind::List,
        "",
        "names by which browsers may ask the HTTP ports, beside addresses, localhost, the machine's own names and those of configured addresses; *: all",
    ),
    key("dfs.namenode.address", ValueKind::List, "", "host:port of each NameNode, for DataNodes and clients"),
    key("dfs.namenode.checkpoint.dir", ValueKind::List, "", "directory of the SecondaryNameNode"),
    key("dfs.namenode.checkpoint.period", ValueKind::Duration(1_000, 30 * DAY_MS), "1h", "time between checkpoints"),
    key("dfs.namenode.checkpoint.txns", ValueKind::Count(10, u64::MAX), "1000000", "transactions between checkpoints"),
    key(
        "dfs.namenode.dead.interval",
        ValueKind::Duration(200, DAY_MS),
        "60s",
        "silence after which a DataNode is dead",
    ),
    key("dfs.namenode.fs-limits.max-blocks-per-file", ValueKind::Count(1, 1 << 31), "10000", "blocks a file may have"),
    key(
        "dfs.namenode.fs-limits.min-block-size",
        ValueKind::Bytes(512, 1 << 40),
        "1MiB",
        "smallest block size of a file",
    ),
    key(
        "dfs.namenode.http-address",
        ValueKind::Text,
        "0.0.0.0:9870",
        "where the NameNode serves pages, status and metrics",
    ),
    key("dfs.namenode.name.dir", ValueKind::List, "", "directory of image and edits"),
    key("dfs.namenode.num.checkpoints.retained", ValueKind::Count(1, 1000), "2", "images kept"),
    key(
        "dfs.namenode.replication.max-streams",
        ValueKind::Count(1, 1024),
        "2",
        "copies of large blocks that a DataNode is told to send at once",
    ),
    key(
        "dfs.namenode.replication.max-streams-hard-limit",
        ValueKind::Count(1, 1024),
        "4",
        "the same when the last replica of a block is at stake",
    ),
    key("dfs.namenode.replication.min", ValueKind::Count(1, 512), "1", "replicas that make a block complete"),
    key(
        "dfs.namenode.replication.work.multiplier.per.iteration",
        ValueKind::Count(1, 1024),
        "2",
        "copies of large blocks ordered per second and live DataNode",
    ),
    key("dfs.namenode.rpc-address", ValueKind::Text, "0.0.0.0:9820", "where the NameNode serves gRPC"),
    key(
        "dfs.namenode.safemode.extension",
        ValueKind::Duration(0, DAY_MS),
        "30s",
        "safe mode after the threshold is reached",
    ),
    key(
        "dfs.namenode.safemode.threshold-pct",
        ValueKind::Fraction,
        "0.999",
        "share of blocks that must have their replicas",
    ),
    key(
        "dfs.namenode.secondary.http-address",
        ValueKind::Text,
        "0.0.0.0:9868",
        "where the SecondaryNameNode serves its page",
    ),
    key(
        "dfs.namenode.stale.datanode.interval",
        ValueKind::Duration(100, DAY_MS),
        "10s",
        "silence after which a DataNode is used last",
    ),
    key("dfs.replication", ValueKind::Count(1, 512), "3", "replicas of new files"),
    key("dfs.replication.max", ValueKind::Count(1, 512), "512", "most replicas a file may ask for"),
    key(
        "ipc.client.connect.timeout",
        ValueKind::Duration(1_000, 3_600_000),
        "10s",
        "how long a command or a mount waits for the first answer of a NameNode",
    ),
    key(
        "ipc.client.rpc-timeout.ms",
        ValueKind::Duration(1_000, 3_600_000),
        "10s",
        "how long one try of a call to the NameNode may take; long walks have more",
    ),
    key(
        "ipc.server.max.connections",
        ValueKind::Count(16, 1 << 20),
        "4096",
        "gRPC connections that a daemon serves at once, three quarters of them from one address; fewer under a small limit of open files",
    ),
    key(
        "net.topology.script.file.name",
        ValueKind::Text,
        "",
        "program that prints the rack of the address it is given; after 10 s the default rack is taken",
    ),
    key("net.topology.table.file.name", ValueKind::Text, "", "file with an address or name and its rack per line"),
];

/// Values from file and flags over the defaults.
#[derive(Clone, Debug, Default)]
pub struct Config {
    values: BTreeMap<&'static str, toml::Value>,
}

impl Config {
    /// Reads `path`; without one, all defaults.
    ///
    /// # Errors
    /// `InvalidArgument` naming file and key.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| DfsError::io(format!("read configuration {}", path.display()), error))?;
        let place = path.display().to_string();
        let mut config = Self::default();
        let table: toml::Table =
            text.parse().map_err(|error: toml::de::Error| refusal(&place, "not valid TOML").with_source(error))?;
        for (name, value) in table {
            if matches!(value, toml::Value::Table(_)) {
                let words = format!("key {name} is a table; quote whole property names: \"{name}...\"");
                return Err(refusal(&place, &words));
            }
            config.insert(&name, value, &place)?;
        }
        Ok(config)
    }

    /// Sets `name=value` as a flag does: text, with commas between the items of a list.
    ///
    /// # Errors
    /// As for a file.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let (name, value) = assignment
            .split_once('=')
            .ok_or_else(|| refusal(COMMAND_LINE, &format!("{assignment:?} is not of the form key=value")))?;
        self.insert(name.trim(), toml::Value::String(value.trim().to_owned()), COMMAND_LINE)
    }

    fn insert(&mut self, name: &str, value: toml::Value, place: &str) -> Result<()> {
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            let nearest = KEYS
                .iter()
                .map(|key| (strsim::damerau_levenshtein(key.name, name), key.name))
                .min()
                .map_or("", |(_, nearest)| nearest);
            return Err(refusal(place, &format!("unknown key {name:?}; the nearest known one is {nearest:?}")));
        };
        check(key, &value).map_err(|why| refusal(place, &why))?;
        self.values.insert(key.name, value);
        Ok(())
    }

    /// Whether file or flag has the key: what is left to a default may be somebody else's to decide.
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The text of a key: file or flag, else default.
    ///
    /// # Panics
    /// When the name is not in [`KEYS`]: a bug of the caller.
    pub fn text(&self, name: &str) -> String {
        let key = KEYS.iter().find(|key| key.name == name);
        let key = key.unwrap_or_else(|| panic!("{name} is not a key"));
        self.values.get(key.name).map_or_else(|| key.default.to_owned(), scalar_text)
    }

    /// The items of a list; a text is split at commas.
    pub fn list(&self, name: &str) -> Vec<String> {
        let split = |text: &str| -> Vec<String> {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
        };
        match self.values.get(name) {
            Some(toml::Value::Array(items)) => items.iter().map(scalar_text).collect(),
            Some(value) => split(&scalar_text(value)),
            None => split(&self.text(name)),
        }
    }

    /// A size in bytes.
    pub fn bytes(&self, name: &str) -> u64 {
        self.text(name).parse::<ByteCount>().expect("checked on insert").0
    }

    /// A duration.
    pub fn duration(&self, name: &str) -> Duration {
        parse_duration(&self.text(name)).expect("checked on insert")
    }

    /// A whole number.
    pub fn count(&self, name: &str) -> u64 {
        self.text(name).parse().expect("checked on insert")
    }

    /// A share, 0 to 1.
    pub fn fraction(&self, name: &str) -> f64 {
        self.text(name).parse().expect("checked on insert")
    }

    /// true or false.
    pub fn flag(&self, name: &str) -> bool {
        self.text(name).parse().expect("checked on insert")
    }
}

fn scalar_text(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(items) => items.iter().map(scalar_text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Why a value is none of its key.
fn check(key: &Key, value: &toml::Value) -> std::result::Result<(), String> {
    if let toml::Value::Array(items) = value {
        if key.kind != ValueKind::List {
            return Err(format!("{}: a list, where one value is wanted; allowed: {}", key.name, key.kind));
        }
        let is_item = |item: &toml::Value| item.as_str().is_some_and(|text| !text.trim().is_empty());
        return if items.iter().all(is_item) {
            Ok(())
        } else {
            Err(format!("{}: an item of the list is empty, or no text; allowed: {}", key.name, key.kind))
        };
    }
    let text = scalar_text(value);
    let within = |number: u64, low: u64, high: u64| {
        if (low..=high).contains(&number) { Ok(()) } else { Err(format!("{text:?} is not within the limits")) }
    };
    let checked = match key.kind {
        ValueKind::Bytes(low, high) => text.parse::<ByteCount>().and_then(|bytes| within(bytes.0, low, high)),
        ValueKind::Chunks(low, high) => text.parse::<ByteCount>().and_then(|bytes| {
            within(bytes.0, low, high)?;
            if bytes.0.is_multiple_of(CHUNK) { Ok(()) } else { Err(format!("{text:?} is no multiple of {CHUNK}")) }
        }),
        ValueKind::Duration(low, high) => parse_duration(&text)
            .and_then(|duration| within(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), low, high)),
        ValueKind::Count(low, high) => text
            .parse::<u64>()
            .map_err(|_| format!("{text:?} is not a whole number"))
            .and_then(|count| within(count, low, high)),
        ValueKind::Fraction => match text.parse::<f64>() {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(()),
            _ => Err(format!("{text:?} is not a number from 0 to 1")),
        },
        ValueKind::Flag => text.parse::<bool>().map(|_| ()).map_err(|_| format!("{text:?} is not true or false")),
        ValueKind::Choice(words) if words.contains(&text.as_str()) => Ok(()),
        ValueKind::Choice(_) => Err(format!("{text:?} is none of its words")),
        ValueKind::Text | ValueKind::List => Ok(()),
    };
    checked.map_err(|why| format!("{}: {why}; allowed: {}", key.name, key.kind))
}

/// What flags are called as a place.
const COMMAND_LINE: &str = "command line";

fn refusal(place: &str, what: &str) -> DfsError {
    DfsError::new(ErrorKind::InvalidArgument, format!("configuration ({place}): {what}"))
}

#[cfg(test)]
#[path = "config_file_tests.rs"]
mod tests;
