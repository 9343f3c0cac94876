//! Replicas taken from their writers, cut, finalized; and what a restart makes of a cut that stopped half-way.

use super::*;

const RECOVERY: GenerationStamp = GenerationStamp(2000);

/// Bytes that differ from chunk to chunk.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index / 512 * 7 + index % 251) as u8).collect()
}

fn init(store: &ReplicaStore, id: u64) -> UnderRecovery {
    store.init_recovery(&block(id, 1001), RECOVERY, false).unwrap().unwrap()
}

fn update(store: &ReplicaStore, found: &UnderRecovery, stamp: GenerationStamp, length: u64) -> Result<Arc<str>> {
    store.update_recovered(&ExtendedBlock { pool: POOL.into(), block: found.block }, stamp, length)
}

fn read_all(store: &ReplicaStore, id: u64) -> Vec<u8> {
    let reader = store.open_reader(&block(id, RECOVERY.0), 0).unwrap();
    let mut data = vec![0; usize::try_from(reader.block().length).unwrap()];
    reader.read(0, &mut data).unwrap();
    let mut sums = vec![0; DataChecksum::DEFAULT.checksums_len(data.len())];
    reader.read_checksums(0, &mut sums).unwrap();
    DataChecksum::DEFAULT.verify(&data, &sums).unwrap();
    data
}

#[test]
fn recovery_stops_the_writer_and_finalizes_what_was_agreed() {
    for agreed in [3000, 2560, 2100, 1] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&[dir.path()]);
        let mut writer = create(&store, 1);
        let data = content(3000);
        append(&mut writer, 0, &data[..1000]);
        writer.sync().unwrap();
        writer.set_acked(1000);
        append(&mut writer, 1000, &data[1000..]);
        let found = init(&store, 1);
        assert_eq!((found.block.length, found.state, found.synced), (3000, ReplicaState::Rbw, 1000));
        // The writer is too late, whatever it tries.
        let late = writer.append(3000, &[1; 10], &[0; 4]).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Cancelled);
        assert!(store.finalize(POOL, &mut writer, false).is_err());
        store.discard(POOL, writer).unwrap();
        update(&store, &found, RECOVERY, agreed).unwrap();
        update(&store, &found, RECOVERY, agreed).expect("a repeat does no harm");
        assert_eq!(read_all(&store, 1), data[..usize::try_from(agreed).unwrap()]);
        drop(store);
        let store = open(&[dir.path()]);
        assert_eq!(pages(&store, 0), [(1, agreed, None)]);
        assert_eq!(read_all(&store, 1), data[..usize::try_from(agreed).unwrap()]);
    }
}

#[test]
fn pipeline_does_not_go_on_with_a_replica_under_recovery() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    let mut writer = create(&store, 1);
    append(&mut writer, 0, &content(700));
    writer.set_acked(700);
    let found = init(&store, 1);
    let refused = store.resume(&block(1, 1001), GenerationStamp(1500), 0..=700).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Cancelled);
    update(&store, &found, RECOVERY, 700).unwrap();
    assert_eq!(read_all(&store, 1), content(700));
}

#[test]
fn bytes_synced_here_alone_are_no_promise() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    let mut writer = create(&store, 1);
    append(&mut writer, 0, &content(700));
    writer.sync().unwrap();
    writer.set_acked(700);
    append(&mut writer, 700, &content(1000)[700..]);
    writer.sync().unwrap();
    let found = init(&store, 1);
    assert_eq!((found.block.length, found.synced), (1000, 700));
}

#[test]
fn finalized_replica_with_the_checksum_of_a_shorter_chunk_is_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    let data = content(900);
    put(&store, 1, &data[..700]);
    drop(store);
    // Power lost while it was finalized: the data of the last chunk is there, its checksum is still that of the synced part.
    std::fs::write(file(dir.path(), "current/finalized/subdir0/subdir0/blk_1"), &data).unwrap();
    let store = open(&[dir.path()]);
    assert_eq!(pages(&store, 0), [(1, 900, None)]);
    let found = init(&store, 1);
    assert_eq!((found.block.length, found.state), (700, ReplicaState::Rwr));
    update(&store, &found, RECOVERY, 700).unwrap();
    assert_eq!(read_all(&store, 1), data[..700]);
}

#[test]
fn only_the_latest_recovery_counts() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    let mut writer = create(&store, 1);
    append(&mut writer, 0, &content(600));
    let later = GenerationStamp(RECOVERY.0 + 1);
    let found = init(&store, 1);
    store.init_recovery(&block(1, 1001), later, false).unwrap().unwrap();
    assert_eq!(update(&store, &found, RECOVERY, 600).unwrap_err().kind(), ErrorKind::StaleGeneration);
    let back = store.init_recovery(&block(1, 1001), RECOVERY, false).unwrap_err();
    assert_eq!(back.kind(), ErrorKind::StaleGeneration);
    update(&store, &found, later, 600).unwrap();
    assert_eq!(store.init_recovery(&block(1, 1001), later, false).unwrap_err().kind(), ErrorKind::StaleGeneration);
    assert!(update(&store, &found, RECOVERY, 600).is_err());
    assert!(store.init_recovery(&block(9, 1001), RECOVERY, false).unwrap().is_none(), "a block not here");
}

