//! The same small change for everything in a tree, several at once and told in order.

use std::future::Future;

use futures::stream::{FuturesOrdered, StreamExt};

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
    let mut walk = Walk::new(ctx, top);
    in_order(
        async || walk.next().await,
        change,
        |outcome| match ctx.tolerate(outcome) {
            Ok(changed) => changed.map_or(Ok(()), &mut done),
            Err(failure) => Err(failure),
        },
    )
    .await
}

/// Changes what `next` yields, several at once, and calls `tell` with what came of each, in order. The first failure of `next`
/// or `tell` ends it, once what was under way has been told.
async fn in_order<N, T, Change: Future<Output = Outcome<T>>>(
    mut next: impl AsyncFnMut() -> Outcome<Option<N>>,
    change: impl Fn(N) -> Change,
    mut tell: impl FnMut(Outcome<T>) -> Outcome,
) -> Outcome {
    let mut under_way = FuturesOrdered::new();
    let mut outcome = Ok(());
    let mut is_walking = true;
    loop {
        while is_walking && outcome.is_ok() && under_way.len() < CHANGES_AT_ONCE {
            match next().await {
                Ok(Some(node)) => under_way.push_back(change(node)),
                Ok(None) => is_walking = false,
                Err(failure) => outcome = Err(failure),
            }
        }
        match under_way.next().await {
            Some(changed) => outcome = outcome.and(tell(changed)),
            None => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    #[tokio::test]
    async fn in_order_tells_of_what_was_under_way_when_a_failure_ends_it() {
        let (mut begun, mut told) = (0, Vec::new());
        let next = async || {
            begun += 1;
            Ok(Some(begun))
        };
        let change =
            |number| async move { if number == 3 { Err(Failure::refused(number, "it is over")) } else { Ok(number) } };
        let tell = |outcome: Outcome<usize>| outcome.map(|number| told.push(number));
        let failure = in_order(next, change, tell).await.unwrap_err();
        assert_eq!(failure.to_string(), "3: it is over");
        // Two were told before the failure, each of which made room for another.
        let expected: Vec<usize> = (1..=CHANGES_AT_ONCE + 2).filter(|number| *number != 3).collect();
        assert_eq!((begun, told), (CHANGES_AT_ONCE + 2, expected));
    }

    #[tokio::test]
    async fn in_order_tells_of_what_was_under_way_when_there_is_no_more() {
        let mut left = vec![Err(Failure::refused("walk", "over")), Ok(Some(2)), Ok(Some(1))];
        let mut told = Vec::new();
        let tell = |outcome: Outcome<i32>| outcome.map(|number| told.push(number));
        let ended = in_order(async || left.pop().unwrap_or(Ok(None)), |number| async move { Ok(number) }, tell).await;
        assert!(ended.is_err());
        assert_eq!(told, [1, 2]);
    }
}
