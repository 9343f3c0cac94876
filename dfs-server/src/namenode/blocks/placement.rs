//! Where replicas go: HDFS's default policy.
//!
//! The first replica goes to the writer's own node, the second to another rack, the third to the second's rack, the others
//! anywhere; no rack takes more than (replicas - 1) / racks + 2. Nodes that are dead, silent, full or overloaded are passed
//! over. When too few remain, the conditions are relaxed step by step: first load, then silence and the room that blocks
//! being written may come to need, last the limit per rack.
//!
//! Choosing allocates nothing in proportion to the cluster: nodes are tried from a random start in random strides, so that
//! a choice costs as many looks as nodes are refused on the way.

use std::time::Duration;

use dfs_common::error::{DfsError, ErrorKind};
use dfs_common::ids::BlockId;
use dfs_common::units::ByteCount;
use rand::Rng;
use smallvec::SmallVec;

use crate::namenode::datanodes::{Datanodes, NodeIndex, RackIndex, StorageIndex, StorageState};
use crate::namenode::host_rules::Duty;
use crate::namenode::listening::ListeningTime;

/// A node is overloaded above this multiple of the mean, in hundredths: HDFS's factor of two.
const OVERLOAD_FACTOR: u64 = 2;

/// Transfers that never make a node overloaded: in a small, idle cluster one stream is already far above the mean.
const OVERLOAD_FLOOR: u64 = 16;

/// A volume with less room takes no block, whatever its size: the block would not get far.
const ROOM_MIN: u64 = 1 << 20;

/// A volume takes its turn when it has this share of the room of the node's emptiest one.
const ROOMY_SHARE: u64 = 2;

/// What the replicas are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A new block: the third replica joins the second's rack.
    NewBlock,
    /// More copies of this block.
    Copy(BlockId),
    /// A copy of this block on a rack that has none.
    AnotherRack(BlockId),
}

impl Purpose {
    /// The block that is there already.
    fn block(self) -> Option<BlockId> {
        match self {
            Self::NewBlock => None,
            Self::Copy(id) | Self::AnotherRack(id) => Some(id),
        }
    }
}

/// One choice to be made.
pub(crate) struct Placement<'a> {
    pub nodes: &'a Datanodes,
    pub now: ListeningTime,
    pub stale_after: Duration,
    /// Bytes that the block may come to.
    pub block_size: u64,
    /// Replicas to place.
    pub wanted: usize,
    /// The nodes at the writer's address.
    pub writer: &'a [NodeIndex],
    /// Nodes that have a replica already.
    pub chosen: &'a [NodeIndex],
    /// Nodes that must not be used.
    pub excluded: &'a [NodeIndex],
    pub purpose: Purpose,
}

/// Conditions that are given up one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Strictness {
    All,
    AnyLoad,
    AnySilenceAndRoom,
    AnyRack,
}

const STEPS: [Strictness; 4] =
    [Strictness::All, Strictness::AnyLoad, Strictness::AnySilenceAndRoom, Strictness::AnyRack];

/// Why a node was passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Dead,
    Excluded,
    Leaving,
    InUse,
    Stale,
    Overloaded,
    NoVolume,
    NoRoom,
    RackFull,
}

/// Chosen storages, in the order of the pipeline.
pub(crate) type Chosen = SmallVec<[StorageIndex; 4]>;

