//! The namespace as commands walk it: operands with their patterns, listings in order of name, whole trees.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use dfs_client::Listing;
use dfs_common::attr::{FileAttr, FileKind};
use dfs_common::name::Name;
use dfs_common::{DfsError, ErrorKind};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::glob;
use crate::path::DfsPath;
use crate::temporary_name::is_temporary_name;

/// Entries asked for at once: the most that a page of the NameNode holds.
const LISTING_PAGE: u32 = 1000;

/// Something in the namespace.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Where it was found.
    pub(crate) path: DfsPath,
    /// What it is.
    pub(crate) attr: FileAttr,
}

impl Node {
    /// Whether it may have children.
    pub(crate) fn is_directory(&self) -> bool {
        self.attr.kind == FileKind::Directory
    }

    /// Whether it is a copy that somebody is making: half a file, which is to get another name. A file that is closed and only
    /// called like one is a file like others.
    pub(crate) fn is_unfinished_copy(&self) -> bool {
        self.attr.under_construction && self.path.file_name().is_some_and(is_temporary_name)
    }
}

/// Whether a symbolic link at the end of a path stands for what it points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// It does.
    Follow,
    /// It stands for itself.
    Keep,
}

/// What operands stand for.
#[derive(Debug, Default)]
pub(crate) struct Operands {
    /// What could be looked at, in the order of the operands.
    pub(crate) nodes: Vec<Node>,
    /// All of it: what could not be looked at, and has been reported, was meant, too.
    meant: usize,
}

impl Operands {
    /// Whether they stand for more than one thing. Then a destination must be a directory, whatever has become of the others:
    /// the one that is left must not take the place of a file.
    pub(crate) fn are_several(&self) -> bool {
        self.meant > 1
    }

    /// Adds what one operand stands for, and reports what could not be looked at.
    fn add(&mut self, ctx: &Context, outcomes: Vec<Outcome<Node>>) -> Outcome {
        self.meant += outcomes.len();
        for outcome in outcomes {
            self.nodes.extend(ctx.tolerate(outcome)?);
        }
        Ok(())
    }
}

impl IntoIterator for Operands {
    type Item = Node;
    type IntoIter = std::vec::IntoIter<Node>;

    fn into_iter(self) -> Self::IntoIter {
        self.nodes.into_iter()
    }
}

/// Everything the operands stand for. What does not exist is reported, and the others are returned.
///
/// # Errors
/// A failure that would meet every operand.
pub(crate) async fn operands(ctx: &Context, args: &[OsString], links: Links) -> Outcome<Operands> {
    let mut operands = Operands::default();
    for arg in args {
        operands.add(ctx, operand(ctx, arg, links).await?)?;
    }
    Ok(operands)
}

/// As [`expand`], but why nothing could be found stands in place of the nodes.
async fn operand(ctx: &Context, arg: &OsStr, links: Links) -> Outcome<Vec<Outcome<Node>>> {
    Ok(unless_fatal(expand(ctx, arg, links).await)?.unwrap_or_else(|failure| vec![Err(failure)]))
}

/// As [`operands`], for commands that copy what they find. A pattern does not stand for copies that somebody is making. One
/// that is named is taken.
///
/// # Errors
/// The same.
pub(crate) async fn sources(ctx: &Context, args: &[OsString], links: Links) -> Outcome<Operands> {
    let mut sources = Operands::default();
    for arg in args {
        let mut found = operand(ctx, arg, links).await?;
        if glob::is_pattern(arg.as_bytes()) {
            found.retain(|outcome| !outcome.as_ref().is_ok_and(Node::is_unfinished_copy));
            if found.is_empty() {
                found.push(Err(Failure::refused(arg.display(), "nothing matches but copies that are being made")));
            }
        }
        sources.add(ctx, found)?;
    }
    Ok(sources)
}

/// What one operand stands for: at least one node. In place of what matches a pattern and cannot be looked at stands why, as if
/// it had been named: a link that leads nowhere keeps nobody from the other matches.
///
/// # Errors
/// `NotFound` when there is nothing of that name or pattern; a failure that would meet every match.
pub(crate) async fn expand(ctx: &Context, arg: &OsStr, links: Links) -> Outcome<Vec<Outcome<Node>>> {
    let text = ctx.absolute(arg).await?;
    let whole = DfsPath::parse(&text).map_err(|error| not_a_path(arg, &error))?;
    if !glob::is_pattern(&text) {
        return Ok(vec![Ok(resolve(ctx, whole, links).await?)]);
    }
    let mut matched = matches(ctx, arg, &text, links).await?;
    if matched.is_empty() {
        // Spelled like a pattern, but perhaps meant as it stands.
        matched.push(Ok(resolve(ctx, whole, links).await?));
    }
    Ok(matched)
}

