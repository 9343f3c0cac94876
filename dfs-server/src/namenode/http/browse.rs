//! The tree to look at: pages of directories, files with where their blocks are, and what symbolic links say.
//!
//! Nobody says who asks, so it is asked as user nobody: what others may see is shown. The bytes of files do not come
//! this way: they never pass through the NameNode.
//!
//! The namespace's lock is held for one name of the path at a time, and then for one page.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;
use dfs_common::attr::{FileAttr, FileKind};
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{InodeId, ROOT_INODE};
use dfs_proto::v1;

use super::overview::datanode_page;
use super::tree_path::{Crumb, TreePath};
use crate::namenode::namespace::permission::{EXECUTE, Identity, READ};
use crate::namenode::namespace::read::{LISTING_PAGE_MAX, ListedEntry};
use crate::namenode::namesystem::Namesystem;
use crate::pages::text::{counted, date, encoded, shown, size};
use crate::pages::{answer, redirect};

/// Bytes of names in a page of a directory: long names make a page of fewer entries, and an answer stays below a MiB.
const NAME_BYTES_MAX: usize = 64 << 10;
/// Blocks in a page of a file, and replicas shown of each.
const BLOCKS_MAX: usize = 500;
const HOLDERS_MAX: usize = 8;

/// Where a page begins: after an entry of a directory, at a byte of a file.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Start {
    after: u64,
    from: u64,
}

/// A page of a directory.
#[derive(Template)]
#[template(path = "directory.html")]
pub(super) struct DirectoryPage {
    pub(super) path: String,
    pub(super) name: String,
    pub(super) crumbs: Vec<Crumb>,
    pub(super) about: String,
    pub(super) rows: Vec<EntryRow>,
    pub(super) is_first: bool,
    pub(super) next: Option<u64>,
}

pub(super) struct EntryRow {
    name: String,
    href: String,
    /// What stands behind the name.
    mark: &'static str,
    size: String,
    changed: String,
    mode: String,
    owner: String,
    replicas: String,
}

