//! What `dfs put`, `get`, `cp` and `mv` make of names that are taken, of what is no regular file, and of trees that are
//! reached by two ways, the mount among them.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use dfs_tests::wait::wait_until;
use rustix::fs::{CWD, FileType, makedev, mknodat};
use rustix::process::{Pid, Signal, kill_process};

use super::{Case, Mounts, cases, shell};

pub(super) const CASES: [Case<Mounts>; 12] = cases![
    copies_touch_no_name_but_their_own,
    two_gets_to_one_name_leave_one_whole_file,
    an_interrupted_put_removes_its_own_file_only,
    signals_that_were_ignored_stay_ignored,
    streams_are_read_and_written,
    no_copy_replaces_a_device,
    a_link_as_destination_stands_for_its_target,
    a_tree_is_not_put_into_itself_by_any_way,
    output_that_is_lost_at_close_is_told,
    set_id_bits_go_to_nobody_else,
    nobody_looks_into_a_tree_that_is_being_got,
    new_directories_keep_the_group_of_the_one_above,
];

const PATIENCE: Duration = Duration::from_secs(30);

fn run(mounts: &Mounts, arguments: &[&str]) -> Output {
    mounts.cluster.dfs_command(arguments).output().expect("run dfs")
}

#[track_caller]
fn succeed(mounts: &Mounts, arguments: &[&str]) {
    let output = run(mounts, arguments);
    assert!(output.status.success(), "dfs {arguments:?}: {output:?}");
}

/// Runs a command that must be refused with these words.
#[track_caller]
fn refuse(mounts: &Mounts, arguments: &[&str], words: &str) {
    let output = run(mounts, arguments);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && told.contains(words), "dfs {arguments:?}: {output:?}");
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn program(mounts: &Mounts) -> String {
    mounts.cluster.dfs_command(&[]).get_program().to_str().expect("a path that is text").to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

fn copies_touch_no_name_but_their_own(mounts: &Mounts) {
    let local = tempfile::tempdir().unwrap();
    let dir = mounts.mount.new_dir("shell-names");
    let tree = local.path().join("tree");
    fs::create_dir(&tree).unwrap();
    for name in ["a", "a._COPYING_", "b", "b._COPYING_"] {
        fs::write(tree.join(name), format!("content of {name}")).unwrap();
    }
    for _ in 0..2 {
        succeed(mounts, &["put", "-f", text(&tree), "/shell-names"]);
        succeed(mounts, &["cp", "-f", "/shell-names/tree", "/shell-names/again"]);
        succeed(mounts, &["get", "-f", "/shell-names/again", text(local.path())]);
        for copy in [dir.join("tree"), local.path().join("again")] {
            assert_eq!(names_in(&copy), names_in(&tree));
            shell(local.path(), &format!("diff -r {} {}", text(&tree), text(&copy)));
        }
        succeed(mounts, &["rm", "-r", "/shell-names/again"]);
    }
    // One file beside somebody's document of the name that HDFS would take.
    fs::write(dir.join("doc._COPYING_"), "mine").unwrap();
    succeed(mounts, &["put", "-f", text(&tree.join("a")), "/shell-names/doc"]);
    assert_eq!(fs::read(dir.join("doc._COPYING_")).unwrap(), b"mine");
}

fn two_gets_to_one_name_leave_one_whole_file(mounts: &Mounts) {
    let local = tempfile::tempdir().unwrap();
    let dir = mounts.mount.new_dir("shell-two");
    for name in ["one", "two"] {
        fs::write(dir.join(name), name.repeat(3 << 20)).unwrap();
    }
    let target = local.path().join("target");
    for _ in 0..5 {
        let start = |name: &str| -> Child {
            let source = format!("/shell-two/{name}");
            mounts.cluster.dfs_command(&["get", "-f", &source, text(&target)]).spawn().expect("start dfs")
        };
        for mut child in [start("one"), start("two")] {
            assert!(child.wait().unwrap().success());
        }
        let found = fs::read(&target).unwrap();
        assert!(found == "one".repeat(3 << 20).as_bytes() || found == "two".repeat(3 << 20).as_bytes());
        assert_eq!(names_in(local.path()), ["target"]);
    }
}

fn an_interrupted_put_removes_its_own_file_only(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("shell-interrupt");
    fs::write(dir.join("doc._COPYING_"), "mine").unwrap();
    let program = program(mounts);
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        // Whatever the tests themselves were told to ignore, as by nohup.
        let mut child = Command::new("env")
            .args(["--default-signal=INT,TERM,HUP", &program])
            .args(["put", "-f", "-", "/shell-interrupt/doc"])
            .env("DFS_NAMENODES", mounts.cluster.namenodes())
            .stdin(Stdio::piped())
            .spawn()
            .expect("start dfs");
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"half of it").unwrap();
        wait_until(PATIENCE, "the temporary file", || names_in(&dir).len() == 2);
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(status), "{signal:?}");
        drop(input);
        assert_eq!(
            String::from_utf8(run(mounts, &["ls", "-C", "/shell-interrupt"]).stdout).unwrap().trim(),
            "/shell-interrupt/doc._COPYING_"
        );
        wait_until(PATIENCE, "the mount to see it go", || names_in(&dir).len() == 1);
    }
    assert_eq!(fs::read(dir.join("doc._COPYING_")).unwrap(), b"mine");
}

