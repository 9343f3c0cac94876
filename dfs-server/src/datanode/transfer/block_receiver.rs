//! WRITE_BLOCK: a block comes in, is passed on to the next node, and is written down.
//!
//! ```text
//!            packets                     packets
//!   writer ──────────▶ this node's thread ──────────▶ next node
//!          ◀──────────   │ write        ◀──────────
//!            acks        ▼                  acks
//!                     replica
//! ```
//!
//! One thread does it all, in rounds: take what has arrived, forward every whole packet, write them, hear what the next
//! node says, answer what can be answered, and only when nothing moves wait for any of the sockets. A packet lies in one
//! buffer from receive to forward to write. Everything at hand in a round leaves in one call: a small block that comes as
//! one message (request, data, last packet) is forwarded as one message, and answered by one (response and acks).
//!
//! What an ack promises: the bytes are with the operating system of this node (written, not necessarily synced) and of
//! every node behind; with `sync_block` they are on disk; after the last packet the replica is finalized. Bytes become
//! visible to readers just before their ack is sent.
//!
//! Who verifies: the last node always, and copies; the others where it is cheap (short packets) or where they must
//! compute checksums of their own. What fails here is answered at once with this node's status and ends the pipeline; the
//! loss of the next node is answered with [success, error]. The replica stays as it is (RBW) for the writer's recovery.
//!
//! `behind` is what goes to the next node and what it says; `opening` begins the replica and clears up; `whole` finds the
//! blocks that came in one piece. Whenever the disk keeps the thread waiting, at set-up too, `upstream` tells the writer that
//! this node lives. Signs of life from behind are passed on.

mod behind;
mod opening;
mod whole;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_common::block::ExtendedBlock;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::data_transfer::patience::relay_patience;
use dfs_proto::data_transfer::{DataChecksum, PacketFrame, Reply};
use dfs_proto::hadoop::{OpWriteBlockProto, Status};
use tracing::{error, info, warn};

use super::acks::{AckQueue, Pending};
use super::after::After;
use super::connection::{Connection, Watch, wait};
use super::data_plane::DataPlane;
use super::mirror::Mirror;
use super::reply::{protocol_error, status_of};
use super::stage::Stage;
use super::upstream::Upstream;
use super::write_setup::{checked, refuse, refuse_link};
use crate::datanode::store::ReplicaWriter;

/// Packets received and not answered; beyond it the writer is made to wait. Far above what a writer keeps in flight.
const PENDING_MAX: usize = 16 * 1024;
/// Bytes of answers that the writer has not taken; beyond it nothing more is received.
const OUT_MAX: usize = 1 << 20;
/// Packets of at most this many bytes are verified by every node: costs a few microseconds.
const VERIFY_ALWAYS_MAX: usize = 16 * 1024;

/// Serves one WRITE_BLOCK.
pub(super) fn receive_block(plane: &DataPlane, up: &mut Connection, request: OpWriteBlockProto) -> After {
    let (stage, block, checksum) = match checked(&request) {
        Ok(checked) => checked,
        Err(error) => return refuse(plane, up, &error),
    };
    let mirror = if request.targets.is_empty() {
        None
    } else {
        match Mirror::open(&plane.peers, &request) {
            Ok(mirror) => Some(mirror),
            Err(error) => return refuse_link(plane, up, &super::mirror::data_address(&request.targets[0]), &error),
        }
    };
    let mirror_patience = relay_patience(request.pipeline_size as usize, request.targets.len()).min(plane.timeout);
    let upstream = Upstream::new(up.socket_handle(), request.takes_signs_of_life(), stage.set_up_call_max());
    let upstream = Arc::new(upstream);
    let (store, of_hook) = (Arc::downgrade(&plane.store), block.clone());
    upstream.on_hung(move || {
        error!(block = %of_hook, "a disk keeps a replica from being opened; all volumes are checked");
        if let Some(store) = store.upgrade() {
            store.volumes().suspect_all();
        }
    });
    plane.pulse.watch(&upstream);
    let mut receiver = Receiver {
        plane,
        up,
        upstream,
        block,
        stage,
        checksum,
        mirror,
        mirror_lost: false,
        writer: None,
        finished_writer: None,
        frames: VecDeque::new(),
        scanned: 0,
        forwarded: 0,
        written: 0,
        last_scanned: false,
        failed_here: None,
        set_up: false,
        announced: false,
        acks: AckQueue::default(),
        mirror_heard: Instant::now(),
        mirror_patience,
        is_writer_gone: false,
        finished: None,
        after: After::Close,
    };
    receiver.after = receiver.run(&request);
    receiver.after
}

