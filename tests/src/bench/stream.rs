//! One file at a time: streamed in and out, read at random, appended to.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use dfs_common::sys::close;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{Advice, fadvise};

use super::rest::{settle, settle_cold};
use super::work::{Run, amount};
use crate::workload::Pattern;

/// What cp and dd bs=1M use, near enough.
const REQUEST: usize = 1 << 20;
/// A page.
const SMALL: usize = 4096;
const MEGABYTE: f64 = 1e6;

/// A megabyte whose first bytes are its number, so that a block in the wrong place is noticed.
struct Blocks {
    buffer: Vec<u8>,
}

impl Blocks {
    fn new(seed: u64) -> Self {
        Self { buffer: Pattern::new(seed).bytes(REQUEST) }
    }

    fn block(&mut self, number: u64) -> &[u8] {
        self.buffer[..8].copy_from_slice(&number.to_le_bytes());
        &self.buffer
    }

    fn write(&mut self, path: &Path, bytes: u64, with_fsync: bool) -> Result<()> {
        let mut file = File::create(path)?;
        for number in 0..bytes / REQUEST as u64 {
            file.write_all(self.block(number))?;
        }
        if with_fsync {
            file.sync_all()?;
        }
        // close by hand: its error counts, and its time.
        Ok(close(file)?)
    }

    fn check(&mut self, path: &Path, bytes: u64) -> Result<()> {
        let mut file = File::open(path)?;
        let mut actual = vec![0; REQUEST];
        for number in 0..bytes / REQUEST as u64 {
            file.read_exact(&mut actual)?;
            ensure!(actual == self.block(number), "{}: block {number} is wrong", path.display());
        }
        ensure!(file.read(&mut actual)? == 0, "{} is too long", path.display());
        Ok(())
    }
}

/// Writes, reads cold and warm, and at random.
pub(super) fn stream(run: &mut Run<'_>) -> Result<()> {
    let bytes = run.scale.stream_bytes;
    let megabytes = f64::from(u32::try_from(bytes / 1_000).context("a scale of terabytes")?) * 1_000.0 / MEGABYTE;
    let mut blocks = Blocks::new(run.round as u64);
    let (path, synced) = (run.dir.join("plain"), run.dir.join("synced"));
    settle();
    run.rate("sequential write", "MB/s", megabytes, || blocks.write(&path, bytes, false))?;
    settle();
    run.rate("sequential write + fsync", "MB/s", megabytes, || blocks.write(&synced, bytes, true))?;
    blocks.check(&synced, bytes)?;
    fs::remove_file(&synced)?;
    forget_file(&path)?;
    run.rate("sequential read, cold", "MB/s", megabytes, || read_through(&path, bytes))?;
    run.rate("sequential read, warm", "MB/s", megabytes, || read_through(&path, bytes))?;
    blocks.check(&path, bytes)?;
    let reads = run.scale.random_reads;
    let seed = run.round as u64;
    run.rate("4 KiB random reads, warm", "/s", amount(reads), || random_reads(&path, bytes, reads, seed))?;
    forget_file(&path)?;
    let cold_reads = reads / 5;
    run.rate("4 KiB random reads, cold", "/s", amount(cold_reads), || random_reads(&path, bytes, cold_reads, seed))?;
    Ok(())
}

/// 4 KiB at a time, each synced, on one open file.
pub(super) fn append(run: &mut Run<'_>) -> Result<()> {
    let path = run.dir.join("log");
    let pattern = Pattern::new(run.round as u64);
    let appends = run.scale.appends;
    let data = pattern.bytes(appends * SMALL);
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    settle();
    run.rate("append 4 KiB + fsync", "/s", amount(appends), || {
        for record in data.chunks(SMALL) {
            file.write_all(record)?;
            file.sync_data()?;
        }
        Ok(())
    })?;
    close(file)?;
    ensure!(pattern.check(0, File::open(&path)?)? == data.len() as u64, "appended file has the wrong length");
    Ok(())
}

fn read_through(path: &Path, bytes: u64) -> Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; REQUEST];
    let mut total = 0;
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        total += length as u64;
    }
    ensure!(total == bytes, "read {total} bytes instead of {bytes}");
    Ok(())
}

fn random_reads(path: &Path, bytes: u64, reads: usize, seed: u64) -> Result<()> {
    let file = File::open(path)?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut buffer = vec![0; SMALL];
    for _ in 0..reads {
        file.read_exact_at(&mut buffer, rng.random_range(0..bytes / SMALL as u64) * SMALL as u64)?;
    }
    Ok(())
}

fn forget_file(path: &Path) -> Result<()> {
    settle();
    fadvise(File::open(path)?, 0, None, Advice::DontNeed)?;
    settle_cold()
}
