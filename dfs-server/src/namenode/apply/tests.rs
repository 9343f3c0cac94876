//! Ops one by one, and random histories: every invariant of the namespace holds after each op, refused ops change nothing,
//! and the same log gives the same state.

mod ops;
mod privileges;
mod recovery;
mod sessions;
mod steps;

use std::collections::BTreeMap;

use dfs_common::attr::{FileAttr, FileKind};
use dfs_common::block::Block;
use dfs_common::error::{ErrorKind, Result};
use dfs_common::ids::{ClientId, InodeId, ROOT_INODE};
use dfs_proto::v1::edit_op::Op;
use dfs_proto::v1::{self, EditOp, RemoveKind, RenameFlag, RetryId};
use proptest::prelude::*;

use super::BlockEvent;
use crate::namenode::namespace::Namespace;
use crate::namenode::namespace::directory::HashKey;
use crate::namenode::namespace::inode::{Content, Inode};
use crate::namenode::namespace::permission::Identity;
use crate::namenode::namespace::state_digest::StateDigest;
use crate::namenode::outcome::Outcome;

const CLIENT: ClientId = ClientId([7; 16]);

/// A namespace, a client with a session, and a clock that ticks with each op.
pub(crate) struct Fixture {
    pub(crate) namespace: Namespace,
    events: Vec<BlockEvent>,
    pub(crate) log: Vec<EditOp>,
    call: u64,
    caller: v1::Caller,
    /// Of every op; 0: none.
    step_limit: u32,
}

