//! Random histories against a naive model: DataNodes as maps of replicas, a namespace as a map of blocks.
//!
//! After every step the state's invariants are recounted; no order may delete the last good replica of a block, or a
//! replica of a block that was never allocated. In the end, with all nodes up, every block that still has a good replica
//! must get the number it asks for, and nothing else may be left on the nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dfs_common::ids::BlockId;
use dfs_proto::v1::order::Order;
use dfs_proto::v1::{ReplicaEventKind, ReplicaState};
use proptest::prelude::*;

use super::super::BlockEvent;
use super::{Cluster, Copy, block, finalized};

const NODES: usize = 5;
const RACKS: [&str; NODES] = ["/a", "/a", "/b", "/b", "/c"];

/// Ids from here on are never allocated.
const NEVER: u64 = 1_000_000;

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        replication: u16,
        nodes: u8,
    },
    /// The pipeline sends its events and the block is committed; which members fail, and who says it too late.
    Finish {
        block: usize,
        failing: u8,
        late: u8,
    },
    Append {
        block: usize,
        nodes: u8,
        is_late: bool,
    },
    Remove {
        block: usize,
    },
    SetReplication {
        block: usize,
        replication: u16,
    },
    Lose {
        node: usize,
        block: usize,
        is_told: bool,
    },
    Corrupt {
        node: usize,
        block: usize,
    },
    WrongLength {
        node: usize,
        block: usize,
    },
    Stray {
        node: usize,
        id: u64,
    },
    Kill {
        node: usize,
    },
    Revive {
        node: usize,
    },
    Report {
        node: usize,
    },
    /// From now on its events are late.
    SlowDown {
        node: usize,
    },
    CatchUp {
        node: usize,
    },
    Deactivate,
    Activate,
    Seconds {
        count: u8,
    },
    Silence,
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0..NODES;
    let any_block = 0usize..40;
    prop_oneof![
        4 => (1u16..5, any::<u8>()).prop_map(|(replication, nodes)| Step::Allocate { replication, nodes }),
        6 => (any_block.clone(), any::<u8>(), any::<u8>())
            .prop_map(|(block, failing, late)| Step::Finish { block, failing, late }),
        2 => (any_block.clone(), any::<u8>(), any::<bool>())
            .prop_map(|(block, nodes, is_late)| Step::Append { block, nodes, is_late }),
        1 => any_block.clone().prop_map(|block| Step::Remove { block }),
        1 => (any_block.clone(), 1u16..6)
            .prop_map(|(block, replication)| Step::SetReplication { block, replication }),
        1 => (node.clone(), any_block.clone(), any::<bool>())
            .prop_map(|(node, block, is_told)| Step::Lose { node, block, is_told }),
        1 => (node.clone(), any_block.clone()).prop_map(|(node, block)| Step::Corrupt { node, block }),
        1 => (node.clone(), any_block).prop_map(|(node, block)| Step::WrongLength { node, block }),
        1 => (node.clone(), 0u64..20).prop_map(|(node, id)| Step::Stray { node, id: NEVER + id }),
        1 => node.clone().prop_map(|node| Step::Kill { node }),
        1 => node.clone().prop_map(|node| Step::Revive { node }),
        1 => node.clone().prop_map(|node| Step::Report { node }),
        1 => node.clone().prop_map(|node| Step::SlowDown { node }),
        2 => node.prop_map(|node| Step::CatchUp { node }),
        1 => Just(Step::Deactivate),
        1 => Just(Step::Activate),
        4 => (1u8..5).prop_map(|count| Step::Seconds { count }),
        1 => Just(Step::Silence),
    ]
}

/// A block as the namespace knows it.
#[derive(Clone, Copy, Debug)]
struct Known {
    generation_stamp: u64,
    length: u64,
    replication: u16,
    pipeline: u8,
    is_open: bool,
}

struct World {
    cluster: Cluster,
    /// Blocks of which a replica vanished without a word: what the NameNode does in good faith may cost the last one.
    betrayed: BTreeSet<u64>,
    blocks: BTreeMap<u64, Known>,
    next_id: u64,
    next_stamp: u64,
}

fn members(mask: u8) -> Vec<usize> {
    (0..NODES).filter(|at| mask & (1 << at) != 0).collect()
}