/// The paths that an operand stands for which may be the name of something new: at least one. A pattern stands for what it
/// matches, as in HDFS, and never for a new name: that has a backslash before each character that could be a pattern's.
///
/// # Errors
/// `NotFound` when nothing matches a pattern.
pub(crate) async fn places(ctx: &Context, arg: &OsStr) -> Outcome<Vec<DfsPath>> {
    let text = ctx.absolute(arg).await?;
    let bad = |error| not_a_path(arg, &error);
    let whole = DfsPath::parse(&text).map_err(bad)?;
    if !glob::is_pattern(&text) {
        return Ok(vec![whole]);
    }
    // What could not be looked at might match, too: then nobody knows what the pattern stands for.
    let nodes: Vec<Node> = matches(ctx, arg, &text, Links::Keep).await?.into_iter().collect::<Outcome<_>>()?;
    if !nodes.is_empty() {
        return Ok(nodes.into_iter().map(|node| node.path).collect());
    }
    if found(resolve(ctx, whole.clone(), Links::Keep).await)?.is_some() {
        return Ok(vec![whole]);
    }
    match glob::literal(&text) {
        Some(name) => Ok(vec![DfsPath::parse(&name).map_err(bad)?]),
        None => {
            let hint = "nothing matches the pattern; write \\ before a character that is meant as it is";
            Err(Failure::kind(&whole, ErrorKind::NotFound).with_hint(hint))
        }
    }
}

/// As [`places`], of an operand that must stand for one.
///
/// # Errors
/// When a pattern matches several; `NotFound` when it matches nothing.
pub(crate) async fn place(ctx: &Context, arg: &OsStr) -> Outcome<DfsPath> {
    let mut places = places(ctx, arg).await?;
    match places.pop() {
        Some(place) if places.is_empty() => Ok(place),
        _ => {
            let words = format!("too many matches: {} paths, and the destination must be one", places.len() + 1);
            Err(Failure::refused(arg.display(), words))
        }
    }
}

fn not_a_path(arg: &OsStr, error: &DfsError) -> Failure {
    Failure::refused(arg.display(), error.message().to_owned())
}

/// Everything that matches a pattern, spelled out; nothing when that is nothing.
async fn matches(ctx: &Context, arg: &OsStr, text: &[u8], links: Links) -> Outcome<Vec<Outcome<Node>>> {
    let bad = |error| not_a_path(arg, &error);
    let mut nodes = Vec::new();
    for text in glob::spell_out(text).map_err(bad)? {
        let path = DfsPath::parse(&text).map_err(bad)?;
        let (above, components) = glob::split_at_pattern(&path).unwrap_or((path, Vec::new()));
        nodes.extend(matching(ctx, above, &components, links).await?);
    }
    Ok(nodes)
}

/// The node at a path.
///
/// # Errors
/// Of the walk, with the path.
pub(crate) async fn resolve(ctx: &Context, path: DfsPath, links: Links) -> Outcome<Node> {
    match ctx.client.resolve(&ctx.caller, path.as_bytes(), links == Links::Follow).await {
        Ok(attr) => Ok(Node { path, attr }),
        Err(error) => Err(Failure::dfs(&path, error)),
    }
}

/// Where a node points if it is a symbolic link. None for anything else, and for a link that is gone since it was found.
///
/// # Errors
/// Any other failure.
pub(crate) async fn link_target(ctx: &Context, node: &Node) -> Outcome<Option<Vec<u8>>> {
    if node.attr.kind != FileKind::Symlink {
        return Ok(None);
    }
    let target = ctx.client.get_link_target(&ctx.caller, node.attr.inode).await;
    unless_gone(target).map_err(|error| Failure::dfs(&node.path, error))
}

fn unless_gone<T>(answer: dfs_common::Result<T>) -> dfs_common::Result<Option<T>> {
    match answer {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Stale) => Ok(None),
        answer => answer.map(Some),
    }
}

