//! The command line, as a program and as mount(8)'s helper, and the mount options.
//!
//! ```text
//! dfs-fuse [-o opt,...] [-f] [--config FILE] [-D key=value] NAMENODES MOUNTPOINT    by hand; -f stays in the foreground
//! mount.fuse.dfs NAMENODES MOUNTPOINT [-sfnv] [-o opt,...]    from mount -t fuse.dfs and /etc/fstab; -f fakes
//! ```
//!
//! Mount options are the mount's own, or keys of the configuration file: what `-o` and `-D` say wins over the file.
//! An option that nobody knows is an error that names it: a mount with a misspelt option would promise what it does not do.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use dfs_common::config_file::{Config, KEYS};
use dfs_common::error::DfsError;
use dfs_common::units::parse_duration;

use dfs_client::SyncLevel;

/// Mounts a cluster as a directory.
#[derive(Debug, Parser)]
#[command(
    name = "dfs-fuse",
    version,
    after_help = "Options for -o: see docs/mount-options.md. Unmount with umount(8)."
)]
struct Arguments {
    /// Mount options, separated by commas; may be given several times
    #[arg(short = 'o', value_name = "OPT,...")]
    options: Vec<String>,
    /// Stay in the foreground and log to stderr
    #[arg(short = 'f')]
    foreground: bool,
    /// Configuration file; the option config=FILE is the same
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A configuration key in place of the file's, like dfs.replication=2
    #[arg(short = 'D', value_name = "KEY=VALUE")]
    define: Vec<String>,
    /// Addresses of the NameNodes, host:port[,host:port...]
    #[arg(value_name = "NAMENODES")]
    namenodes: String,
    /// An existing directory
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// What mount(8) passes to its helpers
    #[arg(short = 's', hide = true)]
    sloppy: bool,
    #[arg(short = 'n', hide = true)]
    no_mtab: bool,
    #[arg(short = 'v', hide = true)]
    verbose: bool,
    #[arg(short = 't', hide = true)]
    filesystem_type: Option<String>,
    #[arg(short = 'N', hide = true)]
    namespace: Option<PathBuf>,
    /// The half of a background start that becomes the daemon
    #[arg(long, hide = true)]
    background_child: bool,
}

/// How this process is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Foreground,
    /// Start the daemon, wait for its word, leave.
    Background,
    /// Be the daemon that was started so.
    BackgroundChild,
    /// mount --fake: check the arguments, mount nothing.
    Fake,
}

/// A parsed command line.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    pub(crate) namenodes: Vec<String>,
    pub(crate) mountpoint: PathBuf,
    pub(crate) mode: Mode,
    pub(crate) options: MountOptions,
    /// The configuration file, with what the command line says in its place.
    pub(crate) config: Config,
}

/// What `-o` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountOptions {
    pub(crate) read_only: bool,
    /// Default: everybody when root mounts, else the one who mounts.
    pub(crate) allow_other: Option<bool>,
    /// Keep trying through an outage, for minutes.
    pub(crate) hard: bool,
    pub(crate) sync: SyncLevel,
    pub(crate) attr_timeout: Duration,
    pub(crate) entry_timeout: Duration,
    /// Default: 4096 where the right to set it is there.
    pub(crate) read_ahead_kb: Option<u32>,
    pub(crate) max_background: u16,
    /// Loop threads that take requests from the kernel.
    pub(crate) threads: usize,
    /// Threads of the runtime that talks to the cluster.
    pub(crate) workers: usize,
    pub(crate) vfs: VfsFlags,
    pub(crate) debug: bool,
    /// Where a daemon in the background logs.
    pub(crate) log: Option<PathBuf>,
    /// The configuration file.
    pub(crate) config: Option<PathBuf>,
    /// Keys of the configuration file with their values, as `key=value`.
    pub(crate) settings: Vec<String>,
}

