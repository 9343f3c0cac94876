//! Replicas that are not what they should be: syncs that failed, sectors that cannot be read, damaged checksum files, devices
//! that hang. What is doubted is verified on the device, told, and not promised before.

use std::os::unix::fs::FileExt;

use super::super::disk::watch::{Call, Watch};
use super::super::open_state::Step;
use super::*;
use crate::datanode::metrics::Metrics;
use crate::datanode::scanner::verify_suspects;

const FINALIZED: &str = "current/finalized/subdir0/subdir0";
const LENGTH: usize = 3000;

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 512 * 7 + index % 251) as u8).collect()
}

/// A store with one finalized replica, watched.
fn with_replica() -> (tempfile::TempDir, ReplicaStore, Arc<Watch>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    put(&store, 1, &content(LENGTH));
    let watch = Watch::begin(dir.path());
    (dir, store, watch)
}

/// The same, to be damaged behind its back.
fn unwatched() -> (tempfile::TempDir, ReplicaStore) {
    let (dir, store, _) = with_replica();
    (dir, store)
}

fn flip(dir: &Path, name: &str, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(file(dir, name)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// What is told once everything that is doubted has been verified.
fn told(store: &ReplicaStore, queue: &EventQueue, wanted: EventKind) -> Vec<(EventKind, u64)> {
    let mut told = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| verify_suspects(store, &Metrics::default(), VolumeIndex(0)));
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !told.iter().any(|(kind, _)| *kind == wanted) && std::time::Instant::now() < deadline {
            told.extend(queue.take().0.iter().map(|event| (event.kind, event.block.id.0)));
            std::thread::yield_now();
        }
        store.suspects().close();
    });
    store.suspects().reopen();
    told
}

fn last_block(stamp: u64, length: usize) -> ExtendedBlock {
    let mut block = block(1, stamp);
    block.block.length = length as u64;
    block
}

#[test]
fn sync_that_failed_is_not_forgotten() {
    for (code, kind) in [
        (libc::ENOSPC, ErrorKind::NoSpace),
        // Why an earlier write of the kernel failed, and no reason to forgive.
        (libc::ENOMEM, ErrorKind::Io),
        (libc::EAGAIN, ErrorKind::Io),
    ] {
        sync_that_fails_with_is_not_forgotten(code, kind);
    }
}

fn sync_that_fails_with_is_not_forgotten(code: i32, kind: ErrorKind) {
    let (_dir, store, watch) = with_replica();
    let queue = store.subscribe();
    // As after a restart of the device's cache: of the checksums nothing has reached it.
    let mut writer = create(&store, 2);
    append(&mut writer, 0, &content(LENGTH));
    store.finalize(POOL, &mut writer, false).unwrap();
    let _ = queue.take();
    watch.fail(Call::Sync, "blk_2", code, 1);
    assert_eq!(store.sync(&block(2, 1001)).unwrap_err().kind(), kind);
    assert_eq!(store.sync(&block(2, 1001)).unwrap_err().kind(), ErrorKind::Io, "whatever the kernel says now");
    let mut old = last_block(1001, LENGTH);
    old.block.id = BlockId(2);
    assert!(store.append(&old, GenerationStamp(1002)).is_err());
    assert!(store.init_recovery(&block(2, 1001), GenerationStamp(2000), false).is_err());
    // The page cache shows all of it; the device has nothing.
    let mut bytes = vec![0; LENGTH];
    store.open_reader(&block(2, 1001), 0).unwrap().read(0, &mut bytes).unwrap();
    assert_eq!(bytes, content(LENGTH));
    assert_eq!(told(&store, &queue, EventKind::Corrupt), [(EventKind::Corrupt, 2)]);
    assert_eq!(store.sync(&block(2, 1001)).unwrap_err().kind(), ErrorKind::Corrupt);
    let page = store.report_page(POOL, Cursor { volume: VolumeIndex(0), after: None }).unwrap();
    assert_eq!(
        page.items.iter().map(|item| (item.block.id.0, item.is_corrupt)).collect::<Vec<_>>(),
        [(1, false), (2, true)]
    );
    store.sync(&block(1, 1001)).expect("the other one is as it was");
}

#[test]
fn sync_that_failed_is_made_up_for_by_what_the_device_has() {
    for (call, of) in [(Call::Sync, "blk_1"), (Call::Sync, ".meta"), (Call::SyncDir, "subdir0")] {
        let (_dir, store, watch) = with_replica();
        let queue = store.subscribe();
        watch.fail(call, of, libc::EIO, 1);
        assert_eq!(store.sync(&block(1, 1001)).unwrap_err().kind(), ErrorKind::Io, "{of}");
        assert_eq!(store.sync(&block(1, 1001)).unwrap_err().kind(), ErrorKind::Io, "{of}");
        assert_eq!(told(&store, &queue, EventKind::Good), [(EventKind::Good, 1)], "{of}");
        store.sync(&block(1, 1001)).unwrap();
    }
}

