//! Block reports: events as they happen, everything now and then.
//!
//! Events and full reports of a registration share one sequence of numbers. Events of a moment leave together: nobody waits
//! for one (a closed block's locations are its pipeline until the reports are there), and one call per block would cost the
//! NameNode and the two cores of a small machine more than the block itself. Events that were not answered are sent again
//! under the same numbers, so the NameNode can tell a repeat from news; a full report is made anew, under a new number. What
//! the store has at the moment a full report takes its number is in it; what changes later has later numbers, and applying
//! it a second time changes nothing.
//!
//! Which replicas are corrupt, and which were doubted and are good, goes by a call of its own, repeated like the others. A full
//! report marks all that are known to be corrupt: so whatever kept one from being told, a new registration, an overflow or a
//! failed call, it makes up for it, and no corrupt replica counts as good until a later call.

use std::sync::Arc;
use std::time::Duration;

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::v1;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};

use super::{CALL_TIMEOUT, FULL_REPORT_TIMEOUT, Link, REPORT_BACKOFF, Registration, on_own_thread};
use crate::datanode::deadline::call;
use crate::datanode::store::{Cursor, Event, EventKind, ReplicaStore, ReportPage};

/// Events in one message: what a page of a full report may hold.
const EVENTS_MAX: usize = 10_000;
/// How long the first event waits for others. Far below what repair and readers notice.
const GATHER_EVENTS: Duration = Duration::from_millis(100);
/// Pages made ahead of the one being sent.
const PAGES_AHEAD: usize = 2;

impl Link {
    /// Reports until the NameNode wants a new registration; returns why.
    pub(super) async fn reports(&self, registration: &Registration) -> &'static str {
        // What happened before is in the full report.
        let _ = self.queue.take();
        let mut number = 1;
        loop {
            if let Err(why) = self.send_full(registration, &mut number).await {
                return why;
            }
            let next_full = Instant::now() + self.context.block_report_interval;
            if let Err(why) = self.send_events_until(registration, &mut number, next_full).await {
                return why;
            }
        }
    }

    /// Sends events as they happen until a full report is due.
    async fn send_events_until(
        &self,
        registration: &Registration,
        number: &mut u64,
        next_full: Instant,
    ) -> Result<(), &'static str> {
        loop {
            tokio::select! {
                () = self.queue.wait() => {}
                () = self.signals.full_report_now.notified() => return Ok(()),
                () = tokio::time::sleep_until(next_full) => return Ok(()),
            }
            tokio::time::sleep(GATHER_EVENTS).await;
            let (events, overflowed) = self.queue.take();
            if overflowed {
                return Ok(());
            }
            self.send_events(registration, number, events).await?;
        }
    }

    async fn send_full(&self, registration: &Registration, number: &mut u64) -> Result<(), &'static str> {
        let mut attempt = 0;
        let started = Instant::now();
        loop {
            // A repeat takes a number of its own: events that a broken report may have overtaken must not be in doubt.
            let of_report = *number;
            *number += 1;
            match self.try_full(registration, of_report).await {
                Ok(Reported { replicas, corrupt }) => {
                    let took = started.elapsed();
                    info!(namenode = self.address, replicas, corrupt, ?took, "full block report sent");
                    return Ok(());
                }
                Err(error) => self.after_failure("full block report", &error, &mut attempt).await?,
            }
        }
    }

    async fn try_full(&self, registration: &Registration, number: u64) -> Result<Reported> {
        let (sender, receiver) = mpsc::channel(PAGES_AHEAD);
        let store = Arc::clone(&self.context.store);
        let registration = registration.clone();
        let pages = on_own_thread(move || make_pages(&store, &registration, number, &sender));
        let mut client = self.client.clone();
        let sent = call(FULL_REPORT_TIMEOUT, client.block_report(ReceiverStream::new(receiver)));
        let (made, sent) = tokio::join!(pages, sent);
        sent?;
        made?
    }

    async fn send_events(
        &self,
        registration: &Registration,
        number: &mut u64,
        events: Vec<Event>,
    ) -> Result<(), &'static str> {
        let mine = |event: &Event| *event.pool == *registration.block_pool_id;
        let (verdicts, changes): (Vec<_>, Vec<_>) = events
            .into_iter()
            .filter(mine)
            .partition(|event| matches!(event.kind, EventKind::Corrupt | EventKind::Good));
        for batch in changes.chunks(EVENTS_MAX) {
            let request = v1::BlockReceivedAndDeletedRequest {
                datanode_uuid: registration.datanode_uuid.clone(),
                registration_id: registration.id,
                report_number: *number,
                events: batch.iter().map(wire_event).collect(),
                block_pool_id: registration.block_pool_id.clone(),
            };
            *number += batch.len() as u64;
            let mut attempt = 0;
            let mut client = self.client.clone();
            while let Err(error) = call(CALL_TIMEOUT, client.block_received_and_deleted(request.clone())).await {
                self.after_failure("block events", &error, &mut attempt).await?;
            }
        }
        self.send_verdicts(registration, &verdicts).await
    }

    /// Tells which replicas are corrupt, and which are good after all.
    async fn send_verdicts(&self, registration: &Registration, verdicts: &[Event]) -> Result<(), &'static str> {
        for batch in verdicts.chunks(EVENTS_MAX) {
            let (good, bad): (Vec<_>, Vec<_>) = batch.iter().partition(|event| event.kind == EventKind::Good);
            let request = v1::ReportBadReplicasRequest {
                datanode_uuid: registration.datanode_uuid.clone(),
                registration_id: registration.id,
                blocks: bad.iter().map(|event| event.block.into()).collect(),
                storage_uuids: bad.iter().map(|event| event.storage_uuid.to_string()).collect(),
                good_blocks: good.iter().map(|event| event.block.into()).collect(),
            };
            let mut attempt = 0;
            while let Err(error) = call(CALL_TIMEOUT, self.client.clone().report_bad_replicas(request.clone())).await {
                self.after_failure("verdicts on replicas", &error, &mut attempt).await?;
            }
        }
        Ok(())
    }

    /// Waits before a repeat, or says that only a new registration helps.
    async fn after_failure(&self, what: &str, error: &DfsError, attempt: &mut u32) -> Result<(), &'static str> {
        if attempt.is_multiple_of(20) {
            warn!(namenode = self.address, "{what} failed: {}", error.chain());
        }
        let delay = REPORT_BACKOFF.delay(*attempt, &mut rand::rng());
        *attempt += 1;
        tokio::time::sleep(delay).await;
        match error.kind() {
            ErrorKind::Unavailable | ErrorKind::TimedOut | ErrorKind::Cancelled | ErrorKind::NotLeader => Ok(()),
            ErrorKind::Stale => Err("the NameNode does not know the registration"),
            _ => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Err("a report could not be made, or was refused")
            }
        }
    }
}

