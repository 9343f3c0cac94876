//! Checksums of chunks: one CRC for every `bytes_per_checksum` bytes of a block, the last chunk being shorter.
//!
//! They travel in packets and rest in metadata files in the same form, four big-endian bytes each, so that a receiver
//! writes down what it got. [`compute_chunk_checksums`] and [`verify_chunk_checksums`] are the inner loops of every
//! read and write.

use dfs_common::checksum::crc32c;

use super::error::WireError;
use crate::hadoop::{ChecksumProto, ChecksumTypeProto};

/// Bytes of one CRC.
pub const CHECKSUM_SIZE: usize = 4;
/// Hadoop's default chunk, in bytes: small enough that a 4 KiB read verifies little more than it needs.
pub const BYTES_PER_CHECKSUM_DEFAULT: u32 = 512;
/// The largest chunk, in bytes. A packet holds whole chunks, so this stays well below
/// [`PACKET_LEN_MAX`](super::packet::PACKET_LEN_MAX).
pub const BYTES_PER_CHECKSUM_MAX: u32 = 1024 * 1024;

/// The algorithm. Hadoop's third one, CRC32 (of gzip's polynomial), is known by number and refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumKind {
    /// No checksums at all.
    Null,
    /// Castagnoli's polynomial, which processors compute.
    Crc32c,
}

impl ChecksumKind {
    /// The number in `ChecksumTypeProto` and in metadata files.
    pub const fn code(self) -> u8 {
        match self {
            Self::Null => ChecksumTypeProto::ChecksumNull as u8,
            Self::Crc32c => ChecksumTypeProto::ChecksumCrc32c as u8,
        }
    }

    /// Fails with `UnsupportedChecksum` on CRC32, with `BadValue` on numbers that mean nothing.
    pub fn from_code(code: i32) -> Result<Self, WireError> {
        match ChecksumTypeProto::try_from(code) {
            Ok(ChecksumTypeProto::ChecksumNull) => Ok(Self::Null),
            Ok(ChecksumTypeProto::ChecksumCrc32c) => Ok(Self::Crc32c),
            Ok(ChecksumTypeProto::ChecksumCrc32) => Err(WireError::UnsupportedChecksum("CRC32")),
            Err(_) => Err(WireError::BadValue { what: "checksum type", value: code.into() }),
        }
    }
}

/// How a replica is checksummed: algorithm and chunk size, both checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataChecksum {
    kind: ChecksumKind,
    bytes_per_checksum: u32,
}

impl DataChecksum {
    /// CRC32C of 512-byte chunks.
    pub const DEFAULT: Self = Self { kind: ChecksumKind::Crc32c, bytes_per_checksum: BYTES_PER_CHECKSUM_DEFAULT };

    /// Fails with `BadValue` unless the chunk is 1 to [`BYTES_PER_CHECKSUM_MAX`] bytes.
    pub fn new(kind: ChecksumKind, bytes_per_checksum: u32) -> Result<Self, WireError> {
        if bytes_per_checksum == 0 || bytes_per_checksum > BYTES_PER_CHECKSUM_MAX {
            return Err(WireError::BadValue { what: "bytes per checksum", value: bytes_per_checksum.into() });
        }
        Ok(Self { kind, bytes_per_checksum })
    }

