//! What must be true of a directory, given what was acknowledged in it.
//!
//! A [`Worker`] does random operations in a directory of its own and keeps the book: an operation that was answered is in
//! the book; the one that was not (its process or its server died under it) is in doubt, and may have happened or not,
//! as a whole. Files hold a pattern, so the book keeps three lengths of each:
//!
//! ```text
//! synced  <=  closed  <=  written
//! fsync answered   close answered   handed to write
//! ```
//!
//! After a fault a file may be shorter than `written`, never shorter than what the fault must spare.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use dfs_common::sys::close;
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};

use crate::violation::{Violation, about};
use crate::workload::Pattern;

/// What a fault may take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Processes died, the machines went on: what was closed stays.
    Processes,
    /// Power failed everywhere: what was synced stays.
    Power,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileBook {
    pattern: Pattern,
    synced: u64,
    closed: u64,
    written: u64,
    /// A writer has it, or had it when it died: only recovery can say where such a file ends.
    open: bool,
}

impl FileBook {
    fn least(&self, loss: Loss) -> u64 {
        match loss {
            Loss::Processes => self.closed.max(self.synced),
            Loss::Power => self.synced,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    File(FileBook),
}

type Book = BTreeMap<String, Entry>;

/// A change of names, atomic.
#[derive(Clone, Debug)]
enum Change {
    Mkdir(String),
    Create(String, Pattern),
    Rename(String, String),
    Unlink(String),
    Rmdir(String),
}

impl Change {
    fn apply(&self, book: &mut Book) {
        match self {
            Self::Mkdir(name) => {
                book.insert(name.clone(), Entry::Directory);
            }
            Self::Create(name, pattern) => {
                let file = FileBook { pattern: *pattern, synced: 0, closed: 0, written: 0, open: true };
                book.insert(name.clone(), Entry::File(file));
            }
            Self::Rename(from, to) => {
                if let Some(entry) = book.remove(from) {
                    book.insert(to.clone(), entry);
                }
            }
            Self::Unlink(name) | Self::Rmdir(name) => {
                book.remove(name);
            }
        }
    }

    fn perform(&self, dir: &Path) -> io::Result<Option<File>> {
        match self {
            Self::Mkdir(name) => fs::create_dir(dir.join(name))?,
            Self::Create(name, _) => return File::create_new(dir.join(name)).map(Some),
            Self::Rename(from, to) => fs::rename(dir.join(from), dir.join(to))?,
            Self::Unlink(name) => fs::remove_file(dir.join(name))?,
            Self::Rmdir(name) => fs::remove_dir(dir.join(name))?,
        }
        Ok(None)
    }
}

/// One directory's worker and its book.
pub struct Worker {
    dir: PathBuf,
    book: Book,
    in_doubt: Option<Change>,
    rng: SmallRng,
    next_name: u32,
    /// Names that a rename gave from one file to another.
    used_again: BTreeSet<String>,
    acknowledged: u64,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Worker({}, {} entries, {} acknowledged)", self.dir.display(), self.book.len(), self.acknowledged)
    }
}

/// Entries of a directory from which on they only become fewer, so that long runs fit on small devices.
const ENTRIES_MAX: usize = 80;

/// Most bytes of one write: several packets, and not so much that a round is one file.
const WRITE_MAX: u64 = 700_000;

impl Worker {
    /// Works in `dir`, which exists and is empty.
    pub fn new(dir: PathBuf, seed: u64) -> Self {
        let rng = SmallRng::seed_from_u64(seed);
        Self { dir, book: Book::new(), in_doubt: None, rng, next_name: 0, used_again: BTreeSet::new(), acknowledged: 0 }
    }

    /// Where it works.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Operations answered so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Does one random operation.
    ///
    /// # Errors
    /// Of the file system. The worker must then be checked before it goes on.
    pub fn step(&mut self) -> io::Result<()> {
        if self.book.len() >= ENTRIES_MAX {
            return self.remove();
        }
        match self.rng.random_range(0..10) {
            0..=1 => {
                let name = self.new_name("d");
                self.change(Change::Mkdir(name)).map(drop)
            }
            2..=4 => self.write_new_file(),
            5 => self.append(),
            6..=7 => self.rename(),
            _ => self.remove(),
        }
    }

    fn new_name(&mut self, prefix: &str) -> String {
        self.next_name += 1;
        format!("{prefix}{}", self.next_name)
    }

