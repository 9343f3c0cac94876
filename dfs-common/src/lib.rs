//! What every crate of the house stands on: identifiers, names, attributes, units, errors, checksums, clock, retry,
//! durable files, configuration and shutdown. Nothing here knows of RPC, of the NameNode or of a mount.

pub mod attr;
pub mod block;
pub mod checksum;
pub mod clock;
pub mod config_file;
pub mod disk;
pub mod durable;
pub mod error;
pub mod ids;
pub mod logging;
pub mod name;
pub mod retry;
pub mod shutdown;
pub mod storage_info;
pub mod sys;
pub mod units;

pub use error::{DfsError, ErrorKind, Result};
