//! `dfs-server bench-namenode`: what a NameNode does per second and takes per file, without RPC, mount or DataNodes, so that
//! a change of the core can be judged by itself.
//!
//! - *memory*: growth of resident memory over N files of one block with three reported replicas, 16-byte names, directories
//!   of 1,000 files; and when nine in ten of them have been removed again;
//! - *operations*: mkdir and create through the whole road of a change (check, batch, log with sync, apply) with 1 and with
//!   64 callers at once, in a scratch directory on the device to be measured; lookups from the namespace;
//! - *churn*: directories made and removed by eight threads over gRPC, as clients do: resident memory before and after, bytes
//!   of log an operation, and what an operation takes that comes alone;
//! - *holds*: how long the locks are held while a namespace of N files is reported, saved, listed, checked and half removed.

mod call;
mod churn;
mod datanodes;
mod holds;
mod memory;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use dfs_common::attr::FileKind;
use dfs_common::clock::SystemClock;
use dfs_common::config_file::Config;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{ClientId, InodeId, ROOT_INODE};
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::order::Order;
use dfs_proto::v1::{self, EditOp, RequestHeader};

use self::call::retry;
use self::memory::{resident_bytes, settled_bytes};
use super::blocks::{BlockEvent, BlockManager};
use super::namespace::Namespace;
use super::namespace::directory::HashKey;
use super::namespace::permission::Identity;
use super::namesystem::Namesystem;
use super::outcome::Outcome;

/// Files in a directory of the memory measurement.
const FILES_PER_DIRECTORY: u64 = 1_000;
/// Replicas of each block.
const REPLICAS: usize = 3;
/// Files removed before the DataNodes delete their replicas: fewer than the block manager keeps in mind.
const DELETIONS_AT_ONCE: u64 = 500_000;
/// Replicas in a page of a simulated report.
const REPORT_PAGE: usize = 10_000;

