use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
const WINDOW: u64 = 8 * MIB;

fn streams() -> Streams {
    Streams::new(WINDOW)
}

#[test]
fn on_read_alone_fetches_nothing_ahead() {
    let mut streams = streams();
    assert!(streams.on_read(0..4096, 100 * MIB).is_empty());
    assert!(streams.on_read(50 * MIB..50 * MIB + 4096, 100 * MIB).is_empty());
}

#[test]
fn on_read_in_sequence_grows_the_window_to_its_bound() {
    let mut streams = streams();
    let mut scheduled = 0;
    for read in 0..64 {
        let ahead = streams.on_read(read * MIB..(read + 1) * MIB, 1000 * MIB);
        assert!(ahead.is_empty() || ahead.start == scheduled.max((read + 1) * MIB), "without gap or overlap");
        scheduled = scheduled.max(ahead.end);
        assert!(scheduled <= (read + 1) * MIB + WINDOW);
        if read > 8 {
            assert!(scheduled >= (read + 1) * MIB + WINDOW / 2, "at least half a window ahead");
        }
    }
}

#[test]
fn on_read_slightly_out_of_order_stays_one_stream() {
    let mut streams = streams();
    let order = [0, 1, 3, 2, 4, 6, 5, 7, 9, 10, 8, 11];
    let mut fetched = Vec::new();
    for read in order {
        fetched.push(streams.on_read(read * MIB..(read + 1) * MIB, 1000 * MIB));
    }
    assert_eq!(streams.streams.len(), 1);
    let ahead: Vec<_> = fetched.into_iter().filter(|range| !range.is_empty()).collect();
    assert!(ahead.windows(2).all(|pair| pair[0].end <= pair[1].start), "{ahead:?}");
    assert!(ahead.last().unwrap().end > 14 * MIB);
}

#[test]
fn on_read_of_two_readers_keeps_two_streams() {
    let mut streams = streams();
    for read in 0..16 {
        let _ = streams.on_read(read * MIB..(read + 1) * MIB, 1000 * MIB);
        let at = 500 * MIB + read * MIB;
        let _ = streams.on_read(at..at + MIB, 1000 * MIB);
    }
    assert_eq!(streams.streams.len(), 2);
    assert!(streams.streams.iter().all(|stream| stream.window == WINDOW));
}

#[test]
fn on_read_stops_at_the_end_of_the_file() {
    let mut streams = streams();
    let file_len = 3 * MIB + 5;
    let _ = streams.on_read(0..MIB, file_len);
    assert_eq!(streams.on_read(MIB..2 * MIB, file_len), 2 * MIB..file_len);
    assert!(streams.on_read(2 * MIB..3 * MIB, file_len).is_empty());
}

#[test]
fn on_read_with_prefetch_off_never_fetches() {
    let mut streams = Streams::new(0);
    for read in 0..16 {
        assert!(streams.on_read(read * MIB..(read + 1) * MIB, 1000 * MIB).is_empty());
    }
}

#[test]
fn on_read_small_random_reads_fetch_little() {
    let mut streams = streams();
    let mut random = 12_345u64;
    let (mut read, mut ahead) = (0, 0);
    for _ in 0..10_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (random >> 33) % (256 * MIB) / 4096 * 4096;
        let range = streams.on_read(at..at + 4096, 256 * MIB);
        read += 4096;
        ahead += range.end - range.start;
    }
    assert!(ahead * 2 < read, "{ahead} bytes ahead of {read} read");
}

proptest! {
    #[test]
    fn on_read_never_leaves_the_file_nor_its_window(
        reads in proptest::collection::vec((0u64..64 * MIB, 1u64..2 * MIB), 1..200),
    ) {
        let mut streams = streams();
        let file_len = 66 * MIB;
        for (at, len) in reads {
            let ahead = streams.on_read(at..at + len, file_len);
            prop_assert!(ahead.start <= ahead.end && (ahead.is_empty() || ahead.end <= file_len));
            prop_assert!(ahead.end - ahead.start <= WINDOW);
            prop_assert!(streams.streams.len() <= STREAMS_MAX);
            prop_assert!(streams.streams.iter().all(|stream| stream.window <= WINDOW));
        }
    }

    #[test]
    fn split_covers_the_range_in_bounded_parts(start in 0u64..10 * MIB, len in 0u64..20 * MIB) {
        let mut at = start;
        for part in split(start..start + len) {
            prop_assert_eq!(part.start, at);
            prop_assert!(!part.is_empty() && part.end - part.start <= PART_MAX);
            at = part.end;
        }
        prop_assert_eq!(at, start + len);
    }
}
