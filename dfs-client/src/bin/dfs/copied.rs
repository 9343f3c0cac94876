//! What was copied from this machine, for `moveFromLocal`, which removes it afterwards.
//!
//! Names do not tell: while a tree is copied, somebody may put another file in the place of one, or write to it. So each
//! source is noted as what was opened, and removed only while it still is just that.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::failure::{Failure, Outcome};
use crate::local_id::LocalId;

/// Everything that was copied so far.
#[derive(Debug, Default)]
pub(crate) struct Copied(Mutex<Vec<Source>>);

#[derive(Debug)]
struct Source {
    path: PathBuf,
    was: Metadata,
}

impl Copied {
    /// Notes something as it was when its copy began. A directory is noted before what is in it.
    pub(crate) fn note(&self, path: &Path, was: Metadata) {
        self.0.lock().expect("no holder panics").push(Source { path: path.to_owned(), was });
    }

    /// Removes everything that is still what was copied, and returns why the rest stays.
    pub(crate) fn remove(&self) -> Vec<Failure> {
        let sources = std::mem::take(&mut *self.0.lock().expect("no holder panics"));
        let (directories, others): (Vec<_>, Vec<_>) = sources.into_iter().partition(|source| source.was.is_dir());
        let mut had_another_name = HashSet::new();
        let mut failures = Vec::new();
        // What came into a directory meanwhile keeps it.
        for source in others.iter().chain(directories.iter().rev()) {
            failures.extend(remove(source, &mut had_another_name).err());
        }
        failures
    }
}

fn remove(source: &Source, had_another_name: &mut HashSet<LocalId>) -> Outcome {
    let failed = |error| Failure::local(&source.path, error);
    let is = fs::symlink_metadata(&source.path).map_err(failed)?;
    let id = LocalId::of(&is);
    if !is_unchanged(&source.was, &is, had_another_name.contains(&id)) {
        return Err(Failure::refused(source.path.display(), "changed since it was copied; not removed"));
    }
    if is.is_dir() {
        return fs::remove_dir(&source.path).map_err(failed);
    }
    fs::remove_file(&source.path).map_err(failed)?;
    if is.nlink() > 1 {
        had_another_name.insert(id);
    }
    Ok(())
}

/// Whether it is still what it was. `lost_a_name`: we have removed another name of it, which has set its time of change.
fn is_unchanged(was: &Metadata, is: &Metadata, lost_a_name: bool) -> bool {
    let modified = |of: &Metadata| (of.len(), of.mtime(), of.mtime_nsec());
    let changed = |of: &Metadata| (of.ctime(), of.ctime_nsec());
    if LocalId::of(was) != LocalId::of(is) || was.file_type() != is.file_type() {
        return false;
    }
    // Of a directory, what is removed in it changes the rest.
    is.is_dir() || (modified(was) == modified(is) && (lost_a_name || changed(was) == changed(is)))
}

#[cfg(test)]
mod tests {
    use std::fs::{FileTimes, OpenOptions};
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    fn note(copied: &Copied, path: &Path) {
        copied.note(path, fs::symlink_metadata(path).unwrap());
    }

    #[test]
    fn remove_takes_a_tree_with_links_and_second_names() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("a")).unwrap();
        fs::write(top.join("a/file"), "x").unwrap();
        fs::hard_link(top.join("a/file"), top.join("second")).unwrap();
        symlink("/", top.join("link")).unwrap();
        let copied = Copied::default();
        for name in ["", "a", "a/file", "link", "second"] {
            note(&copied, &top.join(name));
        }
        let failures = copied.remove();
        assert!(failures.is_empty() && !top.exists(), "{failures:?}");
    }

    #[test]
    fn remove_leaves_what_is_no_longer_what_was_copied() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let names = ["another", "longer", "rewritten", "a-link-now", "moved", "same"];
        let copied = Copied::default();
        note(&copied, dir.path());
        for name in names {
            fs::write(at(name), "text").unwrap();
            note(&copied, &at(name));
        }
        fs::write(at("new"), "text").unwrap();
        fs::rename(at("new"), at("another")).unwrap();
        OpenOptions::new().append(true).open(at("longer")).unwrap().write_all(b"more").unwrap();
        // Of the same length, and with its old times put back.
        let modified = fs::metadata(at("rewritten")).unwrap().modified().unwrap();
        // The clock of files goes in steps: until it has gone one, nothing could be seen.
        let before = fs::metadata(at("rewritten")).unwrap();
        while fs::metadata(at("rewritten")).unwrap().ctime_nsec() == before.ctime_nsec() {
            let file = OpenOptions::new().write(true).open(at("rewritten")).unwrap();
            (&file).write_all(b"TEXT").unwrap();
            file.set_times(FileTimes::new().set_modified(modified)).unwrap();
        }
        fs::remove_file(at("a-link-now")).unwrap();
        symlink("same", at("a-link-now")).unwrap();
        fs::rename(at("moved"), at("elsewhere")).unwrap();
        let told: Vec<_> = copied.remove().iter().map(ToString::to_string).collect();
        for name in ["another", "longer", "rewritten", "a-link-now"] {
            let expected = format!("{}: changed since it was copied; not removed", at(name).display());
            assert!(told.contains(&expected) && at(name).symlink_metadata().is_ok(), "{name}: {told:?}");
        }
        assert!(told.iter().any(|told| told.contains("moved: no such file")), "{told:?}");
        assert!(told.iter().any(|told| told.ends_with("directory not empty")), "{told:?}");
        assert!(told.len() == 6 && !at("same").exists() && at("elsewhere").exists(), "{told:?}");
    }
}
