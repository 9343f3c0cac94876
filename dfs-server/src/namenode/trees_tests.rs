//! Trees removed through a NameNode with a log: who may, what waits, and what is left when it is killed in between.

use std::pin::pin;
use std::time::{Duration, Instant};

use dfs_common::config_file::Config;
use dfs_common::error::ErrorKind;
use dfs_common::ids::{CallId, ClientId, Incarnation, ROOT_INODE};
use dfs_proto::v1::{self, Caller, MakeNodeOp, RemoveKind, RetryId, SetAttrOp};

use super::*;
use crate::namenode::namespace::{Lease, Session};
use crate::namenode::tree_checks::CHECK_PATIENCE;
use crate::namenode::{daemon, format};

const CLIENT: [u8; 16] = [3; 16];
pub(in crate::namenode) const ALICE: u32 = 1000;

/// A NameNode and a client of it.
pub(in crate::namenode) struct Place {
    _dir: tempfile::TempDir,
    config: Config,
    pub(in crate::namenode) namesystem: Namesystem,
    session: Incarnation,
    calls: std::cell::Cell<u64>,
}

async fn start(config: &Config) -> Namesystem {
    Arc::into_inner(daemon::start(config).await.unwrap()).unwrap()
}

impl Place {
    pub(in crate::namenode) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.set(&format!("dfs.namenode.name.dir={}", dir.path().join("name").display())).unwrap();
        format(&config, None).unwrap();
        let namesystem = start(&config).await;
        let session = namesystem
            .open_session(v1::OpenSessionRequest {
                client_id: CLIENT.to_vec().into(),
                ..v1::OpenSessionRequest::default()
            })
            .await
            .unwrap();
        Self { _dir: dir, config, namesystem, session, calls: std::cell::Cell::new(0) }
    }

    pub(in crate::namenode) fn header(&self, uid: u32) -> Option<RequestHeader> {
        self.calls.set(self.calls.get() + 1);
        let retry = RetryId {
            client_id: CLIENT.to_vec().into(),
            incarnation: self.session.0,
            call_id: self.calls.get(),
            // Calls are made side by side here.
            lowest_pending_call_id: 1,
        };
        Some(RequestHeader { caller: Some(Caller { uid, gid: uid, ..Caller::default() }), retry: Some(retry) })
    }

    pub(in crate::namenode) async fn make(
        &self,
        uid: u32,
        parent: InodeId,
        name: impl AsRef<[u8]>,
        mode: u32,
    ) -> InodeId {
        let (replication, block_size) = (1, 1 << 20);
        let name = name.as_ref().to_vec().into();
        let op = MakeNodeOp { parent: parent.0, name, mode, replication, block_size, ..MakeNodeOp::default() };
        match self.namesystem.mutate(self.header(uid), Op::MakeNode(op)).await.unwrap() {
            Outcome::Inode(id) => id,
            other => panic!("{other:?}"),
        }
    }

    async fn mkdir(&self, uid: u32, parent: InodeId, name: &str) -> InodeId {
        self.make(uid, parent, name, 0o040_755).await
    }

    /// A directory of Alice's in the root.
    async fn alices(&self, name: &str) -> InodeId {
        let id = self.mkdir(0, ROOT_INODE, name).await;
        let op = SetAttrOp { inode: id.0, uid: Some(ALICE), gid: Some(ALICE), ..SetAttrOp::default() };
        self.namesystem.mutate(self.header(0), Op::SetAttr(op)).await.unwrap();
        id
    }

    async fn remove(&self, uid: u32, parent: InodeId, name: &str) -> Option<ErrorKind> {
        let op = Self::removal(parent, name);
        self.namesystem.remove_tree(self.header(uid), op).await.err().map(|error| error.kind())
    }

    fn removal(parent: InodeId, name: &str) -> RemoveOp {
        let (name, kind) = (name.to_owned().into(), RemoveKind::RemoveRecursive.into());
        RemoveOp { parent: parent.0, name, kind, ..RemoveOp::default() }
    }

    fn lookup(&self, parent: InodeId, name: &str) -> Option<InodeId> {
        self.namesystem.namespace().read().lookup(&Identity::root(), parent, name.as_bytes()).ok()
    }

    fn rename(&self, from: (InodeId, &str), to: (InodeId, &str)) -> (Option<RequestHeader>, RenameOp) {
        let op = RenameOp {
            src_parent: from.0.0,
            src_name: from.1.to_owned().into(),
            dst_parent: to.0.0,
            dst_name: to.1.to_owned().into(),
            flag: v1::RenameFlag::RenameReplace.into(),
        };
        (self.header(0), op)
    }
}

