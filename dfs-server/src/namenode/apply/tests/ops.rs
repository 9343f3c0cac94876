//! Ops one by one: what each answers and leaves behind.

use super::*;

#[test]
fn create_takes_the_lease_and_complete_gives_it_back() {
    let mut fixture = Fixture::new();
    let id = fixture.create("a");
    assert!(fixture.namespace.attr(id).unwrap().under_construction);
    let first = fixture.add_block(id, None, 0);
    let full = v1::Block { length: 1 << 20, ..first };
    let second = fixture.add_block(id, Some(full), 1 << 20);
    assert_eq!(fixture.kind_of(complete(id, None)), Some(ErrorKind::InvalidArgument));
    fixture.run(complete(id, Some(v1::Block { length: 5, ..second }))).unwrap();
    let attr = fixture.namespace.attr(id).unwrap();
    assert_eq!((attr.length, attr.block_count, attr.under_construction), ((1 << 20) + 5, 2, false));
    assert_eq!(fixture.kind_of(complete(id, None)), Some(ErrorKind::LeaseLost));
}

#[test]
fn add_block_refuses_a_wrong_offset_or_previous_block() {
    let mut fixture = Fixture::new();
    let id = fixture.create("a");
    let block = fixture.add_block(id, None, 0);
    let add = |previous, offset| Op::AddBlock(v1::AddBlockOp { inode: id.0, previous, offset, ..Default::default() });
    let full = v1::Block { length: 100, ..block };
    assert_eq!(fixture.kind_of(add(Some(full), 99)), Some(ErrorKind::InvalidArgument));
    assert_eq!(fixture.kind_of(add(None, 0)), Some(ErrorKind::InvalidArgument));
    let stale = v1::Block { generation_stamp: 1, ..full };
    assert_eq!(fixture.kind_of(add(Some(stale), 100)), Some(ErrorKind::InvalidArgument));
    assert_eq!(fixture.kind_of(add(Some(full), 100)), None);
}

#[test]
fn files_are_dated_by_their_writer_but_never_later_than_now() {
    let mut fixture = Fixture::new();
    let id = fixture.create("a");
    let block = fixture.add_block(id, None, 0);
    let times = |fixture: &Fixture| {
        let attr = fixture.namespace.attr(id).unwrap();
        (attr.mtime_ns, attr.ctime_ns)
    };
    let record = |fixture: &mut Fixture, length, modified_ns| {
        let last = Some(v1::Block { length, ..block });
        fixture.run(Op::RecordLength(v1::RecordLengthOp { inode: id.0, last, modified_ns })).unwrap();
        i64::try_from(fixture.log.len()).unwrap() - 1
    };
    let made = times(&fixture);
    record(&mut fixture, 1, Some(0));
    assert_eq!(times(&fixture), made, "nothing was written");
    let now = record(&mut fixture, 2, Some(i64::MAX));
    assert_eq!(times(&fixture), (now, now));
    record(&mut fixture, 3, Some(now - 1));
    assert_eq!(times(&fixture), (now, now), "something has changed it since");
    let written = record(&mut fixture, 4, None);
    assert_eq!(times(&fixture), (written, written), "a writer that knows no clock");
    let last = Some(v1::Block { length: 4, ..block });
    let op = v1::CompleteOp { inode: id.0, last, keep_open: false, modified_ns: Some(written) };
    fixture.run(Op::Complete(op)).unwrap();
    assert_eq!(times(&fixture), (written, written), "closing changes nothing");
}

#[test]
fn lengths_beyond_a_block_are_refused_and_closed_blocks_do_not_grow() {
    let mut fixture = Fixture::new();
    let id = fixture.create("a");
    let block = fixture.add_block(id, None, 0);
    let record = |length| {
        let last = Some(v1::Block { length, ..block });
        Op::RecordLength(v1::RecordLengthOp { inode: id.0, last, ..v1::RecordLengthOp::default() })
    };
    for length in [u64::MAX, (1 << 20) + 1] {
        let op = v1::AddBlockOp {
            inode: id.0,
            previous: Some(v1::Block { length, ..block }),
            offset: length,
            ..Default::default()
        };
        assert_eq!(fixture.kind_of(Op::AddBlock(op)), Some(ErrorKind::InvalidArgument));
        assert_eq!(fixture.kind_of(record(length)), Some(ErrorKind::InvalidArgument));
    }
    fixture.run(record(10)).unwrap();
    let abandon = Op::AbandonBlock(v1::AbandonBlockOp { inode: id.0, block: Some(block) });
    assert_eq!(fixture.kind_of(abandon), Some(ErrorKind::InvalidArgument), "it holds recorded bytes");
    fixture.run(complete(id, Some(v1::Block { length: 20, ..block }))).unwrap();
    let append = Op::OpenForAppend(v1::OpenForAppendOp { inode: id.0, truncate: false });
    fixture.run(append).unwrap();
    assert_eq!(fixture.kind_of(record(30)), Some(ErrorKind::InvalidArgument));
    let grown = Some(v1::Block { length: 30, ..block });
    assert_eq!(fixture.kind_of(complete(id, grown)), Some(ErrorKind::InvalidArgument));
}

