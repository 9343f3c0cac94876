//! Tests of the block manager as a whole: DataNodes that exist only as maps, a clock that moves only when told.

mod bench;
mod duties;
mod holds;
mod hostile;
mod liveness;
mod model;
mod moves;
mod overflow;
mod placement;
mod recovery;
mod repair;
mod reports;
mod safe_mode;
mod suspects;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dfs_common::block::Block;
use dfs_common::clock::ManualClock;
use dfs_common::config_file::Config;
use dfs_common::ids::{BlockId, GenerationStamp, InodeId};
use dfs_proto::v1;
use dfs_proto::v1::order::Order;

use super::block_map::BlockState;
use super::disposition::BadReason;
use super::state::{BadList, Counts, SoftState};
use super::{BlockEvent, BlockManager, TargetRequest};
use crate::namenode::datanodes::{Space, StorageIndex};

/// Bytes free on each volume at first.
const ROOM: u64 = 100 << 30;

/// A replica on a pretended DataNode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    pub state: v1::ReplicaState,
    pub generation_stamp: u64,
    pub length: u64,
    pub is_intact: bool,
}

/// A pretended DataNode with one volume.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub uuid: String,
    pub storage: String,
    pub ip: String,
    pub rack: String,
    pub registration: u64,
    /// Number of the next report or event.
    pub next_number: u64,
    pub copies: BTreeMap<u64, Copy>,
    pub remaining: u64,
    pub active_transfers: u32,
    /// To be told with the next heartbeat.
    pub failed_copies: Vec<v1::Block>,
    pub is_up: bool,
    pub has_failed_volume: bool,
    /// What it has found not to match its checksums.
    pub found_bad: BTreeSet<u64>,
    /// Its events wait: another call of it is under way.
    pub is_slow: bool,
    /// Events that wait.
    pub unsent: Vec<v1::BlockReceivedAndDeletedRequest>,
}

impl Node {
    /// What it sends of a replica on a volume that does not match its checksums.
    pub(super) fn bad_verdict(&self, block: Block, storage_uuid: &str) -> v1::ReportBadReplicasRequest {
        v1::ReportBadReplicasRequest {
            datanode_uuid: self.uuid.clone(),
            registration_id: self.registration,
            blocks: vec![block.into()],
            storage_uuids: vec![storage_uuid.to_owned()],
            good_blocks: Vec::new(),
        }
    }
}

/// A block manager and its DataNodes.
pub(super) struct Cluster {
    pub blocks: BlockManager,
    pub clock: Arc<ManualClock>,
    pub nodes: Vec<Node>,
}

pub(super) fn block(id: u64, generation_stamp: u64, length: u64) -> Block {
    Block { id: BlockId(id), generation_stamp: GenerationStamp(generation_stamp), length }
}

pub(super) fn finalized(generation_stamp: u64, length: u64) -> Copy {
    Copy { state: v1::ReplicaState::Finalized, generation_stamp, length, is_intact: true }
}

impl BlockManager {
    /// Whether the block has its final length and had its minimum of replicas once.
    fn is_complete(&self, id: BlockId) -> bool {
        self.lock().map.get(id).is_some_and(|info| info.state() == BlockState::Complete)
    }

    /// Good replicas known, also on nodes that have died a moment ago.
    fn replica_count(&self, id: BlockId) -> usize {
        self.lock().map.replica_count(id)
    }

    /// Complete blocks of which no good replica is known, with their files.
    fn missing_blocks(&self, limit: usize) -> Vec<(BlockId, InodeId)> {
        let state = self.lock();
        let ids = state.map.ids_from(BlockId(0), usize::MAX).into_iter();
        let missing = ids.filter(|&id| state.standing(id) == Counts { complete: 1, ..Counts::default() });
        missing.take(limit).filter_map(|id| Some((id, state.map.get(id)?.inode))).collect()
    }

    fn under_replicated_count(&self) -> u64 {
        self.lock().under_replicated()
    }