#[tokio::test]
async fn remove_tree_asks_for_every_directory_in_it() {
    let place = Place::new().await;
    let top = place.alices("top").await;
    let mine = place.mkdir(ALICE, top, "mine").await;
    let deep = place.mkdir(ALICE, mine, "deep").await;
    let roots = place.mkdir(0, deep, "roots").await;
    for number in 0..2 * WALK_PAGE {
        place.make(ALICE, mine, &format!("f{number}"), 0o100_644).await;
    }
    place.make(0, roots, "kept", 0o100_644).await;
    assert_eq!(place.remove(ALICE, top, "mine").await, Some(ErrorKind::PermissionDenied));
    let root = Identity::root();
    let summary = place.namesystem.content_summary(&root, top).await.unwrap();
    assert_eq!((summary.file_count, summary.directory_count), (2 * WALK_PAGE as u64 + 1, 4));
    assert_eq!(place.remove(0, roots, "kept").await, None);
    assert_eq!(place.remove(ALICE, top, "mine").await, None, "an empty directory asks for nothing");
    assert_eq!(place.namesystem.content_summary(&root, top).await.unwrap().directory_count, 1);
}

#[tokio::test]
async fn content_summary_counts_a_file_with_several_names_once() {
    let place = Place::new().await;
    let top = place.mkdir(0, ROOT_INODE, "top").await;
    let deep = place.mkdir(0, top, "deep").await;
    let file = place.make(0, top, "file", 0o100_644).await;
    place.make(0, top, "other", 0o100_644).await;
    for (parent, name) in [(deep, "again"), (deep, "and again"), (ROOT_INODE, "outside")] {
        let op = v1::LinkOp { inode: file.0, new_parent: parent.0, new_name: name.to_owned().into() };
        place.namesystem.mutate(place.header(0), Op::Link(op)).await.unwrap();
    }
    let root = Identity::root();
    let counts = async |id| {
        let summary = place.namesystem.content_summary(&root, id).await.unwrap();
        (summary.file_count, summary.directory_count)
    };
    assert_eq!(counts(top).await, (2, 2));
    assert_eq!(counts(deep).await, (1, 1), "both names of it that lie here are one file");
    assert_eq!(counts(ROOT_INODE).await, (2, 3));
}

#[tokio::test]
async fn remove_tree_looks_at_the_session_before_the_tree() {
    let place = Place::new().await;
    let top = place.alices("top").await;
    let mine = place.mkdir(ALICE, top, "mine").await;
    let roots = place.mkdir(0, mine, "roots").await;
    place.make(0, roots, "kept", 0o100_644).await;
    assert_eq!(place.remove(ALICE, top, "mine").await, Some(ErrorKind::PermissionDenied));
    place.namesystem.end_session(ClientId(CLIENT), place.session).await.unwrap();
    assert_eq!(place.remove(ALICE, top, "mine").await, Some(ErrorKind::LeaseLost));
}

