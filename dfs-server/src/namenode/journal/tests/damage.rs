//! Every truncation and every flipped bit of the log: a torn last frame is cut, anything else is refused with its place.

use std::fs;
use std::path::{Path, PathBuf};

use dfs_common::error::{DfsError, ErrorKind};

use super::super::log_files::LogFiles;
use super::super::log_index::LogIndex;
use super::super::segment::{ALIGNMENT_MIN, SEGMENT_HEADER_BYTES};
use super::entry;

const NAMESPACE: u32 = 5;
const FRAMES: u64 = 4;

/// A log of four frames of one entry each; the path of its segment and where its frames begin.
fn small_log(dir: &Path) -> (PathBuf, Vec<u64>) {
    let mut files = LogFiles::open(dir, NAMESPACE).unwrap();
    let mut starts = Vec::new();
    for index in 0..FRAMES {
        starts.push(files.index().lock().segments[0].end);
        files.append(&[entry(1, index, [index, 1 << 50])]).unwrap();
    }
    starts.push(files.index().lock().segments[0].end);
    drop(files);
    let path = dir.join("edits_0000000000000000000");
    // The zeros written ahead do not matter here and would be read thousands of times.
    let whole = fs::read(&path).unwrap();
    let end = starts[FRAMES as usize] as usize;
    assert!(whole[end..].iter().all(|&byte| byte == 0));
    fs::write(&path, &whole[..end + 8 * ALIGNMENT_MIN]).unwrap();
    (path, starts)
}

fn scan(dir: &Path) -> Result<u64, DfsError> {
    LogIndex::scan(dir, NAMESPACE, 0).map(|(log, _)| log.next_index)
}

#[test]
fn every_truncation_within_the_last_frame_cuts_only_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, starts) = small_log(dir.path());
    let whole = fs::read(&path).unwrap();
    let (start, end) = (starts[FRAMES as usize - 1], starts[FRAMES as usize]);
    for length in start..end {
        fs::write(&path, &whole[..length as usize]).unwrap();
        assert_eq!(scan(dir.path()).unwrap(), FRAMES - 1, "cut to {length} bytes");
    }
    fs::write(&path, &whole[..end as usize]).unwrap();
    assert_eq!(scan(dir.path()).unwrap(), FRAMES);
}

#[test]
fn a_torn_last_frame_is_cut_for_good_and_writing_goes_on() {
    let source = tempfile::tempdir().unwrap();
    let (path, starts) = small_log(source.path());
    let whole = fs::read(&path).unwrap();
    let (start, end) = (starts[FRAMES as usize - 1] as usize, starts[FRAMES as usize] as usize);
    for cut in [start + 1, start + 31, start + 33, start + (end - start) / 2, end - 1] {
        let dir = tempfile::tempdir().unwrap();
        // Torn as a device tears: the rest of the frame is still zero.
        let mut torn = whole.clone();
        torn[cut..end].fill(0);
        if torn == whole {
            continue;
        }
        fs::write(dir.path().join("edits_0000000000000000000"), &torn).unwrap();
        for round in 0..3 {
            let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
            let next = files.index().lock().next_index;
            assert_eq!(next, FRAMES - 1 + round);
            files.append(&[entry(2, next, [9])]).unwrap();
        }
    }
}

#[test]
fn every_flipped_bit_of_an_earlier_frame_is_refused_with_its_offset() {
    let dir = tempfile::tempdir().unwrap();
    let (path, starts) = small_log(dir.path());
    let whole = fs::read(&path).unwrap();
    for bit in starts[1] * 8..starts[2] * 8 {
        let mut damaged = whole.clone();
        damaged[(bit / 8) as usize] ^= 1 << (bit % 8);
        fs::write(&path, &damaged).unwrap();
        let error = scan(dir.path()).expect_err("an acknowledged frame is damaged");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().contains(&format!("at offset {}:", starts[1])), "bit {bit}: {}", error.message());
        assert!(error.message().contains("edits_0000000000000000000"));
    }
}

#[test]
fn every_flipped_bit_of_the_last_frame_cuts_it() {
    let dir = tempfile::tempdir().unwrap();
    let (path, starts) = small_log(dir.path());
    let whole = fs::read(&path).unwrap();
    for bit in starts[FRAMES as usize - 1] * 8..starts[FRAMES as usize] * 8 {
        let mut damaged = whole.clone();
        damaged[(bit / 8) as usize] ^= 1 << (bit % 8);
        fs::write(&path, &damaged).unwrap();
        assert_eq!(scan(dir.path()).unwrap(), FRAMES - 1, "bit {bit}");
    }
}

#[test]
fn every_flipped_bit_of_the_header_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = small_log(dir.path());
    let whole = fs::read(&path).unwrap();
    for bit in 0..SEGMENT_HEADER_BYTES * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &damaged).unwrap();
        assert_eq!(scan(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt, "bit {bit}");
    }
    for length in 0..SEGMENT_HEADER_BYTES {
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(scan(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt, "cut to {length} bytes");
    }
}

#[test]
fn a_lost_write_before_a_good_frame_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, starts) = small_log(dir.path());
    let mut damaged = fs::read(&path).unwrap();
    damaged[starts[2] as usize..starts[3] as usize].fill(0);
    fs::write(&path, &damaged).unwrap();
    let error = scan(dir.path()).unwrap_err();
    assert!(error.message().contains(&format!("at offset {}:", starts[2])), "{}", error.message());
}

#[test]
fn a_bad_end_of_a_finished_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
    files.append(&[entry(1, 0, [1])]).unwrap();
    files.append(&[entry(1, 1, [2])]).unwrap();
    let end = files.index().lock().segments[0].end as usize;
    files.roll_if_used().unwrap();
    drop(files);
    let path = dir.path().join("edits_0000000000000000000");
    let mut damaged = fs::read(&path).unwrap();
    damaged[end - 1] ^= 1;
    fs::write(&path, &damaged).unwrap();
    assert_eq!(scan(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn bytes_that_imitate_a_frame_do_not_pass_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let (path, starts) = small_log(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    let (first, last, end) =
        (starts[0] as usize, starts[FRAMES as usize - 1] as usize, starts[FRAMES as usize] as usize);
    // A copy of a frame with a higher sequence, as a client could have written into an attribute: without the salt its
    // checksum cannot be made to fit.
    let mut imitation = bytes[first..first + (end - last)].to_vec();
    imitation[8] = 200;
    bytes[end..end + imitation.len()].copy_from_slice(&imitation);
    bytes[last + 40] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(scan(dir.path()).unwrap(), FRAMES - 1);
}