/// A create with a block for the new file.
#[test]
fn create_with_a_block_is_create_and_add_block() {
    let mut fixture = Fixture::new();
    let Outcome::Created { inode, created: true } = fixture.run(create_with_block(ROOT_INODE, "a")).unwrap() else {
        panic!("the file is new");
    };
    let block =
        v1::Block::from(Block::from(*fixture.namespace.inode(inode).unwrap().blocks().unwrap().last().unwrap()));
    assert_eq!(fixture.namespace.lease(inode).unwrap().open_block.map(|id| id.0), Some(block.id));
    assert_eq!(fixture.namespace.lease(inode).unwrap().targets.len(), 1);
    let next = fixture.add_block(inode, Some(v1::Block { length: 1 << 20, ..block }), 1 << 20);
    assert!(next.id > block.id);
    check_invariants(&fixture.namespace);
}

#[test]
fn complete_drops_a_block_that_stayed_empty() {
    let mut fixture = Fixture::new();
    let Outcome::Created { inode, .. } = fixture.run(create_with_block(ROOT_INODE, "a")).unwrap() else { panic!() };
    let block =
        v1::Block::from(Block::from(*fixture.namespace.inode(inode).unwrap().blocks().unwrap().last().unwrap()));
    assert_eq!(fixture.kind_of(complete(inode, None)), Some(ErrorKind::InvalidArgument), "its length must be told");
    fixture.run(complete(inode, Some(block))).unwrap();
    assert_eq!(fixture.namespace.attr(inode).unwrap().block_count, 0);
    assert!(fixture.namespace.lease(inode).is_none());
    check_invariants(&fixture.namespace);
}

#[test]
fn create_of_what_is_there_allocates_nothing() {
    let mut fixture = Fixture::new();
    let id = fixture.create("a");
    fixture.run(complete(id, None)).unwrap();
    let Op::Create(op) = create_with_block(ROOT_INODE, "a") else { unreachable!() };
    let outcome = fixture.run(Op::Create(v1::CreateOp { exclusive: false, ..op })).unwrap();
    assert_eq!(outcome, Outcome::Created { inode: id, created: false });
    assert_eq!(fixture.namespace.attr(id).unwrap().block_count, 0);
}

#[test]
fn a_writer_that_dies_while_reopening_leaves_the_file_to_recovery() {
    let mut fixture = Fixture::new();
    let id = fixture.create("a");
    let block = fixture.add_block(id, None, 0);
    fixture.run(complete(id, Some(v1::Block { length: 20, ..block }))).unwrap();
    fixture.run(Op::OpenForAppend(v1::OpenForAppendOp { inode: id.0, truncate: false })).unwrap();
    fixture.run(Op::NewGenerationStamp(v1::NewGenerationStampOp { inode: id.0, block_id: block.id })).unwrap();
    fixture.open_session(CLIENT);
    assert!(fixture.namespace.lease(id).unwrap().needs_recovery);
}

#[test]
fn an_unlinked_file_goes_with_its_dead_writer() {
    let mut fixture = Fixture::new();
    let (before, after) = (fixture.create("before"), fixture.create("after"));
    fixture.add_block(before, None, 0);
    fixture.add_block(after, None, 0);
    fixture.run(remove(ROOT_INODE, "before", RemoveKind::RemoveUnlink)).unwrap();
    fixture.open_session(CLIENT);
    assert!(fixture.namespace.attr(before).is_err());
    fixture.call = 0;
    let caller = Some(v1::Caller::default());
    let unlink = remove(ROOT_INODE, "after", RemoveKind::RemoveUnlink);
    fixture.apply(EditOp { caller, op: Some(unlink), ..EditOp::default() }).unwrap();
    assert!(fixture.namespace.attr(after).is_err());
    check_invariants(&fixture.namespace);
}