/// `None` for what is not there.
///
/// # Errors
/// Any other failure.
pub(crate) fn found<T>(outcome: Outcome<T>) -> Outcome<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(failure) if matches!(failure.error_kind(), Some(ErrorKind::NotFound | ErrorKind::NotADirectory)) => {
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// Everything below `above` that matches the components, in order of name, and before it why something could not be looked at.
/// Without components, `above` itself is the match.
async fn matching(ctx: &Context, above: DfsPath, components: &[Vec<u8>], links: Links) -> Outcome<Vec<Outcome<Node>>> {
    let (mut nodes, mut matched) = (Vec::new(), Vec::new());
    // A match that is a link is there, wherever that leads.
    let links_above = if components.is_empty() { Links::Keep } else { Links::Follow };
    match unless_fatal(found(resolve(ctx, above, links_above).await))? {
        Ok(node) => nodes.extend(node),
        Err(failure) => matched.push(Err(failure)),
    }
    for component in components {
        let mut next = Vec::new();
        for node in nodes {
            match unless_fatal(matching_in(ctx, node, component).await)? {
                Ok(children) => next.extend(children),
                Err(failure) => matched.push(Err(failure)),
            }
        }
        nodes = next;
    }
    for node in nodes {
        let is_followed = links == Links::Follow && node.attr.kind == FileKind::Symlink;
        let node = if is_followed { resolve(ctx, node.path, Links::Follow).await } else { Ok(node) };
        matched.push(unless_fatal(node)?);
    }
    Ok(matched)
}

/// Takes a failure that would meet everything else, too, out of those that are about one thing.
fn unless_fatal<T>(outcome: Outcome<T>) -> Outcome<Outcome<T>> {
    match outcome {
        Err(failure) if failure.is_fatal() => Err(failure),
        outcome => Ok(outcome),
    }
}

/// The entries of a node that match a component. What is no directory, or is gone, has none.
async fn matching_in(ctx: &Context, node: Node, component: &[u8]) -> Outcome<Vec<Node>> {
    let Some(directory) = as_directory(ctx, node).await? else { return Ok(Vec::new()) };
    let Some(pattern) = glob::pattern_in(component) else {
        let named = found(resolve(ctx, directory.path.join(component), Links::Keep).await)?;
        return Ok(named.into_iter().collect());
    };
    let mut children = match list(ctx, &directory).await {
        Err(failure) if failure.error_kind() == Some(ErrorKind::Stale) => Vec::new(),
        listed => listed?,
    };
    children.retain(|child| child.path.file_name().is_some_and(|name| pattern.matches(name)));
    Ok(children)
}

/// The node if it is a directory, or a link to one.
async fn as_directory(ctx: &Context, node: Node) -> Outcome<Option<Node>> {
    let node = match node.attr.kind {
        FileKind::Symlink => match found(resolve(ctx, node.path, Links::Follow).await) {
            // A link that leads in a circle leads to no directory.
            Err(failure) if failure.error_kind() == Some(ErrorKind::TooManySymlinks) => None,
            target => target?,
        },
        _ => Some(node),
    };
    Ok(node.filter(Node::is_directory))
}

/// The entries of a directory, in order of name.
///
/// # Errors
/// Of the listing, with the directory's path.
pub(crate) async fn list(ctx: &Context, directory: &Node) -> Outcome<Vec<Node>> {
    let failed = |error| Failure::dfs(&directory.path, error);
    let mut nodes = Vec::new();
    let mut cookie = 0;
    loop {
        let inode = directory.attr.inode;
        let page = ctx.client.get_listing(&ctx.caller, inode, cookie, LISTING_PAGE, true).await.map_err(failed)?;
        for entry in &page.entries {
            // A name with a slash in it would lead `get` out of its directory: not even the NameNode is believed here.
            Name::new(&entry.name).map_err(failed)?;
            let attr = entry.attr.clone().ok_or_else(|| {
                failed(DfsError::new(ErrorKind::Protocol, "NameNode's listing lacks the attributes asked for"))
            })?;
            nodes.push(Node { path: directory.path.join(&entry.name), attr });
        }
        match cookie_behind(&page, cookie).map_err(failed)? {
            Some(next) => cookie = next,
            None => break,
        }
    }
    nodes.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(nodes)
}

/// Where the page behind this one begins, which itself began behind `cookie`. None when it is the last one.
///
/// # Errors
/// `Protocol` when it is not the last one and does not lead on: part of a listing must not pass for all of it.
fn cookie_behind(page: &Listing, cookie: u64) -> dfs_common::Result<Option<u64>> {
    match page.entries.last() {
        _ if page.at_end => Ok(None),
        Some(last) if last.cookie > cookie => Ok(Some(last.cookie)),
        _ => Err(DfsError::new(ErrorKind::Protocol, "the NameNode's listing goes on and does not lead on")),
    }
}

/// A tree from the top down, each directory before its entries, entries in order of name. Links are not followed.
pub(crate) struct Walk<'a> {
    ctx: &'a Context,
    /// What is still to come, next one last.
    pending: Vec<Node>,
    passes_over_gone: bool,
    passes_over_unfinished: bool,
}

