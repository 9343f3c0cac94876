//! `dfs find`: everything below paths whose name matches.

use std::ffi::OsString;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::failure::Outcome;
use crate::json::PathJson;
use crate::name_pattern::NamePattern;
use crate::tree::{self, Links, Node, Walk};

/// Prints the paths of everything below paths whose name matches.
///
/// The expressions are HDFS's: all that are given must hold. They may be written with one dash or two.
#[derive(Debug, Args)]
pub(crate) struct FindArgs {
    /// The last component of the path matches
    #[arg(long, value_name = "PATTERN", value_parser = parse_pattern)]
    name: Vec<NamePattern>,
    /// As --name, whatever the case
    #[arg(long, value_name = "PATTERN", value_parser = parse_pattern_of_any_case)]
    iname: Vec<NamePattern>,
    /// Accepted as in HDFS: what matches is printed anyway
    #[arg(long)]
    print: bool,
    /// Put a NUL behind each path, in place of a line's end
    #[arg(long)]
    print0: bool,
    /// Accepted as in HDFS: all expressions must hold anyway
    #[arg(short = 'a', long = "and", action = clap::ArgAction::Count)]
    _and: u8,
    /// Paths, which may be patterns; the home directory when there are none
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Serialize)]
struct FoundJson {
    found: Vec<PathJson>,
}

fn parse_pattern(text: &str) -> Result<NamePattern, String> {
    NamePattern::new(text, false)
}

fn parse_pattern_of_any_case(text: &str) -> Result<NamePattern, String> {
    NamePattern::new(text, true)
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: FindArgs) -> Outcome {
    let paths = if args.paths.is_empty() { vec![OsString::from(".")] } else { args.paths.clone() };
    let end = if args.print0 && !args.print { 0 } else { b'\n' };
    let mut found = Vec::new();
    for top in tree::operands(ctx, &paths, Links::Keep).await? {
        let mut walk = Walk::new(ctx, top);
        while let Some(node) = walk.next().await? {
            if !args.matches(&node) {
                continue;
            }
            if ctx.json() {
                found.push(PathJson::from(&node.path));
            } else {
                ctx.output.ended_by(end, node.path.as_bytes())?;
            }
        }
    }
    if ctx.json() { ctx.output.json(&FoundJson { found }) } else { Ok(()) }
}

impl FindArgs {
    fn matches(&self, node: &Node) -> bool {
        let name = node.path.file_name().unwrap_or_default();
        self.name.iter().chain(&self.iname).all(|pattern| pattern.matches(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names_and_case_where_asked() {
        for (pattern, any_case, name, expected) in [
            ("a.txt", false, "a.txt", true),
            ("a.txt", false, "ba.txt", false),
            ("A*", false, "abc", false),
            ("A*", true, "abc", true),
            ("a?c", true, "ABC", true),
        ] {
            let pattern = NamePattern::new(pattern, any_case).unwrap();
            assert_eq!(pattern.matches(name.as_bytes()), expected, "{pattern:?} {name}");
        }
        assert!(parse_pattern("[").is_err());
    }
}
