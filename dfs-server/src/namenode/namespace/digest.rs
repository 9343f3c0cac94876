//! A number that two copies of the namespace share when they have come the same way.
//!
//! Each applied operation is mixed into it, with what it left behind:
//! - its transaction, its answer, the counters, and how many inodes, blocks, sessions, outcomes of calls, leases and holds there
//!   are;
//! - for each name in it: which inode had that name before, and which has it now;
//! - for each of those inodes, the directories of the names, and the inode that the operation is about: its attributes, the
//!   length of its content and its last two blocks, its lease; and the extended attribute that was set;
//! - for each client in it, who asked or whose session it is about: the session's life, whether that has ended, and how many
//!   outcomes and former lives it has.
//!
//! So a program that answers an operation otherwise, gives out another id, sets another mode, or loses or keeps an inode, a block,
//! a session, an outcome, a lease or a hold has another digest from that operation on.
//!
//! A digest of 0 is not known: the state is that of an image of layout 1, or of a new namespace. The first batch that says one
//! begins it, for every reader at the same operation. The log carries the digest that its writer had before each batch, and an
//! image the one of its state: replay, fold and the taking of an image compare.
//!
//! It follows the way of a state, and is no checksum of one: whether the records of an image are that state, only the program
//! that saved them and the image's own checksums vouch for. Of what an operation reaches without naming it (entries of a tree
//! that is freed, files of a session that ends, sessions that are forgotten) only the numbers count, and of an outcome only that
//! it is remembered: one in the place of another is not seen. Kinds and words of refusals do not count: a version may word them
//! anew and still replay an older log, as long as it remembers the same ones. An operation costs a few hundred nanoseconds.

use bytes::Bytes;
use dfs_common::checksum;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{ClientId, InodeId};
use dfs_proto::v1::EditOp;
use dfs_proto::v1::edit_op::Op;

use super::claims::Lease;
use super::inode::{Content, Inode};
use super::state_digest::StateDigest;
use super::{Namespace, Session};
use crate::namenode::outcome::Outcome;

impl Namespace {
    /// Refuses operations that were made for another state than this one. `logged` is what their batch says; none in logs of
    /// layout 1.
    ///
    /// # Errors
    /// `Internal`: not `Corrupt`, because neither log nor image is damaged, and an older image would lead to the same state.
    pub fn meet_digest(&mut self, logged: Option<StateDigest>) -> Result<()> {
        let Some(logged) = logged else { return Ok(()) };
        if self.counters.digest.is_known() && self.counters.digest != logged {
            return Err(DfsError::new(
                ErrorKind::Internal,
                format!(
                    "the edits up to transaction {} gave another state than they gave the NameNode that logged them: this \
                     program does not apply them as that one did; use that program, or make a checkpoint with it first",
                    self.counters.last_txid
                ),
            ));
        }
        self.counters.digest = logged;
        Ok(())
    }

