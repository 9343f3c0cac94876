//! The log's files against a vector of entries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dfs_proto::v1::EditOp;
use dfs_proto::v1::edit_op::Op;
use proptest::prelude::*;

use super::super::begin_after;
use super::super::frame::{PAYLOAD_BYTES_MAX, encode_frame};
use super::super::log_files::{LogFiles, check_entry_bytes};
use super::super::log_index::LogIndex;
use super::super::raft_types::{Batch, Entry, LogId, Vote, encoded_op_len};
use super::super::segment::is_segment_name;
use super::entry;
use crate::namenode::image::format::LogPosition;
use crate::namenode::namespace::state_digest::StateDigest;
use dfs_common::error::ErrorKind;

const NAMESPACE: u32 = 77;

fn read_all(files: &LogFiles, start: u64, end: u64) -> Vec<Entry> {
    let log = files.index().lock().clone();
    let mut reader = log.entries(start, end);
    std::iter::from_fn(|| reader.next_entry().unwrap()).collect()
}

fn segment_count(directory: &Path) -> usize {
    let names = std::fs::read_dir(directory).unwrap().map(|item| item.unwrap().file_name());
    names.filter(|name| is_segment_name(name.to_str().unwrap())).count()
}

fn same(left: &[Entry], right: &[Entry]) -> bool {
    let plain = |entry: &Entry| (entry.log_id, format!("{:?}", entry.payload), ops_of(entry));
    left.iter().map(plain).eq(right.iter().map(plain))
}

fn ops_of(entry: &Entry) -> Vec<u64> {
    match &entry.payload {
        openraft::EntryPayload::Normal(batch) => batch.ops.iter().map(super::number).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn entries_survive_reopening_and_rolling() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for round in 0..6_u64 {
        let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
        assert_eq!(files.last_log_id().unwrap(), expected.last().map(|entry: &Entry| entry.log_id));
        let first = expected.len() as u64;
        let entries: Vec<Entry> = (0..=round).map(|i| entry(round, first + i, 0..i)).collect();
        files.append(&entries).unwrap();
        expected.extend(entries);
        if round % 2 == 0 {
            files.roll_if_used().unwrap();
        }
        assert!(same(&read_all(&files, 0, u64::MAX), &expected));
        assert!(same(&read_all(&files, first, first + 1), &expected[first as usize..=first as usize]));
    }
    assert_eq!(segment_count(dir.path()), 4);
}

#[test]
fn append_larger_than_a_segment_gets_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
    // A segment of the smallest size.
    files.roll_if_used().unwrap();
    let large: Vec<Entry> = (0..3).map(|index| entry(1, index, (0..150_000).map(|n| n << 40))).collect();
    files.append(&large).unwrap();
    drop(files);
    let files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
    assert!(same(&read_all(&files, 0, u64::MAX), &large));
}

#[test]
fn a_segment_too_small_for_its_first_frame_is_not_left_beside_its_successor() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
    // A segment of the smallest size.
    files.roll_if_used().unwrap();
    let large = |index| entry(1, index, (0..150_000).map(|n| n << 40));
    files.append(&[large(0)]).unwrap();
    assert_eq!(segment_count(dir.path()), 1);
    files.append(&[entry(1, 1, [1])]).unwrap();
    files.roll_if_used().unwrap();
    files.append(&[large(2)]).unwrap();
    let segments = segment_count(dir.path());
    drop(files);
    let log = LogIndex::scan(dir.path(), NAMESPACE, 0).unwrap().log;
    let sequences: Vec<u64> = log.segments.iter().map(|segment| segment.header.first_sequence).collect();
    assert!(sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
    assert_eq!(sequences.len(), segments);
}

/// A log whose last segment holds the last of three entries, and the path of that segment.
fn log_in_two_segments(dir: &Path) -> (Vec<Entry>, std::path::PathBuf) {
    let mut files = LogFiles::open(dir, NAMESPACE).unwrap();
    let entries: Vec<Entry> = (0..3).map(|index| entry(1, index, [index])).collect();
    files.append(&entries[..2]).unwrap();
    files.roll_if_used().unwrap();
    files.append(&entries[2..]).unwrap();
    (entries, dir.join("edits_0000000000000000002"))
}

