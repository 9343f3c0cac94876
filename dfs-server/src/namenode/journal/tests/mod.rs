//! Tests of the log's files and of the whole journal, and what they share: a machine that remembers the numbers it was given.

mod damage;
mod files;
mod images;
mod journal;
mod measure;
mod power_cut;

use std::path::Path;
use std::sync::Arc;

use dfs_common::error::Result;
use dfs_common::ids::TxId;
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{EditOp, ReleaseHoldOp};
use parking_lot::Mutex;
use prost::Message;

use super::raft_types::{Batch, Entry, LogId, Payload};
use super::{Applied, EditReader, Folder, Journal, JournalOptions, Machine, OnFatal};
use crate::namenode::image::format::{ImageHeader, ImageReader, ImageWriter, Section};
use crate::namenode::namespace::state_digest::StateDigest;
use crate::namenode::storage_dir::NameDir;

/// Number that makes the machine panic.
const POISON: u64 = u64::MAX;

fn op(number: u64) -> EditOp {
    EditOp { op: Some(Op::ReleaseHold(ReleaseHoldOp { inode: number, call_id: 0 })), ..EditOp::default() }
}

fn number(op: &EditOp) -> u64 {
    match &op.op {
        Some(Op::ReleaseHold(release)) => release.inode,
        other => panic!("not an op of these tests: {other:?}"),
    }
}

fn entry(term: u64, index: u64, numbers: impl IntoIterator<Item = u64>) -> Entry {
    Entry {
        log_id: LogId::new(openraft::LeaderId::new(term, 1), index),
        payload: Payload::Normal(Batch::of(numbers.into_iter().map(op).collect())),
    }
}

/// The numbers applied, in order; transaction n is the one at n - 1.
#[derive(Default)]
struct Numbers {
    applied: Mutex<Vec<u64>>,
    digest: Mutex<StateDigest>,
}

impl Machine for Numbers {
    type Outcome = TxId;

    fn apply(&self, first_txid: TxId, state_digest: Option<StateDigest>, ops: &[EditOp]) -> Result<Applied<TxId>> {
        let mut applied = self.applied.lock();
        let mut digest = self.digest.lock();
        *digest = met(*digest, state_digest);
        assert_eq!(first_txid.0, applied.len() as u64 + 1);
        let mut outcomes = Vec::new();
        for op in ops {
            assert_ne!(number(op), POISON, "poison");
            applied.push(number(op));
            *digest = mixed(*digest, number(op));
            outcomes.push(Ok(TxId(applied.len() as u64)));
        }
        Ok(Applied { outcomes, state_digest: *digest })
    }

    fn last_applied_txid(&self) -> TxId {
        TxId(self.applied.lock().len() as u64)
    }
}

/// The digest once a batch has come that says `logged`.
fn met(digest: StateDigest, logged: Option<StateDigest>) -> StateDigest {
    let logged = logged.unwrap_or(digest);
    assert!(!digest.is_known() || digest == logged, "another state than the logged one");
    logged
}

fn mixed(digest: StateDigest, number: u64) -> StateDigest {
    if digest.is_known() { digest.with(number) } else { digest }
}

/// Of a log whose first batch says one.
fn digest_of(numbers: &[u64]) -> StateDigest {
    numbers.iter().fold(StateDigest::default().or_first(), |digest, number| mixed(digest, *number))
}

#[derive(Clone, PartialEq, Eq, Message)]
struct NumberRecord {
    #[prost(uint64, tag = "1")]
    number: u64,
}

fn load_numbers(path: &Path) -> Result<(ImageHeader, Vec<u64>)> {
    let mut reader = ImageReader::open(path)?;
    let mut numbers = Vec::new();
    while let Some((_, bytes)) = reader.next_record()? {
        numbers.push(NumberRecord::decode(bytes).unwrap().number);
    }
    Ok((reader.header().clone(), numbers))
}

struct NumberFolder;

impl Folder for NumberFolder {
    fn fold(&self, image: Option<&Path>, edits: &mut EditReader, header: &ImageHeader, out: &Path) -> Result<()> {
        let (base, mut numbers) = image.map_or(Ok(Default::default()), load_numbers)?;
        let mut digest = StateDigest(base.state_digest);
        while let Some(logged) = edits.next_ops()? {
            assert_eq!(logged.first_txid.0, numbers.len() as u64 + 1);
            numbers.extend(logged.ops.iter().map(number));
            digest = logged.ops.iter().map(number).fold(met(digest, logged.state_digest), mixed);
        }
        let header = ImageHeader { state_digest: digest.0, ..header.clone() };
        let mut writer = ImageWriter::create(out, &header)?;
        writer.begin_section(Section::Inodes)?;
        for number in numbers {
            writer.record(&NumberRecord { number })?;
        }
        writer.finish()
    }
}

/// Fatal errors that would have ended the process.
#[derive(Clone, Default)]
struct Fatals(Arc<Mutex<Vec<String>>>);

impl Fatals {
    fn hook(&self) -> OnFatal {
        let fatals = self.0.clone();
        Arc::new(move |error| fatals.lock().push(error.chain()))
    }
}

fn formatted() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    NameDir::format(dir.path(), None, |_, _| Ok(())).unwrap();
    dir
}

/// A journal over the machine of these tests.
struct TestJournal {
    journal: Journal<Numbers>,
    machine: Arc<Numbers>,
    dir: Arc<NameDir>,
    fatals: Fatals,
}

impl TestJournal {
    async fn open(root: &Path) -> Self {
        Self::try_open(root).await.unwrap()
    }

    async fn try_open(root: &Path) -> Result<Self> {
        Self::with_folder(root, Arc::new(NumberFolder)).await
    }

    async fn with_folder(root: &Path, folder: Arc<dyn Folder>) -> Result<Self> {
        Self::retaining(2, root, folder).await
    }

    async fn retaining(images: usize, root: &Path, folder: Arc<dyn Folder>) -> Result<Self> {
        let dir = Arc::new(NameDir::open(root)?);
        let loaded = dir.load_newest(load_numbers)?;
        let (header, numbers, useless) = match loaded {
            Some(((header, numbers), useless)) => (Some(header), numbers, useless),
            None => (None, Vec::new(), Vec::new()),
        };
        let digest = header.as_ref().map_or(0, |header: &ImageHeader| header.state_digest);
        let machine = Arc::new(Numbers { applied: Mutex::new(numbers), digest: Mutex::new(StateDigest(digest)) });
        let fatals = Fatals::default();
        let mut options = JournalOptions::new("127.0.0.1:1", images, folder);
        options.on_fatal = fatals.hook();
        options.useless_images = Arc::new(useless);
        let journal = Journal::start(dir.clone(), machine.clone(), header, options).await?;
        journal.wait_ready().await?;
        Ok(Self { journal, machine, dir, fatals })
    }

    fn numbers(&self) -> Vec<u64> {
        self.machine.applied.lock().clone()
    }

    async fn submit_all(&self, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            self.journal.submit(op(number)).await.unwrap();
        }
    }

    async fn close(self) {
        self.journal.shutdown().await.unwrap();
        assert_eq!(*self.fatals.0.lock(), Vec::<String>::new());
    }
}

/// What a crash at this instant would leave.
fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy_tree(&item.path(), &target);
        } else {
            match std::fs::copy(item.path(), target) {
                Ok(_) => {}
                // The spare being renamed just now.
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
            }
        }
    }
}
