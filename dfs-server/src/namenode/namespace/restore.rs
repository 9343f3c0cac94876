//! A namespace that goes on from an older image, because everything newer was lost with its NameNode.
//!
//! The lost NameNode went on handing out ids after the image. Blocks and versions of blocks under those ids lie on
//! DataNodes, mounts know inodes by them, and clients wait for answers of calls numbered by transactions. So every counter
//! jumps to where the lost NameNode cannot have come, and what lies between is remembered: a replica with such an id is
//! not one of a removed block, and is never deleted for being unknown.
//!
//! The jump follows the clock, so that two restores from one image do not meet either: each second since the epoch has
//! 2^20 numbers, many times what a NameNode hands out in one. Counters stay below 2^53, which every JSON reader takes.

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{BlockId, ClientId, GenerationStamp, INODE_LIMIT, Incarnation, InodeId, TxId};
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{Caller, EditOp, EndSessionOp};

use super::Namespace;
use super::lost_ids::LostIds;

/// Numbers per second since the epoch.
const NUMBERS_PER_SECOND: u64 = 1 << 20;
/// The least that a counter jumps, also by a clock that is wrong.
const JUMP_MIN: u64 = 1 << 32;
/// Inode numbers are fewer, and the table of inodes has 24 bytes for each 1,024: a billion costs 24 MiB.
const INODE_JUMP: u64 = 1 << 30;

impl Namespace {
    /// What earlier restores left open.
    pub fn lost_ids(&self) -> &[LostIds] {
        &self.lost
    }

    /// Prepares a namespace just loaded from the last image that is left for being served again at `now_ns`: sessions end,
    /// counters jump.
    ///
    /// # Errors
    /// `NoSpace` when no inode numbers are left.
    pub fn go_on_after_loss(&mut self, now_ns: i64) -> Result<()> {
        self.end_all_sessions(now_ns);
        let counters = self.counters;
        let first_free = u64::try_from(now_ns / 1_000_000_000).unwrap_or(0).saturating_mul(NUMBERS_PER_SECOND);
        let jump = |counter: u64| (counter + JUMP_MIN).max(first_free);
        let next_inode = counters.next_inode.0 + INODE_JUMP;
        if next_inode >= INODE_LIMIT {
            return Err(DfsError::new(ErrorKind::NoSpace, "no inode numbers are left: restored too often"));
        }
        self.counters.next_inode = InodeId(next_inode);
        self.counters.next_block = BlockId(jump(counters.next_block.0));
        self.counters.next_generation_stamp = GenerationStamp(jump(counters.next_generation_stamp.0));
        self.counters.last_txid = TxId(jump(counters.last_txid.0));
        self.lost.push(LostIds {
            blocks: counters.next_block..self.counters.next_block,
            generation_stamps: counters.next_generation_stamp..self.counters.next_generation_stamp,
        });
        Ok(())
    }

    /// What clients know of the lost time does not fit what is known here: each begins a new life, and files that were
    /// being written are recovered.
    fn end_all_sessions(&mut self, now_ns: i64) {
        let clients: Vec<(ClientId, Incarnation)> =
            self.sessions().map(|(client, session)| (client, session.incarnation)).collect();
        // Nobody is told of blocks: the block manager learns of the result as a whole.
        let mut events = Vec::new();
        for (client, incarnation) in clients {
            let op = EndSessionOp { client_id: client.0.to_vec().into(), incarnation: incarnation.0 };
            let caller = Some(Caller::default());
            let op = EditOp { caller, time_ns: now_ns, op: Some(Op::EndSession(op)), ..EditOp::default() };
            // A session that ended before stays ended.
            let _ = self.apply(&op, &mut events);
        }
    }
}