#[test]
fn two_segments_with_frames_for_one_place_are_refused_with_both_names_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (_, last) = log_in_two_segments(dir.path());
    let twin = dir.path().join("edits_0000000000000000002_2");
    std::fs::copy(&last, &twin).unwrap();
    let before = std::fs::read(&last).unwrap();
    let error = LogFiles::open(dir.path(), NAMESPACE).err().expect("which of them is the log?");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("both begin with frame"), "{}", error.message());
    for path in [&last, &twin] {
        assert!(error.message().contains(&path.display().to_string()), "{}", error.message());
        assert!(std::fs::read(path).unwrap() == before);
    }
}

#[test]
fn an_empty_segment_that_looks_like_its_successor_takes_nothing_away_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let (entries, last) = log_in_two_segments(dir.path());
    let mut empty = std::fs::read(&last).unwrap();
    empty[4096..].fill(0);
    let twin = dir.path().join("edits_0000000000000000002_2");
    // Which of two names a directory lists first is the file system's affair: both ways round.
    for swapped in [false, true] {
        let source = tempfile::tempdir().unwrap();
        super::copy_tree(dir.path(), source.path());
        let named = |path: &Path| source.path().join(path.file_name().unwrap());
        if swapped {
            std::fs::rename(named(&last), named(&twin)).unwrap();
        }
        std::fs::write(if swapped { named(&last) } else { named(&twin) }, &empty).unwrap();
        for _ in 0..2 {
            let files = LogFiles::open(source.path(), NAMESPACE).unwrap();
            assert!(same(&read_all(&files, 0, u64::MAX), &entries));
        }
    }
}

#[test]
fn a_spare_with_frames_behind_a_damaged_header_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (_, last) = log_in_two_segments(dir.path());
    let spare = dir.path().join("spare.tmp");
    std::fs::rename(&last, &spare).unwrap();
    let mut bytes = std::fs::read(&spare).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&spare, &bytes).unwrap();
    let error = LogFiles::open(dir.path(), NAMESPACE).err().expect("acknowledged entries are behind that header");
    assert!(error.message().contains("spare.tmp"), "{}", error.message());
    assert!(std::fs::read(&spare).unwrap() == bytes);
    // Without a frame it is only a left-over.
    bytes[4096..].fill(0);
    std::fs::write(&spare, &bytes).unwrap();
    assert_eq!(LogFiles::open(dir.path(), NAMESPACE).unwrap().index().lock().next_index, 2);
}

#[test]
fn truncation_holds_within_frames_across_segments_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
    let old: Vec<Entry> = (0..10).map(|index| entry(1, index, [index])).collect();
    files.append(&old[..4]).unwrap();
    files.roll_if_used().unwrap();
    files.append(&old[4..8]).unwrap();
    files.roll_if_used().unwrap();
    files.append(&old[8..]).unwrap();
    files.truncate(2).unwrap();
    assert_eq!(files.last_log_id().unwrap(), Some(old[1].log_id));
    drop(files);
    let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
    assert_eq!(files.last_log_id().unwrap(), Some(old[1].log_id));
    let new: Vec<Entry> = (2..6).map(|index| entry(2, index, [100 + index])).collect();
    files.append(&new).unwrap();
    let expected: Vec<Entry> = old[..2].iter().chain(&new).cloned().collect();
    assert!(same(&read_all(&files, 0, u64::MAX), &expected));
    drop(files);
    let files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
    assert!(same(&read_all(&files, 0, u64::MAX), &expected));
}

#[test]
fn purge_deletes_whole_segments_and_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
    let entries: Vec<Entry> = (0..12).map(|index| entry(1, index, [index])).collect();
    for part in entries.chunks(3) {
        files.append(part).unwrap();
        files.roll_if_used().unwrap();
    }
    files.purge(entries[7].log_id).unwrap();
    assert_eq!(segment_count(dir.path()), 3);
    drop(files);
    let files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
    assert_eq!(files.purged(), Some(entries[7].log_id));
    assert!(same(&read_all(&files, 8, u64::MAX), &entries[8..]));
}

/// Names and contents of the segments in a directory.
fn segments_in(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = std::fs::read_dir(directory).unwrap().map(|item| item.unwrap().path());
    let is_segment = |path: &PathBuf| is_segment_name(path.file_name().unwrap().to_str().unwrap());
    paths.filter(is_segment).map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

/// A log of twenty entries, a segment for every ten of them.
fn twenty_entries() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
    for index in 0..20 {
        files.append(&[entry(1, index, [index])]).unwrap();
        if index % 10 == 9 {
            files.roll_if_used().unwrap();
        }
    }
    dir
}

fn begin_after_900(directory: &Path) {
    begin_after(directory, &LogPosition { term: 4, node: 1, index: 900 }).unwrap();
}

