//! Two directory trees that must be equal: names, kinds, modes, owners, links, lengths, times set by hand, contents.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// What is compared of an entry; directories have no length of their own.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u64,
    length: u64,
    modified: Option<(i64, i64)>,
    content: Vec<u8>,
}

/// Modification times below this were set by a test, and must be kept; later ones come from clocks.
const SET_BY_HAND: i64 = 1_000_000_000;

/// Whether both trees are equal.
///
/// # Errors
/// Naming the first entry that differs.
pub fn compare(left: &Path, right: &Path) -> Result<(), String> {
    Snapshot::of(left)?.compare(&Snapshot::of(right)?)
}

/// A tree as it was at one time.
#[derive(Debug)]
pub struct Snapshot(BTreeMap<PathBuf, Entry>);

impl Snapshot {
    /// Everything below `root`.
    ///
    /// # Errors
    /// Naming the entry that cannot be read.
    pub fn of(root: &Path) -> Result<Self, String> {
        load(root).map(Self)
    }

    /// Whether both are equal.
    ///
    /// # Errors
    /// Naming the first entry that differs.
    pub fn compare(&self, other: &Self) -> Result<(), String> {
        for path in self.0.keys().chain(other.0.keys()) {
            let (one, two) = (self.0.get(path), other.0.get(path));
            if one != two {
                let describe = |entry: Option<&Entry>| entry.map_or("nothing".to_owned(), summary);
                return Err(format!("{}: {} here, {} there", path.display(), describe(one), describe(two)));
            }
        }
        Ok(())
    }
}

fn load(root: &Path) -> Result<BTreeMap<PathBuf, Entry>, String> {
    let mut tree = BTreeMap::new();
    for entry in WalkDir::new(root).min_depth(1) {
        let entry = entry.map_err(|error| error.to_string())?;
        let relative = entry.path().strip_prefix(root).expect("below the root").to_owned();
        let loaded = load_entry(entry.path()).map_err(|error| format!("{}: {error}", relative.display()))?;
        tree.insert(relative, loaded);
    }
    Ok(tree)
}

fn load_entry(path: &Path) -> io::Result<Entry> {
    let meta: Metadata = fs::symlink_metadata(path)?;
    let content = if meta.is_file() {
        fs::read(path)?
    } else if meta.is_symlink() {
        fs::read_link(path)?.into_os_string().into_encoded_bytes()
    } else {
        Vec::new()
    };
    let length = if meta.is_dir() { 0 } else { meta.len() };
    let modified = (meta.mtime() < SET_BY_HAND).then(|| (meta.mtime(), meta.mtime_nsec()));
    Ok(Entry { mode: meta.mode(), uid: meta.uid(), gid: meta.gid(), nlink: meta.nlink(), length, modified, content })
}

fn summary(entry: &Entry) -> String {
    let Entry { mode, uid, gid, nlink, length, modified, content } = entry;
    let sum = content.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    format!("mode {mode:o} {uid}:{gid} nlink {nlink} length {length} mtime {modified:?} content #{sum:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compare_finds_what_differs() {
        let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [&left, &right] {
            fs::create_dir(dir.path().join("d")).unwrap();
            fs::write(dir.path().join("d/f"), b"same").unwrap();
        }
        compare(left.path(), right.path()).unwrap();
        fs::write(right.path().join("d/f"), b"diff").unwrap();
        assert!(compare(left.path(), right.path()).unwrap_err().contains("d/f"));
        fs::remove_file(right.path().join("d/f")).unwrap();
        assert!(compare(left.path(), right.path()).unwrap_err().contains("nothing there"));
    }
}
