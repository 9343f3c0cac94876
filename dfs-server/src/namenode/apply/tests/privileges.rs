//! Which changes take set-id bits and file capabilities, from whom, and who may give them.

use super::*;

const OTHER: ClientId = ClientId([8; 16]);
const CAPABILITIES: &[u8] = b"security.capability";

const OWNER: u32 = 1000;
const GROUP: u32 = 50;

fn user(uid: u32, groups: &[u32], is_authorised: bool) -> v1::Caller {
    v1::Caller { uid, gid: uid, groups: groups.to_vec(), is_authorised }
}

fn set_attr(id: InodeId, change: v1::SetAttrOp) -> Op {
    Op::SetAttr(v1::SetAttrOp { inode: id.0, ..change })
}

fn chmod(id: InodeId, mode: u32) -> Op {
    set_attr(id, v1::SetAttrOp { mode: Some(mode), ..Default::default() })
}

fn set_capabilities(id: InodeId) -> Op {
    Op::SetXattr(v1::SetXAttrOp { inode: id.0, name: CAPABILITIES.into(), value: bytes("caps"), flag: 0 })
}

impl Fixture {
    /// A new namespace's rules, and a file of [`OWNER`] and [`GROUP`] with this mode and capabilities, which nobody writes.
    fn with_program(mode: u32) -> (Self, InodeId) {
        let mut fixture = Self::new();
        fixture.step_limit = 500;
        let id = fixture.make(ROOT_INODE, "program", FileKind::File);
        let owner = v1::SetAttrOp { uid: Some(OWNER), gid: Some(GROUP), ..Default::default() };
        fixture.run(set_attr(id, owner)).unwrap();
        fixture.run(chmod(id, mode)).unwrap();
        fixture.run(set_capabilities(id)).unwrap();
        (fixture, id)
    }

    fn privileges(&self, id: InodeId) -> (u32, bool) {
        let inode = self.namespace.inode(id).unwrap();
        (inode.mode & 0o7777, inode.has_capabilities())
    }

    fn run_elsewhere(&mut self, op: Op) -> Option<ErrorKind> {
        self.call += 1;
        let incarnation = self.namespace.session(OTHER).unwrap().incarnation.0;
        let retry = Some(self.retry_id(OTHER, incarnation, self.call));
        let op = EditOp { retry, caller: Some(v1::Caller::default()), op: Some(op), ..EditOp::default() };
        let checked = self.namespace.check(&op).err().map(|error| error.kind());
        let applied = self.apply(op).err().map(|error| error.kind());
        assert_eq!(checked, applied, "the leader refuses what apply refuses");
        applied
    }
}

