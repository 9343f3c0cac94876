//! Changes of everything about a file but its bytes: modes, owners, times, extended attributes, links. One directory, one book.
//!
//! Every answered change is durable, so that power cuts take none of them; one that was not answered may have happened or not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{
    AtFlags, CWD, Timespec, Timestamps, XattrFlags, getxattr, listxattr, removexattr, setxattr, utimensat,
};

use super::verdict::PATIENCE;
use crate::violation::{Violation, about};
use crate::wait::poll;

/// Files that are changed.
const FILES: usize = 6;
/// Names that each may have of extended attributes, of links, and that there may be of symbolic links.
const NAMES: usize = 3;
/// Changes of all files that are told when one is not as it should be.
const HISTORY: usize = 60;
/// Longest value of an extended attribute.
const VALUE_MAX: usize = 24;

/// What is known of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    mode: u32,
    owner: (u32, u32),
    /// Modification and access, once they were set; seconds.
    times: Option<(i64, i64)>,
    xattrs: BTreeMap<String, Vec<u8>>,
    links: BTreeSet<String>,
    /// Target of the symbolic link beside it.
    symlink: Option<String>,
}

#[derive(Clone, Debug)]
enum Change {
    Mode(u32),
    Owner(u32, u32),
    Times(i64, i64),
    SetXattr(String, Vec<u8>),
    RemoveXattr(String),
    Link(String),
    Unlink(String),
    Symlink(String),
    RemoveSymlink,
}

/// One directory's files and their book.
#[derive(Debug)]
pub(super) struct Attributes {
    dir: PathBuf,
    book: Vec<State>,
    in_doubt: Option<(usize, Change)>,
    /// The last changes and comparisons, with the time of their ends.
    history: VecDeque<String>,
    rng: SmallRng,
}

impl Attributes {
    /// Makes the files in `dir`, which exists and is empty.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn prepare(dir: PathBuf, seed: u64) -> io::Result<Self> {
        let mut book = Vec::new();
        for number in 0..FILES {
            let path = dir.join(name_of(number));
            File::create_new(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(0o640))?;
            book.push(State { mode: 0o640, ..State::default() });
        }
        Ok(Self { dir, book, in_doubt: None, history: VecDeque::new(), rng: SmallRng::seed_from_u64(seed) })
    }

    /// Where it works.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Changes one thing of one file.
    ///
    /// # Errors
    /// Of the file system; [`check`](Self::check) comes next then.
    pub(super) fn step(&mut self) -> io::Result<()> {
        assert!(self.in_doubt.is_none(), "a change before the last one was settled");
        let number = self.rng.random_range(0..FILES);
        let change = self.choose(number);
        self.in_doubt = Some((number, change.clone()));
        let outcome = perform(&self.dir, number, &change);
        self.remember(format!("{change:?} of {}: {outcome:?}", name_of(number)));
        outcome.map_err(about(format_args!("{change:?} of {}", name_of(number))))?;
        self.in_doubt = None;
        apply(&mut self.book[number], change);
        Ok(())
    }

    fn remember(&mut self, what: String) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.history.push_back(format!("{}.{:03} {what}", now.as_secs() % 86_400, now.subsec_millis()));
    }

    /// With what led to it.
    fn explained(&self, error: io::Error) -> io::Error {
        if !Violation::is(&error) {
            return error;
        }
        let lines: Vec<&str> = self.history.iter().map(String::as_str).collect();
        Violation::error(format!("{error}; in doubt: {:?}; before: {}", self.in_doubt, lines.join(", ")))
    }

    fn choose(&mut self, number: usize) -> Change {
        let state = &self.book[number];
        let rng = &mut self.rng;
        let name = |rng: &mut SmallRng, kind: &str| format!("{kind}{}", rng.random_range(0..NAMES));
        match rng.random_range(0..6) {
            0 => Change::Mode(rng.random_range(0..0o1000)),
            1 => Change::Owner(rng.random_range(0..9), rng.random_range(0..9)),
            2 => Change::Times(rng.random_range(0..1_000_000), rng.random_range(0..1_000_000)),
            3 => {
                let name = name(rng, "user.x");
                if state.xattrs.contains_key(&name) && rng.random_bool(0.4) {
                    return Change::RemoveXattr(name);
                }
                let length = rng.random_range(0..VALUE_MAX);
                Change::SetXattr(name, (0..length).map(|_| rng.random()).collect())
            }
            4 => {
                let name = format!("{}-{}", name_of(number), name(rng, "link"));
                if state.links.contains(&name) { Change::Unlink(name) } else { Change::Link(name) }
            }
            _ if state.symlink.is_some() => Change::RemoveSymlink,
            _ => Change::Symlink(name(rng, "target")),
        }
    }

    /// Looks at one file.
    ///
    /// # Errors
    /// Of the file system, or a [`Violation`] when it is not as the book says.
    pub(super) fn read(&mut self) -> io::Result<()> {
        let number = self.rng.random_range(0..FILES);
        let outcome = compare(&self.dir, number, &self.book[number..=number]);
        outcome.map(drop).map_err(|error| self.explained(error))
    }

    /// Looks at one file through another mount, where this directory is `dir`. A mount may remember attributes for a moment.
    ///
    /// # Errors
    /// Of the file system, or a [`Violation`] when it does not become what the book says.
    pub(super) fn read_elsewhere(&mut self, dir: &Path) -> io::Result<()> {
        let number = self.rng.random_range(0..FILES);
        let mut last = None;
        let seen = poll(PATIENCE, || match compare(dir, number, &self.book[number..=number]) {
            Err(error) if Violation::is(&error) => {
                last = Some(error);
                None
            }
            seen => Some(seen.map(drop)),
        });
        seen.unwrap_or_else(|| last.map_or(Ok(()), Err)).map_err(|error| self.explained(error))
    }

    /// Compares all files with the book, and takes over how what was in doubt ended.
    ///
    /// # Errors
    /// Of the file system, or a [`Violation`].
    pub(super) fn check(&mut self) -> io::Result<()> {
        for number in 0..FILES {
            let mut candidates = vec![self.book[number].clone()];
            if let Some((_, change)) = self.in_doubt.as_ref().filter(|(doubtful, _)| *doubtful == number) {
                let mut changed = self.book[number].clone();
                apply(&mut changed, change.clone());
                candidates.push(changed);
            }
            let outcome = compare(&self.dir, number, &candidates);
            if candidates.len() > 1 || outcome.is_err() {
                self.remember(format!("{} compared: {outcome:?}", name_of(number)));
            }
            let found = outcome.map_err(|error| self.explained(error))?;
            self.book[number] = candidates.swap_remove(found);
        }
        self.in_doubt = None;
        Ok(())
    }
}

