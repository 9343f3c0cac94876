//! Daemons and mounts that cannot start say why, name what to change, and touch nothing.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use dfs_tests::cases;
use dfs_tests::cluster::{Cluster, http_status, test_dir};
use dfs_tests::ports::free_port;
use dfs_tests::process::{Daemon, catches, program};
use dfs_tests::secondary::Secondary;
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::wait::{STARTUP, Stopwatch, poll, wait_until};
use rustix::process::{Pid, Signal, kill_process};

pub(super) const CASES: [Case<Nothing>; 12] = cases![
    unknown_key_is_refused_with_the_nearest_one,
    value_out_of_range_is_refused_with_its_key,
    missing_configuration_file_is_named,
    port_in_use_is_named,
    format_refuses_a_directory_in_use,
    namenode_refuses_a_directory_that_is_not_formatted,
    second_daemon_on_the_same_directory_is_refused,
    datanode_refuses_a_directory_of_another_cluster,
    datanode_with_a_missing_device_says_which,
    mount_that_cannot_work_fails_with_its_reason,
    daemon_that_starts_ends_when_told_to,
    daemon_whose_log_nobody_reads_ends_soon_when_told_and_at_once_when_told_twice,
];

/// Longest that a daemon which cannot start may take to say so.
const REFUSAL: Duration = Duration::from_secs(60);

/// Runs a program that must fail by itself; what it complained about.
#[track_caller]
fn refusal(command: &mut Command) -> String {
    let dir = test_dir();
    let log = dir.path().join("stderr");
    let output = fs::File::create(&log).unwrap();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn().expect("start");
    let status = poll(REFUSAL, || child.try_wait().expect("wait for child"));
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = fs::read_to_string(&log).unwrap();
    let status = status.unwrap_or_else(|| panic!("{command:?} still runs after {REFUSAL:?}\n{text}"));
    assert!(!status.success(), "{command:?} succeeded\n{text}");
    assert!(!text.contains("panicked"), "{command:?} panicked\n{text}");
    text
}

fn server(role: &str, config: &Path, settings: &[&str]) -> Command {
    let mut command = Command::new(program("dfs-server"));
    command.arg(role).arg("--config").arg(config);
    for setting in settings {
        command.args(["-D", setting]);
    }
    command
}

#[track_caller]
fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

fn unknown_key_is_refused_with_the_nearest_one(_: &Nothing) {
    let cluster = Cluster::builder().datanodes(1).prepare();
    for (role, config) in [("namenode", &cluster.namenode.config), ("datanode", &cluster.datanodes[0].config)] {
        let text = refusal(&mut server(role, config, &["dfs.blocksise=1MiB"]));
        assert_says(&text, &["dfs.blocksise", "\"dfs.blocksize\""]);
        let file = cluster.dir().join("unknown.toml");
        fs::write(&file, fs::read_to_string(config).unwrap() + "\"dfs.replicatoin\" = 3\n").unwrap();
        assert_says(
            &refusal(&mut server(role, &file, &[])),
            &["dfs.replicatoin", "\"dfs.replication\"", "unknown.toml"],
        );
    }
}

fn value_out_of_range_is_refused_with_its_key(_: &Nothing) {
    let cluster = Cluster::builder().datanodes(1).prepare();
    for setting in ["dfs.replication=0", "dfs.heartbeat.interval=1 fortnight", "dfs.blocksize=big"] {
        let text = refusal(&mut server("namenode", &cluster.namenode.config, &[setting]));
        assert_says(&text, &[setting.split('=').next().unwrap()]);
    }
}

fn missing_configuration_file_is_named(_: &Nothing) {
    for role in ["namenode", "datanode", "format", "secondary-namenode", "import-checkpoint"] {
        assert_says(&refusal(&mut server(role, Path::new("/nowhere/dfs.toml"), &[])), &["/nowhere/dfs.toml"]);
    }
}

fn port_in_use_is_named(_: &Nothing) {
    let mut cluster = Cluster::builder().datanodes(1).start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    cluster.datanodes[0].daemon.kill();
    for key in ["dfs.datanode.address", "dfs.datanode.ipc.address", "dfs.datanode.http.address"] {
        let text = refusal(&mut server("datanode", &cluster.datanodes[0].config, &[&format!("{key}={address}")]));
        assert_says(&text, &[&address, key]);
    }
    cluster.namenode.daemon.kill();
    for key in ["dfs.namenode.rpc-address", "dfs.namenode.http-address"] {
        let text = refusal(&mut server("namenode", &cluster.namenode.config, &[&format!("{key}={address}")]));
        assert_says(&text, &[&address, key]);
    }
    cluster.restart_all();
}