#[test]
fn recovery_claims_no_byte_that_its_checksum_does_not_prove() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    let mut writer = create(&store, 1);
    append(&mut writer, 0, &content(3000));
    put(&store, 2, &content(3000));
    for path in ["current/rbw/blk_1", "current/finalized/subdir0/subdir0/blk_2"] {
        let data = std::fs::OpenOptions::new().write(true).open(file(dir.path(), path)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&data, &[0xee], 1500).unwrap();
    }
    assert_eq!(init(&store, 1).block.length, 1024);
    let finalized = init(&store, 2);
    assert_eq!((finalized.block.length, finalized.state), (1024, ReplicaState::Rwr));
}

#[test]
fn truncation_makes_a_new_file_and_readers_of_the_old_one_go_on() {
    for length in [2999, 2560, 2561, 512, 1] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&[dir.path()]);
        let data = content(3000);
        put(&store, 1, &data);
        let old = store.open_reader(&block(1, 1001), 0).unwrap();
        let found = store.init_recovery(&block(1, 1001), RECOVERY, true).unwrap().unwrap();
        assert_eq!((found.block.length, found.state), (3000, ReplicaState::Finalized));
        update(&store, &found, RECOVERY, length).unwrap();
        let cut = &data[..usize::try_from(length).unwrap()];
        assert_eq!(read_all(&store, 1), cut);
        let mut before = vec![0; 3000];
        old.read(0, &mut before).unwrap();
        assert_eq!(before, data);
        drop((store, old));
        let store = open(&[dir.path()]);
        assert_eq!(pages(&store, 0), [(1, length, None)]);
        assert_eq!(read_all(&store, 1), cut);
        assert_eq!(std::fs::read_dir(file(dir.path(), "orphaned")).unwrap().count(), 0);
    }
}

#[test]
fn truncation_inside_a_corrupt_chunk_is_refused_and_the_replica_verified() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&[dir.path()]);
    put(&store, 1, &content(3000));
    let path = file(dir.path(), "current/finalized/subdir0/subdir0/blk_1");
    let data = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&data, &[0xee], 2000).unwrap();
    let found = store.init_recovery(&block(1, 1001), RECOVERY, true).unwrap().unwrap();
    assert_eq!(update(&store, &found, RECOVERY, 1600).unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(store.suspects().is_waiting(VolumeIndex(0), &POOL.into(), BlockId(1)), "to be verified");
    assert_eq!(pages(&store, 0), [(1, 3000, None)], "as it was");
}

/// Every state of the files that a truncation passes through, and what a restart makes of it.
#[test]
fn restart_in_the_middle_of_a_truncation_finds_the_old_or_the_new_replica() {
    let finalized = "current/finalized/subdir0/subdir0";
    let (old_meta, new_meta) = ("blk_1_1001.meta", "blk_1_2000.meta");
    // Files: (directory, name, is of the new replica).
    type State = &'static [(&'static str, &'static str, bool)];
    let states: [(State, u64, Option<ReplicaState>); 5] = [
        (&[("F", "blk_1", false), ("F", "blk_1_1001.meta", false), ("rbw", "blk_1_2000.meta", true)], 3000, None),
        (
            &[
                ("F", "blk_1", false),
                ("F", "blk_1_1001.meta", false),
                ("rbw", "blk_1_2000.meta", true),
                ("rbw", "blk_1", true),
            ],
            3000,
            None,
        ),
        (
            &[("F", "blk_1", false), ("rbw", "blk_1_2000.meta", true), ("rbw", "blk_1", true)],
            2900,
            Some(ReplicaState::Rwr),
        ),
        (&[("rbw", "blk_1_2000.meta", true), ("rbw", "blk_1", true)], 2900, Some(ReplicaState::Rwr)),
        (&[("F", "blk_1_2000.meta", true), ("rbw", "blk_1", true)], 2900, Some(ReplicaState::Rwr)),
    ];
    for (number, (files, length, open_state)) in states.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&[dir.path()]);
        put(&store, 1, &content(3000));
        let home = file(dir.path(), finalized);
        let keep = |name: &str| std::fs::read(home.join(name)).unwrap();
        let old = (keep("blk_1"), keep(old_meta));
        let found = store.init_recovery(&block(1, 1001), RECOVERY, true).unwrap().unwrap();
        update(&store, &found, RECOVERY, 2900).unwrap();
        let new = (keep("blk_1"), keep(new_meta));
        drop(store);
        std::fs::remove_file(home.join("blk_1")).unwrap();
        std::fs::remove_file(home.join(new_meta)).unwrap();
        for (place, name, is_new) in files {
            let pair = if *is_new { &new } else { &old };
            let bytes = if name.ends_with(".meta") { &pair.1 } else { &pair.0 };
            let at = if *place == "F" { home.clone() } else { file(dir.path(), "current/rbw") };
            std::fs::write(at.join(name), bytes).unwrap();
        }
        let store = open(&[dir.path()]);
        assert_eq!(pages(&store, 0), [(1, length, open_state)], "state {number}");
    }
}
