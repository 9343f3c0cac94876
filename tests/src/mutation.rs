//! Changes of the product that some test must notice: a removed fsync, a check left out.
//!
//! `tests/mutations.txt` lists them; `scripts/mutate` makes them and runs the tests. All of them are put into one copy of the
//! sources, each behind a question to the environment, so that one build serves all, and a run chooses one by name.
//!
//! ```text
//! == NAME                       what it is called, also in the environment
//! file PATH                     one source file
//!   CONTEXT                     lines that must follow each other, told apart as in a patch: kept,
//! - OLD                         replaced,
//! + NEW                         and their replacement, in which MUTANT is true when this change was chosen
//! test unit DIRECTORY FILTER    what must fail then: unit tests of the crate in a directory,
//! test cluster TARGET FILTER    or cases of a test target of dfs-tests; several are tried one after the other
//! tries N                       how often, for tests that choose moments at random; else once
//! ```
//!
//! Lines are compared without the spaces around them. Lines that are not in the file, or more than once, are an error: the
//! list says something that is not so.

use std::collections::BTreeSet;
use std::fmt;

/// The environment variable that chooses a mutation.
pub const CHOICE: &str = "DFS_MUTATION";
/// What stands for the question in a replacement.
const QUESTION: &str = "MUTANT";

/// One line of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Keep(String),
    Remove(String),
    Insert(String),
}

/// What must notice a mutation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TestName {
    /// Unit tests of a crate whose paths contain the filter.
    Unit {
        /// The crate's directory, which is the name of most crates, but not of the protocols' (`proto`).
        directory: String,
        /// Part of their names.
        filter: String,
    },
    /// Cases of a test target whose names contain the filter.
    Cluster {
        /// The target.
        target: String,
        /// Part of their names.
        filter: String,
    },
}

impl TestName {
    /// Which of its tests.
    pub fn filter(&self) -> &str {
        match self {
            Self::Unit { filter, .. } | Self::Cluster { filter, .. } => filter,
        }
    }
}

impl fmt::Display for TestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit { directory, filter } => write!(f, "{directory} {filter}"),
            Self::Cluster { target, filter } => write!(f, "{target} {filter}"),
        }
    }
}

/// One change, and what must notice it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    /// What it is called.
    pub name: String,
    /// The source file, from the root of the repository.
    pub file: String,
    lines: Vec<Line>,
    /// The tests, of which one must fail.
    pub tests: Vec<TestName>,
    /// How often they are run at most.
    pub tries: u32,
}

/// Reads a list of mutations.
///
/// # Errors
/// Naming the line that cannot be understood, or the mutation that is not whole.
pub fn parse(text: &str) -> Result<Vec<Mutation>, String> {
    let mut mutations: Vec<Mutation> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let at = |what: &str| format!("line {}: {what}: {line:?}", number + 1);
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            let (name, file) = (name.trim().to_owned(), String::new());
            mutations.push(Mutation { name, file, lines: Vec::new(), tests: Vec::new(), tries: 1 });
            continue;
        }
        let mutation = mutations.last_mut().ok_or_else(|| at("nothing has begun"))?;
        mutation.take_line(line).map_err(|what| at(&what))?;
    }
    let mut names = BTreeSet::new();
    for mutation in &mutations {
        mutation.check_whole().map_err(|what| format!("{}: {what}", mutation.name))?;
        if !names.insert(&mutation.name) {
            return Err(format!("{}: twice in the list", mutation.name));
        }
    }
    Ok(mutations)
}

impl Mutation {
    fn take_line(&mut self, line: &str) -> Result<(), String> {
        let code = |text: &str| text.trim().to_owned();
        if let Some(text) = line.strip_prefix("- ") {
            self.lines.push(Line::Remove(code(text)));
        } else if let Some(text) = line.strip_prefix("+ ") {
            self.lines.push(Line::Insert(code(text)));
        } else if let Some(text) = line.strip_prefix("  ") {
            self.lines.push(Line::Keep(code(text)));
        } else {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            match words[..] {
                ["file", path] => self.file = path.to_owned(),
                ["tries", number] => self.tries = number.parse().map_err(|_| "not a number".to_owned())?,
                ["test", "unit", directory, filter] => {
                    self.tests.push(TestName::Unit { directory: directory.to_owned(), filter: filter.to_owned() });
                }
                ["test", "cluster", target, filter] => {
                    self.tests.push(TestName::Cluster { target: target.to_owned(), filter: filter.to_owned() });
                }
                _ => return Err("not understood".to_owned()),
            }
        }
        Ok(())
    }

