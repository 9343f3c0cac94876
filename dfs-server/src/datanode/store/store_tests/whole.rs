//! Blocks that come whole, and replicas whose files stay open.

use super::super::append_plan::Tail;
use super::super::disk::watch::{Call, Watch};
use super::super::open_state::Step;
use super::*;

const DIR: &str = "current/finalized/subdir0/subdir0";

fn names(dir: &Path, of: &str) -> Vec<String> {
    let entries = std::fs::read_dir(file(dir, of)).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn whole_block_is_finalized_at_once_without_having_been_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    let events = store.subscribe();
    let watch = Watch::begin(dir.path());
    watch.fail(Call::Rename, "blk_1", libc::EIO, usize::MAX);
    drop(put_whole(&store, 1, &[7; 1300], false).unwrap());
    assert_eq!(pages(&store, 0), [(1, 1300, None)]);
    assert_eq!(read(&store, &block(1, 1001), 1300).unwrap(), [7; 1300]);
    assert_eq!(put_whole(&store, 1, &[8; 10], false).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let told: Vec<_> = events.take().0.iter().map(|event| (event.kind, event.block.length)).collect();
    assert_eq!(told, [(EventKind::Received, 1300)]);
    drop(store);
    assert_eq!(names(dir.path(), DIR), ["blk_1", "blk_1_1001.meta"]);
    assert_eq!(pages(&open(&[dir.path()]), 0), [(1, 1300, None)]);
}

#[test]
fn whole_block_that_fails_leaves_nothing() {
    let calls = [(Call::Open, "blk_1_1001.meta"), (Call::Open, "blk_1"), (Call::Write, "blk_1"), (Call::Sync, "blk_1")];
    for (call, of) in calls {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&[dir.path()]);
        let watch = Watch::begin(dir.path());
        watch.fail(call, of, libc::ENOSPC, 1);
        put_whole(&store, 1, &[7; 1300], true).unwrap_err();
        assert_eq!(names(dir.path(), DIR), [""; 0], "{call:?} of {of}");
        assert_eq!((store.replica_count(), used(&store)), (0, 0), "{call:?} of {of}");
        watch.heal();
        put_whole(&store, 1, &[9; 700], true).unwrap();
        assert_eq!(read(&store, &block(1, 1001), 700).unwrap(), [9; 700]);
    }
}

/// Whatever comes first, files without a record would be taken for a replica at the next start.
#[test]
fn block_that_is_deleted_while_it_is_made_leaves_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    for id in 1..=300 {
        let is_whole = id % 2 == 0;
        let start = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                let made = if is_whole {
                    put_whole(&store, id, &[7; 1300], false).map(drop)
                } else {
                    store.create(&block(id, 1001), OpenKind::Rbw, DataChecksum::DEFAULT, None).map(drop)
                };
                assert!(made.is_ok_and(|()| true) || store.volume_of(&block(id, 1001)).is_none());
            });
            start.wait();
            while store.volume_of(&block(id, 1001)).is_none() && names(dir.path(), DIR).is_empty() {
                std::hint::spin_loop();
            }
            store.invalidate(&block(id, 1001)).unwrap();
        });
        store.invalidate(&block(id, 1001)).unwrap();
        assert_eq!((store.replica_count(), used(&store)), (0, 0), "block {id}");
        for of in [DIR, "current/rbw"] {
            assert_eq!(names(dir.path(), of), [""; 0], "block {id} in {of}");
        }
    }
}

#[test]
fn replica_that_is_deleted_while_it_is_written_takes_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    let before = used(&store);
    let mut writer = create(&store, 1);
    append(&mut writer, 0, &[1; 700]);
    let replica = Arc::clone(writer.replica());
    store.invalidate(&block(1, 1001)).unwrap();
    // As by a packet that was being written meanwhile.
    replica.step(Step::Grown(Tail { length: 1400, crc: 0 }));
    assert_eq!(used(&store), before);
}

fn used(store: &ReplicaStore) -> u64 {
    store.volumes().all()[0].space.known().unwrap().used
}