fn name_of(number: usize) -> String {
    format!("file{number}")
}

fn symlink_of(number: usize) -> String {
    format!("symlink{number}")
}

fn apply(state: &mut State, change: Change) {
    match change {
        Change::Mode(mode) => state.mode = mode,
        Change::Owner(uid, gid) => state.owner = (uid, gid),
        Change::Times(modified, accessed) => state.times = Some((modified, accessed)),
        Change::SetXattr(name, value) => {
            state.xattrs.insert(name, value);
        }
        Change::RemoveXattr(name) => {
            state.xattrs.remove(&name);
        }
        Change::Link(name) => {
            state.links.insert(name);
        }
        Change::Unlink(name) => {
            state.links.remove(&name);
        }
        Change::Symlink(target) => state.symlink = Some(target),
        Change::RemoveSymlink => state.symlink = None,
    }
}

fn perform(dir: &Path, number: usize, change: &Change) -> io::Result<()> {
    let path = dir.join(name_of(number));
    match change {
        Change::Mode(mode) => fs::set_permissions(&path, Permissions::from_mode(*mode)),
        Change::Owner(uid, gid) => chown(&path, Some(*uid), Some(*gid)),
        Change::Times(modified, accessed) => {
            let time = |seconds: i64| Timespec { tv_sec: seconds, tv_nsec: 7 };
            let times = Timestamps { last_access: time(*accessed), last_modification: time(*modified) };
            Ok(utimensat(CWD, &path, &times, AtFlags::empty())?)
        }
        Change::SetXattr(name, value) => Ok(setxattr(&path, name.as_str(), value, XattrFlags::empty())?),
        Change::RemoveXattr(name) => Ok(removexattr(&path, name.as_str())?),
        Change::Link(name) => fs::hard_link(&path, dir.join(name)),
        Change::Unlink(name) => fs::remove_file(dir.join(name)),
        Change::Symlink(target) => symlink(target, dir.join(symlink_of(number))),
        Change::RemoveSymlink => fs::remove_file(dir.join(symlink_of(number))),
    }
}

