//! Large removals and ended sessions: each op's work is bounded, nobody sees what is left, and in the end nothing is.

use super::*;
use crate::namenode::namespace::heights::DEPTH_MAX;

const LIMIT: u32 = 100;

fn block_of(number: u64) -> crate::namenode::namespace::inode::FileBlock {
    let id = dfs_common::ids::BlockId(number);
    crate::namenode::namespace::inode::FileBlock {
        id,
        generation_stamp: dfs_common::ids::GenerationStamp(1),
        length: 1,
    }
}

/// A tree of ten directories below each other, a hundred files in each; gives the directories.
fn tree(fixture: &mut Fixture) -> Vec<InodeId> {
    let mut path = vec![fixture.make(ROOT_INODE, "top", FileKind::Directory)];
    for depth in 0..10 {
        let parent = path[depth];
        for file in 0..100 {
            fixture.make(parent, &format!("f{file}"), FileKind::File);
        }
        path.push(fixture.make(parent, "below", FileKind::Directory));
    }
    path
}

fn remove_top() -> Op {
    remove(ROOT_INODE, "top", RemoveKind::RemoveRecursive)
}

/// Inodes and leases and holds: what steps take away.
fn size(namespace: &Namespace) -> u64 {
    let (files, directories, _) = namespace.counts();
    files + directories + namespace.leases.iter().count() as u64 + namespace.holds.len() as u64
}

/// Runs steps until nothing is left; every one does some work, and never more than the limit.
fn forget_all(fixture: &mut Fixture) -> u32 {
    let mut steps = 0;
    while fixture.namespace.has_leftovers() {
        let before = size(&fixture.namespace);
        fixture.apply(EditOp { op: Some(Op::Forget(v1::ForgetOp {})), ..EditOp::default() }).unwrap();
        let done = before - size(&fixture.namespace);
        // An entry taken out may free its directory with it.
        assert!(done <= 2 * u64::from(LIMIT), "one step took {done} inodes away");
        steps += 1;
        check_invariants(&fixture.namespace);
    }
    steps
}

#[test]
fn a_large_tree_is_detached_at_once_and_freed_in_bounded_steps() {
    let mut fixture = Fixture::new();
    let path = tree(&mut fixture);
    fixture.step_limit = LIMIT;
    let before = size(&fixture.namespace);
    fixture.run(remove_top()).unwrap();
    assert!(before - size(&fixture.namespace) <= 2 * u64::from(LIMIT), "the op itself is bounded as well");
    assert_eq!(fixture.lookup(ROOT_INODE, "top"), None);
    check_invariants(&fixture.namespace);
    assert!(forget_all(&mut fixture) >= 9);
    assert_eq!(fixture.namespace.counts(), (0, 1, 0));
    assert!(path.iter().all(|&id| fixture.namespace.inode(id).is_err()));
}

#[test]
fn a_removed_tree_cannot_be_used_while_it_is_freed() {
    let mut fixture = Fixture::new();
    let path = tree(&mut fixture);
    let file = fixture.lookup(path[5], "f1").unwrap();
    let elsewhere = fixture.make(ROOT_INODE, "elsewhere", FileKind::Directory);
    fixture.step_limit = 1;
    fixture.run(remove_top()).unwrap();
    let who = Identity::root();
    for &id in &path {
        assert_eq!(fixture.namespace.attr(id).unwrap_err().kind(), ErrorKind::Stale);
        assert_eq!(fixture.namespace.listing(&who, id, 0, 10).unwrap_err().kind(), ErrorKind::Stale);
        assert_eq!(fixture.namespace.lookup(&who, id, b"f1").unwrap_err().kind(), ErrorKind::Stale);
        assert_eq!(fixture.kind_of(create(id, "new")), Some(ErrorKind::Stale), "it would vanish");
        assert_eq!(fixture.kind_of(remove(id, "f1", RemoveKind::RemoveUnlink)), Some(ErrorKind::Stale));
        let out = rename((id, "f1"), (elsewhere, "x"), RenameFlag::RenameReplace);
        assert_eq!(fixture.kind_of(out), Some(ErrorKind::Stale), "nothing comes back out of it");
        let into = rename((ROOT_INODE, "elsewhere"), (id, "x"), RenameFlag::RenameReplace);
        assert_eq!(fixture.kind_of(into), Some(ErrorKind::Stale));
        let link = Op::Link(v1::LinkOp { inode: file.0, new_parent: id.0, new_name: bytes("l") });
        assert_eq!(fixture.kind_of(link), Some(ErrorKind::Stale));
    }
    assert!(fixture.namespace.attr(elsewhere).is_ok());
}

