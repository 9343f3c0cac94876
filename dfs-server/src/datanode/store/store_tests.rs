mod doubts;
mod pools;
mod power;
mod recover;
mod returned;
mod whole;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::error::ErrorKind;
use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_common::units::ByteCount;
use dfs_proto::data_transfer::DataChecksum;
use dfs_proto::v1::ReplicaState;
use proptest::prelude::*;

use super::volume::VolumeIndex;
use super::*;

const POOL: &str = "BP-1-127.0.0.1-1";

fn settings(dirs: &[&Path]) -> StoreSettings {
    let data_dirs = dirs.iter().map(|dir| dir.to_path_buf()).collect();
    StoreSettings { data_dirs, reserved: ByteCount(0), sync_on_close: false, open_max: 16 }
}

fn open(dirs: &[&Path]) -> ReplicaStore {
    let store = ReplicaStore::open(&settings(dirs)).unwrap();
    let identity = Identity { cluster_id: "CID-1".into(), namespace_id: 1, block_pool_id: POOL.into() };
    store.adopt(&identity).unwrap();
    store
}

fn block(id: u64, stamp: u64) -> ExtendedBlock {
    let block = Block { id: BlockId(id), generation_stamp: GenerationStamp(stamp), length: 0 };
    ExtendedBlock { pool: POOL.into(), block }
}

fn append(writer: &mut ReplicaWriter, offset: usize, data: &[u8]) {
    let mut sums = vec![0; DataChecksum::DEFAULT.checksums_len(data.len())];
    DataChecksum::DEFAULT.compute(data, &mut sums);
    writer.append(offset as u64, data, &sums).unwrap();
}

fn create(store: &ReplicaStore, id: u64) -> ReplicaWriter {
    store.create(&block(id, 1001), OpenKind::Rbw, DataChecksum::DEFAULT, None).unwrap()
}

fn put(store: &ReplicaStore, id: u64, data: &[u8]) {
    let mut writer = create(store, id);
    append(&mut writer, 0, data);
    store.finalize(POOL, &mut writer, false).unwrap();
}

fn put_whole(store: &ReplicaStore, id: u64, data: &[u8], sync: bool) -> Result<ReplicaWriter> {
    let mut checksums = vec![0; DataChecksum::DEFAULT.checksums_len(data.len())];
    DataChecksum::DEFAULT.compute(data, &mut checksums);
    let whole = Whole { data, checksums: &checksums };
    store.write_whole(&block(id, 1001), DataChecksum::DEFAULT, whole, sync, None)
}

fn read(store: &ReplicaStore, block: &ExtendedBlock, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    store.open_reader(block, length as u64)?.read(0, &mut bytes)?;
    Ok(bytes)
}

fn pages(store: &ReplicaStore, volume: u16) -> Vec<(u64, u64, Option<ReplicaState>)> {
    let cursor = Cursor { volume: VolumeIndex(volume), after: None };
    let page = store.report_page(POOL, cursor).unwrap();
    page.items.iter().map(|item| (item.block.id.0, item.block.length, item.open)).collect()
}

fn file(dir: &Path, rest: &str) -> std::path::PathBuf {
    dir.join("current").join(POOL).join(rest)
}

#[test]
fn restart_keeps_finalized_cuts_open_and_drops_copies() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    put(&store, 1, &[1; 1000]);
    let mut open_one = create(&store, 2);
    append(&mut open_one, 0, &[2; 700]);
    let copy = store.create(&block(3, 1001), OpenKind::Temporary, DataChecksum::DEFAULT, None).unwrap();
    drop((store, open_one, copy));
    let inode = |path: std::path::PathBuf| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    let tmp = inode(file(dir.path(), "tmp"));
    // A data file that outran its checksums.
    let data = std::fs::OpenOptions::new().append(true).open(file(dir.path(), "current/rbw/blk_2")).unwrap();
    std::io::Write::write_all(&mut &data, &[9; 5000]).unwrap();
    drop(data);

    let store = open(&[dir.path()]);
    assert_eq!(pages(&store, 0), [(1, 1000, None), (2, 700, Some(ReplicaState::Rwr))]);
    assert_eq!(std::fs::read_dir(file(dir.path(), "tmp")).unwrap().count(), 0);
    assert_eq!(inode(file(dir.path(), "tmp")), tmp, "a full device has no room for another directory");
    let reader = store.open_reader(&block(2, 1001), 0).unwrap();
    let mut read = vec![0; 700];
    reader.read(0, &mut read).unwrap();
    assert_eq!(read, [2; 700]);
}