    fn check_whole(&self) -> Result<(), String> {
        let asks = |line: &Line| matches!(line, Line::Insert(text) if text.contains(QUESTION));
        if self.file.is_empty() || self.tests.is_empty() || self.tries == 0 {
            return Err("needs a file and a test".to_owned());
        }
        if !self.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err("a name is letters, digits and dashes".to_owned());
        }
        if !self.lines.iter().any(asks) {
            return Err(format!("no new line asks for {QUESTION}"));
        }
        Ok(())
    }

    /// Where in the file's lines the change begins, and how many of them it covers.
    fn find(&self, lines: &[&str]) -> Result<(usize, usize), String> {
        let old = |line: &Line| match line {
            Line::Keep(text) | Line::Remove(text) => Some(text.clone()),
            Line::Insert(_) => None,
        };
        let wanted: Vec<String> = self.lines.iter().filter_map(old).collect();
        let is_here = |start: &usize| {
            let window = &lines[*start..*start + wanted.len()];
            window.iter().zip(&wanted).all(|(line, wanted)| line.trim() == wanted)
        };
        let mut places = (0..(lines.len() + 1).saturating_sub(wanted.len())).filter(is_here);
        let shown = wanted.first().map_or("", String::as_str);
        match (places.next(), places.next()) {
            (Some(start), None) => Ok((start, wanted.len())),
            (None, _) => Err(format!("{}: {} has no longer {shown:?} and what follows it", self.name, self.file)),
            (Some(_), Some(_)) => {
                Err(format!("{}: {} has {shown:?} and what follows it more than once", self.name, self.file))
            }
        }
    }

    fn question(&self) -> String {
        format!("std::env::var_os({CHOICE:?}).is_some_and(|name| name == {:?})", self.name)
    }
}

/// A source file with all its mutations, each of which sleeps until it is chosen.
///
/// # Errors
/// Naming the mutation whose lines are not there, are there twice, or are another one's too.
pub fn apply(source: &str, mutations: &[&Mutation]) -> Result<String, String> {
    let lines: Vec<&str> = source.lines().collect();
    let mut places = Vec::new();
    for mutation in mutations {
        let (start, count) = mutation.find(&lines)?;
        places.push((start, count, *mutation));
    }
    places.sort_by_key(|(start, ..)| *start);
    let (mut changed, mut next) = (Vec::new(), 0);
    for (start, count, mutation) in places {
        if start < next {
            return Err(format!("{}: changes lines that another one changes", mutation.name));
        }
        changed.extend(lines[next..start].iter().map(|line| (*line).to_owned()));
        let question = mutation.question();
        changed.extend(mutation.lines.iter().filter_map(|line| match line {
            Line::Keep(text) => Some(text.clone()),
            Line::Insert(text) => Some(text.replace(QUESTION, &question)),
            Line::Remove(_) => None,
        }));
        next = start + count;
    }
    changed.extend(lines[next..].iter().map(|line| (*line).to_owned()));
    Ok(changed.join("\n") + "\n")
}

/// How many tests passed and failed, by the words of a test program: `None` when it did not get to its end.
pub fn count_results(output: &str) -> Option<(u64, u64)> {
    let line = output.lines().rfind(|line| line.starts_with("test result: "))?;
    let number = |what: &str| -> Option<u64> {
        let before = line.split(what).next()?;
        before.split_ascii_whitespace().next_back()?.parse().ok()
    };
    Some((number(" passed")?, number(" failed")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "fn f() {\n    a();\n    sync();\n    b();\n    sync();\n}\n";
    const LIST: &str = "# a comment\n== second-sync\nfile src/f.rs\n  b();\n- sync();\n+ if !MUTANT { sync(); }\n\
                        test unit dfs-server store::\ntest cluster durability power\ntries 3\n";

    #[test]
    fn apply_puts_the_change_where_its_lines_are() {
        let mutations = parse(LIST).unwrap();
        assert_eq!((mutations[0].tries, mutations[0].tests.len()), (3, 2));
        let changed = apply(SOURCE, &[&mutations[0]]).unwrap();
        let expected = "fn f() {\n    a();\n    sync();\nb();\n\
            if !std::env::var_os(\"DFS_MUTATION\").is_some_and(|name| name == \"second-sync\") { sync(); }\n}\n";
        assert_eq!(changed, expected);
    }

    #[test]
    fn apply_names_lines_that_are_gone_or_ambiguous() {
        let list = |old: &str| LIST.replace("  b();", old);
        let mutation = |text: &str| parse(text).unwrap().remove(0);
        let why = apply(SOURCE, &[&mutation(&list("  c();"))]).unwrap_err();
        assert!(why.contains("second-sync") && why.contains("no longer \"c();\""), "{why}");
        let why = apply(SOURCE, &[&mutation(&LIST.replace("  b();\n", ""))]).unwrap_err();
        assert!(why.contains("more than once"), "{why}");
        let (one, other) = (mutation(LIST), mutation(&LIST.replace("second-sync", "same-lines")));
        assert!(apply(SOURCE, &[&one, &other]).unwrap_err().contains("another one"));
    }

    #[test]
    fn parse_refuses_what_is_not_whole() {
        for (from, to, words) in [
            ("file src/f.rs\n", "", "needs a file"),
            ("test unit dfs-server store::\ntest cluster durability power\n", "", "needs a file and a test"),
            ("MUTANT", "true", "no new line asks"),
            ("tries 3", "tries often", "line 9"),
            ("== second-sync\n", "", "nothing has begun"),
            ("second-sync", "second sync", "a name is"),
        ] {
            let why = parse(&LIST.replace(from, to)).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
        assert!(parse(&[LIST, LIST].concat()).unwrap_err().contains("twice"));
    }

    #[test]
    fn count_results_misses_no_program_that_died() {
        let text = "running 2 tests\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; finished in 1 s\n";
        assert_eq!(count_results(text), Some((1, 1)));
        assert_eq!(count_results("running 2 tests\ntest a ... ok\n"), None);
    }
}
