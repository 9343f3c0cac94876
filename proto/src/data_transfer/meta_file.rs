//! The metadata file beside every replica, `blk_<id>_<genstamp>.meta`, in HDFS's own format.
//!
//! ```text
//! offset  0        2               3                     7
//!         version  checksum type   bytes per checksum    one CRC per chunk, in order
//!         u16      u8              u32                   u32 each, all big-endian
//! ```
//!
//! Nothing in it says how long the replica is: that is the length of the replica's file. The last CRC is of a chunk
//! that may be short. Source: Hadoop's `BlockMetadataHeader` and `DataChecksum`.

use super::checksum::{ChecksumKind, DataChecksum};
use super::error::WireError;

/// The only version there has been.
pub const META_VERSION: u16 = 1;
/// Bytes before the first checksum.
pub const META_HEADER_LEN: usize = 7;

/// The header of a metadata file: how the checksums behind it were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetaHeader {
    /// Algorithm and chunk size.
    pub checksum: DataChecksum,
}

impl MetaHeader {
    /// The bytes at the start of the file.
    pub fn encode(self) -> [u8; META_HEADER_LEN] {
        let mut out = [0; META_HEADER_LEN];
        out[..2].copy_from_slice(&META_VERSION.to_be_bytes());
        out[2] = self.checksum.kind().code();
        out[3..].copy_from_slice(&(self.checksum.bytes_per_checksum() as u32).to_be_bytes());
        out
    }

    /// Reads the start of a file. Fails on a short file, another version, and checksums we cannot verify.
    pub fn decode(file: &[u8]) -> Result<Self, WireError> {
        let Some(header) = file.first_chunk::<META_HEADER_LEN>() else {
            let what = "block metadata header";
            return Err(WireError::Truncated { what, needed: META_HEADER_LEN, got: file.len() });
        };
        let [v0, v1, kind, chunk @ ..] = *header;
        let version = u16::from_be_bytes([v0, v1]);
        if version != META_VERSION {
            return Err(WireError::BadValue { what: "block metadata version", value: version.into() });
        }
        let checksum = DataChecksum::new(ChecksumKind::from_code(kind.into())?, u32::from_be_bytes(chunk))?;
        Ok(Self { checksum })
    }

    /// The file's length when the replica holds `data_len` bytes.
    pub fn meta_len(self, data_len: u64) -> u64 {
        META_HEADER_LEN as u64 + data_len.div_ceil(self.chunk()) * self.checksum.checksum_size() as u64
    }

    /// The most data, in bytes, that a file of `meta_len` bytes has checksums for; a CRC cut short does not count.
    /// `None` without checksums: then the file says nothing about the data.
    pub fn data_len_max(self, meta_len: u64) -> Option<u64> {
        let sums = meta_len.saturating_sub(META_HEADER_LEN as u64).checked_div(self.checksum.checksum_size() as u64)?;
        Some(sums.saturating_mul(self.chunk()))
    }

    /// Where in the file the checksum of the chunk that holds the byte at `data_offset` starts.
    pub fn checksum_offset(self, data_offset: u64) -> u64 {
        META_HEADER_LEN as u64 + data_offset / self.chunk() * self.checksum.checksum_size() as u64
    }

    fn chunk(self) -> u64 {
        self.checksum.bytes_per_checksum() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: MetaHeader = MetaHeader { checksum: DataChecksum::DEFAULT };
    const BYTES: [u8; META_HEADER_LEN] = [0, 1, 2, 0, 0, 2, 0];

    #[test]
    fn header_round_trips() {
        assert_eq!(HEADER.encode(), BYTES);
        assert_eq!(MetaHeader::decode(&BYTES).unwrap(), HEADER);
        let with_checksums = [&BYTES[..], &[9; 8]].concat();
        assert_eq!(MetaHeader::decode(&with_checksums).unwrap(), HEADER);
    }

    #[test]
    fn decode_every_truncation_is_refused() {
        for end in 0..META_HEADER_LEN {
            let error = MetaHeader::decode(&BYTES[..end]).unwrap_err();
            assert!(matches!(error, WireError::Truncated { needed: 7, got, .. } if got == end));
        }
    }

    #[test]
    fn decode_flipped_bit_is_never_the_same() {
        for bit in 0..META_HEADER_LEN * 8 {
            let mut bytes = BYTES;
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(header) = MetaHeader::decode(&bytes) {
                assert_ne!(header, HEADER, "bit {bit}");
            }
        }
    }

    #[test]
    fn meta_len_counts_partial_chunks() {
        for (data_len, expected) in [(0, 7), (1, 11), (512, 11), (513, 15), (1 << 27, 7 + (1 << 20))] {
            assert_eq!(HEADER.meta_len(data_len), expected);
            assert!(HEADER.data_len_max(expected).unwrap() >= data_len);
        }
        assert_eq!(HEADER.data_len_max(0), Some(0));
        assert_eq!(HEADER.data_len_max(14), Some(512), "a CRC cut short proves nothing");
        assert_eq!(HEADER.checksum_offset(511), 7);
        assert_eq!(HEADER.checksum_offset(512), 11);
        let null = MetaHeader { checksum: DataChecksum::new(ChecksumKind::Null, 512).unwrap() };
        assert_eq!((null.meta_len(1 << 30), null.data_len_max(7)), (7, None));
    }
}
