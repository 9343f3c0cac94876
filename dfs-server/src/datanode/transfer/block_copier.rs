//! A finalized replica goes to other DataNodes, by the same protocol by which a client writes: request, packets, acks. The
//! first target passes it on to the next, as in any pipeline.
//!
//! What a target says is heard while packets are sent: one that waits for its disk takes nothing for a while and says so,
//! and one that fails says that before it has been sent everything.

use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

use dfs_common::block::ExtendedBlock;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::data_transfer::patience::DISK_CALL_MAX;
use dfs_proto::data_transfer::{PipelineAck, decode_delimited, encode_request};
use dfs_proto::hadoop::op_write_block_proto::BlockConstructionStage;
use dfs_proto::hadoop::{
    BlockOpResponseProto, ClientOperationHeaderProto, DatanodeInfoProto, OpWriteBlockProto, Status,
};

use super::block_sender::Sender;
use super::connection::{Connection, Watch, wait};
use super::data_plane::DataPlane;
use super::mirror::data_address;
use super::pace::Pace;
use super::reply::protocol_error;
use crate::datanode::store::ReplicaReader;

/// How long signs of life alone keep a copy going: a node gives no more of them when a disk call lasts [`DISK_CALL_MAX`],
/// and those of several targets may follow one another.
const SIGNS_PATIENCE: Duration = Duration::from_secs(2 * DISK_CALL_MAX.as_secs());
/// What is taken in at once of what a target says.
const ANSWERS_READ: usize = 16 * 1024;

/// Copies a replica to `targets`, and returns when all of them have finalized it.
///
/// # Errors
/// Of reading it here, or of what the targets say; then the NameNode orders it again.
pub(crate) fn copy_block(
    plane: &DataPlane,
    block: &ExtendedBlock,
    targets: &[DatanodeInfoProto],
    target_storage_uuids: &[String],
    turns: Option<Turns<'_>>,
) -> Result<()> {
    let reader = plane.store.open_reader(block, 0)?;
    let copy = Copy {
        pool: &block.pool,
        targets,
        target_storage_uuids,
        stage: BlockConstructionStage::TransferFinalized,
        client_name: "",
        patience: plane.timeout,
        turns,
    };
    send_copy(plane, reader, &copy)
}

/// A pace that a copy keeps to, and a limit of its own in bytes per second (0: none).
#[derive(Clone, Copy)]
pub(crate) struct Turns<'a> {
    pub(crate) pace: &'a Pace,
    pub(crate) limit: u64,
}

/// Where a copy goes, and what becomes of it there.
pub(super) struct Copy<'a> {
    pub(super) pool: &'a str,
    pub(super) targets: &'a [DatanodeInfoProto],
    pub(super) target_storage_uuids: &'a [String],
    pub(super) stage: BlockConstructionStage,
    /// The writer on whose behalf it is made; empty: the NameNode's order.
    pub(super) client_name: &'a str,
    /// Silence of the first target after which it is given up.
    pub(super) patience: Duration,
    /// `None`: as fast as it goes.
    pub(super) turns: Option<Turns<'a>>,
}

/// Sends all that `reader` may show, and returns when all targets have it.
pub(super) fn send_copy(plane: &DataPlane, reader: ReplicaReader, copy: &Copy<'_>) -> Result<()> {
    let Copy { targets, target_storage_uuids, patience, turns, .. } = *copy;
    let Some(first) = targets.first() else {
        return Err(DfsError::new(ErrorKind::InvalidArgument, "a transfer without targets"));
    };
    let found = ExtendedBlock { pool: copy.pool.to_owned(), block: reader.block() };
    let stamp = found.block.generation_stamp.0;
    let request = OpWriteBlockProto {
        header: ClientOperationHeaderProto::new(&found, None, copy.client_name),
        targets: targets[1..].to_vec(),
        stage: copy.stage.into(),
        pipeline_size: u32::try_from(targets.len()).unwrap_or(u32::MAX),
        latest_generation_stamp: stamp,
        requested_checksum: reader.checksum().to_proto(),
        storage_id: target_storage_uuids.first().cloned(),
        target_storage_ids: target_storage_uuids.iter().skip(1).cloned().collect(),
        takes_signs_of_life: Some(true),
        ..Default::default()
    };
    let address = data_address(first);
    let connection = plane
        .peers
        .take(&address)
        .map_err(|error| DfsError::new(ErrorKind::Unavailable, format!("connect to {address}")).with_source(error))?;
    let mut head = Vec::with_capacity(1024);
    encode_request(&request, &mut head).map_err(protocol_error)?;
    let mut packets = 0;
    let mut target = Target { connection, address, patience, heard: LastSign::now(), is_set_up: false, acked: 0 };
    let sent = Sender::whole(reader).send_packets(head, |bytes| {
        packets += 1;
        let Some(Turns { pace, limit }) = turns else { return target.send(bytes) };
        bytes.chunks(pace.slice(limit)).try_for_each(|slice| {
            pace.wait(slice.len(), limit);
            target.send(slice)
        })
    });
    // One packet per call, but for the empty last one, which rides with the one before it (alone for an empty block).
    let packets: usize = if found.block.length == 0 { 1 } else { packets + 1 };
    if let Err(error) = sent.and_then(|_| target.wait_for_acks(packets)) {
        // The bytes were wrong here, or went wrong on the way.
        if error.kind() == ErrorKind::Corrupt {
            plane.store.doubt(&found)?;
        }
        return Err(error);
    }
    plane.peers.put(target.address, target.connection);
    Ok(())
}

