//! `scripts/bench`: the same work on each of several mounted directories, as a table and as JSON.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use dfs_tests::bench::{FULL, GROUPS, Group, QUICK, Target, run};

/// The same work on each of several mounted directories, side by side.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench")]
struct Arguments {
    /// A directory to measure, with a name for its column if wanted; ratios are to the last one.
    #[arg(long = "mount", value_name = "[NAME=]DIR", required = true)]
    mounts: Vec<String>,
    /// Where to write the figures as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Less work and one round, for a look.
    #[arg(long)]
    quick: bool,
    /// Rounds; the table shows medians.
    #[arg(long)]
    rounds: Option<usize>,
    /// Only these groups of work.
    #[arg(long, value_delimiter = ',', value_name = "GROUP,...")]
    only: Vec<String>,
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<ExitCode> {
    let targets = arguments.mounts.iter().map(|mount| parse_target(mount)).collect::<Result<Vec<_>>>()?;
    let groups = select_groups(&arguments.only)?;
    let scale = if arguments.quick { QUICK } else { FULL };
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 1 } else { 3 });
    ensure!(rounds > 0, "--rounds must be at least 1");
    let report = run(&targets, &groups, scale, rounds)?;
    print!("{}", report.table());
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report.json())? + "\n";
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(if report.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn parse_target(text: &str) -> Result<Target> {
    let (name, path) = match text.split_once('=') {
        Some((name, path)) => (name.to_owned(), PathBuf::from(path)),
        None => (text.to_owned(), PathBuf::from(text)),
    };
    ensure!(path.is_dir(), "{} is not a directory", path.display());
    Ok(Target { name, path })
}

fn select_groups(only: &[String]) -> Result<Vec<&'static Group>> {
    for name in only {
        let known: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
        ensure!(known.contains(&name.as_str()), "no group {name:?}; there are {}", known.join(", "));
    }
    Ok(GROUPS.iter().filter(|group| only.is_empty() || only.iter().any(|name| name == group.name)).collect())
}
