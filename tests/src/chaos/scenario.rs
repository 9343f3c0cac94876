//! What happens when: faults one after another, each healed before the next, in storms with a reckoning at the end of each.
//!
//! The damage at any moment is what three replicas must survive: one DataNode out of order, at most one replica of a block
//! damaged beside that, the NameNode away for moments. A storm ends calm, with the mounts killed, or with the power
//! cut everywhere; then the books are compared.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::load::LoadProcess;
use crate::checkers::replicas::check_identical;
use crate::checkers::tree::Snapshot;
use crate::cluster::{Cluster, DataNodeProcess, Devices};
use crate::device::SMALL_DEVICE;
use crate::fault::{flip_bit, power_cut, recover_power, replica_files, shut_down_device};
use crate::model::Loss;
use crate::mount::Mount;
use crate::wait::{REPAIR, wait_until};

/// One more than replicas, so that a lost one can be replaced.
const DATANODES: usize = 4;
const REPLICATION: usize = 3;

/// One fault. Every one is healed by [`Chaos::heal`].
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    KillDataNode(usize),
    PauseDataNode(usize),
    CutDataNode(usize),
    ShutDownDevice(usize),
    FillDevice(usize),
    FlipBit(usize),
    KillNameNode,
    PauseNameNode,
    CutNameNode,
}

/// How a storm ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Calm,
    KillMounts,
    PowerCut,
}

/// A run: its cluster, its load, and what has been done so far. Dropped in this order: without their mounts the load's
/// threads come free, and nothing is mounted any more when the cluster's directory goes.
pub struct Chaos {
    mounts: Vec<Mount>,
    load: LoadProcess,
    cluster: Cluster,
    seed: u64,
    rng: SmallRng,
    /// Replicas that were damaged, by file name: no block is damaged twice.
    damaged: BTreeSet<PathBuf>,
    history: Vec<String>,
    begun: Instant,
}

impl fmt::Debug for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, {} faults so far", self.seed, self.history.len())
    }
}

impl Chaos {
    /// A fresh cluster on hosts and devices of its own, two mounts, the load prepared.
    ///
    /// # Panics
    /// When anything does not start.
    pub fn new(seed: u64) -> Self {
        let cluster = Cluster::builder()
            .datanodes(DATANODES)
            .replication(REPLICATION)
            .devices(Devices::Loop(SMALL_DEVICE))
            .on_hosts()
            .set("dfs.blocksize=1MiB")
            .start();
        let mounts: Vec<Mount> = ["mount-a", "mount-b"].iter().map(|name| cluster.mount(name)).collect();
        let paths: Vec<_> = mounts.iter().map(Mount::path).collect();
        let load = LoadProcess::start(&paths, seed);
        Self {
            seed,
            rng: SmallRng::seed_from_u64(seed),
            cluster,
            mounts,
            load,
            damaged: BTreeSet::new(),
            history: Vec::new(),
            begun: Instant::now(),
        }
    }

    /// Runs for about `length`, then checks every invariant.
    ///
    /// # Panics
    /// When one is violated, with the seed and everything that was done.
    pub fn run(&mut self, length: Duration) {
        while self.begun.elapsed() < length {
            let ending = *[Ending::Calm, Ending::Calm, Ending::KillMounts, Ending::PowerCut]
                .choose(&mut self.rng)
                .expect("there are endings");
            self.storm(ending);
        }
        self.settle();
        self.check_namespace_is_its_replay();
    }

    fn storm(&mut self, ending: Ending) {
        self.note(format!("storm, to end with {ending:?}"));
        self.load.go();
        for _ in 0..self.rng.random_range(2..5) {
            let fault = self.choose_fault();
            self.inflict(&fault);
            self.hold(1..6);
            self.heal(&fault);
            self.hold(0..2);
        }
        if ending == Ending::PowerCut {
            power_cut(&mut self.cluster);
            self.note("power cut");
            // What was under way fails; what was answered is what counts.
            self.kill_mounts();
            let _ = self.load.stop();
            recover_power(&mut self.cluster);
            self.restart_mounts();
            self.check("after the power cut", Loss::Power);
            // Blocks that were lost with what nobody had synced keep safe mode on, and with it deletions back, so that
            // devices would fill. An operator looks and accepts it.
            self.cluster.dfs(&["admin", "safemode", "leave"]);
            self.note("safe mode left");
            return;
        }
        let outcome = self.load.stop();
        let figures = self.judge("during the storm", outcome);
        self.note(figures);
        if ending == Ending::KillMounts {
            self.kill_mounts();
            self.restart_mounts();
        }
        self.check("after the storm", Loss::Processes);
    }

    fn choose_fault(&mut self) -> Fault {
        let node = self.rng.random_range(0..DATANODES);
        match self.rng.random_range(0..11) {
            0..=1 => Fault::KillDataNode(node),
            2 => Fault::PauseDataNode(node),
            3 => Fault::CutDataNode(node),
            4 => Fault::ShutDownDevice(node),
            5 => Fault::FillDevice(node),
            6..=7 => Fault::FlipBit(node),
            8 => Fault::KillNameNode,
            9 => Fault::PauseNameNode,
            _ => Fault::CutNameNode,
        }
    }