/// Arguments of the measurement.
#[derive(Args)]
pub struct BenchArgs {
    /// Files in the memory measurement; 0 leaves it out.
    #[arg(long, default_value_t = 1_000_000)]
    files: u64,
    /// Operations of each kind; 0 leaves them out.
    #[arg(long, default_value_t = 20_000)]
    operations: u64,
    /// Directories made and removed by eight threads in the churn measurement; 0 leaves it out.
    #[arg(long, default_value_t = 0)]
    churn: u64,
    /// Files of the namespace whose locks are measured; 0 leaves it out.
    #[arg(long, default_value_t = 0)]
    holds: u64,
    /// Scratch directory for the log, on the device to be measured; it must be empty or missing.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the measurements and prints them.
///
/// # Errors
/// Of the scratch directory or a broken core.
pub fn run(args: &BenchArgs) -> Result<()> {
    if args.files > 0 {
        measure_memory(args.files)?;
    }
    let of_a_directory = [args.operations, args.churn, args.holds].iter().filter(|&&count| count > 0).count();
    if of_a_directory == 0 {
        return Ok(());
    }
    if args.holds > 0 && of_a_directory > 1 {
        return Err(DfsError::new(ErrorKind::InvalidArgument, "--holds needs --operations 0 and --churn 0"));
    }
    let dir = args.dir.as_ref().ok_or_else(|| {
        DfsError::new(ErrorKind::InvalidArgument, "give --dir for the log, or --operations 0 to leave them out")
    })?;
    let mut config = Config::default();
    config.set(&format!("dfs.namenode.name.dir={}", dir.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| DfsError::io("start the runtime", error))?;
    if args.holds > 0 {
        return runtime.block_on(measure_holds(&mut config, args.holds));
    }
    runtime.block_on(measure_logged(&config, args))
}

async fn measure_logged(config: &Config, args: &BenchArgs) -> Result<()> {
    super::format(config, None)?;
    let namesystem = super::daemon::start(config).await?;
    if args.operations > 0 {
        measure_operations(&namesystem, args.operations).await?;
    }
    if args.churn > 0 {
        churn::measure(&namesystem, config, args.churn).await?;
    }
    Ok(())
}

async fn measure_holds(config: &mut Config, files: u64) -> Result<()> {
    let mut namespace = Namespace::new(HashKey(1, 2), 0);
    let mut maker = Maker::new(&mut namespace, |_| {})?;
    let mut blocks = Vec::new();
    for top in holds::TOPS {
        let top = maker.mkdir(ROOT_INODE, top)?;
        blocks.extend(maker.create_files(top, files / 2)?);
    }
    holds::measure(config, namespace, blocks).await
}

fn measure_memory(files: u64) -> Result<()> {
    let mut namespace = Namespace::new(HashKey(1, 2), 0);
    let blocks = BlockManager::new(&Config::default(), Arc::new(SystemClock), 1);
    let registrations = register_datanodes(&blocks)?;
    let before = resident_bytes()?;
    let started = Instant::now();
    let mut maker = Maker::new(&mut namespace, |events| blocks.on_events(events))?;
    let created = maker.create_files(ROOT_INODE, files)?;
    let filled = started.elapsed();
    let started = Instant::now();
    report_all(&blocks, &registrations, &created)?;
    let reported = started.elapsed();
    drop(created);
    let after = resident_bytes()?;
    println!("files                    {files}");
    println!("bytes per file           {}", (after.saturating_sub(before)) / files);
    println!("creates applied per s    {:.0}", files as f64 / filled.as_secs_f64());
    println!("replicas reported per s  {:.0}", (files * REPLICAS as u64) as f64 / reported.as_secs_f64());
    let started = Instant::now();
    let attr = (0..files).filter(|i| namespace.attr(InodeId(dfs_common::ids::FIRST_INODE.0 + i)).is_ok()).count();
    println!("attributes read per s    {:.0}", attr as f64 / started.elapsed().as_secs_f64());
    blocks.set_active(true);
    blocks.leave_safe_mode();
    let started = Instant::now();
    let mut deletions = Deletions::of(&blocks, &registrations);
    let removed = remove_nine_in_ten(&mut namespace, &mut deletions, files)?;
    let spent = started.elapsed().saturating_sub(deletions.spent);
    println!("removals applied per s   {:.0}", removed as f64 / spent.as_secs_f64());
    deletions.carry_out()?;
    let deleted = deletions.done;
    if deleted != removed * REPLICAS as u64 {
        return Err(DfsError::new(ErrorKind::Internal, format!("{deleted} replicas were deleted of {removed} files")));
    }
    let left = settled_bytes()?.saturating_sub(before);
    println!("bytes per file left      {}", left / (files - removed).max(1));
    Ok(())
}

fn remove_nine_in_ten(namespace: &mut Namespace, deletions: &mut Deletions<'_>, files: u64) -> Result<u64> {
    let (mut events, mut removed, mut parent) = (Vec::new(), 0, ROOT_INODE);
    for i in 0..files {
        if i % FILES_PER_DIRECTORY == 0 {
            parent = namespace.lookup(&Identity::root(), ROOT_INODE, format!("directory-{i:06}").as_bytes())?;
        }
        if i % 10 != 0 {
            let name = format!("file-{i:011}").into();
            let kind = v1::RemoveKind::RemoveUnlink.into();
            let remove = v1::RemoveOp { parent: parent.0, name, kind, ..v1::RemoveOp::default() };
            namespace.apply(&root_op(Op::Remove(remove)), &mut events)?;
            deletions.blocks.on_events(events.drain(..));
            removed += 1;
            if removed % DELETIONS_AT_ONCE == 0 {
                deletions.carry_out()?;
            }
        }
    }
    Ok(removed)
}

/// The DataNodes' deletions: what is to be deleted is remembered until they say that it is gone.
struct Deletions<'a> {
    blocks: &'a BlockManager,
    /// Of each DataNode, with the number of its next report.
    registrations: Vec<(u64, u64)>,
    done: u64,
    spent: Duration,
}

impl<'a> Deletions<'a> {
    fn of(blocks: &'a BlockManager, registrations: &[v1::RegisterDatanodeResponse]) -> Self {
        // The full report was the first.
        let registrations = registrations.iter().map(|registration| (registration.registration_id, 2)).collect();
        Self { blocks, registrations, done: 0, spent: Duration::ZERO }
    }

