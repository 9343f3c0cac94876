//! A large tree is removed in steps, and nobody notices but by its absence.
//!
//! With a million files, by hand on an idle machine, no answer may take longer than 20 ms meanwhile, and no DataNode may be
//! stale: `DFS_TEST_FILES=1000000 cargo test --release --workspace --test durability -- removing_a_large_tree`

use std::time::Duration;

use dfs_common::attr::FileKind;
use dfs_proto::v1::client_namenode_client::ClientNamenodeClient;
use dfs_proto::v1::{self, RequestHeader, RetryId};
use dfs_tests::cases;
use dfs_tests::cluster::{Cluster, http_get};
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::wait::{REPAIR, STARTUP, Stopwatch, wait_until};
use tonic::transport::Channel;

pub(super) const CASES: [Case<Nothing>; 2] =
    cases![removing_a_large_tree_goes_in_steps, a_removal_goes_on_after_the_namenode_was_killed];

/// Files of the automatic run: some dozen steps.
const FILES: u64 = 20_000;
/// Files in a directory of the tree.
const FILES_PER_DIRECTORY: u64 = 1_000;
/// Makers of the tree at once.
const MAKERS: u64 = 16;
const ROOT: u64 = 1;
/// Inodes that are freed by one operation of the log at most.
const STEP: u64 = 500;
/// What a stat may take at most while the tree is freed, when somebody watches.
const PATIENCE: Duration = Duration::from_millis(20);

/// A client with a session.
#[derive(Clone)]
struct Client {
    rpc: ClientNamenodeClient<Channel>,
    id: [u8; 16],
    incarnation: u64,
    calls: u64,
}

impl Client {
    async fn connect(cluster: &Cluster) -> Self {
        let address = format!("http://{}:{}", cluster.namenode.host, cluster.namenode.rpc_port);
        let mut rpc = ClientNamenodeClient::connect(address).await.expect("connect");
        let id: [u8; 16] = rand::random();
        let open =
            v1::OpenSessionRequest { client_id: id.to_vec().into(), name: "removal".into(), ..Default::default() };
        let incarnation = rpc.open_session(open).await.expect("open a session").into_inner().incarnation;
        Self { rpc, id, incarnation, calls: 0 }
    }

    fn header(&mut self) -> Option<RequestHeader> {
        self.calls += 1;
        let retry = RetryId {
            client_id: self.id.to_vec().into(),
            incarnation: self.incarnation,
            call_id: self.calls,
            lowest_pending_call_id: self.calls,
        };
        Some(RequestHeader { caller: Some(v1::Caller::default()), retry: Some(retry) })
    }

    async fn mkdir(&mut self, parent: u64, name: String) -> u64 {
        let request = v1::MkdirRequest { header: self.header(), parent, name: name.into(), mode: 0o755 };
        let attr = self.rpc.mkdir(request).await.expect("mkdir").into_inner().attr;
        attr.expect("attributes of the directory").inode
    }

    async fn mknod(&mut self, parent: u64, name: String) {
        let mode = FileKind::File as u32 | 0o644;
        let request = v1::MknodRequest { header: self.header(), parent, name: name.into(), mode, rdev: 0 };
        self.rpc.mknod(request).await.expect("mknod");
    }

    async fn delete(&mut self, name: &str) {
        let request = v1::DentryMutation { header: self.header(), parent: ROOT, name: name.to_owned().into() };
        self.rpc.delete(request).await.expect("delete");
    }

    /// Files and directories by the NameNode's count.
    async fn inodes(&mut self) -> u64 {
        self.rpc.get_fs_stats(v1::GetFsStatsRequest::default()).await.expect("statfs").into_inner().files
    }

    async fn check_datanodes(&mut self, allowed: &[v1::DatanodeState]) {
        let report = self.rpc.get_datanode_report(v1::GetDatanodeReportRequest::default()).await.expect("report");
        for datanode in report.into_inner().datanodes {
            assert!(allowed.contains(&datanode.state()), "{datanode:?}");
        }
    }
}

