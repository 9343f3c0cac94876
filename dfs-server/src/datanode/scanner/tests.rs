use dfs_proto::data_transfer::DataChecksum;

use super::*;
use crate::datanode::store::Whole;
use crate::datanode::transfer::test_client::{block, content, identity, store_settings};

fn put(store: &ReplicaStore, id: u64) {
    let data = content(1000);
    let mut checksums = vec![0; DataChecksum::DEFAULT.checksums_len(data.len())];
    DataChecksum::DEFAULT.compute(&data, &mut checksums);
    let whole = Whole { data: &data, checksums: &checksums };
    store.write_whole(&block(id), DataChecksum::DEFAULT, whole, false, None).unwrap();
}

#[test]
fn pass_ends_while_blocks_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(ReplicaStore::open(&store_settings(dir.path())).unwrap());
    store.adopt(&identity()).unwrap();
    (1..=3).for_each(|id| put(&store, id));
    let settings = ScannerSettings { bytes_per_second: 4 * REPLICA_COST as u64, period: Duration::from_secs(3600) };
    let scanner = BlockScanner::start(Arc::clone(&store), Arc::default(), settings).unwrap();
    let is_begun = || scanner.status()[0].is_scanning || scanner.status()[0].passes > 0;
    while !is_begun() {
        std::thread::yield_now();
    }
    // Faster than they are verified.
    for id in 4.. {
        put(&store, id);
        let ScanStatus { passes, replicas, .. } = scanner.status()[0];
        if passes == 1 {
            assert_eq!(store.replica_count() as u64, id);
            assert_eq!(replicas, 3, "of those that were there when it began");
            break;
        }
        assert!(replicas <= 3, "it goes on after what comes");
        std::thread::sleep(Duration::from_millis(20));
    }
    scanner.stop();
}
