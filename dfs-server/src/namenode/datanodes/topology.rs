//! Racks and the live nodes in them: what placement draws from.

use std::collections::BTreeMap;

use super::index::{NodeIndex, RackIndex};

/// Where nodes stand that name no rack.
const DEFAULT_RACK: &str = "/default-rack";

/// Most racks: as many as DataNodes. Beyond it nodes stand on the first one, the default rack of placeholders.
const RACKS_MAX: usize = 100_000;

struct Rack {
    name: String,
    live: Vec<NodeIndex>,
}

/// Racks by name, and the live nodes, all and by rack.
#[derive(Default)]
pub(crate) struct Topology {
    racks: Vec<Rack>,
    by_name: BTreeMap<String, RackIndex>,
    live: Vec<NodeIndex>,
    /// Racks that have a live node.
    live_racks: usize,
}

/// The name of a rack as it is kept: absolute, without a slash at the end.
pub(super) fn normalized(name: &str) -> &str {
    name.trim().trim_end_matches('/')
}

impl Topology {
    /// The rack of this name, made when new; the default rack for no name.
    pub(super) fn rack(&mut self, name: &str) -> RackIndex {
        let name = if name.is_empty() { DEFAULT_RACK } else { name };
        if let Some(&rack) = self.by_name.get(name) {
            return rack;
        }
        if self.racks.len() >= RACKS_MAX {
            return RackIndex(0);
        }
        let rack = RackIndex(u32::try_from(self.racks.len()).expect("the bound is below 2^32"));
        self.racks.push(Rack { name: name.to_owned(), live: Vec::new() });
        self.by_name.insert(name.to_owned(), rack);
        rack
    }

    pub(crate) fn name(&self, rack: RackIndex) -> &str {
        &self.racks[rack.0 as usize].name
    }

    /// The live nodes, in no order.
    pub(crate) fn live(&self) -> &[NodeIndex] {
        &self.live
    }

    /// The live nodes of a rack, in no order.
    pub(crate) fn live_in(&self, rack: RackIndex) -> &[NodeIndex] {
        &self.racks[rack.0 as usize].live
    }

    /// Racks that have a live node.
    pub(crate) fn live_rack_count(&self) -> usize {
        self.live_racks
    }

    pub(super) fn add_live(&mut self, node: NodeIndex, rack: RackIndex) {
        self.live.push(node);
        let rack = &mut self.racks[rack.0 as usize];
        self.live_racks += usize::from(rack.live.is_empty());
        rack.live.push(node);
    }

    pub(super) fn remove_live(&mut self, node: NodeIndex, rack: RackIndex) {
        self.live.retain(|other| *other != node);
        let rack = &mut self.racks[rack.0 as usize];
        rack.live.retain(|other| *other != node);
        self.live_racks -= usize::from(rack.live.is_empty());
    }
}
