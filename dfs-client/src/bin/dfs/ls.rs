//! `dfs ls`: directories and what is in them, in HDFS's long lines.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use dfs_common::attr::{FileAttr, FileKind};
use serde::Serialize;

use crate::context::Context;
use crate::failure::Outcome;
use crate::format;
use crate::json::StatusJson;
use crate::output;
use crate::tree::{self, Links, Node};

/// Lists directories and files.
///
/// A line holds mode, replicas, owner, group, length, time of the last change and path, as in HDFS.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// Long lines: what is printed anyway, accepted because hands type it
    #[arg(short = 'l')]
    _long: bool,
    /// Paths only
    #[arg(short = 'C', conflicts_with = "_long")]
    paths_only: bool,
    /// Directories themselves rather than their entries, whatever -R says
    #[arg(short = 'd')]
    directory: bool,
    /// Sizes for people: 1.5 K, 128 M
    #[arg(short = 'h')]
    human: bool,
    /// Everything below, too
    #[arg(short = 'R')]
    recursive: bool,
    /// Newest first
    #[arg(short = 't')]
    by_time: bool,
    /// Largest first, unless -t is given
    #[arg(short = 'S')]
    by_size: bool,
    /// The other way round
    #[arg(short = 'r')]
    reverse: bool,
    /// The time of the last access, in lines and for -t
    #[arg(short = 'u')]
    access_time: bool,
    /// Question marks in place of control characters in names
    #[arg(short = 'q')]
    printable: bool,
    /// Paths, which may be patterns; the home directory when there are none
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Serialize)]
struct EntriesJson {
    entries: Vec<StatusJson>,
}

impl LsArgs {
    /// A path as it is to be printed.
    fn shown<'a>(&self, path: &'a [u8]) -> Cow<'a, [u8]> {
        if self.printable { output::without_controls(path, |_| false).into() } else { path.into() }
    }

    /// The time that is asked for.
    fn time_of(&self, attr: &FileAttr) -> i64 {
        if self.access_time { attr.atime_ns } else { attr.mtime_ns }
    }
}

/// A node, and where it points if it is a link.
struct Entry {
    node: Node,
    link_target: Option<Vec<u8>>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: LsArgs) -> Outcome {
    let paths = if args.paths.is_empty() { vec![OsString::from(".")] } else { args.paths.clone() };
    let links = if args.directory { Links::Keep } else { Links::Follow };
    let nodes = tree::operands(ctx, &paths, links).await?;
    let mut listing = Listing { ctx, args: &args, entries: Vec::new() };
    // What is listed itself comes first and together, so that its columns line up; then directories one by one.
    let (directories, others): (Vec<_>, Vec<_>) =
        nodes.into_iter().partition(|node| node.is_directory() && !args.directory);
    let others = listing.read_links(others).await?;
    listing.show(others)?;
    for directory in directories {
        listing.directory(directory).await?;
    }
    match ctx.json() {
        true => ctx.output.json(&EntriesJson { entries: listing.entries }),
        false => Ok(()),
    }
}

struct Listing<'a> {
    ctx: &'a Context,
    args: &'a LsArgs,
    /// For JSON: everything, in order.
    entries: Vec<StatusJson>,
}

