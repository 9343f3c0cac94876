//! Racks, decommissioning, maintenance, safe mode, and fsck's word on all of it.

use std::fs::{self, File};
use std::path::Path;

use dfs_tests::bench::drop_caches;
use dfs_tests::cases;
use dfs_tests::cluster::Cluster;
use dfs_tests::replica::replica_files;
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::wait::{REPAIR, wait_until};
use dfs_tests::workload::{Pattern, check_tree, make_tree, source_tree};
use serde_json::Value;

pub(super) const CASES: [Case<Nothing>; 6] = cases![
    losing_a_rack_loses_nothing,
    racks_come_from_the_table,
    decommissioned_datanode_can_be_stopped,
    maintenance_holds_repair_back_until_it_ends,
    safe_mode_by_command_is_read_only,
    fsck_says_what_is_missing,
];

/// What fsck says of the whole tree, whatever its exit status.
pub(super) fn fsck(cluster: &Cluster, arguments: &[&str]) -> (Value, bool) {
    let output = cluster.dfs_command(&["--json", "fsck", "/"]).args(arguments).output().expect("run dfs fsck");
    let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (value, output.status.success())
}

pub(super) fn wait_fully_replicated(cluster: &Cluster) {
    wait_until(REPAIR, "fsck: everything as it should be", || fsck(cluster, &[]).0["fully_replicated"] == true);
}

/// The report's entry of a DataNode.
pub(super) fn node_report(cluster: &Cluster, datanode: usize) -> Value {
    let report: Value = serde_json::from_str(&cluster.dfs(&["--json", "admin", "report"])).unwrap();
    let port = cluster.datanodes[datanode].data_port;
    let nodes = report["datanodes"].as_array().unwrap();
    nodes.iter().find(|node| node["data_port"] == port).cloned().unwrap_or(Value::Null)
}

fn wait_admin_state(cluster: &Cluster, datanode: usize, state: &str) {
    wait_until(REPAIR, format!("DataNode {datanode} to be {state}"), || {
        node_report(cluster, datanode)["admin_state"] == state
    });
}

/// Racks on which each block of the tree has a replica.
fn racks_of_blocks(cluster: &Cluster) -> Vec<Vec<String>> {
    let (report, _) = fsck(cluster, &["--blocks", "--locations"]);
    let blocks = report["listed_blocks"].as_array().unwrap().clone();
    let racks = |block: &Value| {
        let locations = block["locations"].as_array().unwrap();
        locations.iter().map(|it| it["rack"].as_str().unwrap().to_owned()).collect()
    };
    blocks.iter().map(racks).collect()
}

fn losing_a_rack_loses_nothing(_: &Nothing) {
    let mut cluster = Cluster::builder().datanodes(6).racks(2).replication(3).start();
    let mount = cluster.mount("mount");
    let tree = source_tree(21, 60);
    make_tree(mount.path(), &tree).unwrap();
    wait_fully_replicated(&cluster);
    let placed = racks_of_blocks(&cluster);
    assert!(placed.len() >= 40, "{} blocks", placed.len());
    for racks in &placed {
        assert!(racks.len() == 3 && racks.iter().any(|rack| *rack != racks[0]), "{racks:?}");
    }
    // The second rack, all at once.
    for node in [1, 3, 5] {
        cluster.datanodes[node].daemon.kill();
    }
    drop_caches().unwrap();
    check_tree(mount.path(), &tree).unwrap();
    cluster.wait_datanodes_live(3);
    wait_fully_replicated(&cluster);
    // It comes back: what is on one rack alone goes on two again, and what is too much goes.
    for node in [1, 3, 5] {
        cluster.start_datanode(node);
    }
    cluster.wait_datanodes_live(6);
    wait_until(REPAIR, "three replicas on two racks", || {
        racks_of_blocks(&cluster).iter().all(|racks| racks.len() == 3 && racks.iter().any(|rack| *rack != racks[0]))
    });
    drop_caches().unwrap();
    check_tree(mount.path(), &tree).unwrap();
}

