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