#[tokio::test]
async fn remove_tree_goes_on_after_a_restart() {
    let place = Place::new().await;
    let top = place.mkdir(0, ROOT_INODE, "top").await;
    for number in 0..1_500 {
        place.make(0, top, &format!("f{number}"), 0o100_644).await;
    }
    assert_eq!(place.remove(0, ROOT_INODE, "top").await, None);
    assert!(place.namesystem.namespace().read().has_leftovers());
    place.namesystem.journal().checkpoint().await.unwrap();
    place.namesystem.journal().shutdown().await.unwrap();
    drop(place.namesystem);
    let namesystem = start(&place.config).await;
    assert!(namesystem.namespace().read().has_leftovers(), "the image shows them");
    namesystem.forget_leftovers().await.unwrap();
    assert_eq!(namesystem.namespace().read().counts(), (0, 1, 0));
    namesystem.journal().shutdown().await.unwrap();
}

#[tokio::test]
async fn renames_into_a_tree_under_check_wait_for_its_end() {
    let place = Place::new().await;
    let top = place.alices("top").await;
    let deep = place.mkdir(ALICE, top, "deep").await;
    let elsewhere = place.mkdir(0, ROOT_INODE, "elsewhere").await;
    for name in ["a", "b"] {
        place.mkdir(0, elsewhere, name).await;
    }
    let check = TreeCheck::begin(&place.namesystem.tree_checks, top).await;
    let (header, op) = place.rename((elsewhere, "b"), (elsewhere, "c"));
    place.namesystem.rename(header, op).await.expect("others are not concerned");
    let (header, op) = place.rename((elsewhere, "a"), (deep, "a"));
    let mut waiting = pin!(place.namesystem.rename(header, op));
    assert!(futures::poll!(&mut waiting).is_pending());
    tokio::task::yield_now().await;
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(check);
    waiting.await.unwrap();
    assert!(place.namesystem.tree_checks.tops.lock().is_empty());
}

#[tokio::test]
async fn what_has_the_name_by_then_is_not_removed_for_what_was_checked() {
    let place = Place::new().await;
    let (checked, _) = (place.alices("a").await, place.mkdir(0, ROOT_INODE, "b").await);
    let (name, kind) = (bytes::Bytes::from("b"), RemoveKind::RemoveRecursive.into());
    let op = RemoveOp { parent: ROOT_INODE.0, name, kind, inode: checked.0 };
    let refused = place.namesystem.mutate(place.header(0), Op::Remove(op)).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_tree_that_takes_the_place_of_an_empty_directory_meanwhile_is_not_removed() {
    let place = Place::new().await;
    let top = place.alices("top").await;
    place.mkdir(ALICE, top, "x").await;
    let others = place.make(0, top, "y", 0o040_700).await;
    place.make(0, others, "file", 0o100_600).await;
    // The removal is planned, and before its op is applied a rename is.
    let alice = Identity { uid: ALICE, gid: ALICE, groups: Vec::new(), is_authorised: false };
    let removal = Place::removal(top, "x");
    let (kind, tree) = place.namesystem.namespace().read().plan_tree_removal(&alice, &removal).unwrap();
    assert_eq!(tree, None, "nothing to look at");
    let (header, op) = place.rename((top, "y"), (top, "x"));
    place.namesystem.rename(header, op).await.unwrap();
    let op = Op::Remove(RemoveOp { kind: kind.into(), ..removal });
    let refused = place.namesystem.mutate(place.header(ALICE), op).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::DirectoryNotEmpty);
    assert_eq!(place.lookup(top, "x"), Some(others));
    assert!(place.lookup(others, "file").is_some());
    place.make(ALICE, top, "f", 0o100_644).await;
    assert_eq!(place.remove(ALICE, top, "f").await, None, "a file is a tree, too");
    place.mkdir(ALICE, top, "empty").await;
    assert_eq!(place.remove(ALICE, top, "empty").await, None);
    assert_eq!(place.remove(0, top, "x").await, None, "root asks nobody");
}

