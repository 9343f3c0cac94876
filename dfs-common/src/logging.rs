//! One log format for all programs: to stderr, level from `DFS_LOG` (default `info`).

use tracing_subscriber::EnvFilter;

/// Starts logging; to be called once, from `main`.
pub fn init(filter: Option<&str>) {
    let filter = filter.map_or_else(|| EnvFilter::new("info"), EnvFilter::new);
    // Fails only when a logger is already there, as in tests.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true).try_init();
}