/// Flags that the kernel honours for every file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VfsFlags {
    pub(crate) dev: bool,
    pub(crate) suid: bool,
    pub(crate) noexec: bool,
    pub(crate) noatime: bool,
    pub(crate) nodiratime: bool,
    pub(crate) synchronous: bool,
    pub(crate) dirsync: bool,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            allow_other: None,
            hard: true,
            sync: SyncLevel::Hsync,
            attr_timeout: Duration::from_secs(1),
            entry_timeout: Duration::from_secs(1),
            read_ahead_kb: None,
            max_background: 128,
            // More only makes them wake each other: a request costs the daemon some 10 us, or waits elsewhere.
            threads: cores().clamp(2, 4),
            workers: (cores() / 2).clamp(1, 4),
            vfs: VfsFlags::default(),
            debug: false,
            log: None,
            config: None,
            settings: Vec::new(),
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Options for mount(8) itself, which passes them on to its helpers.
const FOR_MOUNT: [&str; 19] = [
    "_netdev",
    "auto",
    "async",
    "atime",
    "defaults",
    "diratime",
    "exec",
    "group",
    "mand",
    "noauto",
    "nofail",
    "nomand",
    "norelatime",
    "nouser",
    "owner",
    "relatime",
    "rw",
    "user",
    "users",
];
/// The same, with something after it.
const FOR_MOUNT_PREFIXES: [&str; 4] = ["x-", "X-", "comment=", "user="];

impl MountOptions {
    fn parse(lists: &[String], is_sloppy: bool) -> anyhow::Result<Self> {
        let mut options = Self::default();
        let items = lists.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|item| !item.is_empty());
        for item in items {
            let is_known = options.set(item).with_context(|| format!("mount option {item}"))?;
            ensure!(
                is_known || is_sloppy,
                "unknown mount option {item:?}; docs/mount-options.md lists those there are"
            );
        }
        Ok(options)
    }

    /// Takes one option; false when it is not known.
    fn set(&mut self, item: &str) -> anyhow::Result<bool> {
        let (name, value) = item.split_once('=').map_or((item, None), |(name, value)| (name, Some(value)));
        match (name, value) {
            ("ro", None) => self.read_only = true,
            ("rw", None) => self.read_only = false,
            ("allow_other", None) => self.allow_other = Some(true),
            ("noallow_other", None) => self.allow_other = Some(false),
            ("hard", None) => self.hard = true,
            ("soft", None) => self.hard = false,
            ("debug", None) => self.debug = true,
            ("sync", Some("hsync")) => self.sync = SyncLevel::Hsync,
            ("sync", Some("hflush")) => self.sync = SyncLevel::Hflush,
            ("sync", Some(_)) => bail!("is hsync or hflush"),
            ("attr_timeout", Some(value)) => self.attr_timeout = timeout(value)?,
            ("entry_timeout", Some(value)) => self.entry_timeout = timeout(value)?,
            ("read_ahead_kb", Some(value)) => self.read_ahead_kb = Some(number(value, 0, 1 << 20)?),
            ("max_background", Some(value)) => {
                self.max_background = u16::try_from(number(value, 1, u32::from(u16::MAX))?)?;
            }
            ("threads", Some(value)) => self.threads = number(value, 1, 64)? as usize,
            ("workers", Some(value)) => self.workers = number(value, 1, 256)? as usize,
            ("config", Some(value)) => self.config = Some(PathBuf::from(value)),
            (key, Some(_)) if KEYS.iter().any(|known| known.name == key) => self.settings.push(item.to_owned()),
            ("log", Some(value)) => self.log = Some(PathBuf::from(value)),
            ("dev", None) => self.vfs.dev = true,
            ("nodev", None) => self.vfs.dev = false,
            ("suid", None) => self.vfs.suid = true,
            ("nosuid", None) => self.vfs.suid = false,
            ("noexec", None) => self.vfs.noexec = true,
            ("noatime", None) => self.vfs.noatime = true,
            ("nodiratime", None) => self.vfs.nodiratime = true,
            ("sync", None) => self.vfs.synchronous = true,
            ("dirsync", None) => self.vfs.dirsync = true,
            _ => {
                let is_for_mount = FOR_MOUNT.contains(&item);
                return Ok(is_for_mount || FOR_MOUNT_PREFIXES.iter().any(|prefix| item.starts_with(prefix)));
            }
        }
        Ok(true)
    }
}

/// The configuration: the file's, and over it the command line's.
fn load_config(file: Option<&Path>, settings: &[String]) -> anyhow::Result<Config> {
    let readable = |error: DfsError| anyhow::anyhow!(error.chain());
    let mut config = Config::load(file).map_err(readable)?;
    for assignment in settings {
        config.set(assignment).map_err(readable)?;
    }
    Ok(config)
}

