//! One log format for all programs: to stderr, filtered as the environment says (default: `info`, dependencies `warn`).
//!
//! A filter is a list of levels, separated by commas: of everything (`info`), or of a module and all below it
//! (`dfs_server::datanode=debug`). The longest module that fits counts.

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;

/// What is logged unless told otherwise: our own story, and trouble of the libraries.
const DEFAULT_FILTER: &str = "info,openraft=warn,h2=warn,hyper=warn,tonic=warn,fuser=warn";

/// Starts logging; to be called once, from `main`. Of `filter`, what makes no sense is told on stderr and left out; when nothing is
/// left, errors are logged.
pub fn init(filter: Option<&str>) {
    init_to(std::io::stderr, filter);
}

/// As [`init`], through a writer that brings each line to stderr in a way of its own.
pub fn init_to(writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static, filter: Option<&str>) {
    let (targets, senseless) = parse(filter.unwrap_or(DEFAULT_FILTER));
    for part in senseless {
        eprintln!(
            "ignoring {part:?} in the log filter: write LEVEL or MODULE=LEVEL, with off, error, warn, info or debug"
        );
    }
    let ansi = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(ansi);
    // Fails only when a logger is already there, as in tests.
    let _ = tracing_subscriber::registry().with(targets).with(lines).try_init();
}

/// The filter, and the parts of the text that are none.
fn parse(filter: &str) -> (Targets, Vec<&str>) {
    let (mut targets, mut senseless) = (Targets::new(), Vec::new());
    let parts = filter.split(',').map(str::trim).filter(|part| !part.is_empty());
    for part in parts.clone() {
        let (module, level) = match part.split_once('=') {
            Some((module, level)) => (Some(module.trim()), parse_level(level.trim())),
            None => match parse_level(part) {
                Some(level) => (None, Some(level)),
                // All that a module has to say.
                None => (Some(part), Some(LevelFilter::TRACE)),
            },
        };
        match (module, level) {
            (None, Some(level)) => targets = targets.with_default(level),
            (Some(module), Some(level)) if is_module(module) => targets = targets.with_target(module, level),
            _ => senseless.push(part),
        }
    }
    if senseless.len() == parts.count() {
        targets = targets.with_default(LevelFilter::ERROR);
    }
    (targets, senseless)
}

fn parse_level(word: &str) -> Option<LevelFilter> {
    // Nothing would be a level, too.
    word.parse().ok().filter(|_| !word.is_empty())
}

fn is_module(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "_:-.".contains(c))
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::filter::LevelFilter as Level;

    use super::*;

    /// The most that a module may log.
    fn level_of(targets: &Targets, module: &str) -> Level {
        let levels = [Level::TRACE, Level::DEBUG, Level::INFO, Level::WARN, Level::ERROR];
        let is_enabled = |level: &Level| level.into_level().is_some_and(|level| targets.would_enable(module, &level));
        levels.into_iter().find(is_enabled).unwrap_or(Level::OFF)
    }

    #[test]
    fn parse_follows_the_table() {
        for (filter, ours, datanode, hyper) in [
            ("info", Level::INFO, Level::INFO, Level::INFO),
            ("WARN", Level::WARN, Level::WARN, Level::WARN),
            ("off", Level::OFF, Level::OFF, Level::OFF),
            ("info,dfs_server::datanode=debug", Level::INFO, Level::DEBUG, Level::INFO),
            ("dfs_server::datanode=debug,dfs_server=error,info", Level::ERROR, Level::DEBUG, Level::INFO),
            (" info , hyper = warn ,", Level::INFO, Level::INFO, Level::WARN),
            ("dfs_server=debug", Level::DEBUG, Level::DEBUG, Level::OFF),
            ("dfs_server", Level::TRACE, Level::TRACE, Level::OFF),
            ("hyper=off,debug", Level::DEBUG, Level::DEBUG, Level::OFF),
            (DEFAULT_FILTER, Level::INFO, Level::INFO, Level::WARN),
            ("", Level::ERROR, Level::ERROR, Level::ERROR),
        ] {
            let (targets, senseless) = parse(filter);
            assert!(senseless.is_empty(), "{filter:?}: {senseless:?}");
            let levels = ["dfs_server::namenode", "dfs_server::datanode::store", "hyper"];
            let levels = levels.map(|module| level_of(&targets, module));
            assert_eq!(levels, [ours, datanode, hyper], "{filter:?}");
        }
    }

    #[test]
    fn parse_leaves_out_what_makes_no_sense() {
        let (targets, senseless) = parse("hyper=loud,warn,=debug,[span]=info,dfs_server=,two words");
        assert_eq!(senseless, ["hyper=loud", "=debug", "[span]=info", "dfs_server=", "two words"]);
        assert_eq!(level_of(&targets, "dfs_server"), Level::WARN);
        let (targets, senseless) = parse("hyper=loud");
        assert_eq!((senseless.len(), level_of(&targets, "dfs_server")), (1, Level::ERROR));
    }
}
