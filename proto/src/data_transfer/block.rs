//! Blocks by name, between the wire and the domain.

use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::ids::{BlockId, GenerationStamp};

use super::error::WireError;
use crate::hadoop::{BaseHeaderProto, ClientOperationHeaderProto, ExtendedBlockProto, TokenProto};

/// The longest block pool name, in bytes: it names a directory on DataNodes.
pub const POOL_LEN_MAX: usize = 255;

impl From<&ExtendedBlock> for ExtendedBlockProto {
    fn from(block: &ExtendedBlock) -> Self {
        Self {
            pool_id: block.pool.clone(),
            block_id: block.block.id.0,
            generation_stamp: block.block.generation_stamp.0,
            num_bytes: Some(block.block.length),
        }
    }
}

impl TryFrom<&ExtendedBlockProto> for ExtendedBlock {
    type Error = WireError;

    /// Fails unless the pool's name can be the name of a directory: the DataNode looks for the block there.
    fn try_from(proto: &ExtendedBlockProto) -> Result<Self, WireError> {
        let pool = &proto.pool_id;
        if pool.len() > POOL_LEN_MAX {
            let (len, max) = (pool.len() as u64, POOL_LEN_MAX as u64);
            return Err(WireError::TooLong { what: "block pool name", len, max });
        }
        let stray = pool.bytes().find(|b| !b.is_ascii_graphic() || *b == b'/');
        if let Some(byte) = stray {
            return Err(WireError::BadValue { what: "byte in a block pool name", value: byte.into() });
        }
        if !pool.starts_with("BP-") {
            return Err(WireError::MissingField { message: "block pool name", field: "BP-" });
        }
        let block = Block {
            id: BlockId(proto.block_id),
            generation_stamp: GenerationStamp(proto.generation_stamp),
            length: proto.num_bytes(),
        };
        Ok(Self { pool: pool.clone(), block })
    }
}

impl BaseHeaderProto {
    /// The header of a request on `block`, with an empty token when there is none, as Hadoop does.
    pub fn new(block: &ExtendedBlock, token: Option<TokenProto>) -> Self {
        Self { block: block.into(), token: Some(token.unwrap_or_default()), trace_info: None }
    }
}

impl ClientOperationHeaderProto {
    /// The header of a request on `block` that `client_name` stands behind; empty when a DataNode asks.
    pub fn new(block: &ExtendedBlock, token: Option<TokenProto>, client_name: impl Into<String>) -> Self {
        Self { base_header: BaseHeaderProto::new(block, token), client_name: client_name.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(pool: &str) -> ExtendedBlock {
        let block = Block { id: BlockId(1_073_741_825), generation_stamp: GenerationStamp(1001), length: 42 };
        ExtendedBlock { pool: pool.into(), block }
    }

    #[test]
    fn block_round_trips() {
        let block = block("BP-1-10.0.0.1-1700000000000");
        assert_eq!(ExtendedBlock::try_from(&ExtendedBlockProto::from(&block)).unwrap(), block);
    }

    #[test]
    fn pool_that_is_no_directory_name_is_refused() {
        let long = format!("BP-{}", "x".repeat(POOL_LEN_MAX));
        for pool in ["", "..", "BP", "BP-/../../etc", "BP-\0", "BP- x", "BP-\u{e9}", &long] {
            assert!(ExtendedBlock::try_from(&ExtendedBlockProto::from(&block(pool))).is_err(), "{pool:?}");
        }
    }
}
