//! How a replica comes to be written by a pipeline, and what becomes of one that it leaves unfinished.

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::GenerationStamp;
use dfs_proto::data_transfer::Reply;
use dfs_proto::data_transfer::patience::DISK_CALL_MAX;
use dfs_proto::hadoop::{BlockOpResponseProto, OpWriteBlockProto, Status};
use tracing::{debug, error, warn};

use super::{Receiver, whole};
use crate::datanode::store::{OpenKind, ReplicaWriter};
use crate::datanode::transfer::after::After;
use crate::datanode::transfer::reply::{encoded, error_response};
use crate::datanode::transfer::stage::Stage;
use crate::datanode::transfer::write_setup::resumable_bytes;

impl Receiver<'_> {
    /// Opens the replica, or says why it cannot be.
    pub(super) fn open_replica(&mut self, request: &OpWriteBlockProto) {
        match self.upstream.while_busy(|| self.try_open(request)) {
            Ok(mut writer) => {
                writer.set_drop_behind(self.plane.drop_behind.applies(self.stage, request));
                self.take_writer(writer);
                if self.mirror.is_none() {
                    self.answer_set_up();
                }
            }
            Err(error) => self.refuse_opening(&error),
        }
    }

    /// Writes a block that came whole with its request; false when it is none, or not as its checksums say.
    pub(super) fn store_whole(&mut self, request: &OpWriteBlockProto) -> bool {
        let Some(whole) = whole::find(&self.frames, self.up.filled(), self.stage, self.checksum) else { return false };
        let (store, hint) = (&self.plane.store, request.storage_id.as_deref());
        let write = || store.write_whole(&self.block, self.checksum, whole.content, whole.sync, hint);
        let len = whole.content.data.len() as u64;
        match self.upstream.while_busy(write) {
            Ok(writer) => {
                self.finished_writer = Some(writer);
                if self.mirror.is_none() {
                    self.answer_set_up();
                }
                self.plane.metrics.bytes_written.inc_by(len);
                self.plane.metrics.blocks_written.inc();
                while let Some(frame) = self.frames.pop_front() {
                    self.note_stored(&frame, Reply::new(Status::Success));
                }
                self.consume();
            }
            Err(error) => self.refuse_opening(&error),
        }
        true
    }

    fn refuse_opening(&mut self, error: &DfsError) {
        warn!(peer = ?self.up.peer_address(), "refusing to write: {}", error.chain());
        self.refuse_set_up(&error_response(error));
        self.set_up = true;
    }

    fn try_open(&self, request: &OpWriteBlockProto) -> Result<ReplicaWriter> {
        let store = &self.plane.store;
        let hint = request.storage_id.as_deref();
        let new_stamp = GenerationStamp(request.latest_generation_stamp);
        match self.stage {
            Stage::Create => store.create(&self.block, OpenKind::Rbw, self.checksum, hint),
            Stage::Copy | Stage::CopyToRbw => store.create(&self.block, OpenKind::Temporary, self.checksum, hint),
            Stage::Append => store.append(&self.block, new_stamp),
            Stage::Resume => store.resume(&self.block, new_stamp, resumable_bytes(self.stage, request)),
            Stage::Close => store
                .resume(&self.block, new_stamp, resumable_bytes(self.stage, request))
                .and_then(|mut writer| store.finalize(&self.block.pool, &mut writer, false).map(|_| writer)),
        }
    }

    /// The last words on this connection.
    pub(super) fn refuse_set_up(&mut self, response: &BlockOpResponseProto) {
        self.plane.metrics.operations_failed.inc();
        self.upstream.push_response(&encoded(response));
        self.finished = Some(After::Linger);
    }

    fn take_writer(&mut self, writer: ReplicaWriter) {
        if self.stage == Stage::Close {
            self.finished_writer = Some(writer);
            return;
        }
        writer.set_feed(&self.up.socket_handle());
        let (suspect, block) = (writer.volume_suspect(), self.block.clone());
        self.upstream.on_hung(move || {
            error!(%block, "a disk call takes longer than {DISK_CALL_MAX:?}; the volume is checked");
            suspect();
        });
        self.writer = Some(writer);
    }

    /// The pipeline stands.
    pub(super) fn answer_set_up(&mut self) {
        let response = BlockOpResponseProto {
            status: Status::Success.into(),
            first_bad_link: Some(String::new()),
            ..Default::default()
        };
        self.upstream.push_response(&encoded(&response));
        self.set_up = true;
        if self.stage == Stage::Close {
            self.finished = Some(After::Serve);
        }
    }

    /// Comes last, whatever came before.
    pub(super) fn clean_up(&mut self, after: After) {
        if let Some(mirror) = self.mirror.take()
            && after == After::Serve
        {
            mirror.release(&self.plane.peers);
        }
        let Some(writer) = self.writer.take() else {
            // A copy that failed at its end would stand in the way of the next one, as a replica for a pipeline too.
            if self.stage.is_copy()
                && self.failed_here.is_some()
                && let Some(writer) = self.finished_writer.take()
                && let Err(error) = self.plane.store.discard(&self.block.pool, writer)
            {
                warn!(block = %self.block, "could not discard a copy: {}", error.chain());
            }
            return;
        };
        // Nobody was promised anything about a copy, a replica whose pipeline never stood, or one without a byte. Nor about
        // one that found no room before anything was acknowledged: when it goes, the room that it took is free again.
        let is_full = self.failed_here == Some(ErrorKind::NoSpace);
        let is_worthless = match self.stage {
            Stage::Copy | Stage::CopyToRbw => true,
            Stage::Create => !self.set_up || writer.is_empty() || (is_full && writer.has_no_acks()),
            // Put back as it was, if this set-up has reopened it.
            Stage::Append | Stage::Resume => !self.set_up && writer.is_reopened(),
            Stage::Close => false,
        };
        if is_worthless {
            debug!(block = %self.block, "discarding an unfinished replica");
            if let Err(error) = self.plane.store.discard(&self.block.pool, writer) {
                warn!(block = %self.block, "could not discard: {}", error.chain());
            }
        }
    }
}
