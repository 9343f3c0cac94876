use prost::Message;

use super::*;
use crate::data_transfer::checksum::ChecksumKind;

const HEADER: PacketHeader =
    PacketHeader { offset_in_block: 1024, seqno: 5, last_packet_in_block: false, data_len: 1000, sync_block: true };

fn packet() -> Vec<u8> {
    let data = [7u8; 1000];
    let mut sums = [0; 8];
    DataChecksum::DEFAULT.compute(&data, &mut sums);
    [&HEADER.encode(sums.len())[..], &sums, &data].concat()
}

#[test]
fn packet_round_trips() {
    let bytes = packet();
    let frame = PacketFrame::decode(&bytes).unwrap().unwrap();
    assert_eq!(frame, PacketFrame { header: HEADER, header_len: 33, checksums_len: 8 });
    assert_eq!((frame.checksums(), frame.data(), frame.total_len()), (33..41, 41..1041, bytes.len()));
    assert_eq!(DataChecksum::DEFAULT.verify(&bytes[frame.data()], &bytes[frame.checksums()]), Ok(()));
    frame.check_checksums_len(DataChecksum::DEFAULT).unwrap();
    let null = DataChecksum::new(ChecksumKind::Null, 512).unwrap();
    assert!(matches!(frame.check_checksums_len(null), Err(WireError::BadValue { .. })));
    let lengths = PacketLengths::decode(*bytes.first_chunk().unwrap()).unwrap();
    assert_eq!((lengths.total_len(), lengths.header_len(), lengths.body_len()), (bytes.len(), 27, 1008));
}

#[test]
fn decode_every_truncation_of_the_header_needs_more() {
    let bytes = packet();
    for end in 0..33 {
        assert!(PacketFrame::decode(&bytes[..end]).unwrap().is_none(), "at {end}");
    }
    assert!(PacketFrame::decode(&bytes[..33]).unwrap().is_some(), "the body need not be there");
}

#[test]
fn encode_matches_prost() {
    for sync in [false, true] {
        let header = PacketHeader { sync_block: sync, last_packet_in_block: !sync, ..HEADER };
        let proto = PacketHeaderProto {
            offset_in_block: header.offset_in_block,
            seqno: header.seqno,
            last_packet_in_block: header.last_packet_in_block,
            data_len: header.data_len as i32,
            sync_block: sync.then_some(true),
        };
        assert_eq!(header.encode(8)[PACKET_LENGTHS_LEN..], proto.encode_to_vec());
        assert_eq!(header.encode(8).len(), header.encoded_len());
    }
}

#[test]
fn decode_proto_other_layouts_are_read_too() {
    let proto = &HEADER.encode(8)[PACKET_LENGTHS_LEN..];
    let (first, rest) = proto.split_at(9);
    let reordered = [rest, first].concat();
    assert_eq!(PacketHeader::decode_proto(&reordered).unwrap(), HEADER);
    let with_own_field = [proto, &[0xc0, 0x3e, 0x01]].concat();
    assert_eq!(PacketHeader::decode_proto(&with_own_field).unwrap(), HEADER);
    let without_sync = PacketHeader { sync_block: false, ..HEADER };
    assert_eq!(PacketHeader::decode_proto(&[&proto[..25], &[KEY_SYNC, 0]].concat()).unwrap(), without_sync);
    assert_eq!(PacketHeader::decode_proto(&proto[..25]).unwrap(), without_sync);
    let missing = PacketHeader::decode_proto(rest).unwrap_err();
    assert!(matches!(missing, WireError::MissingField { field: "offsetInBlock", .. }));
}

