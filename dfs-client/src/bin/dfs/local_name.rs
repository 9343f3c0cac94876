//! A name in a directory of this machine. The directory is held open: the name stays the one that was meant when somebody
//! moves the directory, or puts another one in its place.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};

use crate::local_id::LocalId;

/// A name, taken or free.
#[derive(Clone, Debug)]
pub(crate) struct LocalName {
    directory: Arc<OwnedFd>,
    name: OsString,
    /// As the directory was called when it was opened, for complaints.
    path: PathBuf,
}

impl LocalName {
    /// The name at the end of a path.
    ///
    /// # Errors
    /// When its directory cannot be opened.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, above(path), flags, Mode::empty())?;
        let name = path.file_name().unwrap_or_default().to_owned();
        Ok(Self { directory: Arc::new(directory), name, path: path.to_owned() })
    }

    /// Another name in the same directory.
    pub(crate) fn beside(&self, name: &OsStr) -> Self {
        Self { directory: Arc::clone(&self.directory), name: name.to_owned(), path: self.path.with_file_name(name) }
    }

    /// The directory.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Which one that is.
    ///
    /// # Errors
    /// Those of stat.
    pub(crate) fn directory_id(&self) -> io::Result<LocalId> {
        Ok(LocalId::of_stat(&rustix::fs::fstat(&self.directory)?))
    }

    /// The name in it.
    pub(crate) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Both, for complaints.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What has the name; a symbolic link itself.
    ///
    /// # Errors
    /// `NotFound`; others of stat.
    pub(crate) fn look(&self) -> io::Result<Stat> {
        Ok(rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Which file, link or directory has the name.
    ///
    /// # Errors
    /// As [`LocalName::look`].
    pub(crate) fn id(&self) -> io::Result<LocalId> {
        self.look().map(|there| LocalId::of_stat(&there))
    }

    /// Makes a file, which must be new, and opens it for writing.
    ///
    /// # Errors
    /// `AlreadyExists`, also for a link that leads nowhere; others of open.
    pub(crate) fn create(&self, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.directory, &self.name, flags, Mode::from_raw_mode(mode))?.into())
    }

    /// Makes a symbolic link, which must be new.
    ///
    /// # Errors
    /// Those of symlink.
    pub(crate) fn make_link(&self, points_to: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(points_to, &self.directory, &self.name)?)
    }

    /// Removes what has the name, unless it is a directory.
    ///
    /// # Errors
    /// Those of unlink.
    pub(crate) fn remove(&self) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty())?)
    }

    /// Gives what has this name another one, in place of what has that.
    ///
    /// # Errors
    /// Those of rename.
    pub(crate) fn rename_over(&self, to: &Self) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.directory, &self.name, &to.directory, &to.name)?)
    }
}

/// The directory that a path is in.
pub(crate) fn above(path: &Path) -> &Path {
    path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_name_stays_in_its_directory_when_another_takes_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, moved) = (dir.path().join("folder"), dir.path().join("moved"));
        fs::create_dir(&folder).unwrap();
        let name = LocalName::at(&folder.join("a")).unwrap();
        fs::rename(&folder, &moved).unwrap();
        fs::create_dir(&folder).unwrap();
        drop(name.create(0o600).unwrap());
        assert!(moved.join("a").exists() && !folder.join("a").exists());
        fs::write(folder.join("a"), "theirs").unwrap();
        name.remove().unwrap();
        assert!(folder.join("a").exists() && fs::read_dir(&moved).unwrap().next().is_none());
    }

    #[test]
    fn create_does_not_follow_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, link) = (dir.path().join("victim"), dir.path().join("t"));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        let refused = LocalName::at(&link).unwrap().create(0o644).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
    }
}
