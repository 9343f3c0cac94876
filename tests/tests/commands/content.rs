//! Commands that move bytes.

use std::fs;

use dfs_tests::cases;
use dfs_tests::suite::Case;

use super::Shell;

pub(super) const CASES: [Case<Shell>; 5] = cases![
    append_to_file_makes_a_file_and_adds_to_it,
    getmerge_puts_files_in_order_of_name,
    move_from_local_removes_what_it_copied,
    head_and_text_show_what_is_in_a_file,
    checksum_of_an_empty_file_is_hadoop_s,
];

fn append_to_file_makes_a_file_and_adds_to_it(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let dir = local.path().display();
    fs::write(local.path().join("a"), "one ").unwrap();
    fs::write(local.path().join("b"), "two ").unwrap();
    shell.dfs("mkdir /append");
    shell.dfs(&format!("appendToFile {dir}/a {dir}/b /append/file"));
    assert!(shell.run("appendToFile - /append/file", "three").status.success());
    assert_eq!(shell.dfs("cat /append/file"), "one two three");
    let said = shell.refused(&format!("appendToFile {dir}/a {dir}/missing /append/file"));
    assert!(said.contains("missing: no such file or directory"), "{said}");
    let said = shell.refused(&format!("appendToFile {dir}/a /append"));
    assert!(said.contains("/append: is a directory"), "{said}");
    let said = shell.refused(&format!("appendToFile - {dir}/a /append/file"));
    assert!(said.contains("standard input must be the only source"), "{said}");
    assert_eq!(shell.dfs("cat /append/file"), "one two three", "a refusal appends nothing");
}

fn getmerge_puts_files_in_order_of_name(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let out = local.path().join("out");
    shell.dfs("mkdir -p /merge/parts/sub");
    shell.write("/merge/parts/2", "two");
    shell.write("/merge/parts/1", "one");
    shell.dfs("touchz /merge/parts/0");
    shell.write("/merge/parts/sub/ignored", "never");
    fs::write(&out, "what was there").unwrap();
    let merged = |options: &str| {
        shell.dfs(&format!("getmerge {options} /merge/parts {}", out.display()));
        fs::read_to_string(&out).unwrap()
    };
    assert_eq!(merged(""), "onetwo");
    assert_eq!(merged("-nl"), "\none\ntwo\n");
    assert_eq!(merged("-nl -skip-empty-file"), "one\ntwo\n");
    let said = shell.refused(&format!("getmerge /merge/parts /merge/missing {}", out.display()));
    assert!(said.contains("/merge/missing: no such file or directory"), "{said}");
    assert_eq!(fs::read_to_string(&out).unwrap(), "one\ntwo\n");
}

fn move_from_local_removes_what_it_copied(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let top = local.path().join("top");
    fs::create_dir_all(top.join("deep")).unwrap();
    fs::write(top.join("deep/file"), "text").unwrap();
    std::os::unix::fs::symlink("deep", top.join("link")).unwrap();
    shell.dfs("mkdir /move");
    shell.dfs(&format!("moveFromLocal {} /move", top.display()));
    assert_eq!(shell.dfs("cat /move/top/deep/file"), "text");
    assert!(!top.exists());
    fs::write(&top, "another").unwrap();
    let said = shell.refused(&format!("moveFromLocal {} /move/top/deep/file", top.display()));
    assert!(said.contains("file exists") && said.contains("nothing is removed here"), "{said}");
    assert_eq!(fs::read_to_string(&top).unwrap(), "another");
}

fn head_and_text_show_what_is_in_a_file(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let long = "0123456789".repeat(200);
    shell.dfs("mkdir /text");
    shell.write("/text/long", &long);
    assert_eq!(shell.dfs("head /text/long"), long[..1024]);
    assert_eq!(shell.dfs("text /text/long"), long);
    let packed = local.path().join("packed.gz");
    fs::write(local.path().join("packed"), &long).unwrap();
    let gzip = std::process::Command::new("gzip").arg(local.path().join("packed")).status().expect("run gzip");
    assert!(gzip.success());
    shell.dfs(&format!("put {} /text/packed", packed.display()));
    assert_eq!(shell.dfs("text /text/packed /text/long"), [long.as_str(), &long].concat());
    shell.dfs("truncate 20 /text/packed");
    assert!(shell.refused("text /text/packed").contains("/text/packed: not whole"));
    shell.write("/text/sequence", "SEQ\u{6}...");
    assert!(shell.refused("text /text/sequence").contains("a SequenceFile"));
}

fn checksum_of_an_empty_file_is_hadoop_s(shell: &Shell) {
    shell.dfs("mkdir /sum");
    shell.dfs("touchz /sum/empty");
    let expected = "/sum/empty\tMD5-of-0MD5-of-0CRC32\t00000000000000000000000070bc8f4b72a86921468bf8e8441dce51\n";
    assert_eq!(shell.dfs("checksum /sum/empty"), expected);
    assert_eq!(shell.dfs("checksum --composite /sum/empty"), expected);
}
