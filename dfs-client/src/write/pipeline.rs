//! One block under way to its DataNodes: the connection to the first of them, and the packets on it.
//!
//! ```text
//! client --request, packets--> node 0 --same--> node 1 --same--> node 2
//!        <--response, acks----        <-------        <-------
//! ```
//!
//! The request, and the packets that are there already, leave without waiting for the response: a small file goes out in
//! one message. [`Pipeline::pump`] does all input and output; it sends and receives in turns, so that a node that waits
//! for us to read its acks never waits in vain.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use dfs_common::block::{Block, ExtendedBlock};
use dfs_common::error::{DfsError, ErrorKind};
use dfs_common::ids::GenerationStamp;
use dfs_proto::data_transfer::{DataChecksum, PipelineAck, WireError, decode_delimited, encode_request};
use dfs_proto::hadoop::op_write_block_proto::BlockConstructionStage;
use dfs_proto::hadoop::{
    BlockOpResponseProto, ClientOperationHeaderProto, OpWriteBlockProto, Status, StorageTypeProto,
};
use tokio::io::Interest;
use tracing::warn;

use super::packet::{Packet, PacketKind};
use super::pipeline_state::{AckOutcome, PipelineState};
use crate::datanode::{DataConnection, Datanodes, Node, Replica, closed_error};

/// For what a node said before it hung up: it is here already, or never.
const PARTING_PATIENCE: Duration = Duration::from_secs(1);
/// Room for acks: one is about 30 bytes.
const INBOUND_LEN: usize = 4096;

/// What a pipeline is for.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The block as the nodes know it before this pipeline.
    pub(crate) block: ExtendedBlock,
    /// The stamp it is written under; the block's own when it is new.
    pub(crate) generation_stamp: GenerationStamp,
    /// In pipeline order; never empty.
    pub(crate) replicas: Vec<Replica>,
    pub(crate) stage: BlockConstructionStage,
    /// Where the bytes end that nodes may have got in an earlier pipeline of this writer.
    pub(crate) sent: u64,
}

/// A pipeline that failed.
#[derive(Debug)]
pub(crate) struct PipelineFailure {
    /// Place of the node to blame.
    pub(crate) node: usize,
    pub(crate) error: DfsError,
    /// The connection ended, as one does that was closed while it lay in the pool.
    is_disconnect: bool,
    /// The set-up was answered with a refusal.
    is_refusal: bool,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// All nodes answered the request.
    SetUp,
    /// Another packet may be queued: fewer than so many bytes are kept.
    Room(usize),
    /// Everything queued is with the kernel.
    Sent,
    /// Everything queued is acknowledged by every node.
    Acked,
}

/// A block under way.
pub(crate) struct Pipeline {
    pub(crate) target: Target,
    pub(crate) state: PipelineState,
    datanodes: Arc<Datanodes>,
    connection: DataConnection,
    request: Vec<u8>,
    /// Bytes that go before any packet: the request, a heartbeat.
    urgent: Vec<u8>,
    urgent_sent: usize,
    /// The request left on an earlier connection, too.
    was_sent_before: bool,
    inbound: BytesMut,
    is_set_up: bool,
    /// The node has said that it works on the set-up.
    is_under_way: bool,
    /// The block's last packet was queued.
    is_ending: bool,
    /// The peer closed when it owed us nothing: as some do behind a block's end; anything more to send has failed.
    is_closed_by_peer: bool,
    last_heard: Instant,
    /// A node that waits for its disk is named once.
    is_slow_named: bool,
    pub(crate) last_sent: Instant,
    ack_timeout: Duration,
}

impl PipelineFailure {
    fn new(node: usize, error: DfsError) -> Self {
        Self { node, error, is_disconnect: false, is_refusal: false }
    }

    fn protocol(error: WireError) -> Self {
        Self::new(0, DfsError::new(ErrorKind::Protocol, "answer in a write pipeline").with_source(error))
    }

    fn broken(doing: &str, error: io::Error) -> Self {
        Self::disconnect(DfsError::io(doing, error))
    }

    fn disconnect(error: DfsError) -> Self {
        Self { is_disconnect: true, ..Self::new(0, error) }
    }
}