#[test]
fn restart_after_half_a_finalize_or_append_finds_both_files() {
    for (at, moved) in ["blk_1", "blk_1_1001.meta"].into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&[dir.path()]);
        put(&store, 1, &[at as u8; 1000]);
        drop(store);
        let from = file(dir.path(), "current/finalized/subdir0/subdir0").join(moved);
        std::fs::rename(from, file(dir.path(), "current/rbw").join(moved)).unwrap();
        let store = open(&[dir.path()]);
        assert_eq!(pages(&store, 0), [(1, 1000, Some(ReplicaState::Rwr))], "{moved} was left behind");
        assert!(file(dir.path(), "current/rbw/blk_1").exists());
    }
}

#[test]
fn restart_sets_data_without_checksums_aside_and_drops_checksums_without_data() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&[dir.path()]));
    let rbw = file(dir.path(), "current/rbw");
    std::fs::write(rbw.join("blk_1"), b"bytes").unwrap();
    std::fs::write(rbw.join("blk_2"), b"").unwrap();
    std::fs::write(rbw.join("blk_3_1001.meta"), b"0000000").unwrap();
    std::fs::write(rbw.join("blk_4"), b"bytes").unwrap();
    std::fs::write(rbw.join("blk_4_1001.meta"), b"garbage").unwrap();
    std::fs::write(rbw.join("notes.txt"), b"left alone").unwrap();
    let store = open(&[dir.path()]);
    assert_eq!(store.replica_count(), 0);
    let names = |dir: std::path::PathBuf| {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(rbw), ["notes.txt"]);
    assert_eq!(names(file(dir.path(), "orphaned")), ["blk_1", "blk_4", "blk_4_1001.meta"]);
}

#[test]
fn restart_of_a_finalized_replica_cut_short_waits_for_recovery() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    put(&store, 1, &[5; 5000]);
    drop(store);
    let data = file(dir.path(), "current/finalized/subdir0/subdir0/blk_1");
    std::fs::OpenOptions::new().write(true).open(data).unwrap().set_len(1500).unwrap();
    let store = open(&[dir.path()]);
    assert_eq!(pages(&store, 0), [(1, 1024, Some(ReplicaState::Rwr))]);
}

#[test]
fn replicas_spread_over_volumes_and_survive_the_loss_of_one() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(&[first.path(), second.path()]);
    let queue = store.subscribe();
    for id in 0..10 {
        put(&store, id, &[7; 100]);
    }
    assert_eq!((pages(&store, 0).len(), pages(&store, 1).len()), (5, 5));
    let _ = queue.take();
    // The device of the second volume is unmounted: another, empty directory is in its place.
    std::fs::rename(second.path(), first.path().with_extension("moved")).unwrap();
    std::fs::create_dir(second.path()).unwrap();
    let index = pages(&store, 1)[0].0;
    let error = store.open_reader(&block(index, 1001), 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(store.check_volumes(false), "a missing file raises suspicion");
    assert_eq!(store.replica_count(), 5);
    assert_eq!(queue.take().0.len(), 5);
    assert!(store.volumes().reports()[1].failed);
    put(&store, 100, &[7; 100]);
    assert_eq!(pages(&store, 0).len(), 6);
    std::fs::remove_dir_all(first.path().with_extension("moved")).unwrap();
}

