//! BLOCK_CHECKSUM: the MD5 of a replica's chunk checksums, from which clients make a file's checksum without its data.

use dfs_common::block::ExtendedBlock;
use dfs_common::checksum::crc32c;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::hadoop::{
    BlockChecksumOptionsProto, BlockChecksumTypeProto, BlockOpResponseProto, ChecksumTypeProto, OpBlockChecksumProto,
    OpBlockChecksumResponseProto, Status,
};
use md5::{Digest, Md5};
use tracing::info;

use super::after::After;
use super::connection::Connection;
use super::data_plane::DataPlane;
use super::reply::{encoded, error_response, protocol_error};

/// Checksums read at once, for 8 MiB of data.
const CHECKSUMS_READ: u64 = 64 * 1024;

/// Serves one BLOCK_CHECKSUM.
pub(super) fn checksum_block(plane: &DataPlane, to: &Connection, request: &OpBlockChecksumProto) -> After {
    let response = match compute(plane, request) {
        Ok(checksum) => BlockOpResponseProto {
            status: Status::Success.into(),
            checksum_response: Some(checksum),
            ..Default::default()
        },
        Err(error) => {
            plane.metrics.operations_failed.inc();
            info!(peer = ?to.peer_address(), "no checksum: {}", error.chain());
            error_response(&error)
        }
    };
    match to.send_all(&encoded(&response), plane.timeout) {
        Ok(()) => After::Serve,
        Err(_) => After::Close,
    }
}

fn compute(plane: &DataPlane, request: &OpBlockChecksumProto) -> Result<OpBlockChecksumResponseProto> {
    let kind = request.block_checksum_options.as_ref().map(BlockChecksumOptionsProto::block_checksum_type);
    if kind.is_some_and(|kind| kind != BlockChecksumTypeProto::Md5crc) {
        return Err(DfsError::new(ErrorKind::Unsupported, "only the checksum type MD5CRC is supported"));
    }
    let block = ExtendedBlock::try_from(&request.header.block).map_err(protocol_error)?;
    let reader = plane.store.open_reader(&block, 0)?;
    let visible = reader.block().length;
    // Hadoop's rule: the length asked for, if the block has more.
    let length = if block.block.length == 0 { visible } else { visible.min(block.block.length) };
    let chunk = reader.checksum().bytes_per_checksum() as u64;
    let partial = length % chunk;
    // Below the replica's end the stored checksum of the last chunk covers too much.
    let recompute = partial != 0 && length < visible;
    let stored_until = if recompute { length - partial } else { length };

    let mut md5 = Md5::new();
    let mut at = 0;
    while at < stored_until {
        let end = (at + CHECKSUMS_READ * chunk / 4).min(stored_until);
        let mut sums = vec![0; ((end - at).div_ceil(chunk) * 4) as usize];
        reader.read_checksums(at, &mut sums)?;
        md5.update(&sums);
        at = end;
    }
    if recompute {
        let mut tail = vec![0; partial as usize];
        reader.read(stored_until, &mut tail)?;
        md5.update(crc32c(&tail).to_be_bytes());
    }
    Ok(OpBlockChecksumResponseProto {
        bytes_per_crc: chunk as u32,
        crc_per_block: visible.div_ceil(chunk),
        block_checksum: md5.finalize().to_vec().into(),
        crc_type: Some(ChecksumTypeProto::ChecksumCrc32c.into()),
        block_checksum_options: request.block_checksum_options,
    })
}
