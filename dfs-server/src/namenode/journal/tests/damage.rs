//! Every torn last frame, every truncation and every flipped bit of the log: what is torn is cut, anything else is refused with
//! its place.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dfs_common::error::{DfsError, ErrorKind};

use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{EditOp, SetXAttrOp};

use super::super::frame::{Layout, SECTOR_BYTES};
use super::super::log_files::LogFiles;
use super::super::log_index::LogIndex;
use super::super::raft_types::{Batch, Entry, LogId, Payload};
use super::super::segment::{ALIGNMENT_MIN, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::entry;

pub(super) const NAMESPACE: u32 = 5;
const FRAMES: u64 = 4;
const FIRST_SEGMENT: &str = "edits_0000000000000000000";

/// A log of four frames of one small entry each; the path of its segment and where its frames begin.
fn small_log(dir: &Path) -> (PathBuf, Vec<u64>) {
    log_of(dir, (0..FRAMES).map(|index| entry(1, index, [index, 1 << 50])))
}

/// As `small_log`, but the last entry is several sectors long, and some of them have nothing in them but zeros.
fn log_with_zeros(dir: &Path) -> (PathBuf, Vec<u64>) {
    let value = vec![0; 3 * SECTOR_BYTES].into();
    let op =
        EditOp { op: Some(Op::SetXattr(SetXAttrOp { inode: 1, value, ..SetXAttrOp::default() })), ..EditOp::default() };
    let last = Entry {
        log_id: LogId::new(openraft::LeaderId::new(1, 1), FRAMES - 1),
        payload: Payload::Normal(Batch::of(vec![op])),
    };
    log_of(dir, (0..FRAMES - 1).map(|index| entry(1, index, [index])).chain([last]))
}

/// A log of four entries.
pub(super) fn log_of(dir: &Path, entries: impl IntoIterator<Item = Entry>) -> (PathBuf, Vec<u64>) {
    let mut files = LogFiles::open(dir, NAMESPACE).unwrap();
    let mut starts = Vec::new();
    starts.push(SEGMENT_HEADER_BYTES as u64);
    for entry in entries {
        files.append(&[entry]).unwrap();
        starts.push(files.index().lock().segments[0].end);
    }
    drop(files);
    let path = dir.join(FIRST_SEGMENT);
    // The zeros written ahead do not matter here and would be read thousands of times.
    let whole = fs::read(&path).unwrap();
    let end = starts[FRAMES as usize] as usize;
    assert!(whole[end..].iter().all(|&byte| byte == 0));
    fs::write(&path, &whole[..end + 8 * ALIGNMENT_MIN]).unwrap();
    (path, starts)
}

fn last_frame(starts: &[u64]) -> std::ops::Range<usize> {
    starts[FRAMES as usize - 1] as usize..starts[FRAMES as usize] as usize
}

fn assert_refused_at(dir: &Path, offset: usize, what: &str) {
    let error = scan(dir).err().unwrap_or_else(|| panic!("{what}: an acknowledged frame is damaged"));
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains(&format!("at offset {offset}:")), "{what}: {}", error.message());
    assert!(error.message().contains(FIRST_SEGMENT));
}

fn scan(dir: &Path) -> Result<u64, DfsError> {
    LogIndex::scan(dir, NAMESPACE, 0).map(|scan| scan.log.next_index)
}

#[test]
fn a_file_that_ends_within_its_last_frame_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, starts) = small_log(dir.path());
    let whole = fs::read(&path).unwrap();
    let last = last_frame(&starts);
    // Segments are as long as they will be before a frame is written: no loss of power makes one shorter.
    for length in last.start + 1..last.end {
        fs::write(&path, &whole[..length]).unwrap();
        assert_refused_at(dir.path(), last.start, &format!("cut to {length} bytes"));
    }
    fs::write(&path, &whole[..last.start]).unwrap();
    assert_eq!(scan(dir.path()).unwrap(), FRAMES - 1);
    fs::write(&path, &whole[..last.end]).unwrap();
    assert_eq!(scan(dir.path()).unwrap(), FRAMES);
}

