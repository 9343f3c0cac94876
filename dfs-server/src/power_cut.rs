//! What a loss of power could leave of a directory, worked out from the calls that were made in it (`dfs_common::disk`).
//!
//! The strictest reading of POSIX: an fsync of a file keeps what was written to it, not its name; a write with O_DSYNC keeps what
//! it wrote and the length; an fsync of a directory keeps the names in it. Of everything else any part may be lost, in any combination: each sector that was written, each change of a
//! length, each name made, changed or removed. Only the order of what did happen to one name or sector is kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::ThreadId;

use dfs_common::disk::{self, Act, Site, Watch};
use parking_lot::Mutex;

const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Owned {
    Open(PathBuf, u64, u64),
    Write(u64, u64, Vec<u8>),
    SetLength(u64, u64),
    SyncFile(u64, Site),
    SyncRange(u64, u64, u64, Site),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    MakeDir(PathBuf),
    SyncDir(PathBuf, Site),
}

impl Owned {
    fn site(&self) -> Option<Site> {
        match self {
            Self::SyncFile(_, site) | Self::SyncRange(_, _, _, site) | Self::SyncDir(_, site) => Some(site),
            _ => None,
        }
    }
}

/// A file in the model. Inode numbers are given out again, these are not.
type FileNumber = u64;

/// Watches a directory.
pub(crate) struct Recorder {
    root: PathBuf,
    /// What was there before.
    before: Disk,
    acts: Arc<Mutex<Vec<Owned>>>,
    threads: Arc<Mutex<Vec<(ThreadId, String)>>>,
    _watch: Watch,
}

impl Recorder {
    /// Watches `root`; what is in it is taken to be on the disk.
    pub(crate) fn new(root: &Path) -> Self {
        let acts = Arc::new(Mutex::new(Vec::new()));
        let threads = Arc::new(Mutex::new(Vec::new()));
        let mut before = Disk::default();
        before.add_existing(root, ROOT);
        let (into, ran_on) = (acts.clone(), threads.clone());
        let witness = Arc::new(move |act: Act<'_>| {
            let plain = match act {
                Act::Write(file, offset, bytes) => format!("Write({file}, {offset}, {} bytes)", bytes.len()),
                other => format!("{other:?}"),
            };
            ran_on.lock().push((std::thread::current().id(), plain));
            let owned = match act {
                Act::Read(_) => return,
                Act::Open(path, file, length) => Owned::Open(path.to_owned(), file, length),
                Act::Write(file, offset, bytes) => Owned::Write(file, offset, bytes.to_vec()),
                Act::SetLength(file, length) => Owned::SetLength(file, length),
                Act::SyncFile(file, site) => Owned::SyncFile(file, site),
                Act::SyncRange(file, offset, length, site) => Owned::SyncRange(file, offset, length, site),
                Act::Rename(from, to) => Owned::Rename(from.to_owned(), to.to_owned()),
                Act::Remove(path) => Owned::Remove(path.to_owned()),
                Act::MakeDir(path) => Owned::MakeDir(path.to_owned()),
                Act::SyncDir(path, site) => Owned::SyncDir(path.to_owned(), site),
            };
            into.lock().push(owned);
        });
        Self { root: root.to_owned(), before, acts, threads, _watch: disk::watch(root, witness) }
    }

    /// Calls so far: a moment at which the power could go.
    pub(crate) fn moment(&self) -> usize {
        self.acts.lock().len()
    }

    /// What ran on `thread`.
    pub(crate) fn done_by(&self, thread: ThreadId) -> Vec<String> {
        self.threads.lock().iter().filter(|(ran_on, _)| *ran_on == thread).map(|(_, act)| act.clone()).collect()
    }

    /// Lines that synced something.
    pub(crate) fn sync_sites(&self) -> BTreeSet<Site> {
        self.acts.lock().iter().filter_map(Owned::site).collect()
    }

    /// The disk at every moment, with what is not on it yet; as it would be if the line `without` synced nothing.
    pub(crate) fn disks(&self, without: Option<Site>) -> Vec<Disk> {
        let mut disk = self.before.clone();
        let mut disks = vec![disk.clone()];
        for act in self.acts.lock().iter() {
            if without.is_none() || act.site() != without {
                disk.take(&self.root, act);
            }
            disks.push(disk.clone());
        }
        disks
    }
}

