//! A cluster in one process for this crate's tests: a NameNode that knows one directory's worth of files, and DataNodes that
//! keep replicas in memory. The first node of a pipeline stands for all of it. Faults are switched on per node.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use dfs_common::attr::FileKind;
use dfs_common::error::{DfsError, ErrorKind};
use dfs_common::ids::ROOT_INODE;
use dfs_proto::data_transfer::packet::{PACKET_LENGTHS_LEN, PacketLengths};
use dfs_proto::data_transfer::{
    DataChecksum, PacketFrame, PacketHeader, PipelineAck, Reply, Request as DataRequest, encode_delimited,
    read_delimited, read_request,
};
use dfs_proto::hadoop::op_write_block_proto::BlockConstructionStage;
use dfs_proto::hadoop::{
    BlockOpResponseProto, ClientReadStatusProto, OpReadBlockProto, OpTransferBlockProto, OpWriteBlockProto,
    ReadOpChecksumInfoProto, Status as DataStatus,
};
use dfs_proto::status::to_status;
use dfs_proto::v1;
use dfs_proto::v1::client_datanode_server::{ClientDatanode, ClientDatanodeServer};
use dfs_proto::v1::client_namenode_server::{ClientNamenode, ClientNamenodeServer};
use parking_lot::Mutex;
use tonic::{Request, Response, Status};

use crate::{ClientConfig, CreateOptions, DfsClient};

pub(crate) const POOL: &str = "BP-1-127.0.0.1-1";
/// Data in the packets that fake nodes send, so that reads see several.
const READ_PACKET: usize = 4096;

/// A file to be made and written.
pub(crate) fn new_file(name: &'static [u8]) -> CreateOptions<'static> {
    CreateOptions {
        parent: ROOT_INODE,
        name,
        mode: 0o644,
        replication: 0,
        block_size: 0,
        open_for_write: true,
        exclusive: true,
    }
}

/// What a node does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// As the first of a pipeline: refuses; as a later one: is the bad link.
    RefusesSetup,
    /// Closes the connection at once after a request, and tells no length.
    HangsUp,
    /// Takes so many packets, then closes the connection.
    HangsUpAfter(usize),
    /// Takes everything, answers nothing.
    Silent,
    /// Sends a flipped bit in each read.
    Corrupt,
    /// Closes each connection after one operation, saying nothing.
    ClosesAfterOperation,
    /// Its disk takes no sync.
    FailsSync,
    /// Its disk ends no sync for as long as this lasts.
    HangsInSync,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeReplica {
    pub(crate) data: Vec<u8>,
    pub(crate) stamp: u64,
    pub(crate) is_finalized: bool,
    pub(crate) synced: usize,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeFile {
    pub(crate) blocks: Vec<v1::Block>,
    pub(crate) is_open: bool,
    block_size: u64,
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) files: HashMap<u64, FakeFile>,
    pub(crate) replicas: HashMap<(usize, u64), FakeReplica>,
    pub(crate) faults: HashMap<usize, Fault>,
    /// How often each call came.
    pub(crate) calls: HashMap<&'static str, usize>,
    /// The nodes, and who has told.
    pub(crate) bad_replicas: Vec<(String, u32)>,
    pub(crate) seen_call_ids: HashSet<u64>,
    /// Outcomes that are kept until a client says that it has heard of them.
    outcomes: BTreeSet<u64>,
    /// How many of them may be kept.
    pub(crate) outcomes_max: Option<usize>,
    pub(crate) connections: usize,
    /// Requests to write that came without the first packet behind them.
    pub(crate) writes_in_pieces: usize,
    pub(crate) read_bytes: u64,
    next_block: u64,
    next_stamp: u64,
    /// Sessions opened.
    pub(crate) incarnation: u64,
    pub(crate) is_session_dead: bool,
    /// So many changes are refused as if the NameNode were about to start.
    pub(crate) unavailable_answers: usize,
    pub(crate) nodes: Vec<v1::DatanodeId>,
    /// The last so many of them take the place of lost ones.
    pub(crate) spares: usize,
    /// Files are made with their first block.
    pub(crate) allocates_at_creation: bool,
    /// Modification time of all files.
    pub(crate) mtime_ns: i64,
    /// It has not heard all nodes since it started.
    pub(crate) awaits_reports: bool,
    /// These calls are made, but not answered.
    pub(crate) unanswered: HashSet<&'static str>,
    /// These are made, and answered once they are here no more.
    pub(crate) held_back: HashSet<&'static str>,
    /// Calls that were given up.
    pub(crate) settled: Vec<u64>,
    /// Leases by the calls that took them.
    pub(crate) leases: HashMap<u64, u64>,
    pub(crate) holds: HashMap<u64, u64>,
    /// Openings of sessions: of which process, and which.
    last_opening: (u64, u64),
    /// The earlier lives that the last opening told of.
    pub(crate) awaited: Vec<v1::AwaitedLife>,
    /// What is said of a session that has ended, instead of that no call of it is made.
    pub(crate) has_forgotten: bool,
    /// Directories beside the root, by how many files stand in them.
    pub(crate) directories: HashMap<u64, u64>,
    /// How many entries each call for a listing asked for.
    pub(crate) listings_asked: Vec<u32>,
}

type Shared = Arc<Mutex<World>>;

/// The cluster; its servers end with the test's runtime, its node threads when their connections do.
pub(crate) struct FakeCluster {
    pub(crate) world: Shared,
    address: String,
}

impl FakeCluster {
    pub(crate) async fn start(nodes: usize) -> Self {
        let world = Shared::default();
        let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let server =
            tonic::transport::Server::builder().add_service(ClientNamenodeServer::new(Fake(Arc::clone(&world))));
        tokio::spawn(server.serve_with_incoming(incoming));
        for index in 0..nodes {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = incoming.local_addr().unwrap();
            let service = ClientDatanodeServer::new(FakeNode { index, world: Arc::clone(&world) });
            tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
            world.lock().nodes.push(v1::DatanodeId {
                uuid: format!("node-{index}"),
                host: "127.0.0.1".into(),
                data_port: listener.local_addr().unwrap().port().into(),
                grpc_port: address.port().into(),
                ..Default::default()
            });
            let world = Arc::clone(&world);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let world = Arc::clone(&world);
                    world.lock().connections += 1;
                    std::thread::spawn(move || serve(index, stream.unwrap(), &world));
                }
            });
        }
        Self { world, address: address.to_string() }
    }

    pub(crate) async fn client(&self) -> DfsClient {
        self.client_with(|_| {}).await
    }

    pub(crate) async fn client_with(&self, change: impl FnOnce(&mut ClientConfig)) -> DfsClient {
        let mut config = ClientConfig::new(vec![self.address.clone()]);
        config.packet_size = 2048;
        config.ack_timeout = Duration::from_secs(2);
        config.read_timeout = Duration::from_secs(2);
        change(&mut config);
        DfsClient::connect(config).await.unwrap()
    }

    pub(crate) fn set_fault(&self, node: usize, fault: Fault) {
        self.world.lock().faults.insert(node, fault);
    }

    /// The same for all nodes.
    pub(crate) fn set_faults(&self, fault: Fault) {
        let mut world = self.world.lock();
        let all = 0..world.nodes.len();
        world.faults.extend(all.map(|node| (node, fault)));
    }

    pub(crate) fn calls(&self, name: &str) -> usize {
        self.world.lock().calls.get(name).copied().unwrap_or(0)
    }

    /// The calls since this was last asked, by name, and how often each came.
    pub(crate) fn take_calls(&self) -> Vec<(&'static str, usize)> {
        let mut calls: Vec<_> = self.world.lock().calls.drain().collect();
        calls.sort_unstable();
        calls
    }

    /// Content of a file as `node` has it.
    pub(crate) fn content(&self, inode: u64, node: usize) -> Vec<u8> {
        let world = self.world.lock();
        let replica = |block: &v1::Block| world.replicas.get(&(node, block.id)).map(|replica| replica.data.clone());
        world.files[&inode].blocks.iter().filter_map(replica).flatten().collect()
    }
}