#[test]
fn files_in_use_outlive_the_tree_as_long_as_they_are_used() {
    let mut fixture = Fixture::new();
    let path = tree(&mut fixture);
    let Outcome::Created { inode: written, .. } = fixture.run(create(path[3], "written")).unwrap() else { panic!() };
    let block = fixture.add_block(written, None, 0);
    let held = fixture.lookup(path[4], "f7").unwrap();
    fixture.run(Op::Hold(v1::HoldOp { inode: held.0 })).unwrap();
    fixture.run(Op::Hold(v1::HoldOp { inode: path[0].0 })).unwrap();
    let linked = fixture.lookup(path[9], "f2").unwrap();
    let link = v1::LinkOp { inode: linked.0, new_parent: ROOT_INODE.0, new_name: bytes("kept") };
    fixture.run(Op::Link(link)).unwrap();
    fixture.step_limit = LIMIT;
    fixture.run(remove_top()).unwrap();
    let top = fixture.namespace.listing(&Identity::root(), path[0], 0, 10).unwrap();
    assert!(top.entries.is_empty() && top.at_end, "held, it is an empty directory");
    forget_all(&mut fixture);
    fixture.run(complete(written, Some(v1::Block { length: 9, ..block }))).unwrap();
    assert!(fixture.namespace.attr(written).is_err());
    assert_eq!(fixture.namespace.attr(held).unwrap().nlink, 0);
    assert_eq!(fixture.namespace.attr(linked).unwrap().nlink, 1);
    for id in [held, path[0]] {
        fixture.run(Op::ReleaseHold(v1::ReleaseHoldOp { inode: id.0, call_id: 0 })).unwrap();
    }
    assert_eq!(fixture.namespace.counts(), (1, 1, 0));
    check_invariants(&fixture.namespace);
}

#[test]
fn a_session_with_many_claims_ends_at_once_and_loses_them_in_bounded_steps() {
    let mut fixture = Fixture::new();
    let leased: Vec<InodeId> = (0..300).map(|i| fixture.create(&format!("f{i}"))).collect();
    fixture.add_block(leased[0], None, 0);
    for id in &leased {
        fixture.run(Op::Hold(v1::HoldOp { inode: id.0 })).unwrap();
    }
    fixture.step_limit = LIMIT;
    let before = size(&fixture.namespace);
    fixture.open_session(CLIENT);
    assert!(before - size(&fixture.namespace) <= u64::from(LIMIT));
    // The new life has what it takes, whatever the old one still has.
    fixture.run(Op::Hold(v1::HoldOp { inode: leased[0].0 })).unwrap();
    assert!(forget_all(&mut fixture) >= 5);
    let waiting: Vec<InodeId> = fixture.namespace.waiting_after(None).map(|(_, id)| id).collect();
    assert_eq!(waiting, [leased[0]], "its block is open");
    assert_eq!((fixture.namespace.leases.iter().count(), fixture.namespace.holds.len()), (1, 1));
}

