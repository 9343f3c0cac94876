//! Thousands of random and mutated byte streams against every port of every daemon, while a client works on.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_proto::data_transfer::op::RequestMessage;
use dfs_proto::data_transfer::{ChecksumKind, DataChecksum, PacketHeader, encode_request};
use dfs_proto::hadoop::op_write_block_proto::BlockConstructionStage;
use dfs_proto::hadoop::{
    BaseHeaderProto, ChecksumTypeProto, ClientOperationHeaderProto, DatanodeIdProto, DatanodeInfoProto,
    OpBlockChecksumProto, OpCopyBlockProto, OpReadBlockProto, OpRequestShortCircuitAccessProto, OpTransferBlockProto,
    OpWriteBlockProto, ShortCircuitShmRequestProto,
};
use dfs_proto::v1;
use dfs_tests::cases;
use dfs_tests::cluster::{Cluster, http_get};
use dfs_tests::replica::replica_files;
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::wait::{REPAIR, wait_until};
use dfs_tests::workload::Pattern;
use prost::Message;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};

pub(super) const CASES: [Case<Nothing>; 2] =
    cases![random_and_mutated_streams_leave_every_daemon_serving, oversized_lengths_are_refused_without_memory];

/// Streams against each port.
const STREAMS: usize = 4096;
const THREADS: usize = 8;
/// A server that waits for more is left after this.
const PATIENCE: Duration = Duration::from_millis(20);
/// Memory that no daemon of a small cluster may reach, whatever is sent to it.
pub(super) const RESIDENT_MAX_KIB: u64 = 1 << 20;

/// What a stream is made of: well-formed beginnings of every kind.
struct Seeds {
    data: Vec<Vec<u8>>,
    grpc: Vec<Vec<u8>>,
    http: Vec<Vec<u8>>,
}

fn random_and_mutated_streams_leave_every_daemon_serving(_: &Nothing) {
    let seed: u64 = std::env::var("DFS_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("DFS_TEST_SEED={seed}");
    let mut cluster = Cluster::builder().datanodes(2).start();
    let mount = cluster.mount("mount");
    let canary = Pattern::new(seed);
    canary.make_file(&mount.join("canary"), 2_000_000);
    wait_until(REPAIR, "the canary's replicas", || (0..2).all(|node| !replica_files(&cluster, node).is_empty()));
    let seeds = Seeds { data: data_seeds(&cluster), grpc: grpc_seeds(), http: http_seeds() };
    let ports = [
        (cluster.datanodes[0].data_port, &seeds.data),
        (cluster.datanodes[0].grpc_port, &seeds.grpc),
        (cluster.namenode.rpc_port, &seeds.grpc),
        (cluster.datanodes[0].http_port, &seeds.http),
        (cluster.namenode.http_port, &seeds.http),
    ];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A client that goes on working meanwhile, and must not notice.
        let worker = scope.spawn(|| {
            let mut files = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let path = mount.join(format!("work-{}", files % 10));
                Pattern::new(files).make_file(&path, 10_000);
                Pattern::new(files).check_file(&path, 10_000);
                canary.check_file(&mount.join("canary"), 2_000_000);
                files += 1;
            }
            files
        });
        for (number, (port, seeds)) in ports.into_iter().enumerate() {
            bombard(port, seeds, seed.wrapping_add(number as u64));
        }
        stop.store(true, Ordering::Relaxed);
        assert!(worker.join().expect("the client works on") > 0);
    });
    cluster.check_all_serving().unwrap();
    for daemon in cluster.datanodes.iter().map(|node| &node.daemon).chain([&cluster.namenode.daemon]) {
        let resident = resident_kib(daemon.pid().expect("it runs").as_raw_pid());
        assert!(resident < RESIDENT_MAX_KIB, "{} uses {resident} KiB", daemon.name());
        assert!(!daemon.log_text().contains("panicked"), "{} panicked\n{}", daemon.name(), daemon.log_tail());
    }
    let fresh = cluster.mount("fresh");
    canary.check_file(&fresh.join("canary"), 2_000_000);
    Pattern::new(1).make_file(&fresh.join("after"), 1_000_000);
    Pattern::new(1).check_file(&fresh.join("after"), 1_000_000);
}

