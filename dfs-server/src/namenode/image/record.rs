//! One record of an image, decoded.

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::ClientId;
use prost::Message;

/// Decodes a record. What is shorter when it is encoded again had fields that this program does not know: they would be missing
/// from the namespace.
///
/// # Errors
/// `Corrupt`, `Unsupported`.
pub(super) fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M> {
    let record = M::decode(bytes).map_err(|error| corrupt("a record is not valid protobuf").with_source(error))?;
    if record.encoded_len() != bytes.len() {
        return Err(DfsError::new(
            ErrorKind::Unsupported,
            "a record has fields that this program does not know; use the program that wrote it, or a newer one",
        ));
    }
    Ok(record)
}

pub(super) fn corrupt(what: impl Into<String>) -> DfsError {
    DfsError::new(ErrorKind::Corrupt, what)
}

pub(super) fn client_id(bytes: &[u8]) -> Result<ClientId> {
    ClientId::from_bytes(bytes).ok_or_else(|| corrupt("a client id has not 16 bytes"))
}
