//! Taking in registrations, heartbeats and reports: from messages to steps of the soft state.

use std::net::IpAddr;

use dfs_common::block::Block;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_proto::v1;
use dfs_proto::v1::order::Order;
use roaring::RoaringTreemap;

use super::block_map::BlockInfo;
use super::disposition::ReportedReplica;
use super::state::SoftState;
use crate::namenode::datanodes::report_sequence::{EventsVerdict, PageVerdict, ReportNumber, StoragePass, VolumeEvent};
use crate::namenode::datanodes::{NodeIndex, RegistrationId, StorageIndex};
use crate::namenode::host_rules::Duty;

/// Deletions ordered with one heartbeat, HDFS's limit: a DataNode deletes that many in well under a heartbeat's time.
const INVALIDATIONS_PER_HEARTBEAT: usize = 1000;

/// Orders looked at with one heartbeat whether they are to be repeated, of all volumes: after a silence many are due at once.
const REPEATED_PER_HEARTBEAT: usize = 4096;

/// Failed copies taken in with one heartbeat: more than a node is told to make at a time. Copies that are not told of are
/// given up when their time is over.
const FAILED_COPIES_MAX: usize = 2_000;

/// Full reports asked for that run at the same time, HDFS's number of report leases: a new leader wants one of everybody.
const ORDERED_REPORTS_AT_ONCE: usize = 6;

/// Replicas that are compared with a full report in one step, and those that are forgotten: some hundred microseconds' work.
const COMPARED_PER_STEP: usize = 4096;
const FORGOTTEN_PER_STEP: usize = 128;

/// Finalized replicas of a page, as columns of equal length.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    pub ids: &'a [u64],
    pub generation_stamps: &'a [u64],
    pub lengths: &'a [u64],
    /// Those of the ids that the DataNode knows to be corrupt.
    pub corrupt: &'a RoaringTreemap,
}

/// Which page of which report of whom.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageOrigin<'a> {
    pub datanode_uuid: &'a str,
    pub registration: RegistrationId,
    pub number: ReportNumber,
}

impl SoftState {
    pub(crate) fn register(
        &mut self,
        request: &v1::RegisterDatanodeRequest,
        peer: Option<IpAddr>,
    ) -> Result<v1::RegisterDatanodeResponse> {
        let registration = RegistrationId(self.next_registration);
        self.check_admitted(request, peer)?;
        // What the node was told to copy before is not made any more: the next tick gives it up.
        let registered = self.nodes.register(request, peer, registration, self.now, self.heard)?;
        self.next_registration += 1;
        for storage in registered.gone {
            self.start_draining(storage);
        }
        self.apply_duty(registered.node);
        if self.nodes.node(registered.node).duty != Duty::Serve {
            // What was counted as away is there again.
            self.walk_again();
        }
        let node = self.nodes.node(registered.node);
        if let Some(old) = registered.displaced {
            tracing::warn!(
                uuid = node.id.uuid,
                old,
                new = node.address(),
                "two DataNodes have one uuid; the newer one counts. If the older one still runs, stop one of them and \
                 give it an empty data directory"
            );
        }
        tracing::info!(uuid = node.id.uuid, address = node.address(), rack = node.id.rack, "a DataNode has registered");
        let response = v1::RegisterDatanodeResponse {
            registration_id: registration.0,
            id: Some(node.id.clone()),
            heartbeat_interval_ms: u32::try_from(self.config.heartbeat_interval.as_millis()).unwrap_or(u32::MAX),
        };
        if registered.became_multi_rack && self.safe_mode.has_started_up() {
            // Placement that was right on one rack may not be any more.
            self.scan = Some(BlockId(0));
        }
        Ok(response)
    }

