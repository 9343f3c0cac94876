//! Reads: of open files, of replicas that are bad or away, and how much is fetched.

use std::time::Duration;

use dfs_common::error::ErrorKind;
use futures::FutureExt;

use super::{BLOCK, bytes, caller, create, read_all, write_file};
use crate::fake_cluster::{FakeCluster, Fault, new_file};
use crate::{Caller, CreateOptions, Shown};

#[tokio::test(flavor = "multi_thread")]
async fn open_file_is_read_up_to_what_was_flushed() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let data = bytes(2 * BLOCK);
    let (attr, writer) = create(&client).await;
    let reader = client.open_reader(&caller(), attr.inode).await.unwrap();
    assert_eq!(reader.length(), 0);
    let mut at = 0;
    for step in [100, 1, 4000, BLOCK, 2000] {
        writer.write(&data[at..at + step]).await.unwrap();
        writer.hflush().await.unwrap();
        at += step;
        assert_eq!(reader.refresh_length().await.unwrap(), at as u64);
        assert_eq!(reader.read_at(0, at + 1000).await.unwrap(), data[..at]);
    }
}

/// Replicas may show different lengths for a moment. What was shown stays visible, also when somebody has set the file's
/// times; unless it was cut.
#[tokio::test(flavor = "multi_thread")]
async fn length_of_an_open_file_never_shrinks_unless_it_was_cut() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let (attr, writer) = create(&client).await;
    writer.write(&bytes(5000)).await.unwrap();
    writer.hflush().await.unwrap();
    let set_length = |nodes: &[usize], length| {
        let mut world = cluster.world.lock();
        let replicas = world.replicas.iter_mut().filter(|((node, _), _)| nodes.contains(node));
        replicas.for_each(|(_, replica)| replica.data.truncate(length));
    };
    let reader = client.open_reader(&caller(), attr.inode).await.unwrap();
    assert_eq!(reader.length(), 5000);
    // Those that are asked first lag behind.
    set_length(&[0, 1], 3000);
    assert_eq!(reader.refresh_length().await.unwrap(), 5000);
    let shown = Some(Shown { length: 5000, mtime_ns: 0 });
    cluster.world.lock().mtime_ns = 1;
    assert_eq!(reader.refresh_length().await.unwrap(), 5000);
    let again = client.open_reader_again(&caller(), attr.inode, shown).await.unwrap();
    assert_eq!(again.length(), 5000);
    assert_eq!(reader.read_at(0, 9000).await.unwrap(), bytes(5000));
    cluster.world.lock().mtime_ns = 2;
    set_length(&[2], 2000);
    assert_eq!(reader.refresh_length().await.unwrap(), 3000);
    let again = client.open_reader_again(&caller(), attr.inode, shown).await.unwrap();
    assert_eq!(again.length(), 3000);
}

/// What was shown stays while no replica tells a length, but is not taken for the length of the content that is there now.
#[tokio::test(flavor = "multi_thread")]
async fn length_of_an_open_file_that_no_replica_confirmed_is_asked_again() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let (attr, writer) = create(&client).await;
    writer.write(&bytes(5000)).await.unwrap();
    writer.hflush().await.unwrap();
    let reader = client.open_reader(&caller(), attr.inode).await.unwrap();
    let before = Shown { length: 5000, mtime_ns: 0 };
    assert_eq!(reader.shown(), before);
    cluster.world.lock().mtime_ns = 1;
    cluster.set_faults(Fault::HangsUp);
    assert_eq!(reader.refresh_length().await.unwrap(), 5000);
    let again = client.open_reader_again(&caller(), attr.inode, Some(before)).await.unwrap();
    assert_eq!((reader.shown(), again.shown()), (before, before));
    cluster.set_faults(Fault::None);
    cluster.world.lock().replicas.values_mut().for_each(|replica| replica.data.truncate(3000));
    let after = Shown { length: 3000, mtime_ns: 1 };
    for reader in [reader, again] {
        reader.refresh_length().await.unwrap();
        assert_eq!(reader.shown(), after, "it was cut while nobody answered");
    }
}

/// What is read through one reader is one content, or an error.
#[tokio::test(flavor = "multi_thread")]
async fn file_that_was_written_anew_is_not_read_on() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let inode = write_file(&client, &bytes(3 * BLOCK)).await;
    let other = write_file(&client, &bytes(BLOCK)).await;
    let stale =
        [client.open_reader(&caller(), inode).await.unwrap(), client.open_reader(&caller(), inode).await.unwrap()];
    assert_eq!(stale[0].read_at(0, 1).await.unwrap(), bytes(1));
    {
        let mut world = cluster.world.lock();
        let blocks = world.files[&other.0].blocks.clone();
        world.replicas.retain(|(_, id), _| blocks.iter().any(|block| block.id == *id));
        world.files.get_mut(&inode.0).unwrap().blocks = blocks;
    }
    assert_eq!(stale[0].refresh_length().await.unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(stale[1].read_at(1, 1).await.unwrap_err().kind(), ErrorKind::Stale);
    assert_eq!(read_all(&client, inode).await, bytes(BLOCK));
}