/// Which part of what is not on the disk survives.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Luck {
    /// Nothing.
    None,
    /// All: the process died, not the machine.
    All,
    /// Names, but nothing that was written.
    Names,
    /// What was written, but no names.
    Bytes,
    /// Each piece or not, by this seed.
    Random(u64),
}

impl Luck {
    /// The kinds to try when so many changes of names and of content are not on the disk yet: all that can differ, and some at
    /// random.
    fn several(names: usize, bytes: usize, seed: u64) -> Vec<Self> {
        match (names, bytes) {
            (0, 0) => vec![Self::All],
            (1, 0) | (0, 1) => vec![Self::None, Self::All],
            (_, 0) | (0, _) => vec![Self::None, Self::All, Self::Random(seed), Self::Random(!seed)],
            _ => vec![Self::None, Self::All, Self::Names, Self::Bytes, Self::Random(seed), Self::Random(!seed)],
        }
    }

    fn keeps(&mut self, is_name: bool) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Names => is_name,
            Self::Bytes => !is_name,
            Self::Random(state) => {
                *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state.is_multiple_of(2) ^ ((*state >> 33) & 1 == 1)
            }
        }
    }
}

/// Something that was done, and what must be found after a loss of power at any moment of it.
pub(crate) struct Scenario {
    name: &'static str,
    pub(crate) recorder: Recorder,
    check: Box<Check>,
}

/// Judges what a loss of power at a moment left in a directory.
type Check = dyn Fn(usize, &Path) -> Result<(), String>;

impl Scenario {
    /// A scenario that was recorded.
    pub(crate) fn new(
        name: &'static str,
        recorder: Recorder,
        check: impl Fn(usize, &Path) -> Result<(), String> + 'static,
    ) -> Self {
        Self { name, recorder, check: Box::new(check) }
    }

    /// The first thing found missing, if the line `without` synced nothing.
    pub(crate) fn broken(&self, without: Option<Site>) -> Option<String> {
        for (moment, disk) in self.recorder.disks(without).iter().enumerate() {
            for luck in disk.kinds_of_luck(moment as u64) {
                let left = tempfile::tempdir().unwrap();
                disk.after_power_cut(luck, left.path());
                // Without a sync a start may find what its code takes for impossible.
                let found = catch_unwind(AssertUnwindSafe(|| (self.check)(moment, left.path())));
                if let Err(why) = found.unwrap_or_else(|_| Err("it panicked".into())) {
                    return Some(format!("{}, moment {moment}, {luck:?}: {why}", self.name));
                }
            }
        }
        None
    }
}

type DirNumber = usize;
const ROOT: DirNumber = 0;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    File(FileNumber),
    Dir(DirNumber),
}

#[derive(Clone, Debug)]
enum Change {
    Set(OsString, Node),
    Clear(OsString),
    Move(OsString, OsString, Node),
}

#[derive(Clone, Debug)]
enum Pending {
    Sector(u64, Arc<[u8; SECTOR]>),
    Length(u64),
}

/// Sparse content: sectors that are not there are zero.
#[derive(Clone, Debug, Default)]
struct Content {
    sectors: BTreeMap<u64, Arc<[u8; SECTOR]>>,
    length: u64,
}