    fn inflict(&mut self, fault: &Fault) {
        self.note(format!("{fault:?}"));
        let network = self.cluster.network.as_ref().expect("a cluster on hosts");
        match *fault {
            Fault::KillDataNode(node) => self.cluster.datanodes[node].daemon.kill(),
            Fault::PauseDataNode(node) => self.cluster.datanodes[node].daemon.pause(),
            Fault::CutDataNode(node) => network.cut(node + 1),
            Fault::ShutDownDevice(node) => shut_down_device(&self.cluster.datanodes[node].devices[0]),
            Fault::FillDevice(node) => self.cluster.datanodes[node].devices[0].fill(),
            Fault::FlipBit(node) => self.damage_a_replica(node),
            Fault::KillNameNode => self.cluster.namenode.daemon.kill(),
            Fault::PauseNameNode => self.cluster.namenode.daemon.pause(),
            Fault::CutNameNode => network.cut(0),
        }
    }

    fn heal(&mut self, fault: &Fault) {
        let network = self.cluster.network.as_ref().expect("a cluster on hosts");
        match *fault {
            Fault::KillDataNode(node) => self.cluster.start_datanode(node),
            Fault::PauseDataNode(node) => self.cluster.datanodes[node].daemon.resume(),
            Fault::CutDataNode(node) => network.plug(node + 1),
            Fault::ShutDownDevice(node) => {
                self.cluster.datanodes[node].daemon.kill();
                self.cluster.datanodes[node].devices[0].remount();
                self.cluster.start_datanode(node);
            }
            Fault::FillDevice(node) => self.cluster.datanodes[node].devices[0].free(),
            Fault::FlipBit(_) => {}
            Fault::KillNameNode => self.cluster.start_namenode(),
            Fault::PauseNameNode => self.cluster.namenode.daemon.resume(),
            Fault::CutNameNode => network.plug(0),
        }
        self.cluster.wait_datanodes_live(DATANODES);
        // Until lost replicas are replaced, the next fault could meet the last one.
        self.cluster.wait_fully_replicated();
    }

    /// Flips a bit in one replica of a block none of whose replicas was damaged before.
    fn damage_a_replica(&mut self, node: usize) {
        let files = replica_files(&self.cluster, node);
        let fresh: Vec<_> = files
            .into_iter()
            .filter(|path| path.file_name().is_some_and(|name| !self.damaged.contains(&PathBuf::from(name))))
            .collect();
        let Some(path) = fresh.choose(&mut self.rng) else { return };
        // The file may be deleted under our hands: its block was a file's that a writer has just removed.
        let Ok(length) = std::fs::metadata(path).map(|meta| meta.len()) else { return };
        if length > 0 && flip_bit(path, self.rng.random_range(0..length)).is_ok() {
            self.damaged.extend(path.file_name().map(PathBuf::from));
        }
    }

    fn hold(&mut self, seconds: std::ops::Range<u64>) {
        // Time is what a fault consists of: there is no condition to wait for.
        let length = Duration::from_millis(self.rng.random_range(seconds.start * 1000..seconds.end * 1000));
        std::thread::sleep(length);
    }

    fn kill_mounts(&mut self) {
        self.note("mounts killed");
        for mount in &mut self.mounts {
            mount.kill();
        }
    }

    fn restart_mounts(&mut self) {
        for mount in &mut self.mounts {
            mount.restart();
        }
    }

    fn check(&mut self, when: &str, loss: Loss) {
        let outcome = self.load.check(loss);
        self.judge(when, outcome);
    }

    /// Replication is restored, replicas are identical, and there is none of a block that no file has.
    fn settle(&mut self) {
        self.cluster.wait_datanodes_live(DATANODES);
        self.cluster.wait_fully_replicated();
        let cluster = &self.cluster;
        // What nobody has read since it was damaged is found by a scan.
        cluster.datanodes.iter().for_each(DataNodeProcess::scan);
        wait_until(REPAIR, "identical replicas, as many as there should be", || {
            check_identical(cluster, REPLICATION).is_ok()
        });
        wait_until(REPAIR, "no replica of a block that no file has", || {
            let names: BTreeSet<_> = (0..DATANODES)
                .flat_map(|node| replica_files(cluster, node))
                .filter_map(|path| path.file_name().map(ToOwned::to_owned))
                .collect();
            cluster.status("blocks") == u64::try_from(names.len()).ok()
        });
    }

    /// What a restarted NameNode reads from its log, and from an image made of it, is what it had.
    fn check_namespace_is_its_replay(&mut self) {
        let root = self.mounts[0].path().to_owned();
        let snapshot = || Snapshot::of(&root).expect("read the whole tree");
        let live = snapshot();
        self.cluster.namenode.daemon.kill();
        self.cluster.start_namenode();
        self.cluster.wait_datanodes_live(DATANODES);
        self.judge("replay of the edit log", live.compare(&snapshot()));
        self.cluster.dfs(&["admin", "save-namespace"]);
        self.cluster.namenode.daemon.kill();
        self.cluster.start_namenode();
        self.cluster.wait_datanodes_live(DATANODES);
        self.judge("image and edits", live.compare(&snapshot()));
    }

    fn note(&mut self, what: impl Into<String>) {
        self.history.push(format!("{:6.1} s  {}", self.begun.elapsed().as_secs_f32(), what.into()));
    }

    fn judge<T>(&self, when: &str, outcome: Result<T, String>) -> T {
        outcome.unwrap_or_else(|why| {
            let mounts: Vec<String> = self.mounts.iter().map(Mount::diagnostics).collect();
            panic!("{when}: {why}\n{}", mounts.join("\n"))
        })
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("DFS_TEST_SEED={}, what was done:\n  {}", self.seed, self.history.join("\n  "));
        }
    }
}