    /// Reads the wire's form; fails as [`ChecksumKind::from_code`] and [`DataChecksum::new`] do.
    pub fn from_proto(proto: &ChecksumProto) -> Result<Self, WireError> {
        Self::new(ChecksumKind::from_code(proto.r#type)?, proto.bytes_per_checksum)
    }

    /// The wire's form.
    pub fn to_proto(self) -> ChecksumProto {
        ChecksumProto { r#type: self.kind.code().into(), bytes_per_checksum: self.bytes_per_checksum }
    }

    /// The algorithm.
    pub fn kind(self) -> ChecksumKind {
        self.kind
    }

    /// Bytes of a chunk, at least 1.
    pub fn bytes_per_checksum(self) -> usize {
        self.bytes_per_checksum as usize
    }

    /// Bytes of one checksum: 4, or 0 without checksums.
    pub fn checksum_size(self) -> usize {
        match self.kind {
            ChecksumKind::Null => 0,
            ChecksumKind::Crc32c => CHECKSUM_SIZE,
        }
    }

    /// Bytes that the checksums of `data_len` bytes take, counted from a chunk's start.
    pub fn checksums_len(self, data_len: usize) -> usize {
        data_len.div_ceil(self.bytes_per_checksum()) * self.checksum_size()
    }

    /// Fills `out`, which must be [`checksums_len`](Self::checksums_len) long.
    pub fn compute(self, data: &[u8], out: &mut [u8]) {
        match self.kind {
            ChecksumKind::Null => assert!(out.is_empty(), "no room is needed for no checksums"),
            ChecksumKind::Crc32c => compute_chunk_checksums(data, self.bytes_per_checksum(), out),
        }
    }

    /// Verifies `data` from a chunk's start, as [`verify_chunk_checksums`] does.
    pub fn verify(self, data: &[u8], checksums: &[u8]) -> Result<(), usize> {
        match self.kind {
            ChecksumKind::Null if checksums.is_empty() => Ok(()),
            ChecksumKind::Null => Err(0),
            ChecksumKind::Crc32c => verify_chunk_checksums(data, self.bytes_per_checksum(), checksums),
        }
    }
}

/// Bytes that the CRCs of `data_len` bytes take.
pub const fn checksum_len(data_len: usize, bytes_per_checksum: usize) -> usize {
    data_len.div_ceil(bytes_per_checksum) * CHECKSUM_SIZE
}

/// Writes the CRC32C of every chunk of `data` to `out`, which must be [`checksum_len`] long.
pub fn compute_chunk_checksums(data: &[u8], bytes_per_checksum: usize, out: &mut [u8]) {
    assert_eq!(out.len(), checksum_len(data.len(), bytes_per_checksum), "room for one CRC per chunk");
    for (chunk, crc) in data.chunks(bytes_per_checksum).zip(out.chunks_exact_mut(CHECKSUM_SIZE)) {
        crc.copy_from_slice(&crc32c(chunk).to_be_bytes());
    }
}

/// Compares the CRC32C of every chunk of `data` with `checksums`. The error is the offset in `data` of the first byte not
/// vouched for: the start of the first chunk that fails or has no checksum, or the end if there are checksums too many.
pub fn verify_chunk_checksums(data: &[u8], bytes_per_checksum: usize, checksums: &[u8]) -> Result<(), usize> {
    let chunks = data.chunks(bytes_per_checksum).zip(checksums.chunks_exact(CHECKSUM_SIZE));
    for (index, (chunk, crc)) in chunks.enumerate() {
        if crc != crc32c(chunk).to_be_bytes() {
            return Err(index * bytes_per_checksum);
        }
    }
    if checksums.len() != checksum_len(data.len(), bytes_per_checksum) {
        return Err(data.len().min(checksums.len() / CHECKSUM_SIZE * bytes_per_checksum));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compute_chunk_checksums_known_value() {
        let mut out = [0; 4];
        compute_chunk_checksums(b"123456789", 512, &mut out);
        assert_eq!(out, [0xe3, 0x06, 0x92, 0x83], "the check value of CRC-32C, big-endian");
    }

    #[test]
    fn verify_finds_the_first_bad_chunk() {
        let checksum = DataChecksum::DEFAULT;
        let mut data: Vec<u8> = (0..1300u32).map(|i| (i * 7) as u8).collect();
        let mut sums = vec![0; checksum.checksums_len(data.len())];
        assert_eq!(sums.len(), 12);
        checksum.compute(&data, &mut sums);
        assert_eq!(checksum.verify(&data, &sums), Ok(()));
        data[1299] ^= 1;
        assert_eq!(checksum.verify(&data, &sums), Err(1024));
        data[512] ^= 0x80;
        assert_eq!(checksum.verify(&data, &sums), Err(512));
        sums[3] ^= 1;
        assert_eq!(checksum.verify(&data, &sums), Err(0));
    }

    #[test]
    fn verify_wrong_number_of_checksums_is_refused() {
        let data = [7; 1000];
        let mut sums = [0; 8];
        compute_chunk_checksums(&data, 512, &mut sums);
        assert_eq!(verify_chunk_checksums(&data, 512, &[]), Err(0));
        assert_eq!(verify_chunk_checksums(&data, 512, &sums[..4]), Err(512));
        assert_eq!(verify_chunk_checksums(&data, 512, &sums[..7]), Err(512));
        assert_eq!(verify_chunk_checksums(&data, 512, &[&sums[..], &[0]].concat()), Err(1000));
        assert_eq!(verify_chunk_checksums(&data, 512, &[&sums[..], &[0; 4]].concat()), Err(1000));
        let null = DataChecksum::new(ChecksumKind::Null, 512).unwrap();
        assert_eq!(null.verify(&data, &sums), Err(0));
    }

    #[test]
    fn checksums_len_at_chunk_borders() {
        for (len, expected) in [(0, 0), (1, 4), (511, 4), (512, 4), (513, 8), (1024, 8), (65536, 512)] {
            assert_eq!(DataChecksum::DEFAULT.checksums_len(len), expected);
            assert_eq!(checksum_len(len, 512), expected);
        }
        let null = DataChecksum::new(ChecksumKind::Null, 512).unwrap();
        assert_eq!(null.checksums_len(65536), 0);
        assert_eq!(null.verify(b"anything", &[]), Ok(()));
        null.compute(b"anything", &mut []);
    }

    #[test]
    fn from_proto_refuses_what_it_cannot_do() {
        let from = |r#type, bytes_per_checksum| DataChecksum::from_proto(&ChecksumProto { r#type, bytes_per_checksum });
        assert_eq!(from(2, 512).unwrap(), DataChecksum::DEFAULT);
        assert_eq!(DataChecksum::DEFAULT.to_proto(), ChecksumProto { r#type: 2, bytes_per_checksum: 512 });
        assert!(matches!(from(1, 512), Err(WireError::UnsupportedChecksum("CRC32"))));
        assert!(matches!(from(3, 512), Err(WireError::BadValue { .. })));
        assert!(matches!(from(2, 0), Err(WireError::BadValue { .. })));
        assert!(matches!(from(2, BYTES_PER_CHECKSUM_MAX + 1), Err(WireError::BadValue { .. })));
    }

    proptest::proptest! {
        #[test]
        fn verify_any_flipped_bit_is_found(
            data in proptest::collection::vec(0u8.., 1..3000),
            chunk in 1usize..1500,
            at: proptest::sample::Index,
            bit in 0u8..8,
        ) {
            let mut sums = vec![0; checksum_len(data.len(), chunk)];
            compute_chunk_checksums(&data, chunk, &mut sums);
            proptest::prop_assert_eq!(verify_chunk_checksums(&data, chunk, &sums), Ok(()));
            let at = at.index(data.len());
            let mut bad = data;
            bad[at] ^= 1 << bit;
            proptest::prop_assert_eq!(verify_chunk_checksums(&bad, chunk, &sums), Err(at / chunk * chunk));
        }
    }
}
