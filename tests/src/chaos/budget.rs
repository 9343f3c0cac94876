//! Which faults may stand at once: as many as three replicas must survive, and no more.
//!
//! ```text
//! out of order at once   one DataNode, the NameNode, any number of mounts
//! damaged                one replica of a block that has three whole ones, of which at most one is out of reach: so one whole
//!                        replica can be read, and two are left when everything is healed
//! ```
//!
//! What is damaged is not healed: nobody knows of it until it is read or scanned. So no block is damaged twice.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::fault::Damage;
use crate::replica::Replica;

/// What is done to a DataNode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeFault {
    Kill,
    Pause,
    Cut,
    ShutDownDevice,
    FillDevice,
    FreezeDevice,
}

/// What is done to the NameNode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameFault {
    Kill,
    Pause,
    Cut,
    FreezeDevice,
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    DataNode(usize, NodeFault),
    NameNode(NameFault),
    Mount(usize),
    Replica(Damage),
}

impl Fault {
    /// The DataNode that it takes away.
    pub(super) fn datanode(self) -> Option<usize> {
        if let Self::DataNode(node, _) = self { Some(node) } else { None }
    }
}

/// Replicas damaged together with other faults.
const DAMAGES_MAX: usize = 3;

/// Faults that may stand together, two at least, in the order in which they come.
pub(super) fn choose_faults(rng: &mut impl Rng, datanodes: usize, mounts: usize) -> Vec<Fault> {
    loop {
        let mut faults = Vec::new();
        if rng.random_bool(0.7) {
            faults.push(Fault::DataNode(rng.random_range(0..datanodes), choose_node_fault(rng)));
        }
        if rng.random_bool(0.5) {
            let all = [NameFault::Kill, NameFault::Kill, NameFault::Pause, NameFault::Cut, NameFault::FreezeDevice];
            faults.push(Fault::NameNode(*all.choose(rng).expect("there are some")));
        }
        faults.extend((0..mounts).filter(|_| rng.random_bool(0.3)).map(Fault::Mount));
        let damages = rng.random_range(0..=DAMAGES_MAX);
        faults.extend((0..damages).map(|_| Fault::Replica(*Damage::ALL.choose(rng).expect("there are some"))));
        if faults.len() >= 2 {
            faults.shuffle(rng);
            return faults;
        }
    }
}

fn choose_node_fault(rng: &mut impl Rng) -> NodeFault {
    let all = [
        NodeFault::Kill,
        NodeFault::Kill,
        NodeFault::Pause,
        NodeFault::Cut,
        NodeFault::ShutDownDevice,
        NodeFault::FillDevice,
        NodeFault::FreezeDevice,
    ];
    *all.choose(rng).expect("there are some")
}

/// A replica that may be damaged, on a node that is not out of order; see the module's header. `damaged` are ids of blocks.
pub(super) fn choose_victim<'a>(
    rng: &mut impl Rng,
    replicas: &'a [Replica],
    out: Option<usize>,
    damaged: &BTreeSet<u64>,
) -> Option<&'a Replica> {
    let mut blocks: BTreeMap<u64, Vec<&Replica>> = BTreeMap::new();
    for replica in replicas {
        blocks.entry(replica.block.id).or_default().push(replica);
    }
    let is_fit = |replicas: &Vec<&Replica>| {
        let whole = replicas.iter().filter(|one| one.block == replicas[0].block && one.length == replicas[0].length);
        let nodes: BTreeSet<usize> = whole.map(|replica| replica.datanode).collect();
        nodes.len() >= 3 && nodes.len() == replicas.len() && replicas[0].length > 0
    };
    let fit = blocks.into_iter().filter(|(id, replicas)| !damaged.contains(id) && is_fit(replicas));
    let victims: Vec<&Replica> =
        fit.flat_map(|(_, replicas)| replicas).filter(|replica| Some(replica.datanode) != out).collect();
    victims.choose(rng).copied()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::replica::BlockName;

    #[test]
    fn choose_faults_never_spends_more_than_there_is() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut together = 0;
        for _ in 0..10_000 {
            let faults = choose_faults(&mut rng, 4, 2);
            let count = |is: fn(&Fault) -> bool| faults.iter().filter(|fault| is(fault)).count();
            let datanodes = count(|fault| matches!(fault, Fault::DataNode(..)));
            let namenodes = count(|fault| matches!(fault, Fault::NameNode(_)));
            let mounts: Vec<usize> = faults
                .iter()
                .filter_map(|fault| if let Fault::Mount(mount) = fault { Some(*mount) } else { None })
                .collect();
            assert!(datanodes <= 1 && namenodes <= 1 && faults.len() >= 2, "{faults:?}");
            assert!(mounts.iter().collect::<BTreeSet<_>>().len() == mounts.len(), "{faults:?}");
            let damages = count(|fault| matches!(fault, Fault::Replica(_)));
            together += usize::from(datanodes == 1 && namenodes == 1 && !mounts.is_empty() && damages > 0);
        }
        assert!(together > 500, "everything at once is no rarity: {together}");
    }

    fn replica(datanode: usize, id: u64, stamp: u64, length: u64) -> Replica {
        Replica { datanode, block: BlockName { id, stamp }, data: PathBuf::new(), meta: PathBuf::new(), length }
    }

    #[test]
    fn choose_victim_leaves_a_whole_replica_within_reach() {
        let mut rng = SmallRng::seed_from_u64(2);
        let good: Vec<Replica> = (0..3).map(|node| replica(node, 1, 1, 9)).collect();
        let none = BTreeSet::new();
        let nodes: BTreeSet<usize> =
            (0..100).filter_map(|_| choose_victim(&mut rng, &good, Some(1), &none)).map(|it| it.datanode).collect();
        assert_eq!(nodes, BTreeSet::from([0, 2]), "every node but the one that is out");
        let unfit = [
            good[..2].to_vec(),
            vec![good[0].clone(), good[1].clone(), replica(2, 1, 0, 9)],
            vec![good[0].clone(), good[1].clone(), replica(2, 1, 1, 8)],
            vec![good[0].clone(), good[1].clone(), replica(1, 1, 1, 9)],
            (0..3).map(|node| replica(node, 1, 1, 0)).collect(),
        ];
        for replicas in unfit {
            assert!(choose_victim(&mut rng, &replicas, None, &none).is_none(), "{replicas:?}");
        }
        assert!(choose_victim(&mut rng, &good, None, &BTreeSet::from([1])).is_none(), "damaged already");
    }
}
