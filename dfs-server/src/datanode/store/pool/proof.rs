//! What a replica's checksums prove of its bytes: all that a recovery claims of it.

use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::super::disk::DiskFile;
use super::super::faults::{is_damage, is_shortage};
use super::super::meta_file::MetaFile;
use super::super::recovery::verified_prefix;
use super::super::volume::Volume;

/// Bytes verified at once; whole chunks.
const VERIFY_STEP: usize = 1 << 20;
/// Bytes verified at once where some cannot be read: a sector of most disks.
const SMALL_STEP: usize = 4096;

/// How many of the first `length` bytes are what their checksums say; those below `known` are taken to be. Damaged checksums
/// prove nothing, and nothing behind a bad sector is proven: the other holders may have it. `None` when a file is gone from a
/// volume that is there.
pub(super) fn proven_length(
    volume: &Volume,
    paths: &(PathBuf, PathBuf),
    open: fn(&Path) -> io::Result<DiskFile>,
    known: u64,
    length: u64,
) -> io::Result<Option<u64>> {
    let opened = open(&paths.0).and_then(|data| {
        let meta = MetaFile::open(&paths.1, open)?;
        Ok((data.len()?, data, meta.file().len()?, meta))
    });
    let (data_length, data, meta_length, meta) = match opened {
        Err(error) if is_damage(&error) => return Ok(Some(0)),
        // One that cannot be opened now may be read later: whoever has no other holder must not take it for empty.
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_of_files(volume, &error) => {
            return Ok(None);
        }
        opened => opened?,
    };
    let checksum = meta.checksum();
    let chunk = checksum.bytes_per_checksum() as u64;
    let mut at = known.min(length) / chunk * chunk;
    let mut bytes = vec![0; VERIFY_STEP.next_multiple_of(checksum.bytes_per_checksum())];
    let mut sums = vec![0; checksum.checksums_len(bytes.len())];
    let end = length.min(data_length).min(meta.header().data_len_max(meta_length).unwrap_or(0));
    let small_step = SMALL_STEP.next_multiple_of(checksum.bytes_per_checksum());
    let mut step = bytes.len();
    while at < end {
        let len = (end - at).min(step as u64) as usize;
        let (bytes, sums) = (&mut bytes[..len], &mut sums[..checksum.checksums_len(len)]);
        match data.read_exact_at(bytes, at).and_then(|()| meta.read_checksums(at, sums)) {
            Ok(()) => {}
            Err(error) if !is_of_files(volume, &error) => return Err(error),
            // Once more, for what lies before the sector that is bad.
            Err(_) if step > small_step => {
                step = small_step;
                continue;
            }
            Err(error) => {
                warn!(path = %paths.0.display(), proven = at, %error, "the rest of a replica cannot be read");
                break;
            }
        }
        let proven = verified_prefix(bytes, sums, checksum, at / chunk);
        at += proven as u64;
        if proven < len {
            break;
        }
    }
    Ok(Some(at))
}

/// Whether it is the files that cannot be read, and not this process that lacks something, or the whole volume that is away.
fn is_of_files(volume: &Volume, error: &io::Error) -> bool {
    !is_shortage(error) && volume.probe().is_ok()
}
