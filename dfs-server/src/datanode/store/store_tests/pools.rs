//! Pools that come while the store serves others.

use std::sync::mpsc;

use super::super::disk::watch::{Call, Watch};
use super::*;

#[test]
fn pool_that_waits_for_its_device_keeps_nobody_from_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&[dir.path()]));
    put(&store, 1, &[1; 1000]);
    let mut writer = create(&store, 2);
    append(&mut writer, 0, &[2; 700]);
    // Has a replica that is looked into when the pool is loaded.
    let rbw = dir.path().join("current/BP-2/current/rbw");
    std::fs::create_dir_all(&rbw).unwrap();
    for name in ["blk_2", "blk_2_1001.meta"] {
        std::fs::copy(file(dir.path(), "current/rbw").join(name), rbw.join(name)).unwrap();
    }
    let watch = Watch::begin(dir.path());
    watch.hang(Call::Open, "BP-2/current/rbw/blk_2");
    let adopting = {
        let store = Arc::clone(&store);
        let identity = Identity { cluster_id: "CID-1".into(), namespace_id: 2, block_pool_id: "BP-2".into() };
        std::thread::spawn(move || store.adopt(&identity))
    };
    watch.wait_hanging(1);
    let (sender, answer) = mpsc::channel();
    let asked = Arc::clone(&store);
    std::thread::spawn(move || sender.send((asked.replica_count(), asked.volume_of(&block(1, 1001)))));
    let answer = answer.recv_timeout(Duration::from_secs(20));
    watch.heal();
    adopting.join().unwrap().unwrap();
    assert_eq!(answer.expect("an answer before the device's"), (2, Some(VolumeIndex(0))));
    assert_eq!(store.replica_count(), 3);
}
