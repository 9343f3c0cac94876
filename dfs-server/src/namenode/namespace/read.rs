//! Questions to the namespace: lookup, attributes, listing, link targets, extended attributes, summaries. Each checks the
//! caller's permissions as POSIX says, and takes no longer than a page of a listing does.

use dfs_common::attr::FileAttr;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::InodeId;
use dfs_common::name::Name;

use super::Namespace;
use super::directory::Cookie;
use super::inode::{Content, Inode};
use super::permission::{EXECUTE, Identity, READ, WRITE};

/// Most entries in one page of a listing.
pub const LISTING_PAGE_MAX: usize = 1_000;

/// One entry of a listing.
#[derive(Clone, Debug)]
pub struct ListedEntry {
    /// Where to go on after it.
    pub cookie: Cookie,
    /// Its name.
    pub name: Name,
    /// Its attributes, as they are now.
    pub attr: FileAttr,
}

/// A page of a directory.
#[derive(Debug)]
pub struct ListingPage {
    /// In cookie order.
    pub entries: Vec<ListedEntry>,
    /// No entry follows.
    pub at_end: bool,
    /// Inode of `..`.
    pub parent: InodeId,
}

/// Totals of a subtree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentSummary {
    /// Bytes in files.
    pub length: u64,
    /// Entries that are not directories.
    pub file_count: u64,
    /// Directories, the top one included.
    pub directory_count: u64,
    /// Bytes times replication.
    pub space_consumed: u64,
}

impl ContentSummary {
    /// Counts an inode in.
    ///
    /// # Errors
    /// `PermissionDenied` for a directory that the caller may not read.
    pub fn add(&mut self, who: &Identity, inode: &Inode) -> Result<()> {
        match &inode.content {
            Content::Directory(_) => {
                who.check(inode, READ | EXECUTE)?;
                self.directory_count += 1;
            }
            Content::File { blocks, replication, .. } => {
                let length = blocks.length();
                self.file_count += 1;
                self.length = self.length.saturating_add(length);
                let space = length.saturating_mul(u64::from(*replication));
                self.space_consumed = self.space_consumed.saturating_add(space);
            }
            Content::Symlink(_) | Content::Special { .. } => self.file_count += 1,
        }
        Ok(())
    }
}

impl Namespace {
    /// Whether `id` is a directory without entries.
    pub fn is_empty_directory(&self, id: InodeId) -> bool {
        matches!(self.inode(id).map(|inode| &inode.content), Ok(Content::Directory(directory)) if directory.is_empty())
    }

    /// Attributes of an inode; who has its number may see them.
    ///
    /// # Errors
    /// `Stale`.
    pub fn attr(&self, id: InodeId) -> Result<FileAttr> {
        let inode = self.inode(id)?;
        if inode.directory().is_some() {
            self.check_reachable(id)?;
        }
        Ok(inode.attr(id, self.leases.contains(id)))
    }

    /// The inode a name stands for.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `PermissionDenied`, `NameTooLong`, `Stale`.
    pub fn lookup(&self, who: &Identity, parent: InodeId, name: &[u8]) -> Result<InodeId> {
        let directory = self.directory(parent)?;
        self.check_reachable(parent)?;
        let inode = self.inode(parent)?;
        who.check(inode, EXECUTE)?;
        match name {
            b"." => Ok(parent),
            b".." => Ok(directory.parent),
            _ => {
                let name = Name::new(name)?;
                match directory.find(self.hash_key, name.as_bytes()) {
                    Some((_, found)) if inode.nlink > 0 => Ok(found),
                    _ => Err(DfsError::new(ErrorKind::NotFound, "no such file or directory")),
                }
            }
        }
    }

    /// A page of a directory after `cookie`.
    ///
    /// # Errors
    /// `NotADirectory`, `PermissionDenied`, `Stale`.
    pub fn listing(&self, who: &Identity, id: InodeId, cookie: Cookie, max: usize) -> Result<ListingPage> {
        let directory = self.directory(id)?;
        self.check_reachable(id)?;
        let inode = self.inode(id)?;
        who.check(inode, READ)?;
        let max = max.clamp(1, LISTING_PAGE_MAX);
        let mut entries = Vec::with_capacity(max.min(directory.len()));
        // Nobody sees what is still in a directory that was removed.
        let mut rest = directory.after(if inode.nlink > 0 { cookie } else { Cookie::MAX });
        for (cookie, dentry) in rest.by_ref().take(max) {
            // Not `self.attr`: what stands in a reachable directory need not be looked for from the root again.
            let attr = self.inode(dentry.inode)?.attr(dentry.inode, self.leases.contains(dentry.inode));
            entries.push(ListedEntry { cookie, name: dentry.name.clone(), attr });
        }
        let at_end = rest.next().is_none();
        Ok(ListingPage { entries, at_end, parent: directory.parent })
    }

    /// Where a symbolic link points.
    ///
    /// # Errors
    /// `InvalidArgument` for anything else.
    pub fn link_target(&self, id: InodeId) -> Result<&[u8]> {
        match &self.inode(id)?.content {
            Content::Symlink(target) => Ok(target),
            _ => Err(DfsError::new(ErrorKind::InvalidArgument, format!("inode {id} is not a symbolic link"))),
        }
    }

    /// An extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`, `PermissionDenied`.
    pub fn xattr(&self, who: &Identity, id: InodeId, name: &[u8]) -> Result<&[u8]> {
        let inode = self.inode(id)?;
        check_xattr_access(who, inode, name, READ)?;
        let value = inode.xattrs.as_ref().and_then(|xattrs| xattrs.get(name));
        value.map(|value| &value[..]).ok_or_else(|| DfsError::new(ErrorKind::NoAttribute, "no such extended attribute"))
    }

    /// Names of the extended attributes the caller may know of.
    ///
    /// # Errors
    /// `Stale`.
    pub fn xattr_names(&self, who: &Identity, id: InodeId) -> Result<Vec<Vec<u8>>> {
        let names = self.inode(id)?.xattrs.iter().flat_map(|xattrs| xattrs.keys());
        Ok(names.filter(|name| who.is_root() || !name.starts_with(TRUSTED)).map(|name| name.to_vec()).collect())
    }
}

const TRUSTED: &[u8] = b"trusted.";

/// Linux's rules by name space: `user.` follows the mode bits and is for files and directories, `trusted.` is root's,
/// `security.` and `system.` are read by all and written by the owner.
///
/// # Errors
/// `Unsupported` for another name space, `PermissionDenied`, `NotPermitted`.
pub fn check_xattr_access(who: &Identity, inode: &Inode, name: &[u8], want: u32) -> Result<()> {
    if name.starts_with(b"user.") {
        if !matches!(inode.content, Content::File { .. } | Content::Directory(_)) {
            return Err(DfsError::new(ErrorKind::NotPermitted, "user attributes are for files and directories"));
        }
        return who.check(inode, want);
    }
    if name.starts_with(TRUSTED) {
        return if who.is_root() {
            Ok(())
        } else {
            Err(DfsError::new(ErrorKind::NotPermitted, "trusted attributes are root's"))
        };
    }
    if name.starts_with(b"security.") {
        return if want & WRITE == 0 || who.owns(inode) {
            Ok(())
        } else {
            Err(DfsError::new(ErrorKind::NotPermitted, "only the owner may change a security attribute"))
        };
    }
    Err(DfsError::new(ErrorKind::Unsupported, "extended attributes start with user., trusted. or security."))
}
