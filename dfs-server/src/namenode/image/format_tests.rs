//! Round trips, every truncation and every flipped bit of an image.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use dfs_common::error::{ErrorKind, Result};
use proptest::prelude::*;
use prost::Message;

use super::*;

#[derive(Clone, PartialEq, Eq, Message)]
struct Sample {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

fn header() -> ImageHeader {
    ImageHeader {
        cluster_id: "CID-test".into(),
        namespace_id: 7,
        block_pool_id: "BP-1-host-2".into(),
        last_txid: 42,
        last_log: Some(LogPosition { term: 3, node: 1, index: 40 }),
        membership: Bytes::from_static(b"{}"),
        state_digest: 0x1234_5678_9abc_def0,
    }
}

fn write_image(path: &Path, sections: &[(Section, Vec<Sample>)]) {
    let mut writer = ImageWriter::create(path, &header()).unwrap();
    for (section, records) in sections {
        writer.begin_section(*section).unwrap();
        for record in records {
            writer.record(record).unwrap();
        }
    }
    writer.finish().unwrap();
}

fn read_image(path: &Path) -> Result<(ImageHeader, Vec<(Section, Sample)>)> {
    let mut reader = ImageReader::open(path)?;
    let mut records = Vec::new();
    while let Some((section, bytes)) = reader.next_record()? {
        records.push((section, Sample::decode(bytes).unwrap()));
    }
    Ok((reader.header().clone(), records))
}

fn sample(id: u64, length: usize) -> Sample {
    Sample { id, data: vec![u8::try_from(id % 251).unwrap(); length] }
}

fn small_image(path: &Path) {
    write_image(
        path,
        &[
            (Section::Counters, vec![sample(1, 3)]),
            (Section::Sessions, vec![]),
            (Section::Inodes, vec![sample(2, 0), sample(3, 40)]),
        ],
    );
}

#[test]
fn read_returns_what_was_written_across_many_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fsimage");
    let inodes: Vec<Sample> = (0..5_000).map(|id| sample(id, (id % 97) as usize)).collect();
    let large = vec![sample(1, BLOCK_BYTES - 1), sample(2, 3 * BLOCK_BYTES), sample(3, 1), sample(4, BLOCK_BYTES)];
    write_image(&path, &[(Section::Inodes, inodes.clone()), (Section::Dentries, large.clone())]);
    let (read_header, records) = read_image(&path).unwrap();
    assert_eq!(read_header, header());
    let expected: Vec<_> = inodes
        .into_iter()
        .map(|record| (Section::Inodes, record))
        .chain(large.into_iter().map(|record| (Section::Dentries, record)))
        .collect();
    assert_eq!(records, expected);
}

#[test]
fn every_truncation_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fsimage");
    small_image(&path);
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let error = read_image(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "cut to {length} bytes");
    }
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert_eq!(read_image(&path).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn every_flipped_bit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fsimage");
    small_image(&path);
    let whole = fs::read(&path).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &damaged).unwrap();
        assert!(read_image(&path).is_err(), "bit {bit} was flipped unnoticed");
    }
}

#[test]
fn exchanged_blocks_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fsimage");
    let records: Vec<Sample> = (0..3).map(|id| sample(id, BLOCK_BYTES)).collect();
    write_image(&path, &[(Section::Inodes, records)]);
    let whole = fs::read(&path).unwrap();
    // All three blocks have one length: one record each, and ids that encode to one byte (0 is omitted, so 1 and 2).
    let find = |id: u8| whole.windows(2).position(|pair| pair == [0x08, id]).unwrap();
    let (first, second) = (find(1), find(2));
    let length = second - first;
    let start = first - PREFIX_BYTES - 3;
    let mut exchanged = whole.clone();
    exchanged[start..start + length].copy_from_slice(&whole[start + length..start + 2 * length]);
    exchanged[start + length..start + 2 * length].copy_from_slice(&whole[start..start + length]);
    assert_ne!(exchanged, whole);
    fs::write(&path, &exchanged).unwrap();
    assert!(read_image(&path).unwrap_err().message().contains("trailer"));
}

#[test]
fn sections_out_of_order_are_refused_when_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ImageWriter::create(&dir.path().join("fsimage"), &header()).unwrap();
    assert!(writer.record(&sample(1, 1)).is_err());
    writer.begin_section(Section::Dentries).unwrap();
    assert!(writer.begin_section(Section::Inodes).is_err());
    assert!(writer.begin_section(Section::Dentries).is_err());
}

#[test]
fn unfinished_image_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = ImageWriter::create(&dir.path().join("fsimage"), &header()).unwrap();
    writer.begin_section(Section::Inodes).unwrap();
    drop(writer);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn another_layout_is_refused_as_unsupported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fsimage");
    small_image(&path);
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 9;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(read_image(&path).unwrap_err().kind(), ErrorKind::Unsupported);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_records_survive(lengths in prop::collection::vec(0_usize..90_000, 0..12), noise in any::<u8>()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fsimage");
        let records: Vec<Sample> =
            lengths.iter().map(|&length| Sample { id: length as u64, data: vec![noise; length] }).collect();
        write_image(&path, &[(Section::Inodes, records.clone())]);
        let read: Vec<Sample> = read_image(&path).unwrap().1.into_iter().map(|(_, record)| record).collect();
        prop_assert_eq!(read, records);
    }

    #[test]
    fn any_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fsimage");
        fs::write(&path, [&MAGIC[..], &bytes[..]].concat()).unwrap();
        prop_assert!(read_image(&path).is_err());
    }
}

/// `cargo test --release -p dfs-server image_throughput -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn image_throughput() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fsimage");
    let records = 2_000_000_u64;
    let begin = std::time::Instant::now();
    let mut writer = ImageWriter::create(&path, &header()).unwrap();
    writer.begin_section(Section::Inodes).unwrap();
    let record = sample(9, 80);
    for _ in 0..records {
        writer.record(&record).unwrap();
    }
    writer.finish().unwrap();
    let written = begin.elapsed();
    let begin = std::time::Instant::now();
    let mut reader = ImageReader::open(&path).unwrap();
    let mut count = 0_u64;
    while reader.next_record().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, records);
    let rate = |elapsed: std::time::Duration| records as f64 / elapsed.as_secs_f64() / 1e6;
    println!("image: {:.1} M records/s written, {:.1} M/s read", rate(written), rate(begin.elapsed()));
}