#[test]
fn a_last_frame_torn_in_any_way_is_cut_for_good_and_writing_goes_on() {
    for log in [small_log, log_with_zeros] {
        let source = tempfile::tempdir().unwrap();
        let (path, starts) = log(source.path());
        let whole = fs::read(&path).unwrap();
        let last = last_frame(&starts);
        let sectors = last.len() / SECTOR_BYTES;
        // Any of its sectors may not have been written; with all of them it is whole.
        for written in 0..(1_u32 << sectors) - 1 {
            let dir = tempfile::tempdir().unwrap();
            let mut torn = whole.clone();
            for sector in (0..sectors).filter(|sector| written & (1 << sector) == 0) {
                torn[last.start + sector * SECTOR_BYTES..][..SECTOR_BYTES].fill(0);
            }
            fs::write(dir.path().join(FIRST_SEGMENT), &torn).unwrap();
            assert_eq!(scan(dir.path()).unwrap(), FRAMES - 1, "sectors {written:b} of {sectors}");
            if written % 50 == 0 {
                goes_on(dir.path());
            }
        }
    }
}

fn goes_on(dir: &Path) {
    for round in 0..3 {
        let mut files = LogFiles::open(dir, NAMESPACE).unwrap();
        let next = files.index().lock().next_index;
        assert_eq!(next, FRAMES - 1 + round);
        files.append(&[entry(2, next, [9])]).unwrap();
    }
}

/// Calls `check` with bits of a range of a file flipped, one at a time: every bit of its first sector, where all that means
/// something is, and one of each byte behind.
fn with_bits_flipped(path: &Path, bytes: std::ops::Range<usize>, mut check: impl FnMut(usize)) {
    let whole = fs::read(path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    for at in bytes.clone() {
        let all = at < bytes.start + SECTOR_BYTES;
        for bit in (0..8).filter(|bit| all || at % 8 == *bit) {
            file.write_all_at(&[whole[at] ^ (1 << bit)], at as u64).unwrap();
            check(at * 8 + bit);
        }
        file.write_all_at(&whole[at..=at], at as u64).unwrap();
    }
}

#[test]
fn a_flipped_bit_anywhere_in_an_earlier_frame_is_refused_with_its_offset() {
    let dir = tempfile::tempdir().unwrap();
    let (path, starts) = small_log(dir.path());
    let (start, end) = (starts[1] as usize, starts[2] as usize);
    with_bits_flipped(&path, start..end, |bit| assert_refused_at(dir.path(), start, &format!("bit {bit}")));
}

#[test]
fn a_flipped_bit_anywhere_in_the_last_frame_is_refused_with_its_offset() {
    for log in [small_log, log_with_zeros] {
        let dir = tempfile::tempdir().unwrap();
        let (path, starts) = log(dir.path());
        let last = last_frame(&starts);
        let start = last.start;
        with_bits_flipped(&path, last, |bit| assert_refused_at(dir.path(), start, &format!("bit {bit}")));
    }
}

#[test]
fn a_damaged_last_frame_does_not_open_and_keeps_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (path, starts) = small_log(dir.path());
    let mut damaged = fs::read(&path).unwrap();
    damaged[last_frame(&starts).start + 40] ^= 1;
    fs::write(&path, &damaged).unwrap();
    assert_eq!(LogFiles::open(dir.path(), NAMESPACE).err().map(|error| error.kind()), Some(ErrorKind::Corrupt));
    assert!(fs::read(&path).unwrap() == damaged);
}

#[test]
fn a_torn_frame_with_anything_behind_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, starts) = log_with_zeros(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    let last = last_frame(&starts);
    bytes[last.start + SECTOR_BYTES..][..SECTOR_BYTES].fill(0);
    bytes[last.end] = 1;
    fs::write(&path, &bytes).unwrap();
    assert_refused_at(dir.path(), last.start, "nothing is written behind a torn frame");
}

