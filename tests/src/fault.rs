//! What goes wrong: dead processes, dead devices, flipped bits. Each fault is one call, taken back by one call.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use walkdir::WalkDir;

use crate::cluster::Cluster;
use crate::device::LoopDevice;
use crate::process::Gated;

/// The switch that cuts the power of all machines: every device stops at once, without flushing, then every process
/// dies. To be made before there are files of a mount open in this process (see [`crate::process`]).
#[derive(Debug)]
pub struct PowerSwitch(Gated);

/// Shuts the file systems given as arguments down. xfs_io looks at every mount, also at ours, which stops answering with
/// its first device: so those are taken out of sight, in a name space of the script's own.
const SHUT_DOWN: &str = r#"
for mount in $(awk '$3 ~ /^fuse/ { print $2 }' /proc/self/mounts); do umount -l "$mount" || exit; done
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

/// Files of a DataNode's finalized replicas (not their meta files).
pub fn replica_files(cluster: &Cluster, datanode: usize) -> Vec<PathBuf> {
    let is_replica = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("blk_")
            && !name.ends_with(".meta")
            && path.components().any(|part| part.as_os_str() == "finalized")
    };
    let dirs = &cluster.datanodes[datanode].data_dirs;
    let entries = dirs.iter().flat_map(WalkDir::new).filter_map(Result::ok);
    let mut files: Vec<PathBuf> = entries.map(walkdir::DirEntry::into_path).filter(|path| is_replica(path)).collect();
    files.sort();
    files
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