/// A tree `/tree` of so many files.
async fn make_tree(cluster: &Cluster, files: u64) {
    let mut client = Client::connect(cluster).await;
    let top = client.mkdir(ROOT, "tree".into()).await;
    let mut makers = tokio::task::JoinSet::new();
    for maker in 0..MAKERS {
        let mut client = Client::connect(cluster).await;
        makers.spawn(async move {
            let mut parent = top;
            for file in 0..files / MAKERS {
                if file % FILES_PER_DIRECTORY == 0 {
                    parent = client.mkdir(top, format!("{maker}-{file}")).await;
                }
                client.mknod(parent, file.to_string()).await;
            }
        });
    }
    makers.join_all().await;
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("start the runtime").block_on(work);
}

fn removing_a_large_tree_goes_in_steps(_: &Nothing) {
    let by_hand = std::env::var("DFS_TEST_FILES").ok().and_then(|text| text.parse::<u64>().ok());
    let files = by_hand.unwrap_or(FILES);
    // On a machine that does other things too, a heartbeat may be late.
    let (patience, states): (_, &[_]) = match by_hand {
        Some(_) => (PATIENCE, &[v1::DatanodeState::DatanodeLive]),
        None => (REPAIR, &[v1::DatanodeState::DatanodeLive, v1::DatanodeState::DatanodeStale]),
    };
    let cluster = Cluster::builder().datanodes(3).start();
    block_on(async {
        make_tree(&cluster, files).await;
        let mut client = Client::connect(&cluster).await;
        let before = cluster.status("last_txid").expect("the NameNode serves");
        let mut remover = client.clone();
        let removal = tokio::spawn(async move { remover.delete("tree").await });
        let (mut longest, mut stats, started) = (Duration::ZERO, 0_u64, Stopwatch::start());
        loop {
            let asked = Stopwatch::start();
            let root = v1::InodeRequest { inode: ROOT, ..v1::InodeRequest::default() };
            client.rpc.get_file_info(root).await.expect("stat of the root");
            longest = longest.max(asked.elapsed());
            stats += 1;
            if stats.is_multiple_of(64) {
                client.check_datanodes(states).await;
                if client.inodes().await == 1 {
                    break;
                }
                assert!(started.elapsed() < REPAIR, "the tree is still being freed");
            }
        }
        removal.await.expect("the removal");
        eprintln!("freed in {:?}; the longest of {stats} stats took {longest:?}", started.elapsed());
        assert!(longest < patience, "a stat took {longest:?}");
        let steps = cluster.status("last_txid").expect("the NameNode serves") - before;
        assert!(steps >= files / STEP, "{files} files were freed in {steps} steps");
    });
    let (_, metrics) = http_get(&cluster.namenode.host, cluster.namenode.http_port, "/metrics").expect("metrics");
    let writes = metrics.lines().filter(|line| line.contains("namespace_lock_writes_held"));
    eprintln!("{}", writes.collect::<Vec<_>>().join("\n"));
}

fn a_removal_goes_on_after_the_namenode_was_killed(_: &Nothing) {
    let mut cluster = Cluster::builder().datanodes(1).replication(1).start();
    // The first thing that is seen after the answer must not be the end: then the machine was busy, and it is tried again.
    let is_being_freed = || {
        block_on(async {
            make_tree(&cluster, FILES).await;
            Client::connect(&cluster).await.delete("tree").await;
        });
        cluster.status("files").is_some_and(|left| left > FILES / 2)
    };
    assert!((0..10).any(|_| is_being_freed()), "the tree is always freed at once");
    cluster.namenode.daemon.kill();
    cluster.start_namenode();
    wait_until(STARTUP, "the rest of the tree to be freed", || {
        cluster.status("files") == Some(0) && cluster.status("directories") == Some(1)
    });
}