#[test]
fn writer_whose_sync_failed_is_the_last_one_and_recovery_counts_what_the_device_has() {
    for by_client in [false, true] {
        let (dir, store, watch) = with_replica();
        let mut writer = create(&store, 2);
        append(&mut writer, 0, &content(1024));
        writer.sync().unwrap();
        append(&mut writer, 1024, &content(2000)[1024..]);
        writer.set_acked(2000);
        watch.fail(Call::Sync, "blk_2", libc::EIO, 1);
        if by_client {
            store.sync(&block(2, 1001)).unwrap_err();
        } else {
            writer.sync().unwrap_err();
        }
        assert!(writer.sync().is_err() && store.sync(&block(2, 1001)).is_err());
        assert!(writer.append(2000, &[1; 24], &[0; 4]).is_err());
        assert!(store.finalize(POOL, &mut writer, false).is_err());
        assert!(store.resume(&block(2, 1001), GenerationStamp(1002), 0..=2000).is_err());
        let stamp = GenerationStamp(2000);
        let found = store.init_recovery(&block(2, 1001), stamp, false).unwrap().unwrap();
        assert_eq!((found.block.length, found.synced, found.state), (1024, 1024, ReplicaState::Rwr));
        let old = ExtendedBlock { pool: POOL.into(), block: found.block };
        assert!(store.update_recovered(&old, stamp, 2000).is_err());
        assert!(file(dir.path(), "doubted/2").exists());
        store.update_recovered(&old, stamp, 1024).unwrap();
        assert!(!file(dir.path(), "doubted/2").exists(), "the device has all of it");
        store.sync(&block(2, 2000)).unwrap();
        let mut bytes = vec![0; 1024];
        let reader = store.open_on_device(&block(2, 2000)).unwrap();
        reader.read(0, &mut bytes).unwrap();
        assert_eq!(bytes, content(1024));
    }
}

#[test]
fn packet_that_could_not_be_taken_back_is_cut_off_by_recovery() {
    // (what fails while the packet is written, and whether a sync of the chunk before it was promised)
    for (call, of, is_promised) in [(Call::Sync, "blk_2", true), (Call::Write, "blk_2_1001.meta", false)] {
        let (_dir, store, watch) = with_replica();
        let mut writer = create(&store, 2);
        append(&mut writer, 0, &content(700));
        if is_promised {
            writer.sync().unwrap();
        }
        writer.set_acked(700);
        // The packet's own, and that of bringing the files back.
        watch.fail(call, of, libc::EIO, 2);
        let (data, mut sums) = (&content(900)[700..], [0; 4]);
        DataChecksum::DEFAULT.compute(&content(900)[512..], &mut sums);
        writer.append(700, data, &sums).unwrap_err();
        watch.heal();
        assert!(store.resume(&block(2, 1001), GenerationStamp(1002), 0..=700).is_err());
        let found = store.init_recovery(&block(2, 1001), GenerationStamp(2000), false).unwrap().unwrap();
        let old = ExtendedBlock { pool: POOL.into(), block: found.block };
        if is_promised {
            assert_eq!(found.block.length, 700);
        }
        store.update_recovered(&old, GenerationStamp(2000), found.block.length).unwrap();
        let length = found.block.length as usize;
        assert_eq!(read(&store, &block(2, 2000), length).unwrap(), content(length), "{of}");
    }
}

#[test]
fn replica_whose_data_cannot_follow_its_checksums_is_whole_where_it_was() {
    let (_dir, store, watch) = with_replica();
    let mut writer = create(&store, 2);
    append(&mut writer, 0, &content(700));
    writer.set_acked(700);
    watch.fail(Call::Rename, "/blk_2", libc::ENOSPC, 1);
    store.finalize(POOL, &mut writer, false).unwrap_err();
    let recover = |stamp| {
        let found = store.init_recovery(&block(2, 1001), stamp, false).unwrap().unwrap();
        assert_eq!(found.block.length, 700);
        store.update_recovered(&ExtendedBlock { pool: POOL.into(), block: found.block }, stamp, 700)
    };
    watch.fail(Call::Rename, "/blk_2", libc::ENOSPC, 1);
    recover(GenerationStamp(2000)).unwrap_err();
    recover(GenerationStamp(2001)).unwrap();
    assert_eq!(read(&store, &block(2, 2001), 700).unwrap(), content(700));
}

#[test]
fn bytes_count_as_synced_once_their_directory_is() {
    let (_dir, store, watch) = with_replica();
    let mut writer = create(&store, 2);
    append(&mut writer, 0, &content(700));
    writer.set_acked(700);
    watch.fail(Call::SyncDir, "rbw", libc::EIO, 1);
    writer.sync().unwrap_err();
    let found = store.init_recovery(&block(2, 1001), GenerationStamp(2000), false).unwrap().unwrap();
    assert_eq!((found.block.length, found.synced), (700, 0));
}

#[test]
fn copy_or_close_whose_sync_failed_is_no_replica() {
    for kind in [OpenKind::Temporary, OpenKind::Rbw] {
        let (dir, store, watch) = with_replica();
        let mut writer = store.create(&block(2, 1001), kind, DataChecksum::DEFAULT, None).unwrap();
        append(&mut writer, 0, &content(700));
        watch.fail(Call::Sync, "blk_2", libc::EIO, 1);
        assert!(store.finalize(POOL, &mut writer, true).is_err());
        assert!(store.finalize(POOL, &mut writer, true).is_err(), "a second try proves nothing");
        if kind == OpenKind::Temporary {
            store.discard(POOL, writer).unwrap();
            assert_eq!(store.replica_count(), 1);
            assert!(!file(dir.path(), "doubted/2").exists());
        } else {
            let found = store.init_recovery(&block(2, 1001), GenerationStamp(2000), false).unwrap().unwrap();
            assert_eq!(found.block.length, 0);
        }
    }
}

