//! Documents that repeat what the code says must say what the code says.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use dfs_common::config_file::{KEYS, Key};
use dfs_tests::mutation::{TestName, apply, parse};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_owned()
}

const BEGIN: &str = "<!-- keys: generated from dfs-common/src/config_file.rs, see docs/testing.md -->\n";
const END: &str = "<!-- end of keys -->\n";

fn row(key: &Key) -> String {
    let default = if key.default.is_empty() { "none".to_owned() } else { format!("`{}`", key.default) };
    format!("| `{}` | {default} | {} | {} |\n", key.name, key.kind, key.meaning)
}

fn table() -> String {
    let mut text = String::from("| key | default | value | meaning |\n|---|---|---|---|\n");
    for key in KEYS {
        text.write_str(&row(key)).expect("a String takes everything");
    }
    text
}

/// With `DFS_UPDATE_DOCS=1` it writes the table instead of comparing it.
#[test]
fn configuration_document_lists_every_key_with_default_and_limits() {
    let path = repository().join("docs/configuration.md");
    let document = std::fs::read_to_string(&path).expect("read docs/configuration.md");
    let (head, rest) = document.split_once(BEGIN).expect("the document marks where the keys begin");
    let (keys, tail) = rest.split_once(END).expect("the document marks where the keys end");
    if std::env::var_os("DFS_UPDATE_DOCS").is_some() {
        std::fs::write(&path, [head, BEGIN, &table(), END, tail].concat()).expect("write docs/configuration.md");
        return;
    }
    for (line, expected) in keys.lines().zip(table().lines()) {
        assert_eq!(
            line, expected,
            "docs/configuration.md; DFS_UPDATE_DOCS=1 cargo test -p dfs-tests --test docs renews it"
        );
    }
    assert_eq!(keys, table(), "docs/configuration.md; DFS_UPDATE_DOCS=1 cargo test -p dfs-tests --test docs renews it");
}

#[test]
fn documents_name_only_scripts_that_exist() {
    let root = repository();
    for document in ["README.md", "CONTRIBUTING.md", "docs/operations.md", "docs/testing.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap_or_else(|error| panic!("{document}: {error}"));
        for part in text.split("scripts/").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_ascii_lowercase() || *c == '.').collect();
            let name = name.trim_end_matches('.');
            assert!(name.is_empty() || root.join("scripts").join(name).exists(), "{document} names scripts/{name}");
        }
    }
}

/// Every test that the failure model names is there: a sentence without its test is a hope.
#[test]
fn failure_model_names_tests_that_exist() {
    let root = repository();
    let text = std::fs::read_to_string(root.join("docs/failure-model.md")).expect("read docs/failure-model.md");
    let cases: Vec<_> = ["durability", "pages", "bad_input"].into_iter().flat_map(case_names).collect();
    let mut count = 0;
    for name in text.split('`').skip(1).step_by(2).filter(|name| name.contains('_') && !name.contains('/')) {
        assert!(cases.iter().any(|case| case == name), "docs/failure-model.md names the test {name}");
        count += 1;
    }
    for path in text.split('`').skip(1).step_by(2).filter(|name| name.contains('/')) {
        assert!(root.join(path).exists(), "docs/failure-model.md names {path}");
    }
    assert!(count > 20);
}

/// A change of a line that a mutation changes too must reach the list: else nobody would know what the tests notice.
#[test]
fn mutations_name_lines_that_exist() {
    let root = repository();
    let text = std::fs::read_to_string(root.join("tests/mutations.txt")).expect("read tests/mutations.txt");
    let mutations = parse(&text).unwrap_or_else(|why| panic!("tests/mutations.txt: {why}"));
    let files: BTreeSet<&str> = mutations.iter().map(|mutation| mutation.file.as_str()).collect();
    let mut wrong = Vec::new();
    for file in files {
        let source = std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let ours: Vec<_> = mutations.iter().filter(|mutation| mutation.file == file).collect();
        wrong.extend(ours.iter().filter_map(|mutation| apply(&source, &[mutation]).err()));
        wrong.extend(apply(&source, &ours).err());
    }
    assert!(wrong.is_empty(), "tests/mutations.txt:\n{}", wrong.join("\n"));
    assert!(mutations.len() > 50);
}

/// The paths of a crate's unit tests, as its test programs print them.
fn unit_test_names(crate_dir: &Path) -> Vec<String> {
    let src = crate_dir.join("src");
    let mut roots = vec![src.join("lib.rs"), src.join("main.rs")];
    for entry in std::fs::read_dir(src.join("bin")).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        roots.push(if path.is_dir() { path.join("main.rs") } else { path });
    }
    let mut names = Vec::new();
    for root in roots.iter().filter(|root| root.exists()) {
        add_unit_tests(root, &src_dir_of(root), &[], &mut names);
    }
    names
}

fn src_dir_of(file: &Path) -> PathBuf {
    file.parent().expect("a file lies in a directory").to_owned()
}

