//! What happens when: faults that stand together, all healed before the next ones come, in storms with a reckoning at the end of
//! each.
//!
//! `budget.rs` says which faults may stand together. Mounts die under load. A storm ends calm, or with the power cut
//! everywhere while its last faults stand; then the books are compared. At the end of all storms replicas are compared with
//! each other, devices with files, and the namespace with its replay.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::budget::{Fault, NameFault, NodeFault, choose_faults, choose_victim};
use super::load::LoadProcess;
use crate::checkers::replicas::{blocks_of_files, blocks_on_devices, check_identical, check_orphans};
use crate::checkers::tree::Snapshot;
use crate::cluster::{Cluster, DataNodeProcess, Devices};
use crate::device::{Frozen, SMALL_DEVICE};
use crate::fault::{Damage, power_cut, recover_power, shut_down_device};
use crate::model::Loss;
use crate::mount::Mount;
use crate::replica::all_replicas;
use crate::wait::{REPAIR, poll};

/// One more than replicas, so that a lost one can be replaced.
const DATANODES: usize = 4;
const REPLICATION: usize = 3;

/// A run: its cluster, its load, and what has been done so far. Dropped in this order: frozen devices answer again, so that
/// their users can end; without their mounts the load's threads come free; and nothing is mounted any more when the cluster's
/// directory goes.
pub struct Chaos {
    frozen: Vec<Frozen>,
    mounts: Vec<Mount>,
    load: LoadProcess,
    cluster: Cluster,
    seed: u64,
    rng: SmallRng,
    /// Ids of blocks with a replica that was damaged: none is damaged twice.
    damaged: BTreeSet<u64>,
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
            frozen: Vec::new(),
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
            let ends_with_power_cut = self.rng.random_bool(0.3);
            self.storm(ends_with_power_cut);
        }
        self.settle();
        self.check_namespace_is_its_replay();
    }

    fn storm(&mut self, ends_with_power_cut: bool) {
        self.note(if ends_with_power_cut { "storm, to end with a power cut" } else { "storm" });
        self.load.go();
        for rounds_left in (0..self.rng.random_range(1..4)).rev() {
            let mut faults = choose_faults(&mut self.rng, DATANODES, self.mounts.len());
            let out = faults.iter().find_map(|fault| fault.datanode());
            for fault in &faults {
                self.inflict(*fault, out);
                self.hold(0..2000);
            }
            self.hold(500..5000);
            if ends_with_power_cut && rounds_left == 0 {
                return self.cut_power(&faults);
            }
            // A mount is made anew when the NameNode answers.
            faults.shuffle(&mut self.rng);
            faults.sort_by_key(|fault| matches!(fault, Fault::Mount(_)));
            for fault in &faults {
                self.heal(*fault);
                self.hold(0..1000);
            }
            self.note("healed");
            self.cluster.wait_datanodes_live(DATANODES);
            // Until lost replicas are replaced, the next fault could meet the last one.
            self.cluster.wait_fully_replicated();
            self.note("whole again");
        }
        let outcome = self.load.stop();
        let figures = self.judge("during the storm", outcome);
        self.note(figures);
        self.check("after the storm", Loss::Processes);
    }

    /// Cuts the power of everything while faults stand.
    fn cut_power(&mut self, standing: &[Fault]) {
        for fault in standing {
            self.ready_for_power_cut(*fault);
        }
        for mount in 0..self.mounts.len() {
            let outcome = self.load.mount_goes(mount);
            self.judge("before the power cut", outcome);
        }
        power_cut(&mut self.cluster);
        self.note("power cut");
        self.mounts.iter_mut().for_each(Mount::kill);
        // What was under way fails; what was answered counts, also before the cut.
        let outcome = self.load.stop();
        let figures = self.judge("until the power cut", outcome);
        self.note(figures);
        recover_power(&mut self.cluster);
        for mount in 0..self.mounts.len() {
            self.restart_mount(mount);
        }
        self.check("after the power cut", Loss::Power);
        // Blocks that were lost with what nobody had synced keep safe mode on, and with it deletions back, so that
        // devices would fill. An operator looks and accepts it.
        self.cluster.dfs(&["admin", "safemode", "leave"]);
        self.note("safe mode left");
        self.cluster.wait_fully_replicated();
    }

    fn inflict(&mut self, fault: Fault, out: Option<usize>) {
        self.note(format!("{fault:?}"));
        let network = self.cluster.network.as_ref().expect("a cluster on hosts");
        match fault {
            Fault::DataNode(node, kind) => {
                let datanode = &mut self.cluster.datanodes[node];
                match kind {
                    NodeFault::Kill => datanode.daemon.kill(),
                    NodeFault::Pause => datanode.daemon.pause(),
                    NodeFault::Cut => network.cut(node + 1),
                    NodeFault::ShutDownDevice => shut_down_device(&datanode.devices[0]),
                    NodeFault::FillDevice => datanode.devices[0].fill(),
                    NodeFault::FreezeDevice => self.frozen.push(datanode.devices[0].freeze()),
                }
            }
            Fault::NameNode(NameFault::Kill) => self.cluster.namenode.daemon.kill(),
            Fault::NameNode(NameFault::Pause) => self.cluster.namenode.daemon.pause(),
            Fault::NameNode(NameFault::Cut) => network.cut(0),
            Fault::NameNode(NameFault::FreezeDevice) => {
                self.frozen.push(self.cluster.namenode.devices[0].freeze());
            }
            Fault::Mount(mount) => {
                let outcome = self.load.mount_goes(mount);
                self.judge("before a mount was killed", outcome);
                self.mounts[mount].kill();
            }
            Fault::Replica(damage) => self.damage_a_replica(damage, out),
        }
    }

    /// Takes a fault back. Whoever must come up again need not serve yet.
    fn heal(&mut self, fault: Fault) {
        let network = self.cluster.network.as_ref().expect("a cluster on hosts");
        match fault {
            Fault::DataNode(node, kind) => {
                let datanode = &mut self.cluster.datanodes[node];
                match kind {
                    NodeFault::Kill => datanode.daemon.start(),
                    NodeFault::Pause => datanode.daemon.resume(),
                    NodeFault::Cut => network.plug(node + 1),
                    NodeFault::ShutDownDevice => {
                        datanode.daemon.kill();
                        datanode.devices[0].remount();
                        datanode.daemon.start();
                    }
                    NodeFault::FillDevice => datanode.devices[0].free(),
                    NodeFault::FreezeDevice => self.thaw(self.cluster.datanodes[node].devices[0].path().to_owned()),
                }
            }
            Fault::NameNode(NameFault::Kill) => self.cluster.start_namenode(),
            Fault::NameNode(NameFault::Pause) => self.cluster.namenode.daemon.resume(),
            Fault::NameNode(NameFault::Cut) => network.plug(0),
            Fault::NameNode(NameFault::FreezeDevice) => {
                self.thaw(self.cluster.namenode.devices[0].path().to_owned());
            }
            Fault::Mount(mount) => self.restart_mount(mount),
            Fault::Replica(_) => {}
        }
    }

    /// With the power, whatever runs ends, and devices go that answer; cables and room do not come back by themselves.
    fn ready_for_power_cut(&mut self, fault: Fault) {
        match fault {
            Fault::DataNode(_, NodeFault::Kill | NodeFault::Pause)
            | Fault::NameNode(NameFault::Kill | NameFault::Pause)
            | Fault::Mount(_)
            | Fault::Replica(_) => {}
            Fault::DataNode(..) | Fault::NameNode(NameFault::Cut | NameFault::FreezeDevice) => self.heal(fault),
        }
    }

    fn thaw(&mut self, device: std::path::PathBuf) {
        self.frozen.retain(|frozen| frozen.path() != device);
    }

    fn restart_mount(&mut self, mount: usize) {
        self.mounts[mount].restart();
        let outcome = self.load.mount_is_back(mount);
        self.judge("when a mount came back", outcome);
    }

    /// Damages one replica of a block that can spare it.
    fn damage_a_replica(&mut self, damage: Damage, out: Option<usize>) {
        let replicas = all_replicas(&self.cluster);
        let Some(victim) = choose_victim(&mut self.rng, &replicas, out, &self.damaged) else { return };
        self.damaged.insert(victim.block.id);
        // The file may be deleted under our hands: its block was a file's that a writer has just removed.
        let outcome = damage.inflict(victim, &mut self.rng);
        self.note(format!("    {} of datanode-{}: {outcome:?}", victim.block, victim.datanode));
    }

    fn hold(&mut self, milliseconds: std::ops::Range<u64>) {
        // Time is what a fault consists of: there is no condition to wait for.
        std::thread::sleep(Duration::from_millis(self.rng.random_range(milliseconds)));
    }

    fn check(&mut self, when: &str, loss: Loss) {
        let outcome = self.load.check(loss);
        self.judge(when, outcome);
        self.note(format!("books compared {when}"));
    }

    /// Replication is restored, replicas are identical, and devices have the blocks of files and no others.
    fn settle(&mut self) {
        self.cluster.wait_datanodes_live(DATANODES);
        self.cluster.wait_fully_replicated();
        let cluster = &self.cluster;
        // What nobody has read since it was damaged is found by a scan.
        cluster.datanodes.iter().for_each(DataNodeProcess::scan);
        self.wait_right("replicas", || check_identical(cluster, REPLICATION));
        self.wait_right("blocks of no file", || {
            let files = cluster.try_dfs(&["fsck", "/", "--blocks"]).map_err(|output| format!("{output:?}"))?;
            check_orphans(
                &blocks_on_devices(cluster, &self.damaged),
                &blocks_of_files(&String::from_utf8_lossy(&files)),
            )
        });
    }

    /// Waits until a checker finds nothing wrong; panics with what it found last.
    fn wait_right(&self, what: &str, mut checker: impl FnMut() -> Result<(), String>) {
        let mut last = String::new();
        let right = poll(REPAIR, || checker().map_err(|why| last = why).ok());
        self.judge(what, right.ok_or(last));
    }

    /// What a restarted NameNode reads from its log, and from an image made of it, is what it had: each time as a mount sees it
    /// that knows nothing yet.
    fn check_namespace_is_its_replay(&mut self) {
        let live = self.look("live");
        self.restart_namenode();
        self.judge("replay of the edit log", live.compare(&self.look("replayed")));
        self.cluster.dfs(&["admin", "save-namespace"]);
        self.restart_namenode();
        self.judge("image and edits", live.compare(&self.look("from-image")));
    }

    fn look(&self, name: &str) -> Snapshot {
        let mount = self.cluster.mount(&format!("mount-{name}"));
        Snapshot::of(mount.path()).unwrap_or_else(|why| panic!("read the whole tree, {name}: {why}"))
    }

    fn restart_namenode(&mut self) {
        self.cluster.namenode.daemon.kill();
        self.cluster.start_namenode();
        self.cluster.wait_datanodes_live(DATANODES);
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
