//! A checkpoint is a fold: image plus edits gives the next image. It works on files alone, never on the serving namespace,
//! so the same code runs in the NameNode (on a thread of its own), in the SecondaryNameNode, and wherever a log must be
//! brought up to date.

use std::path::Path;

use dfs_common::error::{DfsError, ErrorKind, Result};

use super::image::format::ImageHeader;
use super::image::records;
use super::journal::{EditReader, Folder, LoggedOps};
use super::namespace::Namespace;

/// The fold, as the journal calls it.
pub struct NamespaceFolder;

impl Folder for NamespaceFolder {
    fn fold(&self, image: Option<&Path>, edits: &mut EditReader, header: &ImageHeader, out: &Path) -> Result<()> {
        let image = image.ok_or_else(|| {
            DfsError::new(ErrorKind::Corrupt, "no image can be read; restore one from the SecondaryNameNode")
        })?;
        fold(image, edits, header, out)
    }
}

/// Reads `image`, applies the edits after it, and writes the result, described by `header` but for the digest, to `out`.
///
/// # Errors
/// `Corrupt` when the edits do not continue the image or do not end where the header says; `Internal` when they give another
/// state than they gave the NameNode; `Unsupported` when a newer version wrote them; of reading and writing.
pub fn fold(image: &Path, edits: &mut EditReader, header: &ImageHeader, out: &Path) -> Result<()> {
    let (_, mut namespace) = records::load(image)?;
    while let Some(logged) = edits.next_ops()? {
        apply_logged(&mut namespace, &logged)?;
    }
    if namespace.counters().last_txid != header.txid() {
        return Err(DfsError::new(
            ErrorKind::Corrupt,
            format!("the edits end at transaction {}, not at {}", namespace.counters().last_txid, header.txid()),
        ));
    }
    records::save(&namespace, out, header)
}

/// Applies what one log entry holds to a namespace that nobody serves.
///
/// # Errors
/// `Corrupt` when it does not follow; `Internal` when it was made for another state.
pub fn apply_logged(namespace: &mut Namespace, logged: &LoggedOps) -> Result<()> {
    let next = namespace.counters().last_txid.next();
    if logged.first_txid != next {
        return Err(DfsError::new(
            ErrorKind::Corrupt,
            format!("the edits go on at transaction {}, not at {next}", logged.first_txid),
        ));
    }
    namespace.meet_digest(logged.state_digest)?;
    // Block events concern the serving NameNode only.
    let mut events = Vec::new();
    for op in &logged.ops {
        // A refused op is a logged no-op: its refusal is its outcome.
        let _ = namespace.apply(op, &mut events);
        events.clear();
    }
    Ok(())
}
