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
/// fails is reported. Once there is a failure that would meet everything else too, nothing more is begun, and what is under way
/// still counts.
///
/// # Errors
/// A failure that would meet everything else too, or that of `done`.
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
    let mut under_way = FuturesOrdered::new();
    let mut ended: Option<Outcome> = None;
    loop {
        while ended.is_none() && under_way.len() < CHANGES_AT_ONCE {
            match walk.next().await {
                Ok(Some(node)) => under_way.push_back(change(node)),
                Ok(None) => ended = Some(Ok(())),
                Err(failure) => ended = Some(Err(failure)),
            }
        }
        let Some(outcome) = under_way.next().await else { return ended.unwrap_or(Ok(())) };
        match ctx.tolerate(outcome) {
            Ok(changed) => changed.map_or(Ok(()), &mut done)?,
            Err(failure) => ended = Some(ended.unwrap_or(Ok(())).and(Err(failure))),
        }
    }
}