#[tokio::test]
async fn remove_tree_goes_on_with_its_check_when_the_call_comes_again() {
    let place = Place::new().await;
    let top = place.alices("top").await;
    let mine = place.mkdir(ALICE, top, "mine").await;
    for page in 0..8 {
        let names: Vec<String> = (0..WALK_PAGE / 2).map(|number| format!("f{page}-{number}")).collect();
        futures::future::join_all(names.iter().map(|name| place.make(ALICE, mine, name, 0o100_644))).await;
    }
    let removals = &place.namesystem.tree_removals;
    let header = place.header(ALICE);
    for tries in 1.. {
        assert!(tries < 10, "each try begins anew");
        let mut call = pin!(place.namesystem.remove_tree(header.clone(), Place::removal(top, "mine")));
        // Its time is over after two pages of the four.
        let is_answered = futures::poll!(&mut call).is_ready() || futures::poll!(&mut call).is_ready();
        if is_answered || removals.0.lock().is_empty() {
            break;
        }
        assert!(place.namesystem.tree_checks.tops.lock().contains_key(&mine), "renames into it wait");
    }
    place.namesystem.remove_tree(header, Place::removal(top, "mine")).await.unwrap();
    assert_eq!(place.lookup(top, "mine"), None);
    assert!(removals.0.lock().is_empty());
    // The journal's thread answers before it lets go of what the op held.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !place.namesystem.tree_checks.tops.lock().is_empty() {
        assert!(Instant::now() < deadline, "renames into the tree still wait");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_check_whose_call_does_not_come_again_is_given_up() {
    let place = Place::new().await;
    let top = place.alices("top").await;
    let mine = place.mkdir(ALICE, top, "mine").await;
    let names: Vec<String> = (0..WALK_PAGE + 1).map(|number| format!("f{number}")).collect();
    for names in names.chunks(500) {
        futures::future::join_all(names.iter().map(|name| place.make(ALICE, mine, name, 0o100_644))).await;
    }
    {
        let mut call = pin!(place.namesystem.remove_tree(place.header(ALICE), Place::removal(top, "mine")));
        assert!(futures::poll!(&mut call).is_pending());
    }
    let (removals, now) = (&place.namesystem.tree_removals, place.namesystem.clock.instant());
    removals.expire(now);
    assert_eq!(place.namesystem.tree_checks.tops.lock().len(), 1);
    removals.expire(now + CHECK_PATIENCE);
    assert!(place.namesystem.tree_checks.tops.lock().is_empty());
}

#[tokio::test]
async fn all_sessions_long_ended_are_forgotten_at_once() {
    let place = Place::new().await;
    for number in 0..2_000_u64 {
        let mut client = [0; 16];
        client[..8].copy_from_slice(&number.to_le_bytes());
        let session = Session { ended: true, last_op_ns: 1, ..Session::default() };
        place.namesystem.namespace().write().sessions.insert(dfs_common::ids::ClientId(client), session);
    }
    place.namesystem.expire_sessions().await.unwrap();
    assert_eq!(place.namesystem.namespace().read().sessions().count(), 1, "the one that lives");
}

#[tokio::test]
async fn first_block_is_told_to_the_call_that_made_the_file_alone() {
    let place = Place::new().await;
    let header = place.header(0);
    let made_by = call_key(header.as_ref()).unwrap();
    let op = v1::CreateOp {
        parent: ROOT_INODE.0,
        name: "a".into(),
        replication: 1,
        block_size: 1 << 20,
        open_for_write: true,
        target_datanodes: vec!["node".into()],
        target_storages: vec!["volume".into()],
        ..v1::CreateOp::default()
    };
    let made = place.namesystem.mutate(header, Op::Create(op)).await.unwrap();
    let Outcome::Created { inode, .. } = made else { panic!("{made:?}") };
    assert!(place.namesystem.first_block(inode, &made_by).is_some());
    let lease = place.namesystem.namespace().read().lease(inode).unwrap().clone();
    for other in [
        Lease { client: dfs_common::ids::ClientId([9; 16]), ..lease.clone() },
        Lease { incarnation: Incarnation(lease.incarnation.0 + 1), ..lease.clone() },
        Lease { call: CallId(lease.call.0 + 1), ..lease },
    ] {
        place.namesystem.namespace().write().leases.insert(inode, other);
        assert!(place.namesystem.first_block(inode, &made_by).is_none());
    }
}