impl Placement<'_> {
    /// Chooses up to `wanted` storages on distinct nodes.
    pub(crate) fn choose(&self, random: &mut impl Rng) -> Chosen {
        let mut chosen = Chosen::new();
        for strictness in STEPS {
            while chosen.len() < self.wanted {
                match self.choose_next(&chosen, strictness, random) {
                    Some(storage) => chosen.push(storage),
                    None => break,
                }
            }
        }
        self.put_in_pipeline_order(&mut chosen);
        chosen
    }

    fn choose_next(&self, so_far: &Chosen, strictness: Strictness, random: &mut impl Rng) -> Option<StorageIndex> {
        let topology = self.nodes.topology();
        let racks = self.racks(so_far);
        let elsewhere = |rack: RackIndex, random: &mut _| {
            self.choose_among(topology.live(), so_far, strictness, random, |other| other != rack)
        };
        let anywhere = |random: &mut _| self.choose_among(topology.live(), so_far, strictness, random, |_| true);
        if matches!(self.purpose, Purpose::AnotherRack(_)) {
            let fits = |other| !racks.contains(&other);
            return self.choose_among(topology.live(), so_far, strictness, random, fits);
        }
        if !racks.is_empty() && self.nodes.serving_rack_count() < 2 {
            return anywhere(random);
        }
        match racks.as_slice() {
            [] => self.choose_local(so_far, strictness, random).or_else(|| anywhere(random)),
            [first] => elsewhere(*first, random).or_else(|| anywhere(random)),
            [first, second] if first == second => elsewhere(*first, random).or_else(|| anywhere(random)),
            [_, second] if self.purpose == Purpose::NewBlock => {
                let near = topology.live_in(*second);
                self.choose_among(near, so_far, strictness, random, |_| true).or_else(|| anywhere(random))
            }
            _ => anywhere(random),
        }
    }

    /// The writer's own node; where several share its address, the least loaded, and at random among equals.
    fn choose_local(&self, so_far: &Chosen, strictness: Strictness, random: &mut impl Rng) -> Option<StorageIndex> {
        let able = self.writer.iter().filter_map(|&node| {
            let storage = self.accept(node, so_far, strictness).ok()?;
            Some((self.nodes.node(node).active_transfers, random.random::<u32>(), storage))
        });
        able.min().map(|(_, _, storage)| storage)
    }

    /// Tries nodes from a random start in random strides until one will do.
    fn choose_among(
        &self,
        nodes: &[NodeIndex],
        so_far: &Chosen,
        strictness: Strictness,
        random: &mut impl Rng,
        fits_rack: impl Fn(RackIndex) -> bool,
    ) -> Option<StorageIndex> {
        let len = nodes.len();
        if len == 0 {
            return None;
        }
        let mut at = random.random_range(0..len);
        let stride = coprime_stride(len, random);
        for _ in 0..len {
            let node = nodes[at];
            if fits_rack(self.nodes.node(node).rack)
                && let Ok(storage) = self.accept(node, so_far, strictness)
            {
                return Some(storage);
            }
            at = (at + stride) % len;
        }
        None
    }

    /// Racks of the replicas that are there and of those chosen, in order. Those that leave with their nodes do not count.
    fn racks(&self, so_far: &Chosen) -> SmallVec<[RackIndex; 4]> {
        let staying = self.chosen.iter().filter(|&&node| self.nodes.node(node).duty != Duty::Decommission);
        let there = staying.map(|&node| self.nodes.node(node).rack);
        there.chain(so_far.iter().map(|&storage| self.nodes.rack_of(storage))).collect()
    }

    /// Whether a node will do, and which of its volumes.
    fn accept(&self, index: NodeIndex, so_far: &Chosen, strictness: Strictness) -> Result<StorageIndex, Refusal> {
        let node = self.nodes.node(index);
        if !node.is_live {
            return Err(Refusal::Dead);
        }
        if self.excluded.contains(&index) {
            return Err(Refusal::Excluded);
        }
        if node.duty != Duty::Serve {
            return Err(Refusal::Leaving);
        }
        if self.chosen.contains(&index) || so_far.iter().any(|&storage| self.nodes.storage(storage).node == index) {
            return Err(Refusal::InUse);
        }
        if let Some(id) = self.purpose.block()
            && node.storages.iter().any(|&storage| self.nodes.storage(storage).doomed.contains(id.0))
        {
            return Err(Refusal::InUse);
        }
        if strictness < Strictness::AnySilenceAndRoom && node.silent_for(self.now) >= self.stale_after {
            return Err(Refusal::Stale);
        }
        if strictness < Strictness::AnyLoad && self.is_overloaded(node.active_transfers) {
            return Err(Refusal::Overloaded);
        }
        if strictness < Strictness::AnyRack && self.is_rack_full(node.rack, so_far) {
            return Err(Refusal::RackFull);
        }
        self.choose_volume(index, strictness)
    }

    fn is_overloaded(&self, transfers: u32) -> bool {
        let transfers = u64::from(transfers);
        transfers > OVERLOAD_FLOOR && transfers * 100 > self.nodes.mean_transfers_percent() * OVERLOAD_FACTOR
    }

    fn is_rack_full(&self, rack: RackIndex, so_far: &Chosen) -> bool {
        let racks = self.nodes.topology().live_rack_count();
        let total = self.chosen.len() + self.wanted;
        if racks < 2 || total < 2 {
            return false;
        }
        let limit = (total - 1) / racks + 2;
        self.racks(so_far).iter().filter(|&&other| other == rack).count() >= limit
    }

    /// The volume whose turn it is, among those that have room; much fuller ones than the emptiest are left out.
    fn choose_volume(&self, index: NodeIndex, strictness: Strictness) -> Result<StorageIndex, Refusal> {
        let node = self.nodes.node(index);
        let room = |storage: StorageIndex| {
            let volume = self.nodes.storage(storage);
            if volume.state != StorageState::Normal {
                return None;
            }
            Some(if strictness < Strictness::AnySilenceAndRoom {
                volume.unscheduled(self.block_size)
            } else {
                volume.remaining
            })
        };
        let needed = if strictness < Strictness::AnySilenceAndRoom {
            self.block_size.max(ROOM_MIN)
        } else {
            // The writer finds out how much fits: better the last bytes of the cluster than an error.
            self.block_size.clamp(1, ROOM_MIN)
        };
        let most = node.storages.iter().filter_map(|&storage| room(storage)).max().ok_or(Refusal::NoVolume)?;
        if most < needed {
            return Err(Refusal::NoRoom);
        }
        let threshold = needed.max(most / ROOMY_SHARE);
        let count = node.storages.len();
        let turn = (0..count).map(|step| node.storages[(node.next_volume + step) % count]);
        turn.into_iter().find(|&storage| room(storage).is_some_and(|room| room >= threshold)).ok_or(Refusal::NoRoom)
    }

    /// Puts storages of one rack next to each other behind the first, so that the pipeline crosses racks rarely.
    fn put_in_pipeline_order(&self, chosen: &mut Chosen) {
        for at in 1..chosen.len() {
            let rack = self.nodes.rack_of(chosen[at - 1]);
            let same = (at..chosen.len()).find(|&other| self.nodes.rack_of(chosen[other]) == rack);
            if let Some(same) = same {
                chosen[at..=same].rotate_right(1);
            }
        }
    }

    /// The error when too few could be chosen: how many nodes were refused, and why.
    pub(crate) fn explain(&self, found: usize) -> DfsError {
        let mut reasons: Vec<(Refusal, usize)> = Vec::new();
        let mut registered = 0usize;
        for (index, _) in self.nodes.registered() {
            registered += 1;
            if let Err(refusal) = self.accept(index, &Chosen::new(), Strictness::AnyRack) {
                match reasons.iter_mut().find(|(other, _)| *other == refusal) {
                    Some((_, count)) => *count += 1,
                    None => reasons.push((refusal, 1)),
                }
            }
        }
        let mut message =
            format!("only {found} of {registered} DataNodes can take a block of {}", ByteCount(self.block_size));
        for (at, (refusal, count)) in reasons.iter().enumerate() {
            message.push_str(if at == 0 { ": " } else { ", " });
            message.push_str(&format!("{count} {}", refusal.words()));
        }
        // Without a live node that has a volume it is not space that lacks: nodes that register in a moment have it.
        let is_away = |refusal| matches!(refusal, Refusal::Dead | Refusal::NoVolume);
        let are_away = found == 0 && reasons.iter().all(|&(refusal, _)| is_away(refusal));
        let kind = if are_away { ErrorKind::Unavailable } else { ErrorKind::NoSpace };
        DfsError::new(kind, message)
    }
}

impl Refusal {
    fn words(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Excluded => "excluded by the writer",
            Self::Leaving => "being decommissioned or in maintenance",
            Self::InUse => "in use for it already",
            Self::Stale => "silent",
            Self::Overloaded => "overloaded",
            Self::NoVolume => "without a working volume",
            Self::NoRoom => "without room",
            Self::RackFull => "on a rack that has enough",
        }
    }
}

/// A stride that visits all of `len` places before it repeats one.
fn coprime_stride(len: usize, random: &mut impl Rng) -> usize {
    let mut stride = random.random_range(1..=len);
    while gcd(stride, len) != 1 {
        stride = stride % len + 1;
    }
    stride
}

fn gcd(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
