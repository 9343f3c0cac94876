//! Commands that only look.

use std::io::Write;

use dfs_tests::cases;
use dfs_tests::suite::Case;
use serde_json::Value;

use super::Shell;

pub(super) const CASES: [Case<Shell>; 7] = cases![
    test_answers_by_its_exit_status,
    ls_sorts_and_shows_as_hdfs_does,
    stat_without_a_format_prints_the_time,
    find_matches_names_below_paths,
    du_and_count_take_a_file_with_several_names_once,
    fsck_takes_a_file_with_several_names_once,
    fsck_names_files_that_are_being_written,
];

fn test_answers_by_its_exit_status(shell: &Shell) {
    shell.dfs("mkdir /test");
    shell.dfs("touchz /test/empty");
    shell.write("/test/full", "text");
    for (question, yes, no) in [
        ("-e", &["/test", "/test/empty", "/test/*"][..], &["/nowhere", "/test/x*"][..]),
        ("-d", &["/test"], &["/test/full", "/nowhere"]),
        ("-f", &["/test/full", "/test/*"], &["/test", "/nowhere"]),
        ("-s", &["/test/full"], &["/test/empty", "/test", "/test/*", "/nowhere"]),
        ("-z", &["/test/empty", "/test"], &["/test/full", "/nowhere"]),
        ("-r", &["/test/full"], &["/nowhere"]),
        ("-w", &["/test/full"], &["/nowhere"]),
    ] {
        for path in yes {
            assert!(shell.answers(&format!("test {question} {path}")), "{question} {path}");
        }
        for path in no {
            assert!(!shell.answers(&format!("test {question} {path}")), "{question} {path}");
        }
    }
    assert_eq!(shell.run("test /test", "").status.code(), Some(2), "no question");
}

fn ls_sorts_and_shows_as_hdfs_does(shell: &Shell) {
    shell.dfs("mkdir /ls");
    for (name, content, accessed, modified) in [
        ("a", "12345", "20200103", "20200101"),
        ("b", "1", "20200102", "20200102"),
        ("c", "123", "20200101", "20200103"),
    ] {
        shell.write(&format!("/ls/{name}"), content);
        shell.dfs(&format!("touch -a -t {accessed}:000000 /ls/{name}"));
        shell.dfs(&format!("touch -m -t {modified}:000000 /ls/{name}"));
    }
    for (options, expected) in
        [("", "abc"), ("-r", "cba"), ("-t", "cba"), ("-t -u", "abc"), ("-t -r", "abc"), ("-S", "acb"), ("-S -t", "cba")]
    {
        let names: String = shell.dfs(&format!("ls -C {options} /ls")).replace("/ls/", "").replace('\n', "");
        assert_eq!(names, expected, "{options}");
    }
    assert!(shell.dfs("ls -u /ls/a").contains(" 2020-01-03 00:00 /ls/a"));
    assert_eq!(shell.dfs("ls -d -R -C /ls"), "/ls\n");
    shell.dfs("rm /ls/b /ls/c");
    assert!(shell.dfs("ls /ls").starts_with("Found 1 items\n"));
}

fn stat_without_a_format_prints_the_time(shell: &Shell) {
    shell.dfs("mkdir /stat");
    shell.dfs("touchz /stat/file");
    let time = shell.dfs("stat /stat/file");
    assert_eq!(time, shell.dfs("stat %y /stat/file"));
    assert_eq!(time.trim_end().len(), "2026-01-31 12:00:00".len(), "{time}");
    assert!(shell.dfs("stat -v /stat/file").contains("Path: /stat/file"));
}

fn find_matches_names_below_paths(shell: &Shell) {
    shell.dfs("mkdir -p /find/a.d/B.TXT");
    shell.dfs("touchz /find/a.txt /find/a.d/a.txt");
    assert_eq!(shell.dfs("find /find"), "/find\n/find/a.d\n/find/a.d/B.TXT\n/find/a.d/a.txt\n/find/a.txt\n");
    assert_eq!(shell.dfs("find /find -name *.txt"), "/find/a.d/a.txt\n/find/a.txt\n");
    assert_eq!(shell.dfs("find /find -iname b.txt -print0"), "/find/a.d/B.TXT\0");
    assert_eq!(shell.dfs("find /find -name a* -a -iname *.TXT"), "/find/a.d/a.txt\n/find/a.txt\n");
    assert!(shell.refused("find /find/missing").contains("no such file or directory"));
}

fn du_and_count_take_a_file_with_several_names_once(shell: &Shell) {
    let mount = shell.cluster.mount("names");
    shell.dfs("mkdir -p /names/deep");
    shell.write("/names/file", "12345");
    let dir = mount.path().join("names");
    std::fs::hard_link(dir.join("file"), dir.join("deep/again")).unwrap();
    std::fs::hard_link(dir.join("file"), dir.join("deep/and-again")).unwrap();
    assert_eq!(shell.dfs("du -s -x /names"), "5  5  /names\n");
    let words = |line: &str| shell.dfs(line).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words("count /names"), ["2", "1", "5", "/names"]);
    assert_eq!(words("count -q /names"), ["none", "inf", "none", "inf", "2", "1", "5", "/names"]);
    assert_eq!(
        words("count -u -v -h /names")[..5],
        ["QUOTA", "REM_QUOTA", "SPACE_QUOTA", "REM_SPACE_QUOTA", "PATHNAME"]
    );
}

fn fsck_takes_a_file_with_several_names_once(shell: &Shell) {
    let mount = shell.cluster.mount("fsck-names");
    shell.dfs("mkdir -p /fsck-names/deep");
    shell.write("/fsck-names/file", "12345");
    shell.write("/fsck-names/other", "1");
    let dir = mount.path().join("fsck-names");
    std::fs::hard_link(dir.join("file"), dir.join("deep/again")).unwrap();
    std::fs::hard_link(dir.join("file"), dir.join("deep/and-again")).unwrap();
    let totals = |paths: &str| {
        let document: Value = serde_json::from_str(&shell.dfs(&format!("--json fsck {paths}"))).expect("JSON");
        ["directories", "files", "bytes", "blocks"].map(|field| document[field].as_u64().unwrap())
    };
    assert_eq!(totals("/fsck-names"), [2, 2, 6, 2]);
    // Nor does anything count twice that is named twice.
    assert_eq!(totals("/fsck-names/deep /fsck-names /fsck-names/other /fsck-names"), [2, 2, 6, 2]);
    let said = shell.dfs("fsck /fsck-names -files");
    let others = said.lines().filter(|line| line.ends_with("5 bytes, another name of a file that is counted already"));
    assert_eq!(others.count(), 2, "{said}");
}

fn fsck_names_files_that_are_being_written(shell: &Shell) {
    let mount = shell.cluster.mount("writing");
    shell.dfs("mkdir /writing");
    shell.dfs("touchz /writing/closed");
    let mut file = std::fs::File::create(mount.path().join("writing/open")).unwrap();
    file.write_all(b"text").unwrap();
    // A program that is started closes its copy of the descriptor, which completes the file once.
    shell.dfs("ls /writing");
    file.write_all(b" and more").unwrap();
    file.sync_all().unwrap();
    let said = shell.dfs("fsck /writing -openforwrite");
    let is_open = |line: &str| line.starts_with("/writing/open ") && line.ends_with(" bytes, OPENFORWRITE");
    assert!(said.lines().any(is_open), "{said}");
    assert!(!said.contains("/writing/closed"), "{said}");
    drop(file);
}
