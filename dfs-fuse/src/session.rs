//! The life of a mount: connect, mount, announce, serve, finish.
//!
//! ```text
//! connect to the cluster -> mount -> loops answer -> read-ahead set -> ready
//!       |                                              |
//!     reason                     unmounted from outside, or SIGTERM / SIGINT: unmounted lazily by us
//!                                                      |
//!                          requests drained -> open files completed -> session closed -> end
//! ```
//!
//! Root mounts by mount(2) itself and hands fuser the descriptor. Others mount through fusermount3.
//!
//! A mount can be unmounted by its path only, which takes away what is on top there. So we unmount only while the path shows our own
//! device. If something else was mounted over it, our mount stays below until somebody unmounts both; it dies with this process.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use dfs_client::{ClientConfig, DfsClient};
use dfs_common::ids::ClientId;
use dfs_common::shutdown::TerminationSignals;
use fuser::{Config, MountOption, Session, SessionACL};
use rustix::fs::{AtFlags, StatxFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::adapter::{Adapter, Deadlines, Negotiation};
use crate::cli::{Command, MountOptions};
use crate::driver::Driver;
use crate::fs::{FileSystem, FsOptions};
use crate::identity::Identity;

/// How long a soft mount goes on trying to reach the cluster: a restart of a NameNode.
const SOFT_PATIENCE: Duration = Duration::from_secs(10);
/// By how many tries of a call a request's deadline exceeds that: the client gives up first, and says why.
const METADATA_MARGIN_TRIES: u32 = 3;
/// The same for data, in silences of a DataNode: several may have to be tried in turn.
const DATA_MARGIN_SILENCES: u32 = 24;
/// Read-ahead that keeps a sequential reader busy over a round trip of milliseconds.
const READ_AHEAD_KB: u32 = 4096;
/// How long requests under way at the end may take.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);
/// How long completing open files at the end may take.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// Why serving ended.
enum End {
    Unmounted(io::Result<()>),
    Signal,
}

/// Mounts, calls `ready` once the mount answers, serves until it is unmounted or told to stop.
///
/// # Errors
/// Why there is no mount, or why it broke.
pub(crate) fn run(command: &Command, ready: impl FnOnce()) -> anyhow::Result<()> {
    let mountpoint = usable_mountpoint(&command.mountpoint)?;
    let identity = Identity::of(&mountpoint);
    let options = &command.options;
    let driver = Driver::new(options.workers, options.threads).context("start the runtime")?;
    let config = client_config(command, &mountpoint, identity.client_id);
    let deadlines = Deadlines {
        metadata: config.retry_timeout + METADATA_MARGIN_TRIES * config.metadata_deadline,
        data: config.retry_timeout + DATA_MARGIN_SILENCES * config.read_timeout,
    };
    let fs_options = fs_options(command);
    let fs = driver.drive_until(async {
        let client = DfsClient::connect(config).await.map_err(|error| anyhow::anyhow!(error.chain()))?;
        // It waits where nothing is held that others need.
        let client = client.without_waiting();
        FileSystem::new(client, fs_options).await.map_err(|error| anyhow::anyhow!(error.chain()))
    })?;
    let negotiation = Negotiation { max_background: options.max_background };
    let adapter = Adapter::new(Arc::clone(&fs), Arc::clone(&driver), deadlines, negotiation);
    // Before there is a mount: one whose daemon was ended by a signal would stay, dead.
    let mut signals = {
        let _in_runtime = driver.handle().enter();
        TerminationSignals::listen().context("listen for signals")?
    };
    let session = open_session(adapter, &mountpoint, command)?;
    let mount = Mounted::at(&mountpoint);
    fs.kernel().connect(session.notifier());
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new()
        .name("fuse-session".to_owned())
        .spawn(move || _ = ended.send(session.run()))
        .context("start the session's thread")?;
    if let Err(error) = announce(&driver, &mountpoint, options.read_ahead_kb) {
        mount.unmount();
        return Err(error);
    }
    info!(mountpoint = %mountpoint.display(), namenodes = ?command.namenodes, "mounted");
    ready();
    let outcome = serve(&driver, &mount, end, &mut signals);
    finish(&driver, &fs);
    identity.retire();
    outcome
}

/// The mount point as an absolute path. One that a killed daemon left behind is cleared away first.
fn usable_mountpoint(path: &Path) -> anyhow::Result<PathBuf> {
    let absolute = std::path::absolute(path).with_context(|| format!("mount point {}", path.display()))?;
    match std::fs::metadata(&absolute) {
        Ok(metadata) => ensure!(metadata.is_dir(), "mount point {} is not a directory", path.display()),
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            warn!(mountpoint = %absolute.display(), "a dead mount is there: unmounted");
            unmount_lazily(&absolute);
        }
        Err(error) => return Err(error).with_context(|| format!("mount point {}", path.display())),
    }
    absolute.canonicalize().with_context(|| format!("mount point {}", path.display()))
}

