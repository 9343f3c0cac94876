//! The workload, and the process it runs in.
//!
//! Commands come in as lines on standard input, each answered by one line: `go`, `stop`, `check processes`, `check power`. The
//! answer is `ok ...`, or `bad ...` with what is wrong. While it goes: writers with a book each ([`Worker`]), readers of files that
//! never change, and one log that both mounts append to. Every operation must succeed, and none may take longer than
//! [`PATIENCE`].

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use std::sync::Arc;

use super::shared_log::{self, LogWriter};
use crate::model::{Loss, Worker};
use crate::process::program;
use crate::workload::{TreeFile, check_tree, make_tree, source_tree};

/// Longest that one operation of a program may take while faults come and go: a restarted NameNode, a DataNode found dead.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Writers on each mount.
const WRITERS: u64 = 3;
/// Files that never change.
const STATIC_FILES: usize = 60;

/// What went wrong, and how slow it was; shared by all threads.
#[derive(Default)]
struct Verdict {
    errors: Mutex<Vec<String>>,
    slowest_ms: AtomicU64,
    operations: AtomicU64,
}

impl Verdict {
    fn judge<T>(&self, what: &str, begun: Instant, outcome: io::Result<T>) -> Option<T> {
        let took = begun.elapsed();
        self.slowest_ms.fetch_max(took.as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
        self.operations.fetch_add(1, Ordering::Relaxed);
        let mut errors = self.errors.lock().expect("no holder panics");
        if took > PATIENCE {
            errors.push(format!("{what} took {took:?}"));
        }
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                errors.push(format!("{what} after {took:?}: {error}"));
                None
            }
        }
    }
}

/// One thing that runs until it is told to stop, and gives itself back.
trait Task: Send {
    /// One operation; false when it cannot go on.
    fn step(&mut self, verdict: &Verdict) -> bool;
}

impl Task for Worker {
    fn step(&mut self, verdict: &Verdict) -> bool {
        let begun = Instant::now();
        let outcome = Self::step(self);
        let place = self.dir().display().to_string();
        verdict.judge(&format!("an operation in {place}"), begun, outcome).is_some()
    }
}

struct Reader {
    root: PathBuf,
    tree: Vec<TreeFile>,
}

impl Task for Reader {
    fn step(&mut self, verdict: &Verdict) -> bool {
        // Past the page cache: what is cached says nothing about replicas.
        let _ = fs::write("/proc/sys/vm/drop_caches", "1");
        for file in &self.tree {
            let begun = Instant::now();
            let outcome = check_tree(&self.root, std::slice::from_ref(file));
            if verdict.judge("reading a file that never changes", begun, outcome).is_none() {
                return false;
            }
        }
        true
    }
}

struct Appender {
    writer: LogWriter,
    path: PathBuf,
}

impl Task for Appender {
    fn step(&mut self, verdict: &Verdict) -> bool {
        let begun = Instant::now();
        let outcome = self.writer.try_append(&self.path);
        match verdict.judge("appending to the shared log", begun, outcome) {
            Some(true) => true,
            Some(false) => {
                thread::yield_now();
                true
            }
            None => false,
        }
    }
}

/// Everything that runs, and the books.
struct Load {
    shared_log: PathBuf,
    workers: Vec<Worker>,
    readers: Vec<Reader>,
    appenders: Vec<Appender>,
}

type Running<T> = Vec<JoinHandle<T>>;

fn run_all<T: Task + 'static>(tasks: Vec<T>, stop: &Arc<AtomicBool>, verdict: &Arc<Verdict>) -> Running<T> {
    tasks
        .into_iter()
        .map(|mut task| {
            let (stop, verdict) = (Arc::clone(stop), Arc::clone(verdict));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) && task.step(&verdict) {}
                task
            })
        })
        .collect()
}

fn join_all<T>(running: Running<T>) -> Vec<T> {
    running.into_iter().map(|thread| thread.join().expect("tasks do not panic")).collect()
}

impl Load {
    fn prepare(mounts: &[PathBuf], seed: u64) -> io::Result<Self> {
        let tree = source_tree(seed, STATIC_FILES);
        let root = mounts[0].join("static");
        make_tree(&root, &tree)?;
        for file in &tree {
            fs::File::open(root.join(&file.path))?.sync_all()?;
        }
        let mut workers = Vec::new();
        for (number, mount) in mounts.iter().enumerate() {
            for writer in 0..WRITERS {
                let dir = mount.join(format!("writer-{number}-{writer}"));
                fs::create_dir(&dir)?;
                workers.push(Worker::new(dir, seed.wrapping_add(number as u64 * WRITERS + writer)));
            }
        }
        let readers = mounts.iter().map(|mount| Reader { root: mount.join("static"), tree: tree.clone() }).collect();
        let appender =
            |(mount, name): (&PathBuf, char)| Appender { writer: LogWriter::new(name), path: mount.join("shared-log") };
        let appenders = mounts.iter().zip('a'..).map(appender).collect();
        Ok(Self { shared_log: mounts[0].join("shared-log"), workers, readers, appenders })
    }