/// A namespace as the first batch of a log finds it: its digest is begun.
fn new_namespace() -> Namespace {
    let mut namespace = Namespace::new(HashKey(1, 2), 0);
    namespace.meet_digest(Some(StateDigest::default().or_first())).unwrap();
    namespace
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let mut fixture = Self {
            namespace: new_namespace(),
            events: Vec::new(),
            log: Vec::new(),
            call: 0,
            caller: v1::Caller::default(),
            step_limit: 0,
        };
        fixture.open_session(CLIENT);
        fixture
    }

    fn open_session(&mut self, client: ClientId) -> Outcome {
        let op = v1::OpenSessionOp { client_id: client.0.to_vec().into(), ..Default::default() };
        self.apply(EditOp { op: Some(Op::OpenSession(op)), ..EditOp::default() }).unwrap()
    }

    fn apply(&mut self, op: EditOp) -> Result<Outcome> {
        let op = EditOp { step_limit: self.step_limit, ..op };
        self.log.push(op.clone());
        self.namespace.apply(&op, &mut self.events)
    }

    fn retry_id(&self, client: ClientId, incarnation: u64, call: u64) -> RetryId {
        RetryId {
            client_id: client.0.to_vec().into(),
            incarnation,
            call_id: call,
            lowest_pending_call_id: call.saturating_sub(2).max(1),
        }
    }

    pub(crate) fn run(&mut self, op: Op) -> Result<Outcome> {
        self.call += 1;
        let incarnation = self.namespace.session(CLIENT).map_or(1, |session| session.incarnation.0);
        let retry = self.retry_id(CLIENT, incarnation, self.call);
        let time_ns = i64::try_from(self.log.len()).unwrap();
        let caller = Some(self.caller.clone());
        self.apply(EditOp { retry: Some(retry), caller, time_ns, op: Some(op), ..EditOp::default() })
    }

    fn kind_of(&mut self, op: Op) -> Option<ErrorKind> {
        let before = dump(&self.namespace);
        let kind = self.run(op).err().map(|error| error.kind());
        if kind.is_some() {
            assert_eq!(before, dump(&self.namespace), "a refused op changed the namespace");
        }
        kind
    }

    fn make(&mut self, parent: InodeId, name: &str, kind: FileKind) -> InodeId {
        match self.run(make_node(parent, name, kind)).unwrap() {
            Outcome::Inode(id) => id,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn create(&mut self, name: &str) -> InodeId {
        match self.run(create(ROOT_INODE, name)).unwrap() {
            Outcome::Created { inode, created: true } => inode,
            other => panic!("{other:?}"),
        }
    }

    fn add_block(&mut self, id: InodeId, previous: Option<v1::Block>, offset: u64) -> v1::Block {
        let op = v1::AddBlockOp { inode: id.0, previous, offset, ..Default::default() };
        match self.run(Op::AddBlock(op)).unwrap() {
            Outcome::Block(block) => block.into(),
            other => panic!("{other:?}"),
        }
    }

    fn lookup(&self, parent: InodeId, name: &str) -> Option<InodeId> {
        self.namespace.lookup(&Identity::root(), parent, name.as_bytes()).ok()
    }
}

fn bytes(text: &str) -> bytes::Bytes {
    text.as_bytes().to_vec().into()
}

fn make_node(parent: InodeId, name: &str, kind: FileKind) -> Op {
    Op::MakeNode(v1::MakeNodeOp {
        parent: parent.0,
        name: bytes(name),
        mode: kind as u32 | 0o755,
        target: if kind == FileKind::Symlink { bytes("target") } else { bytes("") },
        replication: 3,
        block_size: 1 << 20,
        ..Default::default()
    })
}

fn create(parent: InodeId, name: &str) -> Op {
    Op::Create(v1::CreateOp {
        parent: parent.0,
        name: bytes(name),
        mode: 0o644,
        replication: 3,
        block_size: 1 << 20,
        open_for_write: true,
        exclusive: true,
        ..v1::CreateOp::default()
    })
}

fn create_with_block(parent: InodeId, name: &str) -> Op {
    let Op::Create(op) = create(parent, name) else { unreachable!() };
    let (target_datanodes, target_storages) = (vec!["node".to_owned()], vec!["volume".to_owned()]);
    Op::Create(v1::CreateOp { target_datanodes, target_storages, ..op })
}

fn remove(parent: InodeId, name: &str, kind: RemoveKind) -> Op {
    Op::Remove(v1::RemoveOp { parent: parent.0, name: bytes(name), kind: kind.into(), inode: 0 })
}

fn rename(from: (InodeId, &str), to: (InodeId, &str), flag: RenameFlag) -> Op {
    Op::Rename(v1::RenameOp {
        src_parent: from.0.0,
        src_name: bytes(from.1),
        dst_parent: to.0.0,
        dst_name: bytes(to.1),
        flag: flag.into(),
    })
}

fn complete(id: InodeId, last: Option<v1::Block>) -> Op {
    Op::Complete(v1::CompleteOp { inode: id.0, last, ..v1::CompleteOp::default() })
}

/// Attributes and entries of every inode.
type Dump = Vec<(FileAttr, Vec<(u64, String, InodeId)>)>;

/// Everything visible: attributes and entries of every inode. Access by sessions is left out.
pub(crate) fn dump(namespace: &Namespace) -> Dump {
    let entries = |id: InodeId| {
        let listed = namespace.directory(id).into_iter().flat_map(|directory| directory.after(0));
        listed.map(|(cookie, dentry)| (cookie, dentry.name.to_string(), dentry.inode)).collect()
    };
    // Not `Namespace::attr`: what is in a removed tree is part of the state.
    let attr = |id, inode: &Inode| inode.attr(id, namespace.lease(id).is_some());
    namespace.all_inodes().map(|(id, inode)| (attr(id, inode), entries(id))).collect()
}

/// The invariants in the namespace's header.
fn check_invariants(namespace: &Namespace) {
    let mut names: BTreeMap<InodeId, u32> = BTreeMap::new();
    let mut subdirectories: BTreeMap<InodeId, u32> = BTreeMap::new();
    let (mut files, mut directories, mut blocks) = (0, 0, 0);
    for (id, inode) in namespace.all_inodes() {
        match &inode.content {
            Content::Directory(directory) => {
                directories += 1;
                for (_, dentry) in directory.after(0) {
                    *names.entry(dentry.inode).or_default() += 1;
                    let child = namespace.inode(dentry.inode).expect("an entry names a living inode");
                    if let Some(child) = child.directory() {
                        assert_eq!(child.parent, id, "`..` of {} leads elsewhere", dentry.inode);
                        *subdirectories.entry(id).or_default() += 1;
                    }
                }
            }
            Content::File { blocks: list, .. } => {
                files += 1;
                blocks += list.as_slice().len() as u64;
            }
            _ => files += 1,
        }
    }
    for (id, inode) in namespace.all_inodes() {
        let named = names.get(&id).copied().unwrap_or(0);
        if inode.directory().is_some() {
            if id != ROOT_INODE && inode.nlink != 0 {
                assert_eq!(named, 1, "directory {id}");
            }
            if inode.nlink != 0 {
                assert_eq!(inode.nlink, 2 + subdirectories.get(&id).copied().unwrap_or(0), "directory {id}");
            }
        } else {
            assert_eq!(inode.nlink, named, "inode {id}");
        }
        let is_condemned = inode.nlink == 0 && inode.directory().is_some_and(|directory| !directory.is_empty());
        assert_eq!(namespace.condemned.contains(&id), is_condemned, "inode {id}");
        let kept = namespace.lease(id).is_some() || namespace.holds.has(id) || is_condemned;
        assert!(inode.nlink > 0 || kept, "inode {id} has no name and nobody needs it");
    }
    assert_eq!(namespace.counts(), (files, directories, blocks));
    check_heights(namespace, ROOT_INODE);
    let owners = namespace.leases.lives().chain(namespace.holds.lives());
    for life in owners {
        assert!(namespace.is_alive(life) || namespace.over.contains(&life), "nobody takes the claims of {life:?}");
    }
}

/// Looks at the heights of a directory and of all below it; gives its own.
fn check_heights(namespace: &Namespace, id: InodeId) -> u16 {
    let directory = namespace.directory(id).unwrap();
    let below = directory.after(0).filter(|(_, dentry)| namespace.directory(dentry.inode).is_ok());
    let height = below.map(|(_, dentry)| check_heights(namespace, dentry.inode) + 1).max().unwrap_or(0);
    assert_eq!(directory.heights.height(), height, "directory {id}");
    height
}

/// A random op over a handful of names and directories.
pub(crate) fn any_op() -> impl Strategy<Value = (u8, u8, u8, u8, u8)> {
    (0..13u8, 0..4u8, 0..6u8, 0..4u8, 0..6u8)
}

fn directory(fixture: &Fixture, index: u8) -> InodeId {
    let all: Vec<InodeId> =
        fixture.namespace.all_inodes().filter(|(_, inode)| inode.directory().is_some()).map(|(id, _)| id).collect();
    all[usize::from(index) % all.len()]
}

pub(crate) fn run_random(fixture: &mut Fixture, (what, dir1, name1, dir2, name2): (u8, u8, u8, u8, u8)) {
    let (parent1, parent2) = (directory(fixture, dir1), directory(fixture, dir2));
    let (name1, name2) = (format!("n{name1}"), format!("n{name2}"));
    let found = fixture.lookup(parent1, &name1).unwrap_or(ROOT_INODE);
    // As it comes: no limit, or next to nothing.
    fixture.step_limit = [0, 1, 1, 2][usize::from(dir2)];
    let op = match what {
        0 => make_node(parent1, &name1, FileKind::Directory),
        1 => create(parent1, &name1),
        2 => make_node(parent1, &name1, FileKind::Symlink),
        3 => remove(parent1, &name1, RemoveKind::RemoveUnlink),
        4 => remove(parent1, &name1, if name2 == "n0" { RemoveKind::RemoveRecursive } else { RemoveKind::RemoveRmdir }),
        5 => rename((parent1, &name1), (parent2, &name2), RenameFlag::RenameReplace),
        6 => rename((parent1, &name1), (parent2, &name2), RenameFlag::RenameExchange),
        7 => Op::Link(v1::LinkOp { inode: found.0, new_parent: parent2.0, new_name: bytes(&name2) }),
        8 => complete(found, None),
        9 => Op::Hold(v1::HoldOp { inode: found.0 }),
        10 => Op::ReleaseHold(v1::ReleaseHoldOp { inode: found.0, call_id: 0 }),
        11 if name2 == "n0" => {
            fixture.open_session(CLIENT);
            return;
        }
        _ => Op::Forget(v1::ForgetOp {}),
    };
    // A refusal is as good an outcome as any: the invariants are what is tested.
    let _ = fixture.run(op);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_keep_the_invariants_and_replay_to_the_same_state(
        ops in proptest::collection::vec(any_op(), 1..120)
    ) {
        let mut fixture = Fixture::new();
        for op in ops {
            run_random(&mut fixture, op);
            check_invariants(&fixture.namespace);
        }
        let mut replayed = new_namespace();
        for op in &fixture.log {
            let _ = replayed.apply(op, &mut Vec::new());
        }
        prop_assert_eq!(dump(&replayed), dump(&fixture.namespace));
        prop_assert_eq!(replayed.counters(), fixture.namespace.counters());
    }
}
