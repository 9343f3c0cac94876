//! Leases taken away, blocks recovered, files cut.

use super::*;

fn truncate(id: InodeId, length: u64) -> Op {
    Op::Truncate(v1::TruncateOp { inode: id.0, length })
}

/// A closed file with blocks of these lengths.
fn closed_file(fixture: &mut Fixture, name: &str, lengths: &[u64]) -> (InodeId, Vec<v1::Block>) {
    let id = fixture.create(name);
    let (mut previous, mut offset, mut blocks) = (None, 0, Vec::new());
    for &length in lengths {
        let block = v1::Block { length, ..fixture.add_block(id, previous.take(), offset) };
        offset += length;
        previous = Some(block);
        blocks.push(block);
    }
    fixture.run(complete(id, previous)).unwrap();
    fixture.events.clear();
    (id, blocks)
}

/// An op of the NameNode's own.
fn run_internally(fixture: &mut Fixture, op: Op) -> Result<Outcome> {
    fixture.apply(EditOp { caller: Some(v1::Caller::default()), op: Some(op), ..EditOp::default() })
}

fn start_recovery(fixture: &mut Fixture, id: InodeId, block: &v1::Block) -> u64 {
    let op = v1::StartRecoveryOp { inode: id.0, block_id: block.id };
    match run_internally(fixture, Op::StartRecovery(op)).unwrap() {
        Outcome::GenerationStamp(stamp) => stamp.0,
        other => panic!("{other:?}"),
    }
}

fn close(id: InodeId, last: Option<v1::Block>, recovery_id: u64) -> Op {
    let delete_block = last.is_none();
    Op::CloseRecovered(v1::CloseRecoveredOp { inode: id.0, last, delete_block, recovery_id, ..Default::default() })
}

#[test]
fn truncate_at_a_blocks_end_frees_the_blocks_behind_at_once() {
    let mut fixture = Fixture::new();
    let (id, blocks) = closed_file(&mut fixture, "a", &[100, 200, 300]);
    fixture.run(truncate(id, 100)).unwrap();
    assert_eq!(fixture.namespace.attr(id).unwrap().length, 100);
    assert!(fixture.namespace.lease(id).is_none());
    let removed = |block: &v1::Block| BlockEvent::Removed { id: dfs_common::ids::BlockId(block.id) };
    assert_eq!(fixture.events, [removed(&blocks[1]), removed(&blocks[2])]);
    check_invariants(&fixture.namespace);
}

#[test]
fn truncate_inside_a_block_is_over_when_its_replicas_are_cut() {
    let mut fixture = Fixture::new();
    let (id, blocks) = closed_file(&mut fixture, "a", &[100, 200, 300]);
    fixture.run(truncate(id, 150)).unwrap();
    let attr = fixture.namespace.attr(id).unwrap();
    assert_eq!((attr.length, attr.under_construction, attr.block_count), (150, true, 2));
    check_invariants(&fixture.namespace);
    // Nobody may write meanwhile, nor cut again; the end of the client's session changes nothing.
    let append = Op::OpenForAppend(v1::OpenForAppendOp { inode: id.0, truncate: false });
    assert_eq!(fixture.kind_of(append), Some(ErrorKind::Busy));
    assert_eq!(fixture.kind_of(truncate(id, 0)), Some(ErrorKind::Busy));
    let early = close(id, Some(v1::Block { length: 50, ..blocks[1] }), 0);
    assert!(run_internally(&mut fixture, early).is_err(), "no recovery has begun");
    fixture.open_session(CLIENT);
    let stamp = start_recovery(&mut fixture, id, &blocks[1]);
    for length in [0, 49, 51] {
        let wrong = close(id, Some(v1::Block { length, generation_stamp: stamp, ..blocks[1] }), stamp);
        assert!(run_internally(&mut fixture, wrong).is_err(), "cut to {length} instead of 50");
    }
    assert!(run_internally(&mut fixture, close(id, None, stamp)).is_err(), "its bytes cannot be dropped");
    let right = close(id, Some(v1::Block { length: 50, generation_stamp: stamp, ..blocks[1] }), stamp);
    run_internally(&mut fixture, right).unwrap();
    let attr = fixture.namespace.attr(id).unwrap();
    assert_eq!((attr.length, attr.under_construction), (150, false));
    check_invariants(&fixture.namespace);
}