    /// Has the DataNodes fetch what they are to delete and say that it is gone.
    fn carry_out(&mut self) -> Result<()> {
        let begin = Instant::now();
        for (i, (registration_id, number)) in self.registrations.iter_mut().enumerate() {
            let heartbeat = v1::SendHeartbeatRequest {
                datanode_uuid: format!("datanode-{i}"),
                registration_id: *registration_id,
                ..v1::SendHeartbeatRequest::default()
            };
            loop {
                let gone = events_of(&self.blocks.heartbeat(&heartbeat)?.orders, &format!("storage-{i}"));
                if gone.is_empty() {
                    break;
                }
                self.done += gone.len() as u64;
                let report = v1::BlockReceivedAndDeletedRequest {
                    datanode_uuid: heartbeat.datanode_uuid.clone(),
                    registration_id: *registration_id,
                    report_number: *number,
                    events: gone,
                    ..v1::BlockReceivedAndDeletedRequest::default()
                };
                *number += report.events.len() as u64;
                self.blocks.incremental_report(&report)?;
            }
        }
        self.spent += begin.elapsed();
        Ok(())
    }
}

/// What a DataNode says when it has carried out the deletions among its orders.
fn events_of(orders: &[v1::Order], storage_uuid: &str) -> Vec<v1::ReplicaEvent> {
    let invalidated = orders.iter().filter_map(|order| match &order.order {
        Some(Order::Invalidate(invalidate)) => Some(&invalidate.blocks),
        _ => None,
    });
    let deleted = invalidated.flatten().map(|block| v1::ReplicaEvent {
        kind: v1::ReplicaEventKind::ReplicaDeleted.into(),
        block: Some(*block),
        storage_uuid: storage_uuid.to_owned(),
    });
    deleted.collect()
}

fn register_datanodes(blocks: &BlockManager) -> Result<Vec<v1::RegisterDatanodeResponse>> {
    (0..REPLICAS)
        .map(|i| {
            let request = v1::RegisterDatanodeRequest {
                id: Some(v1::DatanodeId {
                    uuid: format!("datanode-{i}"),
                    host: "127.0.0.1".into(),
                    data_port: 9866 + i as u32,
                    rack: "/default-rack".into(),
                    ..v1::DatanodeId::default()
                }),
                namespace: None,
                storages: vec![v1::StorageReport {
                    storage_uuid: format!("storage-{i}"),
                    capacity: 1 << 50,
                    remaining: 1 << 50,
                    ..v1::StorageReport::default()
                }],
            };
            blocks.register_datanode(&request, "127.0.0.1")
        })
        .collect()
}

/// Makes directories and files, as one client after the other call.
struct Maker<'a, F> {
    namespace: &'a mut Namespace,
    /// Is told what becomes of blocks.
    tell: F,
    client: ClientId,
    call: u64,
    events: Vec<BlockEvent>,
}

impl<'a, F: FnMut(std::vec::Drain<'_, BlockEvent>)> Maker<'a, F> {
    fn new(namespace: &'a mut Namespace, tell: F) -> Result<Self> {
        let (client, mut events) = (ClientId([1; 16]), Vec::new());
        let (client_id, name) = (client.0.to_vec().into(), "bench".into());
        let open = v1::OpenSessionOp { client_id, name, ..v1::OpenSessionOp::default() };
        namespace.apply(&EditOp { op: Some(Op::OpenSession(open)), ..EditOp::default() }, &mut events)?;
        Ok(Self { namespace, tell, client, call: 0, events })
    }

    fn apply(&mut self, op: Op) -> Result<Outcome> {
        self.call += 1;
        let op = EditOp { retry: Some(retry(self.client, 1, self.call)), ..root_op(op) };
        let outcome = self.namespace.apply(&op, &mut self.events);
        (self.tell)(self.events.drain(..));
        outcome
    }

    fn mkdir(&mut self, parent: InodeId, name: &str) -> Result<InodeId> {
        inode(self.apply(mkdir(parent, name))?)
    }

    /// Files of one block each, in directories below `top`; their blocks.
    fn create_files(&mut self, top: InodeId, files: u64) -> Result<Vec<v1::Block>> {
        let mut created = Vec::with_capacity(usize::try_from(files).unwrap_or(0));
        let mut parent = top;
        for i in 0..files {
            if i % FILES_PER_DIRECTORY == 0 {
                parent = self.mkdir(top, &format!("directory-{i:06}"))?;
            }
            let id = inode(self.apply(create(parent, &format!("file-{i:011}")))?)?;
            let add = v1::AddBlockOp { inode: id.0, ..v1::AddBlockOp::default() };
            let Outcome::Block(block) = self.apply(Op::AddBlock(add))? else {
                return Err(DfsError::new(ErrorKind::Internal, "add_block gave no block"));
            };
            let last = v1::Block { length: 4096, ..block.into() };
            self.apply(Op::Complete(v1::CompleteOp { inode: id.0, last: Some(last), ..v1::CompleteOp::default() }))?;
            created.push(last);
        }
        Ok(created)
    }
}

