//! The programs of the load: each does one operation after the other, and checks its book when its mount went and came back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::attributes::Attributes;
use super::shared_log::{self, LogWriter};
use super::verdict::{MountState, Outcome, PATIENCE, Verdict};
use crate::model::{Loss, Worker};
use crate::wait::{STARTUP, poll};
use crate::workload::{TreeFile, check_tree};

/// A mount as the load knows it.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Where it is mounted.
    pub(super) root: PathBuf,
    /// Whether it is there.
    pub(super) state: Arc<MountState>,
}

/// One program that runs until it is told to stop, and gives itself back.
pub(super) trait Task: Send {
    /// What it is called in messages.
    fn name(&self) -> String;

    /// The mount that it works on.
    fn place(&self) -> &Place;

    /// One operation.
    fn step(&mut self, verdict: &Verdict) -> Outcome<()>;

    /// Compares its book with what is there.
    ///
    /// # Errors
    /// Of the file system, or a violation.
    fn check(&mut self, loss: Loss) -> io::Result<()>;
}

/// Works until told to stop, or until something is wrong.
fn run(task: &mut dyn Task, stop: &AtomicBool, verdict: &Verdict) {
    let mut is_in_doubt = false;
    while !stop.load(Ordering::Relaxed) {
        let outcome = if is_in_doubt { settle(task, stop, verdict) } else { task.step(verdict) };
        match outcome {
            Outcome::Answered(()) => is_in_doubt = false,
            Outcome::Unknown => is_in_doubt = true,
            Outcome::Bad => return,
        }
    }
}

/// What was under way may have happened or not: nothing else is done before the whole book has been compared, also when the
/// mount goes again in the middle of that.
fn settle(task: &mut dyn Task, stop: &AtomicBool, verdict: &Verdict) -> Outcome<()> {
    let place = task.place().clone();
    let is_over = || stop.load(Ordering::Relaxed);
    if poll(STARTUP, || (place.state.is_there() || is_over()).then_some(())).is_none() {
        verdict.note(format!("{}: the mount did not come back", task.name()));
        return Outcome::Bad;
    }
    if is_over() {
        return Outcome::Unknown;
    }
    let begun = place.state.begin();
    let outcome = task.check(Loss::Processes);
    verdict.judge_untimed(format_args!("{} after its mount came back", task.name()), &begun, outcome)
}

/// All programs, each on a thread of its own.
pub(super) struct Running {
    threads: Vec<(String, JoinHandle<Box<dyn Task>>)>,
    stop: Arc<AtomicBool>,
}

impl Running {
    pub(super) fn start(tasks: Vec<Box<dyn Task>>, verdict: &Arc<Verdict>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |mut task: Box<dyn Task>| {
            let (stop, verdict) = (Arc::clone(&stop), Arc::clone(verdict));
            let name = task.name();
            let work = move || {
                run(&mut *task, &stop, &verdict);
                task
            };
            (name, thread::spawn(work))
        };
        Self { threads: tasks.into_iter().map(start).collect(), stop: Arc::clone(&stop) }
    }

    /// Stops them; all that came back.
    ///
    /// # Errors
    /// Who did not, long after everybody should have.
    pub(super) fn stop(self) -> Result<Vec<Box<dyn Task>>, String> {
        self.stop.store(true, Ordering::Relaxed);
        let is_done = || self.threads.iter().all(|(_, thread)| thread.is_finished()).then_some(());
        if poll(PATIENCE * 2, is_done).is_none() {
            let stuck = self.threads.iter().filter(|(_, thread)| !thread.is_finished());
            let names: Vec<&str> = stuck.map(|(name, _)| name.as_str()).collect();
            return Err(format!("operations that do not end: {}", names.join(", ")));
        }
        Ok(self.threads.into_iter().map(|(_, thread)| thread.join().expect("tasks do not panic")).collect())
    }
}

/// Reads of what somebody has written, through the other mount, are one of so many steps.
const READ_ELSEWHERE: u64 = 8;

