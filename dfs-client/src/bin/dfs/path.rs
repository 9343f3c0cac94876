//! A path in the file system: absolute, normalised, bytes.
//!
//! What a user wrote is made absolute before (`location`). `.`, empty components and `..` are resolved by text, as HDFS
//! does: `..` after a symbolic link leads to the link's own parent. `..` above the root stays at the root.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use dfs_common::{DfsError, ErrorKind, Result};

/// Longest path that is taken from a user, Linux's PATH_MAX.
pub(crate) const PATH_MAX: usize = 4096;

/// Symbolic links that are followed one after the other, as in Linux.
pub(crate) const SYMLINKS_MAX: usize = 40;

/// An absolute path; the root is `/`, no other path ends in a slash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DfsPath(Vec<u8>);

impl DfsPath {
    /// The root directory.
    pub(crate) fn root() -> Self {
        Self(b"/".to_vec())
    }

    /// Normalises an absolute path; the slash at its start may be missing.
    ///
    /// # Errors
    /// `InvalidArgument` for an empty path or one with a NUL, `NameTooLong` above [`PATH_MAX`].
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        let invalid = |what| Err(DfsError::new(ErrorKind::InvalidArgument, what));
        if text.is_empty() {
            return invalid("the path is empty; the root directory is /");
        }
        if text.contains(&0) {
            return invalid("the path contains a NUL byte");
        }
        if text.len() > PATH_MAX {
            let what = format!("the path has {} bytes, at most {PATH_MAX} are allowed", text.len());
            return Err(DfsError::new(ErrorKind::NameTooLong, what));
        }
        let mut components: Vec<&[u8]> = Vec::new();
        for component in text.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => drop(components.pop()),
                name => components.push(name),
            }
        }
        Ok(components.into_iter().fold(Self::root(), |path, name| path.join(name)))
    }

    /// The path of `name` in this directory. `name` is one component, as a listing gives it.
    #[must_use]
    pub(crate) fn join(&self, name: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !self.is_root() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes)
    }

    /// Whether it is `/`.
    pub(crate) fn is_root(&self) -> bool {
        self.0 == b"/"
    }

    /// The last component; none for the root.
    pub(crate) fn file_name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// The directory that holds it; none for the root.
    pub(crate) fn parent(&self) -> Option<Self> {
        let slash = self.0.iter().rposition(|byte| *byte == b'/')?;
        match (self.is_root(), slash) {
            (true, _) => None,
            (false, 0) => Some(Self::root()),
            (false, slash) => Some(Self(self.0[..slash].to_vec())),
        }
    }

    /// The names from the root down.
    pub(crate) fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
    }

    /// The bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for DfsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl fmt::Debug for DfsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// Whether an argument ends in a slash or in dots: it then names a directory, never a file to be made.
pub(crate) fn names_directory(arg: &OsStr) -> bool {
    matches!(arg.as_bytes().rsplit(|byte| *byte == b'/').next(), Some(b"" | b"." | b".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> String {
        DfsPath::parse(text.as_bytes()).unwrap().to_string()
    }

    #[test]
    fn parse_normalises() {
        for (text, expected) in [
            ("/", "/"),
            ("//", "/"),
            (".", "/"),
            ("a", "/a"),
            ("a/b", "/a/b"),
            ("/a//b/", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/../../b", "/b"),
            ("/a/b/..", "/a"),
            ("/...", "/..."),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn names_directory_knows_slashes_and_dots() {
        for (arg, expected) in [
            ("a/", true),
            ("/", true),
            (".", true),
            ("a/..", true),
            ("./", true),
            ("a", false),
            ("a.", false),
            ("/.a", false),
        ] {
            assert_eq!(names_directory(OsStr::new(arg)), expected, "{arg}");
        }
    }

    #[test]
    fn parse_refuses_what_is_no_path() {
        for (text, kind) in [
            (&b""[..], ErrorKind::InvalidArgument),
            (b"/a\0", ErrorKind::InvalidArgument),
            (&[b'x'; PATH_MAX + 1], ErrorKind::NameTooLong),
        ] {
            assert_eq!(DfsPath::parse(text).unwrap_err().kind(), kind);
        }
    }

    #[test]
    fn parse_keeps_bytes_that_are_no_text() {
        let path = DfsPath::parse(b"/a/\xff\xfe").unwrap();
        assert_eq!(path.file_name(), Some(&b"\xff\xfe"[..]));
        assert_eq!(path.as_bytes(), b"/a/\xff\xfe");
        assert!(path.to_string().starts_with("/a/"));
    }

    #[test]
    fn parent_and_file_name_take_a_path_apart() {
        let path = DfsPath::parse(b"/a/b").unwrap();
        assert_eq!(path.file_name(), Some(&b"b"[..]));
        assert_eq!(path.parent().unwrap().to_string(), "/a");
        assert_eq!(path.parent().unwrap().parent(), Some(DfsPath::root()));
        assert_eq!(DfsPath::root().parent(), None);
        assert_eq!(DfsPath::root().file_name(), None);
    }

    proptest::proptest! {
        #[test]
        fn parse_of_any_bytes_is_stable(text in proptest::collection::vec(1u8.., 1..40)) {
            let once = DfsPath::parse(&text).unwrap();
            assert_eq!(DfsPath::parse(once.as_bytes()).unwrap(), once);
            let rebuilt = once.components().fold(DfsPath::root(), |path, name| path.join(name));
            assert_eq!(rebuilt, once);
        }
    }
}
