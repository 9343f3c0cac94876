//! We send what Hadoop 3.4.1 sends, byte for byte, and read what it sends. The bytes in `golden/` come from its own
//! classes (see the README there); the values here are the ones in `tests/hadoop/.../Capture.java`.

use bytes::Bytes;
use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_proto::data_transfer::required::WireMessage;
use dfs_proto::data_transfer::{
    DataChecksum, Ecn, MetaHeader, PacketFrame, PacketHeader, PacketLengths, PipelineAck, Reply, Request, SlowNode,
    decode_delimited, decode_request, encode_delimited, encode_request, op::RequestMessage, packet, read_request,
};
use dfs_proto::hadoop::op_write_block_proto::BlockConstructionStage;
use dfs_proto::hadoop::{
    BaseHeaderProto, BlockChecksumOptionsProto, BlockChecksumTypeProto, BlockOpResponseProto, CachingStrategyProto,
    ChecksumTypeProto, ClientOperationHeaderProto, ClientReadStatusProto, DatanodeIdProto, DatanodeInfoProto,
    OpBlockChecksumProto, OpBlockChecksumResponseProto, OpCopyBlockProto, OpReadBlockProto, OpReplaceBlockProto,
    OpRequestShortCircuitAccessProto, OpTransferBlockProto, OpWriteBlockProto, ReadOpChecksumInfoProto,
    ReleaseShortCircuitAccessRequestProto, ShortCircuitShmIdProto, ShortCircuitShmRequestProto,
    ShortCircuitShmSlotProto, Status, StorageTypeProto, TokenProto,
};

const CLIENT: &str = "DFSClient_NONMAPREDUCE_1_1";

macro_rules! golden {
    ($name:literal) => {
        from_hex(include_str!(concat!("golden/", $name, ".hex")))
    };
}

fn from_hex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn block() -> ExtendedBlock {
    ExtendedBlock {
        pool: "BP-1234567-127.0.0.1-1700000000000".into(),
        block: Block { id: BlockId(1_073_741_825), generation_stamp: GenerationStamp(1001), length: 134_217_728 },
    }
}

fn token() -> TokenProto {
    TokenProto {
        identifier: Bytes::from_static(&[1, 2, 3]),
        password: Bytes::from_static(&[0xff, 0, 0x7f]),
        kind: "HDFS_BLOCK_TOKEN".into(),
        service: "svc".into(),
    }
}

fn header(token: Option<TokenProto>) -> ClientOperationHeaderProto {
    ClientOperationHeaderProto::new(&block(), token, CLIENT)
}

fn datanode(n: u64) -> DatanodeInfoProto {
    DatanodeInfoProto {
        id: DatanodeIdProto {
            ip_addr: format!("10.0.0.{n}"),
            host_name: format!("dn{n}"),
            datanode_uuid: format!("uuid-{n}"),
            xfer_port: 9866,
            info_port: 9864,
            ipc_port: 9867,
            info_secure_port: Some(0),
        },
        capacity: Some(1000 * n),
        dfs_used: Some(100),
        remaining: Some(900),
        block_pool_used: Some(50),
        last_update: Some(1_700_000_000_000),
        xceiver_count: Some(3),
        location: Some(format!("/rack{n}")),
        non_dfs_used: Some(7),
        admin_state: Some(0),
        cache_capacity: Some(0),
        cache_used: Some(0),
        last_update_monotonic: Some(5000),
        upgrade_domain: None,
        last_block_report_time: Some(0),
        last_block_report_monotonic: Some(0),
        num_blocks: Some(0),
    }
}

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|&value| value.to_owned()).collect()
}

fn storage_types(values: &[StorageTypeProto]) -> Vec<i32> {
    values.iter().map(|&value| value.into()).collect()
}

/// What the byte at each offset of the block is; Java's arithmetic, which wraps.
fn data(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(|at| (at * 7 + at / 256) as u8).collect()
}

