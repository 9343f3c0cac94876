//! The places that a command has given to its sources. None is given twice: only the later copy would be there in the end, and
//! nobody would be told.
//!
//! - Of two sources of one name, the second is refused, as by GNU cp and mv.
//! - The names within one source differ. But a symbolic link or a bind mount inside the destination may lead two of its
//!   directories into one, and then what is in them would meet. The second directory is refused.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;

use crate::failure::{Failure, Outcome};

/// Places, told apart by the directory and not by its path.
#[derive(Debug)]
pub(crate) struct Taken<Directory> {
    /// Names by the directory they are in. None are kept of a single source: no name of it comes twice.
    names: Option<HashSet<(Directory, Box<[u8]>)>>,
    /// The directories that hold a directory of the source being copied.
    directories: HashSet<Directory>,
}

impl<Directory: Eq + Hash> Taken<Directory> {
    /// Nothing yet, of one source or `several`.
    pub(crate) fn new(several: bool) -> Self {
        Self { names: several.then(HashSet::new), directories: HashSet::new() }
    }

    /// The next source is copied. Its directories may become one with those of the sources before it.
    pub(crate) fn begin_source(&mut self) {
        self.directories.clear();
    }

    /// Takes a directory for the copy of one. `source` and `path`, which is the directory, are for the complaint.
    ///
    /// # Errors
    /// When another directory of the same source has it.
    pub(crate) fn enter(&mut self, source: impl Display, directory: Directory, path: impl Display) -> Outcome {
        if self.directories.insert(directory) {
            return Ok(());
        }
        Err(Failure::refused(source, format!("left out: {path} is the copy of another directory of the same source")))
    }

    /// Takes a place for the copy of a file or link. Not called for directories: those of one name become one. `source` and
    /// `path`, which is the place, are for the complaint.
    ///
    /// The place of a copy stays taken if that fails: copies run at the same time, and which source is refused must not
    /// depend on which of them is faster.
    ///
    /// # Errors
    /// When another source has it.
    pub(crate) fn take(
        &mut self,
        source: impl Display,
        directory: Directory,
        name: &[u8],
        path: impl Display,
    ) -> Outcome {
        let is_free = self.names.as_mut().is_none_or(|names| names.insert((directory, name.into())));
        if is_free { Ok(()) } else { Err(Failure::refused(source, format!("left out: another source goes to {path}"))) }
    }

    /// Nothing came to a place that was taken.
    pub(crate) fn give_back(&mut self, directory: Directory, name: &[u8]) {
        if let Some(names) = &mut self.names {
            names.remove(&(directory, name.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn take_refuses_a_second_source_of_a_name() {
        let mut several = Taken::new(true);
        several.take("a/x", 1, b"x", "/d/x").unwrap();
        several.take("a/y", 1, b"y", "/d/y").unwrap();
        several.take("a/d/x", 2, b"x", "/d/d/x").unwrap();
        let refused = several.take("b/x", 1, b"x", "/d/x").unwrap_err();
        assert_eq!(refused.to_string(), "b/x: left out: another source goes to /d/x");
        several.give_back(1, b"x");
        several.take("b/x", 1, b"x", "/d/x").unwrap();
    }

    #[test]
    fn enter_refuses_a_second_directory_of_the_same_source_only() {
        for several in [false, true] {
            let mut taken = Taken::new(several);
            taken.enter("s", 1, "/d/s").unwrap();
            taken.enter("s/a", 2, "/d/s/a").unwrap();
            let refused = taken.enter("s/b", 2, "/d/s/b").unwrap_err();
            assert_eq!(
                refused.to_string(),
                "s/b: left out: /d/s/b is the copy of another directory of the same source"
            );
            taken.begin_source();
            taken.enter("t/s", 1, "/d/s").unwrap();
        }
    }
}
