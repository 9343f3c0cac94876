//! `dfs test`: a question about a path, answered by the exit status.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use dfs_client::Caller;
use dfs_common::attr::{FileAttr, FileKind};

use crate::context::Context;
use crate::failure::Outcome;
use crate::tree::{self, Links};

/// Bits of a permission, as in one digit of a mode.
const READ: u32 = 4;
const WRITE: u32 = 2;

/// Answers a question about a path: the exit status is 0 for yes and 1 for no.
///
/// What does not exist is no, without a word.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    #[command(flatten)]
    question: Question,
    /// A path, which may be a pattern: then yes means all that match
    #[arg(value_name = "PATH")]
    path: OsString,
}

#[derive(Clone, Copy, Debug, Default, Args)]
#[group(required = true, multiple = false)]
struct Question {
    /// Is it a directory?
    #[arg(short = 'd')]
    is_directory: bool,
    /// Does it exist?
    #[arg(short = 'e')]
    exists: bool,
    /// Is it a file?
    #[arg(short = 'f')]
    is_file: bool,
    /// Has it content?
    #[arg(short = 's')]
    has_content: bool,
    /// Is it there without content?
    #[arg(short = 'z')]
    is_empty: bool,
    /// May it be read?
    #[arg(short = 'r')]
    is_readable: bool,
    /// May it be written to?
    #[arg(short = 'w')]
    is_writable: bool,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: TestArgs) -> Outcome {
    let nodes = tree::found(tree::expand(ctx, &args.path, Links::Follow).await)?.unwrap_or_default();
    let mut holds = !nodes.is_empty();
    for node in nodes {
        holds &= tree::found(node)?.is_some_and(|node| args.question.holds(&node.attr, &ctx.caller));
    }
    if !holds {
        ctx.answer_no();
    }
    Ok(())
}

impl Question {
    fn holds(self, attr: &FileAttr, caller: &Caller) -> bool {
        // As in HDFS, a directory is empty whatever is in it.
        let length = if attr.kind == FileKind::File { attr.length } else { 0 };
        let answers = [
            (self.is_directory, attr.kind == FileKind::Directory),
            (self.exists, true),
            (self.is_file, attr.kind == FileKind::File),
            (self.has_content, length > 0),
            (self.is_empty, length == 0),
            (self.is_readable, has_permission(attr, caller, READ)),
            (self.is_writable, has_permission(attr, caller, WRITE)),
        ];
        answers.iter().all(|(is_asked, answer)| !is_asked || *answer)
    }
}

/// Whether the mode gives the permission: the owner's digit for the owner, the group's for the group, else the last.
fn has_permission(attr: &FileAttr, caller: &Caller, permission: u32) -> bool {
    let shift = if caller.uid == attr.uid {
        6
    } else if caller.gid == attr.gid || caller.groups.contains(&attr.gid) {
        3
    } else {
        0
    };
    caller.uid == 0 || (attr.permissions >> shift) & permission != 0
}

#[cfg(test)]
mod tests {
    use dfs_common::ids::InodeId;

    use super::*;

    fn attr(kind: FileKind, length: u64) -> FileAttr {
        FileAttr {
            permissions: 0o640,
            uid: 1,
            gid: 10,
            length,
            replication: 3,
            block_size: 128,
            block_count: 1,
            ..FileAttr::bare(InodeId(1), kind)
        }
    }

    #[test]
    fn holds_is_this_table() {
        let (full, empty, directory) =
            (attr(FileKind::File, 5), attr(FileKind::File, 0), attr(FileKind::Directory, 4096));
        let ask = Question::default;
        for (question, expected) in [
            (Question { exists: true, ..ask() }, [true, true, true]),
            (Question { is_file: true, ..ask() }, [true, true, false]),
            (Question { is_directory: true, ..ask() }, [false, false, true]),
            (Question { has_content: true, ..ask() }, [true, false, false]),
            (Question { is_empty: true, ..ask() }, [false, true, true]),
        ] {
            let answers = [&full, &empty, &directory].map(|attr| question.holds(attr, &Caller::root()));
            assert_eq!(answers, expected, "{question:?}");
        }
    }

    #[test]
    fn has_permission_looks_at_one_digit() {
        let file = attr(FileKind::File, 5);
        let may = |uid, gid, groups: &[u32]| {
            let caller = Caller { uid, gid, groups: groups.into(), is_authorised: false };
            (has_permission(&file, &caller, READ), has_permission(&file, &caller, WRITE))
        };
        assert_eq!(may(1, 10, &[]), (true, true), "the owner");
        assert_eq!(may(2, 10, &[]), (true, false), "the group");
        assert_eq!(may(2, 20, &[5, 10]), (true, false), "by a supplementary group");
        assert_eq!(may(2, 20, &[]), (false, false), "others");
        assert_eq!(may(0, 20, &[]), (true, true), "the superuser");
    }
}
