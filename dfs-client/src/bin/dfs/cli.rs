//! The command line: what is common to all commands, and their list.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{ArgAction, Parser, Subcommand};

use crate::context::Context;
use crate::failure::Outcome;
use crate::{
    admin, append_to_file, balancer, cat, checksum, chgrp, chmod, chown, count, cp, df, du, expunge, find, fsck, get,
    getfattr, getmerge, head, ls, mkdir, move_from_local, mv, put, rm, rmdir, setfattr, setrep, stat, tail, test, text,
    touch, touchz, truncate,
};

/// Works with the files of a DFS cluster, as `hdfs dfs` does.
///
/// A relative path starts in the home directory, /user/NAME. Patterns (* ? [a-c] {a,b}) are matched in the cluster: quote them,
/// so that the shell leaves them alone.
///
/// Hadoop's spellings work too: `dfs dfs -rm -r -skipTrash PATH`.
#[derive(Debug, Parser)]
#[command(name = "dfs", version, disable_help_flag = true, arg_required_else_help = true, max_term_width = 100)]
#[command(
    after_help = "The NameNode comes from --namenode, else DFS_NAMENODES, else the key \"dfs.namenode.address\" of the \
                        configuration file. The exit status is 0 only when everything asked for was done."
)]
pub(crate) struct Cli {
    /// NameNodes of the cluster, host:port[,host:port...]
    #[arg(long, global = true, value_name = "ADDRESSES")]
    pub(crate) namenode: Option<String>,
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// A configuration key in place of the file's, like dfs.replication=2
    #[arg(short = 'D', global = true, value_name = "KEY=VALUE")]
    pub(crate) define: Vec<String>,
    /// Results as one JSON document
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print help (-h is taken: sizes for people)
    #[arg(long, global = true, action = ArgAction::Help)]
    help: Option<bool>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

macro_rules! commands {
    ($($module:ident $name:ident $args:ident $word:literal,)*) => {
        /// What to do.
        #[derive(Debug, Subcommand)]
        pub(crate) enum Command {
            $(
                #[allow(missing_docs, reason = "the arguments' own documentation is the help")]
                #[command(name = $word)]
                $name($module::$args),
            )*
        }

        impl Command {
            /// Its name, for complaints.
            pub(crate) fn name(&self) -> &'static str {
                match self {
                    Self::Admin(args) => args.name(),
                    $(#[allow(unreachable_patterns, reason = "admin has names of its own")] Self::$name(_) => $word,)*
                }
            }

            /// Does it.
            pub(crate) async fn run(self, ctx: &Arc<Context>) -> Outcome {
                match self {
                    $(Self::$name(args) => $module::run(ctx, args).await,)*
                }
            }
        }
    };
}

commands! {
    ls Ls LsArgs "ls",
    cat Cat CatArgs "cat",
    head Head HeadArgs "head",
    text Text TextArgs "text",
    find Find FindArgs "find",
    test Test TestArgs "test",
    put Put PutArgs "put",
    move_from_local MoveFromLocal MoveFromLocalArgs "moveFromLocal",
    append_to_file AppendToFile AppendToFileArgs "appendToFile",
    get Get GetArgs "get",
    getmerge Getmerge GetmergeArgs "getmerge",
    cp Cp CpArgs "cp",
    mv Mv MvArgs "mv",
    rm Rm RmArgs "rm",
    rmdir Rmdir RmdirArgs "rmdir",
    expunge Expunge ExpungeArgs "expunge",
    mkdir Mkdir MkdirArgs "mkdir",
    stat Stat StatArgs "stat",
    du Du DuArgs "du",
    df Df DfArgs "df",
    tail Tail TailArgs "tail",
    setrep Setrep SetrepArgs "setrep",
    checksum Checksum ChecksumArgs "checksum",
    count Count CountArgs "count",
    truncate Truncate TruncateArgs "truncate",
    touch Touch TouchArgs "touch",
    touchz Touchz TouchzArgs "touchz",
    chmod Chmod ChmodArgs "chmod",
    chown Chown ChownArgs "chown",
    chgrp Chgrp ChgrpArgs "chgrp",
    getfattr Getfattr GetfattrArgs "getfattr",
    setfattr Setfattr SetfattrArgs "setfattr",
    fsck Fsck FsckArgs "fsck",
    balancer Balancer BalancerArgs "balancer",
    admin Admin AdminArgs "admin",
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::CommandFactory;

    use super::*;
    use crate::hdfs_spelling;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let args = std::iter::once("dfs").chain(line.split_whitespace()).map(OsString::from).collect();
        Cli::try_parse_from(hdfs_spelling::translate(args))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_parses() {
        for line in [
            "ls",
            "ls -l -R -h /a /b",
            "ls -lRh /a",
            "-ls /a",
            "ls -C -t -r",
            "cat /a",
            "put -f -p a b /d",
            "put - /a",
            "put -t 8 a /a",
            "get /a -",
            "get -f -p /a /b .",
            "cp -f /a /b",
            "cp -ptopax /a /b",
            "cp -p /a /b",
            "cp -fp -d -t 2 -q 1024 /a /b",
            "cp -pf /a /b",
            "put a",
            "put -l -d -q 8 -t 2 a b /d",
            "get /a",
            "get -crc -ignoreCrc /a b",
            "get -ignorecrc -p /a",
            "moveFromLocal -p a",
            "expunge",
            "expunge -immediate -fs hdfs:///",
            "checksum -v /a",
            "rm -r -safely /a",
            "ls -q /a",
            "fsck / -includeSnapshots -showprogress",
            "mv /a /b",
            "rm -r -f /a",
            "rm -rf /a",
            "mkdir -p /a",
            "stat -c %b /a",
            "stat %b /a",
            "du -s -h /a",
            "df -h",
            "tail -f /a",
            "setrep -w -R 2 /a",
            "checksum --composite /a",
            "count -h -v /a",
            "truncate -w 64MiB /a",
            "touchz /a",
            "chmod -R u+x /a",
            "chmod -x /a",
            "chown -R 0:0 /a",
            "chgrp -R 0 /a",
            "ls -u -t -S -C -r -R -d",
            "count -q -h -v -u -x /a",
            "du -s -x /a",
            "rm -r -skipTrash /a",
            "copyFromLocal -f a /a",
            "copyToLocal /a .",
            "moveFromLocal a b /d",
            "appendToFile - /a",
            "getmerge -nl /a b",
            "head /a",
            "text /a",
            "cat -ignoreCrc /a",
            "find /a -name *.txt -a -iname x -print0",
            "find -name x",
            "test -e /a",
            "test -z /a",
            "touch -a -m -c -t 20260131:120000 /a",
            "rmdir --ignore-fail-on-non-empty /a",
            "getfattr -R -d -e Hex /a",
            "getfattr -n user.a /a",
            "setfattr -n user.a -v 0x00 /a",
            "setfattr -x user.a /a",
            "stat -v /a",
            "dfs -D dfs.replication=2 -put a /a",
            "fsck / -files -blocks -racks -openforwrite",
            "dfsadmin -saveNamespace",
            "admin report --live",
            "admin safemode wait",
            "admin safemode",
            "admin save-namespace",
            "admin refresh-nodes",
            "fsck / --blocks --locations --files",
            "fsck /a --list-corrupt --json",
            "balancer --threshold 5 --bandwidth 10MiB",
            "--json --namenode h:1 ls /",
            "ls / --json --config f -D dfs.replication=2",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "",
            "nonsense",
            "put",
            "put -t 0 a /a",
            "cp /a",
            "cp --preserve=z /a /b",
            "get",
            "mv /a",
            "rm",
            "setrep 0 /a",
            "setrep x /a",
            "truncate -1 /a",
            "chmod 999 /a",
            "chown : /a",
            "ls -C -l",
            "test /a",
            "test -e -d /a",
            "test -e",
            "getfattr /a",
            "getfattr -d -n user.a /a",
            "setfattr /a",
            "setfattr -n user.a -x user.b /a",
            "setfattr -v x /a",
            "touch -t now /a",
            "chgrp no-such-group /a",
            "appendToFile /a",
            "admin",
            "admin safemode now",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn help_is_long_only() {
        assert_eq!(parse("ls --help").unwrap_err().kind(), clap::error::ErrorKind::DisplayHelp);
        assert!(parse("ls -h").is_ok());
        assert_eq!(parse("admin report --live").unwrap().command.name(), "admin report");
        assert_eq!(parse("-du -s /").unwrap().command.name(), "du");
    }
}
