//! For tests: what a loss of power would leave of a directory after every step, and calls that fail or hang.
//!
//! The model is close to what POSIX promises. Bytes of a file are durable when its fdatasync has returned; until then the
//! device may have them up to any write. Names are durable when their directory's fsync has returned; until then it may have
//! them up to any change in that directory, whatever other directories have. After an fsync that failed, what it should have
//! written never reaches the device, although reads show it and later syncs succeed: that is what Linux does.
//!
//! It is kinder than POSIX in this: writes reach the device whole and in their order, and a new directory is durable at once.
//!
//! A sync can be left out by its place in the source: so tests find out which of them are missed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Longest wait for a call that a test knows to come.
const CALL_MAX: Duration = Duration::from_secs(60);
/// Longest time that a call hangs: more than any test needs.
const HANG_MAX: Duration = Duration::from_secs(120);

/// Kinds of calls that can be made to fail or hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Open,
    Read,
    Write,
    Sync,
    SyncDir,
    Rename,
    Remove,
    CreateDir,
}

/// What a call is made to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Fails; a write has written all the same.
    Fail(i32),
    /// Does not return before it is released.
    Hang,
}

#[derive(Clone, Debug)]
struct Fault {
    call: Call,
    /// The end of the path.
    of: String,
    fate: Fate,
    times: usize,
    /// Only reads of this byte are meant.
    at: Option<u64>,
}

/// A change of a file's bytes.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Bytes(offset, new) => {
                let (start, end) = (*offset as usize, *offset as usize + new.len());
                bytes.resize(bytes.len().max(end), 0);
                bytes[start..end].copy_from_slice(new);
            }
            Self::Length(length) => bytes.resize(*length as usize, 0),
        }
    }
}

/// A change of names: `to` absent: the file is gone.
#[derive(Clone, Debug)]
struct Move {
    from: Option<PathBuf>,
    to: Option<PathBuf>,
    inode: u64,
}

impl Move {
    fn touches(&self, dir: &Path) -> bool {
        [&self.from, &self.to].into_iter().flatten().any(|path| path.parent() == Some(dir))
    }

    /// The directory whose changes it is one of.
    fn dir(&self) -> PathBuf {
        let path = self.to.as_ref().or(self.from.as_ref()).expect("a change of some name");
        path.parent().expect("below the root").to_owned()
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        names.retain(|_, inode| *inode != self.inode);
        if let Some(to) = &self.to {
            names.insert(to.clone(), self.inode);
        }
    }
}

#[derive(Debug)]
struct Kept {
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// Keeps the inode's number from being used again.
    _held: File,
}

impl Kept {
    fn on_device(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        self.pending.iter().for_each(|change| change.apply(&mut bytes));
        bytes
    }

    /// All that a loss of power may leave of it.
    fn versions(&self) -> Vec<Vec<u8>> {
        let mut versions = vec![self.durable.clone()];
        for change in &self.pending {
            let mut next = versions.last().expect("one at least").clone();
            change.apply(&mut next);
            versions.push(next);
        }
        versions.dedup();
        versions
    }
}

/// What a loss of power leaves: files and directories below the root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Leftover {
    pub(crate) files: BTreeMap<PathBuf, Vec<u8>>,
    dirs: BTreeSet<PathBuf>,
}

impl Leftover {
    /// Makes it anew below `root`.
    pub(crate) fn restore(&self, root: &Path) {
        for dir in &self.dirs {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for (path, bytes) in &self.files {
            fs::write(root.join(path), bytes).unwrap();
        }
    }
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<PathBuf, u64>,
    moves: Vec<Move>,
    files: HashMap<u64, Kept>,
    dirs: BTreeSet<PathBuf>,
    faults: Vec<Fault>,
    hanging: usize,
    promised: Promise,
    leftovers: BTreeMap<Leftover, Promise>,
    /// Where syncs were called from.
    sites: BTreeSet<Site>,
    left_out: Option<Site>,
}

/// A generation stamp, or a later one, and so many bytes of it must survive.
pub(crate) type Promise = (u64, u64);

/// A file and a line of the source.
pub(crate) type Site = (String, u32);

/// The record of one directory.
#[derive(Debug)]
pub(crate) struct Watch {
    root: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

static WATCHES: Mutex<Vec<Weak<Watch>>> = Mutex::new(Vec::new());

impl Watch {
    /// Watches everything below `root` from now on; what is there is taken for durable.
    pub(crate) fn begin(root: &Path) -> Arc<Self> {
        let mut state = State::default();
        let mut dirs = vec![root.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    let file = File::open(&path).unwrap();
                    let inode = file.metadata().unwrap().ino();
                    let kept = Kept { durable: fs::read(&path).unwrap(), pending: Vec::new(), _held: file };
                    state.files.insert(inode, kept);
                    state.names.insert(path, inode);
                }
            }
            state.dirs.insert(dir);
        }
        let watch = Arc::new(Self { root: root.to_owned(), state: Mutex::new(state), changed: Condvar::new() });
        let mut watches = WATCHES.lock();
        watches.retain(|other| other.strong_count() > 0);
        watches.push(Arc::downgrade(&watch));
        watch
    }