fn client_config(command: &Command, mountpoint: &Path, client_id: ClientId) -> ClientConfig {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut config = ClientConfig::from_config(&command.config);
    config.namenodes.clone_from(&command.namenodes);
    config.client_id = client_id;
    config.name = format!("{}:{}", host.trim(), mountpoint.display());
    if !command.options.hard {
        config.retry_timeout = config.retry_timeout.min(SOFT_PATIENCE);
    }
    config
}

fn fs_options(command: &Command) -> FsOptions {
    let (options, config) = (&command.options, &command.config);
    // What nobody set is the cluster's business.
    let replication = config.is_set("dfs.replication").then(|| config.count("dfs.replication"));
    let block_size = config.is_set("dfs.blocksize").then(|| config.bytes("dfs.blocksize"));
    FsOptions {
        attr_ttl: options.attr_timeout,
        entry_ttl: options.entry_timeout,
        sync: options.sync,
        replication: replication.map_or(0, |replicas| u32::try_from(replicas).unwrap_or(u32::MAX)),
        block_size: block_size.unwrap_or(0),
    }
}

fn open_session(adapter: Adapter, mountpoint: &Path, command: &Command) -> anyhow::Result<Session<Adapter>> {
    let options = &command.options;
    let is_root = rustix::process::geteuid().is_root();
    let mut config = Config::default();
    config.n_threads = Some(options.threads);
    config.acl = if options.allow_other.unwrap_or(is_root) { SessionACL::All } else { SessionACL::Owner };
    let failed = || format!("mount at {}", mountpoint.display());
    if is_root {
        let device = mount(mountpoint, &command.namenodes.join(","), options, config.acl).with_context(failed)?;
        // Whom the mount is for the kernel checks when a path is walked. fuser would check each request: it would refuse the closing
        // of a descriptor by another user, who has inherited it.
        return Session::from_fd(adapter, device, SessionACL::All, config)
            .inspect_err(|_| unmount_lazily(mountpoint))
            .context("first words with the kernel");
    }
    config.mount_options = fusermount_options(&command.namenodes.join(","), options);
    Session::new(adapter, mountpoint, &config)
        .with_context(|| format!("{} (users other than root need fusermount3 and a readable /dev/fuse)", failed()))
}

/// mount(2), by root.
fn mount(mountpoint: &Path, source: &str, options: &MountOptions, acl: SessionACL) -> anyhow::Result<OwnedFd> {
    let device: File =
        OpenOptions::new().read(true).write(true).open("/dev/fuse").context("open /dev/fuse (modprobe fuse?)")?;
    let mode = std::fs::metadata(mountpoint)?.mode() & libc::S_IFMT;
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut data =
        format!("fd={},rootmode={mode:o},user_id={uid},group_id={gid},default_permissions", device.as_raw_fd());
    if acl == SessionACL::All {
        data.push_str(",allow_other");
    }
    let data = CString::new(data)?;
    rustix::mount::mount(source, mountpoint, "fuse.dfs", vfs_flags(options), data.as_c_str())?;
    Ok(device.into())
}

fn vfs_flags(options: &MountOptions) -> MountFlags {
    let vfs = &options.vfs;
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NODEV, !vfs.dev);
    flags.set(MountFlags::NOSUID, !vfs.suid);
    flags.set(MountFlags::NOEXEC, vfs.noexec);
    flags.set(MountFlags::NOATIME, vfs.noatime);
    flags.set(MountFlags::NODIRATIME, vfs.nodiratime);
    flags.set(MountFlags::SYNCHRONOUS, vfs.synchronous);
    flags.set(MountFlags::DIRSYNC, vfs.dirsync);
    flags
}

