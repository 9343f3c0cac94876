//! What is neither served nor deleted: files that recovery cannot explain, and bytes that it cannot prove. They lie in `orphaned`,
//! for people to look at.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::disk::{self, DiskFile};
use super::faults::is_shortage;
use super::layout::PoolPaths;

/// Bytes saved at once: a sector of most disks, so that one that is bad costs no others.
const SAVE_STEP: u64 = 4096;

/// Moves a file to where it is never served and never deleted, for people to look at.
pub(super) fn set_aside(paths: &PoolPaths, path: &Path) -> io::Result<()> {
    move_aside(paths, path).map(|_| ())
}

/// As `set_aside`; says where it is.
fn move_aside(paths: &PoolPaths, path: &Path) -> io::Result<PathBuf> {
    warn!(path = %path.display(), into = %paths.orphaned.display(), "setting aside a file that recovery cannot explain");
    disk::create_dir_all(&paths.orphaned)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut target = paths.orphaned.join(&name);
    let mut number = 0;
    while target.exists() {
        number += 1;
        target = paths.orphaned.join(format!("{name}.{number}"));
    }
    disk::rename(path, &target)?;
    Ok(target)
}

/// The same with both files of a replica, durably: they may be all that is left of its bytes. Both or none.
pub(super) fn set_pair_aside(paths: &PoolPaths, data: &Path, meta: &Path) -> io::Result<()> {
    let aside = move_aside(paths, meta)?;
    set_aside(paths, data).inspect_err(|_| {
        if let Err(error) = disk::rename(&aside, meta) {
            warn!(path = %aside.display(), %error, "checksums are not beside their data");
        }
    })?;
    sync_names(paths)
}

fn sync_names(paths: &PoolPaths) -> io::Result<()> {
    disk::sync_dir(&paths.orphaned)
}

/// Saves what is about to be cut off a replica: of its bytes from `from` to `to` those that can be read, at their own places in a
/// file of that length, and its checksums, in the same way. `blk_<id>_<stamp>.rest` and `.rest.meta` are on disk when this returns.
/// What an earlier try has cut already is left as that one saved it; another try has names of its own.
pub(super) fn save_rest(paths: &PoolPaths, data: &Path, meta: &Path, from: u64, to: u64) -> io::Result<()> {
    disk::create_dir_all(&paths.orphaned)?;
    let target = paths.orphaned.join(meta.file_name().unwrap_or_default());
    let mut number = 0;
    let mut rest = target.with_extension("rest");
    let data = DiskFile::open(data)?;
    let to = to.min(data.len()?);
    if to <= from && rest.exists() {
        return Ok(());
    }
    // A try that has cut more has its own: nothing that was saved is written over.
    while rest.exists() {
        number += 1;
        rest = target.with_extension(format!("rest.{number}"));
    }
    let sums = PathBuf::from(format!("{}.meta", rest.display()));
    warn!(path = %rest.display(), from, to, "saving bytes of a replica that cannot be proven");
    let unfinished = (target.with_extension("rest.tmp"), target.with_extension("rest.meta.tmp"));
    let saved = save(&data, &unfinished.0, from..to)
        .and_then(|()| DiskFile::open(meta))
        .and_then(|meta| save(&meta, &unfinished.1, 0..meta.len()?))
        // The first name last: where it is, both are.
        .and_then(|()| disk::rename(&unfinished.1, &sums))
        .and_then(|()| disk::rename(&unfinished.0, &rest));
    if saved.is_err() {
        // A try that found no room must not take what the next one finds.
        remove_pair(&unfinished);
    }
    saved.and_then(|()| sync_names(paths))
}

/// Removes both files of a copy that was not finished.
pub(super) fn remove_pair(pair: &(PathBuf, PathBuf)) {
    for path in [&pair.0, &pair.1] {
        if let Err(error) = disk::remove_if_there(path) {
            // In `tmp` it goes at the next start, in `rbw` the whole replica beside it counts, in `orphaned` the next try writes over it.
            warn!(path = %path.display(), %error, "an unfinished copy stays");
        }
    }
}

/// Copies what can be read of a range to the same place in another file.
fn save(source: &DiskFile, target: &Path, range: Range<u64>) -> io::Result<()> {
    let file = DiskFile::create(target)?;
    let mut bytes = vec![0; SAVE_STEP as usize];
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min((at / SAVE_STEP + 1) * SAVE_STEP);
        let piece = &mut bytes[..(end - at) as usize];
        match source.read_exact_at(piece, at) {
            Ok(()) => file.write_all_at(piece, at)?,
            Err(error) if is_shortage(&error) => return Err(error),
            Err(error) => warn!(path = %target.display(), at, bytes = piece.len(), %error, "these cannot be read"),
        }
        at = end;
    }
    file.set_len(range.end)?;
    file.sync_data()
}
