//! The DataNodes that have registered, their volumes, and where they stand in the network.
//!
//! A DataNode is known by its uuid and numbered here by a [`NodeIndex`]; each of its volumes is a storage with a
//! [`StorageIndex`] of its own, the four bytes by which the block map names a replica's place. Indexes are never used
//! again within one run of the NameNode. A node that was named by an op (the targets of an open block) before it
//! registered is entered as a placeholder that is not alive.
//!
//! A node is *live* from its registration until it has been silent for the dead interval; silent for the stale interval
//! it is used last. All of this is soft state, kept under the block manager's lock.

mod index;
mod node;
mod ordered;
pub(crate) mod report_sequence;
mod space;
mod storage;
mod topology;
mod verifications;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_proto::v1;
use smallvec::SmallVec;

use self::node::NewRegistration;
use super::host_rules::Duty;
use super::listening::ListeningTime;

pub(crate) use index::RackIndex;
pub use index::{NodeIndex, StorageIndex};
pub(crate) use node::{Datanode, RegistrationId};
pub(crate) use space::Space;
pub(crate) use storage::{Discarded, Invalidation, Storage, StorageState};
pub(crate) use topology::Topology;

/// Most DataNodes one NameNode keeps: ten times the largest HDFS cluster known. Beyond it registrations are refused.
const DATANODES_MAX: usize = 100_000;

/// Most volumes of all DataNodes together.
const STORAGES_MAX: usize = 4_000_000;

/// Nodes, and volumes, that ops named and that have not registered. They take nothing away from those that do.
const PLACEHOLDERS_MAX: usize = 10_000;
const PLACEHOLDER_STORAGES_MAX: usize = 100_000;

/// Volumes of one DataNode: ten times what a server has slots for.
const VOLUMES_MAX: usize = 1_000;

/// Bytes of a uuid, host or rack: the longest name of a host.
const NAME_MAX: usize = 255;

/// Bytes of a directory's name: the longest path.
const PATH_LENGTH_MAX: usize = 4_096;

/// Nodes that share an address.
type NodeList = SmallVec<[NodeIndex; 2]>;

/// All DataNodes.
#[derive(Default)]
pub(crate) struct Datanodes {
    nodes: Vec<Datanode>,
    storages: Vec<Storage>,
    by_uuid: BTreeMap<String, NodeIndex>,
    by_ip: BTreeMap<IpAddr, NodeList>,
    topology: Topology,
    /// Transfers that run on the live nodes, for their average.
    transfers_of_live: u64,
    /// Racks on which a live node serves; counted up to two, nobody asks for more.
    serving_racks: usize,
    /// Nodes that have registered.
    registered: usize,
    /// Volumes of nodes that have not.
    placeholder_storages: usize,
    /// Of the volumes that can be used.
    space: Space,
}

/// How a registration changed what was known.
pub(crate) struct Registered {
    pub node: NodeIndex,
    /// Volumes that the node had and does not name any more, or names as failed.
    pub gone: Vec<StorageIndex>,
    /// Address of a live node that had this uuid.
    pub displaced: Option<String>,
    /// The cluster has racks now and had none before.
    pub became_multi_rack: bool,
}

/// How a report of a node's volumes changed what was known.
#[derive(Default)]
pub(crate) struct StorageChanges {
    /// Volumes that cannot be used any more and could before.
    pub gone: Vec<StorageIndex>,
    /// A volume is there that was not: what it holds is not known.
    pub has_new: bool,
}

impl Datanodes {
    pub(crate) fn node(&self, index: NodeIndex) -> &Datanode {
        &self.nodes[index.0 as usize]
    }

    pub(crate) fn node_mut(&mut self, index: NodeIndex) -> &mut Datanode {
        &mut self.nodes[index.0 as usize]
    }

    pub(crate) fn storage(&self, index: StorageIndex) -> &Storage {
        &self.storages[index.0 as usize]
    }

