//! What goes wrong: dead processes, dead devices, damaged replicas. Each fault is one call, taken back by one call.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use dfs_proto::data_transfer::ChecksumKind;
use dfs_proto::data_transfer::meta_file::META_HEADER_LEN;
use rand::Rng;

use crate::cluster::Cluster;
use crate::device::LoopDevice;
use crate::process::Gated;
use crate::replica::Replica;

/// The switch that cuts the power of all machines: every device stops at once, without flushing, then every process
/// dies. To be made before there are files of a mount open in this process (see [`crate::process`]).
#[derive(Debug)]
pub struct PowerSwitch(Gated);

/// Shuts the file systems given as arguments down. xfs_io looks at every mount, also at ours, which stops answering with
/// its first device: so those are taken out of sight, in a name space of the script's own. One whose directory is removed
/// meanwhile goes by itself.
const SHUT_DOWN: &str = r#"
for mount in $(awk '$3 ~ /^fuse/ { print $2 }' /proc/self/mounts); do umount -l "$(printf '%b' "$mount")"; done
! awk '$3 ~ /^fuse/ { print $2 }' /proc/self/mounts | grep . >&2 || exit
for device; do xfs_io -x -c shutdown "$device" || exit; done"#;

impl PowerSwitch {
    /// A switch for a cluster on loop devices.
    ///
    /// # Panics
    /// When the cluster is not on loop devices.
    pub fn new(cluster: &Cluster) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", SHUT_DOWN, "sh"]);
        command.args(all_devices(cluster).iter().map(|device| device.path()));
        Self(Gated::new(&command))
    }

    /// Cuts the power.
    ///
    /// # Panics
    /// When a device cannot be shut down.
    pub fn cut(self, cluster: &mut Cluster) {
        let status = self.0.release().wait().expect("wait for xfs_io");
        assert!(status.success(), "devices were not shut down: {status}");
        cluster.kill_all();
    }
}

/// Cuts the power of all machines, from a process that has no file of a mount open.
///
/// # Panics
/// When a device cannot be shut down.
pub fn power_cut(cluster: &mut Cluster) {
    PowerSwitch::new(cluster).cut(cluster);
}

/// Shuts one device down although mounts of the cluster may stand still.
///
/// # Panics
/// When it cannot.
pub fn shut_down_device(device: &LoopDevice) {
    let output = Command::new("unshare").args(["--mount", "sh", "-c", SHUT_DOWN, "sh"]).arg(device.path()).output();
    let output = output.expect("run unshare");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Devices come back with what was on them when the power went; then the daemons are started.
///
/// # Panics
/// When something does not start.
pub fn recover_power(cluster: &mut Cluster) {
    for device in all_devices(cluster) {
        device.remount();
    }
    cluster.restart_all();
}

fn all_devices(cluster: &Cluster) -> Vec<&LoopDevice> {
    let devices: Vec<_> =
        cluster.namenode.devices.iter().chain(cluster.datanodes.iter().flat_map(|node| &node.devices)).collect();
    assert!(!devices.is_empty(), "power can be cut only on loop devices");
    devices
}

/// Flips one bit of a file, as a failing disk does: behind the daemon's back.
///
/// # Errors
/// When the file cannot be changed.
pub fn flip_bit(path: &Path, offset: u64) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[byte[0] ^ 0x10], offset)?;
    file.sync_all()
}

/// Where the header of a `.meta` file has the kind of its checksums.
const META_KIND_AT: u64 = 2;

/// Bytes of the header of a `.meta` file in which a wrong bit is always wrong. The last ones are the low bytes of the chunk's size: the
/// checksum of a replica of one chunk is right with many sizes.
const HEADER_DAMAGE_BYTES: u64 = 5;

/// A way in which a disk damages a replica behind the daemon's back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// A bit of the data.
    DataBit,
    /// The data's end.
    DataCut,
    /// A bit of a checksum.
    ChecksumBit,
    /// A bit of the header of the `.meta` file: of the version, the kind of checksums, or the chunk's size, which is far too large then.
    HeaderBit,
    /// The header promises no checksums, and a bit of the data is wrong.
    NoChecksums,
    /// The end of the `.meta` file.
    MetaCut,
    /// The whole `.meta` file.
    MetaGone,
}

impl Damage {
    /// All there are.
    pub const ALL: [Self; 7] = [
        Self::DataBit,
        Self::DataCut,
        Self::ChecksumBit,
        Self::HeaderBit,
        Self::NoChecksums,
        Self::MetaCut,
        Self::MetaGone,
    ];

    /// Damages a replica that has data.
    ///
    /// # Errors
    /// When its files cannot be changed: it may just have been deleted.
    pub fn inflict(self, replica: &Replica, rng: &mut impl Rng) -> io::Result<()> {
        let header = META_HEADER_LEN as u64;
        match self {
            Self::DataBit => flip_bit(&replica.data, rng.random_range(0..replica.length)),
            Self::DataCut => cut(&replica.data, rng.random_range(0..replica.length)),
            Self::ChecksumBit => {
                let length = std::fs::metadata(&replica.meta)?.len();
                flip_bit(&replica.meta, rng.random_range(header..length.max(header + 1)))
            }
            Self::HeaderBit => flip_bit(&replica.meta, rng.random_range(0..HEADER_DAMAGE_BYTES)),
            Self::NoChecksums => {
                write_at(&replica.meta, META_KIND_AT, ChecksumKind::Null.code())?;
                flip_bit(&replica.data, rng.random_range(0..replica.length))
            }
            Self::MetaCut => {
                let length = std::fs::metadata(&replica.meta)?.len();
                cut(&replica.meta, rng.random_range(0..length.max(1)))
            }
            Self::MetaGone => std::fs::remove_file(&replica.meta),
        }
    }
}

fn cut(path: &Path, length: u64) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.set_len(length)
}

fn write_at(path: &Path, offset: u64, byte: u8) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(&[byte], offset)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::checkers::replicas::check_replicas;
    use crate::replica::BlockName;

    /// Every damage is one that the checker of replicas finds.
    #[test]
    fn inflict_leaves_no_replica_that_passes_for_a_good_one() {
        let dir = tempfile::tempdir().unwrap();
        let (data, meta) = (dir.path().join("blk_1"), dir.path().join("blk_1_1.meta"));
        let block = BlockName { id: 1, stamp: 1 };
        let mut rng = SmallRng::seed_from_u64(1);
        for (length, damage) in [1, 300, 512, 1000].into_iter().cycle().zip(Damage::ALL.into_iter().cycle()).take(400) {
            let bytes = vec![3; length];
            let sums = bytes.chunks(512).map(|chunk| dfs_common::checksum::crc32c(chunk).to_be_bytes());
            let whole = [&[0, 1, 2, 0, 0, 2, 0][..], &sums.collect::<Vec<_>>().concat()].concat();
            std::fs::write(&data, &bytes).unwrap();
            std::fs::write(&meta, &whole).unwrap();
            let replica = Replica { datanode: 0, block, data: data.clone(), meta: meta.clone(), length: length as u64 };
            check_replicas(std::slice::from_ref(&replica), 1).unwrap();
            damage.inflict(&replica, &mut rng).unwrap();
            check_replicas(std::slice::from_ref(&replica), 1).expect_err(&format!("{damage:?} of {length} bytes"));
        }
    }
}
