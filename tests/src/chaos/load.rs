//! The workload, and the process it runs in.
//!
//! Commands come in as lines on standard input, each answered by one line, `ok ...`, or `bad ...` with what is wrong:
//!
//! ```text
//! go                       programs run until `stop`, whose answer is the verdict; `go` itself is not answered
//! away N, back N           mount N is about to go; it is back. While it is away, its programs' operations may fail
//! check processes|power    compares all books with what is there
//! ```
//!
//! While it goes: writers with a book each, changes of attributes, readers of files that never change, and two logs that all
//! mounts append to, in one of which every record is synced. Each reads what it has written, through every mount. See
//! `verdict.rs` for what is judged.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use super::attributes::Attributes;
use super::shared_log::LogWriter;
use super::tasks::{Appending, Changing, Place, Reading, Running, Task, Writing};
use super::verdict::{MountState, PATIENCE, Verdict};
use crate::model::{Loss, Worker};
use crate::process::program;
use crate::wait::poll;
use crate::workload::{make_tree, source_tree};

/// Writers on each mount.
const WRITERS: u64 = 3;
/// Files that never change.
const STATIC_FILES: usize = 60;
/// Logs that all mounts append to, and whether their records are synced.
const LOGS: [(&str, bool); 2] = [("shared-log", false), ("synced-log", true)];

/// Who appends to them, by mount.
const NAMES: [char; 4] = ['a', 'b', 'c', 'd'];

/// Everything that runs, with its books.
struct Load {
    places: Vec<Place>,
    tasks: Vec<Box<dyn Task>>,
}

impl Load {
    fn prepare(mounts: &[PathBuf], seed: u64) -> io::Result<Self> {
        let place = |root: &PathBuf| Place { root: root.clone(), state: Arc::new(MountState::default()) };
        let places: Vec<Place> = mounts.iter().map(place).collect();
        let tree = source_tree(seed, STATIC_FILES);
        let root = mounts[0].join("static");
        make_tree(&root, &tree)?;
        for file in &tree {
            fs::File::open(root.join(&file.path))?.sync_all()?;
        }
        // In a directory: where nothing is mounted, there is none to make a file in.
        fs::create_dir(mounts[0].join("logs"))?;
        let mut tasks: Vec<Box<dyn Task>> = Vec::new();
        for (number, own) in places.iter().enumerate() {
            let other = &places[(number + 1) % places.len()];
            let seed = seed.wrapping_add(number as u64 * (WRITERS + 1));
            let make = |name: String| {
                let dir = own.root.join(name);
                fs::create_dir(&dir).map(|()| dir)
            };
            for writer in 0..WRITERS {
                let dir = make(format!("writer-{number}-{writer}"))?;
                let worker = Worker::new(dir, seed.wrapping_add(writer));
                tasks.push(Box::new(Writing { worker, own: own.clone(), other: other.clone(), steps: 0 }));
            }
            let attributes = Attributes::prepare(make(format!("attributes-{number}"))?, seed.wrapping_add(WRITERS))?;
            tasks.push(Box::new(Changing { attributes, own: own.clone(), other: other.clone(), steps: 0 }));
            let dir = own.root.join("static");
            tasks.push(Box::new(Reading { own: own.clone(), dir, tree: tree.clone(), next: 0 }));
            for (name, syncs) in LOGS {
                let writer = LogWriter::new(NAMES[number % NAMES.len()], syncs);
                let path = own.root.join("logs").join(name);
                let places = places.clone();
                tasks.push(Box::new(Appending { writer, path, places, own: number, busy_since: None, steps: 0 }));
            }
        }
        Ok(Self { places, tasks })
    }

    /// Runs until told to stop; the verdict.
    fn go(&mut self, lines: &mut impl Iterator<Item = io::Result<String>>) -> Result<String, String> {
        let verdict = Arc::new(Verdict::default());
        let running = Running::start(std::mem::take(&mut self.tasks), &verdict);
        // `stop`, or the end of whoever started us.
        while let Some(Ok(line)) = lines.next() {
            match self.take_mount_command(&line) {
                Some(outcome) => answer(&outcome).map_err(|error| error.to_string())?,
                None => break,
            }
        }
        self.tasks = running.stop().map_err(|stuck| format!("{stuck}; {:?}", verdict.pronounce()))?;
        verdict.pronounce()
    }