/// Which of the candidates a file is.
fn compare(dir: &Path, number: usize, candidates: &[State]) -> io::Result<usize> {
    let place = dir.join(name_of(number));
    let times_known = candidates.iter().any(|state| state.times.is_some());
    let actual = load(dir, number).map_err(about(place.display()))?;
    let is_same = |state: &&State| {
        let mut seen = actual.clone();
        if !times_known || state.times.is_none() {
            seen.times = None;
        }
        seen == **state
    };
    candidates
        .iter()
        .position(|state| is_same(&state))
        .ok_or_else(|| Violation::error(format!("{} is {actual:?}, and should be {candidates:?}", place.display())))
}

fn load(dir: &Path, number: usize) -> io::Result<State> {
    let path = dir.join(name_of(number));
    let meta = fs::symlink_metadata(&path)?;
    let mut buffer = vec![0; 1024];
    let length = listxattr(&path, &mut buffer[..])?;
    let names = buffer[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
    let mut value = [0; VALUE_MAX];
    let mut xattrs = BTreeMap::new();
    for name in names {
        let length = getxattr(&path, name, &mut value[..])?;
        xattrs.insert(String::from_utf8_lossy(name).into_owned(), value[..length].to_vec());
    }
    let mut links = BTreeSet::new();
    for link in (0..NAMES).map(|link| format!("{}-link{link}", name_of(number))) {
        match fs::symlink_metadata(dir.join(&link)) {
            Ok(other) if other.ino() == meta.ino() => {
                links.insert(link);
            }
            Ok(_) => return Err(Violation::error(format!("{link} is another file"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if meta.nlink() != links.len() as u64 + 1 {
        return Err(Violation::error(format!("{} links, and the names {links:?}", meta.nlink())));
    }
    let symlink = match fs::read_link(dir.join(symlink_of(number))) {
        Ok(target) => Some(target.display().to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let times = Some((meta.mtime(), meta.atime()));
    Ok(State { mode: meta.mode() & 0o7777, owner: (meta.uid(), meta.gid()), times, xattrs, links, symlink })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::test_dir;

    fn worked() -> (tempfile::TempDir, Attributes) {
        let dir = test_dir();
        let mut attributes = Attributes::prepare(dir.path().to_owned(), 3).unwrap();
        for _ in 0..500 {
            attributes.step().unwrap();
        }
        (dir, attributes)
    }

    #[test]
    fn check_accepts_what_was_done_and_finds_what_was_not() {
        let changes = [
            Change::Mode(0o1777),
            Change::Owner(77, 77),
            Change::Times(5_000_000, 6_000_000),
            Change::SetXattr("user.x0".into(), b"other".to_vec()),
            Change::SetXattr("user.foreign".into(), Vec::new()),
        ];
        for change in changes {
            let (dir, mut attributes) = worked();
            attributes.check().unwrap();
            perform(dir.path(), 2, &change).unwrap();
            let error = attributes.check().unwrap_err();
            assert!(Violation::is(&error), "{error}");
        }
    }

    #[test]
    fn check_finds_links_that_are_lost_foreign_or_surplus() {
        let (dir, mut attributes) = worked();
        let surplus = dir.path().join("surplus");
        fs::hard_link(dir.path().join(name_of(1)), &surplus).unwrap();
        assert!(attributes.check().unwrap_err().to_string().contains("links"));
        fs::remove_file(&surplus).unwrap();
        attributes.check().unwrap();
        let link = format!("{}-link0", name_of(1));
        let change = if attributes.book[1].links.contains(&link) { Change::Unlink(link) } else { Change::Link(link) };
        perform(dir.path(), 1, &change).unwrap();
        assert!(Violation::is(&attributes.check().unwrap_err()));
    }

    #[test]
    fn check_accepts_either_outcome_of_what_is_in_doubt_and_no_third() {
        for happened in [false, true] {
            let (dir, mut attributes) = worked();
            let change = Change::Mode(0o1777);
            attributes.in_doubt = Some((0, change.clone()));
            if happened {
                perform(dir.path(), 0, &change).unwrap();
            }
            attributes.check().unwrap();
            assert_eq!(attributes.book[0].mode == 0o1777, happened);
            attributes.in_doubt = Some((0, Change::Mode(1)));
            perform(dir.path(), 0, &Change::Mode(2)).unwrap();
            assert!(Violation::is(&attributes.check().unwrap_err()));
        }
    }
}
