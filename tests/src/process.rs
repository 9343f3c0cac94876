//! One daemon of a test: started, killed, stopped and started again, with its log kept.
//!
//! Children carry a parent-death signal (by `setpriv`), so that a killed test leaves no process. That signal is tied to
//! the thread that made the child, and test threads end early; one thread that lives as long as the process makes all.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
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

/// A program, its arguments, its log, and the process when it runs.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// A daemon that is not started yet; its output is appended to `log`.
    pub fn new(name: impl Into<String>, program: PathBuf, arguments: Vec<OsString>, log: PathBuf) -> Self {
        Self { name: name.into(), program, arguments, environment: Vec::new(), log, child: None }
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
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("open log");
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=KILL").arg("--").arg(&self.program).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env("RUST_BACKTRACE", "1").env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("clone log")).stderr(log);
        let child = spawn_bound(command).unwrap_or_else(|error| panic!("start {}: {error}", self.program.display()));
        self.child = Some(child);
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
