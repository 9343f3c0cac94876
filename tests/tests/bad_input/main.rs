//! Bad input gets a clear error, nothing is lost, and nobody else notices.

mod startup;
mod streams;

use std::process::ExitCode;

use dfs_tests::suite::{self, Case, Nothing};

fn main() -> ExitCode {
    let groups: [&[Case<Nothing>]; 2] = [&startup::CASES, &streams::CASES];
    suite::run(groups.concat())
}
