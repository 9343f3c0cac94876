//! The two small files beside the segments: `vote` (in which term this member voted for whom) and `purged` (the last entry
//! that was thrown away because images contain it). Each is replaced atomically and durably.
//!
//! ```text
//! file := magic    8 bytes  "DFSTATE\0"
//!         version  u32      1, little-endian
//!         length   u32      of the content
//!         crc      u32      CRC32C of the 16 bytes before it, then of the content
//!         content           JSON
//! ```

use std::fs;
use std::io;
use std::path::Path;

use bytes::Buf;
use dfs_common::checksum;
use dfs_common::durable;
use dfs_common::error::{DfsError, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

const MAGIC: &[u8; 8] = b"DFSTATE\0";
const STATE_VERSION: u32 = 1;
const HEADER_BYTES: usize = 20;
/// A vote or a log id: a hundred bytes.
const STATE_BYTES_MAX: u64 = 64 * 1024;

/// Replaces the file.
///
/// # Errors
/// Of writing.
pub(super) fn store<T: Serialize>(path: &Path, state: &T) -> Result<()> {
    let content = serde_json::to_vec(state)
        .map_err(|error| DfsError::new(ErrorKind::Internal, format!("encode {}", path.display())).with_source(error))?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + content.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&STATE_VERSION.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes());
    let crc = checksum::crc32c_append(checksum::crc32c(&bytes), &content);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&content);
    durable::write_file(path, &bytes).map_err(|error| DfsError::io(format!("write {}", path.display()), error))
}

/// Reads the file; `None` when there is none.
///
/// # Errors
/// `Corrupt` when it is not what was stored; else of reading.
pub(super) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let context = |error| DfsError::io(format!("read {}", path.display()), error);
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(context(error)),
    };
    let damaged = || {
        DfsError::new(
            ErrorKind::Corrupt,
            format!("{} is damaged; restore the NameNode's directory from a copy", path.display()),
        )
    };
    if length > STATE_BYTES_MAX || (length as usize) < HEADER_BYTES {
        return Err(damaged());
    }
    let bytes = fs::read(path).map_err(context)?;
    if bytes.len() < HEADER_BYTES {
        return Err(damaged());
    }
    let (header, content) = bytes.split_at(HEADER_BYTES);
    let mut fields = &header[8..];
    let (version, length, crc) = (fields.get_u32_le(), fields.get_u32_le() as usize, fields.get_u32_le());
    let intact = &header[..8] == MAGIC
        && version == STATE_VERSION
        && length == content.len()
        && checksum::crc32c_append(checksum::crc32c(&header[..16]), content) == crc;
    if !intact {
        return Err(damaged());
    }
    serde_json::from_slice(content).map(Some).map_err(|error| damaged().with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namenode::journal::raft_types::Vote;

    #[test]
    fn load_returns_what_was_stored_and_refuses_every_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vote");
        assert!(load::<Vote>(&path).unwrap().is_none());
        let vote = Vote::new_committed(7, 1);
        store(&path, &vote).unwrap();
        assert_eq!(load::<Vote>(&path).unwrap(), Some(vote));
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(load::<Vote>(&path).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &damaged).unwrap();
            assert_eq!(load::<Vote>(&path).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