struct Receiver<'a> {
    plane: &'a DataPlane,
    up: &'a mut Connection,
    upstream: Arc<Upstream>,
    block: ExtendedBlock,
    stage: Stage,
    checksum: DataChecksum,
    mirror: Option<Mirror>,
    mirror_lost: bool,
    /// `None` before set-up and after finalizing.
    writer: Option<ReplicaWriter>,
    /// Kept until the last ack has left: closing its files takes longer than that.
    finished_writer: Option<ReplicaWriter>,
    /// Whole packets in the buffer that are not written yet.
    frames: VecDeque<PacketFrame>,
    /// Positions in the receive buffer: whole packets seen, sent on, written.
    scanned: usize,
    forwarded: usize,
    written: usize,
    last_scanned: bool,
    /// Why this node cannot go on.
    failed_here: Option<ErrorKind>,
    /// The set-up was answered.
    set_up: bool,
    announced: bool,
    acks: AckQueue,
    /// When the next node last said something, or was first asked.
    mirror_heard: Instant,
    mirror_patience: Duration,
    /// The writer's connection is dead, and nothing is awaited of it.
    is_writer_gone: bool,
    finished: Option<After>,
    /// What the connection is good for when this is dropped.
    after: After,
}

/// Cleaning up comes last, also when a bug unwinds the thread: a replica that nobody will go on with must not stay.
impl Drop for Receiver<'_> {
    fn drop(&mut self) {
        self.clean_up(self.after);
    }
}