    /// Copies that were ordered, or are awaited from pipelines.
    fn pending_count(&self) -> usize {
        self.lock().pending.len()
    }
}

impl Cluster {
    /// One DataNode per name of a rack; nothing has registered yet.
    pub(super) fn unregistered(racks: &[&str], settings: &[&str]) -> Self {
        let clock = Arc::new(ManualClock::new());
        let mut config = Config::default();
        for setting in settings {
            config.set(setting).unwrap();
        }
        let blocks = BlockManager::new(&config, clock.clone(), 7);
        let nodes = racks.iter().enumerate().map(|(at, rack)| Node {
            uuid: format!("dn{at}"),
            storage: format!("s{at}"),
            ip: format!("10.0.{}.{}", at / 250, at % 250 + 1),
            rack: (*rack).to_owned(),
            next_number: 1,
            remaining: ROOM,
            ..Node::default()
        });
        let nodes = nodes.collect();
        Self { blocks, clock, nodes }
    }

    /// All registered and reported, active, out of safe mode.
    pub(super) fn new(racks: &[&str]) -> Self {
        let mut cluster = Self::unregistered(racks, &[]);
        cluster.blocks.set_active(true);
        for at in 0..cluster.nodes.len() {
            cluster.register(at);
        }
        cluster.blocks.tick();
        assert!(cluster.blocks.may_repair());
        cluster
    }

    fn storage_report(node: &Node) -> v1::StorageReport {
        v1::StorageReport {
            storage_uuid: node.storage.clone(),
            path: "/data".into(),
            capacity: ROOM,
            used: ROOM - node.remaining,
            remaining: node.remaining,
            failed: node.has_failed_volume,
        }
    }

    /// Registers and reports in full; its scanner finds what is corrupt.
    pub(super) fn register(&mut self, at: usize) {
        self.register_only(at);
        self.report(at);
        let damaged = self.nodes[at].copies.iter().filter(|(_, copy)| !copy.is_intact);
        let damaged: Vec<u64> = damaged.map(|(&id, _)| id).collect();
        damaged.into_iter().for_each(|id| self.find_bad(at, id));
    }

    /// The DataNode finds a replica of its own not to match its checksums, and says so, behind all that happened before.
    pub(super) fn find_bad(&mut self, at: usize, id: u64) {
        self.send_events(at);
        let node = &mut self.nodes[at];
        let Some(copy) = node.copies.get(&id) else { return };
        node.found_bad.insert(id);
        let request = node.bad_verdict(block(id, copy.generation_stamp, copy.length), &node.storage);
        // A node that is taken for dead is refused, and tells with its next full report.
        let _ = self.blocks.report_bad_replicas(&request);
    }

    /// The DataNode finds a replica of its own to be as it should be, and says so, behind all that happened before.
    pub(super) fn find_good(&mut self, at: usize, id: u64) {
        self.send_events(at);
        let node = &mut self.nodes[at];
        let Some(copy) = node.copies.get(&id) else { return };
        node.found_bad.remove(&id);
        let request = v1::ReportBadReplicasRequest {
            datanode_uuid: node.uuid.clone(),
            registration_id: node.registration,
            good_blocks: vec![block(id, copy.generation_stamp, copy.length).into()],
            ..v1::ReportBadReplicasRequest::default()
        };
        let _ = self.blocks.report_bad_replicas(&request);
    }

