//! The NameNode.

#[cfg(feature = "nn-blocks")]
pub mod blocks;
#[cfg(feature = "nn-blocks")]
pub mod datanodes;
#[cfg(feature = "nn-blocks")]
pub mod safe_mode;

#[cfg(feature = "nn-journal")]
pub mod image;
#[cfg(feature = "nn-journal")]
pub mod journal;
#[cfg(feature = "nn-journal")]
pub mod storage_dir;

#[cfg(feature = "nn-core")]
pub mod apply;
#[cfg(feature = "nn-core")]
pub mod machine;
#[cfg(feature = "nn-core")]
pub mod namespace;
#[cfg(feature = "nn-core")]
pub mod namesystem;
#[cfg(feature = "nn-core")]
pub mod outcome;
#[cfg(feature = "nn-core")]
pub mod service;
#[cfg(all(feature = "nn-core", not(feature = "nn-blocks")))]
#[path = "/tmp/stub/blocks.rs"]
pub mod blocks;
#[cfg(all(feature = "nn-core", not(feature = "nn-journal")))]
#[path = "/tmp/stub/journal.rs"]
pub mod journal;
#[cfg(all(feature = "nn-core", not(feature = "nn-journal")))]
#[path = "/tmp/stub/image.rs"]
pub mod image;
