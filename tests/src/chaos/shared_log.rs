//! One file that several mounts append to: whoever gets the lease adds one record, everybody else is told EBUSY and tries
//! again. Invariant: the file is the acknowledged records, whole, each once, each writer's in its order; a record whose
//! answer was lost may be there or not.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use dfs_common::sys::close;
use rustix::io::Errno;

/// Bytes of a record, its line end included.
const RECORD: usize = 48;

/// One of the writers.
#[derive(Debug)]
pub struct LogWriter {
    name: char,
    /// Records whose close was answered.
    acknowledged: Vec<u64>,
    next: u64,
}

impl LogWriter {
    /// A writer with a name of its own.
    pub fn new(name: char) -> Self {
        Self { name, acknowledged: Vec::new(), next: 0 }
    }

    /// Tries to add a record; false when another writer had the file.
    ///
    /// # Errors
    /// Of the file system. The record may be there or not.
    pub fn try_append(&mut self, path: &Path) -> io::Result<bool> {
        let opened = OpenOptions::new().append(true).create(true).open(path);
        let mut file = match opened {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => return Ok(false),
            opened => opened?,
        };
        let number = self.next;
        self.next += 1;
        file.write_all(record(self.name, number).as_bytes())?;
        close(file)?;
        self.acknowledged.push(number);
        Ok(true)
    }
}

/// Begins a new log: a power cut may have taken records that nobody synced.
///
/// # Errors
/// Of the file system.
pub fn start_over<'a>(path: &Path, writers: impl Iterator<Item = &'a mut LogWriter>) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for writer in writers {
        *writer = LogWriter::new(writer.name);
    }
    Ok(())
}

fn record(name: char, number: u64) -> String {
    format!("{:<width$}\n", format!("{name} {number}"), width = RECORD - 1)
}

/// Whether the file has every acknowledged record.
///
/// # Errors
/// What is wrong.
pub fn check(path: &Path, writers: &[LogWriter]) -> Result<(), String> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && writers.iter().all(|w| w.acknowledged.is_empty()) => {
            return Ok(());
        }
        read => read.map_err(|error| format!("read {}: {error}", path.display()))?,
    };
    for writer in writers {
        check_writer(&bytes, writer)?;
    }
    Ok(())
}

fn check_writer(bytes: &[u8], writer: &LogWriter) -> Result<(), String> {
    let mut found = Vec::new();
    for (place, chunk) in bytes.chunks(RECORD).enumerate() {
        let text = std::str::from_utf8(chunk).map_err(|_| format!("record {place} is not text"))?;
        let mut words = text.split_ascii_whitespace();
        let (name, number) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let number: u64 = number.parse().map_err(|_| format!("record {place} is {text:?}"))?;
        if text.len() != RECORD || text != record(name.chars().next().unwrap_or_default(), number) {
            return Err(format!("record {place} is {text:?}"));
        }
        if name == writer.name.to_string() {
            found.push(number);
        }
    }
    if !found.is_sorted_by(|one, two| one < two) {
        return Err(format!("records of {} are twice there or out of order: {found:?}", writer.name));
    }
    match writer.acknowledged.iter().find(|number| found.binary_search(number).is_err()) {
        Some(lost) => Err(format!("record {lost} of {} was acknowledged and is lost", writer.name)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_accepts_what_was_written_and_finds_what_was_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writers = [LogWriter::new('a'), LogWriter::new('b')];
        check(&path, &writers).unwrap();
        for round in 0..6 {
            assert!(writers[round % 2].try_append(&path).unwrap());
        }
        check(&path, &writers).unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[RECORD..]).unwrap();
        assert!(check(&path, &writers).unwrap_err().contains("lost"));
        fs::write(&path, [&whole[..], &whole[..RECORD]].concat()).unwrap();
        assert!(check(&path, &writers).unwrap_err().contains("twice"));
        fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        assert!(check(&path, &writers).is_err(), "a record that is not whole");
        start_over(&path, writers.iter_mut()).unwrap();
        check(&path, &writers).unwrap();
    }
}
