//! Large removals and ended sessions: each op's work is bounded, nobody sees what is left, and in the end nothing is.

use super::*;

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
    use super::super::{OUTCOMES_MAX, OUTCOMES_PER_SESSION_MAX, outcomes_share};
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
    let forget = Op::ForgetSessions(v1::ForgetSessionsOp { idle_since_ns: i64::MAX });
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
fn the_leader_refuses_directories_too_deep_to_be_walked() {
    let mut fixture = Fixture::new();
    let mut parent = ROOT_INODE;
    let op = |parent, name| EditOp {
        caller: Some(v1::Caller::default()),
        op: Some(make_node(parent, name, FileKind::Directory)),
        ..EditOp::default()
    };
    for _ in 1..super::super::DEPTH_MAX {
        let Outcome::Inode(id) = fixture.apply(op(parent, "d")).unwrap() else { panic!() };
        parent = id;
    }
    assert!(fixture.namespace.check(&op(parent, "last")).is_ok());
    let Outcome::Inode(last) = fixture.apply(op(parent, "last")).unwrap() else { panic!() };
    assert_eq!(fixture.namespace.check(&op(last, "x")).unwrap_err().kind(), ErrorKind::NameTooLong);
    let side = fixture.make(ROOT_INODE, "side", FileKind::Directory);
    fixture.make(side, "moved", FileKind::Directory);
    let moved = EditOp { op: Some(rename((side, "moved"), (last, "x"), RenameFlag::RenameReplace)), ..op(last, "x") };
    assert_eq!(fixture.namespace.check(&moved).unwrap_err().kind(), ErrorKind::NameTooLong);
}