    fn of(path: &Path) -> Option<Arc<Self>> {
        let watches = WATCHES.lock();
        watches.iter().filter_map(Weak::upgrade).find(|watch| path.starts_with(&watch.root))
    }

    /// From now on, this must survive.
    pub(crate) fn promise(&self, promise: Promise) {
        let mut state = self.state.lock();
        state.promised = promise;
        state.collect(&self.root);
    }

    /// Everything that a loss of power at some moment might have left, with what was promised then.
    pub(crate) fn leftovers(&self) -> Vec<(Leftover, Promise)> {
        self.state.lock().leftovers.clone().into_iter().collect()
    }

    /// The bytes that are certain to survive of the file whose path ends in `of`; `None` when its name may be lost.
    pub(crate) fn durable(&self, of: &str) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let (_, inode) = state.names.iter().find(|(path, _)| path.to_string_lossy().ends_with(of))?;
        Some(state.files[inode].durable.clone())
    }

    /// Has the syncs that are called from there do nothing.
    pub(crate) fn leave_out(&self, site: Option<Site>) {
        self.state.lock().left_out = site;
    }

    /// Where syncs were called from so far.
    pub(crate) fn sites(&self) -> BTreeSet<Site> {
        self.state.lock().sites.clone()
    }

    /// Whether a sync is to happen.
    fn minds(&self, location: &Location<'_>) -> bool {
        let site = (location.file().to_owned(), location.line());
        let mut state = self.state.lock();
        let is_left_out = state.left_out.as_ref() == Some(&site);
        state.sites.insert(site);
        !is_left_out
    }

    /// Has the next calls on files whose path ends in `of` fail. A write has written all the same.
    pub(crate) fn fail(&self, call: Call, of: &str, code: i32, times: usize) {
        self.add_fault(call, of, Fate::Fail(code), times, None);
    }

    /// Has reads of one byte of files whose path ends in `of` fail.
    pub(crate) fn fail_reads_at(&self, of: &str, at: u64, code: i32) {
        self.add_fault(Call::Read, of, Fate::Fail(code), usize::MAX, Some(at));
    }

    fn add_fault(&self, call: Call, of: &str, fate: Fate, times: usize, at: Option<u64>) {
        self.state.lock().faults.push(Fault { call, of: of.to_owned(), fate, times, at });
    }

    /// Has calls on files whose path ends in `of` hang until [`Self::heal`].
    pub(crate) fn hang(&self, call: Call, of: &str) {
        self.add_fault(call, of, Fate::Hang, usize::MAX, None);
    }

    /// Takes all faults back.
    pub(crate) fn heal(&self) {
        self.state.lock().faults.clear();
        self.changed.notify_all();
    }

    /// Has the calls that hang fail.
    pub(crate) fn fail_hanging(&self, code: i32) {
        for fault in self.state.lock().faults.iter_mut().filter(|fault| fault.fate == Fate::Hang) {
            (fault.fate, fault.times) = (Fate::Fail(code), 1);
        }
        self.changed.notify_all();
    }

    /// Waits until so many calls hang. Where they never come, the test fails instead of hanging itself.
    pub(crate) fn wait_hanging(&self, calls: usize) {
        let mut state = self.state.lock();
        let late = self.changed.wait_while_for(&mut state, |state| state.hanging < calls, CALL_MAX);
        if late.timed_out() {
            let hanging = state.hanging;
            drop(state);
            self.heal();
            panic!("{hanging} calls hang, not {calls}");
        }
    }

    /// What becomes of a call now.
    fn meet(&self, call: Call, path: &Path) -> io::Result<()> {
        self.meet_in(call, path, 0..u64::MAX)
    }

    /// The same, of a call on these bytes.
    fn meet_in(&self, call: Call, path: &Path, bytes: Range<u64>) -> io::Result<()> {
        let mut state = self.state.lock();
        loop {
            let is_meant = |fault: &&mut Fault| {
                fault.call == call
                    && fault.times > 0
                    && path.to_string_lossy().ends_with(&fault.of)
                    && fault.at.is_none_or(|at| bytes.contains(&at))
            };
            let Some(fault) = state.faults.iter_mut().find(is_meant) else { return Ok(()) };
            match fault.fate {
                Fate::Fail(code) => {
                    fault.times -= 1;
                    return Err(io::Error::from_raw_os_error(code));
                }
                Fate::Hang => {
                    state.hanging += 1;
                    self.changed.notify_all();
                    // A test that has failed while a call hangs ends all the same.
                    let late = self.changed.wait_for(&mut state, HANG_MAX);
                    state.hanging -= 1;
                    if late.timed_out() {
                        return Err(io::Error::from_raw_os_error(libc::EIO));
                    }
                }
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        state.collect(&self.root);
    }
}

impl State {
    fn file(&mut self, file: &File) -> &mut Kept {
        let inode = file.metadata().unwrap().ino();
        self.files.entry(inode).or_insert_with(|| {
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
            Kept { durable: fs::read(path).unwrap(), pending: Vec::new(), _held: file.try_clone().unwrap() }
        })
    }

    /// Adds all that a loss of power could leave now.
    fn collect(&mut self, root: &Path) {
        let mut by_dir: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for change in &self.moves {
            *by_dir.entry(change.dir()).or_default() += 1;
        }
        let mut choices: Vec<BTreeMap<PathBuf, usize>> = vec![BTreeMap::new()];
        for (dir, count) in by_dir {
            let with = |choice: &BTreeMap<PathBuf, usize>| {
                let choice = choice.clone();
                let dir = dir.clone();
                (0..=count).map(move |taken| {
                    choice.iter().map(|(d, n)| (d.clone(), *n)).chain([(dir.clone(), taken)]).collect()
                })
            };
            choices = choices.iter().flat_map(with).collect();
        }
        for choice in choices {
            let mut names = self.names.clone();
            let mut left = choice;
            for change in &self.moves {
                let left = left.get_mut(&change.dir()).expect("counted above");
                if *left > 0 {
                    *left -= 1;
                    change.apply(&mut names);
                }
            }
            self.collect_contents(root, &names);
        }
    }

    fn collect_contents(&mut self, root: &Path, names: &BTreeMap<PathBuf, u64>) {
        let dirs: BTreeSet<_> = self.dirs.iter().map(|dir| dir.strip_prefix(root).unwrap().to_owned()).collect();
        let mut all = vec![BTreeMap::new()];
        for (path, inode) in names.iter().filter(|(path, _)| self.dirs.contains(path.parent().unwrap())) {
            let name = path.strip_prefix(root).unwrap();
            let versions = self.files[inode].versions();
            let with = |files: &BTreeMap<PathBuf, Vec<u8>>| {
                let files = files.clone();
                versions.clone().into_iter().map(move |bytes| {
                    let mut files = files.clone();
                    files.insert(name.to_owned(), bytes);
                    files
                })
            };
            all = all.iter().flat_map(with).collect();
        }
        for files in all {
            let promised = self.leftovers.entry(Leftover { files, dirs: dirs.clone() }).or_default();
            *promised = self.promised.max(*promised);
        }
    }
}

/// What the record knows of an open file.
pub(super) struct WatchedFile {
    watch: Option<Arc<Watch>>,
    path: PathBuf,
    is_device: bool,
}

impl std::fmt::Debug for WatchedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the whole record.
        write!(f, "watched: {}", self.watch.is_some())
    }
}