fn racks_come_from_the_table(_: &Nothing) {
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("racks");
    let setting = format!("net.topology.table.file.name={}", table.display());
    let mut cluster = Cluster::builder().datanodes(3).replication(2).set(setting).prepare();
    let ports: Vec<u16> = cluster.datanodes.iter().map(|node| node.data_port).collect();
    let text = format!("# racks\n127.0.0.1:{} /north\n127.0.0.1:{} /north\n", ports[0], ports[1]);
    fs::write(&table, text).unwrap();
    cluster.format();
    cluster.restart_all();
    let rack = |cluster: &Cluster, node| node_report(cluster, node)["rack"].as_str().unwrap().to_owned();
    assert_eq!([0, 1, 2].map(|node| rack(&cluster, node)), ["/north", "/north", "/default-rack"]);
    // Read again, it holds for who is there already.
    fs::write(&table, format!("127.0.0.1:{} /south\n127.0.0.1 /north\n", ports[0])).unwrap();
    cluster.dfs(&["admin", "refresh-nodes"]);
    assert_eq!([0, 1, 2].map(|node| rack(&cluster, node)), ["/south", "/north", "/north"]);
    // A table with an error is refused by line, and changes nothing.
    fs::write(&table, "127.0.0.1 north\n").unwrap();
    let refused = cluster.try_dfs(&["admin", "refresh-nodes"]).unwrap_err();
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("line 1") && words.contains("not a rack"), "{words}");
}

fn write_exclude(path: &Path, cluster: &Cluster, datanodes: &[usize]) {
    let lines: Vec<String> =
        datanodes.iter().map(|node| format!("127.0.0.1:{}\n", cluster.datanodes[*node].data_port)).collect();
    fs::write(path, lines.concat()).unwrap();
}

fn decommissioned_datanode_can_be_stopped(_: &Nothing) {
    let dir = tempfile::tempdir().unwrap();
    let exclude = dir.path().join("exclude");
    fs::write(&exclude, "").unwrap();
    let setting = format!("dfs.hosts.exclude={}", exclude.display());
    let mut cluster = Cluster::builder().datanodes(4).replication(3).set(setting).start();
    let mount = cluster.mount("mount");
    let tree = source_tree(22, 60);
    make_tree(mount.path(), &tree).unwrap();
    wait_fully_replicated(&cluster);
    write_exclude(&exclude, &cluster, &[0]);
    cluster.dfs(&["admin", "refresh-nodes"]);
    wait_admin_state(&cluster, 0, "decommissioned");
    // The file is the record: it holds across a restart of the NameNode.
    cluster.namenode.daemon.kill();
    cluster.start_namenode();
    cluster.wait_datanodes_live(4);
    wait_admin_state(&cluster, 0, "decommissioned");
    let before = replica_files(&cluster, 0).len();
    Pattern::new(23).make_file(&mount.join("after"), 3_000_001);
    assert_eq!(replica_files(&cluster, 0).len(), before, "a decommissioned node took a block");
    cluster.datanodes[0].daemon.kill();
    drop_caches().unwrap();
    check_tree(mount.path(), &tree).unwrap();
    assert_eq!(fsck(&cluster, &[]).0["under_replicated_blocks"], 0);
    cluster.wait_datanodes_live(3);
    assert_eq!(fsck(&cluster, &[]).0["fully_replicated"], true);
    // And back.
    cluster.start_datanode(0);
    write_exclude(&exclude, &cluster, &[]);
    cluster.dfs(&["admin", "refresh-nodes"]);
    wait_admin_state(&cluster, 0, "in service");
    wait_fully_replicated(&cluster);
}