    pub(crate) fn storage_mut(&mut self, index: StorageIndex) -> &mut Storage {
        &mut self.storages[index.0 as usize]
    }

    pub(crate) fn node_of(&self, index: StorageIndex) -> &Datanode {
        self.node(self.storage(index).node)
    }

    pub(crate) fn rack_of(&self, index: StorageIndex) -> RackIndex {
        self.node_of(index).rack
    }

    /// Takes the volumes of a node into the sum that `df` asks for, on every mount and as often as it likes.
    fn count_space(&mut self, node: NodeIndex) {
        let of_node = self.space_of(node);
        self.space.add(of_node);
    }

    /// Takes the volumes of a node out of it, before they change.
    fn uncount_space(&mut self, node: NodeIndex) {
        let of_node = self.space_of(node);
        self.space.subtract(of_node);
    }

    pub(crate) fn space_of(&self, node: NodeIndex) -> Space {
        let usable = self.node(node).storages.iter().filter(|&&index| self.is_usable(index));
        Space::of(usable.map(|&index| self.storage(index)))
    }

    pub(crate) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Nodes that have registered at some time, in the order of their first appearance.
    pub(crate) fn registered(&self) -> impl Iterator<Item = (NodeIndex, &Datanode)> {
        (0u32..).map(NodeIndex).zip(&self.nodes).filter(|(_, node)| node.registration.is_some())
    }

    #[cfg(test)]
    pub(crate) fn all_storages(&self) -> impl Iterator<Item = (StorageIndex, &Storage)> {
        (0u32..).map(StorageIndex).zip(&self.storages)
    }

    pub(crate) fn by_uuid(&self, uuid: &str) -> Option<NodeIndex> {
        self.by_uuid.get(uuid).copied()
    }

    /// Nodes that have registered at some time.
    pub(crate) fn registered_count(&self) -> usize {
        self.registered
    }

    /// Sums over the volumes that can be used.
    pub(crate) fn space(&self) -> Space {
        self.space
    }

    /// Racks on which a live node serves, two at most: what good placement can be asked for.
    pub(crate) fn serving_rack_count(&self) -> usize {
        self.serving_racks
    }

    /// To be called when nodes come, go, move or change their duty.
    fn count_serving_racks(&mut self) {
        let mut racks = self.topology.live().iter().map(|&index| self.node(index));
        let mut racks = racks.by_ref().filter(|node| node.duty == Duty::Serve).map(|node| node.rack);
        let first = racks.next();
        let is_other = |rack| Some(rack) != first;
        self.serving_racks = usize::from(first.is_some()) + usize::from(racks.any(is_other));
    }

    /// Moves a node to the rack of this name; false when it stands there.
    pub(crate) fn set_rack(&mut self, index: NodeIndex, name: &str) -> bool {
        let rack = self.topology.rack(topology::normalized(name));
        let rack_name = self.topology.name(rack).to_owned();
        let node = &mut self.nodes[index.0 as usize];
        let before = std::mem::replace(&mut node.rack, rack);
        node.id.rack = rack_name;
        if node.is_live && before != rack {
            self.topology.remove_live(index, before);
            self.topology.add_live(index, rack);
            self.count_serving_racks();
        }
        before != rack
    }

    /// Changes what the operator wants of a node.
    pub(crate) fn set_duty(&mut self, index: NodeIndex, duty: Duty) {
        let node = self.node_mut(index);
        node.duty = duty;
        node.is_drained = false;
        node.blocks_to_copy = 0;
        self.count_serving_racks();
    }

    /// The nodes at an address.
    pub(crate) fn at_ip(&self, ip: IpAddr) -> &[NodeIndex] {
        self.by_ip.get(&ip).map_or(&[], |nodes| nodes.as_slice())
    }

    /// The volume of a node by its uuid.
    pub(crate) fn find_storage(&self, node: NodeIndex, storage_uuid: &str) -> Option<StorageIndex> {
        let node = self.node(node);
        self.rank_of(node, storage_uuid).ok().map(|at| node.by_uuid[at])
    }

