//! All replicas of a block are the same bytes, and there are as many as there should be.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::{fs, io};

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

/// Which part of a file is in the page cache.
///
/// # Errors
/// What fincore(1) says.
pub fn cached_share(path: &Path) -> io::Result<f64> {
    let output =
        Command::new("fincore").args(["--bytes", "--noheadings", "--output", "RES,SIZE"]).arg(path).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let sizes: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match sizes[..] {
        [cached, size] => Ok(cached / size.max(1.0)),
        _ => Err(io::Error::other(format!("fincore: {text}{}", String::from_utf8_lossy(&output.stderr)))),
    }
}
