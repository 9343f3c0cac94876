//! The entries of a directory, ordered by cookie: a stable 63-bit number per entry that readdir hands out and takes back,
//! across handles, leaders and changes of the directory.
//!
//! The cookie is a keyed hash of the name. Names of equal hash take the next free numbers; a lookup therefore looks at the
//! few numbers after the hash, too, and removal needs no marker.

use std::collections::BTreeMap;
use std::hash::Hasher;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::InodeId;
use dfs_common::name::Name;
use siphasher::sip::SipHasher13;

use super::heights::Heights;

/// Position of an entry: 3 to 2^63 - 1. The numbers below are for `.` and `..` in a mount's offsets.
pub type Cookie = u64;

const FIRST_COOKIE: Cookie = 3;
const COOKIE_LIMIT: Cookie = 1 << 63;

/// Names of one hash that a directory takes. With a keyed 63-bit hash the second one is already a wonder.
const TIES_MAX: u64 = 16;

/// Key of the name hash; the namespace's, so that every member computes the same cookies.
#[derive(Clone, Copy, Debug)]
pub struct HashKey(pub u64, pub u64);

impl HashKey {
    fn hash(self, name: &[u8]) -> Cookie {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        hasher.write(name);
        (hasher.finish() % (COOKIE_LIMIT - FIRST_COOKIE - TIES_MAX)) + FIRST_COOKIE
    }
}

/// A name and what it stands for.
#[derive(Clone, Debug)]
pub struct Dentry {
    /// As given.
    pub name: Name,
    /// What it names.
    pub inode: InodeId,
}

/// A directory's content.
#[derive(Debug)]
pub struct Directory {
    /// Where `..` leads; the root is its own parent.
    pub parent: InodeId,
    /// Of its subdirectories.
    pub heights: Heights,
    entries: BTreeMap<Cookie, Dentry>,
}

impl Directory {
    /// An empty directory below `parent`.
    pub fn new(parent: InodeId) -> Self {
        Self { parent, heights: Heights::default(), entries: BTreeMap::new() }
    }

    /// Entries in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What `stat` shows as its size: something that grows with it.
    pub fn size(&self) -> u64 {
        4096 + 32 * self.entries.len() as u64
    }

    /// Finds a name.
    pub fn find(&self, key: HashKey, name: &[u8]) -> Option<(Cookie, InodeId)> {
        let hash = key.hash(name);
        self.entries
            .range(hash..hash + TIES_MAX)
            .find(|(_, dentry)| dentry.name.as_bytes() == name)
            .map(|(cookie, dentry)| (*cookie, dentry.inode))
    }

    /// Whether one more entry of this name's hash fits.
    ///
    /// # Errors
    /// `NoSpace` when too many names share the hash.
    pub fn check_room(&self, key: HashKey, name: &[u8]) -> Result<Cookie> {
        let hash = key.hash(name);
        (hash..hash + TIES_MAX)
            .find(|cookie| !self.entries.contains_key(cookie))
            .ok_or_else(|| DfsError::new(ErrorKind::NoSpace, "too many names with one hash in this directory"))
    }

    /// Adds an entry that is not there yet.
    ///
    /// # Errors
    /// As [`Self::check_room`].
    pub fn insert(&mut self, key: HashKey, name: Name, inode: InodeId) -> Result<Cookie> {
        let cookie = self.check_room(key, name.as_bytes())?;
        self.entries.insert(cookie, Dentry { name, inode });
        Ok(cookie)
    }

    /// Puts an entry under a cookie it had before, from an image; false when the cookie is taken or out of range.
    pub fn restore(&mut self, cookie: Cookie, dentry: Dentry) -> bool {
        (FIRST_COOKIE..COOKIE_LIMIT).contains(&cookie) && self.entries.insert(cookie, dentry).is_none()
    }

    /// Points an entry at another inode.
    pub fn replace(&mut self, cookie: Cookie, inode: InodeId) {
        if let Some(dentry) = self.entries.get_mut(&cookie) {
            dentry.inode = inode;
        }
    }

    /// Takes an entry out.
    pub fn remove(&mut self, cookie: Cookie) -> Option<Dentry> {
        self.entries.remove(&cookie)
    }

    /// Takes the first entry out.
    pub fn pop_first(&mut self) -> Option<Dentry> {
        self.entries.pop_first().map(|(_, dentry)| dentry)
    }

    /// Entries after `cookie`, in order.
    pub fn after(&self, cookie: Cookie) -> impl Iterator<Item = (Cookie, &Dentry)> {
        self.entries.range(cookie.saturating_add(1)..).map(|(cookie, dentry)| (*cookie, dentry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HashKey = HashKey(1, 2);

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn find_sees_names_that_share_a_hash_after_the_first_is_removed() {
        let mut directory = Directory::new(InodeId(1));
        let first = directory.insert(KEY, name("a"), InodeId(10)).unwrap();
        // A forced tie: another name at the position after the hash of "b".
        let hash = KEY.hash(b"b");
        assert!(directory.restore(hash, Dentry { name: name("x"), inode: InodeId(11) }));
        let tied = directory.insert(KEY, name("b"), InodeId(12)).unwrap();
        assert_eq!(tied, hash + 1);
        assert!(directory.remove(hash).is_some());
        assert_eq!(directory.find(KEY, b"b"), Some((hash + 1, InodeId(12))));
        assert_eq!(directory.find(KEY, b"a"), Some((first, InodeId(10))));
        assert_eq!(directory.find(KEY, b"c"), None);
    }

    #[test]
    fn insert_refuses_what_would_need_an_endless_search() {
        let mut directory = Directory::new(InodeId(1));
        let hash = KEY.hash(b"b");
        for tie in 0..TIES_MAX {
            directory.restore(hash + tie, Dentry { name: name(&format!("x{tie}")), inode: InodeId(9) });
        }
        assert_eq!(directory.insert(KEY, name("b"), InodeId(1)).unwrap_err().kind(), ErrorKind::NoSpace);
    }

    #[test]
    fn after_pages_through_every_entry_once() {
        let mut directory = Directory::new(InodeId(1));
        for i in 0..500 {
            directory.insert(KEY, name(&format!("f{i}")), InodeId(i)).unwrap();
        }
        let (mut cookie, mut seen) = (0, 0);
        loop {
            let page: Vec<_> = directory.after(cookie).take(7).map(|(cookie, _)| cookie).collect();
            let Some(&last) = page.last() else { break };
            seen += page.len();
            cookie = last;
        }
        assert_eq!(seen, 500);
    }
}