#[test]
fn deletion_that_hangs_on_a_lost_volume_is_in_nobodys_way() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(&[first.path(), second.path()]);
    let queue = store.subscribe();
    let hung = create(&store, 1);
    let volume = hung.replica().volume.index();
    std::thread::scope(|scope| {
        let files = hung.replica().hold_files();
        let deletion = scope.spawn(|| store.invalidate(&block(1, 1001)));
        // It waits for the files.
        while store.volume_of(&block(1, 1001)).is_some() {
            std::thread::yield_now();
        }
        let again = store.create(&block(1, 1002), OpenKind::Rbw, DataChecksum::DEFAULT, None).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        std::fs::remove_dir_all([&first, &second][usize::from(volume.0)].path()).unwrap();
        assert!(store.check_volumes(true));
        put(&store, 1, &[7; 100]);
        drop(files);
        // Its files are gone already.
        let _ = deletion.join().unwrap();
    });
    assert_eq!(store.volume_of(&block(1, 1001)), Some(VolumeIndex(1 - volume.0)));
    assert!(queue.take().0.iter().all(|event| event.kind != EventKind::Deleted));
}

#[test]
fn volume_that_comes_back_brings_its_replicas() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second, away) = (dir.path().join("1"), dir.path().join("2"), dir.path().join("away"));
    std::fs::create_dir(&first).unwrap();
    std::fs::create_dir(&second).unwrap();
    let store = open(&[&first, &second]);
    for id in 1..=6 {
        put(&store, id, &[id as u8; 1000]);
    }
    let lost = pages(&store, 1);
    assert_eq!(lost.len(), 3);
    std::fs::rename(&second, &away).unwrap();
    std::fs::create_dir(&second).unwrap();
    assert!(store.check_volumes(true));
    assert_eq!(pages(&store, 1), []);
    assert!(!store.readmit_volumes(), "the bare directory under a mount is no volume");
    assert!(std::fs::read_dir(&second).unwrap().next().is_none(), "and nothing is written to it");
    // One of its blocks has been copied to the other volume meanwhile.
    put(&store, lost[0].0, &[lost[0].0 as u8; 1000]);
    std::fs::remove_dir(&second).unwrap();
    std::fs::rename(&away, &second).unwrap();
    assert!(store.readmit_volumes());
    assert!(!store.readmit_volumes() && !store.check_volumes(true));
    assert_eq!(pages(&store, 1), lost[1..]);
    for id in 1..=6 {
        let mut read = vec![0; 1000];
        store.open_reader(&block(id, 1001), 0).unwrap().read(0, &mut read).unwrap();
        assert_eq!(read, [id as u8; 1000]);
    }
}

#[test]
fn volumes_of_different_clusters_are_refused() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(open(&[first.path()]));
    let other = ReplicaStore::open(&settings(&[second.path()])).unwrap();
    let identity = Identity { cluster_id: "CID-2".into(), namespace_id: 2, block_pool_id: "BP-2".into() };
    other.adopt(&identity).unwrap();
    drop(other);
    let error = ReplicaStore::open(&settings(&[first.path(), second.path()])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongCluster);
    let store = open(&[first.path()]);
    assert_eq!(store.adopt(&identity).unwrap_err().kind(), ErrorKind::WrongCluster);
}

#[test]
fn new_volume_beside_old_ones_gets_their_identity() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(&[first.path()]);
    let uuid = store.volumes().datanode_uuid().to_owned();
    drop(store);
    let store = open(&[first.path(), second.path()]);
    assert_eq!(store.volumes().datanode_uuid(), uuid);
    let reports = store.volumes().reports();
    assert_ne!(reports[0].storage_uuid, reports[1].storage_uuid);
    put(&store, 1, &[1; 10]);
    put(&store, 2, &[1; 10]);
    assert_eq!((pages(&store, 0).len(), pages(&store, 1).len()), (1, 1));
}

