//! Documents that repeat what the code says must say what the code says.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use dfs_common::config_file::{KEYS, Key, ValueKind};
use dfs_common::units::ByteCount;
use dfs_tests::mutation::{TestName, apply, parse};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_owned()
}

const BEGIN: &str = "<!-- keys: generated from dfs-common/src/config_file.rs, see docs/testing.md -->\n";
const END: &str = "<!-- end of keys -->\n";

fn limits(kind: ValueKind) -> String {
    let millis = |ms: u64| match ms {
        0 => "0".to_owned(),
        ms if ms.is_multiple_of(86_400_000) => format!("{}d", ms / 86_400_000),
        ms if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    };
    match kind {
        ValueKind::Bytes(low, high) => format!("size, {} to {}", ByteCount(low), ByteCount(high)),
        ValueKind::Duration(low, high) => format!("duration, {} to {}", millis(low), millis(high)),
        ValueKind::Count(low, high) if low == high => format!("number, {low}"),
        ValueKind::Count(low, u64::MAX) => format!("number, from {low}"),
        ValueKind::Count(low, high) => format!("number, {low} to {high}"),
        ValueKind::Fraction => "share, 0 to 1".to_owned(),
        ValueKind::Flag => "true or false".to_owned(),
        ValueKind::Choice(words) => words.join(", "),
        ValueKind::Text => "text".to_owned(),
        ValueKind::List => "list of texts".to_owned(),
    }
}

fn row(key: &Key) -> String {
    let default = if key.default.is_empty() { "none".to_owned() } else { format!("`{}`", key.default) };
    format!("| `{}` | {default} | {} | {} |\n", key.name, limits(key.kind), key.meaning)
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
    let sources: String = walkdir::WalkDir::new(root.join("tests/tests"))
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "rs"))
        .map(|entry| std::fs::read_to_string(entry.path()).expect("read a test"))
        .collect();
    let mut count = 0;
    for name in text.split('`').skip(1).step_by(2).filter(|name| name.contains('_') && !name.contains('/')) {
        assert!(sources.contains(&format!("fn {name}(")), "docs/failure-model.md names the test {name}");
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

/// The paths of a crate's unit tests, or the names of the cases of a test target.
fn test_names(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let sources = walkdir::WalkDir::new(dir).into_iter().filter_map(Result::ok);
    for path in sources.map(walkdir::DirEntry::into_path).filter(|path| path.extension().is_some_and(|ext| ext == "rs"))
    {
        let text = std::fs::read_to_string(&path).expect("read a source");
        let place = path.strip_prefix(dir).expect("below it").with_extension("");
        let modules: Vec<_> = place.iter().map(|name| name.to_string_lossy()).filter(|name| name != "mod").collect();
        let is_case = |line: &str| line.contains("_: &Nothing)") || line.contains("mounts: &Mounts)");
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some((_, rest)) = line.split_once("fn ") {
                if is_test || is_case(line) {
                    let name = rest.split(['(', '<']).next().unwrap_or(rest);
                    // Those within a file lie in its module `tests`.
                    names.push([&modules.join("::"), "::tests::", name].concat());
                    names.push([&modules.join("::"), "::", name].concat());
                }
                is_test = false;
            }
        }
    }
    names
}

/// A filter that finds no test would let its mutation pass for noticed, or end the run.
#[test]
fn mutations_name_tests_that_exist() {
    let root = repository();
    let text = std::fs::read_to_string(root.join("tests/mutations.txt")).expect("read tests/mutations.txt");
    let mutations = parse(&text).unwrap_or_else(|why| panic!("tests/mutations.txt: {why}"));
    for test in mutations.iter().flat_map(|mutation| &mutation.tests).collect::<BTreeSet<_>>() {
        let dir = match test {
            TestName::Unit { package, .. } => root.join(package).join("src"),
            TestName::Cluster { target, .. } => root.join("tests/tests").join(target),
        };
        let is_there = test_names(&dir).iter().any(|name| name.contains(test.filter()));
        assert!(is_there, "tests/mutations.txt names {test}, and no such test is there");
    }
}