fn format_refuses_a_directory_in_use(_: &Nothing) {
    let mut cluster = Cluster::builder().datanodes(1).prepare();
    cluster.format();
    let version = cluster.dir().join("namenode/name/current/VERSION");
    let before = fs::read_to_string(&version).unwrap();
    assert_says(&refusal(&mut server("format", &cluster.namenode.config, &[])), &["namenode/name"]);
    assert_eq!(fs::read_to_string(&version).unwrap(), before);
    let other = cluster.dir().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("thesis.txt"), b"years of work").unwrap();
    let setting = format!("dfs.namenode.name.dir={}", other.display());
    refusal(&mut server("format", &cluster.namenode.config, &[&setting]));
    assert_eq!(fs::read(other.join("thesis.txt")).unwrap(), b"years of work");
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    cluster.start_namenode();
}

fn namenode_refuses_a_directory_that_is_not_formatted(_: &Nothing) {
    let cluster = Cluster::builder().datanodes(1).prepare();
    let text = refusal(&mut server("namenode", &cluster.namenode.config, &[]));
    assert_says(&text, &["namenode/name", "format"]);
}

fn second_daemon_on_the_same_directory_is_refused(_: &Nothing) {
    let mut cluster = Cluster::builder().datanodes(1).start();
    let ports: Vec<String> = (0..3).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let settings =
        [format!("dfs.namenode.rpc-address={}", ports[0]), format!("dfs.namenode.http-address={}", ports[1])];
    let text = refusal(&mut server("namenode", &cluster.namenode.config, &settings.each_ref().map(String::as_str)));
    assert_says(&text, &["namenode/name", "in use"]);
    let settings = [
        format!("dfs.datanode.address={}", ports[0]),
        format!("dfs.datanode.ipc.address={}", ports[1]),
        format!("dfs.datanode.http.address={}", ports[2]),
    ];
    let text = refusal(&mut server("datanode", &cluster.datanodes[0].config, &settings.each_ref().map(String::as_str)));
    assert_says(&text, &["datanode-0-volume-0/data", "another DataNode"]);
    cluster.check_all_serving().unwrap();
}

fn datanode_refuses_a_directory_of_another_cluster(_: &Nothing) {
    let mut ours = Cluster::builder().datanodes(1).start();
    let theirs = Cluster::builder().datanodes(1).start();
    ours.datanodes[0].daemon.kill();
    let version = ours.datanodes[0].data_dirs[0].join("current/VERSION");
    let before = fs::read_to_string(&version).unwrap();
    let setting = format!("dfs.namenode.address={}", theirs.namenodes());
    let text = refusal(&mut server("datanode", &ours.datanodes[0].config, &[&setting]));
    assert_says(&text, &["dfs.datanode.data.dir", "cluster", "CID-"]);
    assert_eq!(fs::read_to_string(&version).unwrap(), before);
    assert_eq!(theirs.live_datanodes(), Some(1));
    ours.restart_all();
}

fn datanode_with_a_missing_device_says_which(_: &Nothing) {
    let mut cluster = Cluster::builder().datanodes(1).start();
    cluster.datanodes[0].daemon.kill();
    let data = cluster.datanodes[0].data_dirs[0].clone();
    let aside = data.with_file_name("aside");
    // A device that was not mounted: its mount point is there, what was on it is not.
    fs::rename(&data, &aside).unwrap();
    let text = refusal(&mut server("datanode", &cluster.datanodes[0].config, &[]));
    assert_says(&text, &["datanode-0-volume-0/data"]);
    assert!(!data.exists(), "nothing is made where the device should be");
    fs::write(&data, b"a file").unwrap();
    let text = refusal(&mut server("datanode", &cluster.datanodes[0].config, &[]));
    assert_says(&text, &["datanode-0-volume-0/data"]);
    fs::remove_file(&data).unwrap();
    fs::rename(&aside, &data).unwrap();
    cluster.restart_all();
}

