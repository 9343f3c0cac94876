//! One log format for all programs: to stderr, filtered as the environment says (default: `info`, dependencies `warn`).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// What is logged unless told otherwise: our own story, and trouble of the libraries.
const DEFAULT_FILTER: &str = "info,openraft=warn,h2=warn,hyper=warn,tonic=warn,fuser=warn";

/// Starts logging; to be called once, from `main`. `filter` is in the syntax of `tracing_subscriber::EnvFilter`.
pub fn init(filter: Option<&str>) {
    init_to(std::io::stderr, filter);
}

/// As [`init`], through a writer that brings each line to stderr in a way of its own.
pub fn init_to(writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static, filter: Option<&str>) {
    let filter = EnvFilter::new(filter.unwrap_or(DEFAULT_FILTER));
    let ansi = std::io::stderr().is_terminal();
    // Fails only when a logger is already there, as in tests.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(ansi).try_init();
}
