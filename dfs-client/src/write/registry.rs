//! The open writers of a client, so that its upkeep task can look in on those that nobody is driving.

use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use super::file_writer::FileWriter;

/// Every open writer, weakly.
#[derive(Default)]
pub(crate) struct WriterRegistry {
    writers: Mutex<Vec<Weak<FileWriter>>>,
}

impl WriterRegistry {
    pub(crate) fn add(&self, writer: &Arc<FileWriter>) {
        self.writers.lock().push(Arc::downgrade(writer));
    }

    /// Lets each writer that needs it do its chores, in a task of its own: a DataNode that hangs holds up only its writer.
    pub(crate) fn look_after(&self, now: Instant) {
        let mut needy = Vec::new();
        self.writers.lock().retain(|writer| {
            let Some(writer) = writer.upgrade() else { return false };
            let is_open = writer.is_open();
            if is_open && let Some(chore) = writer.choose_chore(now) {
                needy.push((writer, chore));
            }
            is_open
        });
        for (writer, chore) in needy {
            tokio::spawn(async move { writer.do_chore(chore).await });
        }
    }
}