    /// Where a volume of this uuid stands among those of its node, or belongs.
    fn rank_of(&self, node: &Datanode, storage_uuid: &str) -> Result<usize, usize> {
        node.by_uuid.binary_search_by(|&index| self.storage(index).uuid.as_str().cmp(storage_uuid))
    }

    /// Whether replicas on this volume can be used: its node is live, the volume is not failed.
    pub(crate) fn is_usable(&self, index: StorageIndex) -> bool {
        let storage = self.storage(index);
        storage.state == StorageState::Normal && self.node(storage.node).is_live
    }

    /// Whether the node has a volume that works.
    pub(crate) fn has_working_volume(&self, index: NodeIndex) -> bool {
        self.node(index).storages.iter().any(|&storage| self.storage(storage).state == StorageState::Normal)
    }

    /// Mean of the transfers that run on the live nodes, times a hundred.
    pub(crate) fn mean_transfers_percent(&self) -> u64 {
        let live = self.topology.live().len() as u64;
        (self.transfers_of_live * 100).checked_div(live).unwrap_or(0)
    }

    /// The node and volume with these uuids, which an op names. What has not registered is entered as a placeholder. None at
    /// the bounds, and for a volume that its node did not name when it registered.
    pub(crate) fn intern(
        &mut self,
        node_uuid: &str,
        storage_uuid: &str,
        now: (Instant, ListeningTime),
    ) -> Option<StorageIndex> {
        let node = match self.by_uuid(node_uuid) {
            Some(node) => node,
            None if self.nodes.len() - self.registered >= PLACEHOLDERS_MAX => return None,
            None => self.add_node(node_uuid, now),
        };
        if let Some(storage) = self.find_storage(node, storage_uuid) {
            return Some(storage);
        }
        if self.node(node).registration.is_some() || self.placeholder_storages >= PLACEHOLDER_STORAGES_MAX {
            return None;
        }
        self.placeholder_storages += 1;
        self.add_storage(node, storage_uuid).ok()
    }

    fn add_node(&mut self, uuid: &str, (now, heard): (Instant, ListeningTime)) -> NodeIndex {
        let index = NodeIndex(u32::try_from(self.nodes.len()).expect("the bounds are below 2^32"));
        let rack = self.topology.rack("");
        self.nodes.push(Datanode::placeholder(uuid, rack, now, heard));
        self.by_uuid.insert(uuid.to_owned(), index);
        index
    }

    /// Enters a volume, as one that cannot be used.
    fn add_storage(&mut self, node: NodeIndex, uuid: &str) -> Result<StorageIndex> {
        let bound = |what: String| Err(DfsError::new(ErrorKind::Unavailable, what));
        if self.node(node).storages.len() >= VOLUMES_MAX {
            let uuid = &self.node(node).id.uuid;
            return bound(format!("DataNode {uuid} has named {VOLUMES_MAX} volumes already; restart the NameNode"));
        }
        if self.storages.len() >= STORAGES_MAX + PLACEHOLDER_STORAGES_MAX {
            return bound(format!("there are {STORAGES_MAX} volumes already"));
        }
        let index = StorageIndex(u32::try_from(self.storages.len()).expect("the bounds are below 2^32"));
        let (Ok(rank) | Err(rank)) = self.rank_of(self.node(node), uuid);
        self.storages.push(Storage::new(uuid.to_owned(), node, StorageState::Failed));
        let node = self.node_mut(node);
        node.storages.push(index);
        node.by_uuid.insert(rank, index);
        Ok(index)
    }