#[test]
fn a_full_retry_cache_lets_the_oldest_call_through() {
    let mut fixture = Fixture::new();
    let call = |fixture: &Fixture, call: u64| EditOp {
        retry: Some(RetryId { lowest_pending_call_id: 1, ..fixture.retry_id(CLIENT, 1, call) }),
        caller: Some(v1::Caller::default()),
        op: Some(Op::Hold(v1::HoldOp { inode: ROOT_INODE.0 })),
        ..EditOp::default()
    };
    for number in 2..=super::super::retry_cache::OUTCOMES_PER_SESSION_MAX as u64 + 1 {
        let op = call(&fixture, number);
        fixture.apply(op).unwrap();
    }
    let refused = call(&fixture, 1_000_000);
    assert_eq!(fixture.apply(refused).unwrap_err().kind(), ErrorKind::Unavailable);
    let oldest = call(&fixture, 1);
    fixture.apply(oldest).unwrap();
}

#[test]
fn append_by_a_second_client_is_busy() {
    let mut fixture = Fixture::new();
    let id = fixture.create("a");
    let other = ClientId([9; 16]);
    fixture.open_session(other);
    let append = Op::OpenForAppend(v1::OpenForAppendOp { inode: id.0, truncate: false });
    let incarnation = fixture.namespace.session(other).unwrap().incarnation.0;
    let mut op = EditOp { op: Some(append), caller: Some(v1::Caller::default()), ..EditOp::default() };
    op.retry = Some(fixture.retry_id(other, incarnation, 1));
    assert_eq!(fixture.apply(op.clone()).unwrap_err().kind(), ErrorKind::Busy);
    fixture.run(complete(id, None)).unwrap();
    op.retry = Some(fixture.retry_id(other, incarnation, 2));
    assert_eq!(fixture.apply(op).unwrap(), Outcome::Appended { inode: id, last: None });
}

#[test]
fn a_repeated_call_happens_once_and_an_old_life_is_refused() {
    let mut fixture = Fixture::new();
    let op = EditOp {
        retry: Some(fixture.retry_id(CLIENT, 1, 1)),
        caller: Some(v1::Caller::default()),
        time_ns: 5,
        op: Some(make_node(ROOT_INODE, "d", FileKind::Directory)),
        ..EditOp::default()
    };
    let first = fixture.apply(op.clone()).unwrap();
    assert_eq!(fixture.apply(op.clone()).unwrap(), first, "a repeat gives the first outcome");
    assert_eq!(fixture.open_session(CLIENT), Outcome::Session(dfs_common::ids::Incarnation(4)));
    assert_eq!(fixture.apply(op).unwrap_err().kind(), ErrorKind::OutcomeUnknown, "nobody waited for it");
}

#[test]
fn a_new_life_closes_files_without_an_open_block_and_leaves_others_to_recovery() {
    let mut fixture = Fixture::new();
    let (idle, busy) = (fixture.create("idle"), fixture.create("busy"));
    fixture.add_block(busy, None, 0);
    fixture.open_session(CLIENT);
    assert!(fixture.namespace.lease(idle).is_none());
    assert!(fixture.namespace.lease(busy).unwrap().needs_recovery);
}

#[test]
fn unlink_of_a_leased_or_held_file_keeps_it_until_released() {
    let mut fixture = Fixture::new();
    let id = fixture.create("a");
    let block = fixture.add_block(id, None, 0);
    fixture.run(Op::Hold(v1::HoldOp { inode: id.0 })).unwrap();
    fixture.run(remove(ROOT_INODE, "a", RemoveKind::RemoveUnlink)).unwrap();
    assert_eq!(fixture.namespace.attr(id).unwrap().nlink, 0);
    fixture.run(complete(id, Some(v1::Block { length: 1, ..block }))).unwrap();
    assert!(fixture.namespace.attr(id).is_ok());
    fixture.events.clear();
    fixture.run(Op::ReleaseHold(v1::ReleaseHoldOp { inode: id.0, call_id: 0 })).unwrap();
    assert_eq!(fixture.namespace.attr(id).unwrap_err().kind(), ErrorKind::Stale);
    assert!(matches!(fixture.events[..], [BlockEvent::Removed { .. }]));
}

