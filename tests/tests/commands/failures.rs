//! What commands leave and tell when something goes wrong, or changes, while they run.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use dfs_tests::cases;
use dfs_tests::cluster::Cluster;
use dfs_tests::relay::Relay;
use dfs_tests::suite::Case;
use dfs_tests::wait::{Stopwatch, wait_until};
use rustix::fs::{CWD, FileType, mknodat};

use super::Shell;

pub(super) const CASES: [Case<Shell>; 7] = cases![
    safe_mode_hides_neither_what_is_left_nor_what_was_done,
    a_failure_is_told_before_the_clean_up,
    a_fifo_that_is_made_meanwhile_is_not_replaced,
    copies_that_are_being_made_are_no_content,
    a_copy_of_nothing_prints_its_document,
    a_copy_goes_on_in_the_directory_it_began_in,
    move_from_local_names_everything_that_stays,
];

const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a file whose copy takes so long that something can be done meanwhile.
const LARGE: u64 = 256 << 20;

/// A copy of standard input to a path that has begun: its temporary name is there.
fn begin_put(shell: &Shell, command: &mut Command, path: &str) -> (Child, ChildStdin) {
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start dfs");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(b"text").unwrap();
    wait_until(PATIENCE, "the temporary name", || temporary_name(shell, path).is_some());
    (child, input)
}

/// What the copy to a path is called for now.
fn temporary_name(shell: &Shell, path: &str) -> Option<String> {
    let (directory, _) = path.rsplit_once('/')?;
    let names = shell.dfs(&format!("ls -C {directory}"));
    let is_temporary = |name: &&str| name.starts_with(&format!("{path}.")) && name.ends_with("._COPYING_");
    names.lines().find(is_temporary).map(ToOwned::to_owned)
}

fn safe_mode_hides_neither_what_is_left_nor_what_was_done(_: &Shell) {
    // A cluster of its own: safe mode would keep the other cases from working.
    let cluster = Cluster::builder().datanodes(1).replication(1).start();
    cluster.wait_datanodes_live(1);
    let shell = Shell { cluster };
    shell.dfs("mkdir /left");
    let (child, input) = begin_put(&shell, &mut shell.cluster.dfs_command(&["put", "-", "/left/file"]), "/left/file");
    shell.dfs("admin safemode enter");
    drop(input);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("read-only") && said.contains("temporary files (*._COPYING_) are left behind"), "{said}");
    assert!(shell.dfs("find /left").contains("_COPYING_"));
    shell.dfs("admin safemode leave");

    let local = tempfile::tempdir().unwrap();
    for number in 0..101 {
        fs::write(local.path().join(number.to_string()), "").unwrap();
    }
    shell.dfs(&format!("put {} /large", local.path().display()));
    shell.dfs("touchz /small");
    let mut command = shell.cluster.dfs_command(&["--json", "rm", "-r", "-safely", "/small", "/large"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut question = String::new();
    let mut said = BufReader::new(child.stderr.take().expect("it is piped"));
    said.read_line(&mut question).unwrap();
    assert!(question.contains("remove them?"), "{question}");
    shell.dfs("admin safemode enter");
    child.stdin.take().expect("it is piped").write_all(b"y\n").unwrap();
    said.read_to_string(&mut question).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.code() == Some(1) && question.contains("/large: the file system is read-only"), "{question}");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("rm prints JSON");
    assert_eq!(document, serde_json::json!({ "removed": [{ "path": "/small" }] }));
}

fn a_failure_is_told_before_the_clean_up(shell: &Shell) {
    let relay = Relay::start(shell.cluster.namenodes());
    shell.dfs("mkdir /told");
    let words =
        ["-D", "dfs.client.failover.timeout=12s", "-D", "ipc.client.rpc-timeout.ms=1s", "put", "-", "/told/file"];
    let mut command = shell.cluster.dfs_command(&words);
    command.env("DFS_NAMENODES", relay.address());
    let (mut child, input) = begin_put(shell, &mut command, "/told/file");
    relay.lose_answers();
    drop(input);
    let watch = Stopwatch::start();
    let mut said = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut line = String::new();
    while !line.starts_with("dfs: put: /told/file: ") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "the failure is told");
    }
    let elapsed = watch.elapsed();
    // The patience of one call and not of two.
    assert!(elapsed < Duration::from_secs(21), "{elapsed:?}: {line}");
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{rest}");
    assert!(rest.contains("are left behind"), "{rest}");
    shell.dfs("rm -r /told");
}

fn a_fifo_that_is_made_meanwhile_is_not_replaced(shell: &Shell) {
    let mount = shell.cluster.mount("fifo");
    shell.dfs("mkdir /fifo");
    let mut command = shell.cluster.dfs_command(&["put", "-f", "-", "/fifo/file"]);
    let (child, input) = begin_put(shell, &mut command, "/fifo/file");
    mknodat(CWD, mount.path().join("fifo/file"), FileType::Fifo, 0o600.into(), 0).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("/fifo/file: not a regular file"), "{said}");
    assert_eq!(shell.dfs("find /fifo"), "/fifo\n/fifo/file\n");
    assert_eq!(shell.dfs("stat -c %F /fifo/file"), "fifo\n");
    let said = shell.refused("setrep 1 /fifo/file");
    assert!(said.contains("/fifo/file: not a regular file"), "{said}");
}

