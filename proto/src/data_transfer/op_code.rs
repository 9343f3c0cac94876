//! What stands before a request's message: the protocol's version and the op code.

/// The version before every op code; the same in all of Hadoop 2 and 3.
pub const DATA_TRANSFER_VERSION: u16 = 28;
/// Op codes from here on are ours; Hadoop's are below 128. There are none yet.
pub const FIRST_OWN_OP: u8 = 200;

/// What a request asks for, by Hadoop's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    /// Receive a block, from a client or another node, and pass it on.
    WriteBlock = 80,
    /// Send a block's bytes.
    ReadBlock = 81,
    /// Without a message and unused in Hadoop.
    ReadMetadata = 82,
    /// Receive a block from a node that is to lose it: the balancer's.
    ReplaceBlock = 83,
    /// Send a block to whom the balancer told to ask for it.
    CopyBlock = 84,
    /// Answer with the checksum of a block's checksums.
    BlockChecksum = 85,
    /// Send a block to other nodes.
    TransferBlock = 86,
    /// Hand over the descriptors of a replica's files.
    RequestShortCircuitFds = 87,
    /// The client no longer needs a slot.
    ReleaseShortCircuitFds = 88,
    /// Hand over a shared memory segment for slots.
    RequestShortCircuitShm = 89,
    /// The checksum of an erasure-coded block group. Not supported.
    BlockGroupChecksum = 90,
    /// Hadoop's hook for others. Not supported.
    Custom = 127,
}

impl Op {
    pub(super) const ALL: [Self; 12] = [
        Self::WriteBlock,
        Self::ReadBlock,
        Self::ReadMetadata,
        Self::ReplaceBlock,
        Self::CopyBlock,
        Self::BlockChecksum,
        Self::TransferBlock,
        Self::RequestShortCircuitFds,
        Self::ReleaseShortCircuitFds,
        Self::RequestShortCircuitShm,
        Self::BlockGroupChecksum,
        Self::Custom,
    ];

    /// The byte on the wire.
    pub const fn code(self) -> u8 {
        self as u8
    }
}