impl Content {
    fn take(&mut self, change: &Pending) {
        match change {
            Pending::Sector(number, bytes) if bytes.iter().all(|&byte| byte == 0) => {
                self.sectors.remove(number);
            }
            Pending::Sector(number, bytes) => {
                self.sectors.insert(*number, bytes.clone());
            }
            Pending::Length(length) => {
                self.length = *length;
                self.sectors.retain(|number, _| number * (SECTOR as u64) < *length);
                if let Some(last) = self.sectors.get_mut(&(length / SECTOR as u64)) {
                    let mut cut = **last;
                    cut[(length % SECTOR as u64) as usize..].fill(0);
                    *last = Arc::new(cut);
                }
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct FileState {
    on_disk: Content,
    seen: Content,
    pending: Vec<Pending>,
}

type Names = BTreeMap<OsString, Node>;

/// A disk, and what a running system sees of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    files: HashMap<FileNumber, FileState>,
    by_inode: HashMap<u64, FileNumber>,
    on_disk: HashMap<DirNumber, Names>,
    seen: HashMap<DirNumber, Names>,
    pending: Vec<(DirNumber, Change)>,
    next_dir: DirNumber,
}

impl Disk {
    fn add_existing(&mut self, path: &Path, number: DirNumber) {
        let mut names = Names::new();
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let node = if entry.file_type().unwrap().is_dir() {
                self.next_dir += 1;
                let child = self.next_dir;
                self.add_existing(&entry.path(), child);
                Node::Dir(child)
            } else {
                let file = self.new_file(entry.metadata().unwrap().ino());
                self.write(file, 0, &fs::read(entry.path()).unwrap());
                self.sync_file(file);
                Node::File(file)
            };
            names.insert(entry.file_name(), node);
        }
        self.on_disk.insert(number, names.clone());
        self.seen.insert(number, names);
    }

    fn new_file(&mut self, inode: u64) -> FileNumber {
        let file = self.files.len() as FileNumber;
        self.files.insert(file, FileState::default());
        self.by_inode.insert(inode, file);
        file
    }

    /// The directory and the name that a path below `root` stands for.
    fn place(&self, root: &Path, path: &Path) -> (DirNumber, OsString) {
        let mut names: Vec<_> = path.strip_prefix(root).unwrap().iter().map(OsString::from).collect();
        let last = names.pop().unwrap_or_default();
        let dir = names.iter().fold(ROOT, |dir, name| match self.seen[&dir].get(name) {
            Some(Node::Dir(child)) => *child,
            other => panic!("{name:?} in {} is {other:?}", path.display()),
        });
        (dir, last)
    }

    fn dir(&self, root: &Path, path: &Path) -> DirNumber {
        if path == root {
            return ROOT;
        }
        let (dir, name) = self.place(root, path);
        match self.seen[&dir].get(&name) {
            Some(Node::Dir(number)) => *number,
            other => panic!("{} is {other:?}", path.display()),
        }
    }

    fn change(&mut self, dir: DirNumber, change: Change) {
        apply(self.seen.get_mut(&dir).unwrap(), &change);
        self.pending.push((dir, change));
    }

    fn change_file(&mut self, file: FileNumber, change: Pending) {
        let state = self.files.get_mut(&file).unwrap();
        state.seen.take(&change);
        state.pending.push(change);
    }

    fn write(&mut self, file: FileNumber, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        if end > self.files[&file].seen.length {
            self.change_file(file, Pending::Length(end));
        }
        let mut at = offset;
        while at < end {
            let number = at / SECTOR as u64;
            let within = (at % SECTOR as u64) as usize;
            let piece = (SECTOR - within).min((end - at) as usize);
            let from = (at - offset) as usize;
            let mut sector = self.files[&file].seen.sectors.get(&number).map_or([0; SECTOR], |sector| **sector);
            let is_new = sector[within..within + piece] != bytes[from..from + piece];
            if is_new {
                sector[within..within + piece].copy_from_slice(&bytes[from..from + piece]);
                self.change_file(file, Pending::Sector(number, Arc::new(sector)));
            }
            at += piece as u64;
        }
    }

    fn sync_file(&mut self, file: FileNumber) {
        let state = self.files.get_mut(&file).unwrap();
        state.on_disk = state.seen.clone();
        state.pending.clear();
    }

    fn sync_range(&mut self, file: FileNumber, offset: u64, length: u64) {
        let sectors = offset / SECTOR as u64..(offset + length).div_ceil(SECTOR as u64);
        let state = self.files.get_mut(&file).unwrap();
        for change in std::mem::take(&mut state.pending) {
            let is_synced = match &change {
                Pending::Sector(number, _) => sectors.contains(number),
                Pending::Length(_) => true,
            };
            if is_synced {
                state.on_disk.take(&change);
            } else {
                state.pending.push(change);
            }
        }
    }

    fn take(&mut self, root: &Path, act: &Owned) {
        match act {
            Owned::Open(path, inode, length) => {
                let (dir, name) = self.place(root, path);
                match self.by_inode.get(inode).copied() {
                    Some(file) if self.seen[&dir].get(&name) == Some(&Node::File(file)) => {
                        if self.files[&file].seen.length != *length {
                            self.change_file(file, Pending::Length(*length));
                        }
                    }
                    _ => {
                        let file = self.new_file(*inode);
                        self.change(dir, Change::Set(name, Node::File(file)));
                    }
                }
            }
            Owned::Write(inode, offset, bytes) => self.write(self.by_inode[inode], *offset, bytes),
            Owned::SetLength(inode, length) => self.change_file(self.by_inode[inode], Pending::Length(*length)),
            Owned::SyncFile(inode, _) => self.sync_file(self.by_inode[inode]),
            Owned::SyncRange(inode, offset, length, _) => self.sync_range(self.by_inode[inode], *offset, *length),
            Owned::Rename(from, to) => {
                let ((dir, from), (same, to)) = (self.place(root, from), self.place(root, to));
                assert_eq!(dir, same, "names are changed within a directory");
                let node = self.seen[&dir][&from];
                self.change(dir, Change::Move(from, to, node));
            }
            Owned::Remove(path) => {
                let (dir, name) = self.place(root, path);
                self.change(dir, Change::Clear(name));
            }
            Owned::MakeDir(path) => {
                self.next_dir += 1;
                let (dir, name) = self.place(root, path);
                self.seen.insert(self.next_dir, Names::new());
                self.on_disk.insert(self.next_dir, Names::new());
                self.change(dir, Change::Set(name, Node::Dir(self.next_dir)));
            }
            Owned::SyncDir(path, _) => {
                let synced = self.dir(root, path);
                for (dir, change) in std::mem::take(&mut self.pending) {
                    if dir == synced {
                        apply(self.on_disk.get_mut(&dir).unwrap(), &change);
                    } else {
                        self.pending.push((dir, change));
                    }
                }
            }
        }
    }

    /// What may become of what is not on the disk yet.
    fn kinds_of_luck(&self, seed: u64) -> Vec<Luck> {
        let bytes = self.files.values().map(|file| file.pending.len()).sum();
        Luck::several(self.pending.len(), bytes, seed)
    }

    /// Writes to `target` what is found when the power comes back.
    pub(crate) fn after_power_cut(&self, mut luck: Luck, target: &Path) {
        let mut dirs = self.on_disk.clone();
        for (dir, change) in &self.pending {
            if luck.keeps(true) {
                apply(dirs.get_mut(dir).unwrap(), change);
            }
        }
        self.restore(&dirs, ROOT, &mut luck, target);
    }

    fn restore(&self, dirs: &HashMap<DirNumber, Names>, dir: DirNumber, luck: &mut Luck, target: &Path) {
        for (name, node) in &dirs[&dir] {
            let path = target.join(name);
            match node {
                Node::Dir(number) => {
                    fs::create_dir(&path).unwrap();
                    self.restore(dirs, *number, luck, &path);
                }
                Node::File(number) => {
                    let state = &self.files[number];
                    let mut content = state.on_disk.clone();
                    for change in &state.pending {
                        if luck.keeps(false) {
                            content.take(change);
                        }
                    }
                    let file = fs::File::create(&path).unwrap();
                    file.set_len(content.length).unwrap();
                    for (sector, bytes) in &content.sectors {
                        let at = sector * SECTOR as u64;
                        let length = SECTOR.min(content.length.saturating_sub(at) as usize);
                        file.write_all_at(&bytes[..length], at).unwrap();
                    }
                }
            }
        }
    }
}

fn apply(names: &mut Names, change: &Change) {
    match change {
        Change::Set(name, node) => {
            names.insert(name.clone(), *node);
        }
        Change::Clear(name) => {
            names.remove(name);
        }
        Change::Move(from, to, node) => {
            if names.get(from) == Some(node) {
                names.remove(from);
            }
            names.insert(to.clone(), *node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_common::disk::DiskFile;

    #[test]
    fn a_write_with_o_dsync_keeps_what_it_wrote_and_nothing_else() {
        use std::os::unix::fs::OpenOptionsExt;
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(dir.path());
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true);
        let path = dir.path().join("file");
        DiskFile::open(&path, &options).unwrap().write_all_at(&[1; 4 * SECTOR], 0).unwrap();
        disk::sync_dir(dir.path()).unwrap();
        let synced = DiskFile::open(&path, options.custom_flags(libc::O_DSYNC)).unwrap();
        synced.write_all_at(&[2; SECTOR], SECTOR as u64).unwrap();
        let left = tempfile::tempdir().unwrap();
        recorder.disks(None).last().unwrap().after_power_cut(Luck::None, left.path());
        let found = fs::read(left.path().join("file")).unwrap();
        let expected = [[0; SECTOR], [2; SECTOR], [0; SECTOR], [0; SECTOR]].concat();
        assert!(found == expected);
    }
}
