//! All replicas of a block are the same bytes, and there are as many as there should be.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;

use crate::cluster::Cluster;
use crate::fault::replica_files;

/// Whether every finalized block has `count` replicas, identical in data.
///
/// # Errors
/// Naming the first block that has not.
pub fn check_identical(cluster: &Cluster, count: usize) -> Result<(), String> {
    let mut blocks: BTreeMap<OsString, Vec<Vec<u8>>> = BTreeMap::new();
    for datanode in 0..cluster.datanodes.len() {
        for path in replica_files(cluster, datanode) {
            let name = path.file_name().expect("a file has a name").to_owned();
            let data = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            blocks.entry(name).or_default().push(data);
        }
    }
    for (name, replicas) in blocks {
        if replicas.len() != count {
            return Err(format!("{} has {} replicas instead of {count}", name.display(), replicas.len()));
        }
        if replicas.iter().any(|data| *data != replicas[0]) {
            return Err(format!("the replicas of {} differ", name.display()));
        }
    }
    Ok(())
}