#[test]
fn a_flipped_bit_anywhere_in_the_header_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, _) = small_log(dir.path());
    let whole = fs::read(&path).unwrap();
    with_bits_flipped(&path, 0..SEGMENT_HEADER_BYTES, |bit| {
        assert_eq!(scan(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt, "bit {bit}");
    });
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
    let (path, starts) = log_with_zeros(dir.path());
    let mut bytes = fs::read(&path).unwrap();
    let (first, last) = (starts[0] as usize, last_frame(&starts));
    // A copy of a frame with a higher sequence, as a client could have written into an attribute of which the first sector was
    // lost: without the salt its checksums cannot be made to fit.
    let mut imitation = bytes[first..first + SECTOR_BYTES].to_vec();
    imitation[8] = 200;
    bytes[last.start..last.start + SECTOR_BYTES].fill(0);
    bytes[last.end - SECTOR_BYTES..last.end].copy_from_slice(&imitation);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(scan(dir.path()).unwrap(), FRAMES - 1);
}

/// Segments as versions before the marks wrote them.
mod plain {
    use dfs_common::checksum;

    use super::*;

    /// A frame of one entry without operations, padded to `alignment`.
    fn plain_frame(sequence: u64, index: u64, padding: usize, salt: u64) -> Vec<u8> {
        let mut entry = vec![0_u8];
        for number in [1_u64, 1, index] {
            entry.extend_from_slice(&number.to_le_bytes());
        }
        let mut bytes = b"DFEF\0\0\0\0".to_vec();
        bytes.extend_from_slice(&sequence.to_le_bytes());
        bytes.extend_from_slice(&index.to_le_bytes());
        bytes.extend_from_slice(&(entry.len() as u32 + 4).to_le_bytes());
        bytes.extend_from_slice(&1_u32.to_le_bytes());
        bytes.extend_from_slice(&(entry.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&entry);
        bytes.resize(padding, 0);
        let crc = checksum::crc32c_append(checksum::crc32c(&salt.to_le_bytes()), &bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn plain_segment(frames: u64) -> Vec<u8> {
        let header = SegmentHeader {
            layout: Layout::Plain,
            alignment: 4096,
            namespace_id: NAMESPACE,
            salt: 99,
            first_index: 0,
            first_sequence: 1,
        };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        for index in 0..frames {
            bytes.extend_from_slice(&plain_frame(index + 1, index, 4096, 99));
        }
        bytes.resize(bytes.len() + 8192, 0);
        bytes
    }

    #[test]
    fn a_log_of_the_version_before_is_read_and_goes_on_in_a_new_segment() {
        for frames in [0, 3] {
            let dir = tempfile::tempdir().unwrap();
            let old = plain_segment(frames);
            fs::write(dir.path().join(FIRST_SEGMENT), &old).unwrap();
            for round in 0..3 {
                let mut files = LogFiles::open(dir.path(), NAMESPACE).unwrap();
                assert_eq!(files.index().lock().next_index, frames + round);
                files.append(&[entry(2, frames + round, [7])]).unwrap();
            }
            let kept = fs::read(dir.path().join(FIRST_SEGMENT)).unwrap();
            assert_eq!(kept.starts_with(&old[..4096 + 4096 * frames as usize]), frames > 0);
        }
    }

    #[test]
    fn damage_and_tears_are_told_apart_as_far_as_its_sectors_tell() {
        let dir = tempfile::tempdir().unwrap();
        let whole = plain_segment(2);
        let last = 4096 * 2;
        let path = dir.path().join(FIRST_SEGMENT);
        let mut damaged = whole.clone();
        damaged[last + 50] ^= 1;
        fs::write(&path, &damaged).unwrap();
        assert_refused_at(dir.path(), last, "its only sector with content was written");
        let mut torn = whole;
        torn[last..last + 512].fill(0);
        fs::write(&path, &torn).unwrap();
        assert_eq!(scan(dir.path()).unwrap(), 1);
    }
}
