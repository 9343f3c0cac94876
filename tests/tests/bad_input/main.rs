//! Bad input gets a clear error, nothing is lost, and nobody else notices.

mod flood;
mod startup;
mod streams;

use std::process::ExitCode;

use dfs_tests::suite::{self, Case, Nothing};

fn main() -> ExitCode {
    let groups: [&[Case<Nothing>]; 3] = [&startup::CASES, &streams::CASES, &flood::CASES];
    suite::run(groups.concat())
}