fn check_request<R>(golden: &[u8], request: R)
where
    R: RequestMessage + Into<Request>,
{
    let mut encoded = Vec::new();
    encode_request(&request, &mut encoded).unwrap();
    assert_eq!(encoded, golden, "{} as Hadoop encodes it", R::NAME);
    let request = request.into();
    assert_eq!(decode_request(golden).unwrap().unwrap(), (request.clone(), golden.len()));
    assert_eq!(read_request(&mut &golden[..]).unwrap().unwrap(), request);
}

fn check_message<M: WireMessage + PartialEq + std::fmt::Debug>(golden: &[u8], message: &M) {
    let mut encoded = Vec::new();
    encode_delimited(message, &mut encoded).unwrap();
    assert_eq!(encoded, golden, "{} as Hadoop encodes it", M::NAME);
    let (decoded, len) = decode_delimited::<M>(golden).unwrap().unwrap();
    assert_eq!((&decoded, len), (message, golden.len()));
}

#[test]
fn write_block_is_hadoops() {
    let create = OpWriteBlockProto {
        header: header(None),
        targets: vec![datanode(2), datanode(3)],
        source: None,
        stage: BlockConstructionStage::PipelineSetupCreate.into(),
        pipeline_size: 3,
        min_bytes_rcvd: 0,
        max_bytes_rcvd: 0,
        latest_generation_stamp: 1001,
        requested_checksum: DataChecksum::DEFAULT.to_proto(),
        caching_strategy: Some(CachingStrategyProto::default()),
        storage_type: Some(StorageTypeProto::Disk.into()),
        target_storage_types: storage_types(&[StorageTypeProto::Ssd, StorageTypeProto::Disk]),
        allow_lazy_persist: Some(false),
        pinning: Some(false),
        target_pinnings: vec![false, false],
        storage_id: Some("DS-1".into()),
        target_storage_ids: strings(&["DS-2", "DS-3"]),
        takes_signs_of_life: None,
    };
    check_request(&golden!("write_block_create"), create.clone());
    let recovery = OpWriteBlockProto {
        header: header(Some(token())),
        source: Some(datanode(9)),
        stage: BlockConstructionStage::PipelineSetupStreamingRecovery.into(),
        pipeline_size: 2,
        min_bytes_rcvd: 4096,
        max_bytes_rcvd: 1_048_576,
        latest_generation_stamp: 1002,
        caching_strategy: Some(CachingStrategyProto { drop_behind: Some(true), readahead: Some(4_194_304) }),
        storage_type: Some(StorageTypeProto::Ssd.into()),
        allow_lazy_persist: Some(true),
        pinning: Some(true),
        target_pinnings: vec![false, true],
        ..create
    };
    check_request(&golden!("write_block_recovery"), recovery);
}

#[test]
fn read_block_is_hadoops() {
    let with_checksums = OpReadBlockProto {
        header: header(None),
        offset: 4096,
        len: 1_048_576,
        send_checksums: Some(true),
        caching_strategy: Some(CachingStrategyProto::default()),
    };
    check_request(&golden!("read_block"), with_checksums);
    let without = OpReadBlockProto {
        header: header(Some(token())),
        offset: 0,
        len: 134_217_728,
        send_checksums: Some(false),
        caching_strategy: Some(CachingStrategyProto { drop_behind: Some(false), readahead: Some(0) }),
    };
    check_request(&golden!("read_block_no_checksums"), without);
}