impl Receiver<'_> {
    fn run(&mut self, request: &OpWriteBlockProto) -> After {
        match self.rounds(request) {
            Ok(after) => after,
            Err(error) => {
                self.plane.metrics.operations_failed.inc();
                info!(block = %self.block, peer = ?self.up.peer_address(), "write broken off: {}", error.chain());
                After::Close
            }
        }
    }

    fn rounds(&mut self, request: &OpWriteBlockProto) -> Result<After> {
        self.scan()?;
        self.forward();
        if !self.store_whole(request) {
            self.open_replica(request);
        }
        loop {
            self.store();
            self.hear_mirror();
            self.acknowledge()?;
            self.flush()?;
            if let Some(after) = self.finished
                && self.upstream.unsent() == 0
            {
                return Ok(after);
            }
            self.advance()?;
            self.scan()?;
            self.forward();
        }
    }

    /// Finds the whole packets that have arrived.
    fn scan(&mut self) -> Result<()> {
        while !self.last_scanned && self.acks.len() + self.frames.len() < PENDING_MAX {
            let rest = &self.up.filled()[self.scanned..];
            let Some(frame) = PacketFrame::decode(rest).map_err(protocol_error)? else { break };
            if rest.len() < frame.total_len() {
                break;
            }
            frame.check_checksums_len(self.checksum).map_err(protocol_error)?;
            self.last_scanned = frame.header.last_packet_in_block;
            self.scanned += frame.total_len();
            self.frames.push_back(frame);
        }
        Ok(())
    }

    /// Writes the packets that were found, up to the first that fails.
    fn store(&mut self) {
        while let Some(frame) = self.frames.pop_front() {
            if self.failed_here.is_some() || self.finished.is_some() {
                self.written = self.scanned;
                self.frames.clear();
                break;
            }
            let upstream = Arc::clone(&self.upstream);
            let reply = match upstream.while_busy(|| self.store_packet(&frame)) {
                Ok(()) => Reply::new(Status::Success),
                Err(error) => {
                    warn!(block = %self.block, peer = ?self.up.peer_address(), "packet {} failed: {}",
                        frame.header.seqno, error.chain());
                    self.plane.metrics.operations_failed.inc();
                    self.failed_here = Some(error.kind());
                    Reply { full: error.kind() == ErrorKind::NoSpace, ..Reply::new(status_of(error.kind())) }
                }
            };
            self.note_stored(&frame, reply);
        }
        self.consume();
    }

    /// The next frame is done with; it waits to be acknowledged.
    fn note_stored(&mut self, frame: &PacketFrame, reply: Reply) {
        if self.acks.is_empty() {
            self.mirror_heard = Instant::now();
        }
        let header = &frame.header;
        self.acks.push(Pending {
            seqno: header.seqno,
            end: header.offset_in_block.unsigned_abs() + u64::from(header.data_len),
            reply,
            last: header.last_packet_in_block,
        });
        self.written += frame.total_len();
    }

    /// Gives buffer space free that is both written and sent on.
    fn consume(&mut self) {
        let done =
            if self.mirror.is_some() && !self.mirror_lost { self.written.min(self.forwarded) } else { self.written };
        self.up.consume(done);
        self.scanned -= done;
        self.written -= done;
        self.forwarded = self.forwarded.saturating_sub(done);
    }

    fn store_packet(&mut self, frame: &PacketFrame) -> Result<()> {
        let header = &frame.header;
        if header.is_heartbeat() {
            return Ok(());
        }
        let Some(writer) = self.writer.as_mut() else {
            return Err(DfsError::new(ErrorKind::Protocol, "packet after the last one"));
        };
        let packet = &self.up.filled()[self.written..self.written + frame.total_len()];
        let (data, sums) = (&packet[frame.data()], &packet[frame.checksums()]);
        let offset = header.offset_in_block.unsigned_abs();
        let must_verify = self.mirror.is_none()
            || self.stage.is_copy()
            || data.len() <= VERIFY_ALWAYS_MAX
            || !offset.is_multiple_of(self.checksum.bytes_per_checksum() as u64);
        if must_verify && let Err(at) = self.checksum.verify(data, sums) {
            self.plane.metrics.corrupt_packets.inc();
            return Err(DfsError::new(
                ErrorKind::Corrupt,
                format!("checksum error at byte {} of the block", offset.saturating_add(at as u64)),
            ));
        }
        writer.append(offset, data, sums)?;
        self.plane.metrics.bytes_written.inc_by(data.len() as u64);
        if header.last_packet_in_block {
            // No longer the writer, whatever comes of it.
            let finished = self.writer.take().expect("checked above");
            let finished = self.finished_writer.insert(finished);
            // A copy takes the place of a replica that may be gone tomorrow, with the promise that its bytes were synced.
            if self.stage == Stage::CopyToRbw {
                self.plane.store.convert_to_rbw(&self.block.pool, finished)?;
                self.plane.store.sync(&self.block)?;
            } else {
                let sync = header.sync_block || self.stage.is_copy();
                self.plane.store.finalize(&self.block.pool, finished, sync)?;
            }
            self.plane.metrics.blocks_written.inc();
        } else if header.sync_block {
            writer.sync()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.upstream.flush().map_err(|error| DfsError::io("answer the writer", error))
    }

    /// Takes more from the writer, or waits until anything can move.
    fn advance(&mut self) -> Result<()> {
        let wants_more = !self.last_scanned
            && self.failed_here.is_none()
            && self.finished.is_none()
            && !self.has_unsent()
            && self.acks.len() < PENDING_MAX
            && self.upstream.unsent() < OUT_MAX;
        if wants_more {
            let limit = self.up.packet_read_limit(self.scanned);
            match self.up.receive(limit).map_err(|error| DfsError::io("receive from the writer", error))? {
                Some(0) => return Err(DfsError::io("receive from the writer", io::ErrorKind::UnexpectedEof.into())),
                Some(_) => return Ok(()),
                None => {}
            }
            self.announce()?;
        }
        self.wait_for_any(wants_more)
    }

    /// Tells the NameNodes of a write that takes its time.
    fn announce(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.as_ref().filter(|_| !self.announced && !self.stage.is_copy()) {
            self.plane.store.announce(&self.block.pool, writer)?;
            self.announced = true;
        }
        Ok(())
    }

    fn wait_for_any(&mut self, wants_more: bool) -> Result<()> {
        let now = Instant::now();
        let mirror = self.mirror.as_ref().filter(|_| self.listens_to_mirror());
        let mirror_due = mirror
            .filter(|mirror| !mirror.is_ready() || !self.acks.is_empty() || self.has_unsent())
            .map(|_| self.mirror_heard + self.mirror_patience);
        let deadline = mirror_due.unwrap_or(now + self.plane.timeout).min(now + self.plane.timeout);
        let has_answers = self.upstream.unsent() > 0;
        let mut watches = Vec::with_capacity(2);
        if !self.is_writer_gone {
            watches.push(Watch::either(self.up.socket(), wants_more, has_answers));
        }
        if let Some(mirror) = mirror {
            watches.push(Watch::either(mirror.connection().socket(), true, self.has_unsent()));
        }
        if watches.is_empty() {
            return Err(DfsError::io("answer the writer", io::ErrorKind::BrokenPipe.into()));
        }
        let moved = wait(&mut watches, deadline).map_err(|error| DfsError::io("wait for the pipeline", error))?;
        let is_mirror_ready = mirror.is_some() && watches.last().is_some_and(|watch| watch.is_ready);
        let is_up_ready = !self.is_writer_gone && watches[0].is_ready;
        let is_mirror_late = mirror_due.is_some_and(|due| due <= Instant::now()) && !is_mirror_ready;
        // A connection that is dead is always ready. What the writer has sent is still brought to the next node.
        let is_dead = is_up_ready && !wants_more && !has_answers;
        self.is_writer_gone |= is_dead;
        if is_up_ready {
            self.up.note_readable();
        }
        if moved && !is_mirror_late {
            return Ok(());
        }
        match mirror_due {
            Some(_) if is_mirror_late => {
                self.lose_mirror("it did not answer in time");
                Ok(())
            }
            // Every wait is cut at the timeout; this one was cut before the next node's time was over.
            Some(_) => Ok(()),
            None => Err(DfsError::new(ErrorKind::TimedOut, "the writer is silent")),
        }
    }
}
