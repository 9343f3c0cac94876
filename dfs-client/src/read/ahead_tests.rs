use std::time::Duration;

use super::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const WINDOW: u64 = MIB;
const FILE_LEN: u64 = 1000 * MIB;
const READ: u64 = 128 * KIB;

/// Reads that follow one another from `from`, each byte of a part taken out of it; the most bytes ahead of them.
async fn read_on(
    reader: &Arc<ReadAhead>,
    budget: &PrefetchBudget,
    now: Instant,
    reads: impl Iterator<Item = u64>,
) -> u64 {
    let mut most_ahead = 0;
    for read in reads {
        let range = read * READ..(read + 1) * READ;
        let fetch = |range: Range<u64>| async move { Ok(Bytes::from(vec![0; (range.end - range.start) as usize])) };
        for part in reader.plan(range.clone(), FILE_LEN, budget, now, fetch) {
            part.bytes(part.range.start.max(range.start)..part.range.end.min(range.end)).await.unwrap();
        }
        let last = reader.state.lock().parts.last().map_or(0, |part| part.range.end);
        most_ahead = most_ahead.max(last.saturating_sub(range.end));
    }
    most_ahead
}

/// Readers that read until they had their windows, or all that was left of the budget.
async fn readers(count: usize, budget: &PrefetchBudget, now: Instant) -> Vec<Arc<ReadAhead>> {
    let mut readers = Vec::new();
    for _ in 0..count {
        let reader = ReadAhead::new(WINDOW);
        read_on(&reader, budget, now, 0..32).await;
        readers.push(reader);
    }
    readers
}

#[tokio::test]
async fn plan_takes_the_budget_of_idle_readers() {
    let budget = PrefetchBudget::new(8 << 20);
    let begun = Instant::now();
    let idle = readers(40, &budget, begun).await;
    assert!(budget.free_bytes() < WINDOW, "{} bytes are left of the budget", budget.free_bytes());
    let reader = ReadAhead::new(WINDOW);
    let ahead = read_on(&reader, &budget, begun + IDLE_AFTER, 0..64).await;
    assert_eq!(ahead, WINDOW, "a reader among idle ones has its full window");
    let kept = idle.iter().filter(|reader| reader.bytes_held() > 0).count();
    assert!(kept >= 4, "no more is taken than is needed; {kept} keep theirs");
}

#[tokio::test]
async fn plan_leaves_the_budget_of_those_who_read() {
    let budget = PrefetchBudget::new(8 << 20);
    let begun = Instant::now();
    let busy = readers(40, &budget, begun).await;
    let held: Vec<u64> = busy.iter().map(|reader| reader.bytes_held()).collect();
    let reader = ReadAhead::new(WINDOW);
    let now = begun + IDLE_AFTER - Duration::from_millis(1);
    read_on(&reader, &budget, now, 0..64).await;
    assert_eq!(busy.iter().map(|reader| reader.bytes_held()).collect::<Vec<_>>(), held);
    assert!(reader.bytes_held() <= budget.free_bytes() + WINDOW / 2);
}

#[tokio::test]
async fn plan_fetches_ahead_again_what_an_idle_reader_lost() {
    let budget = PrefetchBudget::new(3 << 19);
    let begun = Instant::now();
    let idle = readers(1, &budget, begun).await;
    let other = ReadAhead::new(WINDOW);
    assert_eq!(read_on(&other, &budget, begun + IDLE_AFTER, 0..64).await, WINDOW);
    assert_eq!((idle[0].bytes_held(), budget.listed()), (0, 1));
    // The other one pauses in its turn.
    assert_eq!(read_on(&idle[0], &budget, begun + 2 * IDLE_AFTER, 32..34).await, WINDOW);
}

#[tokio::test]
async fn unlist_forgets_a_reader() {
    let budget = PrefetchBudget::new(8 << 20);
    let readers = readers(3, &budget, Instant::now()).await;
    assert_eq!(budget.listed(), 3);
    for reader in readers {
        budget.unlist(&reader);
    }
    assert_eq!((budget.listed(), budget.free_bytes()), (0, 8 << 20));
}

#[tokio::test]
async fn is_fetching_until_every_part_is_here() {
    let budget = PrefetchBudget::new(8 << 20);
    let reader = ReadAhead::new(WINDOW);
    let (sender, gate) = tokio::sync::watch::channel(false);
    let fetch = |range: Range<u64>| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|is_open| *is_open).await.unwrap();
            Ok(Bytes::from(vec![0; (range.end - range.start) as usize]))
        }
    };
    let read = |number| drop(reader.plan(number * READ..(number + 1) * READ, FILE_LEN, &budget, Instant::now(), fetch));
    read(0);
    assert!(!reader.is_fetching(), "one read is no stream yet");
    read(1);
    assert!(reader.is_fetching());
    sender.send_replace(true);
    let all_here = async {
        while reader.is_fetching() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all_here).await.unwrap();
}
