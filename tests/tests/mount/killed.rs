//! Programs that are killed while they wait for a cluster that does not answer. These cases have clusters of their own, whose
//! NameNodes they stop.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dfs_tests::cluster::Cluster;
use dfs_tests::wait::{Stopwatch, wait_until};
use rustix::process::{Pid, Signal, kill_process_group};

use super::{Case, Mounts, cases};

pub(super) const CASES: [Case<Mounts>; 3] = cases![
    killed_programs_end_while_no_namenode_answers,
    killed_writers_end_while_their_files_cannot_be_closed,
    program_that_begins_while_files_of_the_one_before_are_closed_begins,
];

/// Within this time a killed program has ended.
const BOUND: Duration = Duration::from_secs(2);
/// What may take long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program with its children, as a terminal would kill it.
struct Program {
    script: String,
    shell: Child,
}

impl Program {
    /// Signals do to it what they do by default, however the test was started, but that no core is written.
    fn start(dir: &Path, script: &str) -> Self {
        let mut shell = Command::new("env");
        shell.args(["--default-signal", "sh", "-c", &format!("ulimit -c 0; exec 2>/dev/null; {script}")]);
        shell.current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        Self { script: script.to_owned(), shell: shell.spawn().expect("start sh") }
    }

    /// Its processes that have not ended, by their directories in /proc.
    fn processes(&self) -> impl Iterator<Item = PathBuf> {
        let leader = self.shell.id().to_string();
        let processes = fs::read_dir("/proc").expect("read /proc").flatten().map(|entry| entry.path());
        processes.filter(move |process| {
            let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
            // After the name in parentheses: state, parent, process group. Who waits for an orphan that has ended is not our business.
            let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
            fields.next() != Some("Z") && fields.nth(1) == Some(leader.as_str())
        })
    }

    fn wait_until_it_waits_for_the_mount(&self) {
        wait_until(PATIENCE, format!("{} waits", self.script), || {
            self.processes().any(|process| {
                let place = fs::read_to_string(process.join("wchan")).unwrap_or_default();
                // Not for its children: for the mount, or for another one that has the directory locked meanwhile.
                !matches!(place.as_str(), "" | "0" | "do_wait" | "anon_pipe_read" | "pipe_read")
            })
        });
    }

    fn kill(&self, signal: Signal) {
        let group = i32::try_from(self.shell.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process_group(group, signal).expect("kill");
    }

    fn wait_until_gone(&mut self) {
        wait_until(PATIENCE, format!("{} is gone", self.script), || {
            self.shell.try_wait().expect("wait").is_some() && self.processes().next().is_none()
        });
    }
}

/// Kills programs, which must end in time.
fn kill(programs: &mut [Program], signal: Signal) {
    let watch = Stopwatch::start();
    programs.iter().for_each(|program| program.kill(signal));
    programs.iter_mut().for_each(Program::wait_until_gone);
    assert!(watch.elapsed() < BOUND, "{signal:?}: {:?}", watch.elapsed());
}

/// Opens a file to append to it, as soon as nobody has it open for writing any more.
fn wait_until_writable(path: &Path) {
    wait_until(PATIENCE, format!("{} can be written", path.display()), || {
        OpenOptions::new().append(true).open(path).is_ok()
    });
}

/// On a mount that waits for five minutes, programs wait in calls that no signal interrupts.
fn killed_programs_end_while_no_namenode_answers(_: &Mounts) {
    let cluster = Cluster::builder().start();
    let mount = cluster.mount("mount");
    let signals = [Signal::KILL, Signal::TERM, Signal::QUIT, Signal::ABORT, Signal::SEGV];
    for number in 0..signals.len() {
        fs::write(mount.join(format!("file-{number}")), b"first\n").expect("write");
    }
    cluster.namenode.daemon.pause();
    for (number, signal) in signals.into_iter().enumerate() {
        let scripts = [
            format!("echo more >> file-{number}"),
            format!("mkdir made-{number}"),
            format!("stat absent-{number}"),
            format!("cat file-{number}"),
            "ls -l".to_owned(),
        ];
        let mut programs = scripts.map(|script| Program::start(mount.path(), &script));
        programs.iter().for_each(Program::wait_until_it_waits_for_the_mount);
        kill(&mut programs, signal);
    }
    cluster.namenode.daemon.resume();
    for number in 0..signals.len() {
        wait_until_writable(&mount.join(format!("file-{number}")));
    }
}

/// The kernel closes the files of a process that ends, and waits for that whatever ends it.
fn killed_writers_end_while_their_files_cannot_be_closed(_: &Mounts) {
    let cluster = Cluster::builder().start();
    let (mount, other) = (cluster.mount("mount"), cluster.mount("other"));
    for (number, signal) in [Signal::KILL, Signal::TERM, Signal::ABORT].into_iter().enumerate() {
        // Several: each is waited for, one after the other.
        let names: Vec<String> = (0..10).map(|file| format!("written-{number}-{file}")).collect();
        let mut writer = Program::start(mount.path(), &format!("exec tee {}", names.join(" ")));
        let input = writer.shell.stdin.as_mut().expect("a pipe");
        input.write_all(b"bytes").expect("feed it");
        for name in &names {
            wait_until(PATIENCE, format!("{name} is written"), || {
                fs::metadata(mount.join(name)).is_ok_and(|meta| meta.len() == 5)
            });
        }
        cluster.namenode.daemon.pause();
        kill(&mut [writer], signal);
        cluster.namenode.daemon.resume();
        for name in &names {
            wait_until_writable(&other.join(name));
            assert_eq!(fs::read(other.join(name)).expect("read"), b"bytes");
        }
    }
}

/// Meanwhile the kernel lets nobody look at the process, and waits for the mount.
fn program_that_begins_while_files_of_the_one_before_are_closed_begins(_: &Mounts) {
    let cluster = Cluster::builder().start();
    let mount = cluster.mount("mount");
    // Perl's files are closed by exec.
    let script = r#"open(F, ">>", "file") or die; syswrite(F, "x") or die; <STDIN>; exec "true""#;
    let mut program = Command::new("perl");
    program.args(["-e", script]).current_dir(mount.path()).stdin(Stdio::piped());
    let mut program = program.spawn().expect("start perl");
    wait_until(PATIENCE, "the file is written", || fs::metadata(mount.join("file")).is_ok_and(|file| file.len() == 1));
    cluster.namenode.daemon.pause();
    program.stdin.take().expect("piped").write_all(b"\n").expect("tell it to go on");
    // Who looked into /proc at it would wait as well.
    // The mount has looked at it some times by then.
    let looked = Stopwatch::start();
    wait_until(PATIENCE, "a while has passed", || looked.elapsed() > Duration::from_secs(1));
    assert!(program.try_wait().expect("wait").is_none(), "its files are not closed yet");
    cluster.namenode.daemon.resume();
    wait_until(PATIENCE, "the next program has begun", || program.try_wait().expect("wait").is_some());
    wait_until_writable(&mount.join("file"));
}
