//! What the NameNode's HTTP port tells of trouble: a start that takes long, checkpoints that fail, DataNodes that are gone for good.

use std::fs;
use std::process::{Command, Stdio};

use dfs_tests::cases;
use dfs_tests::cluster::{Cluster, Devices, http_get, http_status};
use dfs_tests::device::{LoopDevice, SMALL_DEVICE};
use dfs_tests::process::program;
use dfs_tests::secondary::Secondary;
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::wait::{REPAIR, STARTUP, wait_until};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::process::Signal;
use serde_json::Value;

use super::served::{findings, namenode_page, wait_well};

pub(super) const CASES: [Case<Nothing>; 5] = cases![
    a_namenode_that_starts_says_so_and_is_not_taken_for_up,
    checkpoints_that_fail_are_told_until_one_succeeds,
    a_namenode_tells_that_its_device_fills_up,
    a_namenode_whose_device_hangs_says_so_and_ends_when_told_to,
    a_datanode_gone_for_good_is_told_of_until_it_is_excluded,
];

/// Transactions that may come between a look at the last one and a checkpoint.
const TXIDS_AHEAD: u64 = 100;

fn wait_told(cluster: &Cluster, words: &str) {
    wait_until(REPAIR, format!("the page to say: {words}"), || namenode_page(cluster, "/").body.contains(words));
}

fn wait_namenode_well(cluster: &Cluster) {
    wait_well("the NameNode", &cluster.namenode.host, cluster.namenode.http_port);
}

fn a_namenode_that_starts_says_so_and_is_not_taken_for_up(_: &Nothing) {
    let mut cluster = Cluster::builder().datanodes(1).replication(1).devices(Devices::Loop(SMALL_DEVICE)).start();
    cluster.dfs(&["mkdir", "/directory"]);
    cluster.namenode.daemon.kill();
    // It cannot lock its directory, and goes on starting for as long as that lasts.
    let frozen = cluster.namenode.devices[0].freeze();
    cluster.namenode.daemon.start();
    let (host, port) = (cluster.namenode.host.clone(), cluster.namenode.http_port);
    wait_until(STARTUP, "the HTTP port to answer", || http_status(&host, port, "/health").is_some());
    for path in ["/health", "/status", "/metrics", "/", "/browse/"] {
        let (status, body) = http_get(&host, port, path).expect("it answers");
        assert!(status == 503 && body.contains("opening the directory"), "{path}: {status} {body}");
    }
    let (_, status) = http_get(&host, port, "/status").expect("it answers");
    let status: Value = serde_json::from_str(&status).expect("the status is JSON");
    assert_eq!(status["state"], "starting", "{status}");
    assert_eq!(cluster.live_datanodes(), None, "nobody takes it for a NameNode without DataNodes");
    drop(frozen);
    wait_until(STARTUP, "the NameNode to serve", || http_status(&host, port, "/health") == Some(200));
    let (_, status) = http_get(&host, port, "/status").expect("it answers");
    let status: Value = serde_json::from_str(&status).expect("the status is JSON");
    assert!(status["state"] == "serving" && status["last_txid"].as_u64() > Some(0), "{status}");
}

fn checkpoints_that_fail_are_told_until_one_succeeds(_: &Nothing) {
    let cluster = Cluster::builder().datanodes(1).replication(1).start();
    let device = LoopDevice::create(&cluster.dir().join("secondary"), SMALL_DEVICE);
    let mut secondary = Secondary::new(&cluster);
    secondary.daemon.start();
    cluster.dfs(&["mkdir", "/one"]);
    secondary.wait_checkpoint(cluster.status("last_txid").expect("the NameNode serves"));
    wait_namenode_well(&cluster);

    device.fill();
    cluster.dfs(&["mkdir", "/two"]);
    wait_told(&cluster, "The SecondaryNameNode&#39;s last checkpoint failed");
    device.free();
    wait_namenode_well(&cluster);

    // The NameNode's own: what is in the way of its next image is a directory, whatever its last transaction will be.
    let last = cluster.status("last_txid").expect("the NameNode serves");
    let current = cluster.dir().join("namenode/name/current");
    let in_the_way = |txid: u64| current.join(format!("fsimage_{txid:019}.tmp"));
    for txid in last..last + TXIDS_AHEAD {
        fs::create_dir(in_the_way(txid)).expect("make a directory");
    }
    secondary.daemon.kill();
    cluster.dfs(&["mkdir", "/three"]);
    assert!(cluster.try_dfs(&["admin", "save-namespace"]).is_err());
    wait_told(&cluster, "The NameNode&#39;s last checkpoint failed");
    let (_, status) =
        http_get(&cluster.namenode.host, cluster.namenode.http_port, "/status").expect("the NameNode answers");
    let status: Value = serde_json::from_str(&status).expect("the status is JSON");
    assert!(status["checkpoint_failure"].as_str().is_some_and(|why| why.contains("fsimage_")), "{status}");
    for txid in last..last + TXIDS_AHEAD {
        fs::remove_dir(in_the_way(txid)).expect("remove a directory");
    }
    cluster.dfs(&["admin", "save-namespace"]);
    let body = namenode_page(&cluster, "/").body;
    assert!(!findings(&body).iter().any(|finding| finding.contains("checkpoint failed")), "{body}");
    drop(secondary);
    drop(device);
}