/// Whose turn it is: to work, to read what it has written, or to read that through the other mount.
fn choose<'a>(step: &mut u64, own: &'a Place, other: &'a Place) -> Option<&'a Place> {
    *step += 1;
    match *step % READ_ELSEWHERE {
        1 => Some(own),
        5 => Some(other),
        _ => None,
    }
}

/// Where the directory of a task on one mount is on another one.
fn seen_from(place: &Place, dir: &Path) -> PathBuf {
    place.root.join(dir.file_name().expect("a directory has a name"))
}

/// What a look through another mount says of this task: when that mount is away, nothing.
fn looked(outcome: Outcome<()>, own: &Place, through: &Place) -> Outcome<()> {
    if outcome == Outcome::Unknown && own.root != through.root { Outcome::Answered(()) } else { outcome }
}

/// A worker of [`crate::model`]; its files are read while it works.
pub(super) struct Writing {
    pub(super) worker: Worker,
    pub(super) own: Place,
    pub(super) other: Place,
    pub(super) steps: u64,
}

impl Task for Writing {
    fn name(&self) -> String {
        self.worker.dir().display().to_string()
    }

    fn place(&self) -> &Place {
        &self.own
    }

    fn step(&mut self, verdict: &Verdict) -> Outcome<()> {
        let Some(through) = choose(&mut self.steps, &self.own, &self.other) else {
            let begun = self.own.state.begin();
            let outcome = self.worker.step();
            return verdict.judge(format_args!("an operation in {}", self.name()), &begun, outcome);
        };
        let begun = through.state.begin();
        let outcome = if through.root == self.own.root {
            self.worker.read()
        } else {
            self.worker.read_elsewhere(&seen_from(through, self.worker.dir()))
        };
        let outcome = verdict.judge(format_args!("reading through {}", through.root.display()), &begun, outcome);
        looked(outcome, &self.own, through)
    }

    fn check(&mut self, loss: Loss) -> io::Result<()> {
        self.worker.check(loss)?;
        // What a power cut has damaged is given up, as a user would: everything that is left can be whole again.
        if loss == Loss::Power { self.worker.discard_unsynced() } else { Ok(()) }
    }
}

/// Attributes are changed and looked at.
pub(super) struct Changing {
    pub(super) attributes: Attributes,
    pub(super) own: Place,
    pub(super) other: Place,
    pub(super) steps: u64,
}

impl Task for Changing {
    fn name(&self) -> String {
        self.attributes.dir().display().to_string()
    }

    fn place(&self) -> &Place {
        &self.own
    }

    fn step(&mut self, verdict: &Verdict) -> Outcome<()> {
        let Some(through) = choose(&mut self.steps, &self.own, &self.other) else {
            let begun = self.own.state.begin();
            let outcome = self.attributes.step();
            return verdict.judge(format_args!("a change in {}", self.name()), &begun, outcome);
        };
        let begun = through.state.begin();
        let outcome = if through.root == self.own.root {
            self.attributes.read()
        } else {
            self.attributes.read_elsewhere(&seen_from(through, self.attributes.dir()))
        };
        let outcome = verdict.judge(format_args!("looking through {}", through.root.display()), &begun, outcome);
        looked(outcome, &self.own, through)
    }

    fn check(&mut self, _: Loss) -> io::Result<()> {
        self.attributes.check()
    }
}

/// Files that never change are read from the DataNodes over and over.
pub(super) struct Reading {
    pub(super) own: Place,
    pub(super) dir: PathBuf,
    pub(super) tree: Vec<TreeFile>,
    pub(super) next: usize,
}

impl Task for Reading {
    fn name(&self) -> String {
        self.dir.display().to_string()
    }

    fn place(&self) -> &Place {
        &self.own
    }

    fn step(&mut self, verdict: &Verdict) -> Outcome<()> {
        if self.next.is_multiple_of(self.tree.len()) {
            // Past the page cache: what is cached says nothing about replicas.
            let _ = fs::write("/proc/sys/vm/drop_caches", "1");
        }
        let file = &self.tree[self.next % self.tree.len()];
        self.next += 1;
        let begun = self.own.state.begin();
        let outcome = check_tree(&self.dir, std::slice::from_ref(file));
        verdict.judge("reading a file that never changes", &begun, outcome)
    }