fn signals_that_were_ignored_stay_ignored(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("shell-ignore");
    let mut child = Command::new("env")
        .args(["--ignore-signal=INT,TERM,HUP", &program(mounts), "put", "-", "/shell-ignore/file"])
        .env("DFS_NAMENODES", mounts.cluster.namenodes())
        .stdin(Stdio::piped())
        .spawn()
        .expect("start dfs");
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"all of it").unwrap();
    wait_until(PATIENCE, "the temporary file", || names_in(&dir).len() == 1);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        kill_process(Pid::from_child(&child), signal).unwrap();
    }
    drop(input);
    assert!(child.wait().unwrap().success());
    assert_eq!(run(mounts, &["cat", "/shell-ignore/file"]).stdout, b"all of it");
}

fn streams_are_read_and_written(mounts: &Mounts) {
    let local = tempfile::tempdir().unwrap();
    let dir = mounts.mount.new_dir("shell-streams");
    let dfs = format!("DFS_NAMENODES={} {}", mounts.cluster.namenodes(), program(mounts));
    shell(local.path(), &format!("echo piped | {dfs} put /dev/stdin /shell-streams/stdin"));
    shell(local.path(), &format!("{dfs} put /dev/fd/7 /shell-streams/fd 7<<'.'\nhere\n.\n"));
    shell(
        local.path(),
        &format!(
            "mkfifo fifo && (echo through > fifo &) && {dfs} put fifo /shell-streams/fifo && {dfs} put /dev/null /shell-streams/null"
        ),
    );
    for (name, content) in [("stdin", "piped\n"), ("fd", "here\n"), ("fifo", "through\n"), ("null", "")] {
        assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), content, "{name}");
    }
    // Inside a tree, nobody waits for what may never come.
    refuse(mounts, &["put", text(local.path()), "/shell-streams/tree"], "not a file, directory or symbolic link");
    shell(local.path(), &format!("(cat fifo > got &) ; {dfs} get /shell-streams/stdin fifo"));
    wait_until(PATIENCE, "the reader", || fs::read(local.path().join("got")).is_ok_and(|got| got == b"piped\n"));
    assert!(fs::metadata(local.path().join("fifo")).unwrap().file_type().is_fifo());
}

fn no_copy_replaces_a_device(mounts: &Mounts) {
    // Below /tmp, devices often do not work.
    let local = tempfile::tempdir_in(mounts.cluster.dir()).unwrap();
    let dir = mounts.mount.new_dir("shell-devices");
    fs::write(dir.join("file"), "content").unwrap();
    let (device, link) = (local.path().join("null"), local.path().join("link"));
    mknodat(CWD, &device, FileType::CharacterDevice, 0o666.into(), makedev(1, 3)).unwrap();
    symlink("null", &link).unwrap();
    for destination in [&device, &link] {
        succeed(mounts, &["get", "-f", "/shell-devices/file", text(destination)]);
        succeed(mounts, &["get", "-p", "/shell-devices/file", text(destination)]);
    }
    assert!(fs::symlink_metadata(&device).unwrap().file_type().is_char_device());
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    // In the cluster there is nothing behind a fifo that could be written to.
    mknodat(CWD, dir.join("fifo"), FileType::Fifo, 0o600.into(), 0).unwrap();
    for command in [
        ["put", "-f", "/proc/version", "/shell-devices/fifo"],
        ["cp", "-f", "/shell-devices/file", "/shell-devices/fifo"],
    ] {
        refuse(mounts, &command, "not a regular file");
    }
    assert!(fs::metadata(dir.join("fifo")).unwrap().file_type().is_fifo());
}