#[test]
fn requests_between_datanodes_are_hadoops() {
    let transfer = OpTransferBlockProto {
        header: header(None),
        targets: vec![datanode(1), datanode(2)],
        target_storage_types: storage_types(&[StorageTypeProto::Disk, StorageTypeProto::Archive]),
        target_storage_ids: strings(&["DS-1", "DS-2"]),
        takes_signs_of_life: None,
    };
    check_request(&golden!("transfer_block"), transfer);
    let replace = OpReplaceBlockProto {
        header: BaseHeaderProto::new(&block(), None),
        del_hint: "uuid-9".into(),
        source: datanode(9),
        storage_type: Some(StorageTypeProto::Disk.into()),
        storage_id: Some("DS-9".into()),
    };
    check_request(&golden!("replace_block"), replace);
    check_request(&golden!("copy_block"), OpCopyBlockProto { header: BaseHeaderProto::new(&block(), None) });
}

#[test]
fn block_checksum_is_hadoops() {
    let request = OpBlockChecksumProto {
        header: BaseHeaderProto::new(&block(), None),
        block_checksum_options: Some(BlockChecksumOptionsProto {
            block_checksum_type: Some(BlockChecksumTypeProto::Md5crc.into()),
            stripe_length: Some(0),
        }),
    };
    check_request(&golden!("block_checksum"), request);
}

#[test]
fn short_circuit_requests_are_hadoops() {
    let slot = ShortCircuitShmSlotProto { shm_id: ShortCircuitShmIdProto { hi: -5, lo: 6 }, slot_idx: 7 };
    let access = OpRequestShortCircuitAccessProto {
        header: BaseHeaderProto::new(&block(), None),
        max_version: 1,
        slot_id: Some(slot),
        supports_receipt_verification: Some(true),
    };
    check_request(&golden!("request_short_circuit_fds"), access);
    let release = ReleaseShortCircuitAccessRequestProto { slot_id: slot, trace_info: None };
    check_request(&golden!("release_short_circuit_fds"), release);
    let shm = ShortCircuitShmRequestProto { client_name: CLIENT.into(), trace_info: None };
    check_request(&golden!("request_short_circuit_shm"), shm);
}

#[test]
fn request_golden_bytes_name_the_block() {
    let Some((Request::ReadBlock(read), _)) = decode_request(&golden!("read_block")).unwrap() else {
        panic!("no READ_BLOCK");
    };
    assert_eq!(ExtendedBlock::try_from(&read.header.base_header.block).unwrap(), block());
}

fn check_packet(golden: &[u8], header: PacketHeader) {
    let data = data(header.offset_in_block as u64, header.data_len as usize);
    let mut sums = vec![0; DataChecksum::DEFAULT.checksums_len(data.len())];
    DataChecksum::DEFAULT.compute(&data, &mut sums);
    assert_eq!([&header.encode(sums.len())[..], &sums, &data].concat(), golden);

    let frame = PacketFrame::decode(golden).unwrap().unwrap();
    assert_eq!((frame.header, frame.total_len()), (header, golden.len()));
    assert_eq!((&golden[frame.checksums()], &golden[frame.data()]), (&sums[..], &data[..]));
    frame.check_checksums_len(DataChecksum::DEFAULT).unwrap();
    assert_eq!(DataChecksum::DEFAULT.verify(&golden[frame.data()], &golden[frame.checksums()]), Ok(()));
}

#[test]
fn packets_are_hadoops() {
    let header = PacketHeader {
        offset_in_block: 4096,
        seqno: 7,
        last_packet_in_block: false,
        data_len: 1300,
        sync_block: false,
    };
    check_packet(&golden!("packet"), header);
    let sync = PacketHeader { offset_in_block: 5396, seqno: 8, data_len: 100, sync_block: true, ..header };
    check_packet(&golden!("packet_sync"), sync);
    let last = PacketHeader { offset_in_block: 5496, seqno: 9, data_len: 0, last_packet_in_block: true, ..header };
    check_packet(&golden!("packet_last"), last);
    check_packet(&golden!("packet_heartbeat"), PacketHeader::HEARTBEAT);
}

