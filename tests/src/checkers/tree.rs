//! Two directory trees that must be equal: names, kinds, modes, owners, links, lengths, times, extended attributes, contents.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{lgetxattr, llistxattr};
use walkdir::WalkDir;

/// A point in time: seconds and nanoseconds.
type Time = (i64, i64);

/// What is compared of an entry; directories have no length of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u64,
    length: u64,
    device: u64,
    modified: Time,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    content: Vec<u8>,
    /// What only the same file system has the same.
    own: Own,
}

/// Inode number, and times that no program sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Own {
    inode: u64,
    accessed: Time,
    changed: Time,
}

/// Modification times below this were set by a test, and must be kept; later ones come from clocks.
const SET_BY_HAND: i64 = 1_000_000_000;

/// Longest list of names, and longest value, of extended attributes in Linux.
const XATTR_MAX: usize = 64 * 1024;

/// Whether two trees of different file systems are equal; their clocks' times and inode numbers aside.
///
/// # Errors
/// Naming the first entry that differs.
pub fn compare(left: &Path, right: &Path) -> Result<(), String> {
    Snapshot::of(left)?.foreign().compare(&Snapshot::of(right)?.foreign())
}

/// A tree as it was at one time.
#[derive(Debug)]
pub struct Snapshot(BTreeMap<PathBuf, Entry>);

impl Snapshot {
    /// Everything below `root`, and `root` itself.
    ///
    /// # Errors
    /// Naming the entry that cannot be read.
    pub fn of(root: &Path) -> Result<Self, String> {
        load(root).map(Self)
    }

    /// Without what another file system has not the same.
    fn foreign(mut self) -> Self {
        self.0.remove(Path::new(""));
        for entry in self.0.values_mut() {
            entry.own = Own::default();
            if entry.modified.0 >= SET_BY_HAND {
                entry.modified = Time::default();
            }
        }
        self
    }

    /// Whether both are equal, in everything.
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
    for entry in WalkDir::new(root) {
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
    let changed = (meta.ctime(), meta.ctime_nsec());
    Ok(Entry {
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        nlink: meta.nlink(),
        length,
        device: meta.rdev(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        xattrs: load_xattrs(path)?,
        content,
        own: Own { inode: meta.ino(), accessed: (meta.atime(), meta.atime_nsec()), changed },
    })
}

/// The attributes that programs set; the kernel's own differ from one file system to the next.
fn load_xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut buffer = vec![0; XATTR_MAX];
    let length = llistxattr(path, &mut buffer[..])?;
    let names = buffer[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
    let mut value = vec![0; XATTR_MAX];
    names
        .map(|name| {
            let length = lgetxattr(path, name, &mut value[..])?;
            Ok((name.to_vec(), value[..length].to_vec()))
        })
        .collect()
}

fn summary(entry: &Entry) -> String {
    let Entry { mode, uid, gid, nlink, length, device, modified, xattrs, content, own } = entry;
    let sum = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let names: Vec<_> =
        xattrs.iter().map(|(name, value)| format!("{}#{:x}", String::from_utf8_lossy(name), sum(value))).collect();
    format!(
        "mode {mode:o} {uid}:{gid} nlink {nlink} length {length} device {device} mtime {modified:?} xattrs {names:?} \
         content #{:x} {own:?}",
        sum(content)
    )
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, setxattr, utimensat};

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

    fn set_times(path: &Path, accessed: i64, modified: i64) {
        let time = |seconds| Timespec { tv_sec: seconds, tv_nsec: 1 };
        let times = Timestamps { last_access: time(accessed), last_modification: time(modified) };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    /// One thing that a change of the tree does, by name.
    type Change = (&'static str, fn(&Path));

    #[test]
    fn snapshot_finds_every_change_of_an_entry() {
        let changes: [Change; 8] = [
            ("mode", |file| fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap()),
            ("owner", |file| std::os::unix::fs::chown(file, Some(1), None).unwrap()),
            ("link", |file| fs::hard_link(file, file.with_extension("link")).unwrap()),
            ("mtime", |file| set_times(file, 5, 8)),
            ("xattr", |file| setxattr(file, "user.name", b"other", XattrFlags::empty()).unwrap()),
            ("inode", |file| {
                let copy = file.with_extension("copy");
                fs::copy(file, &copy).unwrap();
                fs::rename(copy, file).unwrap();
                fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
            }),
            ("ctime", |file| {
                // Clocks of file systems tick slowly.
                let changed = |file: &Path| fs::metadata(file).map(|meta| (meta.ctime(), meta.ctime_nsec())).unwrap();
                let before = changed(file);
                while changed(file) == before {
                    fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
                }
            }),
            ("symlink", |file| {
                fs::remove_file(file.with_extension("symlink")).unwrap();
                symlink("elsewhere", file.with_extension("symlink")).unwrap();
            }),
        ];
        // Not below /tmp: a tmpfs may have no extended attributes.
        let dir = crate::cluster::test_dir();
        let file = dir.path().join("file");
        fs::write(&file, b"content").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        setxattr(&file, "user.name", b"value", XattrFlags::empty()).unwrap();
        symlink("target", file.with_extension("symlink")).unwrap();
        set_times(&file, 5, 7);
        assert_eq!(Snapshot::of(dir.path()).unwrap().0[Path::new("file")].own.accessed, (5, 1));
        // Looking is access, so that no two looks at a local file system are the same in this.
        let look = || {
            let mut snapshot = Snapshot::of(dir.path()).unwrap();
            snapshot.0.values_mut().for_each(|entry| entry.own.accessed = Time::default());
            snapshot
        };
        for (what, change) in changes {
            let before = look();
            before.compare(&look()).unwrap();
            change(&file);
            before.compare(&look()).expect_err(what);
        }
    }
}
