use dfs_common::ids::BlockId;

use super::*;

/// Generation stamp of the block at the NameNode.
const STAMP: u64 = 10;

fn claim(state: ReplicaState, stamp: u64, length: u64, synced: u64) -> Claim {
    let block = Block { id: BlockId(1), generation_stamp: GenerationStamp(stamp), length };
    Claim { holder: 0, block, state, synced }
}

fn finalized(length: u64) -> Claim {
    claim(ReplicaState::Finalized, STAMP, length, 0)
}

fn rbw(length: u64) -> Claim {
    claim(ReplicaState::Rbw, STAMP, length, 0)
}

/// After a restart everything proven may have been promised.
fn rwr(length: u64) -> Claim {
    claim(ReplicaState::Rwr, STAMP, length, length)
}

fn stale(length: u64) -> Claim {
    claim(ReplicaState::Finalized, STAMP - 1, length, 0)
}

fn newer(state: ReplicaState, length: u64) -> Claim {
    claim(state, STAMP + 5, length, 0)
}

fn terms(floor: u64, others_are_away: bool) -> Terms {
    Terms {
        generation_stamp: GenerationStamp(STAMP),
        floor,
        truncate_length: None,
        others_are_away,
        dead_may_return: false,
    }
}

/// What it shows; floor, whether the length is given, what the nodes say; what is agreed.
type Row<'a> = (&'a str, u64, bool, &'a [Claim], Option<Agreement>);

#[test]
fn agree_follows_the_table() {
    use Agreement::{Drop, Length};
    let rows: &[Row<'_>] = &[
        ("nobody has it", 0, false, &[], Some(Drop)),
        ("nobody says so, some are away", 0, true, &[], None),
        ("nobody has it, but bytes were promised", 1, false, &[], None),
        ("only stale ones", 0, false, &[stale(50)], Some(Drop)),
        ("only stale ones, but bytes were promised", 50, false, &[stale(50)], None),
        ("empty ones", 0, false, &[rbw(0), rbw(0)], Some(Drop)),
        ("all finalized", 0, false, &[finalized(9), finalized(9)], Some(Length(9, vec![0, 1]))),
        ("finalized beats written", 0, false, &[rbw(9), finalized(9), rbw(5)], Some(Length(9, vec![0, 1]))),
        ("finalized cuts longer ones", 0, false, &[finalized(5), rbw(9)], Some(Length(5, vec![0, 1]))),
        ("finalized beats restarted, others away", 0, true, &[rwr(9), finalized(7)], Some(Length(7, vec![0, 1]))),
        ("the shortest of the written", 0, true, &[rbw(9), rbw(5), rbw(7)], Some(Length(5, vec![0, 1, 2]))),
        ("written beats restarted", 0, true, &[rbw(5), rwr(9), rwr(3)], Some(Length(5, vec![0, 1]))),
        ("the longest of the restarted", 0, false, &[rwr(5), rwr(9), rwr(9)], Some(Length(9, vec![1, 2]))),
        ("restarted alone do not decide while others are away", 0, true, &[rwr(5)], None),
        ("floor above the shortest written", 7, false, &[rbw(5), rbw(9)], Some(Length(9, vec![1]))),
        ("floor above a written one, reached by a restarted", 8, false, &[rbw(5), rwr(8)], Some(Length(8, vec![1]))),
        ("floor that nobody reaches", 10, false, &[rbw(5), rwr(8), finalized(9)], None),
        ("floor met exactly", 5, false, &[rbw(5), rbw(9)], Some(Length(5, vec![0, 1]))),
        (
            "an interrupted recovery's outcome decides",
            0,
            false,
            &[newer(ReplicaState::Finalized, 6), rbw(9), finalized(8)],
            Some(Length(6, vec![0, 1, 2])),
        ),
        (
            "a reopened one that was not announced",
            9,
            false,
            &[newer(ReplicaState::Rbw, 9), finalized(9)],
            Some(Length(9, vec![0, 1])),
        ),
        (
            "synced on one written replica is a floor too",
            0,
            false,
            &[claim(ReplicaState::Rbw, STAMP, 9, 8), rbw(5)],
            Some(Length(8, vec![0])),
        ),
    ];
    for (name, floor, others_are_away, claims, expected) in rows {
        let agreed = agree(&terms(*floor, *others_are_away), claims).ok();
        assert_eq!(agreed, *expected, "{name}");
    }
}

#[test]
fn agree_drops_nothing_because_a_dead_node_was_not_waited_for() {
    let while_dead = Terms { dead_may_return: true, ..terms(0, false) };
    assert!(agree(&while_dead, &[]).is_err());
    assert!(agree(&while_dead, &[rwr(0), stale(50)]).is_err());
    // Who was in the middle of writing it knows that nothing was acknowledged.
    assert_eq!(agree(&while_dead, &[rbw(0)]).unwrap(), Agreement::Drop);
    assert_eq!(agree(&while_dead, &[rwr(5)]).unwrap(), Agreement::Length(5, vec![0]));
}

#[test]
fn agree_on_a_truncation_takes_whoever_is_long_enough() {
    let cut = |length| Terms { truncate_length: Some(length), ..terms(length, true) };
    let claims = [finalized(9), newer(ReplicaState::Finalized, 4), stale(9), rwr(3)];
    assert_eq!(agree(&cut(4), &claims).unwrap(), Agreement::Length(4, vec![0, 1]));
    assert!(agree(&cut(10), &claims).is_err());
}
