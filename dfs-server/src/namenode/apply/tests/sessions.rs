//! Calls that go unanswered: told again across the lives of a client, settled when nobody waits for them.

use super::*;
use crate::namenode::apply::retry_cache::OUTCOMES_PER_SESSION_MAX;

const MADE_LATE: ErrorKind = ErrorKind::Cancelled;

fn open(opener: u64, opening: u64, awaited: Vec<v1::AwaitedLife>) -> EditOp {
    let client_id = CLIENT.0.to_vec().into();
    let op = v1::OpenSessionOp { client_id, opener, opening, awaited, ..Default::default() };
    EditOp { op: Some(Op::OpenSession(op)), ..EditOp::default() }
}

fn incarnation_of(outcome: &Outcome) -> u64 {
    let Outcome::Session(incarnation) = outcome else { panic!("{outcome:?}") };
    incarnation.0
}

fn append(id: InodeId) -> Op {
    Op::OpenForAppend(v1::OpenForAppendOp { inode: id.0, truncate: false })
}

fn hold(id: InodeId) -> Op {
    Op::Hold(v1::HoldOp { inode: id.0 })
}

impl Fixture {
    /// A client in its second life, with outcomes of both, a lease and a hold.
    pub(crate) fn with_unanswered_calls() -> Self {
        let mut fixture = Self::new();
        fixture.call((1, 3, 2), make_node(ROOT_INODE, "d", FileKind::Directory)).unwrap();
        let awaited = vec![v1::AwaitedLife { incarnation: 1, lowest_pending_call_id: 2 }];
        let second = incarnation_of(&fixture.apply(open(5, 2, awaited)).unwrap());
        fixture.call((second, 7, 7), create_with_block(ROOT_INODE, "a")).unwrap();
        let id = fixture.lookup(ROOT_INODE, "a").unwrap();
        fixture.call((second, 8, 7), hold(id)).unwrap();
        fixture
    }

    /// A call of some life with a number of its own, everything from `lowest` on unanswered.
    fn call(&mut self, (incarnation, call, lowest): (u64, u64, u64), op: Op) -> Result<Outcome> {
        let retry = RetryId { lowest_pending_call_id: lowest, ..self.retry_id(CLIENT, incarnation, call) };
        self.apply(EditOp {
            retry: Some(retry),
            caller: Some(v1::Caller::default()),
            op: Some(op),
            time_ns: 9,
            step_limit: 0,
        })
    }

    fn settle(&mut self, call_ids: &[u64], lowest_pending_call_id: u64) -> Result<Outcome> {
        let incarnation = self.namespace.session(CLIENT).unwrap().incarnation.0;
        let client_id = CLIENT.0.to_vec().into();
        let op = v1::SettleCallsOp { client_id, incarnation, call_ids: call_ids.to_vec(), lowest_pending_call_id };
        self.apply(EditOp { op: Some(Op::SettleCalls(op)), ..EditOp::default() })
    }
}

/// A closed file, made by the first calls.
fn closed_file(fixture: &mut Fixture) -> InodeId {
    let id = fixture.create("closed");
    fixture.run(complete(id, None)).unwrap();
    id
}

#[test]
fn settle_calls_gives_back_what_an_unheard_call_took() {
    let mut fixture = Fixture::new();
    let id = closed_file(&mut fixture);
    fixture.call((1, 10, 10), append(id)).unwrap();
    fixture.call((1, 11, 10), hold(id)).unwrap();
    fixture.call((1, 12, 10), create_with_block(ROOT_INODE, "new")).unwrap();
    let new = fixture.lookup(ROOT_INODE, "new").unwrap();
    fixture.events.clear();
    fixture.settle(&[10, 11, 12], 13).unwrap();
    assert!(fixture.namespace.leases.iter().next().is_none() && fixture.namespace.holds.is_empty());
    let attr = fixture.namespace.attr(new).unwrap();
    assert_eq!((attr.block_count, attr.under_construction), (0, false), "the file stays, its unheard block goes");
    assert!(matches!(fixture.events[..], [BlockEvent::Removed { .. }]));
    assert!(fixture.namespace.session(CLIENT).unwrap().outcomes.is_empty());
    check_invariants(&fixture.namespace);
}