impl WatchedFile {
    pub(super) fn new(file: &File, path: &Path, is_device: bool) -> Self {
        let watch = Watch::of(path);
        if let Some(watch) = &watch {
            watch.state.lock().file(file);
        }
        Self { watch, path: path.to_owned(), is_device }
    }

    pub(super) fn take_for_device(&mut self) {
        self.is_device = true;
    }

    pub(super) fn on_create(&self, file: &File, path: &Path) {
        let Some(watch) = &self.watch else { return };
        let inode = file.metadata().unwrap().ino();
        watch.change(|state| {
            let kept = state.file(file);
            if kept.on_device().is_empty() {
                state.moves.push(Move { from: None, to: Some(path.to_owned()), inode });
            } else {
                kept.pending.push(Change::Length(0));
            }
        });
    }

    /// The outcome of a read, unless it is to be asked of the file.
    pub(super) fn read(&self, file: &File, out: &mut [u8], offset: u64) -> Option<io::Result<()>> {
        let watch = self.watch.as_ref()?;
        if let Err(error) = watch.meet_in(Call::Read, &self.path, offset..offset + out.len() as u64) {
            return Some(Err(error));
        }
        if !self.is_device {
            return None;
        }
        let mut bytes = watch.state.lock().file(file).on_device();
        // What was lost reads as zeros: the file is as long as it was made.
        bytes.resize(bytes.len().max(file.metadata().unwrap().len() as usize), 0);
        Some(match bytes.get(offset as usize..offset as usize + out.len()) {
            Some(bytes) => {
                out.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        })
    }

    /// The outcome of a write that is to happen all the same.
    pub(super) fn before_write(&self) -> io::Result<io::Result<()>> {
        Ok(self.watch.as_ref().map_or(Ok(()), |watch| watch.meet(Call::Write, &self.path)))
    }

    pub(super) fn on_write(&self, file: &File, change: Change) {
        if let Some(watch) = &self.watch {
            watch.change(|state| state.file(file).pending.push(change));
        }
    }

    /// Whether the sync is to happen.
    pub(super) fn before_sync(&self, file: &File, location: &Location<'_>) -> io::Result<bool> {
        let Some(watch) = &self.watch else { return Ok(true) };
        if !watch.minds(location) {
            return Ok(false);
        }
        let met = watch.meet(Call::Sync, &self.path);
        if met.is_err() {
            watch.change(|state| state.file(file).pending.clear());
        }
        met.map(|()| true)
    }

    pub(super) fn on_sync(&self, file: &File) {
        let Some(watch) = &self.watch else { return };
        watch.change(|state| {
            let kept = state.file(file);
            kept.durable = kept.on_device();
            kept.pending.clear();
        });
    }
}

/// What becomes of a call on a name.
pub(super) fn before(call: Call, path: &Path) -> io::Result<()> {
    Watch::of(path).map_or(Ok(()), |watch| watch.meet(call, path))
}

/// Whether the sync of a directory is to happen.
pub(super) fn before_sync_dir(dir: &Path, location: &Location<'_>) -> io::Result<bool> {
    match Watch::of(dir) {
        Some(watch) if !watch.minds(location) => Ok(false),
        Some(watch) => watch.meet(Call::SyncDir, dir).map(|()| true),
        None => Ok(true),
    }
}

pub(super) fn on_rename(from: &Path, to: &Path) {
    let Some(watch) = Watch::of(to) else { return };
    let inode = fs::metadata(to).unwrap().ino();
    watch.change(|state| state.moves.push(Move { from: Some(from.to_owned()), to: Some(to.to_owned()), inode }));
}

pub(super) fn on_remove(path: &Path) {
    let Some(watch) = Watch::of(path) else { return };
    watch.change(|state| {
        let mut names = state.names.clone();
        state.moves.iter().for_each(|change| change.apply(&mut names));
        if let Some(&inode) = names.get(path) {
            state.moves.push(Move { from: Some(path.to_owned()), to: None, inode });
        }
    });
}

pub(super) fn on_sync_dir(dir: &Path) {
    let Some(watch) = Watch::of(dir) else { return };
    watch.change(|state| {
        let mut pending: Vec<Move> = Vec::new();
        for change in std::mem::take(&mut state.moves) {
            if change.touches(dir) {
                change.apply(&mut state.names);
                // What came before of this file says nothing any more.
                pending.retain(|earlier| earlier.inode != change.inode);
            } else {
                pending.push(change);
            }
        }
        state.moves = pending;
    });
}

pub(super) fn on_create_dir(dir: &Path) {
    let Some(watch) = Watch::of(dir) else { return };
    let above = dir.ancestors().take_while(|above| above.starts_with(&watch.root)).map(Path::to_owned);
    watch.change(|state| state.dirs.extend(above));
}