fn wire_event(event: &Event) -> v1::ReplicaEvent {
    let kind = match event.kind {
        EventKind::Receiving => v1::ReplicaEventKind::ReplicaReceiving,
        EventKind::Received => v1::ReplicaEventKind::ReplicaReceived,
        EventKind::Deleted => v1::ReplicaEventKind::ReplicaDeleted,
        // Sorted out before. A replica that is corrupt is as good as deleted, one that is good is here.
        EventKind::Corrupt => v1::ReplicaEventKind::ReplicaDeleted,
        EventKind::Good => v1::ReplicaEventKind::ReplicaReceived,
    };
    v1::ReplicaEvent {
        kind: kind.into(),
        block: Some(event.block.into()),
        storage_uuid: event.storage_uuid.to_string(),
    }
}

/// What is in a full report.
#[derive(Debug, Default)]
struct Reported {
    replicas: usize,
    /// Those among them that are known to be corrupt.
    corrupt: usize,
}

/// Makes the pages of a full report; returns what is in them.
fn make_pages(
    store: &ReplicaStore,
    registration: &Registration,
    number: u64,
    sender: &mpsc::Sender<v1::BlockReportPage>,
) -> Result<Reported> {
    let volumes: Vec<_> = store.volumes().good().map(|volume| (volume.index(), volume.storage_uuid())).collect();
    let mut reported = Reported::default();
    for (at, (volume, storage_uuid)) in volumes.iter().enumerate() {
        let last_volume = at + 1 == volumes.len();
        let mut after = None;
        loop {
            let page = store.report_page(&registration.block_pool_id, Cursor { volume: *volume, after })?;
            after = page.next;
            reported.corrupt += page.items.iter().filter(|item| item.is_corrupt).count();
            reported.replicas += page.items.len();
            if page.items.is_empty() && after.is_some() {
                continue;
            }
            let wire = wire_page(&page, registration, number, storage_uuid, last_volume);
            if sender.blocking_send(wire).is_err() {
                // The call has ended before its pages: it has the reason.
                return Ok(reported);
            }
            if after.is_none() {
                break;
            }
        }
    }
    Ok(reported)
}

fn wire_page(
    page: &ReportPage,
    registration: &Registration,
    number: u64,
    storage_uuid: &str,
    last_volume: bool,
) -> v1::BlockReportPage {
    let finalized: Vec<Block> = page.items.iter().filter(|item| item.open.is_none()).map(|item| item.block).collect();
    let open = page.items.iter().filter_map(|item| Some((item.block, item.open?)));
    let last_of_storage = page.next.is_none();
    v1::BlockReportPage {
        datanode_uuid: registration.datanode_uuid.clone(),
        registration_id: registration.id,
        report_number: number,
        storage_uuid: storage_uuid.to_owned(),
        ids: finalized.iter().map(|block| block.id.0).collect(),
        generation_stamps: finalized.iter().map(|block| block.generation_stamp.0).collect(),
        lengths: finalized.iter().map(|block| block.length).collect(),
        under_construction: open
            .map(|(block, state)| v1::ReplicaUnderConstruction { block: Some(block.into()), state: state.into() })
            .collect(),
        last_of_storage,
        last: last_of_storage && last_volume,
        block_pool_id: registration.block_pool_id.clone(),
        corrupt_ids: page.items.iter().filter(|item| item.is_corrupt).map(|item| item.block.id.0).collect(),
    }
}
