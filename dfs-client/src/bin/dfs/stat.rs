//! `dfs stat`: the time of the last change, what a format asks for, or all there is to know about an inode.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use clap::Args;
use dfs_common::attr::FileKind;
use serde::Serialize;

use crate::context::Context;
use crate::failure::Outcome;
use crate::format;
use crate::json::StatusJson;
use crate::owner::Owners;
use crate::tree::{self, Links, Node};

/// HDFS's.
const DEFAULT_FORMAT: &str = "%y";

/// Shows attributes of files and directories: as in HDFS the time of the last change (UTC), unless asked for others.
///
/// FORMAT has HDFS's directives: %a mode in octal, %A in letters, %b length, %F kind, %g group, %n name, %o block size, %r
/// replicas, %u owner, %x last access, %y last change (UTC), %X and %Y the same in milliseconds since 1970, %% a percent
/// sign. As in HDFS, a first argument with a % in it is the format too.
#[derive(Debug, Args)]
pub(crate) struct StatArgs {
    /// What to print for each path
    #[arg(short = 'c', long)]
    format: Option<String>,
    /// Everything there is to know
    #[arg(short = 'v', long, conflicts_with = "format")]
    verbose: bool,
    /// What a symbolic link points to rather than the link
    #[arg(short = 'L', long)]
    dereference: bool,
    /// Paths, which may be patterns
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Serialize)]
struct FilesJson {
    files: Vec<StatusJson>,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: StatArgs) -> Outcome {
    let (format, paths) = split_format(args.format, args.paths);
    let links = if args.dereference { Links::Follow } else { Links::Keep };
    let mut files = Vec::new();
    for node in tree::operands(ctx, &paths, links).await? {
        let target = ctx.tolerate(tree::link_target(ctx, &node).await)?.flatten();
        if ctx.json() {
            files.push(StatusJson::new(&node.path, &node.attr, &ctx.owners).with_link_target(target.as_deref()));
        } else if format.is_some() || !args.verbose {
            let format = format.as_deref().unwrap_or(DEFAULT_FORMAT);
            ctx.output.line(formatted(format, &node, &ctx.owners))?;
        } else {
            for line in described(&node, target.as_deref(), &ctx.owners) {
                ctx.output.line(line)?;
            }
        }
    }
    if ctx.json() { ctx.output.json(&FilesJson { files }) } else { Ok(()) }
}

/// HDFS takes the format as first argument; a path with a percent sign is one all the same when it stands alone.
fn split_format(format: Option<String>, mut paths: Vec<OsString>) -> (Option<String>, Vec<OsString>) {
    if format.is_none()
        && paths.len() > 1
        && paths[0].as_bytes().contains(&b'%')
        && let Some(first) = paths[0].to_str().map(ToOwned::to_owned)
    {
        paths.remove(0);
        return (Some(first), paths);
    }
    (format, paths)
}

fn formatted(format: &str, node: &Node, owners: &Owners) -> Vec<u8> {
    let attr = &node.attr;
    let mut line = Vec::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            line.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let value = match letters.next() {
            Some('a') => format!("{:o}", attr.permissions),
            Some('A') => format::permission_letters(attr.permissions),
            Some('b') => attr.length.to_string(),
            Some('F') => kind_in_hdfs_words(attr.kind).to_owned(),
            Some('g') => owners.group(attr.gid),
            Some('n') => {
                line.extend_from_slice(node.path.file_name().unwrap_or(b"/"));
                continue;
            }
            Some('o') => attr.block_size.to_string(),
            Some('r') => attr.replication.to_string(),
            Some('u') => owners.user(attr.uid),
            Some('x') => format::second_utc(attr.atime_ns),
            Some('X') => format::milliseconds(attr.atime_ns).to_string(),
            Some('y') => format::second_utc(attr.mtime_ns),
            Some('Y') => format::milliseconds(attr.mtime_ns).to_string(),
            Some('%') | None => "%".to_owned(),
            // As in HDFS, an unknown directive prints itself.
            Some(other) => other.to_string(),
        };
        line.extend_from_slice(value.as_bytes());
    }
    line
}

fn kind_in_hdfs_words(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "regular file",
        other => format::kind_name(other),
    }
}

fn described(node: &Node, target: Option<&[u8]>, owners: &Owners) -> Vec<Vec<u8>> {
    let attr = &node.attr;
    let mut path = [b"  Path: ", node.path.as_bytes()].concat();
    if let Some(target) = target {
        path.extend_from_slice(b" -> ");
        path.extend_from_slice(target);
    }
    let writing = if attr.under_construction { ", being written" } else { "" };
    let mut lines = vec![
        path,
        format!(
            "Length: {}  Blocks: {}  Block size: {}  Replicas: {}  {}{writing}",
            attr.length,
            attr.block_count,
            attr.block_size,
            attr.replication,
            kind_in_hdfs_words(attr.kind)
        )
        .into_bytes(),
        format!(
            "  Mode: {:04o} ({})  Owner: {} ({})  Group: {} ({})  Inode: {}  Links: {}",
            attr.permissions,
            format::mode_letters(attr.kind, attr.permissions),
            owners.user(attr.uid),
            attr.uid,
            owners.group(attr.gid),
            attr.gid,
            attr.inode,
            attr.nlink
        )
        .into_bytes(),
    ];
    for (what, ns) in [("Access", attr.atime_ns), ("Modify", attr.mtime_ns), ("Change", attr.ctime_ns)] {
        lines.push(format!("{what}: {}", format::exact(ns)).into_bytes());
    }
    lines
}

#[cfg(test)]
mod tests {
    use dfs_common::attr::FileAttr;
    use dfs_common::ids::InodeId;

    use super::*;
    use crate::path::DfsPath;

    fn node() -> Node {
        let attr = FileAttr {
            permissions: 0o640,
            length: 5,
            mtime_ns: 1_700_000_000_123_000_000,
            replication: 3,
            block_size: 128,
            block_count: 1,
            ..FileAttr::bare(InodeId(16_385), FileKind::File)
        };
        Node { path: DfsPath::parse(b"/d/a\xff").unwrap(), attr }
    }

    #[test]
    fn formatted_knows_hdfs_directives() {
        let line = |format: &str| formatted(format, &node(), &Owners::default());
        assert_eq!(line("%a %A %b %F"), b"640 rw-r----- 5 regular file");
        assert_eq!(line("%u:%g %o %r"), b"root:root 128 3");
        assert_eq!(line("%y %Y %X"), b"2023-11-14 22:13:20 1700000000123 0");
        assert_eq!(line("%n"), b"a\xff");
        assert_eq!(line(DEFAULT_FORMAT), b"2023-11-14 22:13:20");
        assert_eq!(line("100%% %q \u{e9} %"), "100% q \u{e9} %".as_bytes());
    }

    #[test]
    fn split_format_leaves_a_single_path_alone() {
        let split = |args: &[&str]| split_format(None, args.iter().map(OsString::from).collect());
        assert_eq!(split(&["%b", "/a"]), (Some("%b".into()), vec!["/a".into()]));
        assert_eq!(split(&["/50%"]), (None, vec!["/50%".into()]));
        assert_eq!(split(&["/a", "/b%"]), (None, vec!["/a".into(), "/b%".into()]));
    }

    #[test]
    fn described_never_fails() {
        assert_eq!(described(&node(), Some(b"/t"), &Owners::default()).len(), 6);
    }
}
