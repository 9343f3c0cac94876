//! `dfs fsck`: the health of everything below paths. Asks for the blocks of a few hundred files at a time, so that neither
//! the NameNode's locks nor an answer grow with the tree.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use dfs_client::BlockHealth;
use dfs_common::attr::{FileAttr, FileKind};
use dfs_common::ids::InodeId;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::fsck_report::{Report, describe_block, file_line, location_line, second_name_line};
use crate::path::DfsPath;
use crate::tree::{self, Links, Node, Walk};

/// Files asked about at once.
const FILES_AT_ONCE: usize = 512;

/// Tells how the blocks of files are: missing, corrupt, with too few or too many replicas, on too few racks.
///
/// The status is HEALTHY, and the exit status 0, when every byte below the paths can be read: blocks with too few replicas are
/// shown, and the cluster repairs them by itself. It is INCOMPLETE when a path does not exist, or something may not be looked at.
/// A file with several names counts once.
#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// Every file, not only those with problems; as the others, also with one dash
    #[arg(long)]
    files: bool,
    /// Every block
    #[arg(long)]
    blocks: bool,
    /// Where each block is
    #[arg(long, aliases = ["racks", "replicaDetails"])]
    locations: bool,
    /// Only blocks that cannot be read, and the files they belong to
    #[arg(long, alias = "list-corruptfileblocks", conflicts_with_all = ["files", "blocks", "locations"])]
    list_corrupt: bool,
    /// Files that are being written, too
    #[arg(long)]
    openforwrite: bool,
    /// Accepted as in HDFS: there are no snapshots
    #[arg(long = "includeSnapshots")]
    _include_snapshots: bool,
    /// Accepted as in HDFS, which shows it anyway
    #[arg(long = "showprogress")]
    _show_progress: bool,
    /// Paths, which may be patterns
    #[arg(default_value = "/", value_name = "PATH")]
    paths: Vec<OsString>,
}

/// A file whose blocks have not all been seen.
struct Open {
    path: DfsPath,
    inode: InodeId,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: FsckArgs) -> Outcome {
    let mut check = Check {
        ctx,
        args: &args,
        report: Report::new(ctx.json()),
        waiting: Vec::new(),
        with_other_names: SeenOnce::default(),
    };
    let tops = tree::operands(ctx, &args.paths, Links::Follow).await?.nodes;
    if tops.is_empty() && !ctx.json() {
        // Nothing was looked at, and why has been told: totals would look like an answer.
        return Ok(());
    }
    for top in &tops {
        check.report.add_path(&top.path);
    }
    let mut once = Tops::of(&tops);
    for top in tops {
        let mut walk = Walk::new(ctx, top).passing_over_gone();
        while let Some(node) = walk.next().await? {
            if once.is_repeated(&node) {
                walk.pass_over(&node.path);
            } else {
                check.take(node).await?;
            }
        }
    }
    check.ask().await?;
    let mut report = check.report;
    report.has_gaps = ctx.has_failed();
    report.print(ctx, args.list_corrupt)?;
    if !report.has_unreadable_blocks() {
        // What could not be looked at has been told, and makes the exit status 1.
        return Ok(());
    }
    Err(Failure::refused(report.paths(), report.complaint()).with_hint(
        "start the DataNodes that are down (`dfs admin report --dead`); `dfs fsck --list-corrupt` lists what cannot be read",
    ))
}

struct Check<'a> {
    ctx: &'a Context,
    args: &'a FsckArgs,
    report: Report,
    waiting: Vec<Open>,
    /// The files with several names, of which one has been met.
    with_other_names: SeenOnce,
}

/// Files by what they are, whatever they are called.
#[derive(Debug, Default)]
struct SeenOnce(HashSet<InodeId>);

impl SeenOnce {
    /// Whether a node is met for the first time. Nothing is kept of one that has no other name, as no directory has.
    fn is_first(&mut self, attr: &FileAttr) -> bool {
        attr.kind == FileKind::Directory || attr.nlink <= 1 || self.0.insert(attr.inode)
    }
}

/// The operands. One may lie below another, be named twice, or be reached through a link: each is looked at where it is met
/// first, with what is below it.
struct Tops {
    /// Whether it has been met. Paths do not tell: one that leads through a link lies elsewhere.
    is_met: HashMap<InodeId, bool>,
    /// Those files that have several names are told apart by them: each is shown (`SeenOnce`).
    names_met: HashSet<DfsPath>,
}

impl Tops {
    fn of(tops: &[Node]) -> Self {
        Self { is_met: tops.iter().map(|top| (top.attr.inode, false)).collect(), names_met: HashSet::new() }
    }

    /// Whether a node is an operand that was met before.
    fn is_repeated(&mut self, node: &Node) -> bool {
        let Some(is_met) = self.is_met.get_mut(&node.attr.inode) else { return false };
        if node.is_directory() || node.attr.nlink <= 1 {
            return std::mem::replace(is_met, true);
        }
        !self.names_met.insert(node.path.clone())
    }
}