    fn any(&mut self, wanted: impl Fn(&Entry) -> bool) -> Option<String> {
        let names = self.book.iter().filter(|(_, entry)| wanted(entry)).map(|(name, _)| name);
        names.choose(&mut self.rng).cloned()
    }

    fn change(&mut self, change: Change) -> io::Result<Option<File>> {
        assert!(self.in_doubt.is_none(), "a change before the last one was settled");
        self.in_doubt = Some(change.clone());
        let file = change.perform(&self.dir)?;
        self.in_doubt = None;
        change.apply(&mut self.book);
        self.acknowledged += 1;
        Ok(file)
    }

    fn write_new_file(&mut self) -> io::Result<()> {
        let (name, pattern) = (self.new_name("f"), Pattern::new(self.rng.random()));
        let file = self.change(Change::Create(name.clone(), pattern))?;
        self.write(&name, file.expect("create gives a file"))
    }

    fn append(&mut self) -> io::Result<()> {
        let Some(name) = self.any(|entry| matches!(entry, Entry::File(file) if !file.open)) else { return Ok(()) };
        self.file(&name).open = true;
        let file = OpenOptions::new().append(true).open(self.dir.join(&name))?;
        self.write(&name, file)
    }

    fn write(&mut self, name: &str, output: File) -> io::Result<()> {
        for _ in 0..self.rng.random_range(0..3) {
            let length = self.rng.random_range(1..WRITE_MAX);
            let file = self.file(name);
            let (pattern, offset) = (file.pattern, file.written);
            file.written += length;
            pattern.write(&output, offset, length)?;
            if self.rng.random_bool(0.5) {
                output.sync_data()?;
                let file = self.file(name);
                file.synced = file.written;
                self.acknowledged += 1;
            }
        }
        close(output)?;
        let file = self.file(name);
        file.closed = file.written;
        file.open = false;
        self.acknowledged += 1;
        Ok(())
    }

    fn file(&mut self, name: &str) -> &mut FileBook {
        match self.book.get_mut(name) {
            Some(Entry::File(file)) => file,
            other => panic!("{name} is {other:?} in the book"),
        }
    }

    fn rename(&mut self) -> io::Result<()> {
        let Some(from) = self.any(|_| true) else { return Ok(()) };
        let is_file = matches!(self.book[&from], Entry::File(_));
        // Onto a fresh name, or onto one of its own kind.
        let taken = self.any(|entry| matches!(entry, Entry::File(_)) == is_file).filter(|to| *to != from);
        let to = match taken {
            Some(to) if self.rng.random_bool(0.5) => {
                self.used_again.insert(to.clone());
                to
            }
            _ => self.new_name("r"),
        };
        self.change(Change::Rename(from, to)).map(drop)
    }

    fn remove(&mut self) -> io::Result<()> {
        let Some(name) = self.any(|_| true) else { return Ok(()) };
        let change = match self.book[&name] {
            Entry::Directory => Change::Rmdir(name),
            Entry::File(_) => Change::Unlink(name),
        };
        self.change(change).map(drop)
    }

    /// Reads one file whole.
    ///
    /// # Errors
    /// Of the file system, or a [`Violation`]: other bytes, more or fewer than were closed.
    pub fn read(&mut self) -> io::Result<()> {
        let Some(name) = self.any(|entry| matches!(entry, Entry::File(_))) else { return Ok(()) };
        self.read_file(&self.dir, &name)
    }

    /// Reads one file through another mount, where this directory is `dir`: what was closed here is seen by whoever opens it there.
    /// Only names that never were another file's, which a mount may remember for a moment.
    ///
    /// # Errors
    /// As of [`read`](Self::read).
    pub fn read_elsewhere(&mut self, dir: &Path) -> io::Result<()> {
        let files = self.book.iter().filter(|(_, entry)| matches!(entry, Entry::File(_)));
        let fresh = files.map(|(name, _)| name).filter(|name| !self.used_again.contains(*name));
        let Some(name) = fresh.choose(&mut self.rng).cloned() else { return Ok(()) };
        self.read_file(dir, &name)
    }

    fn read_file(&self, dir: &Path, name: &str) -> io::Result<()> {
        let Some(Entry::File(file)) = self.book.get(name) else { return Ok(()) };
        let path = dir.join(name);
        let read = File::open(&path).and_then(|input| file.pattern.check(0, input)).map_err(about(path.display()))?;
        let least = file.least(Loss::Processes);
        let most = if file.open { file.written } else { least };
        if (least..=most).contains(&read) {
            return Ok(());
        }
        Err(Violation::error(format!("{}: {read} bytes were read (least {least}, most {most})", path.display())))
    }

