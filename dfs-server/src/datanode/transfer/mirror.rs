//! The next node of a pipeline, as the node before it sees it.

use std::io::{self, IoSlice};

use dfs_common::error::{DfsError, ErrorKind};
use dfs_proto::data_transfer::packet::UNKNOWN_SEQNO;
use dfs_proto::data_transfer::{PipelineAck, WireError, decode_delimited, encode_request};
use dfs_proto::hadoop::{BlockOpResponseProto, DatanodeInfoProto, OpWriteBlockProto, Status};

use super::connection::Connection;
use super::peer_pool::PeerPool;

/// Acks come in bursts of a few dozen bytes each.
const ACKS_READ: usize = 16 * 1024;

/// What the node said.
#[derive(Debug)]
pub(super) enum Heard {
    /// A node behind waits for its disk; the pipeline does not stand yet.
    SettingUp,
    /// The pipeline behind stands.
    Ready,
    /// It does not, because of this node.
    Refused {
        /// Address of the node to blame.
        bad_link: String,
        /// Why, by its own account.
        status: Status,
        /// In words.
        message: String,
        /// It has no room.
        full: bool,
    },
    /// An ack.
    Ack(PipelineAck),
}

/// A connection to the next node, and what of the request it still has to be sent.
#[derive(Debug)]
pub(super) struct Mirror {
    connection: Connection,
    address: String,
    request: Vec<u8>,
    request_sent: usize,
    ready: bool,
}

/// Where a node takes data transfers.
pub(super) fn data_address(node: &DatanodeInfoProto) -> String {
    let id = &node.id;
    let host = if id.ip_addr.is_empty() { &id.host_name } else { &id.ip_addr };
    if host.contains(':') { format!("[{host}]:{}", id.xfer_port) } else { format!("{host}:{}", id.xfer_port) }
}

/// The request as it goes to the first of its targets. Whatever its sender understands, we take signs of life: else a node
/// behind that waits for its disk would look dead to us.
fn for_next_node(mut request: OpWriteBlockProto) -> OpWriteBlockProto {
    fn pop_first<T>(items: &mut Vec<T>) -> Option<T> {
        (!items.is_empty()).then(|| items.remove(0))
    }
    pop_first(&mut request.targets);
    request.storage_id = pop_first(&mut request.target_storage_ids);
    if let Some(storage_type) = pop_first(&mut request.target_storage_types) {
        request.storage_type = Some(storage_type);
    }
    if let Some(pinning) = pop_first(&mut request.target_pinnings) {
        request.pinning = Some(pinning);
    }
    request.takes_signs_of_life = Some(true);
    request
}

impl Mirror {
    /// Connects to the first target. The request leaves with the first packets that are at hand.
    pub(super) fn open(peers: &PeerPool, request: &OpWriteBlockProto) -> Result<Self, DfsError> {
        let Some(next) = request.targets.first() else {
            return Err(DfsError::new(ErrorKind::Internal, "a mirror needs a target"));
        };
        let address = data_address(next);
        let connection = peers.take(&address).map_err(|error| {
            DfsError::new(ErrorKind::Unavailable, format!("connect to {address}")).with_source(error)
        })?;
        let mut bytes = Vec::with_capacity(512);
        encode_request(&for_next_node(request.clone()), &mut bytes).map_err(super::reply::protocol_error)?;
        Ok(Self { connection, address, request: bytes, request_sent: 0, ready: false })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Whether the pipeline behind has been set up.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether part of the request is still to be sent.
    pub(super) fn has_request(&self) -> bool {
        self.request_sent < self.request.len()
    }

    /// Sends the request, if it has not gone yet, and then as much of `packets` as the socket takes; returns how much.
    pub(super) fn send(&mut self, packets: &[u8]) -> io::Result<usize> {
        let request = &self.request[self.request_sent..];
        let sent = self.connection.send(&[IoSlice::new(request), IoSlice::new(packets)])?;
        let of_request = sent.min(request.len());
        self.request_sent += of_request;
        Ok(sent - of_request)
    }

    /// Takes what has arrived of what the node says, at most [`ACKS_READ`] bytes: whoever talks without end must not keep
    /// this thread from everything else. The end of the connection is an error.
    pub(super) fn listen(&mut self) -> Result<(), WireError> {
        let io = |source| WireError::Io { what: "answer of the next node", source };
        // Whether or not anybody has waited for it: it may speak while the writer sends without a pause.
        self.connection.note_readable();
        match self.connection.receive(ACKS_READ).map_err(io)? {
            Some(0) => Err(io(io::ErrorKind::UnexpectedEof.into())),
            Some(_) | None => Ok(()),
        }
    }

    /// The next thing that it said and that has arrived.
    pub(super) fn hear(&mut self) -> Result<Option<Heard>, WireError> {
        if self.ready {
            loop {
                let Some((ack, len)) = PipelineAck::decode(self.connection.filled())? else { return Ok(None) };
                self.connection.consume(len);
                // Out of band: a node that is going to restart says so. Its end will speak for itself.
                if ack.seqno != UNKNOWN_SEQNO {
                    return Ok(Some(Heard::Ack(ack)));
                }
            }
        }
        let Some((response, len)) = decode_delimited::<BlockOpResponseProto>(self.connection.filled())? else {
            return Ok(None);
        };
        self.connection.consume(len);
        match response.status() {
            Status::InProgress => return Ok(Some(Heard::SettingUp)),
            Status::Success => {
                self.ready = true;
                return Ok(Some(Heard::Ready));
            }
            _ => {}
        }
        let bad_link = match response.first_bad_link() {
            "" => self.address.clone(),
            link => link.to_owned(),
        };
        let (status, message, full) = (response.status(), response.message().to_owned(), response.full());
        Ok(Some(Heard::Refused { bad_link, status, message, full }))
    }

    /// Gives the connection back for the next block, when nothing is outstanding on it.
    pub(super) fn release(self, peers: &PeerPool) {
        if self.ready && !self.has_request() && self.connection.filled().is_empty() {
            peers.put(self.address, self.connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_client::{block, write_request};
    use super::*;

    #[test]
    fn next_node_is_asked_for_signs_of_life_whoever_the_writer_is() {
        let targets = [DatanodeInfoProto::default(), DatanodeInfoProto::default()];
        let of_hadoops_client = write_request(&block(1), &targets);
        assert_eq!(of_hadoops_client.takes_signs_of_life, None);
        let next = for_next_node(of_hadoops_client);
        assert_eq!((next.takes_signs_of_life, next.targets.len()), (Some(true), 1));
    }
}