#[test]
fn truncate_to_more_is_unsupported_and_to_the_same_sets_times_only() {
    let mut fixture = Fixture::new();
    let (id, _) = closed_file(&mut fixture, "a", &[100]);
    assert_eq!(fixture.kind_of(truncate(id, 101)), Some(ErrorKind::Unsupported));
    let before = fixture.namespace.attr(id).unwrap().mtime_ns;
    fixture.run(truncate(id, 100)).unwrap();
    let attr = fixture.namespace.attr(id).unwrap();
    assert!(attr.mtime_ns > before && attr.length == 100 && !attr.under_construction);
}

#[test]
fn only_the_recovery_begun_last_closes_the_file() {
    let mut fixture = Fixture::new();
    let id = fixture.create("a");
    let block = fixture.add_block(id, None, 0);
    let record = v1::RecordLengthOp { inode: id.0, last: Some(v1::Block { length: 10, ..block }), modified_ns: None };
    fixture.run(Op::RecordLength(record)).unwrap();
    assert!(
        run_internally(&mut fixture, Op::StartRecovery(v1::StartRecoveryOp { inode: id.0, block_id: block.id }))
            .is_err(),
        "the writer lives"
    );
    let revoke = Op::RevokeLease(v1::RevokeLeaseOp { inode: id.0, ..Default::default() });
    assert_eq!(run_internally(&mut fixture, revoke).unwrap(), Outcome::Closed(false));
    let first = start_recovery(&mut fixture, id, &block);
    let second = start_recovery(&mut fixture, id, &block);
    let outcome = |stamp, length| close(id, Some(v1::Block { length, generation_stamp: stamp, ..block }), stamp);
    assert!(run_internally(&mut fixture, outcome(first, 20)).is_err());
    assert!(run_internally(&mut fixture, outcome(second, 9)).is_err(), "below what an fsync has recorded");
    assert!(run_internally(&mut fixture, close(id, None, second)).is_err());
    assert_eq!(run_internally(&mut fixture, outcome(second, 20)).unwrap(), Outcome::Closed(true));
    let attr = fixture.namespace.attr(id).unwrap();
    assert_eq!((attr.length, attr.under_construction), (20, false));
    assert!(run_internally(&mut fixture, outcome(second, 20)).is_err(), "a late repeat");
    check_invariants(&fixture.namespace);
}

#[test]
fn a_block_nobody_was_promised_a_byte_of_is_dropped() {
    let mut fixture = Fixture::new();
    let id = fixture.create("a");
    let block = fixture.add_block(id, None, 0);
    fixture.open_session(CLIENT);
    let old = start_recovery(&mut fixture, id, &block);
    let new = start_recovery(&mut fixture, id, &block);
    assert!(run_internally(&mut fixture, close(id, None, old)).is_err());
    fixture.events.clear();
    run_internally(&mut fixture, close(id, None, new)).unwrap();
    let attr = fixture.namespace.attr(id).unwrap();
    assert_eq!((attr.length, attr.block_count, attr.under_construction), (0, 0, false));
    assert!(matches!(fixture.events[..], [BlockEvent::Removed { .. }]));
    check_invariants(&fixture.namespace);
}

/// A mount that has the file open still reads it.
#[test]
fn a_removed_file_that_somebody_holds_waits_for_recovery() {
    let mut fixture = Fixture::new();
    fixture.step_limit = 100;
    let id = fixture.create("a");
    let block = fixture.add_block(id, None, 0);
    let reader = ClientId([8; 16]);
    let Outcome::Session(life) = fixture.open_session(reader) else { panic!() };
    let run_as_reader = |fixture: &mut Fixture, call, op| {
        let retry = Some(fixture.retry_id(reader, life.0, call));
        fixture.apply(EditOp { retry, caller: Some(v1::Caller::default()), op: Some(op), ..EditOp::default() }).unwrap()
    };
    run_as_reader(&mut fixture, 1, Op::Hold(v1::HoldOp { inode: id.0 }));
    fixture.run(remove(ROOT_INODE, "a", RemoveKind::RemoveUnlink)).unwrap();
    fixture.open_session(CLIENT);
    assert!(fixture.namespace.lease(id).is_some_and(|lease| lease.needs_recovery), "its bytes are not given up");
    check_invariants(&fixture.namespace);
    let stamp = start_recovery(&mut fixture, id, &block);
    let recovered = v1::Block { length: 20, generation_stamp: stamp, ..block };
    run_internally(&mut fixture, close(id, Some(recovered), stamp)).unwrap();
    assert_eq!(fixture.namespace.attr(id).unwrap().length, 20);
    run_as_reader(&mut fixture, 2, Op::ReleaseHold(v1::ReleaseHoldOp { inode: id.0, call_id: 0 }));
    assert!(fixture.namespace.attr(id).is_err());
    check_invariants(&fixture.namespace);
}