#[test]
fn changes_of_content_and_owner_take_privileges_as_linux_does() {
    let cut: fn(InodeId) -> Op = |id| Op::Truncate(v1::TruncateOp { inode: id.0, length: 0 });
    let rewrite: fn(InodeId) -> Op = |id| Op::OpenForAppend(v1::OpenForAppendOp { inode: id.0, truncate: true });
    let open: fn(InodeId) -> Op = |id| Op::OpenForAppend(v1::OpenForAppendOp { inode: id.0, truncate: false });
    let write: fn(InodeId) -> Op = |id| set_attr(id, v1::SetAttrOp { kill_privileges: true, ..Default::default() });
    let write_by_root: fn(InodeId) -> Op =
        |id| set_attr(id, v1::SetAttrOp { kill_capabilities: true, ..Default::default() });
    let cut_to_the_same: fn(InodeId) -> Op = |id| {
        let change =
            v1::SetAttrOp { kill_privileges: true, mtime_ns: Some(77), explicit_times: true, ..Default::default() };
        set_attr(id, change)
    };
    let chown: fn(InodeId) -> Op = |id| set_attr(id, v1::SetAttrOp { uid: Some(OWNER), ..Default::default() });
    let chown_to_nobody: fn(InodeId) -> Op = |id| set_attr(id, v1::SetAttrOp::default());
    let chmod_2755: fn(InodeId) -> Op = |id| chmod(id, 0o2755);
    let (root, owner, member) = (user(0, &[], false), user(OWNER, &[], false), user(7, &[GROUP], false));
    let (stranger, opener) = (user(7, &[], false), user(7, &[], true));
    let cases = [
        ("cut", cut, &stranger, 0o6777, Some((0o777, false))),
        ("cut", cut, &stranger, 0o6755, None),
        ("cut through a descriptor", cut, &opener, 0o6755, Some((0o755, false))),
        ("cut", cut, &owner, 0o6755, Some((0o755, false))),
        ("cut", cut, &root, 0o6755, Some((0o6755, false))),
        ("cut", cut, &member, 0o2666, Some((0o2666, false))),
        ("cut", cut, &stranger, 0o2666, Some((0o666, false))),
        ("rewrite", rewrite, &stranger, 0o6777, Some((0o777, false))),
        ("rewrite", rewrite, &root, 0o6777, Some((0o6777, false))),
        ("open", open, &stranger, 0o6777, Some((0o6777, true))),
        ("write", write, &opener, 0o6755, Some((0o755, false))),
        ("write", write, &stranger, 0o6755, None),
        ("write by root without CAP_FSETID", write, &root, 0o6755, Some((0o755, false))),
        ("write", write_by_root, &root, 0o6755, Some((0o6755, false))),
        ("cut to the same", cut_to_the_same, &opener, 0o6755, Some((0o755, false))),
        ("chown", chown, &owner, 0o6755, Some((0o755, false))),
        ("chown", chown, &root, 0o6755, Some((0o755, false))),
        ("chown", chown, &root, 0o2644, Some((0o2644, false))),
        ("chown", chown, &owner, 0o2644, Some((0o644, false))),
        ("chown", chown, &stranger, 0o755, None),
        ("chown -1", chown_to_nobody, &owner, 0o6755, Some((0o755, false))),
        ("chown -1", chown_to_nobody, &stranger, 0o755, Some((0o755, false))),
        ("chown -1", chown_to_nobody, &stranger, 0o4755, None),
        ("chmod", chmod_2755, &owner, 0o755, Some((0o755, true))),
        ("chmod", chmod_2755, &root, 0o755, Some((0o2755, true))),
    ];
    for (name, op, who, before, after) in cases {
        let (mut fixture, id) = Fixture::with_program(before);
        fixture.caller = who.clone();
        let refusal = fixture.kind_of(op(id));
        assert_eq!(refusal.is_some(), after.is_none(), "{name} by {who:?} of {before:o}: {refusal:?}");
        assert_eq!(fixture.privileges(id), after.unwrap_or((before, true)), "{name} by {who:?} of {before:o}");
    }
}

#[test]
fn directories_keep_their_bits_when_they_change_hands_and_lose_set_group_id_by_chmod() {
    let mut fixture = Fixture::new();
    fixture.step_limit = 500;
    let id = fixture.make(ROOT_INODE, "directory", FileKind::Directory);
    fixture.run(chmod(id, 0o2775)).unwrap();
    fixture.run(set_attr(id, v1::SetAttrOp { uid: Some(OWNER), gid: Some(GROUP), ..Default::default() })).unwrap();
    assert_eq!(fixture.privileges(id).0, 0o2775);
    fixture.caller = user(OWNER, &[], false);
    fixture.run(chmod(id, 0o2770)).unwrap();
    assert_eq!(fixture.privileges(id).0, 0o770);
}

#[test]
fn nobody_makes_a_program_of_a_file_that_another_session_writes() {
    let mut fixture = Fixture::new();
    fixture.step_limit = 500;
    fixture.open_session(OTHER);
    let id = fixture.create("file");
    for mode in [0o4644, 0o2755] {
        assert_eq!(fixture.run_elsewhere(chmod(id, mode)), Some(ErrorKind::Busy), "{mode:o}");
    }
    assert_eq!(fixture.run_elsewhere(set_capabilities(id)), Some(ErrorKind::Busy));
    assert_eq!(fixture.run_elsewhere(chmod(id, 0o2664)), None, "no program");
    // The writer's own session sees to it.
    fixture.run(chmod(id, 0o4755)).unwrap();
    fixture.run(set_capabilities(id)).unwrap();
    assert_eq!(fixture.run_elsewhere(chmod(id, 0o4711)), None, "it is one already");
    fixture.run(complete(id, None)).unwrap();
    fixture.run(chmod(id, 0o755)).unwrap();
    assert_eq!(fixture.run_elsewhere(chmod(id, 0o4755)), None);
}

#[test]
fn ops_logged_before_there_were_these_rules_are_replayed_without_them() {
    let (mut fixture, id) = Fixture::with_program(0o2644);
    fixture.step_limit = 0;
    fixture.caller = user(OWNER, &[], false);
    fixture.run(Op::Truncate(v1::TruncateOp { inode: id.0, length: 0 })).unwrap();
    assert_eq!(fixture.privileges(id), (0o2644, true));
    fixture.run(chmod(id, 0o4644)).unwrap();
    fixture.run(set_attr(id, v1::SetAttrOp { uid: Some(OWNER), ..Default::default() })).unwrap();
    assert_eq!(fixture.privileges(id), (0o644, true));
}