    fn check(&mut self, _: Loss) -> io::Result<()> {
        check_tree(&self.dir, &self.tree)
    }
}

/// Records are appended to a log that all mounts append to.
pub(super) struct Appending {
    pub(super) writer: LogWriter,
    pub(super) path: PathBuf,
    pub(super) places: Vec<Place>,
    /// Which of the places is its own.
    pub(super) own: usize,
    /// Since when it was told that somebody else had the file.
    pub(super) busy_since: Option<Instant>,
    pub(super) steps: u64,
}

/// Between two tries to get the log.
const PAUSE: Duration = Duration::from_millis(5);

/// One of so many steps reads the log and checks what it says.
const READ_LOG: u64 = 16;

impl Appending {
    /// A lease belongs to somebody: nobody waits for ever for one that nobody knows of.
    fn judge_busy(&mut self, verdict: &Verdict) -> Outcome<()> {
        let are_there = self.places.iter().all(|place| place.state.is_there());
        let since = *self.busy_since.get_or_insert_with(Instant::now);
        if !are_there {
            self.busy_since = None;
        } else if since.elapsed() > PATIENCE {
            verdict.note(format!("{}: nobody gives up its lease", self.path.display()));
            return Outcome::Bad;
        }
        thread::sleep(PAUSE);
        Outcome::Answered(())
    }
}

impl Task for Appending {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn place(&self) -> &Place {
        &self.places[self.own]
    }

    fn step(&mut self, verdict: &Verdict) -> Outcome<()> {
        self.steps += 1;
        let state = Arc::clone(&self.places[self.own].state);
        let begun = state.begin();
        if self.steps.is_multiple_of(READ_LOG) {
            let outcome = shared_log::check(&self.path, &self.writer);
            return verdict.judge("reading the shared log", &begun, outcome);
        }
        let outcome = self.writer.try_append(&self.path);
        match verdict.judge(format_args!("appending to {}", self.path.display()), &begun, outcome) {
            Outcome::Answered(true) => {
                self.busy_since = None;
                Outcome::Answered(())
            }
            Outcome::Answered(false) => self.judge_busy(verdict),
            Outcome::Unknown => Outcome::Unknown,
            Outcome::Bad => Outcome::Bad,
        }
    }

    fn check(&mut self, loss: Loss) -> io::Result<()> {
        if loss == Loss::Power && !self.writer.syncs() {
            // Whoever comes first removes what is left; the others begin anew with it.
            return shared_log::start_over(&self.path, std::iter::once(&mut self.writer));
        }
        shared_log::check(&self.path, &self.writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its mount goes and comes during its first step and its first check.
    struct Unlucky {
        place: Place,
        done: Vec<&'static str>,
        stop: Arc<AtomicBool>,
    }

    impl Unlucky {
        fn is_hit(&mut self, what: &'static str) -> bool {
            let is_first = !self.done.contains(&what);
            self.done.push(what);
            if is_first {
                self.place.state.go();
                self.place.state.come();
            }
            is_first
        }
    }

    impl Task for Unlucky {
        fn name(&self) -> String {
            "unlucky".to_owned()
        }

        fn place(&self) -> &Place {
            &self.place
        }

        fn step(&mut self, _: &Verdict) -> Outcome<()> {
            if self.is_hit("step") {
                return Outcome::Unknown;
            }
            self.stop.store(true, Ordering::Relaxed);
            Outcome::Answered(())
        }

        fn check(&mut self, _: Loss) -> io::Result<()> {
            if self.is_hit("check") { Err(io::Error::from_raw_os_error(libc::ENOTCONN)) } else { Ok(()) }
        }
    }

    #[test]
    fn run_compares_the_book_until_a_comparison_ends() {
        let place = Place { root: PathBuf::from("/nowhere"), state: Arc::new(MountState::default()) };
        let stop = Arc::new(AtomicBool::new(false));
        let mut task = Unlucky { place, done: Vec::new(), stop: Arc::clone(&stop) };
        let verdict = Verdict::default();
        run(&mut task, &stop, &verdict);
        verdict.pronounce().unwrap();
        assert_eq!(task.done, ["step", "check", "check", "step"]);
    }
}
