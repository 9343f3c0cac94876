//! A DataNode without NameNode, and a client that speaks to it byte by byte.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_common::units::ByteCount;
use dfs_proto::data_transfer::op::RequestMessage;
use dfs_proto::data_transfer::{
    DataChecksum, PacketFrame, PacketHeader, PipelineAck, decode_delimited, encode_delimited, encode_request,
};
use dfs_proto::hadoop::op_write_block_proto::BlockConstructionStage;
use dfs_proto::hadoop::{
    BlockOpResponseProto, ClientOperationHeaderProto, ClientReadStatusProto, DatanodeIdProto, DatanodeInfoProto,
    OpReadBlockProto, OpWriteBlockProto, Status,
};

use super::connection::Connection;
use super::data_service::DataService;
use super::{DataPlane, DropBehind, Pace, PeerPool, Pulse};
use crate::datanode::metrics::Metrics;
use crate::datanode::store::{Identity, ReplicaStore, StoreSettings};

pub(crate) const POOL: &str = "BP-1-127.0.0.1-1";
const PATIENCE: Duration = Duration::from_secs(20);

/// Settings of a store on one directory.
pub(crate) fn store_settings(dir: &Path) -> StoreSettings {
    StoreSettings { data_dirs: vec![dir.to_owned()], reserved: ByteCount(0), sync_on_close: false, open_max: 16 }
}

pub(crate) fn identity() -> Identity {
    Identity { cluster_id: "CID-1".into(), namespace_id: 1, block_pool_id: POOL.into() }
}

/// A store and a data service on loopback.
pub(crate) struct TestNode {
    pub(crate) store: Arc<ReplicaStore>,
    pub(crate) plane: Arc<DataPlane>,
    pub(crate) service: DataService,
}

impl TestNode {
    pub(crate) fn start(settings: &StoreSettings) -> Self {
        Self::start_with(settings, 64, Duration::from_secs(10))
    }

