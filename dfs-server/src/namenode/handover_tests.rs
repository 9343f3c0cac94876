use std::time::Instant;

use dfs_common::error::ErrorKind;
use dfs_common::ids::{Incarnation, ROOT_INODE};
use dfs_proto::v1::{Caller, CompleteOp, OpenForAppendOp, OpenSessionRequest, RemoveOp, RetryId};

use super::*;
use crate::namenode::outcome::Outcome;
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

    async fn append(&self, place: &Place, id: InodeId) -> Result<Outcome> {
        let op = OpenForAppendOp { inode: id.0, truncate: false };
        place.namesystem.mutate(self.header(), Op::OpenForAppend(op)).await
    }

    async fn wait(&self, place: &Place, id: InodeId, patience_ms: u32) -> FileHolder {
        place.namesystem.await_file((ClientId(self.id), self.session), id, patience_ms).await
    }

    async fn complete(&self, place: &Place, id: InodeId) {
        let op = CompleteOp { inode: id.0, ..CompleteOp::default() };
        place.namesystem.mutate(self.header(), Op::Complete(op)).await.unwrap();
    }
}

async fn until_somebody_waits(place: &Place, count: usize) {
    let begun = Instant::now();
    let waiting = || place.namesystem.leases.by_file.lock().values().map(|(count, _)| *count).sum::<usize>();
    while waiting() < count {
        assert!(begun.elapsed() < WAIT_MAX, "nobody waits");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn all_who_wait_get_a_file_that_is_given_back_one_after_the_other() {
    let place = Place::new().await;
    let id = place.make(0, ROOT_INODE, "f", 0o100_644).await;
    let [writer, second, third] =
        [Client::new(&place, 1).await, Client::new(&place, 2).await, Client::new(&place, 3).await];
    writer.append(&place, id).await.unwrap();
    let take = async |client: &Client| {
        while client.append(&place, id).await.is_err() {
            assert_eq!(client.wait(&place, id, LONG).await, FileHolder::None);
        }
        client.complete(&place, id).await;
    };
    let give_back = async {
        until_somebody_waits(&place, 2).await;
        writer.complete(&place, id).await;
    };
    let begun = Instant::now();
    futures::join!(take(&second), take(&third), give_back);
    assert!(begun.elapsed() < WAIT_MAX, "waited for {:?}", begun.elapsed());
    assert!(place.namesystem.leases.by_file.lock().is_empty(), "nobody waits any more");
    assert!(place.namesystem.namespace().read().lease(id).is_none());
}

#[tokio::test]
async fn nobody_waits_for_the_own_session_even_when_it_comes_to_the_file_meanwhile() {
    let place = Place::new().await;
    let id = place.make(0, ROOT_INODE, "f", 0o100_644).await;
    let [writer, other] = [Client::new(&place, 1).await, Client::new(&place, 2).await];
    let begun = Instant::now();
    writer.append(&place, id).await.unwrap();
    assert_eq!(writer.append(&place, id).await.unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(writer.wait(&place, id, LONG).await, FileHolder::Asker);
    let pass_on = async {
        until_somebody_waits(&place, 1).await;
        writer.complete(&place, id).await;
        other.append(&place, id).await.unwrap();
    };
    let (holder, ()) = futures::join!(other.wait(&place, id, LONG), pass_on);
    assert_ne!(holder, FileHolder::Other);
    assert_eq!(other.wait(&place, id, LONG).await, FileHolder::Asker);
    assert!(begun.elapsed() < WAIT_MAX, "told after {:?}", begun.elapsed());
}

#[tokio::test]
async fn who_waits_for_a_file_that_stays_with_its_writer_is_told_so_in_the_end() {
    let place = Place::new().await;
    let id = place.make(0, ROOT_INODE, "f", 0o100_644).await;
    let [writer, other] = [Client::new(&place, 1).await, Client::new(&place, 2).await];
    writer.append(&place, id).await.unwrap();
    let begun = Instant::now();
    assert_eq!(other.wait(&place, id, 300).await, FileHolder::Other);
    assert!((Duration::from_millis(300)..WAIT_MAX).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(place.namesystem.leases.by_file.lock().is_empty());
}

#[tokio::test]
async fn who_waits_for_a_file_that_is_removed_is_told_at_once() {
    let place = Place::new().await;
    let id = place.make(0, ROOT_INODE, "f", 0o100_644).await;
    let [writer, other] = [Client::new(&place, 1).await, Client::new(&place, 2).await];
    let lease = Lease::taken_by(ClientId(writer.id), writer.session, CallId(1));
    place.namesystem.namespace().write().leases.insert(id, Lease { needs_recovery: true, ..lease });
    let begun = Instant::now();
    let remove = async {
        until_somebody_waits(&place, 1).await;
        let op = RemoveOp { parent: ROOT_INODE.0, name: "f".into(), ..RemoveOp::default() };
        let who = Caller { uid: 0, ..Caller::default() };
        let header = other.header().map(|header| RequestHeader { caller: Some(who), ..header });
        place.namesystem.mutate(header, Op::Remove(op)).await.unwrap();
    };
    let (holder, ()) = futures::join!(other.wait(&place, id, LONG), remove);
    assert_eq!(holder, FileHolder::None);
    assert!(begun.elapsed() < WAIT_MAX, "told after {:?}", begun.elapsed());
}

/// Whoever gets the file after a recovery is not taken for the writer that it was taken from.
#[tokio::test]
async fn end_of_a_lease_is_told_though_another_has_the_file() {
    let place = Place::new().await;
    let id = place.make(0, ROOT_INODE, "f", 0o100_644).await;
    let [writer, other] = [Client::new(&place, 1).await, Client::new(&place, 2).await];
    writer.append(&place, id).await.unwrap();
    let lease = name_of(place.namesystem.namespace().read().lease(id).unwrap());
    assert_eq!(place.namesystem.await_end_of_lease(lease, id, 10).await, FileHolder::Other);
    writer.complete(&place, id).await;
    other.append(&place, id).await.unwrap();
    assert_eq!(place.namesystem.await_end_of_lease(lease, id, 10).await, FileHolder::None);
}

/// The answer to who asked for a recovery is lost, and somebody else opens the file before he asks again.
#[tokio::test]
async fn recovery_that_is_asked_for_again_takes_no_lease_of_a_later_writer() {
    let place = Place::new().await;
    let id = place.make(0, ROOT_INODE, "f", 0o100_644).await;
    let [root, writer] = [Client::new(&place, 1).await, Client::new(&place, 2).await];
    let who = Caller { uid: 0, ..Caller::default() };
    let header = root.header().map(|header| RequestHeader { caller: Some(who), ..header });
    // Nothing to recover, then: also that is an answer which must not change.
    assert_eq!(place.namesystem.recover_lease(header.clone(), id).await.unwrap(), None);
    writer.append(&place, id).await.unwrap();
    assert_eq!(place.namesystem.recover_lease(header, id).await.unwrap(), None);
    assert!(place.namesystem.namespace().read().lease(id).is_some_and(|lease| !lease.needs_recovery));
    writer.complete(&place, id).await;
}

#[tokio::test]
async fn who_waits_is_told_though_nobody_waits_for_the_call_that_gives_the_file_back() {
    let place = Place::new().await;
    let id = place.make(0, ROOT_INODE, "f", 0o100_644).await;
    let [writer, other] = [Client::new(&place, 1).await, Client::new(&place, 2).await];
    writer.append(&place, id).await.unwrap();
    let begun = Instant::now();
    let give_back = async {
        until_somebody_waits(&place, 1).await;
        // Its client has hung up.
        let mut complete = Box::pin(writer.complete(&place, id));
        assert!(futures::poll!(&mut complete).is_pending());
        drop(complete);
    };
    let (holder, ()) = futures::join!(other.wait(&place, id, LONG), give_back);
    assert_eq!(holder, FileHolder::None);
    assert!(begun.elapsed() < WAIT_MAX, "told after {:?}", begun.elapsed());
}

#[tokio::test]
async fn lease_of_a_session_that_is_over_is_taken_for_clients_alone() {
    let place = Place::new().await;
    let id = place.make(0, ROOT_INODE, "f", 0o100_644).await;
    let other = Client::new(&place, 2).await;
    let lease = Lease::taken_by(ClientId([7; 16]), Incarnation(1), CallId(1));
    place.namesystem.namespace().write().leases.insert(id, lease);
    let stranger = (ClientId([9; 16]), Incarnation(1));
    assert_eq!(place.namesystem.await_file(stranger, id, 100).await, FileHolder::Other);
    assert!(place.namesystem.namespace().read().lease(id).is_some());
    assert_eq!(other.wait(&place, id, LONG).await, FileHolder::None);
}

/// Its file has just been removed, for instance, or the log takes nothing for a moment.
#[tokio::test]
async fn lease_that_cannot_be_taken_away_at_once_is_waited_for() {
    let place = Place::new().await;
    let other = Client::new(&place, 2).await;
    let gone = InodeId(1 << 40);
    let of_nobody = Lease::taken_by(ClientId([7; 16]), Incarnation(1), CallId(1));
    place.namesystem.namespace().write().leases.insert(gone, of_nobody);
    let begun = Instant::now();
    let give_back = async {
        until_somebody_waits(&place, 1).await;
        place.namesystem.namespace().write().leases.remove(gone);
    };
    let (holder, ()) = futures::join!(other.wait(&place, gone, LONG), give_back);
    assert_eq!(holder, FileHolder::None);
    assert!(begun.elapsed() < WAIT_MAX, "told after {:?}", begun.elapsed());
}

#[tokio::test]
async fn who_waits_is_told_of_a_life_that_ends_though_its_successor_has_hung_up() {
    let place = Place::new().await;
    let id = place.make(0, ROOT_INODE, "f", 0o100_644).await;
    let [writer, other] = [Client::new(&place, 1).await, Client::new(&place, 2).await];
    writer.append(&place, id).await.unwrap();
    {
        // More than one step takes: the file is among those left.
        let mut namespace = place.namesystem.namespace().write();
        let lease = namespace.lease(id).unwrap().clone();
        (0..600).for_each(|number| namespace.leases.insert(InodeId(1 + number), lease.clone()));
    }
    let begun = Instant::now();
    let end_life = async {
        until_somebody_waits(&place, 1).await;
        let request = OpenSessionRequest { client_id: writer.id.to_vec().into(), ..OpenSessionRequest::default() };
        let mut opening = Box::pin(place.namesystem.open_session(request));
        assert!(futures::poll!(&mut opening).is_pending());
        drop(opening);
        tokio::time::timeout(WAIT_MAX, place.namesystem.leftovers_made()).await.expect("nobody takes its files");
    };
    let (holder, ()) = futures::join!(other.wait(&place, id, LONG), end_life);
    assert_eq!(holder, FileHolder::None);
    assert!(begun.elapsed() < WAIT_MAX, "told after {:?}", begun.elapsed());
}