/// A process that ends in the middle.
#[test]
fn restart_finds_half_of_a_whole_block_and_does_not_take_it_for_one() {
    for (kept, expected) in
        [(1299, vec![(1, 1024, Some(ReplicaState::Rwr))]), (0, vec![(1, 0, Some(ReplicaState::Rwr))])]
    {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&[dir.path()]);
        put_whole(&store, 1, &[7; 4100], false).unwrap();
        drop(store);
        let data = std::fs::OpenOptions::new().write(true).open(file(dir.path(), DIR).join("blk_1")).unwrap();
        data.set_len(kept).unwrap();
        assert_eq!(pages(&open(&[dir.path()]), 0), expected, "{kept} bytes");
    }
}

fn is_open(path: &str) -> bool {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| entry.ok()?.path().read_link().ok());
    links.into_iter().any(|target| target.to_string_lossy().starts_with(path))
}

#[test]
fn files_of_a_replica_that_was_read_stay_open_until_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    for (id, length) in [(1, 1300), (2, 300_000)] {
        put(&store, id, &vec![id as u8; length]);
        let path = file(dir.path(), DIR).join(format!("blk_{id}")).to_string_lossy().into_owned();
        let whole = vec![id as u8; length];
        assert_eq!(read(&store, &block(id, 1001), length).unwrap(), whole);
        assert!(is_open(&path));
        let mut old = block(id, 1001);
        old.block.length = length as u64;
        let before = store.open_reader(&old, length as u64).unwrap();
        let mut writer = store.append(&old, GenerationStamp(1002)).unwrap();
        append(&mut writer, length, &[9; 100]);
        store.finalize(POOL, &mut writer, false).unwrap();
        drop(writer);
        // Who reads what was there before is not shown checksums of what came later.
        let (mut tail, mut sums) = (vec![0; length % 512], vec![0; 4]);
        let start = (length - length % 512) as u64;
        before.read(start, &mut tail).unwrap();
        before.read_checksums(start, &mut sums).unwrap();
        DataChecksum::DEFAULT.verify(&tail, &sums).unwrap();
        drop(before);
        assert_eq!(read(&store, &block(id, 1002), length + 100).unwrap()[length..], [9; 100]);
        assert!(is_open(&path));
        store.invalidate(&block(id, 1002)).unwrap();
        assert!(!is_open(&path), "a deleted replica keeps its room");
    }
}

#[test]
fn replica_that_was_read_is_read_again_without_opening_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    put(&store, 1, &[1; 1300]);
    assert_eq!(read(&store, &block(1, 1001), 1300).unwrap(), [1; 1300]);
    let watch = Watch::begin(dir.path());
    watch.fail(Call::Open, "blk_1", libc::EIO, usize::MAX);
    assert_eq!(read(&store, &block(1, 1001), 1300).unwrap(), [1; 1300]);
}

#[test]
fn files_that_are_removed_while_they_are_open_are_missed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    for (id, of) in [(1, "blk_1"), (2, "blk_2_1001.meta")] {
        put(&store, id, &[1; 1000]);
        read(&store, &block(id, 1001), 1000).unwrap();
        std::fs::remove_file(file(dir.path(), DIR).join(of)).unwrap();
        assert_eq!(read(&store, &block(id, 1001), 1000).unwrap_err().kind(), ErrorKind::NotFound, "without {of}");
    }
    put(&store, 3, &[1; 1000]);
    read(&store, &block(3, 1001), 1000).unwrap();
    let data = std::fs::OpenOptions::new().write(true).open(file(dir.path(), DIR).join("blk_3")).unwrap();
    data.set_len(999).unwrap();
    read(&store, &block(3, 1001), 1000).unwrap_err();
}

#[test]
fn files_of_a_volume_that_failed_are_closed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    put(&store, 1, &[1; 1000]);
    read(&store, &block(1, 1001), 1000).unwrap();
    let path = file(dir.path(), DIR).to_string_lossy().into_owned();
    assert!(is_open(&path));
    store.pool(POOL).unwrap().drop_volume(VolumeIndex(0));
    assert!(!is_open(&path));
}
