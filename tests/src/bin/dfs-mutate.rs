//! Makes the changes of `tests/mutations.txt` in a copy of the sources, and tells which of them some test notices; see
//! `dfs_tests::mutation` and docs/testing.md.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use dfs_tests::mutation::{CHOICE, Mutation, TestName, apply, count_results, parse};
use serde_json::Value;
use walkdir::WalkDir;

/// Tells which removed fsyncs and checks some test notices.
#[derive(Parser)]
struct Cli {
    /// Only mutations whose names contain one of these
    names: Vec<String>,
    /// Names, files and tests, and nothing is run
    #[arg(long)]
    list: bool,
    /// Where the copy is, with a target directory of its own; kept, so that the next run builds less
    #[arg(long, default_value = "/var/tmp/dfs-mutate")]
    dir: PathBuf,
}

/// Longest run of one test, on the clock: one that hangs has noticed. Several times what the longest takes.
const TEST_MAX: Duration = Duration::from_secs(900);
/// Between two looks at a run.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The list, from the root of the repository.
const LIST: &str = "tests/mutations.txt";

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate lies in the repository")?;
    let text = fs::read_to_string(root.join(LIST)).with_context(|| format!("read {LIST}"))?;
    let all = parse(&text).map_err(anyhow::Error::msg).context(LIST)?;
    let is_wanted = |name: &str| cli.names.is_empty() || cli.names.iter().any(|part| name.contains(part.as_str()));
    let wanted: Vec<&Mutation> = all.iter().filter(|mutation| is_wanted(&mutation.name)).collect();
    if wanted.is_empty() {
        bail!("no mutation has a name like that; see --list");
    }
    if cli.list {
        for mutation in wanted {
            let tests: Vec<String> = mutation.tests.iter().map(ToString::to_string).collect();
            println!("{}  {}  {}", mutation.name, mutation.file, tests.join(", "));
        }
        return Ok(ExitCode::SUCCESS);
    }
    copy(root, &cli.dir, &all)?;
    let house = House::build(cli.dir)?;
    house.check_without_mutation(&wanted)?;
    let mut caught = 0;
    for mutation in &wanted {
        let verdict = house.run(mutation)?;
        caught += usize::from(verdict.is_some());
        println!("{:40}  {}", mutation.name, verdict.unwrap_or_else(|| "NOT caught".to_owned()));
    }
    println!("{caught} of {} caught", wanted.len());
    Ok(if caught == wanted.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes `dir` a copy of all files that git knows or would add, with all mutations in it. What is the same already is not
/// touched, so that it is not built again.
fn copy(root: &Path, dir: &Path, mutations: &[Mutation]) -> Result<()> {
    let mut by_file: BTreeMap<&str, Vec<&Mutation>> = BTreeMap::new();
    for mutation in mutations {
        by_file.entry(&mutation.file).or_default().push(mutation);
    }
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("run git ls-files")?;
    if !listed.status.success() {
        bail!("git ls-files: {}", listed.status);
    }
    let names = String::from_utf8(listed.stdout).context("names of files")?;
    let mut kept = BTreeSet::new();
    for name in names.split('\0').filter(|name| !name.is_empty() && root.join(name).is_file()) {
        let source = root.join(name);
        let mut content = fs::read(&source).with_context(|| format!("read {}", source.display()))?;
        if let Some(mutations) = by_file.remove(name) {
            let text = String::from_utf8(content).with_context(|| format!("{name} is text"))?;
            content = apply(&text, &mutations).map_err(anyhow::Error::msg)?.into_bytes();
        }
        let target = dir.join(name);
        kept.insert(target.clone());
        if fs::read(&target).is_ok_and(|there| there == content) {
            continue;
        }
        fs::create_dir_all(target.parent().context("a file lies in a directory")?)?;
        fs::write(&target, content).with_context(|| format!("write {}", target.display()))?;
        fs::set_permissions(&target, fs::metadata(&source)?.permissions())?;
    }
    if let Some((file, mutations)) = by_file.first_key_value() {
        bail!("{}: there is no file {file}", mutations[0].name);
    }
    let is_ours = |entry: &walkdir::DirEntry| entry.path() != dir.join("target");
    for entry in WalkDir::new(dir).into_iter().filter_entry(is_ours) {
        let path = entry?.into_path();
        if path.is_file() && !kept.contains(&path) {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// How a run of tests ended.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// All of so many passed.
    Passed(u64),
    Failed,
    Hung,
}

/// A program of tests.
struct Program {
    /// For integration tests.
    target: Option<String>,
    path: PathBuf,
    /// Where it expects to run: the crate's directory.
    dir: PathBuf,
}

impl Program {
    /// One that cargo says it has built.
    fn of_message(line: &str) -> Result<Option<Self>> {
        let message: Value = serde_json::from_str(line).context("what cargo says")?;
        let Some(path) = message["executable"].as_str().filter(|_| message["profile"]["test"] == true) else {
            return Ok(None);
        };
        let manifest = message["manifest_path"].as_str().context("the manifest of a crate")?;
        let dir = Path::new(manifest).parent().context("a manifest lies in a directory")?.to_owned();
        let is_integration = message["target"]["kind"][0] == "test";
        let target = is_integration.then(|| message["target"]["name"].as_str().unwrap_or_default().to_owned());
        Ok(Some(Self { target, path: path.into(), dir }))
    }

    fn holds(&self, test: &TestName) -> bool {
        match test {
            TestName::Unit { directory, .. } => self.target.is_none() && self.dir.ends_with(directory),
            TestName::Cluster { target, .. } => self.target.as_ref() == Some(target),
        }
    }
}

/// The copy, built.
struct House {
    dir: PathBuf,
    programs: Vec<Program>,
}

impl House {
    fn build(dir: PathBuf) -> Result<Self> {
        let cargo = |arguments: &[&str]| {
            let mut command = Command::new("cargo");
            command.args(arguments).args(["--release", "--locked", "--workspace"]).current_dir(&dir);
            command.env("CARGO_TARGET_DIR", dir.join("target")).env_remove(CHOICE);
            command.stdin(Stdio::null()).stderr(Stdio::inherit());
            command
        };
        let daemons = cargo(&["build", "--bins"]).status()?;
        let tests = cargo(&["test", "--no-run", "--message-format=json-render-diagnostics"]).output()?;
        if !daemons.success() || !tests.status.success() {
            bail!("the copy with all mutations does not build");
        }
        let said = String::from_utf8(tests.stdout).context("what cargo says")?;
        let programs = said.lines().filter_map(|line| Program::of_message(line).transpose()).collect::<Result<_>>()?;
        Ok(Self { dir, programs })
    }

    /// A test that fails anyway, or that is not there, notices nothing.
    fn check_without_mutation(&self, wanted: &[&Mutation]) -> Result<()> {
        let tests: BTreeSet<&TestName> = wanted.iter().flat_map(|mutation| &mutation.tests).collect();
        for test in tests {
            match self.run_test(test, None)? {
                Ending::Passed(0) => bail!("{test}: there is no such test"),
                Ending::Passed(count) => println!("{test}: {count} tests pass without a mutation"),
                ending => bail!("{test}: {ending:?} without any mutation:\n{}", fs::read_to_string(self.log_path())?),
            }
        }
        Ok(())
    }

    /// Which test notices a mutation, and how.
    fn run(&self, mutation: &Mutation) -> Result<Option<String>> {
        for attempt in 1..=mutation.tries {
            for test in &mutation.tests {
                let begun = Instant::now();
                let ending = self.run_test(test, Some(&mutation.name))?;
                if !matches!(ending, Ending::Passed(_)) {
                    let said = fs::read(self.log_path())?;
                    let failed = failures(&String::from_utf8_lossy(&said)).join(", ");
                    let (took, tries) = (begun.elapsed().as_secs(), mutation.tries);
                    return Ok(Some(format!("{ending:?}: {failed}  ({test}, {took} s, try {attempt} of {tries})")));
                }
            }
        }
        Ok(None)
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("target/mutate.log")
    }

    fn run_test(&self, test: &TestName, choice: Option<&str>) -> Result<Ending> {
        let log = fs::File::create(self.log_path()).context("make a file for what tests say")?;
        let mut passed = 0;
        for program in self.programs.iter().filter(|program| program.holds(test)) {
            match self.run_program(program, test, choice, &log)? {
                Ending::Passed(count) => passed += count,
                ending => return Ok(ending),
            }
        }
        Ok(Ending::Passed(passed))
    }

    /// A line of bash that has the scripts' library, and `argument` as `$0`.
    fn library(&self, line: &str, argument: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!(". scripts/lib.sh; {line}")).arg(argument).current_dir(&self.dir);
        command
    }

    /// A directory for tests, which only `sweep_tests` removes. Of this process: when it is killed, `scripts/test` sweeps.
    fn new_base(&self) -> Result<PathBuf> {
        let mut maker = self.library(r#"new_test_base "$0""#, std::process::id().to_string());
        let made = maker.stderr(Stdio::inherit()).output().context("run bash")?;
        if !made.status.success() {
            bail!("cannot make a directory for tests");
        }
        Ok(PathBuf::from(OsString::from_vec(made.stdout)))
    }

    fn run_program(&self, program: &Program, test: &TestName, choice: Option<&str>, log: &fs::File) -> Result<Ending> {
        let base = self.new_base()?;
        let mut command = Command::new(&program.path);
        command.arg(test.filter()).current_dir(&program.dir).env("CARGO_MANIFEST_DIR", &program.dir);
        if program.target.is_some() {
            // As scripts/test: a case that starts a process closes duplicates of what others have open.
            command.arg("--test-threads=1");
        }
        command.env_remove("DFS_BIN_DIR").env("DFS_TEST_BASE", &base).env_remove(CHOICE);
        command.envs(choice.map(|name| (CHOICE, name)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        let before = log.metadata()?.len();
        let mut child = command.spawn().with_context(|| format!("run {}", program.path.display()))?;
        let begun = Instant::now();
        let said = || -> Result<String> {
            let whole = fs::read(self.log_path())?;
            Ok(String::from_utf8_lossy(whole.get(before as usize..).unwrap_or_default()).into_owned())
        };
        let ending = loop {
            if let Some(status) = child.try_wait()? {
                break match count_results(&said()?) {
                    Some((passed, 0)) if status.success() => Ending::Passed(passed),
                    _ => Ending::Failed,
                };
            }
            // One test that fails is enough: the others need not end.
            let is_failed = !failures(&said()?).is_empty();
            if is_failed || begun.elapsed() >= TEST_MAX {
                child.kill().context("end a run of tests")?;
                child.wait()?;
                break if is_failed { Ending::Failed } else { Ending::Hung };
            }
            thread::sleep(LOOK_INTERVAL);
        };
        // What crashed or hung leaves processes, mounts and devices.
        let swept = self.library(r#"sweep_tests "$0""#, &base).status()?;
        if !swept.success() {
            bail!("cannot free what {test} left in {}", base.display());
        }
        Ok(ending)
    }
}

/// Names of the tests that failed, by the words of the test program.
fn failures(said: &str) -> Vec<String> {
    let of_line = |line: &str| {
        let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
        Some(name.rsplit("::").next().unwrap_or(name).to_owned())
    };
    said.lines().filter_map(of_line).collect()
}