/// Follows the modules of a source file from `mod` to `mod`. `children`: where those lie that have files of their own.
fn add_unit_tests(file: &Path, children: &Path, modules: &[String], names: &mut Vec<String>) {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let (mut inline, mut path_of_next, mut is_test) = (Vec::<(usize, String)>::new(), None, false);
    for line in text.lines() {
        let (words, indent) = (line.trim(), line.len() - line.trim_start().len());
        let within = || [modules, &inline.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>()].concat();
        if let Some(path) = words.strip_prefix("#[path = \"") {
            path_of_next = path.split('"').next().map(|path| src_dir_of(file).join(path));
        } else if words.starts_with("#[test") || words.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some(name) = module_name(words) {
            if words.ends_with('{') {
                inline.push((indent, name.to_owned()));
            } else {
                let dir = inline.iter().fold(children.to_owned(), |dir, (_, name)| dir.join(name));
                let (leaf, nested) = (dir.join(format!("{name}.rs")), dir.join(name).join("mod.rs"));
                let (file, children) = match path_of_next.take() {
                    Some(path) => (path.clone(), src_dir_of(&path)),
                    None if leaf.exists() => (leaf, dir.join(name)),
                    None => (nested, dir.join(name)),
                };
                add_unit_tests(&file, &children, &[within(), vec![name.to_owned()]].concat(), names);
            }
        } else if words == "}" && inline.last().is_some_and(|(begin, _)| *begin == indent) {
            inline.pop();
        } else if let Some((_, rest)) = words.split_once("fn ") {
            if is_test {
                let name = rest.split(['(', '<']).next().unwrap_or(rest);
                names.push([within(), vec![name.to_owned()]].concat().join("::"));
            }
            is_test = false;
        }
    }
}

/// The module that a line declares or begins.
fn module_name(line: &str) -> Option<&str> {
    let item = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.trim_start(),
        None => line,
    };
    let name = item.strip_prefix("mod ")?;
    let name = name.strip_suffix(';').or_else(|| name.strip_suffix(" {"))?;
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_').then_some(name)
}

/// The cases of a test target of dfs-tests, as they are listed for it: a function that is in no list is never run.
fn case_names(target: &str) -> Vec<String> {
    let mut names = Vec::new();
    for path in sources(&repository().join("tests/tests").join(target)) {
        let text = std::fs::read_to_string(&path).expect("read a test");
        for list in text.split("cases![").skip(1) {
            let list = list.split(']').next().unwrap_or_default();
            let cases = list.split(',').map(|name| name.split_whitespace().collect::<String>());
            names.extend(cases.filter(|name| !name.is_empty()));
        }
    }
    names
}

fn sources(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let files = walkdir::WalkDir::new(dir).into_iter().filter_map(Result::ok).map(walkdir::DirEntry::into_path);
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
}

#[test]
fn unit_test_names_are_those_that_the_programs_print() {
    let names = unit_test_names(&repository().join("dfs-client"));
    for name in [
        "client::path::tests::",
        "cluster_tests::syncing::hsync_reaches_every_block_and_records_each_once",
        "write::pipeline_state::tests::",
        "failure::tests::every_kind_has_words",
    ] {
        assert!(names.iter().any(|found| found.starts_with(name)), "{name} is missing in {names:#?}");
    }
    // This module is a file of its own, and has no module `tests`.
    assert!(!names.iter().any(|name| name.starts_with("cluster_tests::tests::")), "{names:#?}");
}

/// Commands of the documents that run some tests find some.
#[test]
fn documents_run_tests_that_exist() {
    let root = repository();
    let mut count = 0;
    for document in ["CONTRIBUTING.md", "docs/testing.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap_or_else(|error| panic!("{document}: {error}"));
        for rest in text.split("cargo test").skip(1) {
            let command = rest.split(['`', '\n', '#']).next().unwrap_or_default();
            let words: Vec<&str> = command.split_whitespace().collect();
            let after = |option: &str| words.iter().position(|word| *word == option).and_then(|at| words.get(at + 1));
            let Some(end) = words.iter().position(|word| *word == "--") else { continue };
            let names = match (after("--test"), after("-p")) {
                (Some(target), _) => case_names(target),
                (None, Some(package)) => unit_test_names(&root.join(package)),
                (None, None) => panic!("{document}: cargo test{command} says not whose tests it runs"),
            };
            for filter in words[end + 1..].iter().filter(|word| !word.starts_with('-')) {
                let is_there = names.iter().any(|name| name.contains(filter));
                assert!(is_there, "{document}: cargo test{command} runs no test");
                count += 1;
            }
        }
    }
    assert!(count >= 4, "{count}");
}

/// What documents show as a path of this repository is there.
#[test]
fn documents_name_only_files_that_exist() {
    let root = repository();
    let documents =
        std::fs::read_dir(root.join("docs")).expect("list docs").map(|entry| entry.expect("list docs").path());
    let top = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|name| root.join(name));
    let documents = documents.filter(|path| path.is_file()).chain(top);
    let tops = ["dfs-client/", "dfs-common/", "dfs-fuse/", "dfs-server/", "proto/", "tests/", "docs/", "scripts/"];
    let mut count = 0;
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap_or_else(|error| panic!("{}: {error}", document.display()));
        for line in text.lines() {
            for shown in
                line.split('`').skip(1).step_by(2).filter(|shown| tops.iter().any(|top| shown.starts_with(top)))
            {
                let path = shown.split_whitespace().next().unwrap_or_default();
                if !path.contains(['*', '{']) {
                    assert!(root.join(path).exists(), "{} names {path}", document.display());
                    count += 1;
                }
            }
        }
    }
    assert!(count > 50, "{count}");
}

/// A filter that finds no test would let its mutation pass for noticed, or end the run.
#[test]
fn mutations_name_tests_that_exist() {
    let root = repository();
    let text = std::fs::read_to_string(root.join("tests/mutations.txt")).expect("read tests/mutations.txt");
    let mutations = parse(&text).unwrap_or_else(|why| panic!("tests/mutations.txt: {why}"));
    for test in mutations.iter().flat_map(|mutation| &mutation.tests).collect::<BTreeSet<_>>() {
        let names = match test {
            TestName::Unit { directory, .. } => unit_test_names(&root.join(directory)),
            TestName::Cluster { target, .. } => case_names(target),
        };
        let is_there = names.iter().any(|name| name.contains(test.filter()));
        assert!(is_there, "tests/mutations.txt names {test}, and no such test is there");
    }
}