    fn check_admitted(&self, request: &v1::RegisterDatanodeRequest, peer: Option<IpAddr>) -> Result<()> {
        let id = request.id.clone().unwrap_or_default();
        let addresses: Vec<IpAddr> =
            id.host.parse().ok().into_iter().chain(peer).map(|ip: IpAddr| ip.to_canonical()).collect();
        if self.rules.admits(&id, &addresses) {
            return Ok(());
        }
        let message = format!(
            "DataNode {} at {}:{} is not in the file dfs.hosts; add it there and run: dfs admin refresh-nodes",
            id.uuid,
            peer.map_or(id.host.clone(), |ip| ip.to_string()),
            id.data_port
        );
        Err(DfsError::new(ErrorKind::NotPermitted, message))
    }

    /// The live node of a registration.
    pub(crate) fn registered(&self, uuid: &str, registration: RegistrationId) -> Result<NodeIndex> {
        self.nodes
            .by_uuid(uuid)
            .filter(|&index| {
                let node = self.nodes.node(index);
                node.is_live && node.registration == Some(registration)
            })
            .ok_or_else(|| {
                DfsError::new(
                    ErrorKind::Stale,
                    format!(
                        "registration {} of DataNode {uuid} is not known (any more); register again",
                        registration.0
                    ),
                )
            })
    }

    pub(crate) fn heartbeat(&mut self, request: &v1::SendHeartbeatRequest) -> Result<Vec<Order>> {
        let registration = RegistrationId(request.registration_id);
        let Ok(index) = self.registered(&request.datanode_uuid, registration) else {
            return Ok(vec![Order::Register(v1::RegisterOrder {})]);
        };
        self.nodes.on_heartbeat(index, request.active_transfers, self.heard);
        if !request.storages.is_empty() {
            let changes = self.nodes.take_storage_reports(index, &request.storages)?;
            for storage in changes.gone {
                let (node, volume) = (self.nodes.node(index).address(), &self.nodes.storage(storage).path);
                tracing::warn!(datanode = node, volume, "a volume has failed; its replicas are copied from elsewhere");
                self.start_draining(storage);
            }
            if changes.has_new {
                self.nodes.node_mut(index).reports.request_full();
            }
        }
        for block in request.failed_copies.iter().take(FAILED_COPIES_MAX) {
            self.give_up_copies(BlockId(block.id), index);
        }
        Ok(self.orders_for(index))
    }

    fn orders_for(&mut self, index: NodeIndex) -> Vec<Order> {
        let now = self.now;
        let mut orders = Vec::new();
        if self.nodes.node(index).reports.is_full_due(now) && self.nodes.has_working_volume(index) {
            let under_way = self.nodes.registered().filter(|(_, node)| node.reports.has_ordered_under_way(now)).count();
            if under_way < ORDERED_REPORTS_AT_ONCE {
                self.nodes.node_mut(index).reports.on_full_ordered(now);
                orders.push(Order::BlockReport(v1::BlockReportOrder {}));
            }
        }
        if self.may_recover() {
            orders.extend(self.take_recoveries(index).into_iter().map(Order::Recover));
            let blocks = self.take_verifications(index);
            if !blocks.is_empty() {
                orders.push(Order::Verify(v1::VerifyOrder { block_pool_id: String::new(), blocks }));
            }
        }
        if !self.may_repair() {
            return orders;
        }
        orders.extend(self.nodes.node_mut(index).transfers.drain(..).map(Order::Transfer));
        let blocks = self.take_invalidations(index);
        if !blocks.is_empty() {
            orders.push(Order::Invalidate(v1::InvalidateOrder { block_pool_id: String::new(), blocks }));
        }
        orders
    }

    /// The next deletions of a node, from its volumes in turn so that none waits for another.
    fn take_invalidations(&mut self, index: NodeIndex) -> Vec<v1::Block> {
        let mut blocks = Vec::new();
        let storages = self.nodes.node(index).storages.clone();
        let now = self.now;
        let share = (REPEATED_PER_HEARTBEAT / storages.len().max(1)).max(1);
        for &storage in &storages {
            self.nodes.storage_mut(storage).repeat_invalidations(now, share);
        }
        let waiting = storages.iter().filter(|&&storage| self.nodes.storage(storage).invalidation_count() > 0).count();
        if waiting == 0 {
            return blocks;
        }
        let share = (INVALIDATIONS_PER_HEARTBEAT / waiting).max(1);
        for storage in storages {
            for _ in 0..share {
                let Some((id, doomed)) = self.nodes.storage_mut(storage).next_invalidation(now) else { break };
                if !self.reprieve(id, storage, doomed) {
                    blocks.push(v1::Block { id: id.0, generation_stamp: doomed.generation_stamp.0, length: 0 });
                }
            }
        }
        blocks
    }