#[test]
fn replica_on_two_volumes_is_kept_once() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(&[first.path(), second.path()]);
    put(&store, 1, &[1; 10]);
    put(&store, 2, &[1; 10]);
    drop(store);
    let subdir = "current/finalized/subdir0/subdir0";
    for name in ["blk_1", "blk_1_1001.meta"] {
        std::fs::copy(file(first.path(), subdir).join(name), file(second.path(), subdir).join(name)).unwrap();
    }
    std::fs::write(file(second.path(), "doubted/1"), b"").unwrap();
    let store = open(&[first.path(), second.path()]);
    assert_eq!(store.replica_count(), 2);
    assert!(file(second.path(), "orphaned/blk_1").exists());
    assert!(!file(second.path(), "doubted/1").exists(), "a note goes with its replica");
    let reports = store.volumes().reports();
    assert_eq!(reports[0].space.used, reports[1].space.used, "what was set aside is no replica");
}

#[test]
fn compare_directory_mends_the_records() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    for id in 1..=4 {
        put(&store, id, &[1; 10]);
    }
    let used = store.volumes().reports()[0].space.used;
    let index = store.volumes().all()[0].index();
    let compare = || store.compare_directory(POOL, index, &|| false).unwrap();
    let same = DirectoryFindings { replicas: 4, ..DirectoryFindings::default() };
    assert_eq!(compare(), same);
    let finalized = |name: &str| file(dir.path(), "current/finalized/subdir0/subdir0").join(name);
    let kept = dir.path().join("kept");
    std::fs::rename(finalized("blk_1"), &kept).unwrap();
    std::fs::remove_file(finalized("blk_2_1001.meta")).unwrap();
    std::fs::write(finalized("blk_3"), [1; 9]).unwrap();
    let queue = store.subscribe();
    assert_eq!(compare(), DirectoryFindings { lost: 2, damaged: 1, ..same });
    let mut told: Vec<_> = queue.take().0.iter().map(|event| (event.block.id.0, event.kind)).collect();
    told.sort_by_key(|(id, _)| *id);
    assert_eq!(told, [(1, EventKind::Deleted), (2, EventKind::Deleted), (3, EventKind::Corrupt)]);
    // What is left of them is not touched.
    assert!(finalized("blk_2").exists() && finalized("blk_1_1001.meta").exists());
    std::fs::rename(&kept, finalized("blk_1")).unwrap();
    assert_eq!(compare(), DirectoryFindings { replicas: 2, found: 1, damaged: 1, unexplained: 1, ..same });
    assert!(queue.take().0.iter().any(|event| (event.block.id.0, event.kind) == (1, EventKind::Received)));
    assert_eq!(store.replica_count(), 3);
    assert!(store.volumes().reports()[0].space.used < used);
    // As a copy does that replaces what was lost.
    put(&store, 2, &[1; 10]);
    assert_eq!(compare(), DirectoryFindings { damaged: 1, ..same });
    assert_eq!(store.volumes().reports()[0].space.used, used);
}

#[test]
fn invalidate_minds_the_generation_stamp() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    put(&store, 1, &[1; 10]);
    // Of what is left of a replica nothing stays behind.
    put(&store, 2, &[1; 10]);
    std::fs::remove_file(file(dir.path(), "current/finalized/subdir0/subdir0/blk_2")).unwrap();
    store.invalidate(&block(2, 1001)).unwrap();
    assert!(!file(dir.path(), "current/finalized/subdir0/subdir0/blk_2_1001.meta").exists());
    let queue = store.subscribe();
    assert_eq!(store.invalidate(&block(1, 1000)).unwrap_err().kind(), ErrorKind::StaleGeneration);
    let (told, _) = queue.take();
    assert_eq!(
        told.iter().map(|event| (event.kind, event.block.generation_stamp.0)).collect::<Vec<_>>(),
        [(EventKind::Received, 1001)]
    );
    store.invalidate(&block(1, 1001)).unwrap();
    store.invalidate(&block(1, 1001)).unwrap();
    // An order for what is gone is answered again: the first answer may not have been heard.
    let told: Vec<_> = queue.take().0.iter().map(|event| (event.kind, event.block.id.0)).collect();
    assert_eq!(told, [(EventKind::Deleted, 1); 2]);
    assert_eq!(store.replica_count(), 0);
    assert_eq!(store.volumes().reports()[0].space.used, 0);
    assert!(!file(dir.path(), "current/finalized/subdir0/subdir0/blk_1").exists());
}

