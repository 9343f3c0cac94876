//! One file that several mounts append to: whoever gets the lease adds one record, everybody else is told EBUSY and tries
//! again. Invariant: the file is the acknowledged records, whole, each once, each writer's in its order; a record whose
//! answer was lost may be there or not. Where every record is synced before it is closed, this holds after power cuts too.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use dfs_common::sys::close;
use rustix::io::Errno;

use crate::violation::{Violation, about};

/// Bytes of a record, its line end included. Blocks end where records do: a writer that dies leaves no part of one.
const RECORD: usize = 64;

/// One of the writers.
#[derive(Debug)]
pub struct LogWriter {
    name: char,
    /// Whether a record is synced before its file is closed.
    syncs: bool,
    /// Records whose close was answered.
    acknowledged: Vec<u64>,
    next: u64,
}

impl LogWriter {
    /// A writer with a name of its own.
    pub fn new(name: char, syncs: bool) -> Self {
        Self { name, syncs, acknowledged: Vec::new(), next: 0 }
    }

    /// Whether its records outlive power cuts.
    pub fn syncs(&self) -> bool {
        self.syncs
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
        if self.syncs {
            file.sync_data()?;
        }
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
        *writer = LogWriter::new(writer.name, writer.syncs);
    }
    Ok(())
}

fn record(name: char, number: u64) -> String {
    format!("{:<width$}\n", format!("{name} {number}"), width = RECORD - 1)
}

/// Whether the file has every record of this writer that was acknowledged.
///
/// # Errors
/// Of the file system, or a [`Violation`].
pub fn check(path: &Path, writer: &LogWriter) -> io::Result<()> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && writer.acknowledged.is_empty() => return Ok(()),
        read => read.map_err(about(format_args!("read {}", path.display())))?,
    };
    check_writer(&bytes, writer).map_err(|why| Violation::error(format!("{}: {why}", path.display())))
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
        let mut writers = [LogWriter::new('a', false), LogWriter::new('b', true)];
        let check_all = |writers: &[LogWriter]| writers.iter().try_for_each(|writer| check(&path, writer));
        check_all(&writers).unwrap();
        for round in 0..6 {
            assert!(writers[round % 2].try_append(&path).unwrap());
        }
        check_all(&writers).unwrap();
        let whole = fs::read(&path).unwrap();
        let second_lost = [&whole[..RECORD], &whole[2 * RECORD..]].concat();
        let swapped = [&whole[2 * RECORD..3 * RECORD], &whole[RECORD..2 * RECORD], &whole[..RECORD]].concat();
        for (bytes, words) in [
            (&whole[RECORD..], "lost"),
            (&second_lost, "lost"),
            (&[&whole[..], &whole[..RECORD]].concat(), "twice"),
            (&swapped, "out of order"),
            (&whole[..whole.len() - 5], "record 5 is"),
            (&[&whole[..RECORD], &[0; RECORD], &whole[RECORD..]].concat(), "record 1 is"),
        ] {
            fs::write(&path, bytes).unwrap();
            let error = check_all(&writers).unwrap_err();
            assert!(Violation::is(&error) && error.to_string().contains(words), "{error}");
        }
        fs::remove_file(&path).unwrap();
        check_all(&writers).expect_err("the log is gone");
        start_over(&path, writers.iter_mut()).unwrap();
        check_all(&writers).unwrap();
    }

    #[test]
    fn check_allows_a_record_whose_answer_was_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = LogWriter::new('a', false);
        assert!(writer.try_append(&path).unwrap() && writer.try_append(&path).unwrap());
        writer.acknowledged.pop();
        check(&path, &writer).unwrap();
        fs::write(&path, &fs::read(&path).unwrap()[..RECORD]).unwrap();
        check(&path, &writer).unwrap();
    }
}