/// One connection of one node.
fn serve(node: usize, stream: TcpStream, world: &Shared) {
    stream.set_nodelay(true).unwrap();
    let mut input = BufReader::new(stream.try_clone().unwrap());
    let mut output = stream;
    while let Ok(Some(request)) = read_request(&mut input) {
        let fault = world.lock().faults.get(&node).copied().unwrap_or_default();
        let goes_on = match request {
            _ if fault == Fault::HangsUp => None,
            DataRequest::WriteBlock(request) => {
                world.lock().writes_in_pieces += usize::from(input.buffer().is_empty());
                take_block(node, fault, &request, &mut input, &mut output, world)
            }
            DataRequest::TransferBlock(request) => fill_replacement(node, &request, &mut output, world),
            DataRequest::ReadBlock(request) => send_block(node, fault, &request, &mut input, &mut output, world),
            _ => None,
        };
        if goes_on.is_none() || fault == Fault::ClosesAfterOperation {
            let _ = output.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn respond(output: &mut TcpStream, status: DataStatus, bad_link: &str) -> Option<()> {
    let mut bytes = Vec::new();
    let response =
        BlockOpResponseProto { status: status.into(), first_bad_link: Some(bad_link.to_owned()), ..Default::default() };
    encode_delimited(&response, &mut bytes).unwrap();
    output.write_all(&bytes).ok()
}

fn read_packet(input: &mut impl Read) -> Option<(PacketFrame, Vec<u8>)> {
    let mut lengths = [0; PACKET_LENGTHS_LEN];
    input.read_exact(&mut lengths).ok()?;
    let mut bytes = lengths.to_vec();
    bytes.resize(PacketLengths::decode(lengths).unwrap().total_len(), 0);
    input.read_exact(&mut bytes[PACKET_LENGTHS_LEN..]).ok()?;
    let frame = PacketFrame::decode(&bytes).unwrap().unwrap();
    DataChecksum::DEFAULT.verify(&bytes[frame.data()], &bytes[frame.checksums()]).expect("checksums fit");
    Some((frame, bytes))
}

/// The place of each node of a pipeline in the world, or the address of one that cannot be reached.
fn pipeline_of(node: usize, request: &OpWriteBlockProto, world: &World) -> Result<Vec<usize>, String> {
    let mut pipeline = vec![node];
    for target in &request.targets {
        let place = world.nodes.iter().position(|node| node.uuid == target.id.datanode_uuid).unwrap();
        if world.faults.get(&place).is_some_and(|fault| *fault == Fault::RefusesSetup) {
            return Err(format!("{}:{}", target.id.ip_addr, target.id.xfer_port));
        }
        pipeline.push(place);
    }
    Ok(pipeline)
}

fn take_block(
    node: usize,
    fault: Fault,
    request: &OpWriteBlockProto,
    input: &mut impl Read,
    output: &mut TcpStream,
    world: &Shared,
) -> Option<()> {
    let block = &request.header.base_header.block;
    let pipeline = pipeline_of(node, request, &world.lock());
    let pipeline = match pipeline {
        Ok(pipeline) if fault != Fault::RefusesSetup => pipeline,
        Ok(_) => return respond(output, DataStatus::Error, "").and(None),
        Err(bad_link) => return respond(output, DataStatus::Error, &bad_link).and(None),
    };
    let is_append = request.stage() == BlockConstructionStage::PipelineSetupAppend;
    let is_close = request.stage() == BlockConstructionStage::PipelineCloseRecovery;
    let is_recovery = is_close
        || matches!(
            request.stage(),
            BlockConstructionStage::PipelineSetupAppendRecovery
                | BlockConstructionStage::PipelineSetupStreamingRecovery
        );
    for place in &pipeline {
        let mut world = world.lock();
        let replica = world.replicas.entry((*place, block.block_id)).or_default();
        if is_recovery {
            assert!(replica.data.len() as u64 >= request.min_bytes_rcvd, "what was acknowledged is there");
            replica.data.truncate(request.min_bytes_rcvd as usize);
        } else if is_append {
            assert!(replica.is_finalized && replica.data.len() as u64 == block.num_bytes(), "append to what is there");
        } else if !replica.data.is_empty() {
            return respond(output, DataStatus::ErrorExists, "").and(None);
        }
        replica.stamp = request.latest_generation_stamp;
        replica.is_finalized = is_close;
    }
    if fault != Fault::Silent {
        respond(output, DataStatus::Success, "")?;
    }
    if is_close {
        return Some(());
    }
    let (mut expected_seqno, mut taken) = (None, 0);
    loop {
        if fault == Fault::HangsUpAfter(taken) {
            return None;
        }
        let (frame, bytes) = read_packet(input)?;
        if !frame.header.is_heartbeat() {
            // A rebuilt pipeline goes on where the one before was.
            let seqno = expected_seqno.unwrap_or(if is_recovery { frame.header.seqno } else { 0 });
            assert_eq!(frame.header.seqno, seqno);
            expected_seqno = Some(seqno + 1);
            taken += 1;
            for place in &pipeline {
                let mut world = world.lock();
                let replica = world.replicas.get_mut(&(*place, block.block_id)).unwrap();
                store(replica, &frame.header, &bytes[frame.data()]);
            }
        }
        if fault == Fault::Silent {
            continue;
        }
        let replies = vec![Reply::new(DataStatus::Success); pipeline.len()];
        let mut ack = Vec::new();
        let answer = PipelineAck { seqno: frame.header.seqno, replies, downstream_ack_time_nanos: 0 };
        answer.encode(&mut ack).unwrap();
        output.write_all(&ack).ok()?;
        if frame.header.last_packet_in_block {
            return Some(());
        }
    }
}

/// Fills a node in the place of a lost one; its disk is slow, and it says so.
fn fill_replacement(node: usize, request: &OpTransferBlockProto, output: &mut TcpStream, world: &Shared) -> Option<()> {
    for _ in 0..3 {
        respond(output, DataStatus::InProgress, "")?;
    }
    {
        let mut world = world.lock();
        let id = request.header.base_header.block.block_id;
        let filled = world.replicas[&(node, id)].clone();
        let target = &request.targets[0].id.datanode_uuid;
        let place = world.nodes.iter().position(|node| node.uuid == *target).unwrap();
        assert!(world.replicas.insert((place, id), filled).is_none(), "it had nothing of the block");
    }
    respond(output, DataStatus::Success, "")
}

fn store(replica: &mut FakeReplica, header: &PacketHeader, data: &[u8]) {
    let offset = header.offset_in_block as usize;
    assert_eq!(offset, replica.data.len(), "packets follow each other");
    let completes_chunk = offset.is_multiple_of(512) || data.len() <= 512 - offset % 512;
    assert!(completes_chunk, "behind a partial chunk comes only its rest");
    replica.data.extend_from_slice(data);
    if header.sync_block {
        replica.synced = replica.data.len();
    }
    replica.is_finalized |= header.last_packet_in_block;
}

fn send_block(
    node: usize,
    fault: Fault,
    request: &OpReadBlockProto,
    input: &mut impl Read,
    output: &mut TcpStream,
    world: &Shared,
) -> Option<()> {
    let block = &request.header.base_header.block;
    let replica = world.lock().replicas.get(&(node, block.block_id)).cloned();
    if fault == Fault::Silent {
        std::thread::sleep(Duration::from_secs(30));
    }
    let Some(replica) = replica else { return respond(output, DataStatus::Error, "").and(None) };
    let start = request.offset / 512 * 512;
    let end = (request.offset + request.len).next_multiple_of(512).min(replica.data.len() as u64);
    let info = ReadOpChecksumInfoProto { checksum: DataChecksum::DEFAULT.to_proto(), chunk_offset: start };
    let mut bytes = Vec::new();
    let response = BlockOpResponseProto {
        status: DataStatus::Success.into(),
        read_op_checksum_info: Some(info),
        ..Default::default()
    };
    encode_delimited(&response, &mut bytes).unwrap();
    let mut at = start;
    for (seqno, data) in replica.data[start as usize..end as usize].chunks(READ_PACKET).chain([&[][..]]).enumerate() {
        let mut sums = vec![0; DataChecksum::DEFAULT.checksums_len(data.len())];
        DataChecksum::DEFAULT.compute(data, &mut sums);
        let header = PacketHeader {
            offset_in_block: at as i64,
            seqno: seqno as i64,
            last_packet_in_block: data.is_empty(),
            data_len: data.len() as u32,
            sync_block: false,
        };
        bytes.extend_from_slice(&header.encode(sums.len()));
        bytes.extend_from_slice(&sums);
        bytes.extend_from_slice(data);
        if let (Fault::Corrupt, Some(last)) = (fault, bytes.last_mut().filter(|_| !data.is_empty())) {
            *last ^= 1;
        }
        at += data.len() as u64;
    }
    world.lock().read_bytes += end - start;
    output.write_all(&bytes).ok()?;
    read_delimited::<ClientReadStatusProto>(input).ok().map(|_| ())
}

struct Fake(Shared);

impl Fake {
    fn call(&self, name: &'static str) -> parking_lot::MutexGuard<'_, World> {
        let mut world = self.0.lock();
        *world.calls.entry(name).or_default() += 1;
        world
    }

    /// As `call`, for one that changes something.
    fn mutate(
        &self,
        name: &'static str,
        header: Option<&v1::RequestHeader>,
    ) -> Result<parking_lot::MutexGuard<'_, World>, Status> {
        let mut world = self.call(name);
        let retry = header.and_then(|header| header.retry.as_ref()).expect("a retry id");
        world.seen_call_ids.insert(retry.call_id);
        if world.unavailable_answers > 0 {
            world.unavailable_answers -= 1;
            return Err(to_status(&DfsError::new(ErrorKind::Unavailable, "starting up")));
        }
        if world.is_session_dead || retry.incarnation != world.incarnation {
            let kind = if world.has_forgotten { ErrorKind::OutcomeUnknown } else { ErrorKind::LeaseLost };
            return Err(to_status(&DfsError::new(kind, "the session has ended")));
        }
        // The oldest call is let through, and one that makes room.
        let (call, lowest) = (retry.call_id, retry.lowest_pending_call_id);
        let is_full = world.outcomes_max.is_some_and(|max| world.outcomes.len() >= max);
        if is_full && call != lowest && world.outcomes.range(..lowest).next().is_none() {
            return Err(to_status(&DfsError::new(ErrorKind::Unavailable, "too many unanswered calls")));
        }
        world.outcomes.retain(|id| *id >= lowest);
        world.outcomes.insert(call);
        Ok(world)
    }

    /// Gives the answer to a call that was made, unless nobody is to hear of it.
    async fn answer<T>(&self, name: &'static str, answer: T) -> Result<Response<T>, Status> {
        if self.0.lock().unanswered.contains(name) {
            std::future::pending::<()>().await;
        }
        while self.0.lock().held_back.contains(name) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(Response::new(answer))
    }
}

fn call_id(header: Option<&v1::RequestHeader>) -> u64 {
    header.and_then(|header| header.retry.as_ref()).map_or(0, |retry| retry.call_id)
}

impl World {
    fn attr(&self, inode: u64) -> Result<v1::FileAttr, Status> {
        if inode == ROOT_INODE.0 || self.directories.contains_key(&inode) {
            let mode = FileKind::Directory as u32 | 0o755;
            return Ok(v1::FileAttr { inode, mode, nlink: 2, ..Default::default() });
        }
        let gone = || to_status(&DfsError::new(ErrorKind::Stale, "no such inode"));
        let file = self.files.get(&inode).ok_or_else(gone)?;
        Ok(v1::FileAttr {
            inode,
            mode: FileKind::File as u32 | 0o644,
            nlink: 1,
            length: file.blocks.iter().map(|block| block.length).sum(),
            replication: 3,
            block_size: file.block_size,
            under_construction: file.is_open,
            mtime_ns: self.mtime_ns,
            block_count: file.blocks.len() as u32,
            ..Default::default()
        })
    }

    fn located(&self, block: &v1::Block, offset: u64, open: bool) -> v1::LocatedBlock {
        let has = |node: &usize| self.replicas.contains_key(&(*node, block.id));
        let nodes: Vec<usize> = (0..self.nodes.len()).filter(has).collect();
        v1::LocatedBlock {
            block: Some(*block),
            offset,
            locations: nodes.iter().map(|node| self.nodes[*node].clone()).collect(),
            storage_uuids: nodes.iter().map(|node| format!("volume-{node}")).collect(),
            under_construction: open,
            awaits_reports: self.awaits_reports,
            ..Default::default()
        }
    }

    /// A page of a directory whose files are numbered from its own number on; cookies begin at 3.
    fn listing(&self, request: &v1::GetListingRequest) -> v1::GetListingResponse {
        let count = self.directories[&request.inode];
        let after = request.cookie.saturating_sub(2);
        let last = count.min(after + u64::from(request.max_entries));
        let entry = |number| {
            let (inode, mode) = (request.inode + number, FileKind::File as u32);
            let attr = v1::FileAttr { inode, mode, nlink: 1, ..Default::default() };
            v1::DirEntry {
                name: format!("file-{number}").into(),
                inode,
                cookie: number + 2,
                file_type: mode,
                attr: request.with_attrs.then_some(attr),
            }
        };
        let entries = (after + 1..=last).map(entry).collect();
        v1::GetListingResponse { entries, at_end: last == count, parent: ROOT_INODE.0, txid: 0 }
    }

    /// The next block of a file, on up to three nodes; none when no node is left.
    fn allocate(&mut self, inode: u64, exclude: &[String]) -> Option<v1::LocatedBlock> {
        let nodes = self.nodes.iter().filter(|node| !exclude.contains(&node.uuid));
        let locations: Vec<_> = nodes.take(3).cloned().collect();
        if locations.is_empty() {
            return None;
        }
        self.next_block += 1;
        self.next_stamp += 1;
        let block = v1::Block { id: self.next_block, generation_stamp: self.next_stamp, length: 0 };
        self.files.get_mut(&inode).unwrap().blocks.push(block);
        Some(v1::LocatedBlock { block: Some(block), locations, ..Default::default() })
    }

    /// A block that stayed empty goes.
    fn commit(&mut self, inode: u64, last: Option<&v1::Block>) {
        let Some(given) = last else { return };
        let blocks = &mut self.files.get_mut(&inode).unwrap().blocks;
        let Some(known) = blocks.last_mut() else {
            return assert_eq!(given.length, 0, "only an empty block is gone already");
        };
        assert_eq!((known.id, known.generation_stamp), (given.id, given.generation_stamp), "the last block is meant");
        known.length = given.length;
        if given.length == 0 {
            blocks.pop();
        }
    }
}

impl Fake {
    fn make_file(&self, request: &v1::CreateRequest) -> Result<v1::CreateResponse, Status> {
        let mut world = self.mutate("create", request.header.as_ref())?;
        let inode = 20_000 + world.files.len() as u64;
        let block_size = if request.block_size == 0 { 16_384 } else { request.block_size };
        world.files.insert(inode, FakeFile { is_open: request.open_for_write, block_size, ..FakeFile::default() });
        world.leases.insert(call_id(request.header.as_ref()), inode);
        let first_block = if world.allocates_at_creation { world.allocate(inode, &[]) } else { None };
        Ok(v1::CreateResponse {
            attr: Some(world.attr(inode)?),
            created: true,
            first_block,
            block_pool_id: POOL.into(),
            ..v1::CreateResponse::default()
        })
    }

    fn open_for_append(&self, request: &v1::AppendRequest) -> Result<v1::AppendResponse, Status> {
        let mut world = self.mutate("append", request.header.as_ref())?;
        let file = world.files.get_mut(&request.inode).unwrap();
        if std::mem::replace(&mut file.is_open, true) {
            return Err(to_status(&DfsError::new(ErrorKind::Busy, "another client writes it")));
        }
        if request.truncate {
            file.blocks.clear();
        }
        let block_size = file.block_size;
        let last = file.blocks.last().filter(|last| last.length < block_size).copied();
        world.leases.insert(call_id(request.header.as_ref()), request.inode);
        let attr = world.attr(request.inode)?;
        let last_block = last.map(|last| world.located(&last, attr.length - last.length, false));
        let block_pool_id = POOL.into();
        Ok(v1::AppendResponse { attr: Some(attr), last_block, block_pool_id, ..v1::AppendResponse::default() })
    }

    fn next_block(&self, request: &v1::AddBlockRequest) -> Result<v1::AddBlockResponse, Status> {
        let mut world = self.mutate("add_block", request.header.as_ref())?;
        world.commit(request.inode, request.previous.as_ref());
        assert_eq!(world.attr(request.inode)?.length, request.offset, "the new block follows");
        let Some(mut located) = world.allocate(request.inode, &request.exclude) else {
            return Err(to_status(&DfsError::new(ErrorKind::NoSpace, "no DataNode")));
        };
        located.offset = request.offset;
        Ok(v1::AddBlockResponse { block: Some(located), block_pool_id: POOL.into(), txid: 0 })
    }
}

macro_rules! unsupported {
    ($($name:ident($request:ty) -> $answer:ty;)*) => {
        $(fn $name<'life0, 'async_trait>(
            &'life0 self,
            _: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<$answer>, Status>> + Send + 'async_trait>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($name))) })
        })*
    };
}

#[tonic::async_trait]
impl ClientNamenode for Fake {
    async fn get_server_defaults(
        &self,
        _: Request<v1::GetServerDefaultsRequest>,
    ) -> Result<Response<v1::GetServerDefaultsResponse>, Status> {
        let namespace = v1::NamespaceInfo { block_pool_id: POOL.into(), ..Default::default() };
        Ok(Response::new(v1::GetServerDefaultsResponse {
            block_size: 16_384,
            replication: 3,
            bytes_per_checksum: 512,
            packet_size: 65_536,
            namespace: Some(namespace),
            ..Default::default()
        }))
    }

    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        let request = request.into_inner();
        let incarnation = {
            let mut world = self.call("open_session");
            let opening = (request.opener, request.opening);
            if std::mem::replace(&mut world.last_opening, opening) != opening {
                world.incarnation += 1;
                world.is_session_dead = false;
                world.awaited = request.awaited;
            }
            world.incarnation
        };
        self.answer("open_session", v1::OpenSessionResponse { incarnation, txid: 0 }).await
    }

    async fn settle_calls(
        &self,
        request: Request<v1::SettleCallsRequest>,
    ) -> Result<Response<v1::EmptyResponse>, Status> {
        let mut world = self.call("settle_calls");
        for id in request.into_inner().call_ids {
            world.settled.push(id);
            if let Some(inode) = world.leases.remove(&id) {
                world.files.get_mut(&inode).unwrap().is_open = false;
            }
        }
        Ok(Response::new(v1::EmptyResponse::default()))
    }

    async fn recover_lease(
        &self,
        request: Request<v1::RecoverLeaseRequest>,
    ) -> Result<Response<v1::RecoverLeaseResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.mutate("recover_lease", request.header.as_ref())?;
        assert!(request.own);
        if world.leases.remove(&request.call_id) == Some(request.inode) {
            world.files.get_mut(&request.inode).unwrap().is_open = false;
        }
        Ok(Response::new(v1::RecoverLeaseResponse { closed: true, txid: 0 }))
    }

    async fn hold(&self, request: Request<v1::InodeMutation>) -> Result<Response<v1::EmptyResponse>, Status> {
        let request = request.into_inner();
        let call = call_id(request.header.as_ref());
        self.mutate("hold", request.header.as_ref())?.holds.insert(request.inode, call);
        self.answer("hold", v1::EmptyResponse::default()).await
    }

    async fn release_hold(
        &self,
        request: Request<v1::ReleaseHoldRequest>,
    ) -> Result<Response<v1::EmptyResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.mutate("release_hold", request.header.as_ref())?;
        assert_eq!(world.holds.remove(&request.inode), Some(request.call_id), "a hold is ended by its name, once");
        Ok(Response::new(v1::EmptyResponse::default()))
    }

    async fn renew_lease(
        &self,
        request: Request<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::EmptyResponse>, Status> {
        let world = self.call("renew_lease");
        if world.is_session_dead || request.into_inner().incarnation != world.incarnation {
            return Err(to_status(&DfsError::new(ErrorKind::LeaseLost, "the session has ended")));
        }
        Ok(Response::new(v1::EmptyResponse::default()))
    }

    async fn close_session(&self, _: Request<v1::CloseSessionRequest>) -> Result<Response<v1::EmptyResponse>, Status> {
        self.call("close_session").is_session_dead = true;
        Ok(Response::new(v1::EmptyResponse::default()))
    }

    async fn get_file_info(&self, request: Request<v1::InodeRequest>) -> Result<Response<v1::AttrResponse>, Status> {
        let attr = self.call("get_file_info").attr(request.into_inner().inode)?;
        Ok(Response::new(v1::AttrResponse { attr: Some(attr), ..v1::AttrResponse::default() }))
    }

    async fn get_fs_stats(
        &self,
        _: Request<v1::GetFsStatsRequest>,
    ) -> Result<Response<v1::GetFsStatsResponse>, Status> {
        drop(self.call("get_fs_stats"));
        Ok(Response::new(v1::GetFsStatsResponse::default()))
    }

    async fn get_listing(
        &self,
        request: Request<v1::GetListingRequest>,
    ) -> Result<Response<v1::GetListingResponse>, Status> {
        let request = request.into_inner();
        let answer = {
            let mut world = self.call("get_listing");
            world.listings_asked.push(request.max_entries);
            world.listing(&request)
        };
        self.answer("get_listing", answer).await
    }

    async fn unlink(&self, request: Request<v1::DentryMutation>) -> Result<Response<v1::EmptyResponse>, Status> {
        drop(self.mutate("unlink", request.into_inner().header.as_ref())?);
        self.answer("unlink", v1::EmptyResponse::default()).await
    }

    async fn create(&self, request: Request<v1::CreateRequest>) -> Result<Response<v1::CreateResponse>, Status> {
        let request = request.into_inner();
        let answer = self.make_file(&request)?;
        self.answer("create", answer).await
    }

    async fn append(&self, request: Request<v1::AppendRequest>) -> Result<Response<v1::AppendResponse>, Status> {
        let request = request.into_inner();
        let answer = self.open_for_append(&request)?;
        self.answer("append", answer).await
    }

    async fn add_block(&self, request: Request<v1::AddBlockRequest>) -> Result<Response<v1::AddBlockResponse>, Status> {
        let request = request.into_inner();
        let answer = self.next_block(&request)?;
        self.answer("add_block", answer).await
    }

    async fn abandon_block(
        &self,
        request: Request<v1::AbandonBlockRequest>,
    ) -> Result<Response<v1::EmptyResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.mutate("abandon_block", request.header.as_ref())?;
        let popped = world.files.get_mut(&request.inode).unwrap().blocks.pop().unwrap();
        assert_eq!(popped.id, request.block.unwrap().id);
        world.replicas.retain(|(_, id), _| *id != popped.id);
        Ok(Response::new(v1::EmptyResponse::default()))
    }

    async fn complete(&self, request: Request<v1::CompleteRequest>) -> Result<Response<v1::CompleteResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.mutate("complete", request.header.as_ref())?;
        world.commit(request.inode, request.last.as_ref());
        world.files.get_mut(&request.inode).unwrap().is_open = false;
        world.leases.retain(|_, leased| *leased != request.inode);
        Ok(Response::new(v1::CompleteResponse { done: true, attr: Some(world.attr(request.inode)?), txid: 0 }))
    }

    async fn fsync(&self, request: Request<v1::FsyncRequest>) -> Result<Response<v1::EmptyResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.mutate("fsync", request.header.as_ref())?;
        world.commit(request.inode, request.last.as_ref());
        Ok(Response::new(v1::EmptyResponse::default()))
    }

    async fn update_block_for_pipeline(
        &self,
        request: Request<v1::UpdateBlockForPipelineRequest>,
    ) -> Result<Response<v1::UpdateBlockForPipelineResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.mutate("update_block_for_pipeline", request.header.as_ref())?;
        world.next_stamp += 1;
        let block = v1::Block { generation_stamp: world.next_stamp, ..request.block.unwrap() };
        let block = Some(v1::LocatedBlock { block: Some(block), ..Default::default() });
        Ok(Response::new(v1::UpdateBlockForPipelineResponse { block, txid: 0 }))
    }

    async fn update_pipeline(
        &self,
        request: Request<v1::UpdatePipelineRequest>,
    ) -> Result<Response<v1::EmptyResponse>, Status> {
        let request = request.into_inner();
        let mut world = self.mutate("update_pipeline", request.header.as_ref())?;
        let last = world.files.get_mut(&request.inode).unwrap().blocks.last_mut().unwrap();
        let old = request.old_block.unwrap();
        assert_eq!((last.id, last.generation_stamp), (old.id, old.generation_stamp));
        assert!(old.length >= last.length, "what was recorded was acknowledged");
        *last = request.new_block.unwrap();
        Ok(Response::new(v1::EmptyResponse::default()))
    }

    async fn get_additional_datanode(
        &self,
        request: Request<v1::GetAdditionalDatanodeRequest>,
    ) -> Result<Response<v1::GetAdditionalDatanodeResponse>, Status> {
        let request = request.into_inner();
        let world = self.call("get_additional_datanode");
        let is_free =
            |node: &&v1::DatanodeId| ![&request.existing, &request.exclude].iter().any(|of| of.contains(&node.uuid));
        let spares = world.nodes.iter().skip(world.nodes.len() - world.spares);
        let locations: Vec<_> = spares.filter(is_free).cloned().collect();
        if locations.is_empty() {
            return Err(to_status(&DfsError::new(ErrorKind::NoSpace, "no DataNode")));
        }
        let block = v1::LocatedBlock { block: request.block, locations, ..Default::default() };
        Ok(Response::new(v1::GetAdditionalDatanodeResponse { block: Some(block), txid: 0 }))
    }

    async fn get_block_locations(
        &self,
        request: Request<v1::GetBlockLocationsRequest>,
    ) -> Result<Response<v1::GetBlockLocationsResponse>, Status> {
        let request = request.into_inner();
        let world = self.call("get_block_locations");
        let attr = world.attr(request.inode)?;
        let file = &world.files[&request.inode];
        let (mut at, end) = (0, request.offset.saturating_add(request.length));
        let mut blocks = Vec::new();
        for (index, block) in file.blocks.iter().enumerate() {
            let open = file.is_open && index + 1 == file.blocks.len();
            if at < end && (at + block.length > request.offset || open) {
                blocks.push(world.located(block, at, open));
            }
            at += block.length;
        }
        let blocks = v1::LocatedBlocks {
            file_length: attr.length,
            blocks,
            under_construction: file.is_open,
            block_pool_id: POOL.into(),
        };
        Ok(Response::new(v1::GetBlockLocationsResponse { blocks: Some(blocks), attr: Some(attr), txid: 0 }))
    }

    async fn report_bad_blocks(
        &self,
        request: Request<v1::ReportBadBlocksRequest>,
    ) -> Result<Response<v1::EmptyResponse>, Status> {
        let request = request.into_inner();
        let who = request.header.and_then(|header| header.caller).map_or(0, |caller| caller.uid);
        let reported = request.replicas.into_iter().map(|replica| (replica.datanode_uuid, who));
        self.call("report_bad_blocks").bad_replicas.extend(reported);
        Ok(Response::new(v1::EmptyResponse::default()))
    }

    unsupported! {
        lookup(v1::LookupRequest) -> v1::AttrResponse;
        get_link_target(v1::InodeRequest) -> v1::GetLinkTargetResponse;
        get_content_summary(v1::InodeRequest) -> v1::GetContentSummaryResponse;
        get_x_attr(v1::XAttrRequest) -> v1::GetXAttrResponse;
        list_x_attrs(v1::InodeRequest) -> v1::ListXAttrsResponse;
        mkdir(v1::MkdirRequest) -> v1::AttrResponse;
        mknod(v1::MknodRequest) -> v1::AttrResponse;
        create_symlink(v1::CreateSymlinkRequest) -> v1::AttrResponse;
        link(v1::LinkRequest) -> v1::AttrResponse;
        rmdir(v1::DentryMutation) -> v1::EmptyResponse;
        delete(v1::DentryMutation) -> v1::EmptyResponse;
        rename(v1::RenameRequest) -> v1::EmptyResponse;
        set_attr(v1::SetAttrRequest) -> v1::AttrResponse;
        truncate(v1::TruncateRequest) -> v1::AttrResponse;
        set_replication(v1::SetReplicationRequest) -> v1::AttrResponse;
        set_x_attr(v1::SetXAttrRequest) -> v1::EmptyResponse;
        remove_x_attr(v1::XAttrMutation) -> v1::EmptyResponse;
        get_datanode_report(v1::GetDatanodeReportRequest) -> v1::GetDatanodeReportResponse;
        set_safe_mode(v1::SetSafeModeRequest) -> v1::SetSafeModeResponse;
        save_namespace(v1::SaveNamespaceRequest) -> v1::SaveNamespaceResponse;
        check_files(v1::CheckFilesRequest) -> v1::CheckFilesResponse;
        refresh_nodes(v1::RefreshNodesRequest) -> v1::RefreshNodesResponse;
        move_replicas(v1::MoveReplicasRequest) -> v1::MoveReplicasResponse;
    }
}

