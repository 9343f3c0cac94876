//! How long the NameNode's locks are held while a large namespace is worked with over gRPC: every DataNode reports, one dies and
//! comes back, an image is saved, the whole tree is summed up, listed and checked, and half of it is removed, while a client
//! makes directories all the time. The NameNode runs as its daemon does; clients and DataNodes are in a thread of their own.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dfs_common::attr::FileKind;
use dfs_common::config_file::Config;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{ClientId, ROOT_INODE};
use dfs_proto::v1::client_namenode_client::ClientNamenodeClient;
use dfs_proto::v1::{self, RequestHeader};
use tonic::transport::Channel;

use super::call::{connect, refused, retry};
use super::datanodes::Datanodes;
use crate::namenode::daemon;
use crate::namenode::lock_times::LockTimes;
use crate::namenode::namespace::Namespace;
use crate::namenode::namesystem::Namesystem;
use crate::namenode::node_files::NodeFiles;

/// Between two looks at what is awaited.
const LOOK: Duration = Duration::from_millis(100);
/// Between two directories of the client that makes them.
const BETWEEN_MKDIRS: Duration = Duration::from_millis(5);
/// Silence after which a DataNode is dead here.
const DEAD_AFTER: &str = "40s";
/// Entries asked for at once in a listing.
const PAGE: u32 = 1_000;

/// The top directories: each has half of the files.
pub(super) const TOPS: [&str; 2] = ["kept", "removed"];

/// Measures and prints.
///
/// # Errors
/// Of the scratch directory, the listener, or a call that was refused.
pub(super) async fn measure(config: &mut Config, namespace: Namespace, blocks: Vec<v1::Block>) -> Result<()> {
    for setting in [
        "dfs.namenode.safemode.extension=0s",
        "dfs.namenode.stale.datanode.interval=20s",
        &format!("dfs.namenode.dead.interval={DEAD_AFTER}"),
    ] {
        config.set(setting)?;
    }
    daemon::format_with(config, None, &namespace)?;
    drop(namespace);
    let begin = Instant::now();
    let namesystem = daemon::start(config).await?;
    println!("started from the image in {:.1} s", begin.elapsed().as_secs_f64());
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| DfsError::io("listen", error))?;
    let address = listener.local_addr().map_err(|error| DfsError::io("ask the port", error))?;
    let _server = daemon::serve_grpc(listener, 64, &namesystem, Arc::new(NodeFiles::new(config)))?;
    let (done, outcome) = tokio::sync::oneshot::channel();
    let observed = Arc::clone(&namesystem);
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let result = runtime
            .map_err(|error| DfsError::io("start a runtime", error))
            .and_then(|runtime| runtime.block_on(work_with(address, &observed, blocks)));
        // Nobody waits when the measurement was given up.
        let _ = done.send(result);
    };
    std::thread::Builder::new()
        .name("bench-clients".into())
        .spawn(work)
        .map_err(|error| DfsError::io("start a thread", error))?;
    tokio::select! {
        result = daemon::tend(&namesystem, config) => result,
        result = outcome => {
            result.map_err(|_| DfsError::new(ErrorKind::Internal, "the clients' thread panicked"))?
        }
    }
}

/// The clients' and DataNodes' side.
async fn work_with(address: SocketAddr, namesystem: &Namesystem, blocks: Vec<v1::Block>) -> Result<()> {
    let channel = connect(address).await?;
    let maker = Client::open(&channel, ClientId([3; 16])).await?;
    let datanodes = Datanodes::start(&channel, blocks).await?;
    let slowest_us = AtomicU64::default();
    tokio::select! {
        result = maker.keep_making(&slowest_us) => result,
        result = datanodes.failed() => result,
        result = take_through(namesystem, &channel, &datanodes, &slowest_us) => result,
    }
}

