//! Volumes that fail and come back while the node goes on with others.

use super::super::disk::watch::{Call, Watch};
use super::*;
use crate::datanode::metrics::Metrics;
use crate::datanode::scanner::verify_suspects;

const FINALIZED: &str = "current/finalized/subdir0/subdir0";

/// Two volumes; the second one, which is watched, has replica 1.
struct Two {
    stays: tempfile::TempDir,
    goes: tempfile::TempDir,
    store: ReplicaStore,
    watch: Arc<Watch>,
}

impl Two {
    fn begin() -> Self {
        let (stays, goes) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = open(&[stays.path(), goes.path()]);
        let hint = store.volumes().reports()[1].storage_uuid.clone();
        let mut writer = store.create(&block(1, 1001), OpenKind::Rbw, DataChecksum::DEFAULT, Some(&hint)).unwrap();
        append(&mut writer, 0, &[1; 1000]);
        store.finalize(POOL, &mut writer, false).unwrap();
        assert_eq!(pages(&store, 1), [(1, 1000, None)]);
        let watch = Watch::begin(goes.path());
        Self { stays, goes, store, watch }
    }

    fn take_out(&self) {
        self.watch.fail(Call::Sync, "probe.tmp", libc::EIO, 1);
        assert!(self.store.check_volumes(true));
    }

    fn take_in(&self) {
        while !self.store.readmit_volumes() {
            std::thread::yield_now();
        }
    }

    /// A copy of replica 1 comes from another node.
    fn copy_to_the_other(&self) {
        let copy = self.store.create(&block(1, 1001), OpenKind::Temporary, DataChecksum::DEFAULT, None);
        let mut copy = copy.unwrap();
        append(&mut copy, 0, &[1; 1000]);
        self.store.finalize(POOL, &mut copy, false).unwrap();
        assert_eq!(pages(&self.store, 0), [(1, 1000, None)]);
    }

    /// The copy is found to be bad.
    fn spoil_the_other(&self) {
        std::fs::write(file(self.stays.path(), FINALIZED).join("blk_1"), [2; 1000]).unwrap();
        let queue = self.store.subscribe();
        self.store.doubt(&block(1, 1001)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| verify_suspects(&self.store, &Metrics::default(), VolumeIndex(0)));
            while !queue.take().0.iter().any(|event| event.kind == EventKind::Corrupt) {
                std::thread::yield_now();
            }
            self.store.suspects().close();
        });
        self.store.suspects().reopen();
    }
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn replica_that_comes_back_beside_a_good_copy_is_deleted() {
    let two = Two::begin();
    two.take_out();
    two.copy_to_the_other();
    two.take_in();
    let data = file(two.goes.path(), FINALIZED).join("blk_1");
    wait_for("the second one goes", || !data.exists());
    assert_eq!(pages(&two.store, 0), [(1, 1000, None)]);
    assert_eq!(pages(&two.store, 1), []);
}

#[test]
fn replica_that_comes_back_beside_a_corrupt_copy_takes_its_place() {
    let two = Two::begin();
    two.take_out();
    two.copy_to_the_other();
    two.spoil_the_other();
    two.take_in();
    wait_for("the corrupt one is set aside", || file(two.stays.path(), "orphaned/blk_1").exists());
    assert_eq!(pages(&two.store, 0), []);
    assert_eq!(pages(&two.store, 1), [(1, 1000, None)]);
    assert_eq!(read(&two.store, &block(1, 1001), 1000).unwrap(), [1; 1000]);
}

#[test]
fn recovery_hears_of_no_replica_only_where_all_volumes_are_there() {
    let two = Two::begin();
    let ask = |id| two.store.init_recovery(&block(id, 1001), GenerationStamp(2000), false);
    assert_eq!(ask(7).unwrap(), None);
    two.take_out();
    assert_eq!(ask(1).unwrap_err().kind(), ErrorKind::Unavailable);
    two.take_in();
    assert_eq!(ask(7).unwrap(), None);
    assert!(ask(1).unwrap().is_some());
}