/// A page of anything but a directory.
#[derive(Template)]
#[template(path = "file.html")]
struct FilePage {
    path: String,
    name: String,
    crumbs: Vec<Crumb>,
    facts: Vec<(&'static str, String)>,
    command: Option<String>,
    refusal: Option<String>,
    blocks: Vec<BlockRow>,
    is_first: bool,
    next: Option<u64>,
}

struct BlockRow {
    offset: u64,
    length: String,
    name: String,
    remark: &'static str,
    class: &'static str,
    holders: Vec<Holder>,
    more: usize,
}

struct Holder {
    name: String,
    link: Option<String>,
}

/// Why there is nothing to see.
#[derive(Template)]
#[template(path = "refusal.html")]
struct Refusal {
    headline: &'static str,
    path: String,
    why: String,
}

/// The page at an address of the tree.
pub(super) fn browse(namesystem: &Namesystem, address: &str, start: Start) -> Response {
    let path = TreePath::of_address(address);
    match look(namesystem, &path, address, start) {
        Ok(answer) => answer,
        Err(error) => refusal(&path, &error),
    }
}

fn look(namesystem: &Namesystem, path: &TreePath, address: &str, start: Start) -> Result<Response> {
    let who = Identity::of(None);
    let id = resolve(namesystem, &who, path)?;
    let attr = namesystem.attr(id)?;
    let is_directory = attr.kind == FileKind::Directory;
    let own = path.address(is_directory);
    if own != address {
        return Ok(redirect(&own));
    }
    if is_directory {
        return Ok(answer(StatusCode::OK, &directory_page(namesystem, &who, path, id, start.after)?));
    }
    Ok(answer(StatusCode::OK, &file_page(namesystem, &who, path, &attr, start.from)?))
}

fn resolve(namesystem: &Namesystem, who: &Identity, path: &TreePath) -> Result<InodeId> {
    if !path.is_valid() {
        return Err(DfsError::new(ErrorKind::NotFound, "no name is like one of these"));
    }
    path.names().try_fold(ROOT_INODE, |at, name| namesystem.namespace().read().lookup(who, at, name))
}

fn refusal(path: &TreePath, error: &DfsError) -> Response {
    let (status, headline) = match error.kind() {
        ErrorKind::NotFound | ErrorKind::Stale | ErrorKind::NotADirectory => {
            (StatusCode::NOT_FOUND, "There is no such file or directory")
        }
        ErrorKind::PermissionDenied => (StatusCode::FORBIDDEN, "Not everybody may see this"),
        // Nothing else is refused by the calls made here, but for a NameNode in trouble.
        _ => (StatusCode::SERVICE_UNAVAILABLE, "This cannot be shown now"),
    };
    let why = match error.kind() {
        ErrorKind::PermissionDenied => {
            "This page does not ask who looks, so it shows what others may see. A mount and the dfs command show the rest to \
             those who may see it."
                .to_owned()
        }
        _ => shown(error.message().as_bytes()),
    };
    answer(status, &Refusal { headline, path: path.shown(), why })
}

fn directory_page(
    namesystem: &Namesystem,
    who: &Identity,
    path: &TreePath,
    id: InodeId,
    after: u64,
) -> Result<DirectoryPage> {
    let (page, entries) = {
        let namespace = namesystem.namespace().read();
        // Attributes are shown too, and they are for those who may go in.
        who.check(namespace.inode(id)?, READ | EXECUTE)?;
        (namespace.listing(who, id, after, LISTING_PAGE_MAX)?, namespace.directory(id)?.len())
    };
    Ok(directory_page_of(path, page.entries, page.at_end, after, entries))
}

/// The page that begins after cookie `after` and has `entries` of the `count` that the directory has.
pub(super) fn directory_page_of(
    path: &TreePath,
    mut entries: Vec<ListedEntry>,
    at_end: bool,
    after: u64,
    count: usize,
) -> DirectoryPage {
    let mut name_bytes = 0;
    let fitting = entries.iter().take_while(|entry| {
        name_bytes += entry.name.as_bytes().len();
        name_bytes <= NAME_BYTES_MAX
    });
    let fitting = fitting.count();
    let at_end = at_end && fitting == entries.len();
    entries.truncate(fitting);
    let next = entries.last().map(|entry| entry.cookie).filter(|_| !at_end);
    let is_whole = at_end && after == 0;
    // Cookies have an order of their own; people look for names.
    entries.sort_by(|a, b| {
        let is_leaf = |entry: &ListedEntry| entry.attr.kind != FileKind::Directory;
        (is_leaf(a), a.name.as_bytes()).cmp(&(is_leaf(b), b.name.as_bytes()))
    });
    let about = if is_whole {
        if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
    } else {
        format!("{count} entries, {} of them on this page, sorted within it only", entries.len())
    };
    DirectoryPage {
        path: path.shown(),
        name: path.last(),
        crumbs: path.crumbs(true),
        about,
        rows: entries.iter().map(EntryRow::new).collect(),
        is_first: after == 0,
        next,
    }
}

impl EntryRow {
    fn new(entry: &ListedEntry) -> Self {
        let (attr, name) = (&entry.attr, entry.name.as_bytes());
        let is_directory = attr.kind == FileKind::Directory;
        let is_file = attr.kind == FileKind::File;
        Self {
            name: shown(name),
            href: encoded(name) + if is_directory { "/" } else { "" },
            mark: match attr.kind {
                FileKind::Directory => "/",
                FileKind::Symlink => " (link)",
                FileKind::File if attr.under_construction => " (being written)",
                _ => "",
            },
            size: if is_file { size(attr.length) } else { String::new() },
            changed: date(attr.mtime_ns),
            mode: mode_in_letters(attr),
            owner: format!("{}:{}", attr.uid, attr.gid),
            replicas: if is_file { attr.replication.to_string() } else { String::new() },
        }
    }
}

fn file_page(namesystem: &Namesystem, who: &Identity, path: &TreePath, attr: &FileAttr, from: u64) -> Result<FilePage> {
    let mut facts = vec![
        ("Kind", kind_in_words(attr.kind).to_owned()),
        ("Mode", mode_in_letters(attr)),
        ("Owner (uid:gid)", format!("{}:{}", attr.uid, attr.gid)),
        ("Changed (UTC)", date(attr.mtime_ns)),
    ];
    let mut page = FilePage {
        path: path.shown(),
        name: path.last(),
        crumbs: path.crumbs(false),
        facts: Vec::new(),
        command: None,
        refusal: None,
        blocks: Vec::new(),
        is_first: from == 0,
        next: None,
    };
    match attr.kind {
        FileKind::Symlink => {
            let namespace = namesystem.namespace().read();
            facts.push(("Leads to", shown(namespace.link_target(attr.inode)?)));
        }
        FileKind::File => {
            let length = format!("{} ({})", size(attr.length), counted(attr.length, "byte"));
            facts.push(("Length", if attr.under_construction { format!("{length}, being written") } else { length }));
            facts.push(("Replicas wanted", attr.replication.to_string()));
            facts.push(("Block size", size(attr.block_size)));
            match namesystem.block_locations(who, attr.inode, (from, u64::MAX), None) {
                Ok((found, _)) => add_blocks(&mut page, found.blocks, attr.length),
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    page.refusal = Some("Not everybody may read it, so its blocks are not shown.".to_owned());
                }
                Err(error) => return Err(error),
            }
            page.command = path.fetch_command();
        }
        _ => {}
    }
    page.facts = facts;
    Ok(page)
}