impl Listing<'_> {
    /// The entries of a directory, and with `-R` of those below, each directory's together.
    async fn directory(&mut self, top: Node) -> Outcome {
        let mut pending = vec![top];
        while let Some(directory) = pending.pop() {
            let Some(mut children) = self.ctx.tolerate(tree::list(self.ctx, &directory).await)? else { continue };
            self.sort(&mut children);
            if !self.args.paths_only && !self.args.recursive && !self.ctx.json() && !children.is_empty() {
                // HDFS says so of a single one too, and scripts look for it.
                self.ctx.output.line(format!("Found {} items", children.len()))?;
            }
            if self.args.recursive {
                pending.extend(children.iter().rev().filter(|child| child.is_directory()).cloned());
            }
            let entries = self.read_links(children).await?;
            self.show(entries)?;
        }
        Ok(())
    }

    fn sort(&self, nodes: &mut [Node]) {
        if self.args.by_time {
            nodes.sort_by_key(|node| Reverse(self.args.time_of(&node.attr)));
        } else if self.args.by_size {
            nodes.sort_by_key(|node| Reverse(node.attr.length));
        }
        if self.args.reverse {
            nodes.reverse();
        }
    }

    async fn read_links(&self, nodes: Vec<Node>) -> Outcome<Vec<Entry>> {
        let mut entries = Vec::with_capacity(nodes.len());
        for node in nodes {
            let link_target = self.ctx.tolerate(tree::link_target(self.ctx, &node).await)?.flatten();
            entries.push(Entry { node, link_target });
        }
        Ok(entries)
    }

    fn show(&mut self, entries: Vec<Entry>) -> Outcome {
        if self.ctx.json() {
            let json = |entry: &Entry| {
                let status = StatusJson::new(&entry.node.path, &entry.node.attr, &self.ctx.owners);
                status.with_link_target(entry.link_target.as_deref())
            };
            self.entries.extend(entries.iter().map(json));
            return Ok(());
        }
        if self.args.paths_only {
            return entries
                .iter()
                .try_for_each(|entry| self.ctx.output.line(self.args.shown(entry.node.path.as_bytes())));
        }
        let rows: Vec<Row> = entries.iter().map(|entry| Row::new(entry, self.ctx, self.args)).collect();
        let widths = Widths::of(&rows);
        rows.iter().try_for_each(|row| self.ctx.output.line(row.line(&widths)))
    }
}

/// A line's columns before they are aligned.
struct Row {
    mode: String,
    replication: String,
    owner: String,
    group: String,
    length: String,
    time: String,
    path: Vec<u8>,
}

#[derive(Default)]
struct Widths {
    replication: usize,
    owner: usize,
    group: usize,
    length: usize,
}

impl Row {
    fn new(entry: &Entry, ctx: &Context, args: &LsArgs) -> Self {
        let attr = &entry.node.attr;
        let mut path = entry.node.path.as_bytes().to_vec();
        if let Some(target) = &entry.link_target {
            path.extend_from_slice(b" -> ");
            path.extend_from_slice(target);
        }
        Self {
            mode: format::mode_letters(attr.kind, attr.permissions),
            // What has no replicas shows none, as in HDFS.
            replication: if attr.kind == FileKind::File { attr.replication.to_string() } else { "-".to_owned() },
            owner: ctx.owners.user(attr.uid),
            group: ctx.owners.group(attr.gid),
            length: if entry.node.is_directory() { "0".to_owned() } else { format::size(attr.length, args.human) },
            time: format::minute(args.time_of(attr)),
            path: args.shown(&path).into_owned(),
        }
    }

    fn line(&self, widths: &Widths) -> Vec<u8> {
        let mut line = format!(
            "{} {:>rw$} {:<ow$} {:<gw$} {:>lw$} {} ",
            self.mode,
            self.replication,
            self.owner,
            self.group,
            self.length,
            self.time,
            rw = widths.replication,
            ow = widths.owner,
            gw = widths.group,
            lw = widths.length,
        )
        .into_bytes();
        line.extend_from_slice(&self.path);
        line
    }
}

impl Widths {
    fn of(rows: &[Row]) -> Self {
        rows.iter().fold(Self { replication: 3, ..Self::default() }, |widths, row| Self {
            replication: widths.replication.max(row.replication.len()),
            owner: widths.owner.max(row.owner.len()),
            group: widths.group.max(row.group.len()),
            length: widths.length.max(row.length.len()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_hdfs_columns() {
        let row = |length: &str, path: &[u8]| Row {
            mode: "-rw-r--r--".into(),
            replication: "3".into(),
            owner: "root".into(),
            group: "wheel".into(),
            length: length.into(),
            time: "2026-01-31 12:00".into(),
            path: path.to_vec(),
        };
        let rows = [row("5", b"/a"), row("12345", b"/b\xff")];
        let widths = Widths::of(&rows);
        assert_eq!(rows[0].line(&widths), b"-rw-r--r--   3 root wheel     5 2026-01-31 12:00 /a");
        assert_eq!(rows[1].line(&widths), b"-rw-r--r--   3 root wheel 12345 2026-01-31 12:00 /b\xff");
    }
}