/// The NameNode's record is no end of a file: bytes that others have seen lie behind it.
#[tokio::test(flavor = "multi_thread")]
async fn open_waits_for_a_length_that_no_replica_tells() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let (attr, writer) = create(&client).await;
    writer.write(&bytes(5000)).await.unwrap();
    writer.hflush().await.unwrap();
    cluster.set_faults(Fault::HangsUp);
    let before = cluster.calls("get_block_locations");
    let who = caller();
    let heal = async {
        while cluster.calls("get_block_locations") < before + 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        cluster.set_faults(Fault::None);
    };
    let mut open = std::pin::pin!(client.open_reader(&who, attr.inode));
    tokio::select! {
        early = &mut open => panic!("{:?} is not the length", early.map(|reader| reader.length())),
        () = heal => {}
    }
    assert_eq!(open.await.unwrap().length(), 5000);

    let hasty = cluster.client_with(|config| config.absence_timeout = Duration::ZERO).await;
    cluster.set_faults(Fault::HangsUp);
    let error = hasty.open_reader(&who, attr.inode).await.map(|_| ()).unwrap_err();
    assert!(error.kind() == ErrorKind::Io && error.message().contains("hung up"), "{error:?}");
    let seen = hasty.visible_length(&who, attr.inode, None).await.unwrap();
    assert_eq!(seen.length, 0, "who only wants to know does not wait");
}

/// One node that hangs must not hold up each of many questions.
#[tokio::test(flavor = "multi_thread")]
async fn node_that_was_slow_to_tell_a_length_is_asked_last() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let (attr, writer) = create(&client).await;
    writer.write(&bytes(5000)).await.unwrap();
    writer.hflush().await.unwrap();
    cluster.set_fault(0, Fault::Silent);
    let who = caller();
    let look = async || {
        cluster.take_calls();
        let shown = client.visible_length(&who, attr.inode, None).await.unwrap();
        assert_eq!(shown.length, 5000);
        cluster.calls("get_replica_visible_length")
    };
    assert!(look().await >= 2);
    // On a busy machine others may be slow, too.
    let mut was_asked_alone = false;
    for _ in 0..10 {
        was_asked_alone |= look().await == 1;
    }
    assert!(was_asked_alone);
}