    /// Time passes, in which the NameNode listens.
    pub(super) fn pass(&self, time: Duration) {
        let second = Duration::from_secs(1);
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(second);
            self.clock.advance(step);
            self.blocks.listening().pulse();
            left -= step;
        }
    }

    pub(super) fn register_only(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let request = v1::RegisterDatanodeRequest {
            id: Some(v1::DatanodeId {
                uuid: node.uuid.clone(),
                data_port: 9866,
                rack: node.rack.clone(),
                ..v1::DatanodeId::default()
            }),
            namespace: None,
            storages: vec![Self::storage_report(node)],
        };
        let response = self.blocks.register_datanode(&request, &node.ip).unwrap();
        assert_eq!(response.id.unwrap().host, node.ip);
        node.registration = response.registration_id;
        node.next_number = 1;
        node.unsent.clear();
        node.is_up = true;
    }

    /// A full report in one page.
    pub(super) fn report(&mut self, at: usize) {
        let page = self.page(at);
        self.nodes[at].next_number += 1;
        self.blocks.block_report_page(&page).unwrap();
    }

    pub(super) fn page(&self, at: usize) -> v1::BlockReportPage {
        let node = &self.nodes[at];
        let is_finalized = |copy: &&Copy| copy.state == v1::ReplicaState::Finalized;
        let done: Vec<_> = node.copies.iter().filter(|(_, copy)| is_finalized(copy)).collect();
        let open = node.copies.iter().filter(|(_, copy)| !is_finalized(copy));
        v1::BlockReportPage {
            datanode_uuid: node.uuid.clone(),
            registration_id: node.registration,
            report_number: node.next_number,
            storage_uuid: node.storage.clone(),
            ids: done.iter().map(|(id, _)| **id).collect(),
            generation_stamps: done.iter().map(|(_, copy)| copy.generation_stamp).collect(),
            lengths: done.iter().map(|(_, copy)| copy.length).collect(),
            under_construction: open
                .map(|(&id, copy)| v1::ReplicaUnderConstruction {
                    block: Some(block(id, copy.generation_stamp, copy.length).into()),
                    state: copy.state.into(),
                })
                .collect(),
            last_of_storage: true,
            last: true,
            block_pool_id: String::new(),
            corrupt_ids: node.found_bad.iter().copied().collect(),
        }
    }

    /// Sends one event, or loses it on the way.
    pub(super) fn event(&mut self, at: usize, kind: v1::ReplicaEventKind, block: Block, is_lost: bool) {
        let node = &mut self.nodes[at];
        let request = v1::BlockReceivedAndDeletedRequest {
            datanode_uuid: node.uuid.clone(),
            registration_id: node.registration,
            report_number: node.next_number,
            events: vec![v1::ReplicaEvent {
                kind: kind.into(),
                block: Some(block.into()),
                storage_uuid: node.storage.clone(),
            }],
            block_pool_id: String::new(),
        };
        node.next_number += 1;
        if is_lost {
            return;
        }
        node.unsent.push(request);
        if !node.is_slow {
            self.send_events(at);
        }
    }

    /// Sends the events that wait.
    pub(super) fn send_events(&mut self, at: usize) {
        for request in std::mem::take(&mut self.nodes[at].unsent) {
            // A node that is taken for dead is refused, and learns of it by its next heartbeat.
            let _ = self.blocks.incremental_report(&request);
        }
    }

    /// The DataNode has a replica now, and says so.
    pub(super) fn put(&mut self, at: usize, id: u64, copy: Copy) {
        self.nodes[at].copies.insert(id, copy);
        self.nodes[at].found_bad.remove(&id);
        let kind = if copy.state == v1::ReplicaState::Finalized {
            v1::ReplicaEventKind::ReplicaReceived
        } else {
            v1::ReplicaEventKind::ReplicaReceiving
        };
        self.event(at, kind, block(id, copy.generation_stamp, copy.length), false);
    }

    pub(super) fn heartbeat(&mut self, at: usize) -> Vec<Order> {
        let node = &mut self.nodes[at];
        let request = v1::SendHeartbeatRequest {
            datanode_uuid: node.uuid.clone(),
            registration_id: node.registration,
            storages: vec![Self::storage_report(node)],
            active_transfers: node.active_transfers,
            failed_copies: std::mem::take(&mut node.failed_copies),
        };
        let response = self.blocks.heartbeat(&request).unwrap();
        response.orders.into_iter().filter_map(|order| order.order).collect()
    }

    pub(super) fn node_at(&self, uuid: &str) -> usize {
        self.nodes.iter().position(|node| node.uuid == uuid).unwrap()
    }

    /// Does what the NameNode ordered.
    pub(super) fn obey(&mut self, at: usize, order: Order) {
        match order {
            Order::Register(_) => self.register(at),
            Order::BlockReport(_) => self.report(at),
            Order::Transfer(order) => {
                let wanted = Block::from(order.block.unwrap());
                let copy = self.nodes[at].copies.get(&wanted.id.0).copied();
                let is_right = |copy: &Copy| {
                    copy.is_intact && copy.generation_stamp == wanted.generation_stamp.0 && copy.length == wanted.length
                };
                let Some(copy) = copy.filter(is_right) else {
                    self.nodes[at].failed_copies.push(wanted.into());
                    return;
                };
                for target in order.targets {
                    let to = self.node_at(&target.uuid);
                    // A node that has anything of the block refuses; orders given across a change of leader come twice.
                    let has = self.nodes[to].copies.contains_key(&wanted.id.0);
                    if self.nodes[to].is_up && !has {
                        self.put(to, wanted.id.0, copy);
                    } else {
                        self.nodes[at].failed_copies.push(wanted.into());
                    }
                }
            }
            Order::Invalidate(order) => {
                for doomed in order.blocks {
                    let has = self.nodes[at].copies.get(&doomed.id);
                    if has.is_some_and(|copy| copy.generation_stamp == doomed.generation_stamp) {
                        self.nodes[at].copies.remove(&doomed.id);
                        let gone = Block::from(doomed);
                        self.event(at, v1::ReplicaEventKind::ReplicaDeleted, gone, false);
                    }
                }
            }
            Order::Verify(order) => {
                for suspect in order.blocks {
                    match self.nodes[at].copies.get(&suspect.id) {
                        Some(copy) if copy.is_intact => self.find_good(at, suspect.id),
                        Some(_) => self.find_bad(at, suspect.id),
                        None => {
                            self.event(at, v1::ReplicaEventKind::ReplicaDeleted, Block::from(suspect), false);
                        }
                    }
                }
            }
            Order::Recover(_) => panic!("not ordered by this version"),
        }
    }

    /// A second passes: all nodes that are up beat and obey, then the NameNode ticks.
    pub(super) fn second(&mut self) {
        self.pass(Duration::from_secs(1));
        for at in 0..self.nodes.len() {
            if self.nodes[at].is_up {
                for order in self.heartbeat(at) {
                    self.obey(at, order);
                }
            }
        }
        self.blocks.tick();
    }

    pub(super) fn seconds(&mut self, count: usize) {
        for _ in 0..count {
            self.second();
        }
    }

    pub(super) fn allocate(&self, id: u64, generation_stamp: u64, replication: u16, targets: &[usize]) {
        let targets = targets.iter().map(|&at| (self.nodes[at].uuid.clone(), self.nodes[at].storage.clone()));
        self.blocks.on_events([BlockEvent::Allocated {
            block: block(id, generation_stamp, 0),
            inode: InodeId(id),
            replication,
            targets: targets.collect(),
        }]);
    }

    pub(super) fn commit(&self, id: u64, generation_stamp: u64, length: u64) {
        self.blocks.on_events([BlockEvent::Committed { block: block(id, generation_stamp, length) }]);
    }

    /// A whole block on these nodes.
    pub(super) fn write(&mut self, id: u64, replication: u16, targets: &[usize]) {
        self.allocate(id, 1, replication, targets);
        for &at in targets {
            self.put(at, id, finalized(1, 10));
        }
        self.commit(id, 1, 10);
    }

    pub(super) fn located(&self, id: u64) -> Vec<String> {
        let mut uuids: Vec<String> =
            self.blocks.locate(BlockId(id), None).datanodes.into_iter().map(|node| node.uuid).collect();
        uuids.sort();
        uuids
    }

    pub(super) fn targets(&self, replication: u32, writer: Option<&str>, exclude: &[String]) -> Vec<String> {
        let request = TargetRequest { replication, writer, exclude, chosen: &[], block_size: 1 << 20 };
        let targets = self.blocks.choose_targets(&request).unwrap();
        targets.into_iter().map(|target| target.datanode.uuid).collect()
    }

    /// The nodes that have a good replica, truly.
    pub(super) fn holders(&self, id: u64, generation_stamp: u64, length: u64) -> Vec<usize> {
        let good = |node: &Node| node.copies.get(&id).is_some_and(|&copy| copy == finalized(generation_stamp, length));
        (0..self.nodes.len()).filter(|&at| good(&self.nodes[at])).collect()
    }

    /// Compares everything that is kept twice.
    pub(super) fn check(&self) {
        check_state(&self.blocks.lock());
    }
}