    /// Enters a registration. The one before it under the same uuid is gone with it.
    ///
    /// # Errors
    /// `InvalidArgument` for an identity that cannot be used, `Unavailable` at the bounds.
    pub(crate) fn register(
        &mut self,
        request: &v1::RegisterDatanodeRequest,
        peer: Option<IpAddr>,
        registration: RegistrationId,
        now: Instant,
        heard: ListeningTime,
    ) -> Result<Registered> {
        let mut id = request.id.clone().unwrap_or_default();
        if id.uuid.is_empty() {
            return Err(DfsError::new(ErrorKind::InvalidArgument, "a DataNode registers with its uuid"));
        }
        let software_version = request.namespace.as_ref().map_or(String::new(), |info| info.software_version.clone());
        for text in [&id.uuid, &id.host, &id.rack, &software_version] {
            check_text(text, NAME_MAX)?;
        }
        check_volumes(&request.storages)?;
        if id.host.is_empty() {
            id.host = peer.map(|ip| ip.to_string()).ok_or_else(|| {
                DfsError::new(ErrorKind::InvalidArgument, "set dfs.datanode.hostname: the peer's address is unknown")
            })?;
        }
        let known = self.by_uuid(&id.uuid);
        let is_new = known.is_none_or(|index| self.node(index).registration.is_none());
        if is_new && self.registered >= DATANODES_MAX {
            return Err(DfsError::new(ErrorKind::Unavailable, format!("there are {DATANODES_MAX} DataNodes already")));
        }
        let index = known.unwrap_or_else(|| self.add_node(&id.uuid, (now, heard)));
        if is_new {
            self.registered += 1;
            self.placeholder_storages -= self.node(index).storages.len();
        }
        let racks_before = self.topology.live_rack_count();
        let old = self.node(index);
        let moved = (&old.id.host, old.id.data_port) != (&id.host, id.data_port);
        let displaced = (old.is_live && moved).then(|| old.address());
        self.retire(index);
        self.forget_addresses(index);
        let rack = self.topology.rack(topology::normalized(&id.rack));
        // Where there is no room for more racks, the node stands on the default one.
        id.rack = self.topology.name(rack).to_owned();
        let addresses = addresses_of(&id, peer);
        for &ip in &addresses {
            self.by_ip.entry(ip).or_default().push(index);
        }
        let new = NewRegistration { id, rack, addresses, registration, software_version };
        self.node_mut(index).on_registered(new, now, heard);
        self.topology.add_live(index, rack);
        self.count_serving_racks();
        // Its volumes count again: as they were, until the next line says how they are.
        self.count_space(index);
        let gone = self.take_storage_reports(index, &request.storages)?.gone;
        self.forget_places(index, &request.storages);
        let became_multi_rack = racks_before < 2 && self.topology.live_rack_count() >= 2;
        Ok(Registered { node: index, gone, displaced, became_multi_rack })
    }

    /// Takes in the state of a node's volumes: all of them, in every report.
    ///
    /// # Errors
    /// `Unavailable` at the bound of volumes.
    pub(crate) fn take_storage_reports(
        &mut self,
        node: NodeIndex,
        reports: &[v1::StorageReport],
    ) -> Result<StorageChanges> {
        check_volumes(reports)?;
        self.uncount_space(node);
        let changes = self.apply_storage_reports(node, reports);
        self.count_space(node);
        changes
    }

    fn apply_storage_reports(&mut self, node: NodeIndex, reports: &[v1::StorageReport]) -> Result<StorageChanges> {
        let mut named: SmallVec<[StorageIndex; 8]> = SmallVec::new();
        let mut changes = StorageChanges::default();
        for report in reports {
            let index = match self.find_storage(node, &report.storage_uuid) {
                Some(index) => index,
                None => self.add_storage(node, &report.storage_uuid)?,
            };
            named.push(index);
            match self.storage_mut(index).on_report(report) {
                (StorageState::Normal, StorageState::Failed) => changes.gone.push(index),
                (StorageState::Failed, StorageState::Normal) => changes.has_new = true,
                _ => {}
            }
        }
        named.sort_unstable();
        for index in self.node(node).storages.clone() {
            let storage = self.storage_mut(index);
            if named.binary_search(&index).is_err() && storage.state == StorageState::Normal {
                storage.state = StorageState::Failed;
                changes.gone.push(index);
            }
        }
        Ok(changes)
    }