impl Target {
    fn encode_request(&self, client_name: &str) -> Result<Vec<u8>, PipelineFailure> {
        let rest = &self.replicas[1..];
        let length = self.block.block.length;
        let request = OpWriteBlockProto {
            header: ClientOperationHeaderProto::new(&self.block, None, client_name),
            targets: rest.iter().map(|replica| replica.node.to_info()).collect(),
            stage: self.stage.into(),
            pipeline_size: self.replicas.len() as u32,
            min_bytes_rcvd: length,
            max_bytes_rcvd: self.sent.max(length),
            latest_generation_stamp: self.generation_stamp.0,
            requested_checksum: DataChecksum::DEFAULT.to_proto(),
            storage_type: Some(StorageTypeProto::Disk.into()),
            target_storage_types: vec![StorageTypeProto::Disk.into(); rest.len()],
            target_pinnings: vec![false; rest.len()],
            storage_id: Some(self.replicas[0].storage_uuid.clone()),
            takes_signs_of_life: Some(true),
            target_storage_ids: rest.iter().map(|replica| replica.storage_uuid.clone()).collect(),
            ..Default::default()
        };
        let mut bytes = Vec::with_capacity(512);
        encode_request(&request, &mut bytes).map_err(PipelineFailure::protocol)?;
        Ok(bytes)
    }
}

impl Pipeline {
    /// Connects to the first node. Nothing is sent before [`pump`](Self::pump).
    pub(crate) async fn connect(
        datanodes: &Arc<Datanodes>,
        target: Target,
        client_name: &str,
        ack_timeout: Duration,
    ) -> Result<Self, PipelineFailure> {
        let request = target.encode_request(client_name)?;
        let first = &target.replicas[0].node;
        let connection = datanodes.connection(first).await.map_err(|error| PipelineFailure::new(0, error))?;
        let now = Instant::now();
        Ok(Self {
            state: PipelineState::new(target.block.block.length),
            target,
            datanodes: Arc::clone(datanodes),
            connection,
            urgent: request.clone(),
            request,
            urgent_sent: 0,
            was_sent_before: false,
            inbound: BytesMut::with_capacity(INBOUND_LEN),
            is_set_up: false,
            is_under_way: false,
            is_ending: false,
            is_closed_by_peer: false,
            last_heard: now,
            is_slow_named: false,
            last_sent: now,
            ack_timeout,
        })
    }

    /// Queues a packet.
    pub(crate) fn enqueue(&mut self, packet: Packet) {
        if self.state.is_all_acked() {
            // The silence before was ours.
            self.last_heard = Instant::now();
        }
        self.is_ending |= packet.kind.last_in_block;
        self.state.enqueue(packet);
    }

    /// Queues a packet without data, behind `length` bytes of the block.
    pub(crate) fn enqueue_empty(&mut self, length: u64, kind: PacketKind) {
        self.enqueue(Packet::empty(length, self.state.next_seqno(), kind));
    }

    /// Takes over the packets of the pipeline before: those not acknowledged are sent again.
    pub(crate) fn go_on_with(&mut self, mut state: PipelineState) {
        state.rewind();
        // Without its last packet left to send, a block that was ending has ended.
        self.is_ending = state.is_ending() || self.target.stage == BlockConstructionStage::PipelineCloseRecovery;
        self.state = state;
        self.last_heard = Instant::now();
    }

    /// Whether the block's last packet was queued: nothing may follow.
    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Queues a heartbeat, if nothing else is under way.
    pub(crate) fn enqueue_heartbeat(&mut self) {
        if self.urgent_sent == self.urgent.len() && self.state.is_all_acked() {
            self.urgent = Packet::heartbeat();
            self.urgent_sent = 0;
            self.last_heard = Instant::now();
        }
    }

    /// Sends and receives until `goal` is reached.
    pub(crate) async fn pump(&mut self, goal: Goal) -> Result<(), PipelineFailure> {
        // With room for a packet already, it leaves together with what goes before it.
        if matches!(goal, Goal::Room(_)) && self.has_reached(goal) {
            return Ok(());
        }
        loop {
            match self.pump_connection(goal).await {
                Err(failure) if self.is_stale_connection(&failure) => self.reconnect().await?,
                outcome => return outcome,
            }
        }
    }

    /// The block as it will be named once everything queued is on the nodes.
    pub(crate) fn block(&self, length: u64) -> Block {
        Block { id: self.target.block.block.id, generation_stamp: self.target.generation_stamp, length }
    }

    /// Ends the pipeline after its last packet was acknowledged; the connection serves the next operation.
    pub(crate) fn finish(self) {
        if self.is_set_up && !self.is_closed_by_peer && self.state.is_all_acked() && self.inbound.is_empty() {
            self.datanodes.give_back(&self.target.replicas[0].node, self.connection);
        }
    }

