//! The data port of a node: blocks taken in, sent and copied, with whatever fault the node has.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use dfs_proto::data_transfer::packet::{PACKET_LENGTHS_LEN, PacketLengths};
use dfs_proto::data_transfer::{
    DataChecksum, PacketFrame, PacketHeader, PipelineAck, Reply, Request, encode_delimited, read_delimited,
    read_request,
};
use dfs_proto::hadoop::op_write_block_proto::BlockConstructionStage;
use dfs_proto::hadoop::{
    BlockOpResponseProto, ClientReadStatusProto, OpReadBlockProto, OpTransferBlockProto, OpWriteBlockProto,
    ReadOpChecksumInfoProto, Status,
};

use super::world::{FakeReplica, Fault, Shared, World};

/// Data in the packets that fake nodes send, so that reads see several.
const READ_PACKET: usize = 4096;

/// One connection of one node.
pub(super) fn serve(node: usize, stream: TcpStream, world: &Shared) {
    stream.set_nodelay(true).unwrap();
    let mut input = BufReader::new(stream.try_clone().unwrap());
    let mut output = stream;
    while let Ok(Some(request)) = read_request(&mut input) {
        let fault = world.lock().faults.get(&node).copied().unwrap_or_default();
        let goes_on = match request {
            _ if fault == Fault::HangsUp => None,
            Request::WriteBlock(request) => {
                world.lock().writes_in_pieces += usize::from(input.buffer().is_empty());
                take_block(node, fault, &request, &mut input, &mut output, world)
            }
            Request::TransferBlock(request) => fill_replacement(node, &request, &mut output, world),
            Request::ReadBlock(request) => send_block(node, fault, &request, &mut input, &mut output, world),
            _ => None,
        };
        if goes_on.is_none() || fault == Fault::ClosesAfterOperation {
            let _ = output.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn respond(output: &mut TcpStream, status: Status, bad_link: &str) -> Option<()> {
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
        Ok(_) => return respond(output, Status::Error, "").and(None),
        Err(bad_link) => return respond(output, Status::Error, &bad_link).and(None),
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
            return respond(output, Status::ErrorExists, "").and(None);
        }
        replica.stamp = request.latest_generation_stamp;
        replica.is_finalized = is_close;
    }
    if fault != Fault::Silent {
        respond(output, Status::Success, "")?;
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
        let replies = vec![Reply::new(Status::Success); pipeline.len()];
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
        respond(output, Status::InProgress, "")?;
    }
    {
        let mut world = world.lock();
        let id = request.header.base_header.block.block_id;
        let filled = world.replicas[&(node, id)].clone();
        let target = &request.targets[0].id.datanode_uuid;
        let place = world.nodes.iter().position(|node| node.uuid == *target).unwrap();
        if world.replicas.contains_key(&(place, id)) {
            drop(world);
            return respond(output, Status::ErrorExists, "");
        }
        world.replicas.insert((place, id), filled);
    }
    respond(output, Status::Success, "")
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
    let Some(replica) = replica else { return respond(output, Status::Error, "").and(None) };
    let start = request.offset / 512 * 512;
    let end = (request.offset + request.len).next_multiple_of(512).min(replica.data.len() as u64);
    let info = ReadOpChecksumInfoProto { checksum: DataChecksum::DEFAULT.to_proto(), chunk_offset: start };
    let mut bytes = Vec::new();
    let response = BlockOpResponseProto {
        status: Status::Success.into(),
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