    /// Compares the directory with the book after a fault, and takes over what it finds, so that work can go on.
    ///
    /// # Errors
    /// Of the file system, or a [`Violation`]: what was acknowledged and is not there, or is there and never was.
    pub fn check(&mut self, loss: Loss) -> io::Result<()> {
        let actual = list(&self.dir).map_err(about(format_args!("list {}", self.dir.display())))?;
        let mut candidates = vec![self.book.clone()];
        if let Some(change) = &self.in_doubt {
            let mut changed = self.book.clone();
            change.apply(&mut changed);
            candidates.push(changed);
        }
        let found = candidates.into_iter().find(|book| {
            book.iter()
                .map(|(name, entry)| (name, matches!(entry, Entry::Directory)))
                .eq(actual.iter().map(|(name, is_dir)| (name, *is_dir)))
        });
        let Some(found) = found else { return Err(Violation::error(self.describe_names(&actual))) };
        self.book = found;
        self.in_doubt = None;
        let names: Vec<String> = self.book.keys().cloned().collect();
        for name in names {
            if matches!(self.book[&name], Entry::File(_)) {
                self.check_file(&name, loss)?;
            }
        }
        Ok(())
    }

    /// Removes the files of which a power cut may have taken something: reading all of them, or appending to them, may fail for
    /// ever.
    ///
    /// # Errors
    /// Of the file system.
    pub fn discard_unsynced(&mut self) -> io::Result<()> {
        let is_unsynced = |entry: &Entry| matches!(entry, Entry::File(file) if file.open || file.synced < file.written);
        while let Some(name) = self.any(is_unsynced) {
            self.change(Change::Unlink(name))?;
        }
        Ok(())
    }

    fn check_file(&mut self, name: &str, loss: Loss) -> io::Result<()> {
        let path = self.dir.join(name);
        let file = self.file(name);
        let (least, most) = (file.least(loss), file.written);
        let describe = |what: &str| format!("{}: {what} (least {least}, most {most})", path.display());
        let length = fs::metadata(&path).map_err(about(describe("stat")))?.len();
        if length < least || length > most {
            return Err(Violation::error(describe(&format!("{length} bytes long"))));
        }
        // Bytes above `least` may be lost with their devices; those below must read.
        let certain = io::Read::take(File::open(&path).map_err(about(describe("open")))?, least);
        let read = file.pattern.check(0, certain).map_err(about(describe("read")))?;
        if read != least {
            return Err(Violation::error(describe(&format!("only {read} bytes could be read"))));
        }
        if loss == Loss::Processes {
            let whole = File::open(&path).and_then(|input| file.pattern.check(0, input));
            let read = whole.map_err(about(describe("read")))?;
            if read > most {
                return Err(Violation::error(describe(&format!("{read} bytes could be read"))));
            }
        }
        Ok(())
    }