#[test]
fn restart_believes_no_page_cache_after_a_sync_that_failed() {
    let (dir, store, watch) = with_replica();
    let mut writer = create(&store, 2);
    append(&mut writer, 0, &content(1024));
    writer.sync().unwrap();
    append(&mut writer, 1024, &content(2000)[1024..]);
    watch.fail(Call::Sync, "blk_2", libc::EIO, 1);
    writer.sync().unwrap_err();
    drop((store, writer));
    let store = open(&[dir.path()]);
    assert_eq!(pages(&store, 0)[1], (2, 1024, Some(ReplicaState::Rwr)));
}

#[test]
fn replica_that_cannot_be_read_is_verified_and_told_of_and_well_again_when_it_can() {
    let (_dir, store, watch) = with_replica();
    let queue = store.subscribe();
    let reader = store.open_reader(&block(1, 1001), 0).unwrap();
    watch.fail(Call::Read, "blk_1", libc::EIO, usize::MAX);
    assert_eq!(reader.read(0, &mut [0; 512]).unwrap_err().kind(), ErrorKind::Io);
    assert!(store.wait_suspicion(Duration::ZERO), "the device is looked at");
    assert_eq!(told(&store, &queue, EventKind::Corrupt), [(EventKind::Corrupt, 1)]);
    watch.heal();
    store.doubt(&block(1, 1001)).unwrap();
    assert_eq!(told(&store, &queue, EventKind::Good), [(EventKind::Good, 1)]);
    store.sync(&block(1, 1001)).unwrap();
}

