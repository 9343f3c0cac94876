//! Which file or directory a name leads to. Names do not tell: one tree can be reached through symbolic links, bind
//! mounts and `..`. What is on this machine is known by device and inode number (`local_id`), what is in the cluster by its
//! inode id. On a mount of the cluster both are known: its inode numbers are the cluster's inode ids.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::fs::{self, Metadata};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;

use dfs_common::ids::{InodeId, ROOT_INODE};
use dfs_common::{DfsError, ErrorKind};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::path::DfsPath;
use crate::same_cluster::{self, Answer};

/// Directories stand in each other less deep than this; the way up is longer only while somebody moves them about.
const STEPS_UP_MAX: usize = 10_000;

/// Keeps what is copied apart from its copies: no directory is copied into itself or into what lies below it, because
/// there would be ever more to copy. Every directory that is read and every one that is written to has to pass here, so
/// it does not matter by which way either is reached.
#[derive(Debug, Default)]
pub(crate) struct Apart {
    /// Directories that are read.
    sources: HashSet<InodeId>,
    /// Directories that are written to, and all above them.
    above_copies: HashSet<InodeId>,
}

impl Apart {
    /// A directory is going to be read. `source` is for the complaint.
    ///
    /// # Errors
    /// When something is written into it or below it.
    pub(crate) fn read(&mut self, directory: InodeId, source: impl Display) -> Outcome {
        if self.above_copies.contains(&directory) {
            return Err(Failure::refused(source, "the destination lies in it: a directory cannot be put into itself"));
        }
        self.sources.insert(directory);
        Ok(())
    }

    /// Something is going to be written into a directory. Call this for existing directories only. A directory we have just
    /// made lies in one that was checked. `path` is for the complaint.
    ///
    /// # Errors
    /// When it, or a directory above it, is read; those of lookup.
    pub(crate) async fn write(&mut self, ctx: &Context, directory: InodeId, path: impl Display) -> Outcome {
        let parent_of = async |inode| Ok(ctx.client.lookup(&ctx.caller, inode, b"..").await?.inode);
        match self.is_apart(directory, parent_of).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::refused(path, "lies in what is copied: a directory cannot be put into itself")),
            Err(error) => {
                let failure = Failure::cluster(error);
                let words = || format!("cannot tell where it lies: {failure}");
                Err(if failure.is_fatal() { failure } else { Failure::refused(path, words()) })
            }
        }
    }

    async fn is_apart(
        &mut self,
        directory: InodeId,
        parent_of: impl AsyncFn(InodeId) -> dfs_common::Result<InodeId>,
    ) -> dfs_common::Result<bool> {
        let mut passed = Vec::new();
        let mut at = directory;
        while !self.above_copies.contains(&at) {
            if self.sources.contains(&at) {
                return Ok(false);
            }
            if passed.len() > STEPS_UP_MAX {
                return Err(DfsError::new(ErrorKind::Stale, "directories are being moved"));
            }
            passed.push(at);
            if at == ROOT_INODE {
                break;
            }
            at = parent_of(at).await?;
        }
        self.above_copies.extend(passed);
        Ok(true)
    }
}

/// What is said when a file would be copied or moved onto itself.
pub(crate) fn same_file(source: impl Display, path: impl Display) -> Failure {
    Failure::refused(source, format!("{path} is the same file"))
}

