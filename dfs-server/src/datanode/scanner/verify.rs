//! Reading a whole replica and comparing it with its checksums.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::BlockId;
use tracing::{info, warn};

use crate::datanode::metrics::Metrics;
use crate::datanode::store::{Cursor, ReplicaStore, Suspect, VolumeIndex, is_shortage};

/// Bytes verified at once.
const STEP: usize = 1 << 20;
/// Pause after a replica could not be verified for want of descriptors or memory.
const SHORTAGE_PAUSE: Duration = Duration::from_secs(1);

/// What reading a replica told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It is what its checksums say.
    Good(Block),
    /// It is damaged or cannot be read; the NameNodes are told.
    Bad,
    /// It is not here (any more), is being written, or changed meanwhile.
    Gone,
    /// This process lacked what it takes.
    Unknown,
}

/// Verifies what is doubted on a volume, as fast as it can be read, until the store is closed.
pub(crate) fn verify_suspects(store: &ReplicaStore, metrics: &Metrics, volume: VolumeIndex) {
    while let Some(suspect) = store.suspects().next(volume) {
        match suspect {
            Suspect::Replica(pool, id) => verify_suspect(store, metrics, &any_version(&pool, id)),
            Suspect::Volume => verify_volume(store, metrics, volume),
        }
    }
}

fn any_version(pool: &str, id: BlockId) -> ExtendedBlock {
    ExtendedBlock { pool: pool.to_owned(), block: Block { id, ..Block::default() } }
}

fn verify_suspect(store: &ReplicaStore, metrics: &Metrics, block: &ExtendedBlock) {
    let finding = verify(store, metrics, block, &mut |_| ());
    info!(%block, ?finding, "verified on suspicion");
    let told = match finding {
        Finding::Good(block_here) => store.report_good(&ExtendedBlock { pool: block.pool.clone(), block: block_here }),
        Finding::Unknown => {
            std::thread::sleep(SHORTAGE_PAUSE);
            store.doubt(block)
        }
        Finding::Bad | Finding::Gone => Ok(()),
    };
    if let Err(error) = told {
        warn!(%block, "nobody was told of a verified replica: {}", error.chain());
    }
}

/// More were doubted than are remembered one by one. That takes hours; what is doubted meanwhile does not wait for its end.
fn verify_volume(store: &ReplicaStore, metrics: &Metrics, volume: VolumeIndex) {
    for pool in store.pool_names() {
        let mut cursor = Cursor { volume, after: None };
        // A pool that cannot be asked is gone.
        while let Ok(page) = store.report_page(&pool, cursor) {
            for item in page.items.iter().filter(|item| item.open.is_none()) {
                if let Some((pool, id)) = store.suspects().next_replica(volume) {
                    verify_suspect(store, metrics, &any_version(&pool, id));
                }
                verify_suspect(store, metrics, &ExtendedBlock { pool: pool.to_string(), block: item.block });
            }
            cursor.after = page.next;
            if page.next.is_none() {
                break;
            }
        }
    }
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
    let outcome = if first.1.as_ref().is_err_and(is_damage) { read_through(store, block, pace) } else { first };
    match outcome {
        (Some(found), Ok(())) => {
            metrics.blocks_verified.inc();
            metrics.bytes_verified.inc_by(found.length);
            Finding::Good(found)
        }
        // A sector that cannot be read is as bad as a wrong one. If the whole volume is failing, it is taken out, and all
        // its replicas are reported gone.
        (found, Err(error)) if is_damage(&error) => {
            warn!(%block, "replica is bad: {}", error.chain());
            metrics.blocks_found_bad.inc();
            if let Err(error) = report_bad(store, block, found) {
                warn!(%block, "could not report a bad replica: {}", error.chain());
            }
            Finding::Bad
        }
        // It could not be looked at: also when it is to be synced before, and there is no room for that.
        (_, Err(error)) if matches!(error.kind(), ErrorKind::Io | ErrorKind::NoSpace) => {
            warn!(%block, "not verified: {}", error.chain());
            Finding::Unknown
        }
        (_, Err(error)) => {
            info!(%block, "not verified: {}", error.chain());
            Finding::Gone
        }
        (None, Ok(())) => Finding::Gone,
    }
}

fn report_bad(store: &ReplicaStore, block: &ExtendedBlock, found: Option<Block>) -> Result<()> {
    let found = found.or_else(|| store.finalized(block)).unwrap_or(block.block);
    store.report_corrupt(&ExtendedBlock { pool: block.pool.clone(), block: found })
}

/// Whether it is the replica that failed, and not this process for want of descriptors or memory.
fn is_damage(error: &DfsError) -> bool {
    match error.kind() {
        ErrorKind::Corrupt => true,
        ErrorKind::Io => !error.source().and_then(|cause| cause.downcast_ref::<io::Error>()).is_some_and(is_shortage),
        _ => false,
    }
}

/// Compares all of a replica with its checksums, as the device has them; also what was found there, if it could be opened.
fn read_through(
    store: &ReplicaStore,
    block: &ExtendedBlock,
    pace: &mut dyn FnMut(usize),
) -> (Option<Block>, Result<()>) {
    let reader = match store.open_on_device(block) {
        Ok(reader) => reader,
        Err(error) => return (None, Err(error)),
    };
    let (length, checksum) = (reader.block().length, reader.checksum());
    let mut compare = || {
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
        Ok(())
    };
    let compared = compare();
    (Some(reader.block()), compared)
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