fn copies_that_are_being_made_are_no_content(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let here = local.path().display();
    shell.dfs("mkdir -p /making/d /making/to");
    shell.write("/making/d/1", "one");
    // Only called like one.
    shell.write("/making/d/2.0123456789abcdef._COPYING_", "two");
    let (child, input) = begin_put(shell, &mut shell.cluster.dfs_command(&["put", "-", "/making/d/3"]), "/making/d/3");
    let temporary = temporary_name(shell, "/making/d/3").expect("it is there");
    for source in ["/making/d", "/making/d/*"] {
        assert_eq!(shell.dfs(&format!("getmerge {source} -")), "onetwo", "{source}");
    }
    shell.dfs(&format!("get /making/d {here}/tree"));
    shell.dfs("cp /making/d /making/tree");
    shell.dfs(&format!("get /making/d/* {here}"));
    shell.dfs("cp /making/d/* /making/to");
    let mut copies: Vec<_> = ["/making/tree", "/making/to"].map(|copy| shell.dfs(&format!("ls -C {copy}"))).into();
    for copy in [local.path().join("tree"), local.path().to_owned()] {
        let names = fs::read_dir(copy).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        copies.push(names.collect::<Vec<_>>().join("\n"));
    }
    for copy in copies {
        assert!(copy.contains("2.0123456789abcdef._COPYING_") && !copy.contains("3."), "{copy}");
    }
    let said = shell.refused(&format!("get {}* {here}/part", &temporary[..temporary.len() - 1]));
    assert!(said.contains("nothing matches but copies that are being made"), "{said}");
    // By its name it can be had.
    shell.dfs(&format!("get {temporary} {here}/part"));
    assert!(local.path().join("part").exists());
    drop(input);
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(shell.dfs("cat /making/d/3"), "text");
}

fn a_copy_of_nothing_prints_its_document(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let here = local.path().display();
    shell.dfs("mkdir /documents");
    let document = |line: &str| -> serde_json::Value {
        let output = shell.run(line, "");
        assert_eq!(output.status.code(), Some(1), "{line}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{line}: {error}: {output:?}"))
    };
    for line in [
        format!("--json get /missing {here}"),
        "--json cp /missing /documents".to_owned(),
        format!("--json put {here}/missing /documents"),
        format!("--json moveFromLocal {here}/missing /documents"),
    ] {
        let told = document(&line);
        assert_eq!((&told["files"], &told["failed"]), (&0.into(), &1.into()), "{line}: {told}");
    }
    assert_eq!(document("--json mv /missing /documents"), serde_json::json!({ "moved": [] }));
}

fn a_copy_goes_on_in_the_directory_it_began_in(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let tree = local.path().join("tree");
    let there = local.path().join("there/tree");
    for directory in [tree.join("y"), tree.join("z"), there.join("linked"), there.join("z")] {
        fs::create_dir_all(directory).unwrap();
    }
    // Copied one after the other, in order of name.
    fs::File::create(tree.join("a")).unwrap().set_len(LARGE).unwrap();
    fs::write(tree.join("b"), "").unwrap();
    fs::write(tree.join("y/file"), "through a link").unwrap();
    fs::write(tree.join("z/file"), "text").unwrap();
    std::os::unix::fs::symlink("linked", there.join("y")).unwrap();
    shell.dfs("mkdir /renamed");
    shell.dfs(&format!("put {} /renamed", there.display()));
    let words = ["put", "-t", "1", tree.to_str().unwrap(), "/renamed"];
    let child = shell.cluster.dfs_command(&words).stderr(Stdio::piped()).spawn().expect("start dfs");
    wait_until(PATIENCE, "the temporary name", || shell.dfs("find /renamed").contains("_COPYING_"));
    shell.dfs("mv /renamed/tree /renamed/moved");
    shell.dfs("mkdir -p /renamed/tree/z");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(shell.dfs("cat /renamed/moved/linked/file /renamed/moved/z/file"), "through a linktext");
    assert_eq!(shell.dfs("find /renamed/tree"), "/renamed/tree\n/renamed/tree/z\n");
    shell.dfs("rm -r /renamed");
}

fn move_from_local_names_everything_that_stays(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let dir = local.path();
    for name in ["a", "b"] {
        fs::write(dir.join(name), name).unwrap();
    }
    shell.dfs("mkdir /stays");
    let dfs = shell.cluster.dfs_command(&[]);
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", "mount --bind -o ro . . && cd \"$PWD\" && \"$0\" --json moveFromLocal a b /stays"])
        .arg(dfs.get_program())
        .env("DFS_NAMENODES", shell.cluster.namenodes())
        .current_dir(dir)
        .output()
        .expect("run unshare");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for name in ["a", "b"] {
        assert!(said.contains(&format!("dfs: moveFromLocal: {name}: read-only file system")), "{said}");
        assert!(dir.join(name).exists());
    }
    assert_eq!(shell.dfs("cat /stays/a /stays/b"), "ab");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("moveFromLocal prints JSON");
    assert_eq!((&told["files"], &told["failed"]), (&2.into(), &2.into()), "{told}");
}