    /// Numbered events of one registration.
    pub(crate) fn take_events(
        &mut self,
        uuid: &str,
        registration: RegistrationId,
        first: ReportNumber,
        events: &[v1::ReplicaEvent],
    ) -> Result<()> {
        let index = self.registered(uuid, registration)?;
        match self.nodes.node_mut(index).reports.on_events(first, events.len()) {
            EventsVerdict::Ignore => {}
            EventsVerdict::Queue => {
                let events = events.iter().map(|event| self.find_volume(index, event)).collect();
                self.nodes.node_mut(index).reports.queue(first, events);
            }
            EventsVerdict::Apply { skip } => {
                for event in events.iter().skip(skip) {
                    if let Some(event) = self.find_volume(index, event) {
                        self.apply_replica_event(event);
                    }
                }
            }
        }
        Ok(())
    }

    /// Applies some of the events that waited for a full report to end; false when there are no more.
    pub(crate) fn replay_some(&mut self) -> bool {
        let Some(&index) = self.replaying.front() else { return false };
        match self.nodes.node_mut(index).reports.next_due() {
            Some(events) => events.into_iter().flatten().for_each(|event| self.apply_replica_event(event)),
            None => drop(self.replaying.pop_front()),
        }
        !self.replaying.is_empty()
    }

    /// A node's report has ended, well or not: events may have waited for that.
    fn replay(&mut self, index: NodeIndex) {
        if self.nodes.node(index).reports.has_due() && !self.replaying.contains(&index) {
            self.replaying.push_back(index);
        }
    }

    /// The event with its volume's number in place of the uuid, whose length nothing bounds.
    fn find_volume(&mut self, index: NodeIndex, event: &v1::ReplicaEvent) -> Option<VolumeEvent> {
        let block = event.block.as_ref()?.into();
        let storage = self.nodes.find_storage(index, &event.storage_uuid);
        if storage.is_none() {
            // A volume that no heartbeat has named yet; a full report will tell.
            self.nodes.node_mut(index).reports.request_full();
        }
        Some(VolumeEvent { storage: storage?, kind: event.kind(), block })
    }

    fn apply_replica_event(&mut self, VolumeEvent { storage, kind, block }: VolumeEvent) {
        let Block { id, generation_stamp, length } = block;
        let state = match kind {
            v1::ReplicaEventKind::ReplicaReceiving => v1::ReplicaState::Rbw,
            v1::ReplicaEventKind::ReplicaReceived => v1::ReplicaState::Finalized,
            v1::ReplicaEventKind::ReplicaDeleted => {
                self.nodes.storage_mut(storage).on_deleted(id);
                self.forget_replica(id, storage);
                return;
            }
        };
        self.take_replica(id, storage, ReportedReplica { state, generation_stamp, length, is_corrupt: false });
    }

    /// Begins or goes on with a full report; false when its pages are to be ignored.
    pub(crate) fn begin_page(&mut self, origin: PageOrigin<'_>) -> Result<bool> {
        let index = self.registered(origin.datanode_uuid, origin.registration)?;
        match self.nodes.node_mut(index).reports.on_full_page(origin.number) {
            PageVerdict::Proceed => Ok(true),
            PageVerdict::Ignore => Ok(false),
            PageVerdict::Refuse => Err(given_up()),
        }
    }

