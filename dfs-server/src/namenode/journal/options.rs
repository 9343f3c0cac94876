//! How a journal is to run.

use std::sync::Arc;

use tracing::error;

use super::contract::Folder;
use super::log_store::OnFatal;
use crate::namenode::storage_dir::Useless;
use crate::start_progress::StartProgress;

/// How a journal is to run.
#[derive(Clone)]
pub struct JournalOptions {
    /// Where other members would reach this one, host:port.
    pub address: String,
    /// Images to keep (`dfs.namenode.num.checkpoints.retained`).
    pub images_retained: usize,
    /// Makes checkpoints.
    pub folder: Arc<dyn Folder>,
    /// What to do when the log can no longer be written or applied. In a serving NameNode it does not return.
    pub on_fatal: OnFatal,
    /// Told how far the replay is.
    pub progress: Arc<StartProgress>,
    /// Newer images than the one that was loaded, to be set aside when the log was found good as well.
    pub useless_images: Arc<Useless>,
}

impl JournalOptions {
    /// Options that end the process on a fatal error.
    pub fn new(address: impl Into<String>, images_retained: usize, folder: Arc<dyn Folder>) -> Self {
        Self {
            address: address.into(),
            images_retained,
            folder,
            on_fatal: Arc::new(|fatal| {
                error!(error = fatal.chain(), "the NameNode stops: it can no longer keep its promises");
                std::process::exit(1);
            }),
            progress: Arc::default(),
            useless_images: Arc::default(),
        }
    }
}