    /// What an operation names that is about to be applied.
    pub(in crate::namenode) fn named_by<'a>(&self, op: &'a EditOp) -> Named<'a> {
        match (&op.op, &op.retry) {
            (Some(op), retry) if self.counters.digest.is_known() => {
                let mut named = Named::of(op);
                named.before = named.names.map(|name| self.find_name(name));
                named.caller = retry.as_ref().and_then(|retry| ClientId::from_bytes(&retry.client_id));
                named
            }
            _ => Named::default(),
        }
    }

    fn find_name(&self, name: Option<(InodeId, &Bytes)>) -> Option<InodeId> {
        let (parent, name) = name?;
        self.directory(parent).ok()?.find(self.hash_key, name).map(|(_, inode)| inode)
    }

    /// Takes the operation just applied into the digest.
    pub(in crate::namenode) fn digest_op(&mut self, named: &Named<'_>, outcome: &Result<Outcome>) {
        let counters = &self.counters;
        if !counters.digest.is_known() {
            return;
        }
        let digest = counters.digest.with_outcome(outcome).with(self.traces_of(named)).with_all([
            counters.last_txid.0,
            counters.next_inode.0,
            counters.next_block.0,
            counters.next_generation_stamp.0,
            self.file_count,
            self.directory_count,
            self.block_count,
            self.sessions.len() as u64,
            self.sessions.outcomes() as u64,
            self.leases.len() as u64,
            self.holds.len() as u64,
        ]);
        // A digest that comes to 0 by chance is known all the same.
        self.counters.digest = digest.or_first();
    }

    /// What is there now of what the operation named.
    fn traces_of(&self, named: &Named<'_>) -> u64 {
        let mut traces = Traces::default();
        for (name, before) in named.names.iter().zip(named.before) {
            let Some((parent, bytes)) = name else { continue };
            let now = self.find_name(*name);
            self.trace(*parent, &mut traces);
            traces.take_bytes(bytes);
            for inode in [before, now] {
                traces.take(inode.map_or(0, |inode| inode.0));
            }
            before.into_iter().chain(now.filter(|now| before != Some(*now))).for_each(|id| self.trace(id, &mut traces));
        }
        if let Some(id) = named.inode {
            self.trace(id, &mut traces);
        }
        if let Some((id, name)) = named.xattr {
            let xattrs = self.inode(id).ok().and_then(|inode| inode.xattrs.as_deref());
            traces.take_bytes(name);
            match xattrs.and_then(|xattrs| xattrs.get(&name[..])) {
                Some(value) => traces.take_bytes(value),
                None => traces.take(u64::MAX),
            }
        }
        for client in [named.caller, named.client].into_iter().flatten() {
            traces.take_client(client);
            match self.session(client) {
                Some(session) => traces.take_session(session),
                None => traces.take(u64::MAX),
            }
        }
        traces.0
    }

    fn trace(&self, id: InodeId, traces: &mut Traces) {
        traces.take(id.0);
        let Ok(inode) = self.inode(id) else { return };
        traces.take_inode(inode);
        if let (Content::File { .. }, Some(lease)) = (&inode.content, self.lease(id)) {
            traces.take_lease(lease);
        }
    }
}

