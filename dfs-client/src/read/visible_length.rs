//! How long a block is that is being written: its replicas know, and one of them, or all, are asked.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use dfs_common::error::{DfsError, ErrorKind, Result};
use futures::stream::{FuturesUnordered, StreamExt};
use tracing::debug;

use super::replica_choice::choose_order;
use crate::datanode::{Datanodes, Located, Node, Replica};

/// Silence of a node after which the next one is asked, too: a hung one must not hold up a stat.
const VISIBLE_LENGTH_PATIENCE: Duration = Duration::from_millis(300);

/// The first answer. Another replica is asked when one fails or takes long; nodes that did so lately come last.
pub(super) async fn first_visible_length(datanodes: &Datanodes, last: &Located, silence: &mut Silence) -> Option<u64> {
    let mut unasked = choose_order(&last.replicas, |node| datanodes.is_suspect(node)).into_iter();
    let mut asked = FuturesUnordered::new();
    loop {
        let next = unasked.next().map(|index| &last.replicas[index].node);
        asked.extend(next.map(|node| visible_length(datanodes, node, last)));
        tokio::select! {
            answer = asked.next() => match answer {
                Some(Ok(length)) => return Some(length),
                Some(Err(error)) => silence.note(&error),
                None => return None,
            },
            () = tokio::time::sleep(VISIBLE_LENGTH_PATIENCE), if next.is_some() => {
                next.into_iter().for_each(|node| datanodes.note_slow(node));
            }
        }
    }
}

/// The greatest answer of all replicas. Nodes that hang are waited for only until another one has answered, and those that
/// did so lately not at all then.
pub(super) async fn longest_visible_length(
    datanodes: &Datanodes,
    last: &Located,
    silence: &mut Silence,
) -> Option<u64> {
    let ask = |replica: &Replica| {
        let node = Arc::clone(&replica.node);
        async move { (visible_length(datanodes, &node, last).await, node) }
    };
    let mut asked: FuturesUnordered<_> = last.replicas.iter().map(ask).collect();
    let mut silent: Vec<Arc<Node>> = last.replicas.iter().map(|replica| Arc::clone(&replica.node)).collect();
    let mut longest = None;
    let mut patience = pin!(tokio::time::sleep(VISIBLE_LENGTH_PATIENCE));
    loop {
        if longest.is_some() && silent.iter().all(|node| datanodes.is_suspect(node)) {
            return longest;
        }
        tokio::select! {
            answer = asked.next() => {
                let Some((answer, node)) = answer else { return longest };
                silent.retain(|other| !Arc::ptr_eq(other, &node));
                match answer {
                    Ok(length) => longest = longest.max(Some(length)),
                    Err(error) => silence.note(&error),
                }
            }
            () = &mut patience, if longest.is_some() => {
                silent.iter().for_each(|node| datanodes.note_slow(node));
                return longest;
            }
        }
    }
}

/// Bytes that readers may see of the last block of a file at a node.
async fn visible_length(datanodes: &Datanodes, node: &Node, last: &Located) -> Result<u64> {
    datanodes.visible_length(node, &last.block).await.and_then(|length| last.checked_length(length))
}

/// What replicas answered that told no length.
#[derive(Default)]
pub(super) struct Silence {
    /// These are DataNodes that have nothing of the block.
    pub(super) without_it: usize,
    failures: Vec<String>,
}

impl Silence {
    fn note(&mut self, error: &DfsError) {
        if error.kind() == ErrorKind::NotFound {
            self.without_it += 1;
        }
        self.failures.push(error.chain().to_string());
    }

    pub(super) fn into_error(self, last: &Located) -> DfsError {
        let mut words = format!("no DataNode tells the length of {}, which is being written", last.block);
        if !self.failures.is_empty() {
            words = format!("{words} ({})", self.failures.join("; "));
        }
        debug!("{words}");
        DfsError::new(ErrorKind::Io, words)
    }
}