/// Seconds, with a fraction as libfuse takes them, or a duration with its unit.
fn timeout(text: &str) -> anyhow::Result<Duration> {
    /// An hour: longer than anybody wants a stale answer.
    const MAX: Duration = Duration::from_secs(3600);
    let duration = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => parse_duration(text).ok(),
    };
    let duration = duration.with_context(|| format!("{text:?} is not a time; write it like 1, 0.5 or 500ms"))?;
    ensure!(duration <= MAX, "is at most an hour");
    Ok(duration)
}

fn number(text: &str, low: u32, high: u32) -> anyhow::Result<u32> {
    let number: u32 = text.parse().with_context(|| format!("{text:?} is not a whole number"))?;
    ensure!((low..=high).contains(&number), "{number} is not within {low} to {high}");
    Ok(number)
}

fn parse_namenodes(text: &str) -> anyhow::Result<Vec<String>> {
    let addresses: Vec<String> = text.split(',').map(|address| address.trim().to_owned()).collect();
    for address in &addresses {
        let parts = address.rsplit_once(':');
        let is_good = parts.is_some_and(|(host, port)| {
            !host.is_empty() && !host.contains(['/', ' ']) && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
        ensure!(is_good, "{address:?} is not the address of a NameNode; write NAMENODES as host:port[,host:port...]");
    }
    Ok(addresses)
}

/// Reads a command line and the configuration file that it names; the first word tells whether mount(8) calls.
///
/// # Errors
/// What is wrong with it, for people; clap's own, which knows how to print itself, for unknown arguments and for --help.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> anyhow::Result<Command> {
    let words: Vec<OsString> = words.into_iter().collect();
    let program = words.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let is_helper = program.to_string_lossy().starts_with("mount.");
    let arguments = Arguments::try_parse_from(&words)?;
    let options = MountOptions::parse(&arguments.options, arguments.sloppy && is_helper)?;
    let mode = match (arguments.foreground, is_helper) {
        (true, true) => Mode::Fake,
        (true, false) => Mode::Foreground,
        (false, _) if arguments.background_child => Mode::BackgroundChild,
        (false, _) => Mode::Background,
    };
    let namenodes = parse_namenodes(&arguments.namenodes)?;
    let settings = [options.settings.as_slice(), &arguments.define].concat();
    let config = load_config(arguments.config.as_deref().or(options.config.as_deref()), &settings)?;
    Ok(Command { namenodes, mountpoint: arguments.mountpoint, mode, options, config })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> anyhow::Result<Command> {
        parse(line.split_ascii_whitespace().map(OsString::from))
    }

    fn options(list: &str) -> anyhow::Result<MountOptions> {
        MountOptions::parse(&[list.to_owned()], false)
    }

    #[test]
    fn parse_takes_options_before_and_after_the_names() {
        for line in ["dfs-fuse -o ro,soft a:1,b:2 /mnt", "dfs-fuse a:1,b:2 /mnt -o ro -o soft"] {
            let command = command(line).unwrap();
            assert_eq!(command.namenodes, ["a:1", "b:2"]);
            assert_eq!(command.mountpoint, Path::new("/mnt"));
            assert_eq!(command.mode, Mode::Background);
            assert!(command.options.read_only && !command.options.hard);
        }
    }

    #[test]
    fn parse_reads_f_as_mount_does_when_mount_calls() {
        assert_eq!(command("/usr/bin/dfs-fuse -f a:1 /mnt").unwrap().mode, Mode::Foreground);
        assert_eq!(command("/sbin/mount.fuse.dfs a:1 /mnt -f").unwrap().mode, Mode::Fake);
        let fstab =
            "/sbin/mount.fuse.dfs a:1 /mnt -o rw,_netdev,nofail,noauto,x-systemd.automount,comment=x,sync=hflush";
        let fstab = command(fstab).unwrap();
        assert_eq!((fstab.mode, fstab.options.sync), (Mode::Background, SyncLevel::Hflush));
    }

    #[test]
    fn parse_names_an_unknown_option() {
        let error = format!("{:#}", options("ro,kernel_cash").unwrap_err());
        assert!(error.contains("\"kernel_cash\""), "{error}");
        assert!(command("/sbin/mount.fuse.dfs a:1 /mnt -s -o kernel_cash").is_ok(), "sloppy as mount(8) means it");
        assert!(command("dfs-fuse -s -o kernel_cash a:1 /mnt").is_err());
    }

    #[test]
    fn options_check_their_values() {
        for (list, part) in [
            ("attr_timeout=soon", "attr_timeout=soon"),
            ("attr_timeout=-1", "not a time"),
            ("attr_timeout=2h", "an hour"),
            ("threads=0", "not within"),
            ("max_background=70000", "not within"),
            ("sync=now", "hsync or hflush"),
            ("read_ahead_kb=x", "whole number"),
        ] {
            let error = format!("{:#}", options(list).unwrap_err());
            assert!(error.contains(part), "{list}: {error}");
        }
    }

    #[test]
    fn options_take_what_they_document() {
        let parsed =
            options("attr_timeout=0.5,entry_timeout=200ms,read_ahead_kb=1024,max_background=64,threads=2").unwrap();
        assert_eq!(parsed.attr_timeout, Duration::from_millis(500));
        assert_eq!(parsed.entry_timeout, Duration::from_millis(200));
        assert_eq!((parsed.read_ahead_kb, parsed.max_background, parsed.threads), (Some(1024), 64, 2));
        let parsed = options("allow_other,dev,suid,noatime,workers=3,log=/tmp/x,debug").unwrap();
        assert_eq!(parsed.allow_other, Some(true));
        assert!(parsed.vfs.dev && parsed.vfs.suid && parsed.vfs.noatime && parsed.debug);
        assert_eq!(options("").unwrap(), MountOptions::default());
    }

    #[test]
    fn parse_reads_the_configuration_file_and_what_is_said_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dfs.toml");
        let text = "\"dfs.client-write-packet-size\" = \"64KiB\"\n\"dfs.client.cache.readahead\" = \"1MiB\"\n\
                    \"dfs.client.write.max-in-flight\" = \"2MiB\"\n";
        std::fs::write(&file, text).unwrap();
        let file = file.display();
        let said = "-o dfs.client.cache.readahead=2MiB -D dfs.client.write.max-in-flight=3MiB";
        for line in [
            format!("dfs-fuse --config {file} {said} a:1 /mnt"),
            format!("/sbin/mount.fuse.dfs a:1 /mnt -o ro,config={file} {said}"),
        ] {
            let config = command(&line).unwrap().config;
            assert_eq!(config.bytes("dfs.client-write-packet-size"), 64 << 10, "{line}");
            assert_eq!(config.bytes("dfs.client.cache.readahead"), 2 << 20, "{line}");
            assert_eq!(config.bytes("dfs.client.write.max-in-flight"), 3 << 20, "{line}");
        }
    }

    #[test]
    fn parse_names_file_key_and_what_is_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dfs.toml");
        for (text, parts) in [
            ("\"dfs.client.write.packet-size\" = 1", ["dfs.client.write.packet-size", "dfs.client-write-packet-size"]),
            ("\"dfs.client-write-packet-size\" = 1", ["dfs.client-write-packet-size", "4KiB to 16MiB"]),
        ] {
            std::fs::write(&file, text).unwrap();
            let error =
                format!("{:#}", command(&format!("dfs-fuse --config {} a:1 /mnt", file.display())).unwrap_err());
            assert!(error.contains(file.to_str().unwrap()), "{error}");
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        let absent = format!("{:#}", command("dfs-fuse -o config=/nonexistent/dfs.toml a:1 /mnt").unwrap_err());
        assert!(absent.contains("/nonexistent/dfs.toml"), "{absent}");
        let bad = format!("{:#}", command("dfs-fuse -o dfs.replication=0 a:1 /mnt").unwrap_err());
        assert!(bad.contains("command line") && bad.contains("1 to 512"), "{bad}");
        let unknown = format!("{:#}", command("dfs-fuse -o dfs.replicas=2 a:1 /mnt").unwrap_err());
        assert!(unknown.contains("\"dfs.replicas=2\""), "{unknown}");
    }

    #[test]
    fn parse_refuses_what_is_no_address() {
        for bad in ["host", "host:", ":1", "host:0", "host:70000", "a:1,,b:2", "http://a:1/x"] {
            assert!(parse_namenodes(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_namenodes("[::1]:9820,b:1").unwrap(), ["[::1]:9820", "b:1"]);
    }
}