#[test]
fn one_error_of_many_reads_does_not_condemn_a_replica() {
    let (_dir, store, watch) = with_replica();
    let queue = store.subscribe();
    let reader = store.open_reader(&block(1, 1001), 0).unwrap();
    watch.fail(Call::Read, "blk_1", libc::EIO, 1);
    assert_eq!(reader.read(0, &mut [0; 4]).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(told(&store, &queue, EventKind::Good), [(EventKind::Good, 1)]);
}

#[test]
fn doubted_replica_that_is_not_here_is_told_of() {
    let (_dir, store, _watch) = with_replica();
    let queue = store.subscribe();
    store.doubt(&block(9, 1001)).unwrap();
    let events = queue.take().0;
    assert_eq!(
        events.iter().map(|event| (event.kind, event.block.id.0)).collect::<Vec<_>>(),
        [(EventKind::Deleted, 9)]
    );
}

/// What is done to the bytes of a checksum file, in words and in deed.
type Damage = (&'static str, fn(&mut Vec<u8>));

/// Bytes of a checksum file, and what becomes of them.
fn damaged_meta_files() -> Vec<Damage> {
    vec![
        ("another version", |meta| meta[1] = 2),
        ("no checksums", |meta| meta[2] = 0),
        ("CRC32", |meta| meta[2] = 1),
        ("an unknown type", |meta| meta[2] = 77),
        ("other chunks", |meta| meta[5] = 4),
        ("chunks of nothing", |meta| meta[3..7].fill(0)),
        ("half a header", |meta| meta.truncate(3)),
        ("an empty file", Vec::clear),
        ("a checksum too few", |meta| meta.truncate(meta.len() - 4)),
        ("a checksum too many", |meta| meta.extend([0; 4])),
    ]
}

#[test]
fn damaged_checksum_file_is_a_corrupt_replica_whoever_opens_it() {
    for (damage, inflict) in damaged_meta_files() {
        let (dir, store) = unwatched();
        let path = file(dir.path(), FINALIZED).join("blk_1_1001.meta");
        let mut meta = std::fs::read(&path).unwrap();
        inflict(&mut meta);
        std::fs::write(&path, meta).unwrap();
        flip(dir.path(), &format!("{FINALIZED}/blk_1"), 700);
        let queue = store.subscribe();
        assert_eq!(store.open_reader(&block(1, 1001), 0).unwrap_err().kind(), ErrorKind::Corrupt, "{damage}");
        assert!(queue.take().0.iter().any(|event| event.kind == EventKind::Corrupt), "{damage}");
        assert_eq!(store.open_on_device(&block(1, 1001)).unwrap_err().kind(), ErrorKind::Corrupt, "{damage}");
        let appended = store.append(&last_block(1001, LENGTH), GenerationStamp(1002)).unwrap_err();
        assert_eq!(appended.kind(), ErrorKind::Corrupt, "{damage}");
        let stamp = GenerationStamp(2000);
        let found = store.init_recovery(&block(1, 1001), stamp, false).unwrap().unwrap();
        assert_eq!(found.state, ReplicaState::Rwr, "{damage}");
        assert!(found.block.length <= 512, "{damage}");
        let truncated = store.init_recovery(&block(1, 1001), stamp, true).unwrap_err();
        assert_eq!(truncated.kind(), ErrorKind::Corrupt, "{damage}");
        if !damage.starts_with("a checksum too") {
            let cut = store.update_recovered(&last_block(1001, LENGTH), stamp, 1600).unwrap_err();
            assert_eq!(cut.kind(), ErrorKind::Corrupt, "{damage}");
        }
        assert!(!store.wait_suspicion(Duration::ZERO), "{damage}: not the device's fault");
    }
}

#[test]
fn damaged_checksum_file_of_a_replica_being_written_proves_nothing() {
    for (damage, inflict) in damaged_meta_files() {
        let (dir, store) = unwatched();
        let mut writer = create(&store, 2);
        append(&mut writer, 0, &content(LENGTH));
        writer.set_acked(LENGTH as u64);
        let path = file(dir.path(), "current/rbw/blk_2_1001.meta");
        let mut meta = std::fs::read(&path).unwrap();
        inflict(&mut meta);
        std::fs::write(&path, meta).unwrap();
        if !damage.starts_with("a checksum too") {
            assert_eq!(store.open_reader(&block(2, 1001), 0).unwrap_err().kind(), ErrorKind::Corrupt, "{damage}");
        }
        let found = store.init_recovery(&block(2, 1001), GenerationStamp(2000), false).unwrap().unwrap();
        let (length, state) = match damage {
            "a checksum too many" => (LENGTH as u64, ReplicaState::Rbw),
            "a checksum too few" => (2560, ReplicaState::Rwr),
            _ => (0, ReplicaState::Rwr),
        };
        assert_eq!((found.block.length, found.state), (length, state), "{damage}");
    }
}

#[test]
fn data_file_of_another_length_is_a_corrupt_replica() {
    for length in [LENGTH as u64 - 1, LENGTH as u64 + 1] {
        let (dir, store) = unwatched();
        let path = file(dir.path(), FINALIZED).join("blk_1");
        std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
        assert_eq!(store.open_reader(&block(1, 1001), 0).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn nothing_goes_on_from_a_chunk_that_its_checksum_does_not_prove() {
    let (dir, store) = unwatched();
    // Finalized, its last chunk bad: extended, and gone on with from a byte before.
    flip(dir.path(), &format!("{FINALIZED}/blk_1"), LENGTH as u64 - 1);
    let appended = store.append(&last_block(1001, LENGTH), GenerationStamp(1002)).unwrap_err();
    assert_eq!(appended.kind(), ErrorKind::Corrupt);
    flip(dir.path(), &format!("{FINALIZED}/blk_1"), LENGTH as u64 - 1);
    flip(dir.path(), &format!("{FINALIZED}/blk_1"), 1500);
    let resumed = store.resume(&block(1, 1001), GenerationStamp(1002), 1400..=3000).unwrap_err();
    assert_eq!(resumed.kind(), ErrorKind::Corrupt);
    // Being written, the chunk bad that its acknowledged bytes end in: read, and gone on with.
    let mut writer = create(&store, 2);
    append(&mut writer, 0, &content(700));
    writer.set_acked(700);
    append(&mut writer, 700, &content(900)[700..]);
    flip(dir.path(), "current/rbw/blk_2", 600);
    assert_eq!(store.open_reader(&block(2, 1001), 0).unwrap_err().kind(), ErrorKind::Corrupt);
    let resumed = store.resume(&block(2, 1001), GenerationStamp(1002), 700..=900).unwrap_err();
    assert_eq!(resumed.kind(), ErrorKind::Corrupt);
}

#[test]
fn calls_that_hang_hold_up_no_other_replica() {
    for (call, of) in [(Call::Read, "blk_1"), (Call::Sync, "blk_1"), (Call::Open, "blk_1")] {
        let (_dir, store, watch) = with_replica();
        put(&store, 2, &content(LENGTH));
        watch.hang(call, of);
        std::thread::scope(|scope| {
            let hung = scope.spawn(|| {
                if call == Call::Sync {
                    return store.sync(&block(1, 1001));
                }
                store.open_reader(&block(1, 1001), 0)?.read(0, &mut [0; 512])
            });
            watch.wait_hanging(1);
            put(&store, 3, &content(LENGTH));
            store.sync(&block(2, 1001)).unwrap();
            store.open_reader(&block(2, 1001), 0).unwrap().read(0, &mut [0; 512]).unwrap();
            assert_eq!(pages(&store, 0).len(), 3);
            store.invalidate(&block(2, 1001)).unwrap();
            assert_eq!(store.replica_count(), 2);
            watch.heal();
            hung.join().unwrap().unwrap();
        });
    }
}

#[test]
fn truncations_at_once_do_not_share_a_file() {
    let (_dir, store, watch) = with_replica();
    watch.hang(Call::Sync, "data");
    watch.hang(Call::Sync, "tmp/blk_1");
    let cut =
        |stamp: u64, length: u64| store.update_recovered(&last_block(1001, LENGTH), GenerationStamp(stamp), length);
    std::thread::scope(|scope| {
        let cuts = [(2000, 2900), (2001, 1600)]
            .map(|(stamp, length)| scope.spawn(move || (cut(stamp, length), stamp, length)));
        watch.wait_hanging(2);
        watch.heal();
        let done: Vec<_> = cuts.into_iter().map(|cut| cut.join().unwrap()).filter(|(cut, ..)| cut.is_ok()).collect();
        let [(_, stamp, length)] = &done[..] else { panic!("one of them comes first: {done:?}") };
        assert_eq!(store.visible_length(&block(1, *stamp)).unwrap(), *length);
    });
    let queue = store.subscribe();
    store.doubt(&block(1, 1001)).unwrap();
    assert_eq!(told(&store, &queue, EventKind::Good), [(EventKind::Good, 1)]);
}

#[test]
fn truncation_that_cannot_be_finished_leaves_the_replica_as_it_was() {
    for (call, of) in [(Call::Rename, "meta"), (Call::Rename, "data"), (Call::SyncDir, "rbw"), (Call::Sync, "data")] {
        let (dir, store, watch) = with_replica();
        let used = store.volumes().reports()[0].space.used;
        watch.fail(call, of, libc::EIO, 1);
        let stamp = GenerationStamp(2000);
        assert!(store.update_recovered(&last_block(1001, LENGTH), stamp, 1600).is_err(), "{of}");
        assert_eq!(pages(&store, 0), [(1, LENGTH as u64, None)], "{of}");
        assert_eq!(store.volumes().reports()[0].space.used, used, "{of}");
        for place in ["tmp", "current/rbw"] {
            assert_eq!(std::fs::read_dir(file(dir.path(), place)).unwrap().count(), 0, "{of}: {place}");
        }
        let stamp = GenerationStamp(2001);
        store.update_recovered(&last_block(1001, LENGTH), stamp, 1600).unwrap();
        assert_eq!(pages(&store, 0), [(1, 1600, None)], "{of}");
    }
}

#[test]
fn replica_whose_files_are_gone_takes_no_room() {
    let (dir, store) = unwatched();
    std::fs::remove_file(file(dir.path(), FINALIZED).join("blk_1")).unwrap();
    assert_eq!(store.open_reader(&block(1, 1001), 0).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!((store.replica_count(), store.volumes().reports()[0].space.used), (0, 0));
}

#[test]
fn append_to_a_replica_whose_files_are_gone_has_it_looked_at() {
    let (dir, store) = unwatched();
    std::fs::remove_file(file(dir.path(), FINALIZED).join("blk_1_1001.meta")).unwrap();
    let appended = store.append(&last_block(1001, LENGTH), GenerationStamp(1002)).unwrap_err();
    assert_eq!(appended.kind(), ErrorKind::Io);
    assert!(store.suspects().is_waiting(VolumeIndex(0), &POOL.into(), BlockId(1)));
}

#[test]
fn probe_that_does_not_reach_the_device_takes_the_volume_out() {
    let (_dir, store, watch) = with_replica();
    watch.fail(Call::Sync, "probe.tmp", libc::EIO, 1);
    assert!(store.check_volumes(true));
}

/// A second replica, finalized, of which a sync has just failed.
fn with_failed_sync(store: &ReplicaStore, watch: &Watch) {
    let mut writer = create(store, 2);
    append(&mut writer, 0, &content(LENGTH));
    store.finalize(POOL, &mut writer, false).unwrap();
    watch.fail(Call::Sync, "blk_2", libc::EIO, 1);
    store.sync(&block(2, 1001)).unwrap_err();
}

fn take_out(store: &ReplicaStore, watch: &Watch) {
    watch.fail(Call::Sync, "probe.tmp", libc::EIO, 1);
    assert!(store.check_volumes(true));
}

fn take_in(store: &ReplicaStore) {
    while !store.readmit_volumes() {
        std::thread::yield_now();
    }
}

#[test]
fn sync_that_failed_is_not_forgotten_when_the_volume_comes_back() {
    // (a note of it was made, or else it was said that one lacks)
    for (is_noted, is_said) in [(true, false), (false, true), (false, false)] {
        let (_dir, store, watch) = with_replica();
        if !is_noted {
            watch.fail(Call::Open, "doubted/2", libc::EIO, usize::MAX);
        }
        if !is_said {
            watch.fail(Call::Remove, "all-noted", libc::EIO, usize::MAX);
        }
        with_failed_sync(&store, &watch);
        let mut writer = create(&store, 3);
        append(&mut writer, 0, &content(1000));
        watch.fail(Call::Sync, "blk_3", libc::EIO, 1);
        writer.sync().unwrap_err();
        take_out(&store, &watch);
        take_in(&store);
        let queue = store.subscribe();
        assert_eq!(store.sync(&block(2, 1001)).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(store.sync(&block(3, 1001)).unwrap_err().kind(), ErrorKind::Io);
        // Without its note any replica may be the one that was meant. Where nothing could be said, this process remembers.
        assert_eq!(store.sync(&block(1, 1001)).is_ok(), !is_said);
        let (good, corrupt) = ((EventKind::Good, 1), (EventKind::Corrupt, 2));
        let expected = if is_said { vec![good, corrupt] } else { vec![corrupt] };
        assert_eq!(told(&store, &queue, EventKind::Corrupt), expected);
        store.sync(&block(1, 1001)).unwrap();
    }
}

#[test]
fn sync_that_could_not_be_noted_has_every_replica_doubted_after_a_restart() {
    let (dir, store, watch) = with_replica();
    watch.fail(Call::Open, "doubted/2", libc::ENOSPC, usize::MAX);
    with_failed_sync(&store, &watch);
    assert!(watch.durable("doubted/all-noted").is_none(), "gone for good before it is answered");
    store.sync(&block(1, 1001)).expect("this process knows which one it was");
    drop(store);
    // Still without room.
    let store = open(&[dir.path()]);
    for id in [1, 2] {
        assert_eq!(store.sync(&block(id, 1001)).unwrap_err().kind(), ErrorKind::Io, "{id}");
    }
    assert!(!file(dir.path(), "doubted/all-noted").exists());
    drop(store);
    watch.heal();
    let store = open(&[dir.path()]);
    assert!(watch.durable("doubted/all-noted").is_some() && watch.durable("doubted/2").is_some());
    let queue = store.subscribe();
    assert_eq!(told(&store, &queue, EventKind::Corrupt), [(EventKind::Good, 1), (EventKind::Corrupt, 2)]);
    drop(store);
    let store = open(&[dir.path()]);
    store.sync(&block(1, 1001)).unwrap();
    store.sync(&block(2, 1001)).unwrap_err();
}

#[test]
fn volume_that_takes_no_note_at_all_is_looked_at() {
    for is_removable in [true, false] {
        let (_dir, store, watch) = with_replica();
        watch.fail(Call::Sync, "blk_1", libc::ENOSPC, 1);
        watch.fail(Call::Open, "doubted/1", libc::ENOSPC, 1);
        if !is_removable {
            watch.fail(Call::Remove, "all-noted", libc::EROFS, 1);
        }
        assert_eq!(store.sync(&block(1, 1001)).unwrap_err().kind(), ErrorKind::NoSpace);
        assert_eq!(store.wait_suspicion(Duration::ZERO), !is_removable);
    }
}

#[test]
fn note_of_a_failed_sync_goes_with_its_replica() {
    let (dir, store, watch) = with_replica();
    let note = |id: u64| file(dir.path(), &format!("doubted/{id}"));
    // Being written, deleted.
    let mut writer = create(&store, 2);
    append(&mut writer, 0, &content(700));
    watch.fail(Call::Sync, "blk_2", libc::EIO, 1);
    writer.sync().unwrap_err();
    assert!(note(2).exists());
    store.invalidate(&block(2, 1001)).unwrap();
    drop(writer);
    assert!(!note(2).exists());
    // Finalized, its files gone and brought back: it is the one whose sync has failed.
    watch.fail(Call::Sync, ".meta", libc::EIO, 1);
    store.sync(&block(1, 1001)).unwrap_err();
    let names =
        ["blk_1", "blk_1_1001.meta"].map(|name| (file(dir.path(), FINALIZED).join(name), dir.path().join(name)));
    names.iter().for_each(|(home, away)| std::fs::rename(home, away).unwrap());
    assert_eq!(store.open_reader(&block(1, 1001), 0).unwrap_err().kind(), ErrorKind::NotFound);
    names.iter().for_each(|(home, away)| std::fs::rename(away, home).unwrap());
    let index = VolumeIndex(0);
    assert_eq!(store.compare_directory(POOL, index, &|| false).unwrap().found, 1);
    assert_eq!(store.sync(&block(1, 1001)).unwrap_err().kind(), ErrorKind::Io);
    assert!(store.suspects().is_waiting(index, &POOL.into(), BlockId(1)) && note(1).exists());
    // Gone, and made anew.
    names.iter().for_each(|(home, _)| std::fs::remove_file(home).unwrap());
    assert_eq!(store.open_reader(&block(1, 1001), 0).unwrap_err().kind(), ErrorKind::NotFound);
    put(&store, 1, &content(LENGTH));
    assert!(!note(1).exists());
    store.sync(&block(1, 1001)).unwrap();
    // Of what is not there a start finds no replica.
    std::fs::write(note(9), b"").unwrap();
    drop(store);
    drop(open(&[dir.path()]));
    assert!(!note(9).exists());
}

#[test]
fn sync_that_failed_is_not_forgotten_over_a_restart() {
    let (dir, store, watch) = with_replica();
    with_failed_sync(&store, &watch);
    assert!(watch.durable("doubted/2").is_some(), "noted for good before it is answered");
    drop(store);
    let store = open(&[dir.path()]);
    assert_eq!(store.sync(&block(2, 1001)).unwrap_err().kind(), ErrorKind::Io);
    let queue = store.subscribe();
    assert_eq!(told(&store, &queue, EventKind::Corrupt), [(EventKind::Corrupt, 2)]);
    store.invalidate(&block(2, 1001)).unwrap();
    assert!(!file(dir.path(), "doubted/2").exists());
    // One that is well again is trusted again, after the next start too.
    watch.fail(Call::Sync, ".meta", libc::EIO, 1);
    store.sync(&block(1, 1001)).unwrap_err();
    drop(store);
    let store = open(&[dir.path()]);
    let queue = store.subscribe();
    store.sync(&block(1, 1001)).unwrap_err();
    assert_eq!(told(&store, &queue, EventKind::Good), [(EventKind::Good, 1)]);
    drop(store);
    open(&[dir.path()]).sync(&block(1, 1001)).unwrap();
}

#[test]
fn verification_that_finds_no_room_is_made_again() {
    let (_dir, store, watch) = with_replica();
    let queue = store.subscribe();
    // Neither the sync that is asked for has room, nor the one before the replica is read.
    watch.fail(Call::Sync, ".meta", libc::ENOSPC, 2);
    store.sync(&block(1, 1001)).unwrap_err();
    assert_eq!(told(&store, &queue, EventKind::Good), [(EventKind::Good, 1)]);
    store.sync(&block(1, 1001)).unwrap();
}

#[test]
fn append_waits_for_a_sync_of_the_replica_and_does_not_begin_when_that_fails() {
    let (_dir, store, watch) = with_replica();
    watch.hang(Call::Sync, "blk_1");
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| store.sync(&block(1, 1001)));
        watch.wait_hanging(1);
        let append = scope.spawn(|| store.append(&last_block(1001, LENGTH), GenerationStamp(1002)));
        // Time enough to begin, if it did not wait: what it opened would be told nothing of the failure.
        let asked = std::time::Instant::now();
        while asked.elapsed() < Duration::from_millis(500) {
            assert!(store.finalized(&block(1, 1001)).is_some());
            std::thread::sleep(Duration::from_millis(1));
        }
        watch.fail_hanging(libc::EIO);
        sync.join().unwrap().unwrap_err();
        append.join().unwrap().unwrap_err();
    });
    assert_eq!(store.sync(&block(1, 1001)).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn sync_of_a_replica_that_is_open_no_more_promises_nothing() {
    let (_dir, store, _watch) = with_replica();
    let mut writer = create(&store, 2);
    append(&mut writer, 0, &content(700));
    let replica = Arc::clone(writer.replica());
    store.finalize(POOL, &mut writer, false).unwrap();
    let pool = store.pool(POOL).unwrap();
    // As a sync that has waited for the writer.
    pool.sync_open(&replica, block(2, 1001).block).unwrap();
    assert_eq!(replica.state().promised(), 0);
    store.sync(&block(2, 1001)).unwrap();
    let found = store.init_recovery(&block(2, 1001), GenerationStamp(2000), false).unwrap().unwrap();
    assert_eq!(found.synced, 700);
}

#[test]
fn replica_finalized_while_a_sync_of_it_fails_is_verified() {
    let (_dir, store, watch) = with_replica();
    let queue = store.subscribe();
    let mut writer = create(&store, 2);
    append(&mut writer, 0, &content(700));
    let replica = Arc::clone(writer.replica());
    watch.hang(Call::SyncDir, "subdir0");
    std::thread::scope(|scope| {
        let finalize = scope.spawn(|| store.finalize(POOL, &mut writer, true));
        watch.wait_hanging(1);
        // As by a client's sync, the files being where they belong already.
        replica.step(Step::SyncFailed);
        watch.heal();
        finalize.join().unwrap().unwrap();
    });
    assert_eq!(store.sync(&block(2, 1001)).unwrap_err().kind(), ErrorKind::Io);
    let told = told(&store, &queue, EventKind::Good);
    assert!(told.contains(&(EventKind::Good, 2)), "{told:?}");
}

#[test]
fn sync_of_a_replica_whose_files_are_gone_tells_of_it() {
    let (dir, store) = unwatched();
    let queue = store.subscribe();
    std::fs::remove_file(file(dir.path(), FINALIZED).join("blk_1")).unwrap();
    assert_eq!(store.sync(&block(1, 1001)).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.replica_count(), 0);
    assert!(queue.take().0.iter().any(|event| (event.kind, event.block.id.0) == (EventKind::Deleted, 1)));
}

#[test]
fn restart_with_a_bad_sector_keeps_the_other_replicas() {
    for code in [libc::EIO, libc::ENODATA, libc::EILSEQ] {
        let (dir, store, watch) = with_replica();
        let mut writer = create(&store, 2);
        append(&mut writer, 0, &content(1000));
        drop((store, writer));
        watch.fail(Call::Read, "rbw/blk_2", code, usize::MAX);
        let store = open(&[dir.path()]);
        assert_eq!(pages(&store, 0), [(1, LENGTH as u64, None)], "{code}");
        assert!(file(dir.path(), "orphaned/blk_2").exists(), "{code}");
    }
}

#[test]
fn recovery_claims_what_lies_before_a_bad_sector() {
    for is_waiting in [true, false] {
        let (dir, mut store, watch) = with_replica();
        put(&store, 2, &content(10_000));
        let mut writer = create(&store, 3);
        append(&mut writer, 0, &content(10_000));
        writer.set_acked(10_000);
        if is_waiting {
            drop((store, writer));
            store = open(&[dir.path()]);
        }
        let stamp = GenerationStamp(2000);
        // While the volume itself is away nothing can be said of its replicas.
        watch.fail_reads_at("blk_3", 9000, libc::ENODATA);
        watch.fail(Call::Sync, "probe.tmp", libc::EIO, 1);
        assert_eq!(store.init_recovery(&block(3, 1001), stamp, false).unwrap_err().kind(), ErrorKind::Io);
        watch.fail_reads_at("blk_2", 9000, libc::ENODATA);
        for id in [2, 3] {
            let found = store.init_recovery(&block(id, 1001), stamp, false).unwrap().unwrap();
            assert_eq!((found.block.length, found.state), (8192, ReplicaState::Rwr), "{id}");
        }
    }
}

#[test]
fn recovery_that_finds_files_gone_claims_nothing_and_tells_of_it() {
    for is_waiting in [true, false] {
        let (dir, mut store) = unwatched();
        let mut writer = create(&store, 2);
        append(&mut writer, 0, &content(1000));
        writer.set_acked(1000);
        if is_waiting {
            drop((store, writer));
            store = open(&[dir.path()]);
        }
        let queue = store.subscribe();
        std::fs::remove_file(file(dir.path(), "current/rbw/blk_2")).unwrap();
        std::fs::remove_file(file(dir.path(), FINALIZED).join("blk_1_1001.meta")).unwrap();
        let stamp = GenerationStamp(2000);
        for id in [1, 2] {
            // Not a replica without bytes: whoever has no other one would take the block for empty.
            let lost = store.init_recovery(&block(id, 1001), stamp, false).unwrap_err();
            assert_eq!(lost.kind(), ErrorKind::NotFound, "{id}");
            assert_eq!(store.init_recovery(&block(id, 1001), stamp, false).unwrap(), None, "{id}");
        }
        let told: Vec<_> = queue.take().0.iter().map(|event| (event.kind, event.block.id.0)).collect();
        assert_eq!(told, [(EventKind::Deleted, 1), (EventKind::Deleted, 2)]);
        assert_eq!((store.replica_count(), store.volumes().reports()[0].space.used), (0, 0));
    }
}

#[test]
fn recovery_keeps_what_lies_behind_a_bad_sector() {
    for is_finalized in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&[dir.path()]);
        let data = content(12_000);
        let mut writer = create(&store, 1);
        append(&mut writer, 0, &data);
        writer.set_acked(12_000);
        if is_finalized {
            store.finalize(POOL, &mut writer, false).unwrap();
        }
        let home = file(dir.path(), if is_finalized { FINALIZED } else { "current/rbw" });
        let sums = std::fs::read(home.join("blk_1_1001.meta")).unwrap();
        let watch = Watch::begin(dir.path());
        watch.fail_reads_at("blk_1", 5000, libc::ENODATA);
        let before = store.volumes().reports()[0].space.used;
        let recover = |stamp| {
            let found = store.init_recovery(&block(1, 1001), stamp, false).unwrap().unwrap();
            assert_eq!(found.block.length, 4096);
            let old = ExtendedBlock { pool: POOL.into(), block: found.block };
            store.update_recovered(&old, stamp, 4096)
        };
        if is_finalized {
            watch.fail(Call::Rename, "blk_1_1001.meta", libc::ENOSPC, 1);
            recover(GenerationStamp(2000)).unwrap_err();
            assert_eq!(std::fs::read(home.join("blk_1")).unwrap(), data, "what could not be set aside stays");
            assert_eq!(store.volumes().reports()[0].space.used, before, "and counts as before");
        } else {
            for unfinished in ["rest.tmp", "rest.meta.tmp"] {
                watch.fail(Call::Write, unfinished, libc::ENOSPC, 1);
                recover(GenerationStamp(2000)).unwrap_err();
                let left = std::fs::read_dir(file(dir.path(), "orphaned")).unwrap().count();
                assert_eq!(left, 0, "what was saved by a try that found no room takes none");
            }
        }
        recover(GenerationStamp(2001)).unwrap();
        assert_eq!(pages(&store, 0), [(1, 4096, None)]);
        if is_finalized {
            assert_eq!(std::fs::read(file(dir.path(), "orphaned/blk_1")).unwrap(), data);
            assert_eq!(std::fs::read(file(dir.path(), "orphaned/blk_1_1001.meta")).unwrap(), sums);
        } else {
            // At its own place, but for the sector, and on disk before the rest of the replica is cut off.
            let rest = watch.durable("orphaned/blk_1_1001.rest").unwrap();
            assert_eq!((rest.len(), &rest[8192..]), (12_000, &data[8192..]));
            assert_eq!(watch.durable("orphaned/blk_1_1001.rest.meta").unwrap(), sums);
        }
    }
}

#[test]
fn recovery_of_a_replica_that_was_called_corrupt_comes_to_its_end() {
    let (_dir, store, watch) = with_replica();
    let queue = store.subscribe();
    watch.fail(Call::Read, "blk_1", libc::EIO, usize::MAX);
    store.doubt(&block(1, 1001)).unwrap();
    assert_eq!(told(&store, &queue, EventKind::Corrupt), [(EventKind::Corrupt, 1)]);
    watch.heal();
    let recover = |stamp| {
        let found = store.init_recovery(&block(1, 1001), stamp, false).unwrap().unwrap();
        assert_eq!(found.block.length, LENGTH as u64);
        store.update_recovered(&ExtendedBlock { pool: POOL.into(), block: found.block }, stamp, LENGTH as u64)
    };
    recover(GenerationStamp(2000)).unwrap_err();
    assert_eq!(told(&store, &queue, EventKind::Good), [(EventKind::Good, 1)]);
    recover(GenerationStamp(2001)).unwrap();
}

#[test]
fn volume_comes_back_when_the_last_call_on_it_has_returned() {
    let (_dir, store, watch) = with_replica();
    let mut writer = create(&store, 2);
    append(&mut writer, 0, &content(700));
    writer.sync().unwrap();
    watch.hang(Call::Sync, "blk_2");
    std::thread::scope(|scope| {
        let write = scope.spawn(|| {
            let data = &content(900)[700..];
            let mut sums = [0; 4];
            DataChecksum::DEFAULT.compute(data, &mut sums);
            writer.append(700, data, &sums)
        });
        watch.wait_hanging(1);
        take_out(&store, &watch);
        assert!(!store.readmit_volumes(), "its writer could write to it yet");
        watch.heal();
        let _ = write.join().unwrap();
        take_in(&store);
    });
    let found = store.init_recovery(&block(2, 1001), GenerationStamp(2000), false).unwrap().unwrap();
    assert!(found.block.length >= 700, "{found:?}");
}

#[test]
fn what_is_doubted_does_not_wait_while_all_of_a_volume_is_verified() {
    let (_dir, store, watch) = with_replica();
    for id in 2..=4 {
        put(&store, id, &content(LENGTH));
    }
    let queue = store.subscribe();
    let (volume, pool) = (VolumeIndex(0), Arc::from(POOL));
    // More than are remembered one by one.
    (0..20_000).for_each(|id| store.suspects().add(volume, &pool, BlockId(id)));
    while store.suspects().next_replica(volume).is_some() {}
    watch.hang(Call::Read, "blk_1");
    let mut good = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| verify_suspects(&store, &Metrics::default(), volume));
        watch.wait_hanging(1);
        store.suspects().add(volume, &pool, BlockId(4));
        watch.heal();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while good.len() < 2 && std::time::Instant::now() < deadline {
            good.extend(queue.take().0.iter().map(|event| event.block.id.0));
            std::thread::yield_now();
        }
        store.suspects().close();
    });
    assert_eq!(good[..2], [1, 4]);
}