fn maintenance_holds_repair_back_until_it_ends(_: &Nothing) {
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts.json");
    fs::write(&hosts, "[]").unwrap();
    let setting = format!("dfs.hosts={}", hosts.display());
    let mut cluster = Cluster::builder().datanodes(4).replication(3).set(setting).start();
    let mount = cluster.mount("mount");
    let tree = source_tree(24, 60);
    make_tree(mount.path(), &tree).unwrap();
    wait_fully_replicated(&cluster);
    let write = |cluster: &Cluster, state: &str| {
        let entry = |(at, node): (usize, &dfs_tests::cluster::DataNodeProcess)| {
            let state = if at == 0 { state } else { "NORMAL" };
            format!("{{\"hostName\": \"127.0.0.1\", \"port\": {}, \"adminState\": \"{state}\"}}", node.data_port)
        };
        let entries: Vec<String> = cluster.datanodes.iter().enumerate().map(entry).collect();
        fs::write(&hosts, format!("[{}]", entries.join(","))).unwrap();
        cluster.dfs(&["admin", "refresh-nodes"]);
    };
    write(&cluster, "IN_MAINTENANCE");
    wait_admin_state(&cluster, 0, "in maintenance");
    let copies = |cluster: &Cluster| (1..4).map(|node| replica_files(cluster, node).len()).sum::<usize>();
    let before = copies(&cluster);
    cluster.datanodes[0].daemon.kill();
    cluster.wait_datanodes_live(3);
    assert_eq!(fsck(&cluster, &[]).0["fully_replicated"], true);
    assert_eq!(copies(&cluster), before, "replicas were copied though their node is in maintenance");
    drop_caches().unwrap();
    check_tree(mount.path(), &tree).unwrap();
    // Maintenance ends without the node: now it is dead like any other.
    write(&cluster, "NORMAL");
    wait_until(REPAIR, "repair after maintenance", || copies(&cluster) > before);
    wait_fully_replicated(&cluster);
}

fn safe_mode_by_command_is_read_only(_: &Nothing) {
    let cluster = Cluster::builder().start();
    let mount = cluster.mount("mount");
    Pattern::new(25).make_file(&mount.join("file"), 1_000_001);
    assert!(cluster.dfs(&["admin", "safemode", "enter"]).contains("Safe mode is ON"));
    let error = File::create(mount.join("other")).expect_err("the namespace is read-only");
    assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{error}");
    assert_eq!(fs::remove_file(mount.join("file")).unwrap_err().raw_os_error(), Some(libc::EROFS));
    Pattern::new(25).check_file(&mount.join("file"), 1_000_001);
    let status: Value = serde_json::from_str(&cluster.dfs(&["--json", "admin", "safemode", "get"])).unwrap();
    assert_eq!((&status["is_on"], &status["is_manual"]), (&true.into(), &true.into()));
    assert_eq!(status["safe_blocks"], status["blocks"]);
    assert!(cluster.dfs(&["admin", "safemode", "leave"]).contains("Safe mode is OFF"));
    cluster.dfs(&["admin", "safemode", "wait"]);
    fs::remove_file(mount.join("file")).unwrap();
}

fn fsck_says_what_is_missing(_: &Nothing) {
    let mut cluster = Cluster::builder().datanodes(2).replication(1).start();
    let mount = cluster.mount("mount");
    let tree = source_tree(26, 40);
    make_tree(mount.path(), &tree).unwrap();
    let (report, success) = fsck(&cluster, &[]);
    assert!(success && report["healthy"] == true, "{report}");
    let blocks = report["blocks"].as_u64().unwrap();
    // Some of the files are empty.
    assert!(blocks >= 30);
    let on_first = replica_files(&cluster, 0).len() as u64;
    assert!(on_first > 0 && on_first < blocks, "{on_first} of {blocks}");
    cluster.datanodes[0].daemon.kill();
    cluster.wait_datanodes_live(1);
    wait_until(REPAIR, "fsck to miss the blocks of the dead node", || {
        let (report, success) = fsck(&cluster, &[]);
        !success && report["healthy"] == false && report["missing_blocks"] == on_first
    });
    let listed = cluster.dfs_command(&["fsck", "/", "--list-corrupt"]).output().unwrap();
    let lines = String::from_utf8(listed.stdout).unwrap().lines().filter(|line| line.starts_with("blk_")).count();
    assert_eq!(lines as u64, on_first);
    cluster.start_datanode(0);
    cluster.wait_datanodes_live(2);
    wait_until(REPAIR, "fsck to find everything again", || fsck(&cluster, &[]).1);
}