    /// The volume's part of the full report, taken out to be worked on. The caller puts it back before the lock is free.
    fn take_pass(&mut self, origin: PageOrigin<'_>, storage_uuid: &str) -> Result<(NodeIndex, StoragePass)> {
        let index = self.registered(origin.datanode_uuid, origin.registration)?;
        let storage = self.nodes.find_storage(index, storage_uuid).ok_or_else(|| {
            DfsError::new(
                ErrorKind::InvalidArgument,
                format!("a block report names volume {storage_uuid}, which its DataNode has not registered"),
            )
        })?;
        let full = self.nodes.node_mut(index).reports.full_report(origin.number).ok_or_else(given_up)?;
        match full.pass.take() {
            Some(pass) if pass.storage == storage => Ok((index, pass)),
            None if !full.done.contains(&storage) => Ok((index, StoragePass::new(storage))),
            // What the rest of a volume does not name would be forgotten.
            _ => Err(out_of_order()),
        }
    }

    /// Takes in finalized replicas; their ids must rise through the whole volume.
    pub(crate) fn take_columns(
        &mut self,
        origin: PageOrigin<'_>,
        storage_uuid: &str,
        columns: Columns<'_>,
    ) -> Result<()> {
        let (index, mut pass) = self.take_pass(origin, storage_uuid)?;
        let storage = pass.storage;
        let mut news = Vec::new();
        let mut is_sorted = true;
        let rows = columns.ids.iter().zip(columns.generation_stamps).zip(columns.lengths);
        for ((&id, &generation_stamp), &length) in rows {
            let id = BlockId(id);
            is_sorted &= pass.last.is_none_or(|last| last < id);
            pass.last = Some(id);
            let generation_stamp = GenerationStamp(generation_stamp);
            let is_corrupt = !columns.corrupt.is_empty() && columns.corrupt.contains(id.0);
            let is_settled = |info: &BlockInfo| info.is_settled_on(storage, generation_stamp, length);
            if !is_corrupt && self.map.get(id).is_some_and(is_settled) {
                pass.note(id);
            } else {
                let state = v1::ReplicaState::Finalized;
                news.push((id, ReportedReplica { state, generation_stamp, length, is_corrupt }));
            }
        }
        if is_sorted {
            for (id, reported) in news {
                self.take_replica(id, storage, reported);
                self.see(id, &mut pass);
            }
        }
        self.put_pass(index, origin, pass);
        if is_sorted {
            return Ok(());
        }
        Err(DfsError::new(ErrorKind::Protocol, "the ids of a block report must rise within a volume"))
    }

    fn put_pass(&mut self, index: NodeIndex, origin: PageOrigin<'_>, pass: StoragePass) {
        if let Some(full) = self.nodes.node_mut(index).reports.full_report(origin.number) {
            full.pass = Some(pass);
        }
    }

    /// A full report has named a replica. It is noted if it is recorded: else it cannot be missed.
    fn see(&self, id: BlockId, pass: &mut StoragePass) {
        let volume = self.nodes.storage(pass.storage);
        if volume.blocks.contains(id.0) || volume.doomed.contains(id.0) {
            pass.note(id);
        }
    }

    /// Takes in replicas that are being written or wait for recovery.
    pub(crate) fn take_open_replicas(
        &mut self,
        origin: PageOrigin<'_>,
        storage_uuid: &str,
        replicas: &[v1::ReplicaUnderConstruction],
    ) -> Result<()> {
        let (index, mut pass) = self.take_pass(origin, storage_uuid)?;
        let storage = pass.storage;
        let named = replicas.iter().filter_map(|replica| Some((replica.block.as_ref()?, replica.state())));
        for (block, state) in named {
            let generation_stamp = GenerationStamp(block.generation_stamp);
            let reported = ReportedReplica { state, generation_stamp, length: block.length, is_corrupt: false };
            self.take_replica(BlockId(block.id), storage, reported);
            self.see(BlockId(block.id), &mut pass);
        }
        self.put_pass(index, origin, pass);
        Ok(())
    }

    /// The volume's last page is in: what it had and was not named is to be forgotten.
    pub(crate) fn end_storage(&mut self, origin: PageOrigin<'_>, storage_uuid: &str) -> Result<StoragePass> {
        let (index, pass) = self.take_pass(origin, storage_uuid)?;
        if let Some(full) = self.nodes.node_mut(index).reports.full_report(origin.number) {
            full.done.insert(pass.storage);
        }
        Ok(pass)
    }