#[test]
fn invalidate_stops_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    let mut writer = create(&store, 1);
    append(&mut writer, 0, &[1; 10]);
    store.invalidate(&block(1, 1001)).unwrap();
    let error = writer.append(10, &[1], &[0; 4]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(store.finalize(POOL, &mut writer, false).is_err());
    assert_eq!(store.replica_count(), 0);
}

#[test]
fn reader_of_a_growing_replica_sees_acked_bytes_with_their_own_checksum() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    let data: Vec<u8> = (0..3000u32).map(|i| (i * 13) as u8).collect();
    let mut writer = create(&store, 1);
    append(&mut writer, 0, &data[..700]);
    writer.set_acked(700);
    // Received, written, not acknowledged: inside the same chunk, then beyond it.
    for end in [900, 2800] {
        let at = store.visible_length(&block(1, 1001)).unwrap().max(writer_length(&store)) as usize;
        append(&mut writer, at, &data[at..end]);
        let reader = store.open_reader(&block(1, 1001), 0).unwrap();
        assert_eq!(reader.block().length, 700);
        let (mut bytes, mut sums) = (vec![0; 700], vec![0; 8]);
        reader.read(0, &mut bytes).unwrap();
        reader.read_checksums(0, &mut sums).unwrap();
        assert_eq!(bytes, data[..700]);
        DataChecksum::DEFAULT.verify(&bytes, &sums).unwrap();
    }
}

/// Bytes on disk of the only replica.
fn writer_length(store: &ReplicaStore) -> u64 {
    pages(store, 0)[0].1
}

#[test]
fn sync_covers_finalized_and_growing_replicas() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    put(&store, 1, &[1; 10]);
    store.sync(&block(1, 1001)).unwrap();
    let mut writer = create(&store, 2);
    append(&mut writer, 0, &[1; 10]);
    store.sync(&block(2, 1001)).unwrap();
    append(&mut writer, 10, &[2; 10]);
    store.finalize(POOL, &mut writer, false).unwrap();
    assert_eq!(store.sync(&block(3, 1001)).unwrap_err().kind(), ErrorKind::NotFound);
    // Of the replica's end nothing is here.
    for id in [1, 2] {
        let mut longer = block(id, 1001);
        longer.block.length = 21;
        assert_eq!(store.sync(&longer).unwrap_err().kind(), ErrorKind::StaleGeneration);
    }
}

#[test]
fn report_comes_in_pages_in_id_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    for id in [5, 3, 900_000, 4] {
        put(&store, id, &[1]);
    }
    assert_eq!(pages(&store, 0).iter().map(|item| item.0).collect::<Vec<_>>(), [3, 4, 5, 900_000]);
    let cursor = Cursor { volume: VolumeIndex(0), after: Some(BlockId(4)) };
    assert_eq!(store.report_page(POOL, cursor).unwrap().items.len(), 2);
}

#[test]
fn unwritable_volume_is_failed_at_start() {
    // Root may write anywhere: only a missing directory shows it then.
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o500)).unwrap();
    let opened = ReplicaStore::open(&settings(&[dir.path()]));
    let is_root = std::fs::write(dir.path().join("x"), b"").is_ok();
    assert_eq!(opened.is_err(), !is_root);
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
}