#[test]
fn a_segment_of_the_log_before_an_import_takes_nothing_away() {
    let old = twenty_entries();
    for imported in [&[][..], &[entry(4, 901, [3])][..], &[entry(4, 901, [3]), entry(4, 902, [4])][..]] {
        for name in ["edits_0000000000000000000", "edits_0000000000000000010"] {
            let dir = tempfile::tempdir().unwrap();
            begin_after_900(dir.path());
            let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
            imported.iter().for_each(|entry| files.append(std::slice::from_ref(entry)).unwrap());
            if imported.is_empty() {
                files.roll_if_used().unwrap();
            }
            drop(files);
            let live = segments_in(dir.path()).into_keys().next().unwrap();
            std::fs::copy(old.path().join(name), dir.path().join(name)).unwrap();
            let before = segments_in(dir.path());
            let error = LogFiles::open(dir.path(), NAMESPACE).err().expect("two logs");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            for named in [live.file_name().unwrap().to_str().unwrap(), name] {
                assert!(error.message().contains(named), "{}", error.message());
            }
            assert!(segments_in(dir.path()) == before);
        }
    }
}

#[test]
fn segments_of_an_older_copy_are_refused_and_kept() {
    let dir = twenty_entries();
    begin_after_900(dir.path());
    let before = segments_in(dir.path());
    let error = LogFiles::open(dir.path(), NAMESPACE).err().expect("entries are missing");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains("older copy"), "{}", error.message());
    assert!(segments_in(dir.path()) == before);
}

#[test]
fn purge_beyond_the_end_is_refused() {
    let dir = twenty_entries();
    let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
    let far = LogId::new(openraft::LeaderId::new(4, 1), 20);
    assert_eq!(files.purge(far).unwrap_err().kind(), ErrorKind::Internal);
    assert_eq!(files.purged(), None);
}

