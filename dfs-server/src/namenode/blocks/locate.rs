//! Where to read a block: its replicas, nearest to the reader first.

use std::net::IpAddr;

use dfs_common::ids::{BlockId, GenerationStamp};
use dfs_proto::v1;
use rand::Rng;
use smallvec::SmallVec;

use super::block_map::{BlockState, StorageList};
use super::state::SoftState;
use crate::namenode::datanodes::{RackIndex, StorageIndex};
use crate::namenode::host_rules::Duty;

/// The replicas of a block for one reader.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Locations {
    /// Who has it, best first.
    pub datanodes: Vec<v1::DatanodeId>,
    /// The volume of each, same order.
    pub storage_uuids: Vec<String>,
    /// No good replica is known, only corrupt ones: these are listed.
    pub corrupt: bool,
    /// It is being written, or its replicas have not been reported yet: the locations are its pipeline.
    pub under_construction: bool,
    /// Fewer replicas are known than the file asks for, and DataNodes may have more that they have not reported yet.
    pub awaits_reports: bool,
}

/// How far a replica is from a reader; less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Distance {
    SameHost,
    SameRack,
    Elsewhere,
}

/// Order of replicas for a reader: silent, leaving, how far, chance.
type Rank = (bool, bool, Distance, u32);

/// The address of somebody who asks.
pub(super) fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

impl SoftState {
    /// The replicas of a block. Without a reader an open block's pipeline keeps its order, the writer's.
    pub(crate) fn locate(&mut self, id: BlockId, reader: Option<IpAddr>) -> Locations {
        let Some(&info) = self.map.get(id) else { return Locations::default() };
        let (mut storages, is_open) = match info.state() {
            BlockState::UnderConstruction => (self.open_locations(id, info.generation_stamp), true),
            BlockState::Committed | BlockState::Complete => (self.reported_locations(id), false),
        };
        let awaits_reports = storages.len() < usize::from(info.replication) && self.awaits_reports();
        let mut corrupt = false;
        if storages.is_empty() && !is_open {
            let bad = self.bad.get(&id).into_iter().flatten().map(|bad| bad.storage);
            storages = bad.filter(|&storage| self.nodes.is_usable(storage)).collect();
            corrupt = !storages.is_empty();
        }
        if reader.is_some() || !is_open {
            self.sort_for(&mut storages, reader);
        }
        Locations {
            datanodes: storages.iter().map(|&storage| self.nodes.node_of(storage).id.clone()).collect(),
            storage_uuids: storages.iter().map(|&storage| self.nodes.storage(storage).uuid.clone()).collect(),
            corrupt,
            under_construction: is_open,
            awaits_reports,
        }
    }

    /// Whether DataNodes may have replicas that are not known here. After a start that is so for as long as one that is away
    /// would have counted, had it been known before.
    fn awaits_reports(&self) -> bool {
        self.heard.since(self.active_since) < self.config.dead_after || self.some_have_not_told()
    }

    /// The members of an open block's pipeline that are left; where it is not known (after a restart) or dead, what DataNodes say
    /// they have of this generation. A replica of an older one lacks what was acknowledged since.
    fn open_locations(&self, id: BlockId, generation_stamp: GenerationStamp) -> StorageList {
        let Some(open) = self.open.get(&id) else { return StorageList::new() };
        let is_usable = |storage: &StorageIndex| self.nodes.is_usable(*storage);
        let pipeline: StorageList = open.targets.iter().copied().filter(is_usable).collect();
        if !pipeline.is_empty() {
            return pipeline;
        }
        let newest = open.reported.iter().map(|(_, replica)| replica.generation_stamp).max();
        let newest = newest.filter(|newest| *newest >= generation_stamp);
        let newest = open.reported.iter().filter(|(_, replica)| Some(replica.generation_stamp) == newest);
        newest.map(|(storage, _)| *storage).filter(is_usable).collect()
    }

    /// Good replicas, and the members of the pipeline that acknowledged the block and have not reported it yet.
    fn reported_locations(&self, id: BlockId) -> StorageList {
        let mut storages = self.usable_replicas(id);
        let awaited = self.pending.get(&id).map(|pending| pending.members());
        let hinted = self.open.get(&id).map(|open| open.targets.as_slice());
        for &storage in awaited.into_iter().chain(hinted).flatten() {
            let node = self.nodes.storage(storage).node;
            let is_there = storages.iter().any(|&other| self.nodes.storage(other).node == node);
            let is_bad = self.is_bad(id, storage);
            if !is_there && !is_bad && self.nodes.is_usable(storage) {
                storages.push(storage);
            }
        }
        storages
    }

    /// Nearest first, at random among equals; nodes being decommissioned after the others, silent ones last.
    fn sort_for(&mut self, storages: &mut StorageList, reader: Option<IpAddr>) {
        if storages.len() < 2 {
            return;
        }
        let racks: SmallVec<[RackIndex; 2]> =
            reader.map_or(&[][..], |ip| self.nodes.at_ip(ip)).iter().map(|&node| self.nodes.node(node).rack).collect();
        let mut keyed: SmallVec<[(Rank, StorageIndex); 4]> = SmallVec::new();
        for &storage in storages.iter() {
            let node = self.nodes.node_of(storage);
            let distance = if reader.is_some_and(|ip| node.addresses.contains(&ip)) {
                Distance::SameHost
            } else if racks.contains(&node.rack) {
                Distance::SameRack
            } else {
                Distance::Elsewhere
            };
            let is_stale = node.silent_for(self.heard) >= self.config.stale_after;
            // Nodes that leave are spared, and have enough to send already.
            let is_leaving = node.duty == Duty::Decommission;
            keyed.push(((is_stale, is_leaving, distance, self.random.random()), storage));
        }
        keyed.sort_unstable();
        for (place, (_, storage)) in storages.iter_mut().zip(keyed) {
            *place = storage;
        }
    }
}
