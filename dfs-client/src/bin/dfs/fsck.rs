//! `dfs fsck`: the health of everything below paths. Asks for the blocks of a few hundred files at a time, so that neither
//! the NameNode's locks nor an answer grow with the tree.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use dfs_client::BlockHealth;
use dfs_common::attr::FileKind;
use dfs_common::ids::InodeId;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::fsck_report::{Report, describe_block, file_line, location_line};
use crate::path::DfsPath;
use crate::tree::{self, Links, Node, Walk};

/// Files asked about at once.
const FILES_AT_ONCE: usize = 512;

/// Tells how the blocks of files are: missing, corrupt, with too few or too many replicas, on too few racks.
///
/// The status is HEALTHY, and the exit status 0, when every byte below the paths can be read: blocks with too few replicas are
/// shown, and the cluster repairs them by itself. It is INCOMPLETE when a path does not exist, or something may not be looked at.
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
    let mut check = Check { ctx, args: &args, report: Report::default(), waiting: Vec::new() };
    let tops = tree::operands(ctx, &args.paths, Links::Follow).await?;
    if tops.is_empty() && !ctx.json() {
        // Nothing was looked at, and why has been told: totals would look like an answer.
        return Ok(());
    }
    for top in tops {
        check.report.add_path(&top.path);
        let mut walk = Walk::new(ctx, top).passing_over_gone();
        while let Some(node) = walk.next().await? {
            check.take(node).await?;
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
}

impl Check<'_> {
    async fn take(&mut self, node: Node) -> Outcome {
        match node.attr.kind {
            FileKind::Directory => self.report.directories += 1,
            FileKind::File => {
                self.waiting.push(Open { path: node.path, inode: node.attr.inode });
                if self.waiting.len() >= FILES_AT_ONCE {
                    self.ask().await?;
                }
            }
            _ => self.report.others += 1,
        }
        Ok(())
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