fn a_link_as_destination_stands_for_its_target(mounts: &Mounts) {
    let local = tempfile::tempdir().unwrap();
    let dir = mounts.mount.new_dir("shell-links");
    fs::create_dir(dir.join("folder")).unwrap();
    fs::write(dir.join("source"), "content").unwrap();
    for (at, command) in [(local.path(), "get"), (&dir, "cp"), (&dir, "put")] {
        fs::create_dir_all(at.join("folder")).unwrap();
        fs::write(at.join("folder/old"), "old").unwrap();
        for (link, target) in [("to-old", "folder/old"), ("to-new", "folder/new")] {
            let _ = fs::remove_file(at.join(link));
            symlink(target, at.join(link)).unwrap();
            let source =
                if command == "put" { text(&dir.join("source")).to_owned() } else { "/shell-links/source".to_owned() };
            let destination =
                if command == "get" { text(&at.join(link)).to_owned() } else { format!("/shell-links/{link}") };
            succeed(mounts, &[command, "-f", &source, &destination]);
            assert!(fs::symlink_metadata(at.join(link)).unwrap().is_symlink(), "{command} {link}");
            wait_until(PATIENCE, "the copy behind the link", || {
                fs::read(at.join(target)).is_ok_and(|found| found == b"content")
            });
        }
        fs::remove_dir_all(at.join("folder")).unwrap();
    }
}

fn a_tree_is_not_put_into_itself_by_any_way(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("shell-same");
    fs::create_dir_all(dir.join("tree/below")).unwrap();
    fs::write(dir.join("tree/file"), "content").unwrap();
    symlink("tree/below", dir.join("link")).unwrap();
    symlink("/shell-same", dir.join("tree/out")).unwrap();
    let local = tempfile::tempdir().unwrap();
    symlink(&dir, local.path().join("way")).unwrap();
    let (way, tree) = (local.path().join("way"), "/shell-same/tree");
    let (way_tree, way_link) = (way.join("tree"), way.join("link"));
    for arguments in [
        ["cp", tree, "/shell-same/link"],
        ["cp", tree, "/shell-same/link/new"],
        ["cp", tree, "/shell-same"],
        ["mv", tree, "/shell-same/link"],
        ["put", text(&way_tree), "/shell-same/link"],
        ["put", text(&way_tree), "/shell-same/tree/below/new"],
        ["put", text(&way_tree), "/shell-same"],
        ["get", tree, text(&way_link)],
        ["get", tree, text(&way)],
    ] {
        refuse(mounts, &arguments, "cannot be put into itself");
    }
    for arguments in [
        ["cp", "-f", "/shell-same/tree/file", "/shell-same/tree/out/tree/file"],
        ["mv", "-f", "/shell-same/tree/file", "/shell-same/tree/out/tree"],
        ["put", "-f", text(&way_tree.join("file")), "/shell-same/tree/file"],
        ["get", "-f", "/shell-same/tree/file", text(&way_tree.join("file"))],
    ] {
        refuse(mounts, &arguments, "is the same file");
    }
    assert_eq!(names_in(&dir.join("tree")), ["below", "file", "out"]);
    assert!(names_in(&dir.join("tree/below")).is_empty());
    // A way that only looks as if it led into the source.
    succeed(mounts, &["cp", tree, "/shell-same/tree/out/copy"]);
    wait_until(PATIENCE, "the copy", || dir.join("copy/file").exists());
}

fn output_that_is_lost_at_close_is_told(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("shell-close");
    let mut file = fs::File::create(dir.join("file")).unwrap();
    let mut command = mounts.cluster.dfs_command(&["--json", "put", "-", "/shell-close/copy"]);
    command.stdin(Stdio::piped()).stdout(file.try_clone().unwrap()).stderr(Stdio::piped());
    let child = command.spawn().expect("start dfs");
    // The document that comes last goes into a file whose writer has lost its lease, which nobody has told it yet: it is
    // taken, and lost when it is closed. A command that starts closes its copy of the file: from the next write on it is
    // open again, and the second recovery takes the lease away.
    let recover = || succeed(mounts, &["admin", "recover-lease", "/shell-close/file"]);
    file.write_all(b"kept").unwrap();
    recover();
    file.write_all(b"kept").unwrap();
    file.sync_all().unwrap();
    recover();
    // Ends its standard input.
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && told.contains("standard output: "), "{output:?}");
    assert_eq!(fs::metadata(mounts.mount.join("shell-close/copy")).unwrap().len(), 0);
}

