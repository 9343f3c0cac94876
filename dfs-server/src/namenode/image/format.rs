//! The container of an fsimage: a stream of records in numbered sections, of which no byte can be lost or changed
//! unnoticed. What the records say is `records.rs`'s; this file knows only their bytes.
//!
//! All numbers are little-endian.
//!
//! ```text
//! file    := prelude item* trailer                    nothing may follow the trailer
//! prelude := magic        8 bytes  "DFSIMAGE"
//!            layout       u32      2: the NameNode's layout (VERSION); 1 is read
//!            length       u32      of the header
//!            crc          u32      CRC32C of the 16 bytes before it, then of the header
//!            header       protobuf message ImageHeader
//! item    := kind         u32      1 section begins, 2 block, 3 section ends, 4 trailer
//!            length       u32      of the body
//!            count        u32      records in the body (blocks), else 0
//!            crc          u32      CRC32C of the 12 bytes before it, then of the body
//!            body
//!
//! section begins: u32 section number; numbers rise through the file, each appears at most once
//! block:          records, each a protobuf varint length and so many bytes; about 64 KiB, more only for one long record
//! section ends:   u32 section number, u64 records in the section
//! trailer:        u64 records in the file, u64 file offset of the trailer item, u32 chain
//! ```
//!
//! `chain` is the CRC32C of the prelude's crc and of every item's crc in order, so whole blocks cannot be exchanged,
//! dropped or repeated either. A reader has the whole truth only when `next_record` has returned `None`: whoever loads
//! an image uses nothing of it before.
//!
//! Files are written as `NAME.tmp`, synced, renamed, and the directory synced: an image is whole or absent.

mod reader;
mod writer;

use bytes::Buf;
use dfs_common::checksum;
use dfs_common::storage_info::NAMENODE_LAYOUT;

pub use dfs_proto::v1::{ImageHeader, ImageSection as Section, LogPosition};
pub use reader::ImageReader;
pub use writer::ImageWriter;

const MAGIC: &[u8; 8] = b"DFSIMAGE";
/// Version of this container and of the records in it.
pub const IMAGE_LAYOUT: u32 = NAMENODE_LAYOUT;

const PRELUDE_BYTES: usize = 20;
const PREFIX_BYTES: usize = 16;
const TRAILER_BODY_BYTES: usize = 20;
/// Blocks are closed at this size: large enough that headers and CRC calls cost nothing, small enough for the cache.
const BLOCK_BYTES: usize = 64 * 1024;
/// Longest record: an inode with more than a million blocks. Bounds what a reader allocates.
pub const RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A block is at most one longest record and its length, or a full block and a record that still fitted.
const BODY_BYTES_MAX: usize = RECORD_BYTES_MAX + 16;
/// Identities and the group's membership: kilobytes.
const HEADER_BYTES_MAX: usize = 1024 * 1024;
const FILE_BUFFER_BYTES: usize = 1024 * 1024;

const KIND_SECTION_BEGIN: u32 = 1;
const KIND_BLOCK: u32 = 2;
const KIND_SECTION_END: u32 = 3;
const KIND_TRAILER: u32 = 4;

/// The section of this number; none when no version known here writes it.
fn section_of(number: u32) -> Option<Section> {
    Section::try_from(i32::try_from(number).ok()?).ok().filter(|section| *section != Section::None)
}

/// The 16 bytes before each body.
struct ItemPrefix {
    kind: u32,
    length: u32,
    count: u32,
    crc: u32,
}

impl ItemPrefix {
    fn of(kind: u32, count: u32, body: &[u8]) -> Self {
        let mut prefix = Self { kind, length: length_u32(body.len()), count, crc: 0 };
        prefix.crc = prefix.crc_over(body);
        prefix
    }

    fn crc_over(&self, body: &[u8]) -> u32 {
        checksum::crc32c_append(checksum::crc32c(&self.encode()[..12]), body)
    }

    fn encode(&self) -> [u8; PREFIX_BYTES] {
        let mut bytes = [0; PREFIX_BYTES];
        bytes[0..4].copy_from_slice(&self.kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    fn decode(mut bytes: &[u8]) -> Self {
        Self {
            kind: bytes.get_u32_le(),
            length: bytes.get_u32_le(),
            count: bytes.get_u32_le(),
            crc: bytes.get_u32_le(),
        }
    }
}

/// Lengths are checked against their limits, all far below 2^32, before they come here.
fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("limits of the format are below 4 GiB")
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