/// As fusermount3 takes the value of an option: a comma would end it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,")
}

fn fusermount_options(source: &str, options: &MountOptions) -> Vec<MountOption> {
    let vfs = &options.vfs;
    let optional = [
        (options.read_only, MountOption::RO),
        (vfs.dev, MountOption::Dev),
        (vfs.suid, MountOption::Suid),
        (vfs.noexec, MountOption::NoExec),
        (vfs.noatime, MountOption::NoAtime),
        (vfs.synchronous, MountOption::Sync),
        (vfs.dirsync, MountOption::DirSync),
    ];
    let always =
        [MountOption::FSName(escaped(source)), MountOption::Subtype("dfs".to_owned()), MountOption::DefaultPermissions];
    always.into_iter().chain(optional.into_iter().filter(|(wanted, _)| *wanted).map(|(_, option)| option)).collect()
}

/// Asks the mount for its root, so that "ready" is true, and sets its read-ahead.
fn announce(driver: &Driver, mountpoint: &Path, wanted: Option<u32>) -> anyhow::Result<()> {
    // By another thread: this one may be needed for the answer.
    let asked = mountpoint.to_owned();
    let asking = driver.handle().spawn_blocking(move || std::fs::metadata(asked));
    let root = driver.drive_until(asking)?.context("the mount does not answer")?;
    let (major, minor) = (rustix::fs::major(root.dev()), rustix::fs::minor(root.dev()));
    let knob = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    match std::fs::write(&knob, wanted.unwrap_or(READ_AHEAD_KB).to_string()) {
        Ok(()) => Ok(()),
        // Whoever asked for it is told that it cannot be had; otherwise the kernel's own must do.
        Err(error) if wanted.is_some() => Err(error).with_context(|| format!("read_ahead_kb: write {knob}")),
        Err(error) => {
            info!(%error, knob, "read-ahead stays at the kernel's default; sequential reads will be slower");
            Ok(())
        }
    }
}

fn serve(
    driver: &Driver,
    mount: &Mounted,
    end: oneshot::Receiver<io::Result<()>>,
    signals: &mut TerminationSignals,
) -> anyhow::Result<()> {
    let end = driver.drive_until(async {
        tokio::select! {
            outcome = end => End::Unmounted(outcome.unwrap_or_else(|_| Err(io::Error::other("the session's thread died")))),
            () = signals.next() => End::Signal,
        }
    });
    match end {
        End::Unmounted(Ok(())) => {
            info!("unmounted");
            Ok(())
        }
        End::Unmounted(Err(error)) => {
            unmount_while_serving(driver, mount);
            bail!("serving the mount ended: {error}");
        }
        End::Signal => {
            info!("told to stop: unmounting, completing open files");
            unmount_while_serving(driver, mount);
            Ok(())
        }
    }
}

/// Leaves nothing undone: what programs were told is written gets completed, leases and holds go back.
fn finish(driver: &Driver, fs: &FileSystem) {
    driver.drive_until(async {
        if timeout(DRAIN_PATIENCE, driver.drained()).await.is_err() {
            warn!("requests under way did not end within {DRAIN_PATIENCE:?}");
        }
        if timeout(STOP_PATIENCE, fs.stop()).await.is_err() {
            warn!("open files were not completed within {STOP_PATIENCE:?}; the NameNode will recover them");
        }
        fs.close_session().await;
    });
}

/// By another thread: requests under way may need this one until they are answered.
fn unmount_while_serving(driver: &Driver, mount: &Mounted) {
    let mount = mount.clone();
    let unmounting = driver.handle().spawn_blocking(move || mount.unmount());
    if let Err(error) = driver.drive_until(unmounting) {
        warn!(%error, "not unmounted");
    }
}

/// Our mount, while it is there.
#[derive(Clone, Debug)]
struct Mounted {
    path: PathBuf,
    /// `None` when the path does not tell.
    device: Option<u64>,
}