fn a_namenode_tells_that_its_device_fills_up(_: &Nothing) {
    /// Less than is kept for the edit log, and more than a NameNode at rest takes.
    const LEFT: u64 = 40 << 20;
    let cluster = Cluster::builder().datanodes(1).replication(1).devices(Devices::Loop(SMALL_DEVICE)).start();
    wait_namenode_well(&cluster);
    let device = cluster.namenode.devices[0].path();
    let status = statvfs(device).expect("ask for room");
    let ballast = device.join("ballast");
    let file = fs::File::create(&ballast).expect("make a file");
    fallocate(&file, FallocateFlags::empty(), 0, status.f_bavail * status.f_frsize - LEFT).expect("take the room");
    wait_told(&cluster, "The NameNode&#39;s device is full");
    fs::remove_file(&ballast).expect("remove the file");
    drop(file);
    wait_namenode_well(&cluster);
}

fn a_namenode_whose_device_hangs_says_so_and_ends_when_told_to(_: &Nothing) {
    let mut cluster = Cluster::builder().datanodes(1).replication(1).devices(Devices::Loop(SMALL_DEVICE)).start();
    wait_namenode_well(&cluster);
    let (host, port) = (cluster.namenode.host.clone(), cluster.namenode.http_port);
    // A change that the log does not take.
    let change = |cluster: &Cluster| {
        let mut command = Command::new(program("dfs"));
        command.args(["--namenode", &cluster.namenodes(), "mkdir", "-p", "/directory"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start dfs")
    };
    let frozen = cluster.namenode.devices[0].freeze();
    let mut waits = change(&cluster);
    wait_told(&cluster, "device does not answer");
    let (status, words) = http_get(&host, port, "/health").expect("it answers");
    assert!(status == 503 && words.contains("does not answer"), "{status} {words}");
    assert!(cluster.status("log_silence_seconds") > Some(0));
    drop(frozen);
    wait_until(REPAIR, "the NameNode to be well", || http_status(&host, port, "/health") == Some(200));
    assert!(waits.wait().expect("wait for dfs").success());

    let frozen = cluster.namenode.devices[0].freeze();
    let mut waits = change(&cluster);
    wait_told(&cluster, "device does not answer");
    cluster.namenode.daemon.signal(Signal::TERM);
    // The kernel keeps what waits for the device; all else of the process is gone.
    let stat = format!("/proc/{}/stat", cluster.namenode.daemon.pid().expect("it runs").as_raw_nonzero());
    wait_until(REPAIR, "the NameNode to end", || {
        let stat = fs::read_to_string(&stat).unwrap_or_default();
        stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
    });
    drop(frozen);
    assert!(cluster.namenode.daemon.wait_exit(STARTUP).success());
    waits.kill().and_then(|()| waits.wait()).expect("end dfs");
    cluster.restart_all();
}

fn a_datanode_gone_for_good_is_told_of_until_it_is_excluded(_: &Nothing) {
    let dir = tempfile::tempdir().expect("make a directory");
    let exclude = dir.path().join("exclude");
    fs::write(&exclude, "").expect("write");
    let setting = format!("dfs.hosts.exclude={}", exclude.display());
    let mut cluster = Cluster::builder().datanodes(3).replication(2).set(setting).start();
    let mount = cluster.mount("mount");
    fs::write(mount.join("file"), vec![7; 1 << 20]).expect("write");
    cluster.wait_fully_replicated();
    cluster.datanodes[0].daemon.kill();
    wait_told(&cluster, "1 DataNode dead:");
    cluster.wait_fully_replicated();
    assert!(namenode_page(&cluster, "/").body.contains("dfs.hosts.exclude"), "it says what to do");
    let gone = format!("{}:{}\n", cluster.datanodes[0].host, cluster.datanodes[0].data_port);
    fs::write(&exclude, gone).expect("write");
    cluster.dfs(&["admin", "refresh-nodes"]);
    wait_namenode_well(&cluster);
    assert!(namenode_page(&cluster, "/").body.contains("1 decommissioned"), "it is still listed");
}
