//! The primary of a block recovery: asks all holders what they have, decides, has them cut to it, tells the NameNode.
//!
//! ```text
//!  RecoverOrder --> InitReplicaRecovery at every holder (stops writers, verifies)
//!                   agree (pure)
//!                   UpdateReplicaUnderRecovery at those that take part --> CommitBlockSynchronization
//! ```
//!
//! Any step may fail: the NameNode then begins another recovery with a higher id, at another primary perhaps. Holders obey
//! the highest id they have seen, and the NameNode takes the outcome of the last one only.
//!
//! How long the block is (`agree`), after HDFS:
//!
//! - A finalized replica has the length that its writer gave the block.
//! - Else, of replicas that were being written without a break (RBW), the shortest: whatever was acknowledged, each has it.
//! - Else, of replicas found after a restart or with bytes that are bad or cannot be read (RWR), the longest, where HDFS takes
//!   the shortest: one of them may have been told that it is on disk, and which one is not remembered. Only when every node
//!   that may have one was asked.
//!
//! Never below the floor, that is what an fsync recorded at the NameNode, while any replica reaches it. Replicas that are
//! shorter than the outcome do not take part and are replaced.

use std::time::Duration;

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::GenerationStamp;
use dfs_proto::convert::required;
use dfs_proto::v1;
use dfs_proto::v1::ReplicaState;
use dfs_proto::v1::datanode_client::DatanodeClient;
use dfs_proto::v1::inter_datanode_client::InterDatanodeClient;
use futures::future::join_all;
use tonic::transport::{Channel, Endpoint};
use tracing::{info, warn};

use super::deadline::call;

/// Time to connect to a holder.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for a holder to verify or cut a replica: a gigabyte from a slow disk.
const HOLDER_DEADLINE: Duration = Duration::from_secs(60);
/// Time for the NameNode to log the outcome.
const COMMIT_DEADLINE: Duration = Duration::from_secs(10);
/// Tries to tell it: a NameNode that restarts is back within seconds, and begins anew when it was not told.
const COMMIT_TRIES: u32 = 3;
/// Time between them.
const COMMIT_PAUSE: Duration = Duration::from_secs(1);

/// A recovery, and the NameNode that wants it.
pub(super) struct Recovery {
    pub(super) order: v1::RecoverOrder,
    pub(super) namenode: DatanodeClient<Channel>,
}

/// What one holder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    /// Its place in the order's list.
    holder: usize,
    /// Generation stamp, and bytes that their checksums prove.
    block: Block,
    state: ReplicaState,
    /// Bytes that somebody may have been told are on disk.
    synced: u64,
}

/// What the block is to be.
#[derive(Clone, Copy, Debug)]
struct Terms {
    /// Older replicas do not count.
    generation_stamp: GenerationStamp,
    floor: u64,
    truncate_length: Option<u64>,
    /// Some that may have a replica were not asked or did not answer.
    others_are_away: bool,
    /// Some that may have one are dead, and may come back.
    dead_may_return: bool,
}

/// What the holders have agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Agreement {
    /// Its length, and who takes part (indexes of claims).
    Length(u64, Vec<usize>),
    /// Nobody has a byte, nobody was promised one.
    Drop,
}

fn agree(terms: &Terms, claims: &[Claim]) -> Result<Agreement> {
    let counts: Vec<(usize, &Claim)> =
        claims.iter().enumerate().filter(|(_, claim)| claim.block.generation_stamp >= terms.generation_stamp).collect();
    let taking_part = |length: u64| -> Vec<usize> {
        counts.iter().filter(|(_, claim)| claim.block.length >= length).map(|(index, _)| *index).collect()
    };
    let of_state =
        |state: ReplicaState| counts.iter().map(|(_, claim)| **claim).filter(move |claim| claim.state == state);
    let floor = terms.truncate_length.unwrap_or(terms.floor);
    let longest = counts.iter().map(|(_, claim)| claim.block.length).max().unwrap_or(0);
    if longest < floor {
        return Err(DfsError::new(
            ErrorKind::Unavailable,
            format!("{floor} bytes were acknowledged, the holders that answer have {longest} at most"),
        ));
    }
    if let Some(length) = terms.truncate_length {
        return Ok(Agreement::Length(length, taking_part(length)));
    }
    // An earlier recovery may have finalized some under its own stamp: the newest of them decides.
    let finalized = of_state(ReplicaState::Finalized)
        .max_by_key(|claim| (claim.block.generation_stamp, claim.block.length))
        .map(|claim| claim.block.length);
    let written = of_state(ReplicaState::Rbw);
    let written = written.clone().map(|claim| claim.block.length).min().map(|shortest| {
        // What one of them knows to be synced is no more than all have, unless a device has failed.
        shortest.max(written.map(|claim| claim.synced).max().unwrap_or(0))
    });
    let chosen = match (finalized, written) {
        (Some(length), _) | (None, Some(length)) if length >= floor => length,
        _ if terms.others_are_away => {
            return Err(DfsError::new(ErrorKind::Unavailable, "holders that may have more are away"));
        }
        // Bytes that were written and never synced are lost if need be, but not because nobody has waited for a node.
        _ if longest == 0 && terms.dead_may_return => {
            return Err(DfsError::new(
                ErrorKind::Unavailable,
                "nobody has a byte, and a holder that is dead may come back",
            ));
        }
        _ => longest,
    };
    if chosen == 0 { Ok(Agreement::Drop) } else { Ok(Agreement::Length(chosen, taking_part(chosen))) }
}