#[test]
fn lengths_out_of_bounds_are_refused() {
    let decode = |payload: i32, header: i16| {
        let mut bytes = [0; PACKET_LENGTHS_LEN];
        bytes[..4].copy_from_slice(&payload.to_be_bytes());
        bytes[4..].copy_from_slice(&header.to_be_bytes());
        PacketLengths::decode(bytes)
    };
    assert_eq!(decode(4, 25).unwrap().total_len(), 31);
    assert_eq!(decode(PACKET_LEN_MAX as i32 - 27, 27).unwrap().total_len(), PACKET_LEN_MAX + 2);
    for payload in [3, 0, -1, i32::MIN] {
        assert!(matches!(decode(payload, 25), Err(WireError::BadValue { .. })), "{payload}");
    }
    assert!(matches!(decode(100, -1), Err(WireError::BadValue { .. })));
    assert!(matches!(decode(100, 257), Err(WireError::TooLong { .. })));
    assert!(matches!(decode(PACKET_LEN_MAX as i32 - 26, 27), Err(WireError::TooLong { .. })));
    assert!(matches!(decode(i32::MAX, i16::MAX), Err(WireError::TooLong { .. })));
}

#[test]
fn header_with_impossible_values_is_refused() {
    let mut bytes = packet();
    bytes[27..31].copy_from_slice(&1009u32.to_le_bytes());
    assert!(matches!(PacketFrame::decode(&bytes), Err(WireError::TooLong { len: 1009, max: 1008, .. })));
    bytes[27..31].copy_from_slice(&(-1i32).to_le_bytes());
    assert!(matches!(PacketFrame::decode(&bytes), Err(WireError::BadValue { value: -1, .. })));
    let mut bytes = packet();
    bytes[14] |= 0x80;
    assert!(matches!(PacketFrame::decode(&bytes), Err(WireError::BadValue { .. })), "negative offset");
}

#[test]
#[should_panic(expected = "would be refused")]
fn encode_oversize_is_a_bug_of_the_caller() {
    PacketHeader { data_len: PACKET_LEN_MAX as u32, ..HEADER }.encode(0);
}

#[test]
fn heartbeat_is_one() {
    assert!(PacketHeader::HEARTBEAT.is_heartbeat());
    assert!(!HEADER.is_heartbeat());
    let decode = |header: PacketHeader, body: usize| {
        let mut bytes = header.encode(body).to_vec();
        bytes.resize(bytes.len() + body + header.data_len as usize, 0);
        PacketFrame::decode(&bytes)
    };
    decode(PacketHeader::HEARTBEAT, 0).unwrap().unwrap();
    let with_data = PacketHeader { data_len: 100, ..PacketHeader::HEARTBEAT };
    let last = PacketHeader { last_packet_in_block: true, ..PacketHeader::HEARTBEAT };
    for (header, body) in [(with_data, 0), (PacketHeader::HEARTBEAT, 4), (last, 0)] {
        assert!(matches!(decode(header, body), Err(WireError::BadValue { .. })), "{header:?} {body}");
    }
    assert_eq!(PacketHeader::HEARTBEAT.encode(0).len(), 31);
}

#[test]
fn decode_flipped_bit_is_never_the_same() {
    let frame = PacketFrame::decode(&packet()).unwrap();
    for bit in 0..33 * 8 {
        let mut bytes = packet();
        bytes[bit / 8] ^= 1 << (bit % 8);
        // The last byte is `syncBlock`, and to protobuf every number but 0 is true.
        let still_true = bit / 8 == 32 && bytes[32] != 0;
        if let Ok(decoded) = PacketFrame::decode(&bytes) {
            assert!(still_true || decoded != frame, "bit {bit}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn header_round_trips(
        offset_in_block in 0..=i64::MAX,
        seqno: i64,
        last_packet_in_block: bool,
        data_len in 0..PACKET_LEN_MAX as u32 - 1000,
        sync_block: bool,
        checksums_len in 0usize..900,
    ) {
        let header = PacketHeader { offset_in_block, seqno, last_packet_in_block, data_len, sync_block };
        let frame = PacketFrame::decode(&header.encode(checksums_len)).unwrap().unwrap();
        proptest::prop_assert_eq!(frame.header, header);
        proptest::prop_assert_eq!(frame.checksums_len, checksums_len);
    }

    #[test]
    fn decode_any_bytes_never_panics(bytes in proptest::collection::vec(0u8.., 0..80)) {
        let _ = PacketFrame::decode(&bytes);
        let _ = PacketHeader::decode_proto(&bytes);
    }
}