fn report_all(
    blocks: &BlockManager,
    registrations: &[v1::RegisterDatanodeResponse],
    created: &[v1::Block],
) -> Result<()> {
    for (i, registration) in registrations.iter().enumerate() {
        let pages = created.chunks(REPORT_PAGE);
        let last = pages.len() - 1;
        for (number, page) in pages.enumerate() {
            blocks.block_report_page(&v1::BlockReportPage {
                datanode_uuid: format!("datanode-{i}"),
                registration_id: registration.registration_id,
                report_number: 1,
                storage_uuid: format!("storage-{i}"),
                ids: page.iter().map(|block| block.id).collect(),
                generation_stamps: page.iter().map(|block| block.generation_stamp).collect(),
                lengths: page.iter().map(|block| block.length).collect(),
                last_of_storage: number == last,
                last: number == last,
                ..v1::BlockReportPage::default()
            })?;
        }
    }
    Ok(())
}

async fn measure_operations(namesystem: &Arc<Namesystem>, operations: u64) -> Result<()> {
    let mut client = 1;
    for (name, callers) in [("1 caller", 1), ("64 callers", 64)] {
        type MakeOp = fn(&str) -> Op;
        let kinds: [(&str, MakeOp); 2] =
            [("mkdir", |name| mkdir(ROOT_INODE, name)), ("create", |name| create(ROOT_INODE, name))];
        for (kind, make) in kinds {
            let rate = measure_rate(namesystem, client, callers, operations, make).await?;
            println!("{kind:8} {name:12} {rate:.0} per s, each logged and synced");
            client += 1;
        }
    }
    Ok(())
}

async fn measure_rate(
    namesystem: &Arc<Namesystem>,
    client: u8,
    callers: u64,
    operations: u64,
    make: fn(&str) -> Op,
) -> Result<f64> {
    // A lone caller waits for each sync: fewer operations say as much.
    let each = if callers == 1 { operations.min(3_000) } else { operations / callers };
    let started = Instant::now();
    let tasks = (0..callers).map(|caller| {
        let namesystem = Arc::clone(namesystem);
        async move {
            let mut id = [client; 16];
            id[0] = u8::try_from(caller).unwrap_or(u8::MAX);
            let name = "bench".to_owned();
            let open = v1::OpenSessionRequest { client_id: id.to_vec().into(), name, ..Default::default() };
            let session = namesystem.open_session(open).await?;
            for call in 1..=each {
                let op = make(&format!("{client}-{caller}-{call}"));
                let header = RequestHeader {
                    caller: Some(v1::Caller::default()),
                    retry: Some(retry(ClientId(id), session.0, call)),
                };
                match op {
                    Op::Create(op) => namesystem.create(Some(header), op, None).await?,
                    op => namesystem.mutate(Some(header), op).await?,
                };
            }
            Ok::<(), DfsError>(())
        }
    });
    futures::future::try_join_all(tasks).await?;
    let lookup = namesystem.namespace().read().lookup(&Identity::root(), ROOT_INODE, b".");
    debug_assert!(lookup.is_ok());
    Ok((callers * each) as f64 / started.elapsed().as_secs_f64())
}

fn root_op(op: Op) -> EditOp {
    EditOp { caller: Some(v1::Caller::default()), time_ns: 1, op: Some(op), ..EditOp::default() }
}

fn mkdir(parent: InodeId, name: &str) -> Op {
    Op::MakeNode(v1::MakeNodeOp {
        parent: parent.0,
        name: name.as_bytes().to_vec().into(),
        mode: FileKind::Directory as u32 | 0o755,
        ..v1::MakeNodeOp::default()
    })
}

fn create(parent: InodeId, name: &str) -> Op {
    Op::Create(v1::CreateOp {
        parent: parent.0,
        name: name.as_bytes().to_vec().into(),
        mode: 0o644,
        replication: REPLICAS as u32,
        block_size: 128 << 20,
        open_for_write: true,
        exclusive: true,
        ..v1::CreateOp::default()
    })
}

fn inode(outcome: Outcome) -> Result<InodeId> {
    match outcome {
        Outcome::Inode(id) | Outcome::Created { inode: id, .. } => Ok(id),
        other => Err(super::namesystem::unexpected(&other)),
    }
}
