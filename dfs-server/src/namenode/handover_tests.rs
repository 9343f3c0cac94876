use std::time::Instant;

use dfs_common::ids::{Incarnation, ROOT_INODE};
use dfs_proto::v1::{Caller, OpenSessionRequest, RetryId};

use super::*;
use crate::namenode::trees::tests::Place;

/// More than anybody is kept waiting.
const LONG: u32 = 60_000;

/// A client with calls of its own.
struct Client {
    id: [u8; 16],
    session: Incarnation,
    calls: std::cell::Cell<u64>,
}

impl Client {
    async fn new(place: &Place, number: u8) -> Self {
        let request = OpenSessionRequest { client_id: vec![number; 16].into(), ..OpenSessionRequest::default() };
        let session = place.namesystem.open_session(request).await.unwrap();
        Self { id: [number; 16], session, calls: 0.into() }
    }

    fn header(&self) -> Option<RequestHeader> {
        self.calls.set(self.calls.get() + 1);
        let retry = RetryId {
            client_id: self.id.to_vec().into(),
            incarnation: self.session.0,
            call_id: self.calls.get(),
            lowest_pending_call_id: 1,
        };
        Some(RequestHeader { caller: Some(Caller::default()), retry: Some(retry) })
    }

    async fn append(&self, place: &Place, id: InodeId, patience_ms: u32) -> Result<Outcome> {
        let op = OpenForAppendOp { inode: id.0, truncate: false };
        place.namesystem.append(self.header(), op, patience_ms).await
    }

    async fn complete(&self, place: &Place, id: InodeId) {
        let op = CompleteOp { inode: id.0, ..CompleteOp::default() };
        place.namesystem.complete(self.header(), op).await.unwrap();
    }
}

async fn until_somebody_waits(place: &Place, count: usize) {
    let begun = Instant::now();
    let waiting = || place.namesystem.recovery.queues.by_file.lock().values().map(|(count, _)| *count).sum::<usize>();
    while waiting() < count {
        assert!(begun.elapsed() < CALL_PATIENCE, "nobody waits");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_file_that_is_given_back_goes_to_those_who_wait_one_after_the_other() {
    let place = Place::new().await;
    let id = place.make(0, ROOT_INODE, "f", 0o100_644).await;
    let [writer, second, third] =
        [Client::new(&place, 1).await, Client::new(&place, 2).await, Client::new(&place, 3).await];
    writer.append(&place, id, LONG).await.unwrap();
    let wait = async |client: &Client| {
        client.append(&place, id, LONG).await.unwrap();
        client.complete(&place, id).await;
    };
    let give_back = async {
        until_somebody_waits(&place, 2).await;
        writer.complete(&place, id).await;
    };
    let begun = Instant::now();
    futures::join!(wait(&second), wait(&third), give_back);
    assert!(begun.elapsed() < CALL_PATIENCE, "waited for {:?}", begun.elapsed());
    assert!(place.namesystem.recovery.queues.by_file.lock().is_empty(), "nobody waits any more");
    assert!(place.namesystem.namespace().read().lease(id).is_none());
}

#[tokio::test]
async fn nobody_waits_for_the_own_session_or_when_told_not_to() {
    let place = Place::new().await;
    let id = place.make(0, ROOT_INODE, "f", 0o100_644).await;
    let [writer, other] = [Client::new(&place, 1).await, Client::new(&place, 2).await];
    writer.append(&place, id, LONG).await.unwrap();
    let begun = Instant::now();
    for (client, patience_ms) in [(&writer, LONG), (&writer, 0), (&other, 0)] {
        assert_eq!(client.append(&place, id, patience_ms).await.unwrap_err().kind(), ErrorKind::Busy);
    }
    assert!(begun.elapsed() < CALL_PATIENCE, "refused after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_file_that_stays_with_its_writer_is_refused_in_the_end() {
    let place = Place::new().await;
    let id = place.make(0, ROOT_INODE, "f", 0o100_644).await;
    let [writer, other] = [Client::new(&place, 1).await, Client::new(&place, 2).await];
    writer.append(&place, id, LONG).await.unwrap();
    let begun = Instant::now();
    assert_eq!(other.append(&place, id, 300).await.unwrap_err().kind(), ErrorKind::Busy);
    assert!((Duration::from_millis(300)..CALL_PATIENCE).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(place.namesystem.recovery.queues.by_file.lock().is_empty());
}