fn add_blocks(page: &mut FilePage, mut located: Vec<v1::LocatedBlock>, length: u64) {
    located.truncate(BLOCKS_MAX);
    let end = located.last().and_then(|last| Some(last.offset + last.block.as_ref()?.length));
    page.next = end.filter(|&end| end < length);
    page.blocks = located.iter().map(BlockRow::new).collect();
}

impl BlockRow {
    fn new(located: &v1::LocatedBlock) -> Self {
        let block = located.block.unwrap_or_default();
        let (remark, class) = if located.under_construction {
            ("being written", "note")
        } else if located.corrupt {
            ("all known replicas are bad:", "act")
        } else if located.locations.is_empty() {
            if located.awaits_reports { ("not reported yet", "watch") } else { ("missing: no replica is known", "act") }
        } else {
            ("", "note")
        };
        let holder = |id: &v1::DatanodeId| Holder {
            name: shown(format!("{}:{}", id.host, id.data_port).as_bytes()),
            link: datanode_page(id),
        };
        Self {
            offset: located.offset,
            length: size(block.length),
            name: format!("blk_{}_{}", block.id, block.generation_stamp),
            remark,
            class,
            holders: located.locations.iter().take(HOLDERS_MAX).map(holder).collect(),
            more: located.locations.len().saturating_sub(HOLDERS_MAX),
        }
    }
}

fn kind_in_words(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Fifo => "pipe",
        FileKind::CharDevice => "character device",
        FileKind::Directory => "directory",
        FileKind::BlockDevice => "block device",
        FileKind::File => "file",
        FileKind::Symlink => "symbolic link",
        FileKind::Socket => "socket",
    }
}

/// As `ls -l` writes it.
fn mode_in_letters(attr: &FileAttr) -> String {
    let kind = match attr.kind {
        FileKind::Fifo => 'p',
        FileKind::CharDevice => 'c',
        FileKind::Directory => 'd',
        FileKind::BlockDevice => 'b',
        FileKind::File => '-',
        FileKind::Symlink => 'l',
        FileKind::Socket => 's',
    };
    let mut letters = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = attr.permissions >> shift;
        letters.push(if bits & 4 != 0 { 'r' } else { '-' });
        letters.push(if bits & 2 != 0 { 'w' } else { '-' });
        letters.push(match (attr.permissions & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    letters
}
