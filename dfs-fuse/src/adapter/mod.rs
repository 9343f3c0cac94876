//! fuser in, fuser out: decodes a request, hands it to [`FileSystem`], encodes what comes back. No decision is made here but
//! which calls the kernel should answer by itself.
//!
//! ```text
//! negotiation   the first words     calls     one function for each call
//! dispatch      how a request runs, and when it is given up
//! convert       their types and ours          answers   those that take more than a line
//! ```
//!
//! Calls left to the kernel, by not being implemented or by ENOSYS: POSIX and flock locks (local to the host), access
//! (`default_permissions`), SEEK_DATA and SEEK_HOLE (all data), copy_file_range (read and write), fallocate (refused), poll.

mod answers;
mod calls;
mod convert;
mod dispatch;
mod negotiation;

use std::sync::Arc;

use tracing::warn;

use self::dispatch::Dispatcher;
use crate::caller::sees_processes;
use crate::driver::Driver;
use crate::fs::FileSystem;

pub(crate) use self::dispatch::Deadlines;
pub(crate) use self::negotiation::Negotiation;

/// The file system as fuser drives it.
pub(crate) struct Adapter {
    fs: Arc<FileSystem>,
    driver: Arc<Driver>,
    dispatcher: Dispatcher,
    negotiation: Negotiation,
    /// What /proc tells is about those who ask.
    sees_processes: bool,
}

impl Adapter {
    pub(crate) fn new(
        fs: Arc<FileSystem>,
        driver: Arc<Driver>,
        deadlines: Deadlines,
        negotiation: Negotiation,
    ) -> Self {
        let sees_processes = sees_processes();
        if !sees_processes {
            warn!(
                "/proc is not of this pid namespace: no program has supplementary groups here, or ends before it is answered"
            );
        }
        let dispatcher = Dispatcher::new(Arc::clone(&driver), deadlines);
        Self { fs, dispatcher, driver, negotiation, sees_processes }
    }
}
