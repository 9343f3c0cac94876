//! Where `get` puts things on this machine: into a directory under their own names, or to the name given.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome};
use crate::local_id::LocalId;
use crate::path::{self, SYMLINKS_MAX};
use crate::tree::Node;

/// The last argument of `get`, looked up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LocalDestination {
    /// A directory: sources keep their names.
    Into(PathBuf),
    /// A name, free or that of a file.
    As(PathBuf),
    /// A fifo, socket or device, or a link to one: bytes are written to it.
    Stream(PathBuf),
}

impl LocalDestination {
    /// Looks the argument up. It must be a directory when there are `several` sources, or when it ends in a slash. A
    /// symbolic link stands for its target, which need not exist.
    ///
    /// # Errors
    /// A missing directory, or what is none; those of stat and readlink.
    pub(crate) fn look_up(arg: &OsStr, several: bool) -> Outcome<Self> {
        let path = PathBuf::from(arg);
        let must_be_directory = several || path::names_directory(arg);
        match fs::metadata(&path) {
            Ok(there) if there.is_dir() => Ok(Self::Into(path)),
            Ok(_) if must_be_directory => Err(Failure::refused(path.display(), "not a directory")),
            Ok(there) if there.is_file() => {
                let place = followed(&path)?;
                if fs::metadata(&place).is_ok_and(|found| LocalId::of(&found) == LocalId::of(&there)) {
                    Ok(Self::As(place))
                } else {
                    Err(Failure::refused(path.display(), "leads to a file that has no name any more"))
                }
            }
            // A fifo or device is opened by this name: what /dev/stdout leads to may have no path.
            Ok(_) => Ok(Self::Stream(path)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::local(&path, error)),
            Err(error) if must_be_directory => {
                Err(Failure::local(&path, error).with_hint("make the directory with `mkdir -p`"))
            }
            Err(_) => Ok(Self::As(followed(&path)?)),
        }
    }

    /// Where a source goes.
    pub(crate) fn path_for(&self, node: &Node) -> PathBuf {
        match self {
            // The root has no name of its own: its entries are what is copied.
            Self::Into(directory) => match node.path.file_name() {
                Some(name) => directory.join(OsStr::from_bytes(name)),
                None => directory.clone(),
            },
            Self::As(path) | Self::Stream(path) => path.clone(),
        }
    }
}

/// The path at the end of a chain of links.
fn followed(path: &Path) -> Outcome<PathBuf> {
    let mut at = path.to_owned();
    for _ in 0..=SYMLINKS_MAX {
        match fs::read_link(&at) {
            Ok(target) => at = at.parent().unwrap_or(Path::new("")).join(target),
            // Not a link, or nothing.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => {
                return Ok(at);
            }
            Err(error) => return Err(Failure::local(path, error)),
        }
    }
    Err(Failure::refused(path.display(), "too many levels of symbolic links"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn look_up(path: &Path) -> LocalDestination {
        LocalDestination::look_up(path.as_os_str(), false).unwrap()
    }

    #[test]
    fn look_up_follows_links_to_their_ends() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").unwrap();
        fs::create_dir(at("folder")).unwrap();
        for (link, target) in
            [("to-file", "file"), ("again", "to-file"), ("free", "folder/new"), ("to-folder", "folder")]
        {
            symlink(target, at(link)).unwrap();
        }
        for (name, expected) in [("file", "file"), ("to-file", "file"), ("again", "file"), ("free", "folder/new")] {
            assert_eq!(look_up(&at(name)), LocalDestination::As(at(expected)), "{name}");
        }
        assert_eq!(look_up(&at("to-folder")), LocalDestination::Into(at("to-folder")));
        symlink("loop", at("loop")).unwrap();
        assert!(LocalDestination::look_up(at("loop").as_os_str(), false).is_err());
    }

    #[test]
    fn look_up_leaves_devices_under_the_name_given() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("null");
        symlink("/dev/null", &link).unwrap();
        assert_eq!(look_up(&link), LocalDestination::Stream(link));
        // What is met in a directory that was named was not named.
        assert_eq!(look_up(dir.path()), LocalDestination::Into(dir.path().to_owned()));
    }

    #[test]
    fn look_up_of_a_file_without_a_name_is_refused() {
        use std::os::fd::AsRawFd;
        let nameless = tempfile::tempfile().unwrap();
        let path = format!("/proc/self/fd/{}", nameless.as_raw_fd());
        assert!(LocalDestination::look_up(OsStr::new(&path), false).is_err());
    }
}
