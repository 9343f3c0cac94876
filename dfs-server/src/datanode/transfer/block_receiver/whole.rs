//! Blocks that came in one piece: all their bytes and their end are at hand before anything was written.

use std::collections::VecDeque;

use dfs_proto::data_transfer::{DataChecksum, PacketFrame};

use crate::datanode::store::Whole;
use crate::datanode::transfer::stage::Stage;

/// A block as it lies in the receive buffer.
pub(super) struct WholeBlock<'a> {
    pub(super) content: Whole<'a>,
    /// Its writer wants it on disk.
    pub(super) sync: bool,
}

/// The block that `frames` are, which begin at the start of `received`: one packet with data, and the last one, empty or the
/// same. Its checksums have been verified; one that does not fit them is left to the road that says so.
pub(super) fn find<'a>(
    frames: &VecDeque<PacketFrame>,
    received: &'a [u8],
    stage: Stage,
    checksum: DataChecksum,
) -> Option<WholeBlock<'a>> {
    let last = frames.back()?;
    let first = frames.front()?;
    let ends_with_data = last.header.last_packet_in_block
        && match frames.len() {
            1 => true,
            2 => last.header.data_len == 0 && last.header.offset_in_block == i64::from(first.header.data_len),
            _ => false,
        };
    if stage != Stage::Create || !ends_with_data || first.header.offset_in_block != 0 || first.header.data_len == 0 {
        return None;
    }
    let packet = &received[..first.total_len()];
    let content = Whole { data: &packet[first.data()], checksums: &packet[first.checksums()] };
    checksum.verify(content.data, content.checksums).ok()?;
    Some(WholeBlock { content, sync: first.header.sync_block || last.header.sync_block })
}
