//! A name in a directory: 1 to 255 bytes, no slash, no NUL, not `.` or `..`. Bytes, not text: what a program stored
//! comes back unchanged.

use std::fmt;

use smallvec::SmallVec;

use crate::error::{DfsError, ErrorKind, Result};

/// Longest name in bytes (POSIX NAME_MAX on Linux).
pub const NAME_MAX: usize = 255;

/// A checked name. Names of up to 16 bytes take no memory beyond these 24.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(SmallVec<[u8; 16]>);

impl Name {
    /// Checks and takes a name.
    ///
    /// # Errors
    /// `NameTooLong` above 255 bytes, `InvalidArgument` for an empty name, `.`, `..`, a slash or a NUL.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > NAME_MAX {
            return Err(DfsError::new(
                ErrorKind::NameTooLong,
                format!("name has {} bytes, at most {NAME_MAX} are allowed", bytes.len()),
            ));
        }
        let invalid = match bytes {
            b"" => Some("name is empty"),
            b"." | b".." => Some("name is reserved"),
            _ if bytes.contains(&b'/') => Some("name contains a slash"),
            _ if bytes.contains(&0) => Some("name contains a NUL byte"),
            _ => None,
        };
        match invalid {
            Some(why) => Err(DfsError::new(ErrorKind::InvalidArgument, why)),
            None => Ok(Self(SmallVec::from_slice(bytes))),
        }
    }

    /// The bytes as given.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_refuses_what_no_directory_may_hold() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
            assert_eq!(Name::new(bad).unwrap_err().kind(), ErrorKind::InvalidArgument, "{bad:?}");
        }
        assert_eq!(Name::new(&[b'x'; 256]).unwrap_err().kind(), ErrorKind::NameTooLong);
    }

    #[test]
    fn new_keeps_any_other_bytes() {
        for good in [&b"a"[..], b"...", b"\xff\xfe", &[b'x'; 255]] {
            assert_eq!(Name::new(good).unwrap().as_bytes(), good);
        }
        assert_eq!(size_of::<Name>(), 24);
    }
}
