//! The same small change for everything in a tree, several at once and told in order.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream::{self, FuturesOrdered, Stream, StreamExt};

use crate::context::Context;
use crate::failure::Outcome;
use crate::tree::{Node, Walk};

/// Changes under way at once: the NameNode makes one durable write of all that wait, so a few dozen cost little more
/// than one.
const CHANGES_AT_ONCE: usize = 32;

/// Calls `change` for `top`, and with `recursive` for everything below it, and `done` with what succeeded, in order. What
/// fails is reported. After a failure that ends it nothing more is begun, but `done` still hears of what was under way.
///
/// # Errors
/// The first failure that would meet everything else too, or that of `done`.
pub(crate) async fn each<T, Change>(
    ctx: &Context,
    top: Node,
    recursive: bool,
    change: impl Fn(Node) -> Change,
    mut done: impl FnMut(T) -> Outcome,
) -> Outcome
where
    Change: Future<Output = Outcome<T>>,
{
    if !recursive {
        return ctx.tolerate(change(top).await)?.map_or(Ok(()), done);
    }
    // The walk lists a directory before it hands it out: a mode that forbids listing does not stop us below it.
    let walk =
        stream::try_unfold(Walk::new(ctx, top), async |mut walk| Ok(walk.next().await?.map(|node| (node, walk))));
    in_order(walk, change, |outcome| match ctx.tolerate(outcome) {
        Ok(changed) => changed.map_or(Ok(()), &mut done),
        Err(failure) => Err(failure),
    })
    .await
}

/// Changes what comes from the walk, several at once, and calls `tell` with what came of each, in order. Changes run while
/// the walk goes on. The first failure of the walk or of `tell` ends it, once what was under way has been told.
async fn in_order<N, T, Change: Future<Output = Outcome<T>>>(
    walk: impl Stream<Item = Outcome<N>>,
    change: impl Fn(N) -> Change,
    mut tell: impl FnMut(Outcome<T>) -> Outcome,
) -> Outcome {
    let is_over = AtomicBool::new(false);
    // The node that came last may still wait to be begun.
    let begin = async |node| if is_over.load(Ordering::Relaxed) { None } else { Some(change(node).await) };
    let mut tell_of = |changed: Option<Outcome<T>>| changed.map_or(Ok(()), &mut tell);
    let mut walk = pin!(walk.fuse());
    let mut under_way = FuturesOrdered::new();
    let mut outcome = Ok(());
    loop {
        let is_wanted = outcome.is_ok() && under_way.len() < CHANGES_AT_ONCE;
        tokio::select! {
            // Looked at first, so that what has come is begun before the walk goes on.
            biased;
            Some(changed) = under_way.next() => outcome = outcome.and(tell_of(changed)),
            Some(node) = walk.next(), if is_wanted => match node {
                Ok(node) => under_way.push_back(begin(node)),
                Err(failure) => outcome = Err(failure),
            },
            else => return outcome,
        }
        is_over.store(outcome.is_err(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use tokio::sync::Notify;
    use tokio::task::yield_now;

    use super::*;
    use crate::failure::Failure;

    /// Notes that it has begun, and takes a while.
    async fn noted(begun: &RefCell<Vec<usize>>, number: usize, failing: usize) -> Outcome<usize> {
        begun.borrow_mut().push(number);
        yield_now().await;
        if number == failing { Err(Failure::refused(number, "it is over")) } else { Ok(number) }
    }

    #[tokio::test]
    async fn in_order_tells_of_what_was_under_way_when_a_failure_ends_it() {
        let (begun, mut told) = (RefCell::default(), Vec::new());
        let tell = |outcome: Outcome<usize>| outcome.map(|number| told.push(number));
        let failure = in_order(stream::iter(1..).map(Ok), |number| noted(&begun, number, 3), tell).await.unwrap_err();
        assert_eq!(failure.to_string(), "3: it is over");
        assert!(begun.borrow().len() >= CHANGES_AT_ONCE);
        begun.borrow_mut().retain(|number| *number != 3);
        assert_eq!(told, begun.into_inner());
    }

    #[tokio::test]
    async fn in_order_begins_changes_while_it_walks_and_none_once_that_has_failed() {
        let (begun, mut told, begun_by_then) = (RefCell::new(Vec::new()), Vec::new(), Cell::new(0));
        let fail = async {
            begun_by_then.set(begun.borrow().len());
            Err(Failure::refused("walk", "it is over"))
        };
        let walk = stream::iter([1, 2]).map(Ok).chain(stream::once(fail));
        let tell = |outcome: Outcome<usize>| outcome.map(|number| told.push(number));
        let failure = in_order(walk, |number| noted(&begun, number, 0), tell).await.unwrap_err();
        assert_eq!(failure.to_string(), "walk: it is over");
        assert_eq!((begun_by_then.get(), told), (2, vec![1, 2]));
        assert_eq!(begun.into_inner(), [1, 2]);
    }

    #[tokio::test]
    async fn in_order_begins_nothing_and_waits_for_no_walk_once_a_change_has_ended_it() {
        let (begun, released) = (RefCell::new(Vec::new()), Notify::new());
        let second = async {
            released.notify_one();
            Ok(2)
        };
        let walk = stream::iter([Ok(1)]).chain(stream::once(second)).chain(stream::pending());
        let change = async |number| {
            begun.borrow_mut().push(number);
            if number == 1 {
                released.notified().await;
            }
            Err::<(), _>(Failure::refused(number, "it is over"))
        };
        let failure = in_order(walk, change, |outcome| outcome).await.unwrap_err();
        assert_eq!(failure.to_string(), "1: it is over");
        assert_eq!(begun.into_inner(), [1]);
    }
}
