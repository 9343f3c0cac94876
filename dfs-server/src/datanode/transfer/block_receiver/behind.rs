//! What goes to the next node of a pipeline, and what it says.

use std::time::Instant;

use dfs_common::error::Result;
use dfs_proto::data_transfer::packet::HEARTBEAT_SEQNO;
use dfs_proto::data_transfer::{PipelineAck, Reply};
use dfs_proto::hadoop::Status;
use tracing::warn;

use super::{After, OUT_MAX, Receiver};
use crate::datanode::transfer::acks::Behind;
use crate::datanode::transfer::mirror::{Heard, Mirror};
use crate::datanode::transfer::reply::{link_refusal, protocol_error};

impl Receiver<'_> {
    /// Sends the request and whole packets on, as far as the next node takes them now.
    pub(super) fn forward(&mut self) {
        let Some(mirror) = self.mirror.as_mut().filter(|_| !self.mirror_lost) else { return };
        let unsent = &self.up.filled()[self.forwarded..self.scanned];
        if unsent.is_empty() && !mirror.has_request() {
            return;
        }
        match mirror.send(unsent) {
            Ok(sent) => self.forwarded += sent,
            Err(error) => self.lose_mirror(&error.to_string()),
        }
    }

    pub(super) fn lose_mirror(&mut self, why: &str) {
        let Some(mirror) = &self.mirror else { return };
        warn!(block = %self.block, next = mirror.address(), "lost the next node of the pipeline: {why}");
        self.mirror_lost = true;
        if !self.set_up && self.finished.is_none() {
            let link = mirror.address();
            let refusal = link_refusal(Status::Error, link, format!("lost {link}: {why}"), false);
            self.refuse_set_up(&refusal);
        }
    }

    /// Whether the next node is listened to: what it says becomes answers, and there are no more of them than the writer
    /// takes.
    pub(super) fn listens_to_mirror(&self) -> bool {
        self.mirror.is_some() && !self.mirror_lost && self.finished.is_none() && self.upstream.unsent() < OUT_MAX
    }

    pub(super) fn hear_mirror(&mut self) {
        if !self.listens_to_mirror() {
            return;
        }
        if let Some(Err(error)) = self.mirror.as_mut().map(Mirror::listen) {
            self.lose_mirror(&protocol_error(error).chain());
        }
        while !self.mirror_lost && self.finished.is_none() {
            match self.mirror.as_mut().map_or(Ok(None), Mirror::hear) {
                Ok(None) => return,
                Ok(Some(Heard::SettingUp)) => self.pass_on(None),
                Ok(Some(Heard::Ready)) => self.answer_set_up(),
                Ok(Some(Heard::Refused { bad_link, status, message, full })) => {
                    let refusal = link_refusal(status, &bad_link, format!("{bad_link}: {message}"), full);
                    warn!(block = %self.block, ?refusal, "pipeline cannot be set up");
                    self.refuse_set_up(&refusal);
                }
                Ok(Some(Heard::Ack(ack))) if self.acks.is_life_sign(&ack) => self.pass_on(Some(ack)),
                Ok(Some(Heard::Ack(ack))) => self.answer(Behind::Answered(ack)),
                Err(error) => self.lose_mirror(&protocol_error(error).chain()),
            }
            self.mirror_heard = Instant::now();
        }
    }

    /// Answers what needs no word from the next node.
    pub(super) fn acknowledge(&mut self) -> Result<()> {
        while self.set_up && self.finished.is_none() && !self.acks.is_empty() {
            let before = self.acks.len();
            self.answer(match (&self.mirror, self.mirror_lost) {
                (None, _) => Behind::Nobody,
                (Some(_), true) => Behind::Lost,
                (Some(_), false) => Behind::Silent,
            });
            if self.acks.len() == before {
                break;
            }
        }
        Ok(())
    }

    /// A node behind waits for its disk: those in front must not take us for hung.
    fn pass_on(&mut self, sign: Option<PipelineAck>) {
        if !self.upstream.is_sign_due() {
            return;
        }
        let Some(sign) = sign else { return self.upstream.push_early_sign() };
        let replies = [vec![Reply::new(Status::Success)], sign.replies].concat();
        let sign = PipelineAck { seqno: HEARTBEAT_SEQNO, replies, downstream_ack_time_nanos: 0 };
        if self.set_up && !self.upstream.push_ack(&sign) {
            self.lose_mirror("an ack with too many replies");
        }
    }

    fn answer(&mut self, behind: Behind) {
        let answer = match self.acks.answer(behind) {
            Ok(Some(answer)) => answer,
            Ok(None) => return,
            Err(out_of_step) => {
                self.lose_mirror(&out_of_step.to_string());
                return;
            }
        };
        if answer.ack.is_success()
            && let Some(writer) = &self.writer
        {
            writer.set_acked(answer.packet.end);
        }
        if !self.upstream.push_ack(&answer.ack) {
            self.lose_mirror("an ack with too many replies");
            return;
        }
        if answer.ends {
            self.finished = Some(if answer.ack.is_success() { After::Serve } else { After::Linger });
        }
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.mirror.as_ref().is_some_and(|mirror| mirror.has_request() || self.forwarded < self.scanned)
            && !self.mirror_lost
    }
}
