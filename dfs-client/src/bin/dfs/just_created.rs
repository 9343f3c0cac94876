//! The places that a command with several sources has taken: of two sources of one name, only the later one would be there
//! in the end, and nobody would be told. A second one is refused, as by GNU cp and mv.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::Hash;

use crate::failure::{Failure, Outcome};

/// Names by the directory they are in. One source cannot meet itself, so nothing is kept for it.
#[derive(Debug)]
pub(crate) struct JustCreated<Directory> {
    names: Option<HashSet<(Directory, Box<[u8]>)>>,
}

impl<Directory: Eq + Hash> JustCreated<Directory> {
    /// Nothing yet, of one source or `several`.
    pub(crate) fn new(several: bool) -> Self {
        Self { names: several.then(HashSet::new) }
    }

    /// Takes a place, though not for the copy of a directory: those of one name become one. `source` and `path`, which is
    /// the place, are for the complaint.
    ///
    /// # Errors
    /// When another source has taken it.
    pub(crate) fn take(
        &mut self,
        source: impl Display,
        directory: Directory,
        name: &[u8],
        path: impl Display,
    ) -> Outcome {
        let is_free = self.names.as_mut().is_none_or(|names| names.insert((directory, name.into())));
        if is_free { Ok(()) } else { Err(Failure::refused(source, format!("will not overwrite just-created {path}"))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn take_refuses_a_second_source_of_a_name() {
        let mut several = JustCreated::new(true);
        several.take("a/x", 1, b"x", "/d/x").unwrap();
        several.take("a/y", 1, b"y", "/d/y").unwrap();
        several.take("a/d/x", 2, b"x", "/d/d/x").unwrap();
        let refused = several.take("b/x", 1, b"x", "/d/x").unwrap_err();
        assert_eq!(refused.to_string(), "b/x: will not overwrite just-created /d/x");
    }
}