/// The invariants of the soft state, recounted.
fn check_state(state: &SoftState) {
    let mut counts = Counts::default();
    let mut on_storage: BTreeMap<StorageIndex, roaring::RoaringTreemap> = BTreeMap::new();
    let mut note = |storage: StorageIndex, id: BlockId| {
        on_storage.entry(storage).or_default().insert(id.0);
    };
    for id in state.map.ids_from(BlockId(0), usize::MAX) {
        let info = state.map.get(id).unwrap();
        let replicas = state.map.replicas(id);
        if info.state() == BlockState::Complete {
            counts.complete += 1;
            counts.with_minimum += u64::from(replicas.len() >= state.config.replication_min);
            counts.with_any += u64::from(!replicas.is_empty());
        }
        let is_open = info.state() == BlockState::UnderConstruction;
        assert!(!is_open || replicas.is_empty() && state.open.contains_key(&id), "{id}: open");
        replicas.iter().for_each(|&storage| note(storage, id));
    }
    assert_eq!(counts, state.counts);
    for (id, open) in &state.open {
        open.reported.iter().for_each(|(storage, _)| note(*storage, *id));
    }
    for (id, bad) in &state.bad {
        bad.iter().for_each(|bad| note(bad.storage, *id));
    }
    state.set_aside.keys().for_each(|(id, storage)| note(*storage, *id));
    let mut units: BTreeMap<StorageIndex, u32> = BTreeMap::new();
    let open = state.open.values().flat_map(|open| &open.targets);
    for &target in open.chain(state.pending.values().flat_map(|pending| &pending.targets)) {
        *units.entry(target).or_default() += 1;
    }
    for (index, storage) in state.nodes.all_storages() {
        assert_eq!(storage.scheduled_blocks, units.get(&index).copied().unwrap_or(0), "units of {}", storage.uuid);
        assert_eq!(storage.blocks, on_storage.remove(&index).unwrap_or_default(), "blocks of {}", storage.uuid);
        assert!(storage.blocks.is_disjoint(&storage.doomed), "{}: doomed and counted", storage.uuid);
        let set_aside = state.set_aside.keys().filter(|(_, other)| *other == index).count();
        assert_eq!(storage.set_aside, set_aside, "set aside of {}", storage.uuid);
    }
    let corrupt = |bad: &&BadList| bad.iter().any(|bad| bad.reason != BadReason::StaleGeneration);
    assert_eq!(state.corrupt_blocks, state.bad.values().filter(corrupt).count() as u64);
    assert!(state.bad.values().all(|bad| !bad.is_empty()), "an empty list of bad replicas");
    let mut space = Space::default();
    for (index, _) in state.nodes.registered() {
        let of_node = state.nodes.space_of(index);
        space.capacity += of_node.capacity;
        space.used += of_node.used;
        space.remaining += of_node.remaining;
    }
    assert_eq!(state.nodes.space(), space);
    assert_eq!(state.nodes.registered().count(), state.nodes.registered_count());
    let mut costs: BTreeMap<_, u32> = BTreeMap::new();
    for (node, cost) in state.pending.values().filter_map(|pending| pending.source()) {
        *costs.entry(node).or_default() += cost;
    }
    for (index, node) in state.nodes.registered() {
        assert_eq!(node.outgoing_cost, costs.get(&index).copied().unwrap_or(0), "streams of {}", node.id.uuid);
    }
}
