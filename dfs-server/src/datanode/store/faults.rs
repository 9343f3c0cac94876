//! What an I/O error says, and of whom: the process, the file, or the device.

use std::io;

/// Whether this process, or the machine, has run out of something that is no device's.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN))
}

/// Whether it is what files say, or that they end too early.
pub(super) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Whether an error says something about the device rather than about one file.
pub(super) fn blames_device(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, Interrupted, NotFound};
    !is_shortage(error) && !is_full(error) && !matches!(error.kind(), NotFound | AlreadyExists | Interrupted)
}

/// Whether there is no room left.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