    pub(crate) fn start_with(settings: &StoreSettings, threads_max: usize, timeout: Duration) -> Self {
        let store = Arc::new(ReplicaStore::open(settings).unwrap());
        store.adopt(&identity()).unwrap();
        let plane = Arc::new(DataPlane {
            store: Arc::clone(&store),
            peers: PeerPool::new(16),
            pulse: Pulse::start().unwrap(),
            metrics: Arc::new(Metrics::default()),
            timeout,
            balance_pace: Pace::new(1 << 40),
            drop_behind: DropBehind::Mirrors,
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = DataService::start(listener, Arc::clone(&plane), threads_max).unwrap();
        Self { store, plane, service }
    }

    /// Stops and starts again on the same directory.
    pub(crate) fn restart(self, settings: &StoreSettings) -> Self {
        self.service.stop(PATIENCE);
        let store = Arc::downgrade(&self.store);
        drop(self);
        // Threads that have just ended may hold it for a moment.
        wait_until("the store is gone and its lock free", || store.strong_count() == 0);
        Self::start(settings)
    }

    /// As targets of a pipeline name it.
    pub(crate) fn info(&self) -> DatanodeInfoProto {
        let address = self.service.address();
        DatanodeInfoProto {
            id: DatanodeIdProto {
                ip_addr: address.ip().to_string(),
                xfer_port: address.port().into(),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    pub(crate) fn client(&self) -> Client {
        connect(&self.service.address().to_string())
    }

    /// Reads a range back, verified.
    pub(crate) fn read(
        &self,
        block: &ExtendedBlock,
        offset: u64,
        len: u64,
    ) -> Result<Vec<u8>, Box<BlockOpResponseProto>> {
        self.client().read(block, offset, len)
    }
}

pub(crate) fn block(id: u64) -> ExtendedBlock {
    let block = Block { id: BlockId(id), generation_stamp: GenerationStamp(1001), length: 0 };
    ExtendedBlock { pool: POOL.into(), block }
}

/// Bytes that differ everywhere.
pub(crate) fn content(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&(state >> 11).to_le_bytes());
    }
    out.truncate(len);
    out
}

pub(crate) fn write_request(block: &ExtendedBlock, targets: &[DatanodeInfoProto]) -> OpWriteBlockProto {
    OpWriteBlockProto {
        header: ClientOperationHeaderProto::new(block, None, "test"),
        targets: targets.to_vec(),
        stage: BlockConstructionStage::PipelineSetupCreate.into(),
        pipeline_size: targets.len() as u32 + 1,
        latest_generation_stamp: block.block.generation_stamp.0,
        requested_checksum: DataChecksum::DEFAULT.to_proto(),
        ..Default::default()
    }
}

pub(crate) fn append_request(block: &ExtendedBlock, length: u64, new_stamp: u64) -> OpWriteBlockProto {
    OpWriteBlockProto {
        stage: BlockConstructionStage::PipelineSetupAppend.into(),
        min_bytes_rcvd: length,
        latest_generation_stamp: new_stamp,
        ..write_request(block, &[])
    }
}

/// The bytes of one packet.
pub(crate) fn packet(seqno: i64, offset: u64, data: &[u8], last: bool, sync: bool) -> Vec<u8> {
    let mut sums = vec![0; DataChecksum::DEFAULT.checksums_len(data.len())];
    DataChecksum::DEFAULT.compute(data, &mut sums);
    let header = PacketHeader {
        offset_in_block: offset as i64,
        seqno,
        last_packet_in_block: last,
        data_len: data.len() as u32,
        sync_block: sync,
    };
    [&header.encode(sums.len())[..], &sums, data].concat()
}

/// Packets of a whole block, with the empty last one; and how many they are.
pub(crate) fn packets(data: &[u8], size: usize) -> (Vec<u8>, usize) {
    let mut out = Vec::new();
    let mut seqno = 0;
    for (index, piece) in data.chunks(size).enumerate() {
        out.extend_from_slice(&packet(seqno, (index * size) as u64, piece, false, false));
        seqno += 1;
    }
    out.extend_from_slice(&packet(seqno, data.len() as u64, &[], true, false));
    (out, seqno as usize + 1)
}

pub(crate) fn read_request(block: &ExtendedBlock, offset: u64, len: u64) -> OpReadBlockProto {
    OpReadBlockProto {
        header: ClientOperationHeaderProto::new(block, None, "test"),
        offset,
        len,
        send_checksums: None,
        caching_strategy: None,
    }
}

/// What a content reader says.
pub(crate) fn verdict() -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_delimited(&ClientReadStatusProto { status: Status::ChecksumOk.into() }, &mut bytes).unwrap();
    bytes
}

/// A client of a data port.
pub(crate) fn connect(address: &str) -> Client {
    Client { connection: Connection::dial(address, PATIENCE).unwrap() }
}

/// One connection.
pub(crate) struct Client {
    connection: Connection,
}

impl Client {
    pub(crate) fn request<R: RequestMessage>(&mut self, request: &R) {
        let mut bytes = Vec::new();
        encode_request(request, &mut bytes).unwrap();
        self.send(&bytes);
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.connection.send_all(bytes, PATIENCE).unwrap();
    }

    pub(crate) fn response(&mut self) -> BlockOpResponseProto {
        loop {
            if let Some((response, len)) = decode_delimited(self.connection.filled()).unwrap() {
                self.connection.consume(len);
                return response;
            }
            assert!(self.connection.receive_by(Instant::now() + PATIENCE).unwrap(), "closed instead of a response");
        }
    }

    pub(crate) fn ack(&mut self) -> PipelineAck {
        loop {
            if let Some((ack, len)) = PipelineAck::decode(self.connection.filled()).unwrap() {
                self.connection.consume(len);
                return ack;
            }
            assert!(self.connection.receive_by(Instant::now() + PATIENCE).unwrap(), "closed instead of an ack");
        }
    }

    pub(crate) fn statuses(&mut self) -> (i64, Vec<Status>) {
        let ack = self.ack();
        (ack.seqno, ack.replies.iter().map(|reply| reply.status).collect())
    }

    /// Whether the node closes the connection without another word.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.connection.receive_by(Instant::now() + PATIENCE) {
            Ok(more) => !more,
            Err(error) => error.kind() != std::io::ErrorKind::TimedOut,
        }
    }