    /// Runs until a line comes in; the verdict as a line.
    fn go(&mut self, lines: &mut impl Iterator<Item = io::Result<String>>) -> String {
        let (stop, verdict) = (Arc::new(AtomicBool::new(false)), Arc::new(Verdict::default()));
        let workers = run_all(std::mem::take(&mut self.workers), &stop, &verdict);
        let readers = run_all(std::mem::take(&mut self.readers), &stop, &verdict);
        let appenders = run_all(std::mem::take(&mut self.appenders), &stop, &verdict);
        // `stop`, or the end of whoever started us.
        let _ = lines.next();
        stop.store(true, Ordering::Relaxed);
        self.workers = join_all(workers);
        self.readers = join_all(readers);
        self.appenders = join_all(appenders);
        let errors = verdict.errors.lock().expect("no holder panics");
        let (operations, slowest) =
            (verdict.operations.load(Ordering::Relaxed), verdict.slowest_ms.load(Ordering::Relaxed));
        let figures = format!("{operations} operations, the slowest {slowest} ms");
        if errors.is_empty() { format!("ok {figures}") } else { format!("bad {figures}; {}", errors.join("; ")) }
    }

    fn check(&mut self, loss: Loss) -> Result<(), String> {
        for worker in &mut self.workers {
            worker.check(loss)?;
        }
        if loss == Loss::Processes {
            let writers: Vec<LogWriter> =
                self.appenders.iter_mut().map(|one| std::mem::replace(&mut one.writer, LogWriter::new('-'))).collect();
            let checked = shared_log::check(&self.shared_log, &writers);
            for (appender, writer) in self.appenders.iter_mut().zip(writers) {
                appender.writer = writer;
            }
            checked?;
        }
        for reader in &self.readers {
            check_tree(&reader.root, &reader.tree).map_err(|error| format!("a file that never changes: {error}"))?;
        }
        if loss == Loss::Power {
            self.discard_unsynced().map_err(|error| format!("removing files that were not synced: {error}"))?;
        }
        Ok(())
    }

    /// What a power cut has damaged is given up, as a user would: everything that is left can be whole again.
    fn discard_unsynced(&mut self) -> io::Result<()> {
        self.workers.iter_mut().try_for_each(Worker::discard_unsynced)?;
        shared_log::start_over(&self.shared_log, self.appenders.iter_mut().map(|appender| &mut appender.writer))
    }
}

/// The process: prepares the load on these mounts, then does what standard input says.
///
/// # Errors
/// Of preparing, of standard input and output.
pub fn serve(mounts: &[PathBuf], seed: u64) -> io::Result<()> {
    let mut load = Load::prepare(mounts, seed)?;
    let mut lines = io::stdin().lock().lines();
    let answer = |text: &str| {
        let mut output = io::stdout();
        writeln!(output, "{}", text.replace('\n', " | ")).and_then(|()| output.flush())
    };
    answer("ok ready")?;
    while let Some(line) = lines.next() {
        let said = match line?.as_str() {
            "go" => load.go(&mut lines),
            "check processes" => verdict_of(load.check(Loss::Processes)),
            "check power" => verdict_of(load.check(Loss::Power)),
            other => format!("bad command {other:?}"),
        };
        answer(&said)?;
    }
    Ok(())
}

fn verdict_of(outcome: Result<(), String>) -> String {
    outcome.map_or_else(|why| format!("bad {why}"), |()| "ok".to_owned())
}

/// The other end: a load in its process.
#[derive(Debug)]
pub struct LoadProcess {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl LoadProcess {
    /// Starts it and waits until everything is prepared.
    ///
    /// # Panics
    /// When it cannot.
    pub fn start(mounts: &[&Path], seed: u64) -> Self {
        let mut command = Command::new(program("dfs-chaos-load"));
        command.args(["--seed", &seed.to_string()]).args(mounts).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start dfs-chaos-load");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut load = Self { child, input, output };
        load.hear().expect("the load is prepared");
        load
    }

    /// Lets it run; [`stop`](Self::stop) is due.
    pub fn go(&mut self) {
        self.say("go");
    }

    /// Stops it; its figures.
    ///
    /// # Errors
    /// What failed or took too long meanwhile.
    pub fn stop(&mut self) -> Result<String, String> {
        self.say("stop");
        self.hear()
    }

    /// Compares all books with what is there.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&mut self, loss: Loss) -> Result<String, String> {
        self.say(match loss {
            Loss::Processes => "check processes",
            Loss::Power => "check power",
        });
        self.hear()
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").and_then(|()| self.input.flush()).expect("the load listens");
    }

    fn hear(&mut self) -> Result<String, String> {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the load answers");
        match line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "")) {
            ("ok", rest) => Ok(rest.to_owned()),
            (_, rest) => Err(rest.to_owned()),
        }
    }
}

impl Drop for LoadProcess {
    fn drop(&mut self) {
        // It may wait for a mount that stands still: it is told by a signal, not by the end of its input.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
