//! How far a volume's scan has come, kept in the volume so that a restart goes on.
//!
//! One line: `dfs-scan 1 <begun, seconds since the epoch> <finished: 0 or 1> <pool or -> <last block id or ->`. A file that
//! cannot be read as that is as good as none: the scan begins again.

use std::fs;
use std::io;
use std::path::Path;

use dfs_common::durable;
use dfs_common::ids::BlockId;

/// Name of the file, in the volume's directory.
pub(super) const CURSOR_FILE: &str = "scanner.cursor";

/// Progress of one pass over a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ScanCursor {
    /// When the pass began, in seconds since the epoch; 0: never.
    pub(super) begun: u64,
    /// Every replica has had its turn.
    pub(super) is_finished: bool,
    /// The pool being scanned; pools are scanned in the order of their names.
    pub(super) pool: Option<String>,
    /// The last block of it that had its turn.
    pub(super) after: Option<BlockId>,
}

impl ScanCursor {
    /// Progress of a pass that begins.
    pub(super) fn begin(now: u64) -> Self {
        Self { begun: now, ..Self::default() }
    }

    /// Seconds until the next pass is to begin or this one to go on. One that has begun in the future, by a clock that was wrong,
    /// says nothing.
    pub(super) fn due_in(&self, now: u64, period: u64) -> u64 {
        if self.is_finished && self.begun <= now { self.begun.saturating_add(period).saturating_sub(now) } else { 0 }
    }

    fn encode(&self) -> String {
        let (pool, after) = (self.pool.as_deref().unwrap_or("-"), self.after.map(|id| id.0.to_string()));
        let after = after.as_deref().unwrap_or("-");
        format!("dfs-scan 1 {} {} {pool} {after}\n", self.begun, u8::from(self.is_finished))
    }

    fn decode(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("dfs-scan 1 ")?.strip_suffix('\n')?;
        let [begun, finished, pool, after] = rest.split(' ').collect::<Vec<_>>().try_into().ok()?;
        Some(Self {
            begun: begun.parse().ok()?,
            is_finished: match finished {
                "0" => false,
                "1" => true,
                _ => return None,
            },
            pool: (pool != "-").then(|| pool.to_owned()),
            after: if after == "-" { None } else { Some(BlockId(after.parse().ok()?)) },
        })
    }

    /// Progress as last stored in a volume; none yet, or none that can be read: a pass that never began.
    ///
    /// # Errors
    /// When the device fails.
    pub(super) fn load(root: &Path) -> io::Result<Self> {
        match fs::read(root.join(CURSOR_FILE)) {
            Ok(bytes) => Ok(std::str::from_utf8(&bytes).ok().and_then(Self::decode).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Replaces the stored progress.
    ///
    /// # Errors
    /// When the device fails.
    pub(super) fn store(&self, root: &Path) -> io::Result<()> {
        durable::write_file(&root.join(CURSOR_FILE), self.encode().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn somewhere() -> ScanCursor {
        ScanCursor { begun: 1_700_000_000, is_finished: false, pool: Some("BP-1-x".into()), after: Some(BlockId(77)) }
    }

    #[test]
    fn load_returns_what_was_stored() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ScanCursor::load(dir.path()).unwrap(), ScanCursor::default());
        for cursor in [somewhere(), ScanCursor::begin(5), ScanCursor { is_finished: true, ..somewhere() }] {
            cursor.store(dir.path()).unwrap();
            assert_eq!(ScanCursor::load(dir.path()).unwrap(), cursor);
        }
    }

    #[test]
    fn load_begins_again_after_any_truncation() {
        let dir = tempfile::tempdir().unwrap();
        let text = somewhere().encode();
        for length in 0..text.len() {
            fs::write(dir.path().join(CURSOR_FILE), &text[..length]).unwrap();
            assert_eq!(ScanCursor::load(dir.path()).unwrap(), ScanCursor::default(), "{length}");
        }
    }

    #[test]
    fn due_in_waits_only_after_the_end_of_a_pass() {
        let finished = ScanCursor { is_finished: true, ..ScanCursor::begin(1_000) };
        for (cursor, now, expected) in [
            (ScanCursor::default(), 0, 0),
            (ScanCursor::begin(1_000), 1_000, 0),
            (finished.clone(), 1_000, 60),
            (finished.clone(), 1_059, 1),
            (finished.clone(), 9_999, 0),
            (finished, 999, 0),
        ] {
            assert_eq!(cursor.due_in(now, 60), expected, "{cursor:?} at {now}");
        }
    }
}