    /// Writes a block as one message, and expects success of all nodes.
    pub(crate) fn write(&mut self, block: &ExtendedBlock, targets: &[DatanodeInfoProto], data: &[u8], size: usize) {
        let mut bytes = Vec::new();
        encode_request(&write_request(block, targets), &mut bytes).unwrap();
        let (packets, count) = packets(data, size);
        bytes.extend_from_slice(&packets);
        self.send(&bytes);
        self.expect_written(count, targets.len() + 1);
    }

    pub(crate) fn expect_written(&mut self, packets: usize, nodes: usize) {
        let response = self.response();
        assert_eq!(response.status(), Status::Success, "{response:?}");
        for seqno in 0..packets {
            assert_eq!(self.statuses(), (seqno as i64, vec![Status::Success; nodes]));
        }
    }

    /// Reads a range, verifies it, and leaves the connection ready for the next request.
    pub(crate) fn read(
        &mut self,
        block: &ExtendedBlock,
        offset: u64,
        len: u64,
    ) -> Result<Vec<u8>, Box<BlockOpResponseProto>> {
        self.request(&read_request(block, offset, len));
        let read = self.read_answer(offset, len)?;
        self.send(&verdict());
        Ok(read)
    }

    /// The answer to a request to read, without a verdict.
    pub(crate) fn read_answer(&mut self, offset: u64, len: u64) -> Result<Vec<u8>, Box<BlockOpResponseProto>> {
        let response = self.response();
        if response.status() != Status::Success {
            return Err(response.into());
        }
        let mut at = response.read_op_checksum_info.unwrap().chunk_offset;
        let mut out = Vec::new();
        let skip = (offset - at) as usize;
        loop {
            let (header, data) = self.read_packet();
            assert_eq!(header.offset_in_block as u64, at);
            at += data.len() as u64;
            out.extend_from_slice(&data);
            if header.last_packet_in_block {
                break;
            }
        }
        Ok(out[skip..][..len as usize].to_vec())
    }

    /// Reads a whole block without looking at it.
    pub(crate) fn read_and_forget(&mut self, block: &ExtendedBlock, len: u64) {
        self.request(&read_request(block, 0, len));
        assert_eq!(self.response().status(), Status::Success);
        loop {
            let Some(frame) = PacketFrame::decode(self.connection.filled()).unwrap() else {
                assert!(self.connection.receive_by(Instant::now() + PATIENCE).unwrap());
                continue;
            };
            let mut left = frame.total_len();
            while left > 0 {
                let part = left.min(self.connection.filled().len());
                self.connection.consume(part);
                left -= part;
                if left > 0 && self.connection.receive(left.min(256 << 10)).unwrap().is_none() {
                    assert!(self.connection.receive_by(Instant::now() + PATIENCE).unwrap());
                }
            }
            if frame.header.last_packet_in_block {
                break;
            }
        }
        self.send(&verdict());
    }

    fn read_packet(&mut self) -> (PacketHeader, Vec<u8>) {
        loop {
            if let Some(frame) = PacketFrame::decode(self.connection.filled()).unwrap()
                && self.connection.filled().len() >= frame.total_len()
            {
                let packet = &self.connection.filled()[..frame.total_len()];
                let data = packet[frame.data()].to_vec();
                let proven = DataChecksum::DEFAULT.verify(&data, &packet[frame.checksums()]);
                proven.unwrap_or_else(|at| panic!("a checksum does not fit the data at {at}"));
                self.connection.consume(frame.total_len());
                return (frame.header, data);
            }
            assert!(self.connection.receive_by(Instant::now() + PATIENCE).unwrap(), "closed inside a packet");
        }
    }
}

/// Waits for a condition that another thread makes true.
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}
