//! The workload of the chaos tests, in a process of its own; see `dfs_tests::chaos::load`.

use std::path::PathBuf;

use clap::Parser;

/// Works on mounts as standard input says.
#[derive(Parser)]
struct Cli {
    /// Where random choices come from.
    #[arg(long)]
    seed: u64,
    /// Mount points of one cluster.
    #[arg(required = true)]
    mounts: Vec<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    Ok(dfs_tests::chaos::load::serve(&cli.mounts, cli.seed)?)
}
