//! An answer that must never be given: wrong bytes, a name that is lost, a promise that is broken.
//!
//! Whoever works on a mount that dies gets errors, and they are excused. A violation is an answer, and never is. So both travel
//! as [`io::Error`], and this type inside tells them apart.

use std::error::Error;
use std::fmt;
use std::io;

/// What was answered and must not have been.
#[derive(Debug)]
pub struct Violation(String);

impl Violation {
    /// An error that says so.
    pub fn error(what: impl Into<String>) -> io::Error {
        io::Error::other(Self(what.into()))
    }

    /// Whether this error is one.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Violation {}

/// Says what an error is about; a violation stays one.
pub fn about(what: impl fmt::Display) -> impl FnOnce(io::Error) -> io::Error {
    move |error| {
        let text = format!("{what}: {error}");
        if Violation::is(&error) { Violation::error(text) } else { io::Error::new(error.kind(), text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_keeps_what_an_error_is() {
        let violation = about("a file")(Violation::error("wrong byte"));
        assert!(Violation::is(&violation) && violation.to_string() == "a file: wrong byte");
        let failure = about("a file")(io::Error::from_raw_os_error(libc::ENOTCONN));
        assert!(!Violation::is(&failure) && failure.kind() == io::ErrorKind::NotConnected);
    }
}
