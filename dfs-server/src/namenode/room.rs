//! Room on the NameNode's device. The edit log comes first: a NameNode that cannot write it stops. An image needs room beside it,
//! whoever writes it: a checkpoint, one that is received, an import, a format (`leave_to_edits`).

use std::fs::File;
use std::io;
use std::path::Path;

use dfs_common::error::{DfsError, ErrorKind, Result};
use rustix::fs::StatVfs;

use super::storage_dir::NameDir;

/// Left free on the file system, for the edit log: its largest segment.
pub(super) const ROOM_FOR_EDITS_BYTES: u64 = 64 << 20;

/// How much there is, and how much a checkpoint takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Bytes free for this daemon.
    pub(crate) free: u64,
    /// Bytes of the newest image; the next one is about as long.
    pub(crate) image: u64,
}

impl Room {
    /// As it is now. Waits for the device.
    ///
    /// # Errors
    /// Of looking.
    pub(super) fn of(dir: &NameDir) -> Result<Self> {
        let current = dir.current();
        let context = |error| DfsError::io(format!("ask for room at {}", current.display()), error);
        let status = rustix::fs::statvfs(&current).map_err(|error| context(error.into()))?;
        let newest = dir.images()?.into_iter().next();
        // It may be retired between the two looks.
        let image = newest.and_then(|image| std::fs::metadata(image.path).ok()).map_or(0, |metadata| metadata.len());
        Ok(Self { free: free_bytes(&status), image })
    }

    /// There is little even for the edit log.
    pub(super) fn is_short_for_edits(&self) -> bool {
        self.free < ROOM_FOR_EDITS_BYTES
    }

    /// The next image does not fit beside the edit log.
    pub(super) fn is_short_for_image(&self) -> bool {
        !fits(self.image, self.free)
    }
}

/// Whether so many bytes of an image fit beside the edit log, where so many are free.
pub(super) fn fits(bytes: u64, free: u64) -> bool {
    bytes.saturating_add(ROOM_FOR_EDITS_BYTES) <= free
}

/// Refuses to write so many more bytes of an image to `path`, with `free` bytes there, when they would take the room that the edit
/// log needs. The log grows while an image is written, so whoever writes one asks again and again.
///
/// # Errors
/// `NoSpace`; else of asking what is free.
pub(super) fn leave_to_edits(path: &Path, bytes: u64, free: io::Result<u64>) -> Result<()> {
    let free = free.map_err(|error| DfsError::io(format!("ask for room at {}", path.display()), error))?;
    if fits(bytes, free) {
        return Ok(());
    }
    Err(DfsError::new(
        ErrorKind::NoSpace,
        format!("{bytes} more bytes of {} do not fit beside the edit log: {free} bytes are free", path.display()),
    ))
}

/// Bytes free on the file system of an open file.
///
/// # Errors
/// Of the system call.
pub(super) fn free_beside(file: &File) -> io::Result<u64> {
    Ok(free_bytes(&rustix::fs::fstatvfs(file)?))
}

fn free_bytes(status: &StatVfs) -> u64 {
    status.f_bavail.saturating_mul(status.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_short_for_an_image_before_it_is_for_edits() {
        for (free, image, of_image, of_edits) in [
            (ROOM_FOR_EDITS_BYTES + 10, 10, false, false),
            (ROOM_FOR_EDITS_BYTES + 9, 10, true, false),
            (ROOM_FOR_EDITS_BYTES - 1, 0, true, true),
            (u64::MAX, u64::MAX, false, false),
        ] {
            let room = Room { free, image };
            assert_eq!((room.is_short_for_image(), room.is_short_for_edits()), (of_image, of_edits), "{room:?}");
        }
    }
}
