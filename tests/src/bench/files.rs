//! Many small things: files, directories, listings, and a tree copied by cp.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use dfs_common::sys::close;

use super::rest::{settle, settle_cold};
use super::work::{Run, amount};
use crate::workload::{Pattern, check_tree, make_tree, source_tree};

const SMALL: usize = 4096;

/// 4 KiB files, one after the other.
pub(super) fn small_files_one_thread(run: &mut Run<'_>) -> Result<()> {
    small_files(run, 1, "1 thread")
}

/// 4 KiB files, by eight threads in one directory each.
pub(super) fn small_files_eight_threads(run: &mut Run<'_>) -> Result<()> {
    small_files(run, 8, "8 threads")
}

/// Runs `work(thread, file)` for every file, shared out among threads.
fn spread(threads: usize, files: usize, work: impl Fn(usize, usize) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || (0..files / threads).try_for_each(|file| work(thread, file))))
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("workers do not panic"))
    })
}

fn small_files(run: &mut Run<'_>, threads: usize, label: &str) -> Result<()> {
    let files = run.scale.small_files / threads * threads;
    let count = amount(files);
    let dir = run.dir;
    for thread in 0..threads {
        fs::create_dir(dir.join(thread.to_string()))?;
    }
    let path = |thread: usize, file: usize| dir.join(format!("{thread}/file-{file:05}"));
    let content = Pattern::new(run.round as u64).bytes(SMALL);
    let content_of = |thread: usize, file: usize| {
        let mut bytes = content.clone();
        bytes[..8].copy_from_slice(&(thread as u64).to_le_bytes());
        bytes[8..16].copy_from_slice(&(file as u64).to_le_bytes());
        bytes
    };
    settle();
    run.rate(&format!("4 KiB files created, {label}"), "/s", count, || {
        spread(threads, files, |thread, file| {
            let mut output = File::create(path(thread, file))?;
            output.write_all(&content_of(thread, file))?;
            Ok(close(output)?)
        })
    })?;
    settle_cold()?;
    run.rate(&format!("  listed with stat, cold, {label}"), "/s", count, || {
        spread(threads, threads, |thread, _| {
            let listed = list_with_stat(&dir.join(thread.to_string()))?;
            ensure!(listed == files / threads, "{listed} entries listed");
            Ok(())
        })
    })?;
    settle_cold()?;
    run.rate(&format!("  read, cold, {label}"), "/s", count, || {
        spread(threads, files, |thread, file| {
            let mut bytes = Vec::with_capacity(SMALL + 1);
            File::open(path(thread, file))?.read_to_end(&mut bytes)?;
            ensure!(bytes == content_of(thread, file), "{}: wrong content", path(thread, file).display());
            Ok(())
        })
    })?;
    run.rate(&format!("  deleted, {label}"), "/s", count, || {
        spread(threads, files, |thread, file| Ok(fs::remove_file(path(thread, file))?))
    })?;
    Ok(())
}

fn list_with_stat(dir: &Path) -> Result<usize> {
    let mut entries = 0;
    for entry in fs::read_dir(dir)? {
        ensure!(entry?.metadata()?.len() <= SMALL as u64, "an entry of the wrong size");
        entries += 1;
    }
    Ok(entries)
}

/// mkdir, rename and rmdir.
pub(super) fn directories(run: &mut Run<'_>) -> Result<()> {
    let directories = run.scale.directories;
    let dir = run.dir;
    let name = |prefix: &str, number: usize| dir.join(format!("{prefix}-{number:05}"));
    settle();
    run.rate("mkdir", "/s", amount(directories), || {
        (0..directories).try_for_each(|number| Ok(fs::create_dir(name("made", number))?))
    })?;
    run.rate("rename", "/s", amount(directories), || {
        (0..directories).try_for_each(|number| Ok(fs::rename(name("made", number), name("moved", number))?))
    })?;
    ensure!(fs::read_dir(dir)?.count() == directories, "directories were lost");
    run.rate("rmdir", "/s", amount(directories), || {
        (0..directories).try_for_each(|number| Ok(fs::remove_dir(name("moved", number))?))
    })?;
    Ok(())
}

/// A large directory of empty files, read with the attributes of every entry as ls -l does.
pub(super) fn listing(run: &mut Run<'_>) -> Result<()> {
    let entries = run.scale.listed_entries;
    let dir = run.keep.join("large");
    if !dir.exists() {
        fs::create_dir(&dir)?;
        spread(8, entries / 8 * 8, |thread, file| {
            File::create(dir.join(format!("entry-of-a-large-directory-{thread}-{file:06}")))?;
            Ok(())
        })?;
    }
    let entries = entries / 8 * 8;
    for (case, cold) in [("readdir + stat, cold", true), ("readdir + stat, warm", false)] {
        if cold {
            settle_cold()?;
        }
        run.rate(case, "/s", amount(entries), || {
            let listed = list_with_stat(&dir)?;
            ensure!(listed == entries, "{listed} entries instead of {entries}");
            Ok(())
        })?;
    }
    Ok(())
}

/// cp -r of a generated source tree from the local file system.
pub(super) fn copy_tree(run: &mut Run<'_>) -> Result<()> {
    let tree = source_tree(run.round as u64, run.scale.tree_files);
    let source = tempfile::tempdir()?;
    make_tree(source.path(), &tree)?;
    settle();
    let target = run.dir.join("copy");
    run.rate("cp -r of a source tree", "files/s", amount(tree.len()), || {
        let output = Command::new("cp").arg("-r").arg(source.path()).arg(&target).output().context("run cp")?;
        ensure!(output.status.success(), "cp: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    })?;
    settle_cold()?;
    run.rate("source tree read, cold", "files/s", amount(tree.len()), || Ok(check_tree(&target, &tree)?))?;
    run.rate("rm -r of a source tree", "files/s", amount(tree.len()), || Ok(fs::remove_dir_all(&target)?))?;
    Ok(())
}
