//! Reading a whole replica and comparing it with its checksums.

use std::error::Error as _;
use std::io;

use dfs_common::block::ExtendedBlock;
use dfs_common::error::{DfsError, ErrorKind, Result};
use tracing::{info, warn};

use crate::datanode::metrics::Metrics;
use crate::datanode::store::{ReplicaStore, is_shortage};

/// Bytes verified at once.
const STEP: usize = 1 << 20;

/// What reading a replica told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It is what its checksums say.
    Good,
    /// It is damaged or cannot be read; the NameNodes are told.
    Bad,
    /// It is not here (any more), is being written, or changed meanwhile.
    Gone,
}

/// Verifies a replica that somebody suspects, as fast as it can be read.
pub(crate) fn verify_now(store: &ReplicaStore, metrics: &Metrics, block: &ExtendedBlock) {
    let finding = verify(store, metrics, block, &mut |_| ());
    info!(%block, ?finding, "verified on suspicion");
}

/// Verifies a replica and reports a bad one. `pace` is told before so many bytes are read.
pub(super) fn verify(
    store: &ReplicaStore,
    metrics: &Metrics,
    block: &ExtendedBlock,
    pace: &mut dyn FnMut(usize),
) -> Finding {
    // Twice before a replica is called bad: an append may have reopened it between its opening and its last chunk.
    let first = read_through(store, block, pace);
    let result = if is_bad(&first) { read_through(store, block, pace) } else { first };
    match result {
        Ok(length) => {
            metrics.blocks_verified.inc();
            metrics.bytes_verified.inc_by(length);
            Finding::Good
        }
        // A sector that cannot be read is as bad as a wrong one. If the whole volume is failing, it is taken out, and all
        // its replicas are reported gone.
        Err(error) if is_damage(&error) => {
            warn!(%block, "replica is bad: {}", error.chain());
            metrics.blocks_found_bad.inc();
            if let Err(error) = store.report_corrupt(block) {
                warn!(%block, "could not report a bad replica: {}", error.chain());
            }
            Finding::Bad
        }
        Err(error) => {
            info!(%block, "not verified: {}", error.chain());
            Finding::Gone
        }
    }
}

fn is_bad(result: &Result<u64>) -> bool {
    result.as_ref().is_err_and(is_damage)
}

/// Whether it is the replica that failed, and not this process for want of descriptors or memory.
fn is_damage(error: &DfsError) -> bool {
    match error.kind() {
        ErrorKind::Corrupt => true,
        ErrorKind::Io => !error.source().and_then(|cause| cause.downcast_ref::<io::Error>()).is_some_and(is_shortage),
        _ => false,
    }
}

/// Compares all of a replica with its checksums, as the device has them; returns its length.
fn read_through(store: &ReplicaStore, block: &ExtendedBlock, pace: &mut dyn FnMut(usize)) -> Result<u64> {
    let reader = store.open_reader(block, 0)?;
    let (length, checksum) = (reader.block().length, reader.checksum());
    // Before, so that the device is asked and not the page cache; after, so that a scan does not push out what
    // applications read.
    reader.drop_cached();
    let mut data = vec![0; STEP.min(usize::try_from(length).unwrap_or(STEP))];
    let mut sums = vec![0; checksum.checksums_len(data.len())];
    let mut at = 0;
    while at < length {
        let len = (length - at).min(STEP as u64) as usize;
        let (data, sums) = (&mut data[..len], &mut sums[..checksum.checksums_len(len)]);
        pace(data.len() + sums.len());
        reader.read(at, data)?;
        reader.read_checksums(at, sums)?;
        if let Err(bad) = checksum.verify(data, sums) {
            return Err(DfsError::new(ErrorKind::Corrupt, format!("checksum error at byte {}", at + bad as u64)));
        }
        at += len as u64;
    }
    reader.drop_cached();
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_damage_blames_no_replica_for_want_of_descriptors() {
        let io = |code| DfsError::io("read", io::Error::from_raw_os_error(code));
        assert!(is_damage(&io(libc::EIO)));
        assert!(is_damage(&DfsError::new(ErrorKind::Corrupt, "wrong checksum")));
        assert!(!is_damage(&io(libc::EMFILE)) && !is_damage(&io(libc::ENFILE)));
        assert!(!is_damage(&DfsError::new(ErrorKind::NotFound, "gone")));
    }
}