#[test]
fn replica_of_a_volume_that_has_failed_is_not_opened_again() {
    let two = Two::begin();
    // As for whoever has looked it up before the volume's replicas are taken out.
    let volume = two.store.volumes().all()[1].clone();
    assert!(volume.fail());
    let last = Block { length: 1000, ..block(1, 1001).block };
    let old = ExtendedBlock { pool: POOL.into(), block: last };
    assert_eq!(two.store.append(&old, GenerationStamp(1002)).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(pages(&two.store, 1), [(1, 1000, None)]);
}

#[test]
fn replica_that_comes_back_beside_a_newer_one_that_is_doubted_does_not_take_its_place() {
    let two = Two::begin();
    two.take_out();
    two.copy_to_the_other();
    let last = Block { length: 1000, ..block(1, 1001).block };
    let old = ExtendedBlock { pool: POOL.into(), block: last };
    let mut writer = two.store.append(&old, GenerationStamp(1002)).unwrap();
    append(&mut writer, 1000, &[1; 24]);
    two.store.finalize(POOL, &mut writer, false).unwrap();
    let here = Watch::begin(two.stays.path());
    here.fail(Call::Sync, "blk_1_1002.meta", libc::EIO, 1);
    two.store.sync(&block(1, 1002)).unwrap_err();
    two.take_in();
    wait_for("the older one is set aside", || file(two.goes.path(), "orphaned/blk_1").exists());
    assert_eq!(pages(&two.store, 0), [(1, 1024, None)]);
    assert_eq!(pages(&two.store, 1), []);
}

#[test]
fn newer_replica_that_waits_takes_the_place_of_an_older_copy_when_it_comes_back() {
    let two = Two::begin();
    let old = ExtendedBlock { pool: POOL.into(), block: Block { length: 1000, ..block(1, 1001).block } };
    let mut writer = two.store.append(&old, GenerationStamp(1002)).unwrap();
    append(&mut writer, 1000, &[1; 24]);
    two.take_out();
    drop(writer);
    two.copy_to_the_other();
    let queue = two.store.subscribe();
    two.take_in();
    wait_for("the older one is set aside", || file(two.stays.path(), "orphaned/blk_1").exists());
    assert_eq!(pages(&two.store, 0), []);
    assert_eq!(pages(&two.store, 1), [(1, 1024, Some(ReplicaState::Rwr))]);
    let (told, is_full_report_due) = queue.take();
    assert!(told.iter().any(|event| event.kind == EventKind::Deleted && event.block == old.block), "{told:?}");
    assert!(is_full_report_due, "events name no replica that waits");
}

#[test]
fn newer_replica_takes_the_place_of_an_older_one_that_waits_when_it_comes_back() {
    // A recovery that has looked at the older one begins again.
    for is_recovered in [false, true] {
        let two = Two::begin();
        let old = ExtendedBlock { pool: POOL.into(), block: Block { length: 1000, ..block(1, 1001).block } };
        let mut writer = two.store.append(&old, GenerationStamp(1002)).unwrap();
        append(&mut writer, 1000, &[1; 24]);
        two.store.finalize(POOL, &mut writer, false).unwrap();
        two.watch.fail(Call::Sync, "probe.tmp", libc::EIO, usize::MAX);
        assert!(two.store.check_volumes(true));
        let mut older = two.store.create(&block(1, 1001), OpenKind::Rbw, DataChecksum::DEFAULT, None).unwrap();
        append(&mut older, 0, &[1; 500]);
        let here = Watch::begin(two.stays.path());
        here.fail(Call::Sync, "probe.tmp", libc::EIO, 1);
        assert!(two.store.check_volumes(true));
        drop(older);
        wait_for("the older one waits", || {
            two.store.readmit_volumes();
            pages(&two.store, 0) == [(1, 500, Some(ReplicaState::Rwr))]
        });
        if is_recovered {
            // Not all volumes are there, but this one answers for itself.
            two.store.init_recovery(&block(1, 1001), GenerationStamp(2000), false).unwrap().unwrap();
        }
        two.watch.heal();
        two.take_in();
        wait_for("the older one is set aside", || file(two.stays.path(), "orphaned/blk_1").exists());
        assert_eq!((pages(&two.store, 0), pages(&two.store, 1)), (vec![], vec![(1, 1024, None)]));
    }
}

#[test]
fn full_volume_takes_no_pool_that_is_new_to_it_and_keeps_its_own() {
    let two = Two::begin();
    two.watch.fail(Call::CreateDir, "", libc::ENOSPC, usize::MAX);
    let other = Identity { cluster_id: "CID-1".into(), namespace_id: 2, block_pool_id: "BP-2".into() };
    two.store.adopt(&other).unwrap();
    assert_eq!(pages(&two.store, 1), [(1, 1000, None)], "it has not failed");
    two.watch.heal();
    two.take_out();
    two.watch.fail(Call::CreateDir, "", libc::ENOSPC, usize::MAX);
    two.take_in();
    assert_eq!(pages(&two.store, 1), [(1, 1000, None)], "it comes back as full as it was");
}
