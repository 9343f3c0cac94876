//! Signals end a command whatever it waits for: with the status that a shell expects, soon, and with nothing half done left in
//! the cluster.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dfs_tests::cases;
use dfs_tests::process::catches;
use dfs_tests::suite::Case;
use dfs_tests::wait::{Stopwatch, poll, wait_until};
use rustix::fs::{CWD, FileType, mknodat};
use rustix::process::{Pid, Signal, kill_process};

use super::Shell;

pub(super) const CASES: [Case<Shell>; 4] = cases![
    output_that_nobody_takes_keeps_no_command_from_ending,
    complaints_that_nobody_takes_leave_nothing_behind,
    what_waits_for_a_fifo_or_a_terminal_ends,
    directories_of_a_copy_that_is_ended_have_their_modes,
];

const PATIENCE: Duration = Duration::from_secs(30);
/// About a second, and what a process takes to be gone.
const SOON: Duration = Duration::from_secs(2);
/// Bytes in a pipe that takes no more, or soon: it holds 64 KiB, and lines do not quite fill its pages.
const PIPE_FULL: u64 = 58 << 10;
const SIGNALS: [(Signal, i32); 3] = [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)];

/// A command as a shell starts it in the foreground, whatever the tests themselves were told to ignore.
fn command(shell: &Shell, words: &[&str]) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal=INT,TERM,HUP").arg(shell.cluster.dfs_command(&[]).get_program()).args(words);
    command.env("DFS_NAMENODES", shell.cluster.namenodes()).stdin(Stdio::null());
    command
}

/// Sends a signal, after which the command must end soon, with this status.
#[track_caller]
fn end(mut child: Child, (signal, status): (Signal, i32)) {
    let watch = Stopwatch::start();
    kill_process(Pid::from_child(&child), signal).unwrap();
    let ended = poll(PATIENCE, || child.try_wait().unwrap());
    let elapsed = watch.elapsed();
    if ended.is_none() {
        child.kill().unwrap();
    }
    assert!(ended.is_some_and(|ended| ended.code() == Some(status)), "{signal:?}: {ended:?}");
    assert!(elapsed < SOON, "{signal:?}: {elapsed:?}");
}

/// Bytes that wait in a pipe to be read.
fn unread(pipe: &impl AsFd) -> u64 {
    rustix::io::ioctl_fionread(pipe).expect("ask the pipe")
}

fn output_that_nobody_takes_keeps_no_command_from_ending(shell: &Shell) {
    let path = format!("/signals-out/{}", "x".repeat(200));
    shell.dfs(&format!("mkdir -p {path}"));
    let words: Vec<&str> = std::iter::once("find").chain(std::iter::repeat_n(path.as_str(), 1500)).collect();
    for signal in SIGNALS {
        let (reader, writer) = std::io::pipe().unwrap();
        let child = command(shell, &words).stdout(writer).spawn().expect("start dfs");
        wait_until(PATIENCE, "the pipe to be full", || unread(&reader) >= PIPE_FULL);
        end(child, signal);
    }
}

fn complaints_that_nobody_takes_leave_nothing_behind(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let tree = local.path().join("tree");
    fs::create_dir(&tree).unwrap();
    // First by name, and under way for as long as the others are complained of.
    fs::File::create(tree.join("a-large")).unwrap().set_len(1 << 30).unwrap();
    for number in 0..400 {
        let fifo = tree.join(format!("fifo-{number}-{}", "x".repeat(200)));
        mknodat(CWD, &fifo, FileType::Fifo, 0o600.into(), 0).unwrap();
    }
    shell.dfs("mkdir /signals-put");
    for signal in SIGNALS {
        let (reader, writer) = std::io::pipe().unwrap();
        let words = ["put", "-f", tree.to_str().unwrap(), "/signals-put/tree"];
        let child = command(shell, &words).stderr(writer).spawn().expect("start dfs");
        wait_until(PATIENCE, "the pipe to be full", || unread(&reader) >= PIPE_FULL);
        let names = || shell.dfs("find /signals-put");
        wait_until(PATIENCE, "the temporary name", || names().contains("_COPYING_"));
        end(child, signal);
        assert_eq!(names(), "/signals-put\n/signals-put/tree\n", "{signal:?}");
        shell.dfs("rm -r /signals-put/tree");
    }
}

fn what_waits_for_a_fifo_or_a_terminal_ends(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let fifo = local.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, 0o600.into(), 0).unwrap();
    let fifo = fifo.to_str().unwrap();
    shell.dfs("mkdir /signals-fifo");
    shell.write("/signals-fifo/file", "text");
    for words in [
        &["put", fifo, "/signals-fifo/copy"][..],
        &["appendToFile", fifo, "/signals-fifo/file"],
        &["appendToFile", "-", "/signals-fifo/file"],
        &["get", "/signals-fifo/file", fifo],
        &["getmerge", "/signals-fifo", fifo],
        &["--config", fifo, "ls", "/"],
    ] {
        for signal in SIGNALS {
            // Standard input that never ends, as of a terminal at which nobody types.
            let (input, _kept) = std::io::pipe().unwrap();
            let child = command(shell, words).stdin(input).spawn().expect("start dfs");
            wait_until(PATIENCE, "the command to listen", || {
                SIGNALS.iter().all(|(signal, _)| catches(Pid::from_child(&child), *signal))
            });
            end(child, signal);
        }
    }
    assert_eq!(shell.dfs("find /signals-fifo"), "/signals-fifo\n/signals-fifo/file\n");
    assert_eq!(shell.dfs("cat /signals-fifo/file"), "text");
}

fn directories_of_a_copy_that_is_ended_have_their_modes(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let (tree, got) = (local.path().join("tree"), local.path().join("got"));
    fs::create_dir_all(tree.join("d")).unwrap();
    fs::File::create(tree.join("d/large")).unwrap().set_len(512 << 20).unwrap();
    for name in ["", "d"] {
        fs::set_permissions(tree.join(name), fs::Permissions::from_mode(0o550)).unwrap();
    }
    shell.dfs("mkdir /signals-modes");
    shell.dfs(&format!("put {} /signals-modes/from", tree.display()));
    let here = |name: &str| fs::metadata(got.join(name)).unwrap().permissions().mode() & 0o7777;
    let (local, copy) = (tree.to_str().unwrap(), got.to_str().unwrap());
    for words in [["put", local, "/signals-modes/to"], ["cp", "/signals-modes/from", "/signals-modes/to"]] {
        let child = command(shell, &words).spawn().expect("start dfs");
        let is_begun = || shell.dfs("find /signals-modes").contains("_COPYING_");
        wait_until(PATIENCE, "the temporary name", is_begun);
        end(child, SIGNALS[1]);
        assert_eq!(shell.dfs("find /signals-modes/to"), "/signals-modes/to\n/signals-modes/to/d\n", "{words:?}");
        assert_eq!(shell.dfs("stat -c %a /signals-modes/to /signals-modes/to/d"), "550\n550\n", "{words:?}");
        shell.dfs("rm -r /signals-modes/to");
    }
    let child = command(shell, &["get", "/signals-modes/from", copy]).spawn().expect("start dfs");
    let is_begun = || fs::read_dir(got.join("d")).is_ok_and(|mut entries| entries.next().is_some());
    wait_until(PATIENCE, "the temporary name", is_begun);
    end(child, SIGNALS[1]);
    assert_eq!((here(""), here("d")), (0o550, 0o550));
    assert!(!is_begun(), "nothing is in it");
    shell.dfs("rm -r /signals-modes");
}