#[tokio::test(flavor = "multi_thread")]
async fn block_that_was_not_begun_has_no_bytes() {
    let cluster = FakeCluster::start(3).await;
    cluster.world.lock().allocates_at_creation = true;
    let client = cluster.client_with(|config| config.absence_timeout = Duration::ZERO).await;
    let (attr, _writer) = create(&client).await;
    assert_eq!(client.open_reader(&caller(), attr.inode).await.unwrap().length(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_replica_is_reported_and_another_one_read() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let inode = write_file(&client, &bytes(10_000)).await;
    cluster.set_fault(0, Fault::Corrupt);
    let who = Caller { uid: 1000, ..caller() };
    let reader = client.open_reader(&who, inode).await.unwrap();
    assert_eq!(reader.read_at(0, 10_000).await.unwrap(), bytes(10_000));
    let told = cluster.world.lock().bad_replicas.clone();
    assert_eq!(told, [("node-0".to_owned(), 1000)], "by whoever has opened the file");
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_replicas_are_left_for_good_ones() {
    for fault in [Fault::HangsUp, Fault::Silent] {
        let cluster = FakeCluster::start(3).await;
        let client = cluster.client_with(|config| config.read_timeout = Duration::from_millis(200)).await;
        let inode = write_file(&client, &bytes(10_000)).await;
        cluster.set_fault(0, fault);
        cluster.set_fault(1, fault);
        assert_eq!(read_all(&client, inode).await, bytes(10_000), "{fault:?}");
        assert!(cluster.world.lock().bad_replicas.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn read_without_a_good_replica_says_why() {
    let cluster = FakeCluster::start(2).await;
    let client = cluster.client_with(|config| config.absence_timeout = Duration::ZERO).await;
    let inode = write_file(&client, &bytes(1000)).await;
    cluster.set_faults(Fault::Corrupt);
    let reader = client.open_reader(&caller(), inode).await.unwrap();
    assert_eq!(reader.read_at(0, 1000).await.unwrap_err().kind(), ErrorKind::Corrupt);
    cluster.set_fault(1, Fault::HangsUp);
    let error = reader.read_at(0, 1000).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Io && error.message().contains("checksum"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn read_waits_for_replicas_that_come_back() {
    let cluster = FakeCluster::start(1).await;
    let client = cluster.client().await;
    let inode = write_file(&client, &bytes(1000)).await;
    let lost = std::mem::take(&mut cluster.world.lock().replicas);
    let reader = client.open_reader(&caller(), inode).await.unwrap();
    let reading = tokio::spawn(async move { reader.read_at(0, 1000).await });
    // More rounds than bad replicas get.
    while cluster.calls("get_block_locations") < 6 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.world.lock().replicas = lost;
    assert_eq!(reading.await.unwrap().unwrap(), bytes(1000));
}

/// The only replica that is known is damaged, and the others are on nodes that the NameNode has not heard of for a while.
#[tokio::test(flavor = "multi_thread")]
async fn read_of_a_bad_replica_waits_for_others_that_come_back() {
    let cluster = FakeCluster::start(2).await;
    let client = cluster.client().await;
    let inode = write_file(&client, &bytes(1000)).await;
    cluster.set_fault(0, Fault::Corrupt);
    let take = |(node, _): &(usize, u64)| *node == 1;
    let mut lost = std::collections::HashMap::new();
    {
        let mut world = cluster.world.lock();
        lost.extend(world.replicas.extract_if(|key, _| take(key)));
    }
    let reader = client.open_reader(&caller(), inode).await.unwrap();
    let reading = tokio::spawn(async move { reader.read_at(0, 1000).await });
    // More rounds than bad replicas get.
    while cluster.calls("get_block_locations") < 6 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.world.lock().replicas.extend(lost);
    assert_eq!(reading.await.unwrap().unwrap(), bytes(1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn random_reads_fetch_what_they_need() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client_with(|config| config.packet_size = 65_536).await;
    let data = bytes(64 * BLOCK);
    let inode = write_file(&client, &data).await;
    let reader = client.open_reader(&caller(), inode).await.unwrap();
    cluster.world.lock().read_bytes = 0;
    for turn in 0..50usize {
        let at = turn * 7_654_321 % (data.len() - 4096);
        assert_eq!(reader.read_at(at as u64, 4096).await.unwrap(), data[at..at + 4096]);
    }
    let fetched = cluster.world.lock().read_bytes;
    assert!(fetched <= 50 * (4096 + 1024), "{fetched} bytes fetched for {}", 50 * 4096);
    assert!(reader.read_at(data.len() as u64, 10).await.unwrap().is_empty());
    assert_eq!(reader.read_at(data.len() as u64 - 5, 10).await.unwrap().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn sequential_reads_in_and_out_of_order_fetch_each_byte_about_once() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client_with(|config| config.packet_size = 65_536).await;
    let data = bytes(4 << 20);
    let inode = {
        let options = CreateOptions { block_size: 1 << 20, ..new_file(b"big") };
        let created = client.create(&caller(), options).await.unwrap();
        let writer = created.writer.unwrap();
        writer.write(&data).await.unwrap();
        writer.complete().await.unwrap();
        created.attr.inode
    };
    const STEP: usize = 100_000;
    for order in [[0, 1, 2, 3], [0, 2, 1, 3], [1, 0, 3, 2]] {
        let reader = client.open_reader(&caller(), inode).await.unwrap();
        cluster.world.lock().read_bytes = 0;
        for group in 0..data.len().div_ceil(4 * STEP) {
            let reads = order.map(|place| {
                let at = ((group * 4 + place) * STEP).min(data.len());
                let reader = &reader;
                async move { (at, reader.read_at(at as u64, STEP).await.unwrap()) }
            });
            for (at, read) in futures::future::join_all(reads).await {
                assert_eq!(read, data[at..data.len().min(at + STEP)]);
            }
        }
        let fetched = cluster.world.lock().read_bytes;
        assert!(fetched < data.len() as u64 * 5 / 4, "{order:?}: {fetched} bytes fetched");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn file_that_is_opened_and_read_costs_one_call() {
    let cluster = FakeCluster::start(3).await;
    let client = cluster.client().await;
    let data = bytes(3000);
    let inode = write_file(&client, &data).await;
    cluster.take_calls();
    let (attr, reader) = client.open_for_reading(&caller(), inode, None).await.unwrap();
    assert_eq!((attr.inode, attr.length, reader.length()), (inode, 3000, 3000));
    assert_eq!(reader.read_at(0, 4096).await.unwrap(), data);
    assert!(reader.read_at(3000, 4096).await.unwrap().is_empty());
    assert!(!reader.is_fetching_ahead(), "a file that is read once leaves nothing under way");
    drop(reader);
    assert_eq!(cluster.take_calls(), [("get_block_locations", 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn read_of_bytes_that_are_here_waits_for_nothing() {
    const STEP: usize = 128 << 10;
    let cluster = FakeCluster::start(1).await;
    let client = cluster.client_with(|config| config.packet_size = 65_536).await;
    let data = bytes(4 * STEP);
    let inode = write_file(&client, &data).await;
    let reader = client.open_reader(&caller(), inode).await.unwrap();
    // The second one goes on where the first ended, and has the rest fetched.
    for at in [0, STEP] {
        assert_eq!(reader.read_at(at as u64, STEP).await.unwrap(), data[at..at + STEP]);
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while reader.is_fetching_ahead() {
        assert!(std::time::Instant::now() < deadline, "what is fetched ahead does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.set_faults(Fault::HangsUp);
    for at in [2 * STEP, 3 * STEP] {
        let read = reader.read_at(at as u64, STEP).now_or_never().expect("it is here");
        assert_eq!(read.unwrap(), data[at..at + STEP]);
    }
    let end = reader.read_at(data.len() as u64, STEP).now_or_never().expect("there is nothing to read");
    assert!(end.unwrap().is_empty());
}