    async fn pump_connection(&mut self, goal: Goal) -> Result<(), PipelineFailure> {
        // Acks may lie here since nobody looked: silence counts from now on.
        let start = Instant::now();
        loop {
            if let Err(failure) = self.send_ready() {
                return Err(self.parting_words().await.unwrap_or(failure));
            }
            self.receive_ready()?;
            if self.has_reached(goal) {
                return Ok(());
            }
            if self.is_closed_by_peer {
                return Err(PipelineFailure::disconnect(closed_error()));
            }
            self.wait(start).await?;
        }
    }

    /// What a node that takes no more had said before: it names the node that really failed.
    async fn parting_words(&mut self) -> Option<PipelineFailure> {
        loop {
            match self.receive_ready() {
                Err(failure) if failure.is_disconnect => return None,
                Err(failure) => return Some(failure),
                Ok(()) if self.is_closed_by_peer => return None,
                Ok(()) => {}
            }
            let ready = tokio::time::timeout(PARTING_PATIENCE, self.connection.stream.readable());
            if !matches!(ready.await, Ok(Ok(()))) {
                return None;
            }
        }
    }

    fn has_reached(&self, goal: Goal) -> bool {
        let is_sent = self.urgent_sent == self.urgent.len() && self.state.is_all_sent();
        match goal {
            Goal::SetUp => self.is_set_up,
            Goal::Room(max_in_flight) => self.state.has_room(max_in_flight),
            Goal::Sent => is_sent,
            Goal::Acked => is_sent && self.is_set_up && self.state.is_all_acked(),
        }
    }

