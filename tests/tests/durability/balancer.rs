//! The balancer, while files are written and read.

use dfs_common::units::ByteCount;
use dfs_tests::bench::drop_caches;
use dfs_tests::cases;
use dfs_tests::cluster::{Cluster, Devices};
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::workload::Pattern;
use serde_json::Value;

use crate::repair::{fsck, wait_fully_replicated};

pub(super) const CASES: [Case<Nothing>; 1] = cases![new_datanode_takes_its_share];

const FILE: u64 = 20_000_003;
const FILES: u64 = 16;

fn percents(cluster: &Cluster) -> Vec<f64> {
    let report: Value = serde_json::from_str(&cluster.dfs(&["--json", "admin", "report"])).unwrap();
    let nodes = report["datanodes"].as_array().unwrap();
    nodes.iter().map(|node| node["used"].as_f64().unwrap() * 100.0 / node["capacity"].as_f64().unwrap()).collect()
}

fn new_datanode_takes_its_share(_: &Nothing) {
    let devices = Devices::Loop(ByteCount(512 << 20));
    let builder = Cluster::builder().datanodes(3).replication(2).devices(devices).set("dfs.blocksize=4MiB");
    let mut cluster = builder.prepare();
    cluster.format();
    cluster.start_namenode();
    cluster.start_datanode(0);
    cluster.start_datanode(1);
    cluster.wait_datanodes_live(2);
    let mount = cluster.mount("mount");
    for number in 0..FILES {
        Pattern::new(number).make_file(&mount.join(number.to_string()), FILE);
    }
    wait_fully_replicated(&cluster);
    cluster.start_datanode(2);
    cluster.wait_datanodes_live(3);
    let before = percents(&cluster);
    assert!(before.iter().any(|percent| *percent > 40.0) && before.iter().any(|percent| *percent < 5.0), "{before:?}");
    // Traffic goes on meanwhile.
    let writer = {
        let path = mount.join("meanwhile");
        std::thread::spawn(move || Pattern::new(99).make_file(&path, FILE))
    };
    let output = cluster.dfs(&["--json", "balancer", "--threshold", "5", "--bandwidth", "1GiB"]);
    writer.join().unwrap();
    let result: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(result["balanced"], true, "{result}");
    assert!(result["moved_replicas"].as_u64().unwrap() > 10, "{result}");
    let after = percents(&cluster);
    let mean = after.iter().sum::<f64>() / after.len() as f64;
    assert!(after.iter().all(|percent| (percent - mean).abs() < 10.0), "{after:?}");
    wait_fully_replicated(&cluster);
    assert_eq!(fsck(&cluster, &[]).0["over_replicated_blocks"], 0);
    drop_caches().unwrap();
    for number in 0..FILES {
        Pattern::new(number).check_file(&mount.join(number.to_string()), FILE);
    }
    Pattern::new(99).check_file(&mount.join("meanwhile"), FILE);
}