#[test]
fn entries_of_an_older_term_do_not_follow_newer_ones() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
    files.append(&[entry(5, 0, [1]), entry(4, 1, [2])]).unwrap();
    let log = files.index().lock().clone();
    let mut entries = log.entries(0, 2);
    entries.next_entry().unwrap().unwrap();
    assert_eq!(entries.next_entry().unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(log.entries(0, 2).after_term(6).next_entry().unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_segment_of_a_newer_version_is_refused_as_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (_, last) = log_in_two_segments(dir.path());
    let mut bytes = std::fs::read(&last).unwrap();
    bytes[8] = 3;
    let crc = dfs_common::checksum::crc32c(&bytes[..4092]);
    bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
    for name in [last.clone(), dir.path().join("spare.tmp")] {
        std::fs::remove_file(&last).ok();
        std::fs::write(&name, &bytes).unwrap();
        let error = LogFiles::open(dir.path(), NAMESPACE).err().expect("it may hold anything");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", error.message());
    }
}

#[test]
fn the_largest_operation_that_is_taken_can_be_written() {
    let op_of = |length: usize| {
        let value = vec![7; length].into();
        let xattr = dfs_proto::v1::SetXAttrOp { value, ..Default::default() };
        EditOp { op: Some(Op::SetXattr(xattr)), ..EditOp::default() }
    };
    let beside = encoded_op_len(&op_of(16 << 20)) - (16 << 20);
    let largest = (PAYLOAD_BYTES_MAX - 40 - beside..)
        .take_while(|&length| check_entry_bytes(encoded_op_len(&op_of(length))).is_ok())
        .last()
        .unwrap();
    let mut entry = entry(1, 0, []);
    let batch = |length| Batch { state_digest: Some(StateDigest(1)), ..Batch::of(vec![op_of(length)]) };
    let mut frame = |length| {
        entry.payload = openraft::EntryPayload::Normal(batch(length));
        encode_frame(1, 0, std::slice::from_ref(&entry), 0, 512, &mut Vec::new())
    };
    frame(largest).unwrap();
    assert_eq!(frame(largest + 1).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_purge_cut_short_is_finished_at_open() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
    let entries: Vec<Entry> = (0..9).map(|index| entry(1, index, [index])).collect();
    for part in entries.chunks(3) {
        files.append(part).unwrap();
        files.roll_if_used().unwrap();
    }
    let before = tempfile::tempdir().unwrap();
    super::copy_tree(dir.path(), before.path());
    files.purge(entries[5].log_id).unwrap();
    drop(files);
    // The marker is there, the files are not gone yet; then: only the one in the middle is gone.
    std::fs::copy(dir.path().join("purged"), before.path().join("purged")).unwrap();
    for delete_middle in [false, true] {
        let crashed = tempfile::tempdir().unwrap();
        super::copy_tree(before.path(), crashed.path());
        if delete_middle {
            std::fs::remove_file(crashed.path().join("edits_0000000000000000003")).unwrap();
        }
        let files = LogFiles::open(crashed.path(), NAMESPACE).unwrap();
        assert!(same(&read_all(&files, 6, u64::MAX), &entries[6..]));
        assert_eq!(segment_count(crashed.path()), 2);
    }
}

#[test]
fn a_segment_whose_renaming_was_lost_is_found_under_its_old_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
    let entries: Vec<Entry> = (0..4).map(|index| entry(1, index, [index])).collect();
    files.append(&entries[..2]).unwrap();
    files.roll_if_used().unwrap();
    files.append(&entries[2..]).unwrap();
    drop(files);
    for name in ["spare.tmp", "segment.tmp"] {
        std::fs::rename(dir.path().join("edits_0000000000000000002"), dir.path().join(name)).unwrap();
        let log = LogIndex::scan(dir.path(), NAMESPACE, 0).unwrap().log;
        assert_eq!(log.next_index, 4);
        let files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
        assert!(same(&read_all(&files, 0, u64::MAX), &entries));
        assert!(dir.path().join("edits_0000000000000000002").exists());
    }
}

#[test]
fn a_missing_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
    for index in 0..4 {
        files.append(&[entry(1, index, [index])]).unwrap();
        files.roll_if_used().unwrap();
    }
    drop(files);
    for index in [0, 2] {
        let crashed = tempfile::tempdir().unwrap();
        super::copy_tree(dir.path(), crashed.path());
        std::fs::remove_file(crashed.path().join(format!("edits_{index:019}"))).unwrap();
        let error = LogFiles::open(crashed.path(), NAMESPACE).err().expect("a hole in the log");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn segments_of_another_namespace_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    LogFiles::open(dir.path(), NAMESPACE).unwrap().append(&[entry(1, 0, [1])]).unwrap();
    let error = LogFiles::open(dir.path(), NAMESPACE + 1).err().expect("another namespace");
    assert_eq!(error.kind(), ErrorKind::WrongCluster);
}

#[test]
fn the_vote_survives() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
    assert_eq!(files.vote().unwrap(), None);
    files.save_vote(&Vote::new(3, 1)).unwrap();
    drop(files);
    assert_eq!(LogFiles::open(dir.path(), NAMESPACE).unwrap().vote().unwrap(), Some(Vote::new(3, 1)));
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<u8>),
    Truncate(u64),
    Purge(u64),
    Roll,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::vec(0_u8..40, 1..6).prop_map(Step::Append),
        2 => (0_u64..8).prop_map(Step::Truncate),
        1 => (0_u64..30).prop_map(Step::Purge),
        2 => Just(Step::Roll),
        2 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// After any history the files give back what a vector of entries holds.
    #[test]
    fn files_agree_with_a_vector(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
        let mut model: Vec<Entry> = Vec::new();
        let mut first = 0_u64;
        for (term, step) in steps.into_iter().enumerate() {
            let end = first + model.len() as u64;
            match step {
                Step::Append(sizes) => {
                    let new: Vec<Entry> = sizes
                        .iter()
                        .zip(end..)
                        .map(|(&size, index)| entry(term as u64, index, (0..u64::from(size)).map(|n| n << 33)))
                        .collect();
                    files.append(&new).unwrap();
                    model.extend(new);
                }
                Step::Truncate(back) => {
                    let since = end.saturating_sub(back).max(first);
                    files.truncate(since).unwrap();
                    model.truncate((since - first) as usize);
                }
                Step::Purge(at) => {
                    let Some(log_id) = at.checked_sub(first).and_then(|at| model.get(at as usize)).map(|e| e.log_id)
                    else { continue };
                    files.purge(log_id).unwrap();
                    model.drain(..=(at - first) as usize);
                    first = at + 1;
                }
                Step::Roll => files.roll_if_used().unwrap(),
                Step::Reopen => {
                    drop(files);
                    files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
                }
            }
            let end = first + model.len() as u64;
            prop_assert!(same(&read_all(&files, first, end), &model));
            prop_assert!(same(&read_all(&files, first + (end - first) / 2, end), &model[((end - first) / 2) as usize..]));
            let scanned = LogIndex::scan(dir.path(), NAMESPACE, first).unwrap().log;
            prop_assert_eq!(scanned.next_index, end);
        }
    }
}