async fn take_through(
    namesystem: &Namesystem,
    channel: &Channel,
    datanodes: &Datanodes,
    slowest_us: &AtomicU64,
) -> Result<()> {
    let watch = Watch { namesystem, slowest_us };
    let mut client = Client::open(channel, ClientId([2; 16])).await?;
    let step = watch.begin();
    while datanodes.reports() < datanodes.count() || client.is_in_safe_mode().await? {
        tokio::time::sleep(LOOK).await;
    }
    watch.end("every DataNode reported", step);

    let step = watch.begin();
    client.save_namespace().await?;
    watch.end("image saved", step);

    let step = watch.begin();
    let summed = client.content_summary().await?;
    watch.end(&format!("{summed} files summed up"), step);

    let step = watch.begin();
    let listed = client.list_and_check().await?;
    watch.end(&format!("{listed} files listed and checked"), step);

    let step = watch.begin();
    datanodes.silence(true);
    while client.dead_datanodes().await? == 0 {
        tokio::time::sleep(LOOK).await;
    }
    while client.is_scanning().await? {
        tokio::time::sleep(LOOK).await;
    }
    watch.end("a DataNode died", step);

    let step = watch.begin();
    let reports = datanodes.reports();
    datanodes.silence(false);
    while datanodes.reports() == reports || client.needs_repair().await? {
        tokio::time::sleep(LOOK).await;
    }
    watch.end("it came back", step);

    let step = watch.begin();
    let before = client.blocks().await?;
    // Nothing was changed in the session before for so long that it has ended.
    let mut client = Client::open(channel, ClientId([4; 16])).await?;
    client.delete(TOPS[1]).await?;
    while client.blocks().await? > before.div_ceil(2) || !datanodes.have_only(before.div_ceil(2)) {
        tokio::time::sleep(LOOK).await;
    }
    watch.end("half of the files removed", step);

    let (namespace, blocks) = (namesystem.namespace(), namesystem.blocks());
    print_times("namespace's lock held by readers", namespace.read_times());
    print_times("namespace's lock held by writers", namespace.write_times());
    print_times("block manager's lock held", blocks.lock_times());
    Ok(())
}

/// Holds by length, as a line.
fn print_times(what: &str, times: &LockTimes) {
    print!("{what}: longest {:.1} ms;", times.longest().as_secs_f64() * 1e3);
    for (end, count) in times.buckets().filter(|(_, count)| *count > 0) {
        match end {
            Some(end) => print!(" up to {end:?} {count},"),
            None => print!(" longer {count},"),
        }
    }
    println!();
}

/// Tells what each step cost.
struct Watch<'a> {
    namesystem: &'a Namesystem,
    /// The slowest mkdir of the client that makes directories, microseconds.
    slowest_us: &'a AtomicU64,
}

impl Watch<'_> {
    fn begin(&self) -> Instant {
        self.slowest_us.store(0, Ordering::Relaxed);
        Instant::now()
    }

    fn end(&self, what: &str, begin: Instant) {
        let (namespace, blocks) = (self.namesystem.namespace(), self.namesystem.blocks());
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "{what}: {:.1} s; slowest mkdir {:.1} ms; longest hold so far: readers {:.1}, writers {:.1}, blocks {:.1} ms",
            begin.elapsed().as_secs_f64(),
            ms(Duration::from_micros(self.slowest_us.load(Ordering::Relaxed))),
            ms(namespace.read_times().longest()),
            ms(namespace.write_times().longest()),
            ms(blocks.lock_times().longest()),
        );
    }
}

/// A client with a session.
struct Client {
    rpc: ClientNamenodeClient<Channel>,
    id: ClientId,
    incarnation: u64,
    calls: u64,
}

impl Client {
    async fn open(channel: &Channel, id: ClientId) -> Result<Self> {
        let mut rpc = ClientNamenodeClient::new(channel.clone());
        let header = Some(RequestHeader { caller: Some(v1::Caller::default()), retry: None });
        let (client_id, name) = (id.0.to_vec().into(), "bench".into());
        let open = v1::OpenSessionRequest { header, client_id, name, ..v1::OpenSessionRequest::default() };
        let incarnation = rpc.open_session(open).await.map_err(refused)?.into_inner().incarnation;
        Ok(Self { rpc, id, incarnation, calls: 0 })
    }

    fn header(&mut self) -> Option<RequestHeader> {
        self.calls += 1;
        let retry = Some(retry(self.id, self.incarnation, self.calls));
        Some(RequestHeader { caller: Some(v1::Caller::default()), retry })
    }

