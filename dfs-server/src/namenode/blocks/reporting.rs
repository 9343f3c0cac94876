//! What DataNodes send: registrations, heartbeats, reports. Long messages are taken in in slices.

use std::net::IpAddr;

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_proto::v1;
use roaring::RoaringTreemap;

use super::block_manager::BlockManager;
use super::intake::{Columns, PageOrigin};
use super::locate::parse_ip;
use super::state::SoftState;
use crate::namenode::datanodes::report_sequence::ReportNumber;
use crate::namenode::datanodes::{RegistrationId, StorageIndex};

/// Replicas in a page of a report, and events in a message. More would not fit a message anyway.
const PAGE_REPLICAS_MAX: usize = 100_000;

/// Replicas of a page, or events, taken in as one step.
const STEP_REPLICAS: usize = 128;

/// Messages with more events or replicas than this are work for a thread that may be kept for a while.
const LONG_MESSAGE: usize = 1_000;

/// Whether taking in so many events or replicas takes long enough to be no work for the thread that serves all calls.
pub(crate) fn is_long(count: usize) -> bool {
    count > LONG_MESSAGE
}

/// Which report a page belongs to.
pub(crate) fn origin_of(page: &v1::BlockReportPage) -> PageOrigin<'_> {
    PageOrigin {
        datanode_uuid: &page.datanode_uuid,
        registration: RegistrationId(page.registration_id),
        number: ReportNumber(page.report_number),
    }
}

impl BlockManager {
    /// Enters a DataNode that connects from `peer_ip`, which becomes its host when it names none.
    ///
    /// # Errors
    /// `InvalidArgument` for an identity that cannot be used.
    pub fn register_datanode(
        &self,
        request: &v1::RegisterDatanodeRequest,
        peer_ip: &str,
    ) -> Result<v1::RegisterDatanodeResponse> {
        let peer: Option<IpAddr> = parse_ip(peer_ip);
        self.step(|state| state.register(request, peer))
    }

    /// Takes in a heartbeat; the answer carries the orders, without the block pool's name: the service knows that.
    ///
    /// # Errors
    /// `Unavailable` at the bound of volumes.
    pub fn heartbeat(&self, request: &v1::SendHeartbeatRequest) -> Result<v1::SendHeartbeatResponse> {
        self.step(|state| {
            let orders = state.heartbeat(request)?;
            let orders = orders.into_iter().map(|order| v1::Order { order: Some(order) }).collect();
            Ok(v1::SendHeartbeatResponse { orders, is_active: state.is_active })
        })
    }

    /// Takes in a page of a full report. Pages of one report come one after the other.
    ///
    /// # Errors
    /// `Stale` for an unknown registration, `Protocol` for a malformed page: the report is given up.
    pub fn block_report_page(&self, page: &v1::BlockReportPage) -> Result<()> {
        let result = self.take_page(page);
        if result.is_err() {
            self.abort_report(origin_of(page));
        }
        result
    }

    fn take_page(&self, page: &v1::BlockReportPage) -> Result<()> {
        let count = page.ids.len();
        if page.generation_stamps.len() != count || page.lengths.len() != count {
            return Err(DfsError::new(ErrorKind::Protocol, "the columns of a block report differ in length"));
        }
        if count + page.under_construction.len() > PAGE_REPLICAS_MAX {
            return Err(DfsError::new(ErrorKind::Protocol, format!("a page above {PAGE_REPLICAS_MAX} replicas")));
        }
        let origin = origin_of(page);
        if !self.step(|state| state.begin_page(origin))? {
            return Ok(());
        }
        let storage = page.storage_uuid.as_str();
        let corrupt: RoaringTreemap = page.corrupt_ids.iter().copied().collect();
        self.try_each((0..count).step_by(STEP_REPLICAS), |state, start| {
            let slice = start..(start + STEP_REPLICAS).min(count);
            let columns = Columns {
                ids: &page.ids[slice.clone()],
                generation_stamps: &page.generation_stamps[slice.clone()],
                lengths: &page.lengths[slice],
                corrupt: &corrupt,
            };
            state.take_columns(origin, storage, columns)
        })?;
        let open = page.under_construction.chunks(STEP_REPLICAS);
        self.try_each(open, |state, replicas| state.take_open_replicas(origin, storage, replicas))?;
        // The end of an empty report may name no volume.
        if (page.last_of_storage || page.last) && !storage.is_empty() {
            let pass = self.step(|state| state.end_storage(origin, storage))?;
            self.forget_unnamed(pass.storage, &pass.seen);
        }
        if page.last {
            for storage in self.step(|state| state.end_report(origin))? {
                self.forget_unnamed(storage, &RoaringTreemap::new());
            }
            self.repeat(SoftState::replay_some);
        }
        Ok(())
    }

    /// Forgets what a volume had and its full report does not name.
    fn forget_unnamed(&self, storage: StorageIndex, named: &RoaringTreemap) {
        self.walk(|state, from| state.settle_unnamed_some(storage, named, from));
        self.walk(|state, from| state.forget_unnamed_some(storage, named, from));
    }

    /// The stream of a full report broke: what came of it stays, another one is asked for. The next tick applies the events
    /// that waited for its end.
    pub(crate) fn abort_report(&self, report: PageOrigin<'_>) {
        self.step(|state| state.abort_report_of(report));
    }

    /// Takes in numbered events: replicas being received, received, deleted.
    ///
    /// # Errors
    /// `Stale` for an unknown registration.
    pub fn incremental_report(&self, request: &v1::BlockReceivedAndDeletedRequest) -> Result<()> {
        if request.events.len() > PAGE_REPLICAS_MAX {
            return Err(DfsError::new(ErrorKind::Protocol, format!("more than {PAGE_REPLICAS_MAX} events")));
        }
        // A part of numbered events is numbered events.
        let first = ReportNumber(request.report_number);
        let parts = request.events.chunks(STEP_REPLICAS).enumerate();
        self.try_each(parts, |state, (at, events)| {
            let first = first.plus(at * STEP_REPLICAS);
            state.take_events(&request.datanode_uuid, RegistrationId(request.registration_id), first, events)
        })
    }

    /// What a DataNode has found by verifying its own replicas. Bad ones are not read any more while another is there, and
    /// replaced; good ones are not suspected any more.
    ///
    /// # Errors
    /// `Stale` for an unknown registration: nobody speaks for another DataNode. `Protocol` for too many.
    pub fn report_bad_replicas(&self, request: &v1::ReportBadReplicasRequest) -> Result<()> {
        if request.blocks.len() + request.good_blocks.len() > PAGE_REPLICAS_MAX {
            return Err(DfsError::new(ErrorKind::Protocol, format!("more than {PAGE_REPLICAS_MAX} verdicts")));
        }
        let registration = RegistrationId(request.registration_id);
        self.try_each(request.blocks.iter().enumerate(), |state, (at, block)| {
            let node = state.registered(&request.datanode_uuid, registration)?;
            let storage = request.storage_uuids.get(at).map_or("", String::as_str);
            state.on_corrupt_found(BlockId(block.id), GenerationStamp(block.generation_stamp), node, storage);
            Ok(())
        })?;
        self.try_each(&request.good_blocks, |state, block| {
            let node = state.registered(&request.datanode_uuid, registration)?;
            state.on_good_found(block.into(), node);
            Ok(())
        })
    }
}