    fn take_mount_command(&self, line: &str) -> Option<Result<String, String>> {
        let (word, number) = line.split_once(' ')?;
        let place = self.places.get(number.parse::<usize>().ok()?)?;
        match word {
            "away" => place.state.go(),
            "back" => {
                if let Err(why) = end_old_session(&place.root) {
                    return Some(Err(why));
                }
                place.state.come();
            }
            _ => return None,
        }
        Some(Ok(String::new()))
    }

    fn check(&mut self, loss: Loss) -> Result<String, String> {
        let mut errors = Vec::new();
        for task in &mut self.tasks {
            if let Err(error) = task.check(loss) {
                errors.push(format!("{}: {error}", task.name()));
            }
        }
        if errors.is_empty() { Ok(format!("{} books", self.tasks.len())) } else { Err(errors.join("; ")) }
    }
}

/// A call that the killed mount has sent may still be on its way to the NameNode, and happen after a book was compared. It is
/// refused once the new mount has a session, which its first change opens.
fn end_old_session(root: &Path) -> Result<(), String> {
    let dir = root.join("logs/session");
    let mut words = String::new();
    let change = || match fs::create_dir(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::remove_dir(&dir),
    };
    let changed = poll(PATIENCE, || change().map_err(|error| words = error.to_string()).ok());
    changed.ok_or_else(|| format!("no change on {} succeeds: {words}", root.display()))
}

fn answer(outcome: &Result<String, String>) -> io::Result<()> {
    let text = match outcome {
        Ok(words) => format!("ok {words}"),
        Err(words) => format!("bad {words}"),
    };
    let mut output = io::stdout();
    writeln!(output, "{}", text.replace('\n', " | ")).and_then(|()| output.flush())
}

/// The process: prepares the load on these mounts, then does what standard input says.
///
/// # Errors
/// Of preparing, of standard input and output.
pub fn serve(mounts: &[PathBuf], seed: u64) -> io::Result<()> {
    let mut load = Load::prepare(mounts, seed)?;
    let mut lines = io::stdin().lock().lines();
    answer(&Ok("ready".to_owned()))?;
    while let Some(line) = lines.next() {
        let line = line?;
        let outcome = match line.as_str() {
            "go" => load.go(&mut lines),
            "check processes" => load.check(Loss::Processes),
            "check power" => load.check(Loss::Power),
            other => load.take_mount_command(other).unwrap_or_else(|| Err(format!("no command: {other:?}"))),
        };
        answer(&outcome)?;
    }
    Ok(())
}

/// Longest silence of the load: comparing all books takes seconds, and some waits of a minute may follow each other in it.
const ANSWER_MAX: Duration = PATIENCE.saturating_mul(6);

/// The other end: a load in its process.
#[derive(Debug)]
pub struct LoadProcess {
    child: Child,
    input: ChildStdin,
    /// What it says, line by line, as a thread of its own hears it.
    said: Receiver<String>,
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
        let (tell, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // Nobody listens any more when it is being ended.
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        let mut load = Self { child, input, said };
        load.hear().expect("the load is prepared");
        load
    }

    /// Lets it run; [`stop`](Self::stop) is due.
    pub fn go(&mut self) {
        self.say("go");
    }

    /// A mount is about to be killed.
    ///
    /// # Errors
    /// When there is no such mount.
    pub fn mount_goes(&mut self, mount: usize) -> Result<String, String> {
        self.say(&format!("away {mount}"));
        self.hear()
    }

    /// It is mounted again.
    ///
    /// # Errors
    /// When nothing can be done on it.
    pub fn mount_is_back(&mut self, mount: usize) -> Result<String, String> {
        self.say(&format!("back {mount}"));
        self.hear()
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
        // In a check nothing has a deadline of its own: an operation that hangs is found here.
        let line =
            self.said.recv_timeout(ANSWER_MAX).map_err(|_| format!("the load did not answer in {ANSWER_MAX:?}"))?;
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