    /// Makes directories, one after the other with some time between.
    async fn keep_making(mut self, slowest_us: &AtomicU64) -> Result<()> {
        while self.is_in_safe_mode().await? {
            tokio::time::sleep(LOOK).await;
        }
        for number in 0_u64.. {
            let (header, name) = (self.header(), format!("made-{number}").into());
            let begin = Instant::now();
            let mkdir = v1::MkdirRequest { header, parent: ROOT_INODE.0, name, mode: 0o755 };
            self.rpc.mkdir(mkdir).await.map_err(refused)?;
            let took = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
            slowest_us.fetch_max(took, Ordering::Relaxed);
            tokio::time::sleep(BETWEEN_MKDIRS).await;
        }
        Ok(())
    }

    async fn is_in_safe_mode(&mut self) -> Result<bool> {
        let get = v1::SetSafeModeRequest { header: None, action: v1::SafeModeAction::SafeModeGet.into() };
        Ok(self.rpc.set_safe_mode(get).await.map_err(refused)?.into_inner().is_on)
    }

    async fn save_namespace(&mut self) -> Result<()> {
        let header = self.header();
        self.rpc.save_namespace(v1::SaveNamespaceRequest { header }).await.map_err(refused)?;
        Ok(())
    }

    async fn content_summary(&mut self) -> Result<u64> {
        let root = v1::InodeRequest { inode: ROOT_INODE.0, ..v1::InodeRequest::default() };
        Ok(self.rpc.get_content_summary(root).await.map_err(refused)?.into_inner().file_count)
    }

    async fn stats(&mut self) -> Result<v1::GetFsStatsResponse> {
        Ok(self.rpc.get_fs_stats(v1::GetFsStatsRequest::default()).await.map_err(refused)?.into_inner())
    }

    async fn dead_datanodes(&mut self) -> Result<u32> {
        Ok(self.stats().await?.dead_datanodes)
    }

    async fn blocks(&mut self) -> Result<u64> {
        Ok(self.stats().await?.blocks)
    }

    async fn needs_repair(&mut self) -> Result<bool> {
        Ok(self.stats().await?.under_replicated_blocks > 0)
    }

    async fn is_scanning(&mut self) -> Result<bool> {
        let request = v1::GetDatanodeReportRequest::default();
        let report = self.rpc.get_datanode_report(request).await.map_err(refused)?.into_inner();
        Ok(report.repair.is_some_and(|repair| repair.is_scanning))
    }

    async fn delete(&mut self, name: &'static str) -> Result<()> {
        let (header, name) = (self.header(), name.into());
        let delete = v1::DentryMutation { header, parent: ROOT_INODE.0, name };
        self.rpc.delete(delete).await.map_err(refused)?;
        Ok(())
    }

    /// Lists every directory, and asks for the blocks of all files and for who has them.
    async fn list_and_check(&mut self) -> Result<usize> {
        let (mut directories, mut checked) = (vec![ROOT_INODE.0], 0);
        while let Some(inode) = directories.pop() {
            let (mut cookie, mut at_end) = (0, false);
            while !at_end {
                let list = v1::GetListingRequest { header: None, inode, cookie, max_entries: PAGE, with_attrs: true };
                let page = self.rpc.get_listing(list).await.map_err(refused)?.into_inner();
                (cookie, at_end) = (page.entries.last().map_or(cookie, |last| last.cookie), page.at_end);
                let is_directory = |entry: &&v1::DirEntry| entry.file_type == FileKind::Directory as u32;
                let (below, files): (Vec<_>, Vec<_>) = page.entries.iter().partition(is_directory);
                directories.extend(below.iter().map(|entry| entry.inode));
                let inodes: Vec<u64> = files.iter().map(|entry| entry.inode).collect();
                checked += self.check(&inodes).await?;
            }
        }
        Ok(checked)
    }

    /// Asks about files of one block each.
    async fn check(&mut self, inodes: &[u64]) -> Result<usize> {
        let mut at = 0;
        while at < inodes.len() {
            let inodes = inodes[at..].to_vec();
            let check = v1::CheckFilesRequest { header: None, inodes, first_block: 0, with_locations: true };
            at += self.rpc.check_files(check).await.map_err(refused)?.into_inner().files.len();
        }
        Ok(at)
    }
}