#[test]
fn settle_calls_leaves_what_a_later_call_took() {
    let mut fixture = Fixture::new();
    let id = closed_file(&mut fixture);
    fixture.call((1, 10, 10), append(id)).unwrap();
    fixture.call((1, 11, 10), hold(id)).unwrap();
    // Somebody has recovered the lease, and the client has opened the file again.
    fixture
        .apply(EditOp {
            op: Some(Op::RevokeLease(v1::RevokeLeaseOp { inode: id.0, ..Default::default() })),
            ..EditOp::default()
        })
        .unwrap();
    fixture.call((1, 12, 10), append(id)).unwrap();
    fixture.call((1, 13, 10), hold(id)).unwrap();
    fixture.settle(&[10, 11], 12).unwrap();
    assert_eq!(fixture.namespace.lease(id).unwrap().call.0, 12);
    let release = |call_id| Op::ReleaseHold(v1::ReleaseHoldOp { inode: id.0, call_id });
    fixture.call((1, 14, 12), release(11)).unwrap();
    assert_eq!(fixture.namespace.holds.len(), 1, "a late end of an earlier hold");
    fixture.call((1, 15, 12), release(13)).unwrap();
    assert!(fixture.namespace.holds.is_empty());
}

#[test]
fn settled_call_that_comes_late_is_not_made() {
    let mut fixture = Fixture::new();
    let id = closed_file(&mut fixture);
    // 10 is still tried by somebody: 11 cannot be forgotten yet.
    fixture.settle(&[11], 10).unwrap();
    assert_eq!(fixture.call((1, 11, 10), append(id)).unwrap_err().kind(), MADE_LATE);
    fixture.call((1, 10, 10), hold(id)).unwrap();
    fixture.settle(&[12], 13).unwrap();
    assert_eq!(fixture.call((1, 12, 10), append(id)).unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    assert!(fixture.namespace.lease(id).is_none());
    let before = fixture.namespace.session(CLIENT).unwrap().clone();
    fixture.settle(&[10, 11, 12], 10).unwrap();
    assert_eq!(format!("{before:?}"), format!("{:?}", fixture.namespace.session(CLIENT).unwrap()), "repeated");
}

#[test]
fn settle_calls_makes_room_in_a_full_retry_cache() {
    let mut fixture = Fixture::new();
    let id = closed_file(&mut fixture);
    let first = 10;
    let last = first + OUTCOMES_PER_SESSION_MAX as u64 - 1;
    for call in first..=last {
        fixture.call((1, call, first), hold(id)).unwrap();
    }
    assert_eq!(fixture.call((1, last + 1, first), hold(id)).unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(fixture.settle(&[last + 1], first).unwrap_err().kind(), ErrorKind::Unavailable, "no room to note it");
    fixture.settle(&(first..first + 200).collect::<Vec<_>>(), first + 200).unwrap();
    fixture.settle(&[last + 1], first + 200).unwrap();
    fixture.call((1, last + 2, first + 200), hold(id)).unwrap();
    assert_eq!(fixture.call((1, last, first + 200), hold(id)).unwrap(), Outcome::Inode(id), "none was dropped");
    let too_many: Vec<u64> = (first..first + 257).collect();
    assert_eq!(fixture.settle(&too_many, first).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn late_step_of_an_earlier_writer_does_not_touch_the_next_ones_lease() {
    let mut fixture = Fixture::new();
    let id = closed_file(&mut fixture);
    fixture.call((1, 10, 10), append(id)).unwrap();
    let close = complete(id, None);
    fixture.call((1, 12, 10), close.clone()).unwrap();
    fixture.call((1, 13, 10), append(id)).unwrap();
    assert_eq!(fixture.call((1, 11, 10), close).unwrap_err().kind(), ErrorKind::LeaseLost);
    assert!(fixture.namespace.lease(id).is_some());
}

#[test]
fn revoke_lease_takes_only_the_lease_that_is_meant() {
    let mut fixture = Fixture::new();
    let id = closed_file(&mut fixture);
    fixture.call((1, 10, 10), append(id)).unwrap();
    let revoke = |call_id| {
        let client_id = CLIENT.0.to_vec().into();
        Op::RevokeLease(v1::RevokeLeaseOp { inode: id.0, client_id, incarnation: 1, call_id })
    };
    let first = fixture.call((1, 11, 10), revoke(10)).unwrap();
    assert_eq!(first, Outcome::Closed(true));
    fixture.call((1, 12, 10), append(id)).unwrap();
    assert_eq!(fixture.call((1, 11, 10), revoke(10)).unwrap(), first, "repeated");
    assert_eq!(fixture.call((1, 13, 10), revoke(10)).unwrap(), Outcome::Closed(false));
    assert_eq!(fixture.namespace.lease(id).unwrap().call.0, 12);
}

#[test]
fn open_session_repeated_opens_no_other() {
    let mut fixture = Fixture::new();
    let first = fixture.apply(open(5, 1, Vec::new())).unwrap();
    let lease = (incarnation_of(&first), 1, 1);
    fixture.call(lease, create(ROOT_INODE, "a")).unwrap();
    assert_eq!(fixture.apply(open(5, 1, Vec::new())).unwrap(), first);
    assert_eq!(fixture.namespace.leases.iter().count(), 1, "and ends nothing");
    let second = fixture.apply(open(5, 2, Vec::new())).unwrap();
    assert_ne!(first, second);
    assert_eq!(fixture.apply(open(5, 1, Vec::new())).unwrap_err().kind(), ErrorKind::LeaseLost, "a late one");
    assert_eq!(fixture.namespace.session(CLIENT).unwrap().incarnation.0, incarnation_of(&second));
    let other_process = fixture.apply(open(6, 1, Vec::new())).unwrap();
    assert_ne!(other_process, second);
}

#[test]
fn calls_of_an_earlier_life_are_told_and_never_made() {
    let mut fixture = Fixture::new();
    let mkdir = |name| make_node(ROOT_INODE, name, FileKind::Directory);
    let made = fixture.call((1, 3, 2), mkdir("made")).unwrap();
    fixture.call((1, 4, 3), mkdir("answered")).unwrap();
    let awaited = vec![v1::AwaitedLife { incarnation: 1, lowest_pending_call_id: 3 }];
    let second = incarnation_of(&fixture.apply(open(5, 2, awaited)).unwrap());
    assert_eq!(fixture.call((1, 3, 3), mkdir("made")).unwrap(), made, "told");
    assert_eq!(fixture.call((1, 5, 3), mkdir("late")).unwrap_err().kind(), ErrorKind::LeaseLost);
    assert!(fixture.lookup(ROOT_INODE, "late").is_none());
    let unknown = fixture.call((1, 2, 2), mkdir("before")).unwrap_err().kind();
    assert_eq!(unknown, ErrorKind::OutcomeUnknown, "said to be answered");
    fixture.call((second, 1, 1), mkdir("late")).unwrap();
    // A process that waits for nothing: what it might ask for is not kept.
    fixture.apply(open(6, 1, Vec::new())).unwrap();
    for life in [1, second] {
        assert_eq!(fixture.call((life, 3, 1), mkdir("made")).unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    }
    assert!(fixture.namespace.session(CLIENT).unwrap().former.is_empty());
}

#[test]
fn lives_are_remembered_for_a_while_from_their_ends() {
    let mut fixture = Fixture::new();
    let end = v1::EndSessionOp { client_id: CLIENT.0.to_vec().into(), incarnation: 1 };
    fixture.apply(EditOp { op: Some(Op::EndSession(end)), time_ns: 1000, ..EditOp::default() }).unwrap();
    let forget = |idle_since_ns| EditOp {
        op: Some(Op::ForgetSessions(v1::ForgetSessionsOp { idle_since_ns })),
        ..EditOp::default()
    };
    fixture.apply(forget(1000)).unwrap();
    let mkdir = make_node(ROOT_INODE, "d", FileKind::Directory);
    let refused = fixture.call((1, 1, 1), mkdir.clone()).unwrap_err().kind();
    assert_eq!(refused, ErrorKind::LeaseLost, "the session was idle for long before it ended");
    let awaited = vec![v1::AwaitedLife { incarnation: 1, lowest_pending_call_id: 1 }];
    fixture.apply(EditOp { time_ns: 2000, ..open(5, 1, awaited) }).unwrap();
    fixture.apply(forget(2000)).unwrap();
    assert_eq!(fixture.call((1, 1, 1), mkdir.clone()).unwrap_err().kind(), ErrorKind::LeaseLost);
    fixture.apply(forget(2001)).unwrap();
    assert_eq!(fixture.call((1, 1, 1), mkdir).unwrap_err().kind(), ErrorKind::OutcomeUnknown);
}
