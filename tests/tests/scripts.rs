//! scripts/up and scripts/down as a user runs them: what the README promises.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;

use dfs_tests::cases;
use dfs_tests::cluster::test_dir;
use dfs_tests::device::{LoopDevice, SMALL_DEVICE};
use dfs_tests::mount::is_mount_point;
use dfs_tests::process::program;
use dfs_tests::suite::{self, Nothing};
use dfs_tests::wait::{STARTUP, wait_for, wait_until};
use dfs_tests::workload::{check_tree, make_tree, source_tree};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A cluster made by scripts/up; taken down whatever happens.
struct UpCluster {
    dir: TempDir,
    /// Names of the cluster's directory and of the mount point in `dir`.
    names: [&'static str; 2],
}

impl UpCluster {
    fn new() -> Self {
        Self::named(["cluster", "mnt"])
    }

    fn named(names: [&'static str; 2]) -> Self {
        Self { dir: test_dir(), names }
    }

    fn cluster_dir(&self) -> PathBuf {
        self.dir.path().join(self.names[0])
    }

    fn mount_point(&self) -> PathBuf {
        self.dir.path().join(self.names[1])
    }

    fn script(&self, name: &str, arguments: &[&str]) -> Output {
        self.run(Command::new(scripts().join(name)), arguments)
    }

    /// Runs a script on this cluster.
    fn run(&self, mut command: Command, arguments: &[&str]) -> Output {
        command.arg("--dir").arg(self.cluster_dir()).args(arguments).stdin(Stdio::null());
        // What was built for this test, not what another build leaves beside it.
        command.env("DFS_BIN_DIR", program("dfs-server").parent().expect("programs lie in a directory"));
        command.output().expect("run script")
    }

    #[track_caller]
    fn up(&self, options: &[&str]) -> BTreeMap<String, String> {
        let mount_point = self.mount_point();
        let output = self.script("up", &[options, &[mount_point.to_str().expect("a plain path")]].concat());
        assert!(output.status.success(), "up: {}", text(&output));
        let env = fs::read_to_string(self.cluster_dir().join("cluster.env")).expect("cluster.env");
        env.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[track_caller]
    fn down(&self, options: &[&str]) {
        let output = self.script("down", options);
        assert!(output.status.success(), "down: {}", text(&output));
        assert!(!is_mount_point(&self.mount_point()));
        let table = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
        let ours = self.cluster_dir().display().to_string().replace(' ', "\\040");
        assert!(!table.contains(&ours), "mounts are left: {table}");
    }
}

impl Drop for UpCluster {
    fn drop(&mut self) {
        let _ = self.script("down", &[]);
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").join("scripts")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn pids(env: &BTreeMap<String, String>) -> Vec<Pid> {
    let pids = env.iter().filter(|(name, _)| name.ends_with("_PID"));
    pids.map(|(name, pid)| pid.parse().ok().and_then(Pid::from_raw).unwrap_or_else(|| panic!("{name}={pid}"))).collect()
}

/// Waits until none of them runs; one that ended and that init has not yet collected does not.
fn wait_gone(pids: &[Pid]) {
    let is_gone = |pid: &Pid| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
    };
    wait_until(Duration::from_secs(5), "processes to be gone", || pids.iter().all(is_gone));
}

fn without_pids(env: &BTreeMap<String, String>) -> Vec<(&String, &String)> {
    env.iter().filter(|(name, _)| !name.ends_with("_PID")).collect()
}

fn up_survives_kill_9_of_everything_and_keeps_identity_ports_and_data(_: &Nothing) {
    let cluster = UpCluster::new();
    let env = cluster.up(&["--devices", "loop", "--device-size", "1G", "--racks", "2"]);
    for name in ["NAMENODES", "NAMENODE_1_PID", "NAMENODE_1_DIR", "DATANODE_3_PID", "DATANODE_3_DIR", "DATANODE_3_DATA"]
    {
        assert!(env.contains_key(name), "cluster.env has no {name}: {env:?}");
    }
    assert_eq!(env["MOUNTPOINT"], cluster.mount_point().to_str().unwrap());
    assert!(env.contains_key("HTTP_1") && env.contains_key("FUSE_PID"), "{env:?}");
    assert_eq!(pids(&env).len(), 5);
    let tree = source_tree(1, 200);
    make_tree(&cluster.mount_point(), &tree).unwrap();
    for pid in pids(&env) {
        kill_process(pid, Signal::KILL).unwrap();
    }
    let again = cluster.up(&[]);
    assert_eq!(without_pids(&again), without_pids(&env));
    check_tree(&cluster.mount_point(), &tree).unwrap();
    // On a cluster that runs there is nothing to do.
    assert_eq!(cluster.up(&[]), again);
    cluster.down(&[]);
    wait_gone(&pids(&again));
    cluster.down(&[]);
    let third = cluster.up(&[]);
    assert_eq!(without_pids(&third), without_pids(&env));
    check_tree(&cluster.mount_point(), &tree).unwrap();
    cluster.down(&["--purge"]);
    assert!(!cluster.cluster_dir().exists());
}

fn down_works_after_any_crash(_: &Nothing) {
    let cluster = UpCluster::new();
    cluster.down(&[]);
    let env = cluster.up(&["--datanodes", "2"]);
    // A daemon that is stopped, one that is dead, a mount whose daemon is gone, a lost pid file.
    let pid = |name: &str| Pid::from_raw(env[name].parse().unwrap()).unwrap();
    kill_process(pid("DATANODE_1_PID"), Signal::STOP).unwrap();
    kill_process(pid("DATANODE_2_PID"), Signal::KILL).unwrap();
    kill_process(pid("FUSE_PID"), Signal::KILL).unwrap();
    fs::remove_file(cluster.cluster_dir().join("run/namenode-1.pid")).unwrap();
    cluster.down(&[]);
    wait_gone(&pids(&env));
}

fn up_refuses_what_it_cannot_do_and_leaves_nothing(_: &Nothing) {
    let cluster = UpCluster::new();
    let mount_point = cluster.mount_point();
    let mount_point = mount_point.to_str().unwrap();
    let dir = cluster.cluster_dir();
    let [above, within] = [cluster.dir.path().to_owned(), dir.join("datanode-1/mount")];
    let link = cluster.dir.path().join("link");
    std::os::unix::fs::symlink(&dir, &link).unwrap();
    let [dir, above, within, link] = [&dir, &above, &within, &link].map(|path| path.to_str().unwrap());
    for (arguments, code, words) in [
        (vec![dir], 2, "hide the cluster's own files"),
        (vec![above], 2, "lies below the mount point"),
        (vec!["/"], 2, "lies below the mount point"),
        (vec![within], 2, "keeps files of its own"),
        (vec!["--namenodes", "3", mount_point], 2, "HA comes later"),
        (vec!["--datanodes", "none", mount_point], 2, "number"),
        (vec!["--colour", "blue", mount_point], 2, "--colour"),
        (vec![], 2, "mount point"),
        (vec!["/proc/version"], 1, "not a directory"),
    ] {
        let output = cluster.script("up", &arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains(words), "{arguments:?}: {}", text(&output));
        assert!(!cluster.cluster_dir().exists(), "{arguments:?}");
    }
    fs::create_dir(dir).unwrap();
    let output = cluster.script("up", &[link]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("is another name of"), "{}", text(&output));
    // Two clusters at once choose different ports.
    let other = UpCluster::new();
    let (one, two) = (cluster.up(&["--datanodes", "1"]), other.up(&["--datanodes", "1"]));
    assert_ne!((&one["NAMENODES"], &one["DATANODE_1_DATA"]), (&two["NAMENODES"], &two["DATANODE_1_DATA"]));
    fs::write(cluster.mount_point().join("only-here"), b"x").unwrap();
    assert!(!other.mount_point().join("only-here").exists());
    // A mount point that is taken is left alone.
    let third = UpCluster::new();
    let output = third.script("up", &["--datanodes", "1", mount_point]);
    assert!(!output.status.success() && text(&output).contains("mounted"), "{}", text(&output));
    assert!(cluster.mount_point().join("only-here").exists());
}

fn up_and_mount_take_paths_with_spaces(_: &Nothing) {
    let cluster = UpCluster::named(["the cluster", "a mount point"]);
    let mount_point = cluster.mount_point();
    let env = cluster.up(&["--datanodes", "1"]);
    assert!(is_mount_point(&mount_point));
    fs::write(mount_point.join("a file"), b"x").unwrap();
    let source = "set -eu; . \"$1/cluster.env\"; test \"$MOUNTPOINT\" = \"$2\"; cat \"$MOUNTPOINT/a file\"";
    let sourced =
        Command::new("bash").args(["-c", source, "bash"]).arg(cluster.cluster_dir()).arg(&mount_point).output();
    let sourced = sourced.expect("run bash");
    assert!(sourced.status.success() && sourced.stdout == b"x", "{}", text(&sourced));
    // As mount(8) calls its helper, and umount(8) by hand.
    let (other, helper) = (cluster.dir.path().join("another mount point"), cluster.dir.path().join("mount.fuse.dfs"));
    fs::create_dir(&other).unwrap();
    std::os::unix::fs::symlink(program("dfs-fuse"), &helper).unwrap();
    let log = format!("ro,log={}", cluster.dir.path().join("helper.log").display());
    let mounted = Command::new(&helper).arg(&env["NAMENODES"]).arg(&other).args(["-o", &log]).output();
    let mounted = mounted.expect("run the mount helper");
    assert!(mounted.status.success(), "{}", text(&mounted));
    assert_eq!(fs::read(other.join("a file")).unwrap(), b"x");
    for path in [&other, &mount_point] {
        let unmounted = Command::new("umount").arg(path).output().expect("run umount");
        assert!(unmounted.status.success() && !is_mount_point(path), "{}", text(&unmounted));
    }
    // Mounts what was unmounted by hand, and what a killed daemon left dead.
    let again = cluster.up(&[]);
    assert_ne!(again["FUSE_PID"], env["FUSE_PID"]);
    kill_process(Pid::from_raw(again["FUSE_PID"].parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    cluster.up(&[]);
    assert_eq!(fs::read(mount_point.join("a file")).unwrap(), b"x");
    cluster.down(&[]);
}

/// Status 1, these words, and nothing that was not there before.
#[track_caller]
fn check_refusal(cluster: &UpCluster, output: &Output, words: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(words.iter().all(|words| said.contains(words)), "{words:?}: {said}");
    assert!(!is_mount_point(&cluster.mount_point()), "{said}");
    assert!(!cluster.cluster_dir().join("cluster.env").exists(), "{said}");
    let pid_files = fs::read_dir(cluster.cluster_dir().join("run")).into_iter().flatten().filter_map(Result::ok);
    let pid_files: Vec<_> = pid_files.map(|entry| entry.path()).filter(|path| path.extension().is_some()).collect();
    assert!(pid_files.is_empty(), "{pid_files:?} are left: {said}");
}

fn up_names_who_has_its_ports_and_starts_nothing(_: &Nothing) {
    let cluster = UpCluster::new();
    let env = cluster.up(&["--datanodes", "1"]);
    cluster.down(&[]);
    let mount_point = cluster.mount_point();
    for (address, daemon) in [(&env["NAMENODES"], "namenode-1"), (&env["DATANODE_1_DATA"], "datanode-1")] {
        let port = address.rsplit(':').next().unwrap();
        let taken = TcpListener::bind(address.as_str()).unwrap();
        let output = cluster.script("up", &[mount_point.to_str().unwrap()]);
        let (owner, us) = (format!("port {port} of {daemon} is taken by"), format!("(pid {})", std::process::id()));
        check_refusal(&cluster, &output, &[&owner, &us, "stop that", "--dir"]);
        drop(taken);
    }
    assert_eq!(without_pids(&cluster.up(&[])), without_pids(&env));
}

fn up_leaves_directories_of_other_versions_alone(_: &Nothing) {
    let shape = "NAMENODES=1\nDATANODES=1\nREPLICATION=1\nDEVICES=dir\nRACKS=1\nDEVICE_SIZE=12G\n";
    for (conf, words) in [
        (format!("FORMAT=99\n{shape}"), "newer version"),
        (
            format!("{shape}NAMENODE_1_RPC=1\nNAMENODE_1_HTTP=2\n"),
            "older version of scripts/up, its cluster.conf has no DATANODE_1_RPC",
        ),
    ] {
        let cluster = UpCluster::new();
        let dir = cluster.cluster_dir();
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("cluster.conf"), &conf).unwrap();
        let output = cluster.script("up", &[cluster.mount_point().to_str().unwrap()]);
        check_refusal(&cluster, &output, &[words, "--purge"]);
        let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["cluster.conf"]);
        assert_eq!(fs::read_to_string(dir.join("cluster.conf")).unwrap(), conf);
        assert!(!cluster.mount_point().exists());
    }
    // What is no cluster at all stays as it is, too.
    let cluster = UpCluster::new();
    fs::create_dir_all(cluster.cluster_dir().join("logs")).unwrap();
    fs::write(cluster.cluster_dir().join("logs/mine"), b"x").unwrap();
    let output = cluster.script("up", &[cluster.mount_point().to_str().unwrap()]);
    check_refusal(&cluster, &output, &["is not empty and holds no cluster"]);
    assert_eq!(fs::read(cluster.cluster_dir().join("logs/mine")).unwrap(), b"x");
    assert!(!cluster.cluster_dir().join("lock").exists());
}

/// A command in whose view of the file system an empty file that is not executable lies over `path`.
fn with_empty_file_over(path: &str, dir: &Path) -> Command {
    let empty = dir.join("empty");
    fs::write(&empty, b"").unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-c", "mount --bind \"$0\" \"$(readlink -f \"$1\")\" && shift && exec \"$@\""]);
    command.arg(empty).arg(path);
    command
}

fn up_says_how_to_get_fuse_and_leaves_nothing(_: &Nothing) {
    let cluster = UpCluster::new();
    let mut command = with_empty_file_over("/dev/fuse", cluster.dir.path());
    command.arg(scripts().join("up"));
    let output = cluster.run(command, &[cluster.mount_point().to_str().unwrap()]);
    check_refusal(&cluster, &output, &["no /dev/fuse", "modprobe fuse"]);
    assert!(!cluster.cluster_dir().exists() && !cluster.mount_point().exists());
    // Whether a user who is not root could mount.
    let question = "set -eu; . \"$LIBRARY\"; id() { echo 1000; }; PATH=$PLACES; require_fuse";
    let places = std::env::var("PATH").unwrap();
    for (places, status, words) in [("/nowhere", 1, "install the package fuse3"), (&places, 0, "")] {
        let mut command = Command::new("bash");
        command.args(["-c", question]).env("LIBRARY", scripts().join("lib.sh")).env("PLACES", places);
        let output = command.output().expect("run bash");
        assert_eq!(output.status.code(), Some(status), "{}", text(&output));
        assert!(text(&output).contains(words), "{}", text(&output));
    }
}

/// Runs a script, or a line of bash that has the library, with these programs before the others.
fn with_programs(programs: &[(&str, &str)], words: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    for (name, version) in programs {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\necho '{version}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    Command::new("bash").args(words).env("PATH", path).output().expect("run bash")
}

fn setup_asks_for_the_rust_that_the_project_needs(_: &Nothing) {
    let setup = scripts().join("setup");
    let manifest = fs::read_to_string(scripts().join("../Cargo.toml")).unwrap();
    let needed = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    let newest = format!("{needed}.0 (0123456789 2030-01-01)");
    let [cargo, rustc] = ["cargo", "rustc"].map(|tool| format!("{tool} {newest}"));
    for programs in [
        [("cargo", "cargo 1.60.0 (0123456789 2022-01-01)"), ("rustc", &rustc)],
        [("cargo", &cargo), ("rustc", "rustc 1.9.0 (0123456789 2016-01-01)")],
    ] {
        let output = with_programs(&programs, &[setup.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{programs:?}: {}", text(&output));
        let words = [format!("this project needs {needed}"), "rustup update".to_owned()];
        assert!(words.iter().all(|words| text(&output).contains(words)), "{programs:?}: {}", text(&output));
    }
    let check = format!(
        "set -euo pipefail; . {0}/lib.sh; is_older 1.9 {needed} && ! is_older {needed}.0 {needed}",
        scripts().display()
    );
    let output = with_programs(&[], &["-c", &check]);
    assert!(output.status.success(), "{}", text(&output));
}

fn programs_are_found_wherever_cargo_puts_them(_: &Nothing) {
    let root = fs::canonicalize(scripts().join("..")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let absolute = elsewhere.path().join("built");
    for (told, expected) in
        [(absolute.to_str().unwrap(), absolute.clone()), ("somewhere/else", root.join("somewhere/else"))]
    {
        let mut command = Command::new("bash");
        command.args(["-c", "set -euo pipefail; . \"$LIBRARY\"; find_programs; printf %s \"$BIN\""]);
        command.env("LIBRARY", scripts().join("lib.sh")).env("CARGO_TARGET_DIR", told).env_remove("DFS_BIN_DIR");
        // Not where the project lies: what is relative is so to the project.
        let output = command.current_dir("/").output().expect("run bash");
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected.join("release").to_str().unwrap());
    }
}

fn leftovers(base: &Path) -> String {
    let mut command = Command::new("bash");
    command.args(["-c", ". \"$LIBRARY\"; leftovers \"$BASE\""]);
    command.env("LIBRARY", scripts().join("lib.sh")).env("BASE", base);
    let output = command.output().expect("run bash");
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}

fn leftovers_finds_processes_network_namespaces_mounts_and_loop_devices(_: &Nothing) {
    let dir = test_dir();
    let base = dir.path();
    assert_eq!(leftovers(base), "");
    // As a host of a test: nothing in its command line tells whose it is.
    let mut host = Command::new("unshare")
        .args(["--net", "sleep", "infinity"])
        .env("DFS_TEST_BASE", base)
        .spawn()
        .expect("run unshare");
    let device = LoopDevice::create(&base.join("device"), SMALL_DEVICE);
    let found = wait_for(STARTUP, "a host to be found", || {
        Some(leftovers(base)).filter(|found| found.contains("sleep infinity"))
    });
    host.kill().and_then(|()| host.wait()).expect("end the host");
    for words in
        [format!("process {}", host.id()), format!("mount {}", device.path().display()), "/dev/loop".to_owned()]
    {
        assert!(found.contains(&words), "{words} is missing: {found}");
    }
    drop(device);
    wait_until(STARTUP, "nothing to be left", || leftovers(base).is_empty());
}

/// Runs lines of bash that have the library.
fn library(lines: &str, arguments: &[&Path]) -> Output {
    let mut command = Command::new("bash");
    command.arg("-c").arg(format!(". \"$LIBRARY\"; {lines}")).arg("bash").args(arguments);
    command.env("LIBRARY", scripts().join("lib.sh")).stdin(Stdio::null()).output().expect("run bash")
}

fn sweep_tests_sweeps_the_base_of_a_run_and_nothing_else(_: &Nothing) {
    let dir = test_dir();
    // With a symlink on the way: the kernel's tables have the other path.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path(), &link).unwrap();
    let made = library("TMPDIR=$1/ new_test_base \"$PPID\"", &[&link]);
    assert!(made.status.success(), "{}", text(&made));
    let base = PathBuf::from(String::from_utf8(made.stdout).unwrap());
    assert_eq!(base.parent(), Some(dir.path().canonicalize().unwrap().as_path()));

    let sleeper = |words: &[&str], base: Option<&Path>| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env_remove("DFS_TEST_BASE").envs(base.map(|base| ("DFS_TEST_BASE", base)));
        command.stdin(Stdio::null()).spawn().expect("start a process")
    };
    let name = base.display().to_string();
    let mut named = sleeper(&["bash", "-c", "exec -a \"$0\" sleep 1000", &name], None);
    let longer = base.with_extension(format!("{}x", base.extension().unwrap().to_str().unwrap()));
    let mut ours = sleeper(&["sleep", "1000"], Some(&base));
    let mut other = sleeper(&["sleep", "1000"], Some(&longer));
    let [mount, foreign] = [base.join("a mount"), longer.join("mount")];
    for path in [&mount, &foreign] {
        fs::create_dir_all(path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(path).status().expect("run mount");
        assert!(mounted.success());
    }
    // A copy, a link, and one that tests were only told to use.
    let [copied, linked, given] =
        ["dfs-test.cOPied", "dfs-test.LINKed", "dfs-test.gIVen1"].map(|name| dir.path().join(name));
    fs::create_dir(&copied).unwrap();
    fs::copy(base.join(".dfs-test-run"), copied.join(".dfs-test-run")).unwrap();
    std::os::unix::fs::symlink(&base, &linked).unwrap();
    fs::create_dir(&given).unwrap();
    for path in
        [Path::new(""), Path::new("/"), Path::new("/var/tmp"), dir.path(), &copied, &linked, &given, &longer, &mount]
    {
        let swept = library("sweep_tests \"$1\"", &[path]);
        assert_eq!(swept.status.code(), Some(1), "{}: {}", path.display(), text(&swept));
    }
    assert!(copied.exists() && given.exists() && is_mount_point(&mount) && ours.try_wait().unwrap().is_none());

    // A run that is alive keeps its base; the other way round it is swept.
    let swept = library("TMPDIR=$1 sweep_dead_runs", &[dir.path()]);
    assert!(swept.status.success() && base.exists(), "{}", text(&swept));
    let swept = library("sweep_tests \"$1\"", &[&base]);
    assert!(swept.status.success() && !base.exists(), "{}", text(&swept));
    ours.wait().expect("it was killed");
    assert!(named.try_wait().unwrap().is_none() && other.try_wait().unwrap().is_none());
    assert!(is_mount_point(&foreign));
    for child in [&mut named, &mut other] {
        child.kill().and_then(|()| child.wait()).expect("end it");
    }
    assert!(Command::new("umount").arg(&foreign).status().expect("run umount").success());
    let swept = library(
        "export TMPDIR=$1; base=$(bash -c '. \"$LIBRARY\"; new_test_base'); sweep_dead_runs; [[ ! -e $base ]]",
        &[dir.path()],
    );
    assert!(swept.status.success(), "{}", text(&swept));
    assert!(copied.exists() && given.exists());
}

fn down_removes_only_what_up_has_made(_: &Nothing) {
    // A directory that looks like one.
    let cluster = UpCluster::new();
    let mine = cluster.cluster_dir().join("run/mine");
    fs::create_dir_all(mine.parent().unwrap()).unwrap();
    for path in [&mine, &cluster.cluster_dir().join("lock")] {
        fs::write(path, b"x").unwrap();
    }
    let output = cluster.script("down", &["--purge"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("is not marked"), "{}", text(&output));
    assert_eq!(fs::read(&mine).unwrap(), b"x");
    assert_eq!(fs::read(cluster.cluster_dir().join("lock")).unwrap(), b"x");

    let cluster = UpCluster::new();
    cluster.up(&["--datanodes", "1"]);
    let dir = cluster.cluster_dir();
    for name in ["datanode-notes", "names"] {
        fs::write(dir.join(name), b"x").unwrap();
    }
    cluster.down(&[]);
    // As up would call another node, but it is none of this cluster's.
    let foreign = dir.join("datanode-7/mine");
    fs::create_dir(foreign.parent().unwrap()).unwrap();
    fs::write(&foreign, b"x").unwrap();
    // A purge that was interrupted is finished; nobody starts what is only half there.
    fs::rename(dir.join("cluster.conf"), dir.join("cluster.purge")).unwrap();
    fs::remove_dir_all(dir.join("run")).unwrap();
    let output = cluster.script("up", &[cluster.mount_point().to_str().unwrap()]);
    check_refusal(&cluster, &output, &["interrupted", "--purge"]);
    cluster.down(&["--purge"]);
    let mut left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["datanode-7", "datanode-notes", "names"]);
    assert_eq!(fs::read(&foreign).unwrap(), b"x");
}

fn down_purges_a_cluster_whose_shape_is_lost(_: &Nothing) {
    let cluster = UpCluster::new();
    let dir = cluster.cluster_dir();
    let conf = dir.join("cluster.conf");
    // Another version's, and an empty one.
    for lost in ["DATANODES=", ""] {
        cluster.up(&["--datanodes", "1"]);
        let shape = fs::read_to_string(&conf).unwrap();
        let kept: Vec<_> = shape.lines().filter(|line| !line.starts_with(lost)).collect();
        fs::write(&conf, kept.join("\n")).unwrap();
        let output = cluster.script("up", &[cluster.mount_point().to_str().unwrap()]);
        let words = [format!("scripts/down --dir {} --purge", dir.display()), "cluster.conf has no ".to_owned()];
        assert!(words.iter().all(|words| text(&output).contains(words)), "{}", text(&output));
        cluster.down(&["--purge"]);
        assert!(!dir.exists());
    }
    // As an older purge that was interrupted left it.
    cluster.up(&["--datanodes", "1"]);
    cluster.down(&[]);
    fs::remove_file(&conf).unwrap();
    fs::remove_dir_all(dir.join("conf")).unwrap();
    cluster.down(&["--purge"]);
    assert!(!dir.exists());
}

fn up_and_down_on_a_copy_leave_the_original_alone(_: &Nothing) {
    let original = UpCluster::new();
    let env = original.up(&["--datanodes", "1"]);
    let mount_point = original.mount_point();
    fs::write(mount_point.join("mine"), b"x").unwrap();
    let copy = UpCluster::new();
    let copied = Command::new("cp").arg("-a").arg(original.cluster_dir()).arg(copy.cluster_dir()).status();
    assert!(copied.expect("run cp").success());
    // At the original's mount point, and elsewhere, where only the ports are in the way.
    for (at, words) in [(&mount_point, "something else is mounted"), (&copy.mount_point(), "is taken by")] {
        let output = copy.script("up", &[at.to_str().unwrap()]);
        assert!(!output.status.success() && text(&output).contains(words), "{}", text(&output));
        let output = copy.script("down", &["--purge"]);
        assert!(!output.status.success() && text(&output).contains("is not marked"), "{}", text(&output));
    }
    // Not even when somebody has marked it.
    let inode = Command::new("stat").args(["-c", "%i"]).arg(copy.cluster_dir()).output().expect("run stat");
    fs::write(copy.cluster_dir().join("cluster.mark"), inode.stdout).unwrap();
    copy.down(&[]);
    assert_eq!(fs::read(mount_point.join("mine")).unwrap(), b"x");
    assert_eq!(original.up(&[]), env, "all of it still runs");
    // Once the original's ports are free, the copy is a cluster of its own.
    original.down(&[]);
    fs::write(copy.cluster_dir().join("cluster.mark"), "1\n").unwrap();
    fs::write(copy.cluster_dir().join("run/mountpoint"), "/nonexistent\n").unwrap();
    copy.up(&[]);
    assert_eq!(fs::read(copy.mount_point().join("mine")).unwrap(), b"x");
    copy.down(&["--purge"]);
    assert!(original.cluster_dir().join("namenode-1").exists());
}

fn up_says_how_to_stop_what_runs_since_before_directories_were_marked(_: &Nothing) {
    let cluster = UpCluster::new();
    let env = cluster.up(&["--datanodes", "1"]);
    let (dir, mount_point) = (cluster.cluster_dir(), cluster.mount_point());
    fs::write(mount_point.join("mine"), b"x").unwrap();
    // As it was then: no mark, and files in run/ that do not say whose they are.
    fs::remove_file(dir.join("cluster.mark")).unwrap();
    fs::write(dir.join("run/mountpoint"), format!("{}\n", mount_point.display())).unwrap();
    let files = ["namenode-1", "datanode-1", "fuse"].map(|name| dir.join("run").join(name).with_extension("pid"));
    let noted = files.each_ref().map(|file| {
        let line = fs::read_to_string(file).unwrap();
        let line = line.rsplit_once(' ').expect("the mark is its last word").0.to_owned() + "\n";
        fs::write(file, &line).unwrap();
        line
    });
    let output = cluster.script("down", &[]);
    assert!(!output.status.success() && text(&output).contains("run 'scripts/up' on it first"), "{}", text(&output));
    let output = cluster.script("up", &[mount_point.to_str().unwrap()]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(files.each_ref().map(|file| fs::read_to_string(file).unwrap()), noted);
    assert!(is_mount_point(&mount_point) && !dir.join("cluster.mark").exists(), "{said}");
    // What it says is what helps.
    assert!(said.contains("unmount it"), "{said}");
    assert!(Command::new("umount").arg(&mount_point).status().expect("run umount").success());
    // It ends its session, and would ask for a while after a NameNode that is gone.
    wait_gone(&[Pid::from_raw(env["FUSE_PID"].parse().unwrap()).unwrap()]);
    let advice = said.split('\'').find(|words| words.starts_with("kill ")).unwrap_or_else(|| panic!("{said}"));
    // Status 1: the mount's daemon is gone.
    Command::new("bash").args(["-c", advice]).output().expect("run bash");
    wait_gone(&pids(&env));
    assert_eq!(without_pids(&cluster.up(&[])), without_pids(&env));
    assert_eq!(fs::read(mount_point.join("mine")).unwrap(), b"x");
    cluster.down(&[]);
}

fn a_daemon_that_is_being_started_when_its_starter_is_told_to_stop_is_stopped(_: &Nothing) {
    let dir = test_dir();
    let lines = "set -euo pipefail; DIR=$1; export DFS_TEST_BASE=$1; mkdir \"$DIR/run\" \"$DIR/logs\"
        trap 'await_note; stop_daemon \"$DIR/run/sleeper.pid\" 10' EXIT
        trap 'exit 143' TERM
        # The signal comes before there is a pid file.
        eval \"real_$(declare -f wait_until)\"
        wait_until() { [[ -n ${asked:-} ]] || { asked=1; kill -TERM $$; }; real_wait_until \"$@\"; }
        start_daemon \"$DIR\" sleeper sleep 1000";
    let output = library(lines, &[dir.path()]);
    assert_eq!(output.status.code(), Some(143), "{}", text(&output));
    assert!(!dir.path().join("run/sleeper.pid").exists());
    wait_until(STARTUP, "nothing to be left", || leftovers(dir.path()).is_empty());
}

fn a_process_runs_until_its_last_thread_has_ended(_: &Nothing) {
    // The first thread ends (exit(2) of Linux ends one thread), the other one sleeps on, as one does that waits for a device.
    let program = "import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).syscall(60, 0)";
    let mut process = Command::new("python3").args(["-c", program]).spawn().expect("run python3");
    let pid = PathBuf::from(process.id().to_string());
    let stat = format!("/proc/{}/stat", pid.display());
    wait_until(STARTUP, "its first thread to end", || fs::read_to_string(&stat).unwrap().contains(") Z "));
    let runs = || library("start_time \"$1\"", &[&pid]).status.success();
    assert!(runs());
    process.kill().expect("kill it");
    // Not collected yet: a zombie, and nothing else.
    wait_until(STARTUP, "all of it to end", || !runs());
    process.wait().expect("it was killed");
}

fn scripts_find_their_directory_whatever_cdpath_says(_: &Nothing) {
    let root = fs::canonicalize(scripts().join("..")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::create_dir(elsewhere.path().join("scripts")).unwrap();
    let mut command = Command::new("bash");
    command.args(["-c", "set -euo pipefail; . scripts/lib.sh; printf %s \"$REPO\""]);
    let output = command.current_dir(&root).env("CDPATH", elsewhere.path()).output().expect("run bash");
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), root.to_str().unwrap());
}

fn up_and_down_leave_the_mounts_of_others(_: &Nothing) {
    let cluster = UpCluster::new();
    let env = cluster.up(&["--datanodes", "1"]);
    let mount_point = cluster.mount_point();
    kill_process(Pid::from_raw(env["FUSE_PID"].parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).arg(&mount_point).status().expect("run it");
        assert!(status.success(), "{program} {arguments:?}");
    };
    run("umount", &[]);
    run("mount", &["-t", "tmpfs", "none"]);
    fs::write(mount_point.join("mine"), b"x").unwrap();
    let output = cluster.script("up", &[mount_point.to_str().unwrap()]);
    assert!(!output.status.success() && text(&output).contains("something else is mounted"), "{}", text(&output));
    for _ in 0..2 {
        let output = cluster.script("down", &[]);
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(fs::read(mount_point.join("mine")).unwrap(), b"x");
    }
    wait_gone(&pids(&env));
    run("umount", &[]);
    // Nor one of this very cluster that somebody has made by hand where its own was.
    let env = cluster.up(&[]);
    let down = Command::new("umount").arg(&mount_point).status().expect("run umount");
    assert!(down.success());
    wait_gone(&[Pid::from_raw(env["FUSE_PID"].parse().unwrap()).unwrap()]);
    let mounted = Command::new(program("dfs-fuse")).arg(&env["NAMENODES"]).arg(&mount_point).status();
    assert!(mounted.expect("run dfs-fuse").success());
    fs::write(mount_point.join("open"), b"x").unwrap();
    let open = fs::File::open(mount_point.join("open")).unwrap();
    let output = cluster.script("up", &[mount_point.to_str().unwrap()]);
    assert!(!output.status.success() && text(&output).contains("something else is mounted"), "{}", text(&output));
    assert!(is_mount_point(&mount_point) && open.metadata().unwrap().len() == 1);
    drop(open);
    run("umount", &[]);
}

fn cluster_env_is_there_only_while_it_is_true(_: &Nothing) {
    let cluster = UpCluster::new();
    let env = cluster.up(&["--datanodes", "1"]);
    for pid in pids(&env) {
        kill_process(pid, Signal::KILL).unwrap();
    }
    wait_gone(&pids(&env));
    // The NameNode starts; the DataNode cannot.
    let data = cluster.cluster_dir().join("datanode-1/data");
    fs::rename(&data, data.with_extension("aside")).unwrap();
    let output = cluster.script("up", &[cluster.mount_point().to_str().unwrap()]);
    assert!(!output.status.success(), "{}", text(&output));
    assert!(!cluster.cluster_dir().join("cluster.env").exists(), "its processes are gone");
    fs::rename(data.with_extension("aside"), &data).unwrap();
    let env = cluster.up(&[]);
    // All that it names runs on while another DataNode cannot start.
    let in_the_way = cluster.cluster_dir().join("run/datanode-2.pid.new");
    fs::create_dir(&in_the_way).unwrap();
    let path = cluster.cluster_dir().join("cluster.env");
    let before = fs::read_to_string(&path).unwrap();
    let mount_point = cluster.mount_point();
    let output = cluster.script("up", &["--datanodes", "2", mount_point.to_str().unwrap()]);
    assert!(text(&output).contains("datanode-2 was not started"), "{}", text(&output));
    assert_eq!(fs::read_to_string(&path).ok(), Some(before), "{}", text(&output));
    fs::remove_dir(&in_the_way).unwrap();
    let grown = cluster.up(&[]);
    assert_eq!((&grown["NAMENODE_1_PID"], &grown["FUSE_PID"]), (&env["NAMENODE_1_PID"], &env["FUSE_PID"]));
    assert!(grown.contains_key("DATANODE_2_PID"));
}

fn up_follows_only_what_its_user_alone_may_write(_: &Nothing) {
    let cluster = UpCluster::new();
    let dir = cluster.cluster_dir();
    let mount_point = cluster.mount_point();
    let arguments = [mount_point.to_str().unwrap()];
    let env = cluster.up(&["--datanodes", "1"]);
    cluster.down(&[]);
    for (mode, owner, words) in [(0o775, None, "others may write"), (0o755, Some(65534), "belongs to")] {
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(&dir, owner.or(Some(0)), None).unwrap();
        for output in [cluster.script("up", &arguments), cluster.script("down", &["--purge"])] {
            check_refusal(&cluster, &output, &[words]);
        }
    }
    std::os::unix::fs::chown(&dir, Some(0), None).unwrap();
    // What the shape says is no command.
    let [conf, made] = ["cluster.conf", "made"].map(|name| dir.join(name));
    let shape = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("touch {0}\nPATH=/nowhere\n{shape}RACKS=$(touch {0})\n", made.display())).unwrap();
    assert_eq!(without_pids(&cluster.up(&[])), without_pids(&env));
    assert!(!made.exists());
}

fn up_formats_once_and_starts_nothing_that_it_cannot_note(_: &Nothing) {
    let cluster = UpCluster::new();
    let dir = cluster.cluster_dir();
    let env = cluster.up(&["--datanodes", "1"]);
    cluster.down(&[]);
    let mount_point = cluster.mount_point();
    let (storage, aside) = (dir.join("namenode-1"), dir.join("aside"));
    fs::rename(&storage, &aside).unwrap();
    let output = cluster.script("up", &[mount_point.to_str().unwrap()]);
    check_refusal(&cluster, &output, &["namenode-1/name is gone"]);
    assert!(!storage.join("name/current").exists());
    let _ = fs::remove_dir_all(&storage);
    fs::rename(&aside, &storage).unwrap();
    // No pid file can be written.
    let in_the_way = dir.join("run/namenode-1.pid.new");
    fs::create_dir(&in_the_way).unwrap();
    let output = cluster.script("up", &[mount_point.to_str().unwrap()]);
    assert!(text(&output).contains("namenode-1 was not started"), "{}", text(&output));
    let http = format!("127.0.0.1:{}", env["HTTP_1"].rsplit(':').next().unwrap());
    TcpListener::bind(http).expect("nobody has it");
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(without_pids(&cluster.up(&[])), without_pids(&env));
}

fn main() -> ExitCode {
    suite::run(cases![
        sweep_tests_sweeps_the_base_of_a_run_and_nothing_else,
        down_removes_only_what_up_has_made,
        down_purges_a_cluster_whose_shape_is_lost,
        up_and_down_leave_the_mounts_of_others,
        up_and_down_on_a_copy_leave_the_original_alone,
        up_says_how_to_stop_what_runs_since_before_directories_were_marked,
        a_daemon_that_is_being_started_when_its_starter_is_told_to_stop_is_stopped,
        a_process_runs_until_its_last_thread_has_ended,
        scripts_find_their_directory_whatever_cdpath_says,
        cluster_env_is_there_only_while_it_is_true,
        up_follows_only_what_its_user_alone_may_write,
        up_formats_once_and_starts_nothing_that_it_cannot_note,
        leftovers_finds_processes_network_namespaces_mounts_and_loop_devices,
        up_survives_kill_9_of_everything_and_keeps_identity_ports_and_data,
        down_works_after_any_crash,
        up_refuses_what_it_cannot_do_and_leaves_nothing,
        up_and_mount_take_paths_with_spaces,
        up_names_who_has_its_ports_and_starts_nothing,
        up_leaves_directories_of_other_versions_alone,
        up_says_how_to_get_fuse_and_leaves_nothing,
        setup_asks_for_the_rust_that_the_project_needs,
        programs_are_found_wherever_cargo_puts_them,
    ])
}