fn daemon_that_starts_ends_when_told_to(_: &Nothing) {
    let mut cluster = Cluster::builder().datanodes(1).start();
    let mut secondary = Secondary::new(&cluster);
    secondary.daemon.start();
    secondary.wait_checkpoint(cluster.status("last_txid").expect("the NameNode serves"));
    let version = secondary.dir().join("current/VERSION");
    check_ends_while_starting(&mut secondary.daemon, &cluster.namenode.host, secondary.http_port, &version);
    drop(secondary);
    let node = &mut cluster.datanodes[0];
    let version = node.data_dirs[0].join("current/VERSION");
    check_ends_while_starting(&mut node.daemon, &node.host, node.http_port, &version);
    let version = cluster.dir().join("namenode/name/current/VERSION");
    let node = &mut cluster.namenode;
    check_ends_while_starting(&mut node.daemon, &node.host, node.http_port, &version);
    cluster.restart_all();
}

/// The daemon is held up by its VERSION, which is a pipe that nobody writes.
#[track_caller]
fn check_ends_while_starting(daemon: &mut Daemon, host: &str, http_port: u16, version: &Path) {
    daemon.kill();
    let aside = version.with_extension("aside");
    fs::rename(version, &aside).unwrap();
    assert!(Command::new("mkfifo").arg(version).status().expect("run mkfifo").success());
    daemon.start();
    let is_starting = || http_status(host, http_port, "/health") == Some(503);
    wait_until(STARTUP, format!("{} to start", daemon.name()), is_starting);
    assert!(daemon.terminate(REFUSAL).success(), "{}", daemon.log_tail());
    fs::rename(&aside, version).unwrap();
}

fn daemon_whose_log_nobody_reads_ends_soon_when_told_and_at_once_when_told_twice(_: &Nothing) {
    for times in [1, usize::MAX] {
        check_ends_when_told(times);
    }
}

#[track_caller]
fn check_ends_when_told(mut times: usize) {
    let cluster = Cluster::builder().datanodes(1).prepare();
    let (_unread, mut log) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&log, true).unwrap();
    while log.write(&[b'.'; 4096]).is_ok() {}
    // Else it would be told that the pipe is full, and go on.
    rustix::io::ioctl_fionbio(&log, false).unwrap();
    let mut command = server("datanode", &cluster.datanodes[0].config, &[]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    wait_until(STARTUP, "the daemon to listen to signals", || catches(Pid::from_child(&child), Signal::TERM));
    let status = poll(REFUSAL, || {
        if times > 0 {
            times -= 1;
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        }
        child.try_wait().unwrap()
    });
    let _ = child.kill();
    let _ = child.wait();
    // By itself. Well, if it was told before it had anything to say.
    assert!(status.expect("it still runs").code().is_some());
}

fn mount_that_cannot_work_fails_with_its_reason(_: &Nothing) {
    let dir = test_dir();
    let mount_point = dir.path().join("mount");
    fs::create_dir(&mount_point).unwrap();
    let fuse = |arguments: &[&str]| {
        let mut command = Command::new(program("dfs-fuse"));
        command.args(arguments);
        refusal(&mut command)
    };
    let target = mount_point.to_str().unwrap();
    let nobody = format!("127.0.0.1:{}", free_port());
    let begun = Stopwatch::start();
    let text = fuse(&["-o", "soft", &nobody, target]);
    assert_says(&text, &[&nobody]);
    assert!(begun.elapsed() < REFUSAL);
    assert!(!dfs_tests::mount::is_mount_point(&mount_point), "a mount that failed leaves nothing mounted");
    let cluster = Cluster::builder().datanodes(1).start();
    let missing = dir.path().join("missing");
    assert_says(&fuse(&[&cluster.namenodes(), missing.to_str().unwrap()]), &["missing"]);
    fs::write(dir.path().join("file"), b"x").unwrap();
    assert_says(&fuse(&[&cluster.namenodes(), dir.path().join("file").to_str().unwrap()]), &["file"]);
    assert_says(&fuse(&["-o", "colour=blue", &cluster.namenodes(), target]), &["colour"]);
    assert_says(&fuse(&["not an address", target]), &["not an address"]);
    // In the background, as a user starts it: returns when the mount answers, and leaves with its mount.
    let status = Command::new(program("dfs-fuse")).args([&cluster.namenodes(), target]).status().unwrap();
    assert!(status.success());
    fs::write(mount_point.join("file"), b"x").unwrap();
    let umount = || Command::new("umount").arg(&mount_point).status().is_ok_and(|status| status.success());
    wait_until(REFUSAL, "unmount", umount);
}
