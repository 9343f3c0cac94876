use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_proto::v1;

use super::*;

fn waiting(length: u64, is_truncating: bool) -> Waiting {
    let block = Block { id: BlockId(1), generation_stamp: GenerationStamp(1), length };
    Waiting { inode: InodeId(7), block, is_truncating, pipeline: Vec::new() }
}

fn holders(live: &[&str], others_are_away: bool) -> Holders {
    let node = |uuid: &&str| v1::DatanodeId { uuid: (*uuid).to_owned(), ..Default::default() };
    Holders { live: live.iter().map(node).collect(), others_are_away, ..Holders::default() }
}

fn asked(primary: &str, since: Instant) -> Attempt {
    Attempt { primary: Some(primary.to_owned()), registration: None, since, earlier: 0 }
}

#[test]
fn choose_step_without_a_holder_drops_only_what_nobody_was_promised() {
    let now = Instant::now();
    let none = holders(&[], false);
    assert_eq!(choose_step(&waiting(0, false), &none, None, false, now), Step::Drop);
    assert_eq!(choose_step(&waiting(1, false), &none, None, false, now), Step::Stuck);
    assert_eq!(choose_step(&waiting(0, true), &none, None, false, now), Step::Stuck);
    assert_eq!(choose_step(&waiting(0, false), &holders(&[], true), None, false, now), Step::Wait);
    let dead = Holders { dead_may_return: true, ..none };
    assert_eq!(choose_step(&waiting(0, false), &dead, None, false, now), Step::Stuck, "it may have had bytes");
}

#[test]
fn choose_step_asks_one_holder_after_the_other_with_growing_patience() {
    let start = Instant::now();
    let all = holders(&["a", "b"], true);
    let attempt = |primary: &str, earlier| Attempt { earlier, ..asked(primary, start) };
    assert_eq!(choose_step(&waiting(5, false), &all, None, false, start), Step::Start(0));
    let first = attempt("a", 0);
    assert_eq!(choose_step(&waiting(5, false), &all, Some(&first), false, start + PATIENCE_FIRST / 2), Step::Wait);
    assert_eq!(choose_step(&waiting(5, false), &all, Some(&first), false, start + PATIENCE_FIRST), Step::Start(1));
    let second = attempt("b", 1);
    assert_eq!(choose_step(&waiting(5, false), &all, Some(&second), false, start + PATIENCE_FIRST), Step::Wait);
    assert_eq!(choose_step(&waiting(5, false), &all, Some(&second), false, start + 2 * PATIENCE_FIRST), Step::Start(0));
    assert_eq!(patience(60), PATIENCE_MAX);
}

#[test]
fn choose_step_does_not_wait_for_a_dead_primary() {
    let now = Instant::now();
    let attempt = asked("dead", now);
    assert_eq!(choose_step(&waiting(5, false), &holders(&["b"], false), Some(&attempt), false, now), Step::Start(0));
    let stuck = Attempt { primary: None, ..attempt };
    assert_eq!(
        choose_step(&waiting(5, false), &holders(&[], false), Some(&stuck), false, now),
        Step::Wait,
        "said once a while"
    );
    let back = holders(&["b", "c"], false);
    let long_stuck = Attempt { earlier: 3, ..stuck };
    assert_eq!(choose_step(&waiting(5, false), &back, Some(&long_stuck), false, now), Step::Start(0), "it came back");
}

#[test]
fn choose_step_does_not_wait_for_a_primary_that_has_registered_anew() {
    let now = Instant::now();
    let of = |registration| Holders {
        registrations: vec![Some(RegistrationId(registration)), None],
        ..holders(&["a", "b"], false)
    };
    let attempt = Attempt { registration: Some(RegistrationId(1)), ..asked("a", now) };
    assert_eq!(choose_step(&waiting(5, false), &of(1), Some(&attempt), false, now), Step::Wait);
    assert_eq!(choose_step(&waiting(5, false), &of(2), Some(&attempt), false, now), Step::Start(1));
}

#[test]
fn choose_step_at_start_waits_unless_the_whole_pipeline_is_there() {
    let now = Instant::now();
    let step = |pipeline: &[&str], holders: &Holders| {
        let pipeline = pipeline.iter().map(|uuid| (*uuid).to_owned()).collect();
        choose_step(&Waiting { pipeline, ..waiting(5, false) }, holders, None, true, now)
    };
    assert_eq!(step(&["a", "b"], &holders(&["b", "a", "c"], false)), Step::Start(0));
    assert_eq!(step(&["a", "b"], &holders(&["a", "c"], false)), Step::Wait);
    assert_eq!(step(&["a", "b"], &holders(&["a", "b"], true)), Step::Wait);
    assert_eq!(step(&[], &holders(&["a", "b"], false)), Step::Wait, "not known after a checkpoint");
}