    /// Gives the kernel what it takes now.
    fn send_ready(&mut self) -> Result<(), PipelineFailure> {
        loop {
            let urgent_left = self.urgent.len() - self.urgent_sent;
            if urgent_left == 0 && self.state.is_all_sent() {
                return Ok(());
            }
            let mut slices = Vec::with_capacity(8);
            if urgent_left > 0 {
                slices.push(io::IoSlice::new(&self.urgent[self.urgent_sent..]));
            }
            self.state.unsent(&mut slices);
            match self.connection.stream.try_write_vectored(&slices) {
                Ok(len) => {
                    let urgent = len.min(urgent_left);
                    self.urgent_sent += urgent;
                    self.state.on_sent(len - urgent);
                    self.last_sent = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(PipelineFailure::broken("send to a DataNode", error)),
            }
        }
    }

    /// Takes in what has come.
    fn receive_ready(&mut self) -> Result<(), PipelineFailure> {
        loop {
            self.inbound.reserve(INBOUND_LEN / 4);
            match self.connection.stream.try_read_buf(&mut self.inbound) {
                Ok(0) if self.is_set_up && self.state.is_all_acked() => {
                    self.is_closed_by_peer = true;
                    return Ok(());
                }
                Ok(0) => return Err(PipelineFailure::disconnect(closed_error())),
                Ok(_) => {
                    self.last_heard = Instant::now();
                    self.take_in()?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(PipelineFailure::broken("read from a DataNode", error)),
            }
        }
    }

    /// Understands what has been received: the response first, then acks.
    fn take_in(&mut self) -> Result<(), PipelineFailure> {
        while !self.is_set_up {
            let response = decode_delimited::<BlockOpResponseProto>(&self.inbound);
            let Some((response, used)) = response.map_err(PipelineFailure::protocol)? else { return Ok(()) };
            self.inbound.advance(used);
            if response.status() == Status::InProgress {
                // A node waits for its disk.
                self.is_under_way = true;
                continue;
            }
            self.check_response(&response)?;
            self.is_set_up = true;
        }
        while let Some((ack, used)) = PipelineAck::decode(&self.inbound).map_err(PipelineFailure::protocol)? {
            self.inbound.advance(used);
            match self.state.on_ack(&ack, self.target.replicas.len()) {
                AckOutcome::Acknowledged | AckOutcome::Alive(None) => {}
                AckOutcome::Alive(Some(place)) => self.name_slow(place),
                AckOutcome::NodeFailed { place, status, is_full } => {
                    let kind = if is_full { ErrorKind::NoSpace } else { ErrorKind::Io };
                    let words = format!("a packet of {} failed there with {status:?}", self.target.block);
                    return Err(PipelineFailure::new(place, DfsError::new(kind, words)));
                }
                AckOutcome::OutOfStep => {
                    let words = format!("unexpected ack {} of {} nodes", ack.seqno, ack.replies.len());
                    return Err(PipelineFailure::new(0, DfsError::new(ErrorKind::Protocol, words)));
                }
            }
        }
        Ok(())
    }

    fn check_response(&self, response: &BlockOpResponseProto) -> Result<(), PipelineFailure> {
        let bad_link = response.first_bad_link();
        if response.status() == Status::Success && bad_link.is_empty() {
            return Ok(());
        }
        let node = self.place_of(bad_link).unwrap_or(0);
        let words = format!("set-up of {} refused: {:?} {}", self.target.block, response.status(), response.message());
        let kind = if response.full() { ErrorKind::NoSpace } else { ErrorKind::Io };
        Err(PipelineFailure { is_refusal: true, ..PipelineFailure::new(node, DfsError::new(kind, words)) })
    }

    /// Whether a node may have taken the pipeline's stamp, though the set-up has failed. Certainly none has when no byte of the
    /// request has left, or when the only node of the pipeline has refused it. Of a refusal by one of several, the others
    /// need not have heard.
    pub(crate) fn may_have_begun(&self, failure: &PipelineFailure) -> bool {
        let has_left = self.was_sent_before || self.urgent_sent > 0;
        let is_refused = failure.is_refusal && self.target.replicas.len() == 1 && !self.was_sent_before;
        has_left && !is_refused
    }

    /// A node that is only slow stays; who looks for the reason should find its name.
    fn name_slow(&mut self, place: usize) {
        if !self.is_slow_named {
            self.is_slow_named = true;
            let datanode = &self.target.replicas[place].node.data_address;
            warn!(block = %self.target.block, datanode, "a DataNode waits for its disk; the write goes on with it");
        }
    }

    /// Which node is meant by an address or uuid in a response.
    fn place_of(&self, name: &str) -> Option<usize> {
        place_among(self.target.replicas.iter().map(|replica| &*replica.node), name)
    }

    /// Sleeps until the connection can do something.
    async fn wait(&mut self, start: Instant) -> Result<(), PipelineFailure> {
        let has_unsent = self.urgent_sent < self.urgent.len() || !self.state.is_all_sent();
        let interest = if has_unsent { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let patience = self.ack_timeout.saturating_sub(self.last_heard.max(start).elapsed());
        match tokio::time::timeout(patience, self.connection.stream.ready(interest)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(PipelineFailure::broken("wait for a DataNode", error)),
            Err(_) => {
                let words = format!("no ack for {} within {} s", self.target.block, self.ack_timeout.as_secs_f32());
                Err(PipelineFailure::new(0, DfsError::new(ErrorKind::TimedOut, words)))
            }
        }
    }

    /// Whether the node closed the connection while it lay in the pool: then nothing has happened yet.
    fn is_stale_connection(&self, failure: &PipelineFailure) -> bool {
        failure.is_disconnect
            && self.connection.is_reused
            && !self.is_set_up
            && !self.is_under_way
            && self.inbound.is_empty()
    }

    /// Starts over on a connection of its own.
    async fn reconnect(&mut self) -> Result<(), PipelineFailure> {
        let first = &self.target.replicas[0].node;
        let connection = self.datanodes.fresh_connection(first).await;
        self.was_sent_before |= self.urgent_sent > 0;
        self.urgent = self.request.clone();
        self.urgent_sent = 0;
        self.connection = connection.map_err(|error| PipelineFailure::new(0, error))?;
        self.state.rewind();
        self.last_heard = Instant::now();
        Ok(())
    }
}

/// Which of the nodes an address or uuid in a response names; HDFS writes the host's name and a slash before the address.
fn place_among<'a>(nodes: impl Iterator<Item = &'a Node> + Clone, name: &str) -> Option<usize> {
    let is_named = |node: &Node| node.data_address == name || node.uuid == name;
    let ends_so = |node: &Node| name.strip_suffix(&node.data_address).is_some_and(|before| before.ends_with('/'));
    nodes.clone().position(is_named).or_else(|| nodes.clone().position(ends_so))
}

#[cfg(test)]
mod tests {
    use dfs_proto::v1::DatanodeId;

    use super::*;

    #[test]
    fn a_name_means_the_node_that_has_it_and_no_other_whose_address_it_ends_with() {
        let node = |uuid: &str, host: &str| {
            let id = DatanodeId {
                uuid: uuid.into(),
                host: host.into(),
                data_port: 9866,
                grpc_port: 1,
                ..Default::default()
            };
            Node::try_from(id).unwrap()
        };
        let nodes = [node("a", "dn1"), node("b", "mydn1")];
        let place = |name: &str| place_among(nodes.iter(), name);
        assert_eq!((place("dn1:9866"), place("mydn1:9866")), (Some(0), Some(1)));
        assert_eq!((place("a"), place("b")), (Some(0), Some(1)));
        assert_eq!((place("host/dn1:9866"), place("host/mydn1:9866")), (Some(0), Some(1)));
        assert_eq!((place(""), place("otherdn1:9866"), place("dn2:9866")), (None, None, None));
    }
}
