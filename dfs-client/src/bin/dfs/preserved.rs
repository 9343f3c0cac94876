//! What `-p` keeps of a source: HDFS's letters. How a copy in the cluster gets it is in `kept`.

use std::str::FromStr;

use dfs_client::{SetAttr, TimeSet};
use dfs_common::attr::FileAttr;

use crate::context::Context;
use crate::failure::Outcome;
use crate::getfattr;
use crate::kept::USER_PREFIX;
use crate::kept_mode::{kept_mode, kept_mode_of_own};
use crate::tree::Node;

/// What a bare `-p` keeps.
pub(crate) const LETTERS_DEFAULT: &str = "top";

/// What is to be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Preserved {
    times: bool,
    /// Owner and group; only the superuser can give files away, so nobody else tries.
    ownership: bool,
    permissions: bool,
    xattrs: bool,
}

impl FromStr for Preserved {
    type Err = String;

    fn from_str(letters: &str) -> Result<Self, String> {
        let mut preserved = Self::default();
        for letter in letters.chars() {
            match letter.to_ascii_lowercase() {
                't' => preserved.times = true,
                'o' => preserved.ownership = true,
                // There are no ACLs; where there are, they contain the permissions, and HDFS keeps both.
                'p' | 'a' => preserved.permissions = true,
                'x' => preserved.xattrs = true,
                _ => {
                    let words = "times, ownership, permissions, ACLs (there are none) or extended attributes";
                    return Err(format!("{letter:?} is none of t, o, p, a, x: {words}"));
                }
            }
        }
        Ok(preserved)
    }
}

impl Preserved {
    /// The attributes that a copy gets.
    pub(crate) fn attributes_of(self, attr: &FileAttr) -> SetAttr {
        let gives_away = self.ownership && rustix::process::geteuid().is_root();
        let mode = if gives_away { kept_mode } else { kept_mode_of_own };
        SetAttr {
            mode: self.permissions.then(|| mode(attr.permissions, attr.uid, attr.gid)),
            uid: gives_away.then_some(attr.uid),
            gid: gives_away.then_some(attr.gid),
            atime: self.times.then_some(TimeSet::At(attr.atime_ns)),
            mtime: self.times.then_some(TimeSet::At(attr.mtime_ns)),
            kill_privileges: false,
            kill_capabilities: false,
        }
    }

    /// The extended attributes that a copy gets: those that the caller may set.
    ///
    /// # Errors
    /// The NameNode's.
    pub(crate) async fn xattrs_of(self, ctx: &Context, node: &Node) -> Outcome<Vec<(Vec<u8>, Vec<u8>)>> {
        if !self.xattrs {
            return Ok(Vec::new());
        }
        let mut xattrs = getfattr::all(ctx, node).await?;
        if !rustix::process::geteuid().is_root() {
            xattrs.retain(|(name, _)| name.starts_with(USER_PREFIX));
        }
        Ok(xattrs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_hdfs_s() {
        let parse = |letters: &str| letters.parse::<Preserved>();
        let top = Preserved { times: true, ownership: true, permissions: true, xattrs: false };
        assert_eq!(parse(LETTERS_DEFAULT), Ok(top));
        assert_eq!(parse("TOPAX"), Ok(Preserved { xattrs: true, ..top }));
        assert_eq!(parse("a"), parse("p"));
        assert_eq!(parse("x"), Ok(Preserved { xattrs: true, ..Preserved::default() }));
        assert!(parse("tz").unwrap_err().contains("'z'"));
    }
}