/// When the target last did something.
struct LastSign {
    /// Took bytes, answered, or gave a sign of life.
    anything: Instant,
    /// The same without signs of life.
    progress: Instant,
}

impl LastSign {
    fn now() -> Self {
        Self { anything: Instant::now(), progress: Instant::now() }
    }
}

/// The node that the copy goes to.
struct Target {
    connection: Connection,
    address: String,
    patience: Duration,
    heard: LastSign,
    is_set_up: bool,
    /// Packets that it and all behind it have.
    acked: usize,
}

impl Target {
    /// Sends all of `bytes`.
    fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        // Our own pause was not its silence.
        self.heard = LastSign::now();
        loop {
            // Also when the target takes everything: a copy at a slow pace would end otherwise before its complaint is heard.
            self.hear()?;
            let sent = match self.connection.send(&[IoSlice::new(bytes)]) {
                Ok(sent) => sent,
                Err(error) => {
                    // What it said before it hung up is the reason.
                    self.hear()?;
                    return Err(DfsError::io(format!("send to {}", self.address), error));
                }
            };
            if sent > 0 {
                bytes = &bytes[sent..];
                self.heard = LastSign::now();
            }
            if bytes.is_empty() {
                return Ok(());
            }
            self.wait(true)?;
        }
    }

    /// Returns when so many packets are acknowledged.
    fn wait_for_acks(&mut self, packets: usize) -> Result<()> {
        loop {
            self.hear()?;
            if self.acked >= packets {
                return Ok(());
            }
            self.wait(false)?;
        }
    }

    /// Waits until it says something, or takes something when it is sent to.
    fn wait(&self, sends: bool) -> Result<()> {
        let last = self.heard.progress + self.patience.max(SIGNS_PATIENCE);
        let deadline = last.min(self.heard.anything + self.patience);
        let mut watch = [Watch::either(self.connection.socket(), true, sends)];
        let failed = |error| DfsError::io(format!("wait for {}", self.address), error);
        if wait(&mut watch, deadline).map_err(failed)? && Instant::now() < last {
            return Ok(());
        }
        Err(failed(io::ErrorKind::TimedOut.into()))
    }

    /// Takes in what it has said.
    fn hear(&mut self) -> Result<()> {
        let failed = |address: &str, error| DfsError::io(format!("hear of {address}"), error);
        self.connection.note_readable();
        match self.connection.receive(ANSWERS_READ).map_err(|error| failed(&self.address, error))? {
            None => return Ok(()),
            Some(0) => return Err(failed(&self.address, io::ErrorKind::UnexpectedEof.into())),
            Some(_) => self.heard.anything = Instant::now(),
        }
        while !self.is_set_up {
            let response = decode_delimited::<BlockOpResponseProto>(self.connection.filled());
            let Some((response, len)) = response.map_err(protocol_error)? else { return Ok(()) };
            self.connection.consume(len);
            if response.status() != Status::InProgress {
                self.check(&response)?;
                self.is_set_up = true;
                self.heard.progress = Instant::now();
            }
        }
        while let Some((ack, len)) = PipelineAck::decode(self.connection.filled()).map_err(protocol_error)? {
            self.connection.consume(len);
            if let Some(at) = ack.first_failure() {
                let words =
                    format!("target {} answered packet {} with {:?}", at + 1, ack.seqno, ack.replies[at].status);
                let is_checksum_error = ack.replies[at].status == Status::ErrorChecksum;
                return Err(DfsError::new(
                    if is_checksum_error { ErrorKind::Corrupt } else { ErrorKind::Unavailable },
                    words,
                ));
            }
            // Others than those of packets are signs of life, or out of band.
            if ack.seqno >= 0 {
                self.acked += 1;
                self.heard.progress = Instant::now();
            }
        }
        Ok(())
    }

    fn check(&self, response: &BlockOpResponseProto) -> Result<()> {
        if response.status() == Status::Success {
            return Ok(());
        }
        let kind =
            if response.status() == Status::ErrorExists { ErrorKind::AlreadyExists } else { ErrorKind::Unavailable };
        let words = format!("{} refused ({:?}): {}", self.address, response.status(), response.message());
        Err(DfsError::new(kind, words))
    }
}
