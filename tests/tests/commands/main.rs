//! The shell as scripts for Hadoop use it: names, output and exit statuses of its commands. All cases share one cluster; each
//! works in a directory of its own.

mod attributes;
mod content;
mod failures;
mod looking;
mod paths;
mod signals;

use std::io::Write;
use std::process::{ExitCode, Output, Stdio};

use dfs_tests::cluster::Cluster;
use dfs_tests::suite::{self, Case, Shared};

/// A cluster with one replica of everything.
struct Shell {
    cluster: Cluster,
}

impl Shared for Shell {
    fn set_up() -> Self {
        let cluster = Cluster::builder().datanodes(1).replication(1).start();
        cluster.wait_datanodes_live(1);
        Self { cluster }
    }

    fn diagnostics(&self) -> String {
        self.cluster.diagnostics()
    }
}

impl Shell {
    /// Runs a command that must succeed; its standard output.
    #[track_caller]
    fn dfs(&self, line: &str) -> String {
        let output = self.run(line, "");
        assert!(output.status.success(), "dfs {line}: {output:?}");
        String::from_utf8(output.stdout).expect("dfs prints UTF-8")
    }

    /// Runs a command that must fail with exit status 1; what it says.
    #[track_caller]
    fn refused(&self, line: &str) -> String {
        let output = self.run(line, "");
        assert_eq!(output.status.code(), Some(1), "dfs {line}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Whether a command answers yes; no must be exit status 1 without a word.
    #[track_caller]
    fn answers(&self, line: &str) -> bool {
        let output = self.run(line, "");
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "dfs {line}: {output:?}");
        assert!(matches!(output.status.code(), Some(0 | 1)), "dfs {line}: {output:?}");
        output.status.success()
    }

    /// Runs a command whose arguments are words of a line, with `input` on its standard input.
    fn run(&self, line: &str, input: &str) -> Output {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut command = self.cluster.dfs_command(&words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("run dfs");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(input.as_bytes()).expect("feed dfs");
        drop(stdin);
        child.wait_with_output().expect("wait for dfs")
    }

    /// Makes a file with this content.
    #[track_caller]
    fn write(&self, path: &str, content: &str) {
        let output = self.run(&format!("put - {path}"), content);
        assert!(output.status.success(), "{path}: {output:?}");
    }
}

fn main() -> ExitCode {
    let groups: [&[Case<Shell>]; 6] =
        [&paths::CASES, &content::CASES, &attributes::CASES, &looking::CASES, &failures::CASES, &signals::CASES];
    suite::run(groups.concat())
}
