//! Makes the changes of `tests/mutations.txt` in a copy of the sources, and tells which of them some test notices; see
//! `dfs_tests::mutation` and docs/testing.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use dfs_tests::mutation::{CHOICE, Mutation, TestName, apply, count_results, parse};
use dfs_tests::wait::poll;
use rustix::process::{Pid, Signal, kill_process_group};
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

/// Longest run of one test: one that hangs has noticed.
const TEST_MAX: Duration = Duration::from_secs(900);
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
    let house = House { dir: cli.dir };
    house.build()?;
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

/// How a run of a test ended.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    /// So many tests passed, and none failed.
    Passed(u64),
    Failed,
    Hung,
}

/// The copy.
struct House {
    dir: PathBuf,
}

impl House {
    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(&self.dir).env("CARGO_TARGET_DIR", self.dir.join("target"));
        command.env_remove("DFS_BIN_DIR").env_remove(CHOICE).stdin(Stdio::null());
        command
    }

    fn build(&self) -> Result<()> {
        let status = self.cargo(&["build", "--release", "--locked", "--workspace", "--bins"]).status()?;
        if status.success() { Ok(()) } else { bail!("the copy with all mutations does not build") }
    }

    /// A test that fails anyway, or that is not there, notices nothing.
    fn check_without_mutation(&self, wanted: &[&Mutation]) -> Result<()> {
        let tests: BTreeSet<&TestName> = wanted.iter().flat_map(|mutation| &mutation.tests).collect();
        for test in tests {
            match self.run_test(test, None)? {
                Ending::Passed(0) => bail!("{test}: there is no such test"),
                Ending::Passed(count) => println!("{test}: {count} tests pass without a mutation"),
                ending => bail!("{test}: {ending:?} without any mutation"),
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
                    let (took, tries) = (begun.elapsed().as_secs(), mutation.tries);
                    return Ok(Some(format!("{ending:?}: {test}  ({took} s, try {attempt} of {tries})")));
                }
            }
        }
        Ok(None)
    }

    fn run_test(&self, test: &TestName, choice: Option<&str>) -> Result<Ending> {
        let arguments = test.cargo_arguments();
        let mut words = vec!["test", "--release", "--locked", "--no-fail-fast"];
        words.extend(arguments.iter().map(String::as_str));
        words.extend(["--", test.filter()]);
        let log_path = self.dir.join("target/mutate.log");
        let log = fs::File::create(&log_path).context("make a file for what tests say")?;
        let mut command = self.cargo(&words);
        command.envs(choice.map(|name| (CHOICE, name))).stdout(log.try_clone()?).stderr(log);
        // A group of its own, so that what hangs can be ended with all its children.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().context("run cargo test")?;
        let status = poll(TEST_MAX, || child.try_wait().transpose()).transpose()?;
        let Some(status) = status else {
            kill_process_group(Pid::from_child(&child), Signal::KILL).context("end a test that hangs")?;
            child.wait()?;
            return Ok(Ending::Hung);
        };
        let said = String::from_utf8_lossy(&fs::read(&log_path)?).into_owned();
        if said.contains("error: could not compile") {
            bail!("{test} does not build:\n{said}");
        }
        Ok(match count_results(&said) {
            Some((passed, 0)) if status.success() => Ending::Passed(passed),
            _ => Ending::Failed,
        })
    }
}