impl World {
    fn new() -> Self {
        let cluster = Cluster::new(&RACKS);
        Self { cluster, betrayed: BTreeSet::new(), blocks: BTreeMap::new(), next_id: 1, next_stamp: 1 }
    }

    fn pick(&self, at: usize, is_open: bool) -> Option<(u64, Known)> {
        let fitting: Vec<_> = self.blocks.iter().filter(|(_, known)| known.is_open == is_open).collect();
        let &(&id, &known) = fitting.get(at % fitting.len().max(1))?;
        Some((id, known))
    }

    fn stamp(&mut self) -> u64 {
        self.next_stamp += 1;
        self.next_stamp
    }

    /// A pipeline of nodes that are up and can take this version of the block.
    fn pipeline(&self, id: u64, mask: u8) -> u8 {
        let fits = |at: &usize| {
            let node = &self.cluster.nodes[*at];
            node.is_up && node.copies.get(&id).is_none_or(|copy| copy.is_intact)
        };
        members(mask).into_iter().filter(fits).map(|at| 1 << at).sum()
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Allocate { replication, nodes } => self.allocate(replication, nodes),
            Step::Finish { block, failing, late } => self.finish(block, failing, late),
            Step::Append { block, nodes, is_late } => self.append(block, nodes, is_late),
            Step::Remove { block } => {
                if let Some((id, _)) = self.pick(block, false) {
                    self.blocks.remove(&id);
                    self.cluster.blocks.on_events([BlockEvent::Removed { id: BlockId(id) }]);
                }
            }
            Step::SetReplication { block, replication } => {
                if let Some((id, _)) = self.pick(block, false) {
                    self.blocks.get_mut(&id).unwrap().replication = replication;
                    self.cluster.blocks.on_events([BlockEvent::ReplicationChanged { id: BlockId(id), replication }]);
                }
            }
            Step::Lose { node, block, is_told } => self.lose(node, block, is_told),
            Step::Corrupt { node, block } => self.corrupt(node, block),
            Step::WrongLength { node, block } => self.wrong_length(node, block),
            Step::Stray { node, id } => {
                if self.cluster.nodes[node].is_up {
                    self.cluster.put(node, id, finalized(1, 1));
                }
            }
            Step::Kill { node } => self.cluster.nodes[node].is_up = false,
            Step::Revive { node } => self.revive(node),
            Step::Report { node } => {
                if self.cluster.nodes[node].is_up {
                    let page = self.cluster.page(node);
                    self.cluster.nodes[node].next_number += 1;
                    let _ = self.cluster.blocks.block_report_page(&page);
                }
            }
            Step::SlowDown { node } => self.cluster.nodes[node].is_slow = true,
            Step::CatchUp { node } => {
                self.cluster.nodes[node].is_slow = false;
                self.cluster.send_events(node);
            }
            Step::Deactivate => self.cluster.blocks.set_active(false),
            Step::Activate => self.cluster.blocks.set_active(true),
            Step::Seconds { count } => (0..count).for_each(|_| self.second()),
            Step::Silence => {
                for _ in 0..45 {
                    self.cluster.pass(Duration::from_secs(1));
                    self.cluster.blocks.tick();
                }
            }
        }
        self.cluster.check();
    }

    fn allocate(&mut self, replication: u16, nodes: u8) {
        let (id, generation_stamp) = (self.next_id, self.stamp());
        let pipeline = self.pipeline(id, nodes);
        self.next_id += 1;
        self.cluster.allocate(id, generation_stamp, replication, &members(pipeline));
        let known = Known { generation_stamp, length: 0, replication, pipeline, is_open: true };
        self.blocks.insert(id, known);
        for at in members(pipeline) {
            let open = Copy { state: ReplicaState::Rbw, ..finalized(generation_stamp, 0) };
            self.cluster.put(at, id, open);
        }
    }

    /// A member that fails keeps a short replica of its old version; with none left the block stays open.
    fn finish(&mut self, at: usize, failing: u8, late: u8) {
        let Some((id, known)) = self.pick(at, true) else { return };
        // After a restart a replica waits for recovery: no writer goes on with it.
        let is_written = |copy: &Copy| copy.state == ReplicaState::Rbw;
        let is_able = |at: &usize| {
            let node = &self.cluster.nodes[*at];
            node.is_up && node.copies.get(&id).is_some_and(is_written)
        };
        let able: Vec<usize> = members(known.pipeline).into_iter().filter(is_able).collect();
        let Some(&surely) = able.first() else { return };
        let done: Vec<usize> = able.into_iter().filter(|&at| at == surely || failing & (1 << at) == 0).collect();
        let mut generation_stamp = known.generation_stamp;
        let pipeline = done.iter().map(|at| 1 << at).sum();
        if pipeline != known.pipeline {
            // The pipeline was rebuilt without the failed ones.
            generation_stamp = self.stamp();
            self.reopen(id, generation_stamp, known.length, pipeline);
        }
        let length = known.length + 100;
        let (late, early): (Vec<usize>, Vec<usize>) = done.into_iter().partition(|at| late & (1 << at) != 0);
        for at in early {
            self.cluster.put(at, id, finalized(generation_stamp, length));
        }
        self.cluster.commit(id, generation_stamp, length);
        for at in late {
            self.cluster.put(at, id, finalized(generation_stamp, length));
        }
        let known = Known { generation_stamp, length, pipeline, is_open: false, ..known };
        self.blocks.insert(id, known);
    }

    fn reopen(&mut self, id: u64, generation_stamp: u64, length: u64, pipeline: u8) {
        let targets = members(pipeline).into_iter().map(|at| (format!("dn{at}"), format!("s{at}"))).collect();
        let block = block(id, generation_stamp, length);
        self.cluster.blocks.on_events([BlockEvent::Reopened { block, targets }]);
    }

    /// The writer was told who has the block; `is_late`: a while ago, since when deletions may have been decided.
    fn append(&mut self, at: usize, nodes: u8, is_late: bool) {
        let Some((id, known)) = self.pick(at, false) else { return };
        let holders = self.cluster.holders(id, known.generation_stamp, known.length);
        let located = self.cluster.located(id);
        let is_named = |at: &usize| is_late || located.contains(&self.cluster.nodes[*at].uuid);
        let named: u8 = holders.into_iter().filter(is_named).map(|at| 1 << at).sum();
        let pipeline = self.pipeline(id, nodes & named);
        if pipeline == 0 {
            return;
        }
        let generation_stamp = self.stamp();
        for at in members(pipeline) {
            let open = Copy { state: ReplicaState::Rbw, ..finalized(generation_stamp, known.length) };
            self.cluster.put(at, id, open);
        }
        self.reopen(id, generation_stamp, known.length, pipeline);
        self.blocks.insert(id, Known { generation_stamp, pipeline, is_open: true, ..known });
    }

    /// A replica vanishes, if it is not the last good one and nobody is writing it.
    fn lose(&mut self, node: usize, at: usize, is_told: bool) {
        let Some((id, known)) = self.pick(at, false) else { return };
        let holders = self.cluster.holders(id, known.generation_stamp, known.length);
        if holders.len() < 2 || !self.cluster.nodes[node].copies.contains_key(&id) || !self.cluster.nodes[node].is_up {
            return;
        }
        let copy = self.cluster.nodes[node].copies.remove(&id).unwrap();
        let gone = block(id, copy.generation_stamp, copy.length);
        // What is told too late is not told.
        if !is_told || self.cluster.nodes[node].is_slow {
            self.betrayed.insert(id);
        }
        self.cluster.event(node, ReplicaEventKind::ReplicaDeleted, gone, !is_told);
    }

    fn corrupt(&mut self, node: usize, at: usize) {
        let Some((id, known)) = self.pick(at, false) else { return };
        let holders = self.cluster.holders(id, known.generation_stamp, known.length);
        if holders.len() < 2 || !holders.contains(&node) || !self.cluster.nodes[node].is_up {
            return;
        }
        self.cluster.nodes[node].copies.get_mut(&id).unwrap().is_intact = false;
        self.cluster.find_bad(node, id);
    }

    fn wrong_length(&mut self, node: usize, at: usize) {
        let Some((id, known)) = self.pick(at, false) else { return };
        let holders = self.cluster.holders(id, known.generation_stamp, known.length);
        if holders.len() < 2 || !holders.contains(&node) || !self.cluster.nodes[node].is_up {
            return;
        }
        self.cluster.nodes[node].copies.get_mut(&id).unwrap().length -= 1;
        let page = self.cluster.page(node);
        self.cluster.nodes[node].next_number += 1;
        let _ = self.cluster.blocks.block_report_page(&page);
    }

    /// A node restarts: what was being written there waits for recovery.
    fn revive(&mut self, node: usize) {
        for copy in self.cluster.nodes[node].copies.values_mut() {
            if copy.state == ReplicaState::Rbw {
                copy.state = ReplicaState::Rwr;
            }
        }
        self.cluster.register(node);
    }

    fn second(&mut self) {
        self.cluster.pass(Duration::from_secs(1));
        for at in 0..NODES {
            if !self.cluster.nodes[at].is_up {
                continue;
            }
            for order in self.cluster.heartbeat(at) {
                self.check_order(at, &order);
                // Copies of a corrupt source come to nothing; deletions and reports are done.
                self.cluster.obey(at, order);
                self.cluster.check();
            }
        }
        self.cluster.blocks.tick();
    }

    fn check_order(&self, at: usize, order: &Order) {
        let Order::Invalidate(order) = order else { return };
        for doomed in &order.blocks {
            assert!(doomed.id < NEVER, "block {} was never allocated", doomed.id);
            let Some(known) = self.blocks.get(&doomed.id) else { continue };
            if known.is_open && doomed.generation_stamp == known.generation_stamp {
                panic!("block {} is being written", doomed.id);
            }
            let holders = self.cluster.holders(doomed.id, known.generation_stamp, known.length);
            let is_good = holders.contains(&at) && doomed.generation_stamp == known.generation_stamp;
            let is_last = is_good && holders.len() == 1;
            assert!(
                !is_last || self.betrayed.contains(&doomed.id),
                "the last good replica of block {} is to be deleted: {known:?}",
                doomed.id
            );
            let is_needed = is_good && holders.len() <= usize::from(known.replication);
            let all_is_told = self.cluster.nodes.iter().all(|node| node.unsent.is_empty());
            assert!(
                !is_needed || !all_is_told || self.betrayed.contains(&doomed.id),
                "a replica of block {} that is needed is to be deleted: {known:?} on {holders:?}",
                doomed.id
            );
        }
    }

    /// All nodes up, all time that is needed.
    fn settle(&mut self) {
        self.cluster.blocks.set_active(true);
        for at in 0..NODES {
            self.cluster.nodes[at].is_slow = false;
            self.revive(at);
        }
        for _ in 0..200 {
            self.second();
        }
    }

    fn check_settled(&self) {
        let cluster = &self.cluster;
        for (&id, known) in &self.blocks {
            if known.is_open {
                continue;
            }
            let holders = cluster.holders(id, known.generation_stamp, known.length);
            let located: Vec<usize> = cluster.located(id).iter().map(|uuid| cluster.node_at(uuid)).collect();
            if holders.is_empty() && self.betrayed.contains(&id) {
                continue;
            }
            assert!(!holders.is_empty(), "block {id} was lost: {known:?}");
            assert_eq!(located, holders, "block {id}: {known:?}");
            assert_eq!(holders.len(), usize::from(known.replication).min(NODES), "block {id}: {known:?}");
            let racks: BTreeSet<&str> = holders.iter().map(|&at| RACKS[at]).collect();
            assert!(racks.len() >= holders.len().min(2), "block {id} on {racks:?}");
        }
        for node in &cluster.nodes {
            for (id, copy) in &node.copies {
                let is_right = match self.blocks.get(id) {
                    None => *id >= NEVER,
                    Some(known) if known.is_open || self.betrayed.contains(id) => true,
                    Some(known) => *copy == finalized(known.generation_stamp, known.length),
                };
                assert!(is_right, "{} still has block {id}: {copy:?}", node.uuid);
            }
        }
        if self.betrayed.is_empty() {
            assert_eq!((cluster.blocks.under_replicated_count(), cluster.blocks.pending_count()), (0, 0));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_history_keeps_the_invariants_and_heals(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.settle();
        world.check_settled();
    }
}