    fn describe_names(&self, actual: &BTreeMap<String, bool>) -> String {
        let missing: Vec<_> = self.book.keys().filter(|name| !actual.contains_key(*name)).collect();
        let surplus: Vec<_> = actual.keys().filter(|name| !self.book.contains_key(*name)).collect();
        format!("{}: missing {missing:?}, surplus {surplus:?}, in doubt {:?}", self.dir.display(), self.in_doubt)
    }
}

fn list(dir: &Path) -> io::Result<BTreeMap<String, bool>> {
    fs::read_dir(dir)?
        .map(|entry| {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), entry.file_type()?.is_dir()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worked(seed: u64) -> (tempfile::TempDir, Worker) {
        let dir = tempfile::tempdir().unwrap();
        let mut worker = Worker::new(dir.path().to_owned(), seed);
        for _ in 0..200 {
            worker.step().unwrap();
        }
        (dir, worker)
    }

    fn violated(worker: &mut Worker, loss: Loss) -> String {
        let error = worker.check(loss).unwrap_err();
        assert!(Violation::is(&error), "{error}");
        error.to_string()
    }

    #[test]
    fn check_accepts_a_file_system_that_lost_nothing() {
        for seed in 0..5 {
            let (_dir, mut worker) = worked(seed);
            worker.check(Loss::Power).unwrap();
            worker.check(Loss::Processes).unwrap();
            worker.step().unwrap();
        }
    }

    #[test]
    fn discard_unsynced_leaves_what_power_cuts_spare() {
        let (_dir, mut worker) = worked(6);
        let is_synced = |entry: &Entry| matches!(entry, Entry::File(file) if !file.open && file.synced == file.written);
        let spared = worker.book.values().filter(|entry| is_synced(entry)).count();
        let directories = worker.book.values().filter(|entry| matches!(entry, Entry::Directory)).count();
        worker.discard_unsynced().unwrap();
        assert_eq!(worker.book.len(), spared + directories);
        worker.check(Loss::Processes).unwrap();
    }

    #[test]
    fn check_finds_lost_and_invented_names() {
        let (dir, mut worker) = worked(7);
        fs::write(dir.path().join("invented"), b"x").unwrap();
        assert!(violated(&mut worker, Loss::Power).contains("surplus [\"invented\"]"));
        fs::remove_file(dir.path().join("invented")).unwrap();
        let victim = worker.any(|entry| matches!(entry, Entry::Directory)).unwrap();
        fs::remove_dir(dir.path().join(&victim)).unwrap();
        assert!(violated(&mut worker, Loss::Power).contains(&victim));
    }

    #[test]
    fn check_finds_lost_and_changed_bytes() {
        let (dir, mut worker) = worked(8);
        let victim = worker.any(|entry| matches!(entry, Entry::File(file) if file.synced > 100)).unwrap();
        let path = dir.path().join(&victim);
        let mut bytes = fs::read(&path).unwrap();
        bytes[50] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(violated(&mut worker, Loss::Power).contains("offset 50"));
        fs::write(&path, &bytes[..20]).unwrap();
        assert!(violated(&mut worker, Loss::Power).contains("20 bytes long"));
    }

    #[test]
    fn check_counts_closed_bytes_when_processes_died_and_synced_ones_when_power_failed() {
        let (dir, mut worker) = worked(10);
        let is_relaxed = |entry: &Entry| matches!(entry, Entry::File(file) if !file.open && file.synced < file.closed);
        let victim = worker.any(is_relaxed).unwrap();
        let synced = worker.file(&victim).synced;
        OpenOptions::new().write(true).open(dir.path().join(&victim)).unwrap().set_len(synced).unwrap();
        worker.check(Loss::Power).unwrap();
        assert!(violated(&mut worker, Loss::Processes).contains("bytes long"));
    }

    #[test]
    fn read_finds_wrong_missing_and_surplus_bytes() {
        let (dir, mut worker) = worked(11);
        worker.book.retain(|_, entry| matches!(entry, Entry::File(file) if file.closed > 100));
        let victim = worker.book.keys().next().unwrap().clone();
        worker.book.retain(|name, _| *name == victim);
        worker.read().unwrap();
        let path = dir.path().join(&victim);
        let whole = fs::read(&path).unwrap();
        let mut changed = whole.clone();
        changed[99] ^= 1;
        let longer = worker.file(&victim).pattern.bytes(whole.len() + 1);
        for (bytes, words) in
            [(&changed[..], "offset 99"), (&whole[..whole.len() - 1], "were read"), (&longer[..], "were read")]
        {
            fs::write(&path, bytes).unwrap();
            let error = worker.read().unwrap_err();
            assert!(Violation::is(&error) && error.to_string().contains(words), "{error}");
        }
        worker.file(&victim).open = true;
        worker.file(&victim).written += 1;
        worker.read().expect("its writer died: the last write may be there or not");
        fs::remove_file(&path).unwrap();
        assert!(!Violation::is(&worker.read().unwrap_err()), "an error of the file system");
    }

    #[test]
    fn check_that_was_cut_short_leaves_what_is_in_doubt_in_doubt() {
        let (dir, mut worker) = worked(12);
        worker.in_doubt = Some(Change::Mkdir("maybe".into()));
        let away = dir.path().with_extension("away");
        fs::rename(dir.path(), &away).unwrap();
        assert!(!Violation::is(&worker.check(Loss::Processes).unwrap_err()));
        fs::rename(&away, dir.path()).unwrap();
        fs::create_dir(dir.path().join("maybe")).unwrap();
        worker.check(Loss::Processes).unwrap();
    }

    #[test]
    fn check_accepts_either_outcome_of_what_is_in_doubt() {
        for happened in [false, true] {
            let (dir, mut worker) = worked(9);
            worker.in_doubt = Some(Change::Mkdir("maybe".into()));
            if happened {
                fs::create_dir(dir.path().join("maybe")).unwrap();
            }
            worker.check(Loss::Processes).unwrap();
            assert_eq!(worker.book.contains_key("maybe"), happened);
        }
    }
}