impl Check<'_> {
    async fn take(&mut self, node: Node) -> Outcome {
        let is_first = self.with_other_names.is_first(&node.attr);
        match node.attr.kind {
            FileKind::Directory => self.report.directories += 1,
            FileKind::File if is_first => {
                self.waiting.push(Open { path: node.path, inode: node.attr.inode });
                if self.waiting.len() >= FILES_AT_ONCE {
                    self.ask().await?;
                }
            }
            FileKind::File => self.show_second_name(&node)?,
            _ => self.report.others += u64::from(is_first),
        }
        Ok(())
    }

    fn show_second_name(&self, node: &Node) -> Outcome {
        if !self.shows_all() || self.ctx.json() {
            return Ok(());
        }
        self.ctx.output.line(second_name_line(&node.path, node.attr.length))
    }

    /// Asks about the files that wait.
    async fn ask(&mut self) -> Outcome {
        let waiting = std::mem::take(&mut self.waiting);
        let with_locations = self.args.locations;
        let (mut at, mut first_block) = (0, 0);
        while at < waiting.len() {
            let inodes: Vec<InodeId> = waiting[at..].iter().map(|open| open.inode).collect();
            let answer = self.ctx.client.check_files(&self.ctx.caller, &inodes, first_block, with_locations).await;
            let answer = answer.map_err(Failure::cluster)?;
            let count = answer.files.len();
            if count == 0 || count > inodes.len() {
                return Err(Failure::refused("fsck", "the NameNode's answer does not fit the question"));
            }
            for (number, file) in answer.files.into_iter().enumerate() {
                let path = &waiting[at + number].path;
                if file.is_gone {
                    // Removed while we walked.
                    continue;
                }
                if file.is_denied {
                    self.ctx.report(&Failure::kind(path, dfs_common::ErrorKind::PermissionDenied));
                    continue;
                }
                let is_start = number > 0 || first_block == 0;
                if is_start {
                    self.report.add_file(&file);
                    if (self.shows_all() || self.args.openforwrite && file.is_open) && !self.ctx.json() {
                        self.ctx.output.line(file_line(path, &file))?;
                    }
                }
                for block in &file.blocks {
                    self.take_block(path, block)?;
                }
            }
            at += if answer.next_block > 0 { count - 1 } else { count };
            first_block = answer.next_block;
        }
        Ok(())
    }

    fn shows_all(&self) -> bool {
        self.args.files || self.args.blocks || self.args.locations
    }

    fn take_block(&mut self, path: &DfsPath, block: &BlockHealth) -> Outcome {
        let problem = self.report.add_block(path, block, self.args.blocks || self.args.locations);
        if self.ctx.json() {
            return Ok(());
        }
        if self.args.list_corrupt {
            let is_lost = problem.is_some_and(|problem| problem.is_unreadable());
            return if is_lost {
                self.ctx.output.line([block.block.to_string().as_bytes(), b"\t", path.as_bytes()].concat())
            } else {
                Ok(())
            };
        }
        if problem.is_some() || self.args.blocks || self.args.locations {
            self.ctx.output.line([path.as_bytes(), b": ", describe_block(block).as_bytes()].concat())?;
        }
        if self.args.locations {
            for replica in &block.replicas {
                self.ctx.output.line(location_line(replica))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(path: &str, inode: u64, kind: FileKind, nlink: u32) -> Node {
        let attr = FileAttr {
            permissions: 0o644,
            nlink,
            length: 5,
            replication: 1,
            block_size: 1,
            block_count: 1,
            ..FileAttr::bare(InodeId(inode), kind)
        };
        Node { path: DfsPath::parse(path.as_bytes()).unwrap(), attr }
    }

    #[test]
    fn is_first_is_true_once_for_a_file_of_several_names() {
        let mut seen = SeenOnce::default();
        let (two, same, one) =
            (node("/a", 7, FileKind::File, 2), node("/b", 7, FileKind::File, 2), node("/c", 8, FileKind::File, 1));
        assert!(seen.is_first(&two.attr) && !seen.is_first(&same.attr));
        let directory = node("/d", 9, FileKind::Directory, 2);
        assert!([&one, &one, &directory, &directory].iter().all(|node| seen.is_first(&node.attr)));
        assert_eq!(seen.0.len(), 1);
    }

    #[test]
    fn is_repeated_knows_a_directory_by_what_it_is() {
        let met = [
            (node("/a/b", 3, FileKind::File, 1), false),
            (node("/a", 2, FileKind::Directory, 2), false),
            // The walk of /a comes to it again.
            (node("/a/b", 3, FileKind::File, 1), true),
            (node("/a/other", 9, FileKind::Directory, 2), false),
            (node("/a", 2, FileKind::Directory, 2), true),
            (node("/link-to-a", 2, FileKind::Directory, 2), true),
            // By its path it lies below /a, but a link leads there from elsewhere.
            (node("/a/link/c", 4, FileKind::File, 1), false),
            (node("/two", 5, FileKind::File, 2), false),
            (node("/names", 5, FileKind::File, 2), false),
            (node("/two", 5, FileKind::File, 2), true),
        ];
        let is_top = |node: &Node| node.attr.inode != InodeId(9);
        let tops: Vec<_> = met.iter().map(|(node, _)| node.clone()).filter(is_top).collect();
        let mut once = Tops::of(&tops);
        for (number, (node, expected)) in met.iter().enumerate() {
            assert_eq!(once.is_repeated(node), *expected, "{number}: {}", node.path);
        }
    }
}