#[test]
fn a_removed_file_goes_with_its_last_hold_though_it_waits_for_recovery() {
    let mut fixture = Fixture::new();
    fixture.step_limit = 100;
    let id = fixture.create("a");
    fixture.add_block(id, None, 0);
    // The writer holds it, too: both end with the session.
    fixture.run(Op::Hold(v1::HoldOp { inode: id.0 })).unwrap();
    fixture.run(remove(ROOT_INODE, "a", RemoveKind::RemoveUnlink)).unwrap();
    fixture.open_session(CLIENT);
    assert!(fixture.namespace.attr(id).is_err() && fixture.namespace.lease(id).is_none());
    check_invariants(&fixture.namespace);
}

#[test]
fn revoke_lease_closes_a_file_without_an_open_block() {
    let mut fixture = Fixture::new();
    let (id, block) = (fixture.create("a"), fixture.create("b"));
    let revoke = |id: InodeId| Op::RevokeLease(v1::RevokeLeaseOp { inode: id.0, ..Default::default() });
    assert_eq!(run_internally(&mut fixture, revoke(id)).unwrap(), Outcome::Closed(true));
    assert!(fixture.namespace.lease(block).is_some(), "the client's other files stay its own");
}

#[test]
fn choices_of_a_later_version_are_refused_not_taken_for_the_default() {
    let mut fixture = Fixture::new();
    let (id, _) = closed_file(&mut fixture, "a", &[1]);
    let unknown = 77;
    let remove = v1::RemoveOp { parent: ROOT_INODE.0, name: bytes("a"), kind: unknown, ..v1::RemoveOp::default() };
    assert_eq!(fixture.kind_of(Op::Remove(remove)), Some(ErrorKind::InvalidArgument));
    let rename = v1::RenameOp {
        src_parent: ROOT_INODE.0,
        src_name: bytes("a"),
        dst_parent: ROOT_INODE.0,
        dst_name: bytes("b"),
        flag: unknown,
    };
    assert_eq!(fixture.kind_of(Op::Rename(rename)), Some(ErrorKind::InvalidArgument));
    let set = v1::SetXAttrOp { inode: id.0, name: bytes("user.a"), value: bytes("b"), flag: unknown };
    assert_eq!(fixture.kind_of(Op::SetXattr(set)), Some(ErrorKind::InvalidArgument));
}

#[test]
fn reclaim_block_waits_for_recovery_only_in_a_generation_that_was_lost() {
    let mut fixture = Fixture::new();
    let (id, blocks) = closed_file(&mut fixture, "a", &[100, 200]);
    let last = blocks[1];
    let reclaim = |block: v1::Block| Op::ReclaimBlock(v1::ReclaimBlockOp { inode: id.0, last: Some(block) });
    let grown = v1::Block { generation_stamp: last.generation_stamp + 10, length: 250, ..last };
    assert!(run_internally(&mut fixture, reclaim(grown)).is_err(), "nothing was lost");
    fixture.namespace.go_on_after_loss(0).unwrap();
    assert_eq!(fixture.kind_of(truncate(id, 0)), Some(ErrorKind::LeaseLost), "sessions have ended");
    assert!(
        run_internally(&mut fixture, reclaim(v1::Block { id: blocks[0].id, ..grown })).is_err(),
        "not the last block"
    );
    let newer = fixture.namespace.counters().next_generation_stamp.0;
    assert!(run_internally(&mut fixture, reclaim(v1::Block { generation_stamp: newer, ..grown })).is_err());
    run_internally(&mut fixture, reclaim(grown)).unwrap();
    check_invariants(&fixture.namespace);
    assert!(fixture.namespace.lease(id).unwrap().needs_recovery);
    assert!(run_internally(&mut fixture, reclaim(grown)).is_err(), "it waits already");
    let stamp = start_recovery(&mut fixture, id, &last);
    assert_eq!(stamp, newer, "far from what was given out before");
    let recovered = v1::Block { generation_stamp: stamp, ..grown };
    run_internally(&mut fixture, close(id, Some(recovered), stamp)).unwrap();
    assert_eq!(fixture.namespace.attr(id).unwrap().length, 350);
    assert!(fixture.namespace.lease(id).is_none());
    check_invariants(&fixture.namespace);
}