/// What an operation names, and what had those names before it.
#[derive(Default)]
pub(in crate::namenode) struct Named<'a> {
    inode: Option<InodeId>,
    names: [Option<(InodeId, &'a Bytes)>; 2],
    before: [Option<InodeId>; 2],
    xattr: Option<(InodeId, &'a Bytes)>,
    /// Who asked; none: the NameNode itself.
    caller: Option<ClientId>,
    /// Whose session, or whose lease, it is about.
    client: Option<ClientId>,
}

impl<'a> Named<'a> {
    fn of(op: &'a Op) -> Self {
        let client = |id: &Bytes| Self { client: ClientId::from_bytes(id), ..Self::default() };
        let inode = |inode: u64| Self { inode: Some(InodeId(inode)), ..Self::default() };
        let name = |parent: u64, name| Self { names: [Some((InodeId(parent), name)), None], ..Self::default() };
        match op {
            Op::Create(op) => name(op.parent, &op.name),
            Op::MakeNode(op) => name(op.parent, &op.name),
            Op::Remove(op) => name(op.parent, &op.name),
            Op::Link(op) => Self { inode: Some(InodeId(op.inode)), ..name(op.new_parent, &op.new_name) },
            Op::Rename(op) => {
                let names = [(op.src_parent, &op.src_name), (op.dst_parent, &op.dst_name)];
                Self { names: names.map(|(parent, name)| Some((InodeId(parent), name))), ..Self::default() }
            }
            Op::SetXattr(op) => Self { xattr: Some((InodeId(op.inode), &op.name)), ..inode(op.inode) },
            Op::RemoveXattr(op) => Self { xattr: Some((InodeId(op.inode), &op.name)), ..inode(op.inode) },
            Op::OpenForAppend(op) => inode(op.inode),
            Op::AddBlock(op) => inode(op.inode),
            Op::AbandonBlock(op) => inode(op.inode),
            Op::Complete(op) => inode(op.inode),
            Op::RecordLength(op) => inode(op.inode),
            Op::NewGenerationStamp(op) => inode(op.inode),
            Op::UpdatePipeline(op) => inode(op.inode),
            Op::CloseRecovered(op) => inode(op.inode),
            Op::RevokeLease(op) => Self { inode: Some(InodeId(op.inode)), ..client(&op.client_id) },
            Op::StartRecovery(op) => inode(op.inode),
            Op::ReclaimBlock(op) => inode(op.inode),
            Op::SetAttr(op) => inode(op.inode),
            Op::Truncate(op) => inode(op.inode),
            Op::SetReplication(op) => inode(op.inode),
            Op::Hold(op) => inode(op.inode),
            Op::ReleaseHold(op) => inode(op.inode),
            Op::OpenSession(op) => client(&op.client_id),
            Op::EndSession(op) => client(&op.client_id),
            Op::SettleCalls(op) => client(&op.client_id),
            Op::ForgetSessions(_) | Op::Forget(_) => Self::default(),
        }
    }
}

/// Gathers numbers at one multiplication each: different ones in one place give different sums.
#[derive(Default)]
struct Traces(u64);

impl Traces {
    fn take(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn take_all(&mut self, numbers: impl IntoIterator<Item = u64>) {
        numbers.into_iter().for_each(|number| self.take(number));
    }

    fn take_bytes(&mut self, bytes: &[u8]) {
        self.take((bytes.len() as u64) << 32 | u64::from(checksum::crc32c(bytes)));
    }

    fn take_inode(&mut self, inode: &Inode) {
        self.take_all([inode.mode, inode.uid, inode.gid, inode.nlink].map(u64::from));
        self.take_all([inode.atime_ns, inode.mtime_ns, inode.ctime_ns].map(i64::cast_unsigned));
        self.take(inode.xattrs.as_ref().map_or(0, |xattrs| xattrs.len() as u64));
        match &inode.content {
            Content::Directory(directory) => self.take_all([directory.parent.0, directory.len() as u64]),
            Content::File { blocks, block_size_sectors, replication } => {
                self.take_all([u64::from(*block_size_sectors), u64::from(*replication), blocks.len() as u64]);
                for block in blocks.as_slice().iter().rev().take(2) {
                    self.take_all([block.id.0, block.generation_stamp.0, block.length]);
                }
            }
            Content::Symlink(target) => self.take_bytes(target),
            Content::Special { rdev } => self.take(u64::from(*rdev)),
        }
    }

    fn take_client(&mut self, client: ClientId) {
        let client = u128::from_le_bytes(client.0);
        self.take_all([client as u64, (client >> 64) as u64]);
    }

    fn take_session(&mut self, session: &Session) {
        let (opener, opening) = session.opener;
        self.take_all([session.incarnation.0, u64::from(session.ended), session.lowest_pending.0, opener, opening]);
        self.take_all([session.last_op_ns.cast_unsigned(), session.outcomes.len() as u64, session.former.len() as u64]);
    }

    fn take_lease(&mut self, lease: &Lease) {
        self.take_client(lease.client);
        self.take_all([lease.incarnation.0, lease.call.0]);
        self.take_all([lease.open_block.map_or(0, |block| block.0), lease.recovery_id.map_or(0, |id| id.0)]);
        self.take(u64::from(lease.needs_recovery) | u64::from(lease.is_truncating) << 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namenode::apply::tests::Fixture;

    /// Both answer the same, and leave something else behind.
    #[test]
    fn whatever_an_operation_changes_gives_another_digest() {
        use dfs_proto::v1;
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let attr = |attr: v1::SetAttrOp| Op::SetAttr(v1::SetAttrOp { inode: 1, explicit_times: true, ..attr });
        let node = |mode: u32, target: &'static str| {
            let kind = if target.is_empty() { 0o040_000 } else { 0o120_000 };
            let (name, target) = (bytes("made"), bytes(target));
            Op::MakeNode(v1::MakeNodeOp { parent: 1, name, mode: kind | mode, target, ..Default::default() })
        };
        let xattr = |name, value| {
            let (name, value) = (bytes(name), bytes(value));
            Op::SetXattr(v1::SetXAttrOp { inode: 1, name, value, ..Default::default() })
        };
        let rename = |to| {
            let (src_name, dst_name) = (bytes("file"), bytes(to));
            Op::Rename(v1::RenameOp { src_parent: 1, src_name, dst_parent: 1, dst_name, flag: 0 })
        };
        let replication = |file, replication| Op::SetReplication(v1::SetReplicationOp { inode: file, replication });
        let file = Fixture::new().create("file").0;
        let mode = |mode| attr(v1::SetAttrOp { mode: Some(mode), ..Default::default() });
        let owner = |uid, gid| attr(v1::SetAttrOp { uid: Some(uid), gid: Some(gid), ..Default::default() });
        let times = |a, m| attr(v1::SetAttrOp { atime_ns: Some(a), mtime_ns: Some(m), ..Default::default() });
        for (one, other) in [
            (mode(0o700), mode(0o701)),
            (owner(1, 1), owner(2, 1)),
            (owner(1, 1), owner(1, 2)),
            (times(1, 1), times(2, 1)),
            (times(1, 1), times(1, 2)),
            (node(0o700, ""), node(0o701, "")),
            (node(0o777, "here"), node(0o777, "hers")),
            (xattr("user.a", "1"), xattr("user.a", "2")),
            (xattr("user.a", "1"), xattr("user.b", "1")),
            (rename("x"), rename("y")),
            (replication(file, 2), replication(file, 4)),
        ] {
            let after = |op: &Op| {
                let mut fixture = Fixture::new();
                fixture.create("file");
                let outcome = fixture.run(op.clone()).map_err(|error| error.kind()).unwrap();
                (fixture.namespace.counters().digest, outcome)
            };
            let ((digest, answer), (other_digest, other_answer)) = (after(&one), after(&other));
            assert_eq!(answer, other_answer);
            assert_ne!(digest, other_digest, "{one:?}, {other:?}");
            assert_eq!(after(&one).0, digest);
        }
    }

    /// As if a program had lost something, or kept it, that the next operation does not change and answers alike without.
    #[test]
    fn a_lost_or_extra_lease_outcome_or_end_of_a_session_gives_another_digest() {
        use dfs_common::ids::CallId;
        use dfs_proto::v1;
        const OTHER: ClientId = ClientId([8; 16]);
        let client_id = || Bytes::copy_from_slice(&OTHER.0);
        let after = |differ: &dyn Fn(&mut Namespace), next: &Op| {
            let mut fixture = Fixture::new();
            fixture.create("file");
            let open = v1::OpenSessionOp { client_id: client_id(), ..Default::default() };
            fixture.run(Op::OpenSession(open)).unwrap();
            differ(&mut fixture.namespace);
            let answer = fixture.run(next.clone()).unwrap();
            (fixture.namespace.counters().digest, answer)
        };
        let file = Fixture::new().create("file");
        let lose_lease = |namespace: &mut Namespace| assert!(namespace.leases.remove(file).is_some());
        let extra_outcome = |namespace: &mut Namespace| {
            namespace.sessions.change(OTHER, |session| drop(session.outcomes.insert(CallId(1), Ok(Outcome::Done))));
        };
        let end_session = |namespace: &mut Namespace| {
            namespace.sessions.change(OTHER, |session| session.ended = true);
        };
        let elsewhere = Op::SetAttr(v1::SetAttrOp { inode: 1, mode: Some(0o700), ..Default::default() });
        // Of a life that the client does not have: nothing is to be settled.
        let about_it = Op::SettleCalls(v1::SettleCallsOp { client_id: client_id(), ..Default::default() });
        let check = |what: &str, differ: &dyn Fn(&mut Namespace), next: &Op| {
            let ((digest, answer), (other_digest, other_answer)) = (after(&|_| (), next), after(differ, next));
            assert_eq!(answer, other_answer);
            assert_ne!(digest, other_digest, "{what}");
        };
        check("a lost lease", &lose_lease, &elsewhere);
        check("an extra outcome", &extra_outcome, &elsewhere);
        check("an ended session", &end_session, &about_it);
    }

    #[test]
    fn operations_made_for_another_state_are_refused() {
        let mut fixture = Fixture::new();
        fixture.create("file");
        let digest = fixture.namespace.counters().digest;
        fixture.namespace.meet_digest(Some(digest)).unwrap();
        fixture.namespace.meet_digest(None).unwrap();
        let other = fixture.namespace.meet_digest(Some(digest.with(1)));
        assert_eq!(other.unwrap_err().kind(), ErrorKind::Internal);
        assert_eq!(fixture.namespace.counters().digest, digest);
    }

    #[test]
    fn a_refusal_and_every_other_answer_give_another_digest() {
        let refused = || Err(DfsError::new(ErrorKind::NotFound, "words"));
        let answers = [
            refused(),
            Ok(Outcome::Done),
            Ok(Outcome::Inode(InodeId(1))),
            Ok(Outcome::Inode(InodeId(2))),
            Ok(Outcome::Closed(true)),
        ];
        let digests: std::collections::BTreeSet<u64> =
            answers.iter().map(|answer| StateDigest::default().with_outcome(answer).0).collect();
        assert_eq!(digests.len(), answers.len());
        let reworded = Err(DfsError::new(ErrorKind::InvalidArgument, "other words"));
        assert_eq!(StateDigest(5).with_outcome(&refused()), StateDigest(5).with_outcome(&reworded));
    }
}