#[test]
fn packet_header_is_hadoops() {
    let header = PacketHeader {
        offset_in_block: 1 << 40,
        seqno: 1 << 33,
        last_packet_in_block: false,
        data_len: 65536,
        sync_block: true,
    };
    let golden = golden!("packet_header");
    assert_eq!(&header.encode(512)[..], golden);
    assert_eq!(golden.len(), packet::PACKET_HEADER_LEN_MAX);
    let lengths = PacketLengths::decode(*golden.first_chunk().unwrap()).unwrap();
    assert_eq!(lengths.total_len(), golden.len() + 512 + 65536);
    assert_eq!(PacketHeader::decode_proto(&golden[packet::PACKET_LENGTHS_LEN..]).unwrap(), header);
}

fn check_ack(golden: &[u8], ack: &PipelineAck) {
    let mut encoded = Vec::new();
    ack.encode(&mut encoded).unwrap();
    assert_eq!(encoded, golden);
    assert_eq!(PipelineAck::decode(golden).unwrap().unwrap(), (ack.clone(), golden.len()));
}

#[test]
fn acks_are_hadoops() {
    let success = Reply::new(Status::Success);
    let ack = PipelineAck {
        seqno: 7,
        replies: vec![
            Reply { status: Status::Success, ecn: Ecn::Congested, slow: SlowNode::Normal, full: false },
            Reply { status: Status::ErrorChecksum, ecn: Ecn::Supported, slow: SlowNode::Slow, full: false },
            success,
        ],
        downstream_ack_time_nanos: 123_456_789,
    };
    check_ack(&golden!("ack"), &ack);
    let plain = |seqno, replies: &[Reply]| PipelineAck { seqno, replies: replies.into(), downstream_ack_time_nanos: 0 };
    check_ack(&golden!("ack_success"), &plain(300, &[success, success]));
    check_ack(&golden!("ack_heartbeat"), &plain(packet::HEARTBEAT_SEQNO, &[success]));
    check_ack(&golden!("ack_restart"), &plain(packet::UNKNOWN_SEQNO, &[Reply::new(Status::OobRestart)]));
}

#[test]
fn responses_are_hadoops() {
    let success = BlockOpResponseProto { status: Status::Success.into(), ..Default::default() };
    let read_op_checksum_info =
        Some(ReadOpChecksumInfoProto { checksum: DataChecksum::DEFAULT.to_proto(), chunk_offset: 4096 });
    check_message(&golden!("response_read"), &BlockOpResponseProto { read_op_checksum_info, ..success.clone() });
    let checksum_response = Some(OpBlockChecksumResponseProto {
        bytes_per_crc: 512,
        crc_per_block: 262_144,
        block_checksum: Bytes::from_static(&[0, 1, 2, 3]),
        crc_type: Some(ChecksumTypeProto::ChecksumCrc32c.into()),
        block_checksum_options: None,
    });
    check_message(&golden!("response_checksum"), &BlockOpResponseProto { checksum_response, ..success });
    let bad_link = BlockOpResponseProto {
        status: Status::Error.into(),
        first_bad_link: Some("10.0.0.2:9866".into()),
        ..Default::default()
    };
    check_message(&golden!("response_write"), &bad_link);
    let refused = BlockOpResponseProto {
        status: Status::ErrorAccessToken.into(),
        message: Some("no".into()),
        ..Default::default()
    };
    check_message(&golden!("response_error"), &refused);
    let read_status = ClientReadStatusProto { status: Status::ChecksumOk.into() };
    check_message(&golden!("client_read_status"), &read_status);
}

#[test]
fn meta_file_is_hadoops() {
    let golden = golden!("meta_file");
    let header = MetaHeader { checksum: DataChecksum::DEFAULT };
    assert_eq!(MetaHeader::decode(&golden).unwrap(), header);
    assert_eq!(header.meta_len(1300), golden.len() as u64);
    let (start, sums) = golden.split_at(header.encode().len());
    assert_eq!(header.encode(), start);
    assert_eq!(header.checksum.verify(&data(0, 1300), sums), Ok(()));
}
