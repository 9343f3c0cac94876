//! One daemon of a test: started, killed, stopped and started again, with its log kept.
//!
//! Children carry a parent-death signal, so that a killed test leaves no process. That signal is tied to
//! the thread that made the child, and test threads end early; one thread that lives as long as the process makes all.
//!
//! A child inherits the descriptors of its parent, and its exec closes them: for a file on a mount that is a flush, which
//! waits for the NameNode. A test that starts the NameNode while its own threads write to a mount would wait for itself.
//! So such a test makes the children beforehand, behind a gate ([`Gated`], [`Daemon::prepare_restarts`]).

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

type SpawnRequest = (Command, Sender<io::Result<Child>>);

/// Starts a child that dies with this process.
fn spawn_bound(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<SpawnRequest>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = channel::<SpawnRequest>();
        std::thread::spawn(move || {
            for (mut command, answer) in requests {
                // The asker may have panicked; its child then dies with the dropped answer's process.
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (answer, result) = channel();
    spawner.send((command, answer)).expect("the spawner lives as long as the process");
    result.recv().expect("the spawner answers")
}

/// Whether a process has a handler of this signal by now; false when it is gone.
pub fn catches(pid: Pid, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = caught.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or_default();
    mask >> (signal.as_raw() - 1) & 1 == 1
}

/// A command whose process exists already and waits to be let go.
#[derive(Debug)]
pub struct Gated {
    child: Child,
}

impl Gated {
    /// Makes the process. Without [`Gated::release`] it ends and does nothing.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn new(command: &Command) -> Self {
        Self::spawn(Self::command(command))
    }

    fn command(command: &Command) -> Command {
        let mut gated = Command::new("setpriv");
        gated.args(["--pdeathsig=KILL", "--", "sh", "-c", "read -r go && exec \"$@\" </dev/null", "sh"]);
        gated.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => gated.env(name, value),
                None => gated.env_remove(name),
            };
        }
        gated
    }

    fn with_log(command: &Command, log: &File) -> Self {
        let mut gated = Self::command(command);
        gated.stdout(log.try_clone().expect("clone log")).stderr(log.try_clone().expect("clone log"));
        Self::spawn(gated)
    }

    fn spawn(mut gated: Command) -> Self {
        gated.stdin(Stdio::piped());
        Self { child: spawn_bound(gated).unwrap_or_else(|error| panic!("start setpriv: {error}")) }
    }

    /// Lets it go.
    pub fn release(mut self) -> Child {
        let mut gate = self.child.stdin.take().expect("the gate is a pipe");
        // If the process is gone already, whoever waits for it will notice.
        let _ = gate.write_all(b"go\n");
        self.child
    }
}

/// A program, its arguments, its log, and the process when it runs.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
    spares: Vec<Gated>,
}

impl Daemon {
    /// A daemon that is not started yet; its output is appended to `log`.
    pub fn new(name: impl Into<String>, program: PathBuf, arguments: Vec<OsString>, log: PathBuf) -> Self {
        Self { name: name.into(), program, arguments, environment: Vec::new(), log, child: None, spares: Vec::new() }
    }

    /// Sets an environment variable of later starts.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts the process, without waiting for it to serve.
    ///
    /// # Panics
    /// When it runs already or cannot be started.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        self.child = Some(match self.spares.pop() {
            Some(spare) => spare.release(),
            None => Gated::with_log(&self.command(), &self.open_log()).release(),
        });
    }

    /// Makes the processes of the next `count` starts, for a test that will have files of a mount open when it starts them.
    ///
    /// # Panics
    /// When they cannot be made.
    pub fn prepare_restarts(&mut self, count: usize) {
        let (command, log) = (self.command(), self.open_log());
        self.spares.extend((0..count).map(|_| Gated::with_log(&command, &log)));
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env("RUST_BACKTRACE", "1").env_remove("NOTIFY_SOCKET");
        command
    }

    fn open_log(&self) -> File {
        OpenOptions::new().create(true).append(true).open(&self.log).expect("open log")
    }

    /// Process id, while it has not been waited for.
    pub fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(Pid::from_child)
    }

    /// Whether the process exists and has not ended.
    pub fn is_running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => false,
        }
    }

    /// Sends a signal; a process that is gone already is fine.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            // It may have died by itself: whoever cares looks at is_running.
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// SIGSTOP: alive and silent.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn terminate(&mut self, timeout: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit(timeout)
    }

    /// Waits for the process to end by itself.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn wait_exit(&mut self, timeout: Duration) -> ExitStatus {
        let Some(child) = self.child.as_mut() else { return ExitStatus::from_raw(0) };
        let status = wait::poll(timeout, || child.try_wait().expect("wait for child"));
        let status =
            status.unwrap_or_else(|| panic!("{} did not end within {timeout:?}\n{}", self.name, self.log_tail()));
        self.child = None;
        status
    }

    /// The whole log.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The log's last lines, with a heading.
    pub fn log_tail(&self) -> String {
        tail_of(&self.name, &self.log)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Lines of a log that are shown when a test fails.
const TAIL_LINES: usize = 40;

fn tail_of(name: &str, log: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n    ");
    format!("--- last lines of {name}\n    {tail}")
}

/// The program of this project called `name`: from `DFS_BIN_DIR`, or beside the test's own binary.
///
/// # Panics
/// When it was not built.
pub fn program(name: &str) -> PathBuf {
    let directory = std::env::var_os("DFS_BIN_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let own = std::env::current_exe().expect("own path");
        let directory = own.parent().expect("an executable lies in a directory");
        // Tests lie in target/release/deps, programs in target/release.
        if directory.ends_with("deps") { directory.parent().expect("deps has a parent") } else { directory }.to_owned()
    });
    let path = directory.join(name);
    assert!(path.exists(), "{} is not there: run cargo build --release --bins first", path.display());
    path
}

/// Fails a test that cannot do its work: mounts and loop devices are root's.
///
/// # Panics
/// When not root, or without /dev/fuse.
pub fn require_root() {
    assert!(rustix::process::geteuid().is_root(), "these tests mount and use loop devices: run them as root");
    assert!(Path::new("/dev/fuse").exists(), "/dev/fuse is missing: load the kernel module fuse");
}