impl<'a> Walk<'a> {
    /// Starts at `top`, which comes first.
    pub(crate) fn new(ctx: &'a Context, top: Node) -> Self {
        Self { ctx, pending: vec![top], passes_over_gone: false, passes_over_unfinished: false }
    }

    /// Says nothing of directories that are removed while it walks: they are not there.
    #[must_use]
    pub(crate) fn passing_over_gone(self) -> Self {
        Self { passes_over_gone: true, ..self }
    }

    /// Leaves out copies that somebody is making in the tree.
    #[must_use]
    pub(crate) fn passing_over_unfinished(self) -> Self {
        Self { passes_over_unfinished: true, ..self }
    }

    /// Leaves out what is below the directory that came last.
    pub(crate) fn pass_over(&mut self, directory: &DfsPath) {
        while self.pending.last().is_some_and(|next| next.path.parent().as_ref() == Some(directory)) {
            self.pending.pop();
        }
    }

    /// The next node. A directory that cannot be listed is reported and passed over.
    ///
    /// # Errors
    /// A failure that would meet every directory.
    pub(crate) async fn next(&mut self) -> Outcome<Option<Node>> {
        while let Some(node) = self.pending.pop() {
            if !node.is_directory() {
                return Ok(Some(node));
            }
            match list(self.ctx, &node).await {
                Err(failure) if self.passes_over_gone && failure.error_kind() == Some(ErrorKind::Stale) => {}
                listed => {
                    let mut children = self.ctx.tolerate(listed)?.unwrap_or_default();
                    if self.passes_over_unfinished {
                        children.retain(|child| !child.is_unfinished_copy());
                    }
                    self.pending.extend(children.into_iter().rev());
                    return Ok(Some(node));
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use dfs_client::DirEntry;
    use dfs_common::ids::InodeId;

    use super::*;

    #[test]
    fn cookie_behind_takes_no_part_of_a_listing_for_all_of_it() {
        let page = |cookies: &[u64], at_end| {
            let entry = |&cookie| DirEntry {
                name: b"a".to_vec(),
                inode: InodeId(cookie),
                cookie,
                kind: FileKind::File,
                attr: None,
            };
            Listing { entries: cookies.iter().map(entry).collect(), at_end, parent: InodeId(1) }
        };
        assert_eq!(cookie_behind(&page(&[], true), 0).unwrap(), None);
        assert_eq!(cookie_behind(&page(&[4, 7], true), 3).unwrap(), None);
        assert_eq!(cookie_behind(&page(&[4, 7], false), 3).unwrap(), Some(7));
        for (cookies, from) in [(&[][..], 0), (&[4, 7], 7), (&[4, 7], 9)] {
            let error = cookie_behind(&page(cookies, false), from).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{cookies:?} from {from}");
        }
    }

    #[test]
    fn unless_gone_hides_no_other_failure() {
        for &kind in ErrorKind::ALL {
            let gone = matches!(kind, ErrorKind::NotFound | ErrorKind::Stale);
            assert_eq!(unless_gone::<()>(Err(DfsError::new(kind, ""))).is_ok(), gone, "{kind:?}");
        }
        assert_eq!(unless_gone(Ok(1)).unwrap(), Some(1));
    }

    #[test]
    fn unless_fatal_keeps_what_is_about_one_match() {
        let failed = |kind| Err::<(), _>(Failure::kind(&DfsPath::root(), kind));
        assert!(unless_fatal(failed(ErrorKind::TooManySymlinks)).unwrap().is_err());
        assert!(unless_fatal(failed(ErrorKind::ReadOnly)).is_err());
    }
}