impl Mounted {
    /// What was just mounted there.
    fn at(path: &Path) -> Self {
        let device = device_at(path);
        if let Err(error) = &device {
            warn!(%error, mountpoint = %path.display(), "its device is not known: it has to be unmounted by hand");
        }
        Self { path: path.to_owned(), device: device.ok() }
    }

    /// Takes it out of the tree, unless the path shows something else.
    fn unmount(&self) {
        match device_at(&self.path) {
            Ok(device) if Some(device) == self.device => unmount_lazily(&self.path),
            Ok(_) => warn!(
                mountpoint = %self.path.display(),
                "not unmounted: something else is there. If it is mounted over this mount, unmount both"
            ),
            Err(error) => warn!(%error, mountpoint = %self.path.display(), "not unmounted"),
        }
    }
}

/// The device of the files at a path. Asks nobody who serves them: they may be ours, or those of a mount that hangs.
fn device_at(path: &Path) -> rustix::io::Result<u64> {
    let shown = rustix::fs::statx(rustix::fs::CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::empty())?;
    Ok(rustix::fs::makedev(shown.stx_dev_major, shown.stx_dev_minor))
}

/// Takes the mount out of the tree at once; it goes for good when its last file is closed or this process ends.
fn unmount_lazily(mountpoint: &Path) {
    match rustix::mount::unmount(mountpoint, UnmountFlags::DETACH) {
        Ok(()) => {}
        Err(rustix::io::Errno::PERM) => {
            let helper = std::process::Command::new("fusermount3").args(["-u", "-z", "--"]).arg(mountpoint).status();
            if !helper.is_ok_and(|status| status.success()) {
                warn!(mountpoint = %mountpoint.display(), "fusermount3 did not unmount");
            }
        }
        // Nothing is mounted there any more.
        Err(rustix::io::Errno::INVAL) => {}
        Err(error) => warn!(%error, mountpoint = %mountpoint.display(), "not unmounted"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    fn command(line: &str) -> Command {
        cli::parse(line.split_ascii_whitespace().map(std::ffi::OsString::from)).unwrap()
    }

    fn config(line: &str) -> ClientConfig {
        client_config(&command(line), Path::new("/mnt"), ClientId::random())
    }

    #[test]
    fn client_config_takes_the_keys_and_the_names_on_the_command_line() {
        let keys = "dfs.client-write-packet-size=64KiB,dfs.client.cache.readahead=1MiB,dfs.namenode.address=c:3";
        let config = config(&format!("dfs-fuse -o {keys} a:1,b:2 /mnt"));
        assert_eq!(config.namenodes, ["a:1", "b:2"]);
        assert_eq!((config.packet_size, config.prefetch_window), (64 << 10, 1 << 20));
    }

    #[test]
    fn fusermount_options_name_all_namenodes_in_one_option() {
        let options = fusermount_options("a:1,b:2", &command("dfs-fuse a:1,b:2 /mnt").options);
        assert!(options.contains(&MountOption::FSName("a:1\\,b:2".to_owned())));
        assert_eq!(escaped("a\\b"), "a\\\\b");
    }

    #[test]
    fn soft_mounts_are_patient_for_seconds_and_hard_ones_as_configured() {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        assert_eq!(config("dfs-fuse a:1 /mnt").retry_timeout, minutes(5));
        assert_eq!(config("dfs-fuse -D dfs.client.failover.timeout=1m a:1 /mnt").retry_timeout, minutes(1));
        let soft = "dfs-fuse -o soft -D dfs.client.failover.timeout";
        assert_eq!(config(&format!("{soft}=1m a:1 /mnt")).retry_timeout, SOFT_PATIENCE);
        assert_eq!(config(&format!("{soft}=2s a:1 /mnt")).retry_timeout, Duration::from_secs(2));
    }

    #[test]
    fn new_files_are_as_the_cluster_makes_them_unless_said() {
        let unsaid = fs_options(&command("dfs-fuse a:1 /mnt"));
        assert_eq!((unsaid.replication, unsaid.block_size), (0, 0));
        let said = fs_options(&command("dfs-fuse -o dfs.replication=2,dfs.blocksize=1MiB a:1 /mnt"));
        assert_eq!((said.replication, said.block_size), (2, 1 << 20));
    }
}