/// Recovers a block; failures are logged, and the NameNode begins anew.
pub(super) async fn recover(recovery: Recovery) {
    let order = &recovery.order;
    let block = order.block.as_ref().map(Block::from).unwrap_or_default();
    match run(&recovery, block).await {
        Ok(outcome) => info!(%block, recovery = order.new_generation_stamp, "block recovered: {outcome}"),
        Err(error) => {
            warn!(%block, recovery = order.new_generation_stamp, "block recovery failed: {}", error.chain());
        }
    }
}

async fn run(recovery: &Recovery, block: Block) -> Result<String> {
    let order = &recovery.order;
    let (claims, silent) = ask_all(order, block).await?;
    let terms = Terms {
        generation_stamp: block.generation_stamp,
        floor: order.length_floor,
        truncate_length: order.truncate_length,
        others_are_away: order.others_are_away || silent > 0,
        dead_may_return: order.dead_may_return,
    };
    match agree(&terms, &claims)? {
        Agreement::Drop => {
            commit(recovery, 0, true, &[]).await?;
            Ok("nothing was written, it is dropped".to_owned())
        }
        Agreement::Length(length, participants) => {
            let participants: Vec<&Claim> = participants.iter().map(|&index| &claims[index]).collect();
            let updated = update_all(order, length, &participants).await?;
            commit(recovery, length, false, &updated).await?;
            Ok(format!("{length} bytes on {} of {} nodes", updated.len(), order.locations.len()))
        }
    }
}

fn holder_client(node: &v1::DatanodeId) -> Result<InterDatanodeClient<Channel>> {
    let address = format!("http://{}:{}", node.host, node.grpc_port);
    let endpoint = Endpoint::from_shared(address.clone()).map_err(|error| {
        DfsError::new(ErrorKind::InvalidArgument, format!("{address} is no address")).with_source(error)
    })?;
    Ok(InterDatanodeClient::new(endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect_lazy()))
}

/// What the holders have, and how many did not say, or found that they have lost it.
async fn ask_all(order: &v1::RecoverOrder, block: Block) -> Result<(Vec<Claim>, usize)> {
    let asks = order.locations.iter().enumerate().map(|(holder, node)| ask(order, block, holder, node));
    let (mut claims, mut silent) = (Vec::new(), 0);
    for (answer, node) in join_all(asks).await.into_iter().zip(&order.locations) {
        match answer {
            Ok(Some(claim)) => claims.push(claim),
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::StaleGeneration => return Err(error),
            Err(error) => {
                warn!(%block, datanode = %node.host, port = node.grpc_port, "a holder does not tell: {}", error.chain());
                silent += 1;
            }
        }
    }
    Ok((claims, silent))
}

async fn ask(order: &v1::RecoverOrder, block: Block, holder: usize, node: &v1::DatanodeId) -> Result<Option<Claim>> {
    let request = v1::InitReplicaRecoveryRequest {
        block_pool_id: order.block_pool_id.clone(),
        block: Some(block.into()),
        recovery_id: order.new_generation_stamp,
        is_truncation: order.truncate_length.is_some(),
    };
    let answer = call(HOLDER_DEADLINE, holder_client(node)?.init_replica_recovery(request)).await?;
    if !answer.exists {
        return Ok(None);
    }
    let state = ReplicaState::try_from(answer.original_state)
        .map_err(|error| DfsError::new(ErrorKind::Protocol, "a replica in an unknown state").with_source(error))?;
    let block = Block::from(required(answer.block, "block")?);
    Ok(Some(Claim { holder, block, state, synced: answer.synced_length }))
}

/// Has the replicas cut; who did it, with the volume. Those that fail are replaced like any lost replica.
async fn update_all(order: &v1::RecoverOrder, length: u64, claims: &[&Claim]) -> Result<Vec<(String, String)>> {
    let updates = claims.iter().map(|claim| async {
        let node = &order.locations[claim.holder];
        let request = v1::UpdateReplicaUnderRecoveryRequest {
            block_pool_id: order.block_pool_id.clone(),
            old_block: Some(claim.block.into()),
            recovery_id: order.new_generation_stamp,
            new_length: length,
        };
        let updated = call(HOLDER_DEADLINE, holder_client(node)?.update_replica_under_recovery(request)).await;
        updated.map(|answer| (node.uuid.clone(), answer.storage_uuid))
    });
    let (mut updated, mut failure) = (Vec::new(), None);
    for outcome in join_all(updates).await {
        match outcome {
            Ok(place) => updated.push(place),
            Err(error) => {
                warn!(recovery = order.new_generation_stamp, "a replica was not cut: {}", error.chain());
                failure = Some(error);
            }
        }
    }
    match failure {
        Some(error) if updated.is_empty() => Err(error),
        _ => Ok(updated),
    }
}

async fn commit(recovery: &Recovery, length: u64, drops: bool, places: &[(String, String)]) -> Result<()> {
    let order = &recovery.order;
    let (datanode_uuids, storage_uuids) = places.iter().cloned().unzip();
    let request = v1::CommitBlockSynchronizationRequest {
        block_pool_id: order.block_pool_id.clone(),
        block: order.block,
        new_generation_stamp: order.new_generation_stamp,
        new_length: length,
        close_file: true,
        delete_block: drops,
        datanode_uuids,
        storage_uuids,
    };
    let mut namenode = recovery.namenode.clone();
    let mut tries = COMMIT_TRIES;
    loop {
        tries -= 1;
        match call(COMMIT_DEADLINE, namenode.commit_block_synchronization(request.clone())).await {
            Ok(_) => return Ok(()),
            Err(error) if tries > 0 && matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut) => {
                tokio::time::sleep(COMMIT_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
#[path = "block_recovery_tests.rs"]
mod tests;