fn set_id_bits_go_to_nobody_else(mounts: &Mounts) {
    const USER: u32 = 12_345;
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let local = tempfile::tempdir().unwrap();
    let dir = mounts.mount.new_dir("shell-set-id");
    for place in [local.path(), &dir] {
        let tree = place.join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("tool"), "content").unwrap();
        for (path, mode) in [(tree.join("tool"), 0o6755), (tree, 0o2755), (place.to_owned(), 0o777)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
    }
    let program = local.path().join("dfs");
    // Where it was built, others may not look.
    shell(local.path(), &format!("cp {} dfs", self::program(mounts)));
    let (tree, copy) = (local.path().join("tree"), local.path().join("copy"));
    for (arguments, copy) in [
        (["get", "-p", "/shell-set-id/tree", text(&copy)], copy.clone()),
        (["put", "-p", text(&tree), "/shell-set-id/put"], dir.join("put")),
        (["cp", "-p", "/shell-set-id/tree", "/shell-set-id/cp"], dir.join("cp")),
    ] {
        let output = Command::new("setpriv")
            .args(["--reuid", &USER.to_string(), "--regid", &USER.to_string(), "--clear-groups", "--"])
            .arg(&program)
            .args(arguments)
            .env("DFS_NAMENODES", mounts.cluster.namenodes())
            .stdin(Stdio::null())
            .current_dir(local.path())
            .output()
            .expect("run setpriv");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert_eq!(fs::metadata(&copy).unwrap().uid(), USER);
        assert_eq!((mode(&copy), mode(&copy.join("tool"))), (0o755, 0o755), "{arguments:?}");
    }
    succeed(mounts, &["cp", "-p", "/shell-set-id/tree", "/shell-set-id/root"]);
    assert_eq!((mode(&dir.join("root")), mode(&dir.join("root/tool"))), (0o2755, 0o6755));
}

fn nobody_looks_into_a_tree_that_is_being_got(mounts: &Mounts) {
    let local = tempfile::tempdir().unwrap();
    let dir = mounts.mount.new_dir("shell-private");
    let tree = dir.join("tree");
    fs::create_dir(&tree).unwrap();
    // Large enough that there is a while to look.
    fs::write(tree.join("file"), vec![7; 64 << 20]).unwrap();
    fs::set_permissions(&tree, Permissions::from_mode(0o700)).unwrap();
    let copy = local.path().join("tree");
    let mode = || fs::metadata(&copy).map(|there| there.mode() & 0o7777);
    let mut command = mounts.cluster.dfs_command(&["get", "/shell-private/tree", text(local.path())]);
    let mut child = command.spawn().expect("start dfs");
    wait_until(PATIENCE, "the directory", || copy.exists());
    let mut seen = Vec::new();
    wait_until(PATIENCE, "the copy", || {
        seen.extend(mode());
        child.try_wait().unwrap().is_some()
    });
    assert!(child.wait().unwrap().success() && !seen.is_empty());
    assert!(seen.iter().all(|mode| *mode == 0o700), "{seen:?}");
    assert_eq!(mode().unwrap(), 0o700);
}

fn new_directories_keep_the_group_of_the_one_above(mounts: &Mounts) {
    const GROUP: u32 = 23_456;
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let local = tempfile::tempdir().unwrap();
    let dir = mounts.mount.new_dir("shell-group");
    for place in [local.path(), &dir] {
        let tree = place.join("tree");
        fs::create_dir(&tree).unwrap();
        fs::set_permissions(&tree, Permissions::from_mode(0o550)).unwrap();
        let shared = place.join("shared");
        fs::create_dir(&shared).unwrap();
        chown(&shared, None, Some(GROUP)).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o2775)).unwrap();
    }
    let (here, there) = (local.path().join("shared"), dir.join("shared"));
    succeed(mounts, &["get", "/shell-group/tree", text(&here)]);
    succeed(mounts, &["put", text(&local.path().join("tree")), "/shell-group/shared/put"]);
    succeed(mounts, &["cp", "/shell-group/tree", "/shell-group/shared/cp"]);
    for copy in [here.join("tree"), there.join("put"), there.join("cp")] {
        assert_eq!((mode(&copy), fs::metadata(&copy).unwrap().gid()), (0o2550, GROUP), "{}", copy.display());
    }
}