    /// Volumes that a registration does not name are nowhere any more: somebody has replaced them, or taken them out of the node's
    /// configuration. A device that failed is named.
    fn forget_places(&mut self, node: NodeIndex, reports: &[v1::StorageReport]) {
        let named: BTreeSet<&str> = reports.iter().map(|report| report.storage_uuid.as_str()).collect();
        for index in self.node(node).storages.clone() {
            let storage = self.storage_mut(index);
            if !named.contains(storage.uuid.as_str()) {
                storage.path.clear();
            }
        }
    }

    /// A volume has been chosen for a block: the next one of its node has its turn.
    pub(crate) fn end_turn(&mut self, storage: StorageIndex) {
        let node = self.storage(storage).node;
        let node = self.node_mut(node);
        if let Some(at) = node.storages.iter().position(|&other| other == storage) {
            node.next_volume = at + 1;
        }
    }

    pub(crate) fn on_heartbeat(&mut self, index: NodeIndex, active_transfers: u32, heard: ListeningTime) {
        let node = self.node_mut(index);
        let before = std::mem::replace(&mut node.active_transfers, active_transfers);
        node.last_heartbeat = heard;
        if node.is_live {
            self.transfers_of_live = self.transfers_of_live - u64::from(before) + u64::from(active_transfers);
        }
    }

    /// Nodes silent for longer than `dead_after`.
    pub(crate) fn silent_nodes(&self, heard: ListeningTime, dead_after: Duration) -> Vec<NodeIndex> {
        let live = self.topology.live().iter().copied();
        live.filter(|&index| self.node(index).silent_for(heard) > dead_after).collect()
    }

    /// Takes a node from the live ones; its volumes stay, with what they hold.
    pub(crate) fn retire(&mut self, index: NodeIndex) {
        if !self.node(index).is_live {
            return;
        }
        self.uncount_space(index);
        let node = self.node_mut(index);
        node.is_live = false;
        let (rack, transfers) = (node.rack, std::mem::take(&mut node.active_transfers));
        self.transfers_of_live -= u64::from(transfers);
        self.topology.remove_live(index, rack);
        self.count_serving_racks();
    }

    fn forget_addresses(&mut self, index: NodeIndex) {
        for ip in std::mem::take(&mut self.node_mut(index).addresses) {
            if let Some(nodes) = self.by_ip.get_mut(&ip) {
                nodes.retain(|other| *other != index);
                if nodes.is_empty() {
                    self.by_ip.remove(&ip);
                }
            }
        }
    }
}

fn check_text(text: &str, max: usize) -> Result<()> {
    if text.len() <= max {
        return Ok(());
    }
    Err(DfsError::new(ErrorKind::InvalidArgument, format!("a name of {} bytes, above {max}", text.len())))
}

fn check_volumes(reports: &[v1::StorageReport]) -> Result<()> {
    if reports.len() > VOLUMES_MAX {
        let message = format!("a DataNode may have {VOLUMES_MAX} volumes, not {}", reports.len());
        return Err(DfsError::new(ErrorKind::InvalidArgument, message));
    }
    reports.iter().try_for_each(|report| {
        check_text(&report.storage_uuid, NAME_MAX)?;
        check_text(&report.path, PATH_LENGTH_MAX)
    })
}

fn addresses_of(id: &v1::DatanodeId, peer: Option<IpAddr>) -> SmallVec<[IpAddr; 2]> {
    let mut addresses: SmallVec<[IpAddr; 2]> = peer.map(|ip| ip.to_canonical()).into_iter().collect();
    if let Ok(ip) = id.host.parse::<IpAddr>()
        && !addresses.contains(&ip.to_canonical())
    {
        addresses.push(ip.to_canonical());
    }
    addresses
}