#[test]
fn rename_follows_the_posix_table() {
    let mut fixture = Fixture::new();
    let root = ROOT_INODE;
    let dir = fixture.make(root, "dir", FileKind::Directory);
    let inner = fixture.make(dir, "inner", FileKind::Directory);
    let file = fixture.make(root, "file", FileKind::File);
    let other = fixture.make(root, "other", FileKind::File);
    fixture.make(root, "empty", FileKind::Directory);
    let replace = RenameFlag::RenameReplace;
    type Place = (InodeId, &'static str);
    let cases: &[(Place, Place, RenameFlag, Option<ErrorKind>)] = &[
        ((root, "missing"), (root, "x"), replace, Some(ErrorKind::NotFound)),
        ((root, "dir"), (inner, "x"), replace, Some(ErrorKind::InvalidArgument)),
        ((root, "dir"), (dir, "x"), replace, Some(ErrorKind::InvalidArgument)),
        ((root, "file"), (root, "dir"), replace, Some(ErrorKind::IsADirectory)),
        ((root, "dir"), (root, "file"), replace, Some(ErrorKind::NotADirectory)),
        ((root, "empty"), (root, "dir"), replace, Some(ErrorKind::DirectoryNotEmpty)),
        ((root, "file"), (root, "other"), RenameFlag::RenameNoreplace, Some(ErrorKind::AlreadyExists)),
        ((root, "file"), (root, "gone"), RenameFlag::RenameExchange, Some(ErrorKind::NotFound)),
        ((root, "dir"), (dir, "inner"), RenameFlag::RenameExchange, Some(ErrorKind::InvalidArgument)),
        ((root, "file"), (dir, "inner"), RenameFlag::RenameExchange, None),
        ((dir, "inner"), (root, "file"), RenameFlag::RenameExchange, None),
        ((root, "file"), (root, "other"), replace, None),
        ((root, "dir"), (root, "empty"), replace, None),
        ((root, "other"), (root, "new"), RenameFlag::RenameNoreplace, None),
    ];
    for (from, to, flag, expected) in cases {
        assert_eq!(fixture.kind_of(rename(*from, *to, *flag)), *expected, "{from:?} -> {to:?} {flag:?}");
        check_invariants(&fixture.namespace);
    }
    assert_eq!(fixture.lookup(root, "new"), Some(file));
    assert_eq!(fixture.lookup(root, "empty"), Some(dir));
    assert!(fixture.namespace.attr(other).is_err());
}

#[test]
fn permissions_are_those_of_the_mode_bits() {
    let mut fixture = Fixture::new();
    let dir = fixture.make(ROOT_INODE, "dir", FileKind::Directory);
    let chmod = |id: InodeId, mode| Op::SetAttr(v1::SetAttrOp { inode: id.0, mode: Some(mode), ..Default::default() });
    fixture.run(chmod(dir, 0o1777)).unwrap();
    let file = fixture.make(dir, "roots", FileKind::File);
    fixture.caller = v1::Caller { uid: 1000, gid: 1000, groups: vec![50], is_authorised: false };
    let mine = fixture.make(dir, "mine", FileKind::File);
    let unlink = RemoveKind::RemoveUnlink;
    assert_eq!(fixture.kind_of(remove(dir, "roots", unlink)), Some(ErrorKind::NotPermitted), "sticky");
    assert_eq!(fixture.kind_of(chmod(file, 0o777)), Some(ErrorKind::NotPermitted));
    assert_eq!(fixture.kind_of(create(ROOT_INODE, "x")), Some(ErrorKind::PermissionDenied));
    let chown = |uid, gid| Op::SetAttr(v1::SetAttrOp { inode: mine.0, uid, gid, ..Default::default() });
    assert_eq!(fixture.kind_of(chown(Some(0), None)), Some(ErrorKind::NotPermitted));
    assert_eq!(fixture.kind_of(chown(None, Some(51))), Some(ErrorKind::NotPermitted));
    assert_eq!(fixture.kind_of(chown(None, Some(50))), None);
    fixture.run(chmod(mine, 0o6755)).unwrap();
    assert_eq!(fixture.namespace.attr(mine).unwrap().permissions, 0o6755);
    fixture.run(chown(None, Some(1000))).unwrap();
    assert_eq!(fixture.namespace.attr(mine).unwrap().permissions, 0o755, "chown takes the set-id bits");
    assert_eq!(fixture.kind_of(remove(dir, "mine", unlink)), None);
}

#[test]
fn remove_recursive_takes_the_whole_tree_and_its_blocks() {
    let mut fixture = Fixture::new();
    let top = fixture.make(ROOT_INODE, "top", FileKind::Directory);
    let below = fixture.make(top, "below", FileKind::Directory);
    for parent in [top, below] {
        for i in 0..3 {
            fixture.make(parent, &format!("f{i}"), FileKind::File);
        }
    }
    let linked = fixture.lookup(top, "f0").unwrap();
    let link = v1::LinkOp { inode: linked.0, new_parent: ROOT_INODE.0, new_name: bytes("kept") };
    fixture.run(Op::Link(link)).unwrap();
    fixture.run(remove(ROOT_INODE, "top", RemoveKind::RemoveRecursive)).unwrap();
    check_invariants(&fixture.namespace);
    assert_eq!(fixture.namespace.counts(), (1, 1, 0));
    assert_eq!(fixture.namespace.attr(linked).unwrap().nlink, 1);
}