/// Refuses a place that is the source itself, by whatever names.
///
/// # Errors
/// The refusal.
pub(crate) async fn refuse_same(
    ctx: &Context,
    source: (InodeId, &dyn Display),
    (parent, name): (InodeId, &[u8]),
    path: &DfsPath,
) -> Outcome {
    match ctx.client.lookup(&ctx.caller, parent, name).await {
        Ok(there) if there.inode == source.0 => Err(same_file(source.1, path)),
        // Whatever else is there, or fails, is met again when the place is used.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The places of this machine where the cluster is mounted.
#[derive(Debug, Default)]
pub(crate) struct ClusterMounts {
    devices: HashSet<u64>,
}

impl ClusterMounts {
    /// Looks through this process's mounts for those of the cluster. One whose NameNodes are named by addresses that have
    /// nothing in common with ours, and do not answer, is not recognised.
    pub(crate) async fn find(ctx: &Context) -> Self {
        let ours = ctx.client.config().namenodes.clone();
        // Names of machines are looked up only where something may be mounted, and never on a thread of the runtime.
        let find = move || {
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let mounts = mounts_in(&table);
            let ours = if mounts.is_empty() { Addresses::default() } else { Addresses::of(ours.iter()) };
            let judge = |(source, devices): (&str, HashSet<u64>)| {
                let is_ours = Addresses::of(source.split(',')).meet(&ours);
                (source.to_owned(), devices, is_ours)
            };
            mounts.into_iter().map(judge).collect::<Vec<_>>()
        };
        let mounts = tokio::task::spawn_blocking(find).await.unwrap_or_default();
        let devices = mounts.into_iter().map(async |(source, devices, is_ours)| {
            let addresses: Vec<String> = source.split(',').map(|address| address.trim().to_owned()).collect();
            let answer =
                if is_ours { Answer::Same } else { same_cluster::ask(ctx.client.defaults(), &addresses).await };
            match answer {
                Answer::Same => devices,
                Answer::Other | Answer::None => HashSet::new(),
                Answer::Untold(words) => {
                    // Its numbers may be those of other files: it cannot be taken for ours to be on the safe side.
                    let command = ctx.settings.command;
                    let told = format!("dfs: {command}: cannot tell whether the mount of {source} is of this cluster");
                    ctx.progress
                        .say(&format!("{told} ({words}): a file in it is not recognised as one of the cluster"));
                    HashSet::new()
                }
            }
        });
        Self { devices: futures::future::join_all(devices).await.into_iter().flatten().collect() }
    }

    /// Whether there are any.
    pub(crate) fn are_there(&self) -> bool {
        !self.devices.is_empty()
    }

    /// What it is in the cluster; none when it is not there.
    pub(crate) fn inode_of(&self, metadata: &Metadata) -> Option<InodeId> {
        self.devices.contains(&metadata.dev()).then(|| InodeId(metadata.ino()))
    }
}

/// Sources of mounts like ours in a `/proc/PID/mountinfo`, each with the devices that it is mounted as; proc(5) has the
/// format.
fn mounts_in(table: &str) -> HashMap<&str, HashSet<u64>> {
    let mut mounts: HashMap<&str, HashSet<u64>> = HashMap::new();
    for (device, source) in table.lines().filter_map(mount_in) {
        mounts.entry(source).or_default().insert(device);
    }
    mounts
}

fn mount_in(line: &str) -> Option<(u64, &str)> {
    let (place, file_system) = line.split_once(" - ")?;
    let (major, minor) = place.split(' ').nth(2)?.split_once(':')?;
    let mut fields = file_system.split(' ');
    let source = fields.next().filter(|kind| *kind == "fuse.dfs").and_then(|_| fields.next())?;
    Some((rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?), source))
}

/// NameNodes as they are named, and what the names stand for.
#[derive(Debug, Default)]
struct Addresses {
    names: HashSet<String>,
    resolved: HashSet<SocketAddr>,
}

impl Addresses {
    fn of(names: impl Iterator<Item = impl AsRef<str>>) -> Self {
        let names: HashSet<String> = names.map(|name| name.as_ref().trim().to_owned()).collect();
        let resolved = names.iter().filter_map(|name| name.to_socket_addrs().ok()).flatten().collect();
        Self { names, resolved }
    }

    fn meet(&self, other: &Self) -> bool {
        !self.names.is_disjoint(&other.names) || !self.resolved.is_disjoint(&other.resolved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directory `n` lies in `n / 10`; 1 is the root.
    async fn parent_of(inode: InodeId) -> dfs_common::Result<InodeId> {
        Ok(InodeId((inode.0 / 10).max(1)))
    }

    async fn is_apart(apart: &mut Apart, directory: u64) -> bool {
        apart.is_apart(InodeId(directory), parent_of).await.unwrap()
    }

    #[tokio::test]
    async fn apart_refuses_a_copy_in_what_is_read() {
        for (source, place, expected) in [
            (12, 1, true),
            (12, 13, true),
            (12, 134, true),
            (12, 12, false),
            (12, 123, false),
            (12, 1234, false),
            (1, 134, false),
        ] {
            // Whichever is met first.
            let mut apart = Apart::default();
            apart.read(InodeId(source), "source").unwrap();
            assert_eq!(is_apart(&mut apart, place).await, expected, "{source} then {place}");
            let mut apart = Apart::default();
            assert!(is_apart(&mut apart, place).await);
            assert_eq!(apart.read(InodeId(source), "source").is_ok(), expected, "{place} then {source}");
        }
    }

    #[tokio::test]
    async fn apart_looks_at_every_directory() {
        // A source with a way into the destination in its midst, and a destination with a way into the source.
        let mut apart = Apart::default();
        assert!(is_apart(&mut apart, 134).await);
        apart.read(InodeId(12), "source").unwrap();
        apart.read(InodeId(99), "source").unwrap();
        assert!(apart.read(InodeId(13), "by a bind mount").is_err());
        assert!(!is_apart(&mut apart, 1256).await);
        assert!(is_apart(&mut apart, 1356).await);
    }

    #[tokio::test]
    async fn apart_asks_once_for_each_directory() {
        let mut apart = Apart::default();
        assert!(is_apart(&mut apart, 134).await);
        let nobody = async |_| -> dfs_common::Result<InodeId> { panic!("known") };
        for known in [134, 13, 1] {
            assert!(apart.is_apart(InodeId(known), nobody).await.unwrap());
        }
    }

    #[tokio::test]
    async fn apart_ends_also_where_the_way_up_does_not() {
        let turning = async |inode: InodeId| Ok(InodeId(inode.0 ^ 1));
        assert!(Apart::default().is_apart(InodeId(100), turning).await.is_err());
    }

    #[test]
    fn mounts_in_finds_ours() {
        let table = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                     40 22 0:51 / /mnt/dfs rw,nosuid shared:7 - fuse.dfs h1:9820,h2:9820 rw,user_id=0\n\
                     41 22 0:51 /a /bound rw - fuse.dfs h1:9820,h2:9820 rw\n\
                     42 22 0:52 / /mnt/s rw - fuse.sshfs h1:9820 rw\n\
                     43 22 0:53 / /mnt/again rw - fuse.dfs h1:9820,h2:9820 rw\nnonsense\n";
        let devices = HashSet::from([51, 53].map(|minor| rustix::fs::makedev(0, minor)));
        assert_eq!(mounts_in(table), HashMap::from([("h1:9820,h2:9820", devices)]));
    }

    #[test]
    fn addresses_meet_by_name_and_by_what_it_stands_for() {
        let of = |names: &str| Addresses::of(names.split(','));
        assert!(of("no-such-host.invalid:1, 127.0.0.1:2").meet(&of("127.0.0.1:2")));
        assert!(of("localhost:2").meet(&of("127.0.0.1:2,[::1]:2")));
        assert!(!of("127.0.0.1:2").meet(&of("127.0.0.1:3")));
    }
}