/// Sends all streams to one port.
fn bombard(port: u16, seeds: &[Vec<u8>], seed: u64) {
    let (sent, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (sent, refused) = (&sent, &refused);
            scope.spawn(move || {
                let mut rng = SmallRng::seed_from_u64(seed ^ ((thread as u64) << 32));
                for _ in 0..STREAMS / THREADS {
                    let stream = make_stream(&mut rng, seeds);
                    let counter = if send(port, &stream) { sent } else { refused };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let (sent, refused) = (sent.into_inner(), refused.into_inner());
    assert!(sent > STREAMS * 9 / 10, "port {port} refused {refused} connections of {STREAMS}");
}

/// Random bytes, or a well-formed beginning that was tampered with.
fn make_stream(rng: &mut SmallRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    if rng.random_ratio(1, 8) {
        let mut bytes = vec![0; rng.random_range(0..20_000)];
        rng.fill_bytes(&mut bytes);
        return bytes;
    }
    let mut bytes = seeds.choose(rng).expect("there are seeds").clone();
    for _ in 0..rng.random_range(0..4) {
        mutate(rng, &mut bytes, seeds);
    }
    bytes
}

fn mutate(rng: &mut SmallRng, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    if bytes.is_empty() {
        return;
    }
    let at = rng.random_range(0..bytes.len());
    match rng.random_range(0..7) {
        0 => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => bytes[at] = rng.random(),
        2 => bytes.truncate(at),
        // Lengths are what parsers trust: the values at the edges.
        3 => {
            let value = [0_u32, 1, 0x7f, 0x80, 0xffff, 0x7fff_ffff, 0x8000_0000, u32::MAX].choose(rng).expect("some");
            for (byte, new) in bytes[at..].iter_mut().zip(value.to_be_bytes()) {
                *byte = new;
            }
        }
        4 => {
            let mut extra = vec![0; rng.random_range(1..600)];
            rng.fill_bytes(&mut extra);
            bytes.splice(at..at, extra);
        }
        5 => {
            let end = (at + rng.random_range(1..40)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => bytes.extend_from_slice(seeds.choose(rng).expect("there are seeds")),
    }
}

/// Sends one stream and listens a moment; false when the port did not even take the connection.
fn send(port: u16, stream: &[u8]) -> bool {
    let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    socket.set_read_timeout(Some(PATIENCE)).expect("set timeout");
    socket.set_write_timeout(Some(Duration::from_secs(1))).expect("set timeout");
    // A server that hangs up in the middle is in its right.
    let _ = socket.write_all(stream);
    if stream.len().is_multiple_of(2) {
        let _ = socket.shutdown(Shutdown::Write);
    }
    let mut answer = [0; 4096];
    for _ in 0..16 {
        match socket.read(&mut answer) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    true
}

pub(super) fn resident_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("read status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has a size");
    line.trim().trim_end_matches(" kB").parse().expect("kB is a number")
}

// --- well-formed beginnings ------------------------------------------------------------------------------------------

fn encoded<R: RequestMessage>(request: &R) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_request(request, &mut bytes).expect("a request of usual size");
    bytes
}

/// The canary's block as its files name it.
fn canary_block(cluster: &Cluster) -> ExtendedBlock {
    let (_, status) = http_get(&cluster.namenode.host, cluster.namenode.http_port, "/status").expect("status page");
    let status: serde_json::Value = serde_json::from_str(&status).expect("status is JSON");
    let pool = status["block_pool_id"].as_str().expect("block_pool_id").to_owned();
    let path = &replica_files(cluster, 0)[0];
    let id = path.file_name().and_then(|name| name.to_str()?.strip_prefix("blk_")?.parse().ok()).expect("blk_<id>");
    let prefix = format!("blk_{id}_");
    let names = std::fs::read_dir(path.parent().expect("a file lies somewhere")).expect("list");
    let stamp = names
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find_map(|name| name.strip_prefix(&prefix)?.strip_suffix(".meta")?.parse().ok())
        .expect("blk_<id>_<stamp>.meta");
    let length = std::fs::metadata(path).expect("stat replica").len();
    ExtendedBlock { pool, block: Block { id: BlockId(id), generation_stamp: GenerationStamp(stamp), length } }
}

fn nowhere() -> DatanodeInfoProto {
    DatanodeInfoProto {
        id: DatanodeIdProto {
            ip_addr: "127.0.0.1".into(),
            host_name: "127.0.0.1".into(),
            datanode_uuid: "nobody".into(),
            xfer_port: 1,
            info_port: 1,
            ipc_port: 1,
            info_secure_port: None,
        },
        ..Default::default()
    }
}

fn data_seeds(cluster: &Cluster) -> Vec<Vec<u8>> {
    let canary = canary_block(cluster);
    let header = ClientOperationHeaderProto::new(&canary, None, "a-client");
    let base = BaseHeaderProto::new(&canary, None);
    let read = OpReadBlockProto {
        header: header.clone(),
        offset: 1000,
        len: 100_000,
        send_checksums: Some(true),
        ..Default::default()
    };
    let mut seeds = vec![
        encoded(&read),
        encoded(&OpReadBlockProto { offset: u64::MAX, len: u64::MAX, ..read.clone() }),
        encoded(&OpTransferBlockProto { header: header.clone(), targets: vec![nowhere()], ..Default::default() }),
        encoded(&OpCopyBlockProto { header: base.clone() }),
        encoded(&OpBlockChecksumProto { header: base.clone(), ..Default::default() }),
        encoded(&OpRequestShortCircuitAccessProto { header: base, max_version: 1, ..Default::default() }),
        encoded(&ShortCircuitShmRequestProto { client_name: "a-client".into(), trace_info: None }),
    ];
    for number in 0..6 {
        seeds.push(write_stream(&canary.pool, number));
    }
    seeds
}

/// A write of a block nobody allocated, with some packets.
fn write_stream(pool: &str, number: u64) -> Vec<u8> {
    let id = BlockId((1 << 40) + number);
    let block = ExtendedBlock {
        pool: pool.to_owned(),
        block: Block { id, generation_stamp: GenerationStamp(1 << 20), length: 0 },
    };
    let checksum = DataChecksum::new(ChecksumKind::Crc32c, 512).expect("the usual checksum");
    let mut bytes = encoded(&OpWriteBlockProto {
        header: ClientOperationHeaderProto::new(&block, None, "a-client"),
        targets: if number.is_multiple_of(2) { Vec::new() } else { vec![nowhere()] },
        stage: BlockConstructionStage::PipelineSetupCreate.into(),
        pipeline_size: 1,
        latest_generation_stamp: 1 << 20,
        requested_checksum: dfs_proto::hadoop::ChecksumProto {
            r#type: ChecksumTypeProto::ChecksumCrc32c.into(),
            bytes_per_checksum: 512,
        },
        ..Default::default()
    });
    for seqno in 0..3_i64 {
        let data = Pattern::new(number).bytes(1500);
        let mut sums = vec![0; checksum.checksums_len(data.len())];
        checksum.compute(&data, &mut sums);
        let header = PacketHeader {
            offset_in_block: seqno * 1500,
            seqno,
            last_packet_in_block: false,
            data_len: 1500,
            sync_block: seqno == 1,
        };
        bytes.extend_from_slice(&header.encode(sums.len()));
        bytes.extend_from_slice(&sums);
        bytes.extend_from_slice(&data);
    }
    bytes
}

/// Requests for pages, and what HTTP/1 lets a client say.
fn http_seeds() -> Vec<Vec<u8>> {
    let many_headers: String = (0..200).map(|number| format!("x-{number}: {number}\r\n")).collect();
    let requests = [
        "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(),
        "GET /metrics HTTP/1.0\r\n\r\n".to_owned(),
        "GET /scanner?a=b%00c HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "POST /scan HTTP/1.1\r\nHost: localhost\r\nContent-Length: 18446744073709551615\r\n\r\nabc".to_owned(),
        "POST /status HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\nabc".to_owned(),
        "POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            .to_owned(),
        "GET /status HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n".to_owned(),
        format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{many_headers}\r\n"),
        format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(100_000)),
    ];
    requests.into_iter().map(String::into_bytes).chain([http2_call("ClientNamenode/GetFsStats", &[])]).collect()
}

/// HTTP/2 connections with one call each, of every service.
fn grpc_seeds() -> Vec<Vec<u8>> {
    let retry = v1::RetryId { client_id: vec![7; 16].into(), incarnation: 1, call_id: 1, lowest_pending_call_id: 1 };
    let caller = v1::Caller { uid: 1, gid: 1, groups: vec![2, 3], is_authorised: false };
    let header = || Some(v1::RequestHeader { caller: Some(caller.clone()), retry: Some(retry.clone()) });
    let lookup = v1::LookupRequest { header: header(), parent: 1, name: b"canary".to_vec().into() };
    let mkdir = v1::MkdirRequest { header: header(), parent: 1 << 30, name: b"x".to_vec().into(), mode: 0o755 };
    let listing = v1::GetListingRequest { header: header(), inode: 1, cookie: 0, max_entries: 1000, with_attrs: true };
    let locations = v1::GetBlockLocationsRequest { header: header(), inode: 1 << 20, offset: 0, length: u64::MAX };
    let xattr =
        v1::SetXAttrRequest { header: header(), inode: 1 << 30, name: vec![b'n'; 300].into(), ..Default::default() };
    let heartbeat =
        v1::SendHeartbeatRequest { datanode_uuid: "nobody".into(), registration_id: 9, ..Default::default() };
    let page = v1::BlockReportPage { datanode_uuid: "nobody".into(), ids: vec![1; 2000], ..Default::default() };
    let register = v1::RegisterDatanodeRequest::default();
    let visible =
        v1::GetReplicaVisibleLengthRequest { block_pool_id: "BP-1".into(), block: Some(v1::Block::default()) };
    let recovery = v1::InitReplicaRecoveryRequest { block_pool_id: "../..".into(), ..Default::default() };
    let calls: Vec<(&str, Vec<u8>)> = vec![
        ("ClientNamenode/Lookup", lookup.encode_to_vec()),
        ("ClientNamenode/Mkdir", mkdir.encode_to_vec()),
        ("ClientNamenode/GetListing", listing.encode_to_vec()),
        ("ClientNamenode/GetBlockLocations", locations.encode_to_vec()),
        ("ClientNamenode/SetXAttr", xattr.encode_to_vec()),
        ("ClientNamenode/GetFsStats", Vec::new()),
        ("Datanode/SendHeartbeat", heartbeat.encode_to_vec()),
        ("Datanode/BlockReport", page.encode_to_vec()),
        ("Datanode/RegisterDatanode", register.encode_to_vec()),
        ("Namenode/GetManifest", Vec::new()),
        ("Namenode/FetchFile", v1::FetchFileRequest { name: "../../../etc/passwd".into() }.encode_to_vec()),
        ("Namenode/PutImage", v1::FilePiece { name: "../image".into(), ..Default::default() }.encode_to_vec()),
        ("ClientDatanode/GetReplicaVisibleLength", visible.encode_to_vec()),
        ("InterDatanode/InitReplicaRecovery", recovery.encode_to_vec()),
        ("Nothing/Nothing", vec![0xff; 64]),
    ];
    calls.iter().map(|(method, message)| http2_call(method, message)).collect()
}

/// A whole HTTP/2 client connection: preface, settings, one request of gRPC.
pub(super) fn http2_call(method: &str, message: &[u8]) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(http2_frame(4, 0, 0, &[]));
    let path = format!("/dfs.v1.{method}");
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path.as_str()),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        // HPACK: a literal without indexing, new name, no Huffman code; all are shorter than 127 bytes.
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    bytes.extend(http2_frame(1, 4, 1, &block));
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len()).expect("short").to_be_bytes());
    body.extend_from_slice(message);
    bytes.extend(http2_frame(0, 1, 1, &body));
    bytes
}