    /// Forgets some of what a volume is recorded to have and its full report does not name, from a block on; gives where to
    /// go on.
    pub(crate) fn forget_unnamed_some(
        &mut self,
        storage: StorageIndex,
        named: &RoaringTreemap,
        from: BlockId,
    ) -> Option<BlockId> {
        let (unnamed, next) = unnamed_from(&self.nodes.storage(storage).blocks, named, from);
        unnamed.into_iter().for_each(|id| self.forget_replica(id, storage));
        next
    }

    /// The same for what was to be deleted: it is gone already.
    pub(crate) fn settle_unnamed_some(
        &mut self,
        storage: StorageIndex,
        named: &RoaringTreemap,
        from: BlockId,
    ) -> Option<BlockId> {
        let volume = self.nodes.storage_mut(storage);
        let (unnamed, next) = unnamed_from(&volume.doomed, named, from);
        unnamed.into_iter().for_each(|id| volume.on_deleted(id));
        next
    }

    /// The report is over: gives the volumes that it did not name, which count as empty.
    pub(crate) fn end_report(&mut self, origin: PageOrigin<'_>) -> Result<Vec<StorageIndex>> {
        let index = self.registered(origin.datanode_uuid, origin.registration)?;
        let reports = &mut self.nodes.node_mut(index).reports;
        if reports.full_report(origin.number).ok_or_else(given_up)?.pass.is_some() {
            return Err(out_of_order());
        }
        let Some(end) = reports.on_full_end() else { return Ok(Vec::new()) };
        let mut unnamed = Vec::new();
        for storage in self.nodes.node(index).storages.clone() {
            let volume = self.nodes.storage_mut(storage);
            if end.is_fresh {
                volume.is_content_stale = false;
            }
            if !end.storages.contains(&storage) && !volume.blocks.is_empty() {
                tracing::warn!(storage = volume.uuid, "a full report does not name a volume; it counts as empty");
                unnamed.push(storage);
            }
        }
        self.replay(index);
        Ok(unnamed)
    }

    /// Gives up the full report that streams in from a node, if any.
    pub(crate) fn abort_report(&mut self, index: NodeIndex) {
        self.nodes.node_mut(index).reports.abort_full();
        self.replay(index);
    }

    /// Gives up this full report, if it has not ended.
    pub(crate) fn abort_report_of(&mut self, origin: PageOrigin<'_>) {
        if let Ok(index) = self.registered(origin.datanode_uuid, origin.registration)
            && self.nodes.node_mut(index).reports.full_report(origin.number).is_some()
        {
            self.abort_report(index);
        }
    }
}

fn given_up() -> DfsError {
    DfsError::new(ErrorKind::Cancelled, "this full report was given up, or another one has taken its place")
}

fn out_of_order() -> DfsError {
    DfsError::new(ErrorKind::Protocol, "a block report goes through its volumes one by one, each once and to its end")
}

/// Some of what is recorded and not named, from a block on, and where to go on.
fn unnamed_from(recorded: &RoaringTreemap, named: &RoaringTreemap, from: BlockId) -> (Vec<BlockId>, Option<BlockId>) {
    let (mut ours, mut theirs) = (recorded.iter(), named.iter());
    ours.advance_to(from.0);
    theirs.advance_to(from.0);
    let mut candidate = theirs.next();
    let mut unnamed = Vec::new();
    for id in ours.by_ref().take(COMPARED_PER_STEP) {
        if candidate.is_some_and(|other| other < id) {
            candidate = theirs.next();
        }
        if candidate.is_some_and(|other| other < id) {
            theirs.advance_to(id);
            candidate = theirs.next();
        }
        if candidate != Some(id) {
            unnamed.push(BlockId(id));
        }
        if unnamed.len() == FORGOTTEN_PER_STEP {
            break;
        }
    }
    (unnamed, ours.next().map(BlockId))
}