/// The small questions of one node.
struct FakeNode {
    index: usize,
    world: Shared,
}

impl FakeNode {
    fn call(&self, name: &'static str) -> parking_lot::MutexGuard<'_, World> {
        let mut world = self.world.lock();
        *world.calls.entry(name).or_default() += 1;
        world
    }
}

#[tonic::async_trait]
impl ClientDatanode for FakeNode {
    async fn get_replica_visible_length(
        &self,
        request: Request<v1::GetReplicaVisibleLengthRequest>,
    ) -> Result<Response<v1::GetReplicaVisibleLengthResponse>, Status> {
        let block = request.into_inner().block.unwrap();
        let world = self.call("get_replica_visible_length");
        if world.faults.get(&self.index) == Some(&Fault::HangsUp) {
            return Err(to_status(&DfsError::new(ErrorKind::Unavailable, "hung up")));
        }
        let length = world.replicas.get(&(self.index, block.id)).map_or(0, |replica| replica.data.len() as u64);
        Ok(Response::new(v1::GetReplicaVisibleLengthResponse { length }))
    }

    async fn sync_replica(
        &self,
        request: Request<v1::SyncReplicaRequest>,
    ) -> Result<Response<v1::SyncReplicaResponse>, Status> {
        drop(self.call("sync_replica"));
        let fault = || self.world.lock().faults.get(&self.index).copied().unwrap_or_default();
        while fault() == Fault::HangsInSync {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let is_failing = fault() == Fault::FailsSync;
        let mut world = self.world.lock();
        if is_failing {
            return Err(to_status(&DfsError::new(ErrorKind::Io, "the disk fails")));
        }
        for block in request.into_inner().blocks {
            let Some(replica) = world.replicas.get_mut(&(self.index, block.id)) else {
                return Err(to_status(&DfsError::new(ErrorKind::NotFound, "no such replica")));
            };
            assert_eq!(replica.stamp, block.generation_stamp);
            replica.synced = replica.data.len();
        }
        Ok(Response::new(v1::SyncReplicaResponse {}))
    }

    unsupported! {
        trigger_block_report(v1::TriggerBlockReportRequest) -> v1::TriggerBlockReportResponse;
    }
}