fn http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).expect("short").to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A length is not a reason to allocate: the largest ones of every kind, sent by many connections at once.
fn oversized_lengths_are_refused_without_memory(_: &Nothing) {
    let mut cluster = Cluster::builder().datanodes(1).start();
    let mut huge_request = vec![0, 28, 81];
    huge_request.extend([0xff, 0xff, 0xff, 0xff, 0x07]);
    let mut huge_packet = write_stream("BP-1", 0);
    huge_packet.extend([0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff]);
    let mut huge_call = http2_call("ClientNamenode/Mkdir", &[0; 100]);
    let at = huge_call.len() - 104;
    huge_call[at..at + 4].copy_from_slice(&u32::MAX.to_be_bytes());
    let (data, rpc) = (cluster.datanodes[0].data_port, cluster.namenode.rpc_port);
    let mut held = Vec::new();
    for (port, bytes) in [(data, &huge_request), (data, &huge_packet), (rpc, &huge_call)] {
        for _ in 0..200 {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("connect");
            let _ = socket.write_all(bytes);
            held.push(socket);
        }
    }
    cluster.check_all_serving().unwrap();
    for daemon in [&cluster.datanodes[0].daemon, &cluster.namenode.daemon] {
        let resident = resident_kib(daemon.pid().expect("it runs").as_raw_pid());
        assert!(resident < RESIDENT_MAX_KIB, "{} uses {resident} KiB", daemon.name());
    }
    drop(held);
    let mount = cluster.mount("mount");
    Pattern::new(1).make_file(&mount.join("file"), 100_000);
    Pattern::new(1).check_file(&mount.join("file"), 100_000);
}