#[test]
fn sessions_share_the_retry_cache() {
    use super::super::retry_cache::{OUTCOMES_MAX, OUTCOMES_PER_SESSION_MAX, outcomes_share};
    for sessions in [0, 1, 2, 100, 1_000, 100_000] {
        let share = outcomes_share(sessions);
        assert!((16..=OUTCOMES_PER_SESSION_MAX).contains(&share));
        assert!(share * sessions <= OUTCOMES_MAX.max(16 * sessions));
    }
    let mut fixture = Fixture::new();
    for number in 0..60_000_u32 {
        let mut client = [0xff; 16];
        client[..4].copy_from_slice(&number.to_le_bytes());
        fixture.open_session(ClientId(client));
    }
    let share = outcomes_share(fixture.namespace.sessions().count()) as u64;
    let call = |call, lowest_pending_call_id| EditOp {
        retry: Some(RetryId {
            client_id: CLIENT.0.to_vec().into(),
            incarnation: 1,
            call_id: call,
            lowest_pending_call_id,
        }),
        op: Some(Op::Hold(v1::HoldOp { inode: ROOT_INODE.0 })),
        ..EditOp::default()
    };
    for number in 2..share + 2 {
        assert!(fixture.namespace.check(&call(number, 1)).is_ok());
        fixture.apply(call(number, 1)).unwrap();
    }
    let refused = fixture.namespace.check(&call(share + 2, 1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(fixture.namespace.check(&call(1, 1)).is_ok(), "the oldest makes room");
    assert!(fixture.namespace.check(&call(share + 2, 3)).is_ok(), "some have been answered");
    let settle = |call_ids, lowest_pending_call_id| {
        let client_id = CLIENT.0.to_vec().into();
        let op = v1::SettleCallsOp { client_id, incarnation: 1, call_ids, lowest_pending_call_id };
        EditOp { op: Some(Op::SettleCalls(op)), ..EditOp::default() }
    };
    let refused = fixture.namespace.check(&settle(vec![share + 2], 1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "what was not made would have to be noted");
    assert!(fixture.namespace.check(&settle(vec![2, 3], 1)).is_ok(), "these were made");
    assert!(fixture.namespace.check(&settle(vec![share + 2], share + 3)).is_ok(), "nothing below it is waited for");
    assert!(fixture.namespace.check(&settle(vec![share + 2], 3)).is_ok(), "room for one");
    assert!(fixture.namespace.check(&settle(vec![share + 2, share + 3], 3)).is_err());
}

#[test]
fn a_full_retry_cache_leaves_each_session_a_few_calls() {
    use super::super::retry_cache::{OUTCOMES_MAX, SHARE_MIN};
    let mut fixture = Fixture::new();
    let greedy = ClientId([9; 16]);
    fixture.open_session(greedy);
    let outcomes = (1..=OUTCOMES_MAX as u64).map(|call| (dfs_common::ids::CallId(call), Ok(Outcome::Done)));
    let former = crate::namenode::namespace::FormerLife {
        incarnation: dfs_common::ids::Incarnation(0),
        ended_ns: 5,
        lowest_pending: dfs_common::ids::CallId(1),
        outcomes: outcomes.collect(),
    };
    fixture.namespace.sessions.change(greedy, |session| session.former.push(former));
    let hold = |client: ClientId, call_id| EditOp {
        retry: Some(RetryId {
            client_id: client.0.to_vec().into(),
            incarnation: if client == CLIENT { 1 } else { 2 },
            call_id,
            lowest_pending_call_id: 1,
        }),
        op: Some(Op::Hold(v1::HoldOp { inode: ROOT_INODE.0 })),
        ..EditOp::default()
    };
    for call in 2..SHARE_MIN as u64 + 2 {
        assert!(fixture.namespace.check(&hold(CLIENT, call)).is_ok());
        fixture.apply(hold(CLIENT, call)).unwrap();
    }
    for (client, call) in [(CLIENT, 100), (greedy, 2)] {
        assert_eq!(fixture.namespace.check(&hold(client, call)).unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(fixture.namespace.check(&hold(client, 1)).is_ok(), "the oldest makes room");
    }
    fixture.apply(EditOp { op: Some(forget_sessions(6)), ..EditOp::default() }).unwrap();
    assert!(fixture.namespace.check(&hold(CLIENT, 100)).is_ok(), "there is room again");
}

fn forget_sessions(idle_since_ns: i64) -> Op {
    Op::ForgetSessions(v1::ForgetSessionsOp { idle_since_ns })
}

#[test]
fn sessions_with_files_that_wait_are_forgotten_and_outcomes_cost_steps() {
    let mut fixture = Fixture::new();
    let waiting = fixture.create("waiting");
    fixture.add_block(waiting, None, 0);
    let end = v1::EndSessionOp { client_id: CLIENT.0.to_vec().into(), incarnation: 0 };
    fixture.apply(EditOp { op: Some(Op::EndSession(end)), ..EditOp::default() }).unwrap();
    let others: Vec<ClientId> = (20..24).map(|number| ClientId([number; 16])).collect();
    for &client in &others {
        let outcomes = (1..=1_600).map(|call| (dfs_common::ids::CallId(call), Ok(Outcome::Done))).collect();
        let session = crate::namenode::namespace::Session { ended: true, outcomes, ..Default::default() };
        fixture.namespace.sessions.insert(client, session);
    }
    fixture.step_limit = LIMIT;
    for left in [3, 2, 1, 0] {
        fixture.apply(EditOp { op: Some(forget_sessions(i64::MAX)), ..EditOp::default() }).unwrap();
        assert_eq!(fixture.namespace.sessions().filter(|(client, _)| others.contains(client)).count(), left);
    }
    // Its end is the latest.
    fixture.apply(EditOp { op: Some(forget_sessions(i64::MAX)), ..EditOp::default() }).unwrap();
    assert!(fixture.namespace.session(CLIENT).is_none());
    assert!(fixture.namespace.lease(waiting).unwrap().needs_recovery);
    assert_eq!(fixture.namespace.sessions.outcomes(), 0);
}

#[test]
fn sessions_are_forgotten_some_at_a_time() {
    let mut fixture = Fixture::new();
    for number in 0..250_u8 {
        let client = ClientId([number; 16]);
        fixture.open_session(client);
        let end = v1::EndSessionOp { client_id: client.0.to_vec().into(), incarnation: 0 };
        fixture.apply(EditOp { op: Some(Op::EndSession(end)), ..EditOp::default() }).unwrap();
    }
    fixture.step_limit = LIMIT;
    let forget = forget_sessions(i64::MAX);
    for left in [150, 50, 0] {
        fixture.apply(EditOp { op: Some(forget.clone()), ..EditOp::default() }).unwrap();
        assert_eq!(fixture.namespace.sessions().count(), left);
    }
}

#[test]
fn the_blocks_of_a_huge_file_are_handed_on_as_one() {
    let mut fixture = Fixture::new();
    let huge = |fixture: &mut Fixture, name: &str| {
        let id = fixture.make(ROOT_INODE, name, FileKind::File);
        let blocks = (1..=100_000).map(block_of).collect::<Vec<_>>().into();
        fixture.namespace.block_count += 100_000;
        *fixture.namespace.inode_mut(id).unwrap().blocks_mut().unwrap() = blocks;
        id
    };
    let cut = |id: InodeId, length| Op::Truncate(v1::TruncateOp { inode: id.0, length });
    let id = huge(&mut fixture, "a");
    assert_eq!(fixture.namespace.attr(id).unwrap().length, 100_000);
    fixture.run(Op::SetReplication(v1::SetReplicationOp { inode: id.0, replication: 2 })).unwrap();
    fixture.run(cut(id, 50_000)).unwrap();
    fixture.run(cut(id, 0)).unwrap();
    huge(&mut fixture, "b");
    fixture.run(rename((ROOT_INODE, "a"), (ROOT_INODE, "b"), RenameFlag::RenameReplace)).unwrap();
    huge(&mut fixture, "c");
    fixture.run(remove(ROOT_INODE, "c", RemoveKind::RemoveUnlink)).unwrap();
    assert_eq!(fixture.events.len(), 5, "everybody waits for each event");
    assert_eq!(fixture.namespace.counts().2, 0);
}

#[test]
fn files_of_many_blocks_are_removed_few_at_a_time() {
    let mut fixture = Fixture::new();
    let top = fixture.make(ROOT_INODE, "top", FileKind::Directory);
    let blocks = super::super::reaping::EVENTS_PER_FILE_MAX as u64;
    let fill = |fixture: &mut Fixture, id: InodeId| {
        fixture.namespace.block_count += blocks;
        let list = (0..blocks).map(|number| block_of(1 + id.0 * blocks + number)).collect::<Vec<_>>().into();
        *fixture.namespace.inode_mut(id).unwrap().blocks_mut().unwrap() = list;
    };
    for number in 0..50 {
        let id = fixture.make(top, &format!("f{number}"), FileKind::File);
        fill(&mut fixture, id);
    }
    // And files without a name that only their writer keeps.
    for number in 0..50 {
        let id = fixture.create(&format!("w{number}"));
        fill(&mut fixture, id);
        fixture.run(remove(ROOT_INODE, &format!("w{number}"), RemoveKind::RemoveUnlink)).unwrap();
    }
    fixture.step_limit = LIMIT;
    let bound = (u64::from(LIMIT) + blocks) as usize;
    fixture.run(remove_top()).unwrap();
    assert!(fixture.events.len() <= bound);
    fixture.open_session(CLIENT);
    while fixture.namespace.has_leftovers() {
        fixture.events.clear();
        fixture.apply(EditOp { op: Some(Op::Forget(v1::ForgetOp {})), ..EditOp::default() }).unwrap();
        assert!(fixture.events.len() <= bound, "everybody waits for {} events", fixture.events.len());
    }
    assert_eq!(fixture.namespace.counts(), (0, 1, 0));
}

impl Fixture {
    /// Directories in each other, the first in `parent`; gives the last.
    fn chain(&mut self, parent: InodeId, name: &str, length: usize) -> InodeId {
        let mut last = self.make(parent, name, FileKind::Directory);
        for _ in 1..length {
            last = self.make(last, "d", FileKind::Directory);
        }
        last
    }

    /// What the leader says of an op, and `apply`, should the leader have looked too early: the same.
    fn refusal(&mut self, op: Op) -> Option<ErrorKind> {
        let caller = Some(self.caller.clone());
        let checked = self.namespace.check(&EditOp { caller, op: Some(op.clone()), ..EditOp::default() });
        let checked = checked.err().map(|error| error.kind());
        assert_eq!(self.run(op).err().map(|error| error.kind()), checked);
        checked
    }
}

#[test]
fn directories_never_come_to_stand_too_deep() {
    let mut fixture = Fixture::new();
    fixture.step_limit = LIMIT;
    let too_deep = Some(ErrorKind::NameTooLong);
    let replace = RenameFlag::RenameReplace;
    // Eight chains, one below the other.
    let length = DEPTH_MAX / 8;
    let mut last = fixture.chain(ROOT_INODE, "a", length);
    for _ in 1..8 {
        let end = fixture.chain(ROOT_INODE, "b", length);
        assert_eq!(fixture.refusal(rename((ROOT_INODE, "b"), (last, "b"), replace)), None);
        last = end;
    }
    assert_eq!(usize::from(fixture.namespace.root.directory().unwrap().heights.height()), DEPTH_MAX);
    assert_eq!(fixture.refusal(make_node(last, "x", FileKind::Directory)), too_deep);
    assert_eq!(fixture.refusal(make_node(last, "file", FileKind::File)), None);
    let side = fixture.make(ROOT_INODE, "side", FileKind::Directory);
    let moved = fixture.make(side, "moved", FileKind::Directory);
    assert_eq!(fixture.refusal(rename((side, "moved"), (last, "x"), replace)), too_deep);
    assert_eq!(fixture.refusal(rename((ROOT_INODE, "file"), (last, "x"), replace)), Some(ErrorKind::NotFound));
    // One step up there is room for it, but not with another below it.
    let above = fixture.namespace.directory(last).unwrap().parent;
    fixture.make(moved, "below", FileKind::Directory);
    assert_eq!(fixture.refusal(rename((side, "moved"), (above, "x"), replace)), too_deep);
    let exchange = RenameFlag::RenameExchange;
    assert_eq!(fixture.refusal(rename((side, "moved"), (above, "d"), exchange)), too_deep);
    assert_eq!(fixture.refusal(rename((above, "d"), (side, "moved"), exchange)), too_deep, "either way round");
    fixture.run(remove(moved, "below", RemoveKind::RemoveRmdir)).unwrap();
    assert_eq!(fixture.refusal(rename((side, "moved"), (above, "d"), exchange)), None);
    fixture.run(remove(ROOT_INODE, "side", RemoveKind::RemoveRecursive)).unwrap();
    // A tree from before there was a bound is too deep, and may still be taken apart.
    fixture.step_limit = 0;
    fixture.run(rename((ROOT_INODE, "a"), (ROOT_INODE, "old"), replace)).unwrap();
    let end = fixture.chain(ROOT_INODE, "a", 3);
    fixture.run(rename((ROOT_INODE, "old"), (end, "old"), replace)).unwrap();
    fixture.step_limit = LIMIT;
    assert_eq!(fixture.refusal(make_node(end, "x", FileKind::Directory)), None);
    assert_eq!(fixture.refusal(rename((end, "old"), (end, "older"), replace)), None);
    // How deep it is nobody asks, but while it is not known what hangs in removed trees.
    assert!(fixture.namespace.attr(moved).is_ok());
    fixture.namespace.condemned.insert(InodeId(1));
    assert_eq!(fixture.namespace.attr(moved).unwrap_err().kind(), ErrorKind::Unavailable);
    fixture.namespace.condemned.clear();
    let (place, top) = (fixture.lookup(end, "x").unwrap(), fixture.lookup(ROOT_INODE, "a").unwrap());
    assert_eq!(fixture.refusal(rename((end, "older"), (place, "x"), replace)), too_deep, "deeper than it was");
    assert_eq!(fixture.refusal(rename((end, "older"), (top, "x"), replace)), None, "too deep, but not as deep");
    assert_eq!(fixture.refusal(rename((top, "x"), (ROOT_INODE, "x"), replace)), None);
}

#[test]
fn listing_does_not_go_up_from_each_directory_in_it() {
    let mut fixture = Fixture::new();
    let top = tree(&mut fixture)[0];
    let listed = fixture.make(ROOT_INODE, "listed", FileKind::Directory);
    let inner = fixture.make(listed, "inner", FileKind::Directory);
    fixture.step_limit = 1;
    fixture.run(remove_top()).unwrap();
    assert_eq!(fixture.namespace.attr(top).unwrap_err().kind(), ErrorKind::Stale);
    // Whoever goes up from here is told that it is gone.
    fixture.namespace.directory_mut(inner).unwrap().parent = top;
    assert!(fixture.namespace.attr(inner).is_err());
    let page = fixture.namespace.listing(&Identity::root(), listed, 0, 1_000).unwrap();
    assert_eq!(page.entries[0].attr.inode, inner);
}

#[test]
fn refusals_that_pass_are_not_remembered() {
    let mut fixture = Fixture::new();
    let held = fixture.make(ROOT_INODE, "held", FileKind::File);
    let life = (CLIENT, fixture.namespace.session(CLIENT).unwrap().incarnation);
    for number in 0..65_536 {
        fixture.namespace.holds.insert(InodeId(1_000_000 + number), life, dfs_common::ids::CallId(1));
    }
    let hold = EditOp {
        retry: Some(fixture.retry_id(CLIENT, 1, 100)),
        op: Some(Op::Hold(v1::HoldOp { inode: held.0 })),
        ..EditOp::default()
    };
    fixture.step_limit = LIMIT;
    assert_eq!(fixture.apply(hold.clone()).unwrap_err().kind(), ErrorKind::Unavailable);
    fixture.namespace.holds.remove(InodeId(1_000_000), life);
    assert_eq!(fixture.apply(hold).unwrap(), Outcome::Inode(held), "the same call, tried again");
}

#[test]
fn who_holds_little_may_hold_more_when_others_have_taken_all() {
    use super::super::retry_cache::SHARE_MIN;
    use super::super::sessions::HOLDS_MAX;
    let mut fixture = Fixture::new();
    let life = (CLIENT, fixture.namespace.session(CLIENT).unwrap().incarnation);
    let other = (ClientId([9; 16]), life.1);
    for number in 0..HOLDS_MAX as u64 {
        fixture.namespace.holds.insert(InodeId(number + 100), other, dfs_common::ids::CallId(1));
    }
    let hold = EditOp {
        retry: Some(fixture.retry_id(CLIENT, 1, 100)),
        op: Some(Op::Hold(v1::HoldOp { inode: ROOT_INODE.0 })),
        ..EditOp::default()
    };
    assert!(fixture.namespace.check(&hold).is_ok());
    for number in 0..SHARE_MIN as u64 {
        fixture.namespace.holds.insert(InodeId(number + 100), life, dfs_common::ids::CallId(1));
    }
    assert_eq!(fixture.namespace.check(&hold).unwrap_err().kind(), ErrorKind::Unavailable);
}
