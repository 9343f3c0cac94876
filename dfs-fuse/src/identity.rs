//! The mount's durable identity: what lets a restarted daemon end the life of its killed predecessor at once, so that the
//! leases of files it was writing are recovered without waiting for them to time out (design D12).
//!
//! One file per mount point, `/run/dfs-fuse/<mount point>.id`, holds the identity and is locked by the daemon that uses it.
//! A daemon that finds it locked (another mount on the same path, or a predecessor that is still finishing) takes a fresh
//! identity instead: two daemons with one identity would end each other's sessions.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dfs_common::ids::ClientId;
use rustix::fs::{FlockOperation, flock};
use tracing::debug;

const DIRECTORY: &str = "/run/dfs-fuse";
/// Longest file name, without the suffix; a longer mount point keeps its end, which tells more.
const FILE_NAME_MAX: usize = 200;
/// How often a file is opened anew that was removed meanwhile: each time another daemon has ended.
const LOCK_TRIES: u32 = 16;

/// An identity, kept for as long as this lives.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) client_id: ClientId,
    /// Holds the lock.
    kept: Option<(File, PathBuf)>,
}

impl Identity {
    /// The identity of the mount at `mountpoint`; a fresh one when none can be kept.
    pub(crate) fn of(mountpoint: &Path) -> Self {
        Self::in_directory(Path::new(DIRECTORY), mountpoint)
    }

    fn in_directory(directory: &Path, mountpoint: &Path) -> Self {
        match Self::kept_in(directory, mountpoint) {
            Ok(Some(identity)) => identity,
            Ok(None) => Self { client_id: ClientId::random(), kept: None },
            Err(error) => {
                debug!(%error, directory = %directory.display(), "identity not kept; a fresh one is used");
                Self { client_id: ClientId::random(), kept: None }
            }
        }
    }

    fn kept_in(directory: &Path, mountpoint: &Path) -> std::io::Result<Option<Self>> {
        fs::create_dir_all(directory)?;
        let path = directory.join(file_name(mountpoint));
        let Some(mut file) = locked(&path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        Read::by_ref(&mut file).take(17).read_to_end(&mut bytes)?;
        let client_id = match ClientId::from_bytes(&bytes) {
            Some(client_id) => client_id,
            None => {
                let client_id = ClientId::random();
                file.set_len(0)?;
                std::io::Seek::rewind(&mut file)?;
                file.write_all(&client_id.0)?;
                client_id
            }
        };
        Ok(Some(Self { client_id, kept: Some((file, path)) }))
    }

    /// The session ended in order: nobody has to continue it.
    pub(crate) fn retire(self) {
        if let Some((_lock, path)) = self.kept {
            // What stays behind would only be taken up by the next mount here.
            let _ = fs::remove_file(path);
        }
    }
}

/// The file at `path`, made if it is not there and locked; `None` while another daemon has it.
fn locked(path: &Path) -> std::io::Result<Option<File>> {
    for _ in 0..LOCK_TRIES {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // Its last user may have removed it since it was opened: then the lock keeps nobody from the file that is there now.
        let mine = file.metadata()?;
        if fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (mine.dev(), mine.ino())) {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// The mount point without slashes: each byte that is not plain becomes %XX.
fn file_name(mountpoint: &Path) -> String {
    let mut name = String::new();
    for &byte in mountpoint.as_os_str().as_bytes() {
        match byte {
            b'/' => name.push('-'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    let start = name.len().saturating_sub(FILE_NAME_MAX);
    format!("{}.id", &name[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_survives_a_kill_and_not_a_clean_end() {
        let dir = tempfile::tempdir().unwrap();
        let mountpoint = Path::new("/mnt/dfs");
        let first = Identity::in_directory(dir.path(), mountpoint);
        let first_id = first.client_id;
        drop(first);
        let second = Identity::in_directory(dir.path(), mountpoint);
        assert_eq!(second.client_id, first_id);
        second.retire();
        assert_ne!(Identity::in_directory(dir.path(), mountpoint).client_id, first_id);
    }

    #[test]
    fn identity_in_use_is_not_shared() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::in_directory(dir.path(), Path::new("/mnt"));
        let second = Identity::in_directory(dir.path(), Path::new("/mnt"));
        assert_ne!(first.client_id, second.client_id);
        assert_ne!(Identity::in_directory(dir.path(), Path::new("/mnt2")).client_id, first.client_id);
    }

    #[test]
    fn identity_that_is_kept_is_in_the_file_of_its_name_however_others_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let come_and_go = || {
            for _ in 0..2_000 {
                let identity = Identity::in_directory(dir.path(), Path::new("/mnt"));
                if let Some((_, path)) = &identity.kept {
                    assert_eq!(fs::read(path).unwrap(), identity.client_id.0);
                }
                identity.retire();
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(come_and_go);
            }
        });
    }

    #[test]
    fn file_name_is_one_plain_component() {
        assert_eq!(file_name(Path::new("/mnt/a b")), "-mnt-a%20b.id");
        let long = format!("/{}", "x".repeat(4000));
        assert!(file_name(Path::new(&long)).len() <= 255);
    }
}
