use dfs_proto::data_transfer::DataChecksum;
use proptest::prelude::*;

use super::*;

const CHUNK: u64 = 512;
const OLD: GenerationStamp = GenerationStamp(1001);
const NEW: GenerationStamp = GenerationStamp(1002);

/// Length of data, and of the checksum files that do and do not fit it.
const DATA: u64 = 1000;
const FITS: u64 = 7 + 2 * 4;
const SHORT: u64 = 7 + 4;

fn meta(place: Place, length: u64) -> FoundMeta {
    FoundMeta { place, stamp: OLD, length }
}

/// Every combination of data (absent, empty, some) in both places and checksums (absent, fitting, not fitting) in both.
fn all_found() -> Vec<Found> {
    let mut all = Vec::new();
    for finalized in [None, Some(0), Some(DATA)] {
        for rbw in [None, Some(0), Some(DATA)] {
            for beside in [None, Some(FITS), Some(SHORT)] {
                for in_rbw in [None, Some(FITS), Some(SHORT)] {
                    let metas = beside.map(|length| meta(Place::Finalized, length)).into_iter();
                    let metas = metas.chain(in_rbw.map(|length| meta(Place::Rbw, length))).collect();
                    all.push(Found { finalized, rbw, metas });
                }
            }
        }
    }
    all
}

#[test]
fn decide_follows_the_table_for_every_combination() {
    let cases = all_found();
    assert_eq!(cases.len(), 81);
    for found in cases {
        let (verdict, leftovers) = decide(&found, CHUNK);
        let meta_in = |place| found.metas.iter().find(|meta| meta.place == place);
        let whole = found.finalized.is_some_and(|length| {
            meta_in(Place::Finalized).is_some_and(|meta| meta.length == meta_length(length, CHUNK))
        });
        let expected = match (found.finalized, found.rbw, whole, found.metas.is_empty()) {
            (Some(length), _, true, _) => Verdict::Finalized { stamp: OLD, length },
            (None, None, _, _) | (_, _, _, true) => Verdict::None,
            (_, Some(_), false, false) => {
                let place = if meta_in(Place::Rbw).is_some() { Place::Rbw } else { Place::Finalized };
                Verdict::Waiting { data: Place::Rbw, meta: place, stamp: OLD }
            }
            (Some(_), None, false, false) => {
                let place = if meta_in(Place::Finalized).is_some() { Place::Finalized } else { Place::Rbw };
                Verdict::Waiting { data: Place::Finalized, meta: place, stamp: OLD }
            }
            (None, _, true, _) => unreachable!("whole means data in finalized"),
        };
        assert_eq!(verdict, expected, "{found:?}");
        check_leftovers(&found, verdict, &leftovers);
    }
}

/// Every file is either used or a leftover, and no bytes are dropped.
fn check_leftovers(found: &Found, verdict: Verdict, leftovers: &[Leftover]) {
    let used = if verdict == Verdict::None { 0 } else { 2 };
    let files = usize::from(found.finalized.is_some()) + usize::from(found.rbw.is_some()) + found.metas.len();
    assert_eq!(leftovers.len() + used, files, "{found:?}: {verdict:?} {leftovers:?}");
    for leftover in leftovers {
        if let Leftover::DropData(place) = leftover {
            let length = if *place == Place::Finalized { found.finalized } else { found.rbw };
            assert_eq!(length, Some(0), "{found:?} would lose bytes");
        }
    }
}

#[test]
fn decide_takes_the_newest_checksums() {
    let stale = FoundMeta { place: Place::Rbw, stamp: OLD, length: FITS };
    let newest = FoundMeta { place: Place::Finalized, stamp: NEW, length: FITS };
    let found = Found { finalized: None, rbw: Some(DATA), metas: vec![stale, newest] };
    let (verdict, leftovers) = decide(&found, CHUNK);
    assert_eq!(verdict, Verdict::Waiting { data: Place::Rbw, meta: Place::Finalized, stamp: NEW });
    assert_eq!(leftovers, [Leftover::DropMeta(Place::Rbw, OLD)]);
}

fn sums(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; DataChecksum::DEFAULT.checksums_len(data.len())];
    DataChecksum::DEFAULT.compute(data, &mut out);
    out
}

fn prefix(data: &[u8], checksums: &[u8]) -> usize {
    verified_prefix(data, checksums, DataChecksum::DEFAULT, 0)
}

#[test]
fn verified_prefix_finds_the_synced_part_of_a_chunk() {
    let data: Vec<u8> = (0..1500u32).map(|i| (i * 31) as u8).collect();
    // Synced at 1,300; later data reached the device, its checksum did not.
    assert_eq!(prefix(&data, &sums(&data[..1300])), 1300);
    // Later data overwritten by garbage.
    let mut garbage = data.clone();
    garbage[1300..].fill(0);
    assert_eq!(prefix(&garbage, &sums(&data[..1300])), 1300);
    assert_eq!(prefix(&garbage, &sums(&data)), 1024, "nothing proves a part of the last chunk");
    assert_eq!(prefix(&data, &sums(&data)[..8]), 1024, "no checksum, no proof");
    assert_eq!(prefix(&data[..1100], &sums(&data)), 1024);
    assert_eq!(prefix(&[], &[]), 0);
}

#[test]
fn verified_prefix_accepts_an_entry_torn_between_sectors() {
    let data: Vec<u8> = (0..127 * 512u32).map(|i| (i * 7 + 3) as u8).collect();
    let (old, new) = (sums(&data[..126 * 512 + 100]), sums(&data[..126 * 512 + 200]));
    assert!(straddles_sectors(126) && !straddles_sectors(125));
    for first_byte_new in [false, true] {
        let mut torn = old.clone();
        let at = 126 * 4;
        if first_byte_new {
            torn[at] = new[at];
        } else {
            torn[at + 1..].copy_from_slice(&new[at + 1..]);
        }
        let proven = prefix(&data, &torn);
        assert_eq!(proven, 126 * 512 + if first_byte_new { 100 } else { 200 });
    }
}

proptest! {
    /// Whatever is proven is what was written, and all of it is proven up to the damage.
    #[test]
    fn verified_prefix_stops_at_damage(
        data in proptest::collection::vec(0u8.., 1..5000),
        at: proptest::sample::Index,
        bit in 0u8..8,
    ) {
        let checksums = sums(&data);
        prop_assert_eq!(prefix(&data, &checksums), data.len());
        let at = at.index(data.len());
        let mut bad = data.clone();
        bad[at] ^= 1 << bit;
        prop_assert_eq!(prefix(&bad, &checksums), at / 512 * 512);
    }
}
