//! What others may do: processes of other users on the same mount.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use dfs_common::sys::close;
use rustix::fs::{XattrFlags, getxattr, setxattr, statfs};
use rustix::io::Errno;

use super::{Case, Mounts, assert_errno, assert_fails, cases};

pub(super) const CASES: [Case<Mounts>; 10] = cases![
    others_are_refused_what_the_mode_forbids,
    supplementary_groups_count,
    sticky_directories_protect_entries,
    only_the_owner_changes_attributes,
    writing_by_others_clears_setuid,
    changes_take_privileges_as_on_a_local_file_system,
    refused_write_leaves_a_program_its_privileges,
    chown_to_what_it_is_takes_privileges_and_sets_the_time_of_change,
    nobody_makes_a_program_of_a_file_that_another_mount_writes,
    open_descriptor_reads_on_after_chmod,
];

const USER: u32 = 12_345;
const OTHER_USER: u32 = 12_346;
const TEAM: u32 = 23_456;

/// Runs a script as another user; its exit status and what it complained about.
fn as_user(uid: u32, groups: &str, dir: &Path, script: &str) -> (bool, String) {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid.to_string(), "--regid", &uid.to_string()]);
    if groups.is_empty() {
        command.arg("--clear-groups")
    } else {
        command.args(["--groups", groups])
    };
    let output = command.args(["--", "sh", "-c", script]).current_dir(dir).output().expect("run setpriv");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[track_caller]
fn allowed(uid: u32, groups: &str, dir: &Path, script: &str) {
    let (success, stderr) = as_user(uid, groups, dir, script);
    assert!(success, "{script}: {stderr}");
}

#[track_caller]
fn refused(uid: u32, groups: &str, dir: &Path, script: &str, why: &str) {
    let (success, stderr) = as_user(uid, groups, dir, script);
    assert!(!success && stderr.contains(why), "{script}: success {success}, {stderr:?} instead of {why}");
}

fn set(path: &Path, uid: u32, gid: u32, mode: u32) {
    chown(path, Some(uid), Some(gid)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn others_are_refused_what_the_mode_forbids(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("permission-mode");
    fs::write(dir.join("secret"), b"s").unwrap();
    set(&dir.join("secret"), OTHER_USER, OTHER_USER, 0o600);
    fs::write(dir.join("readable"), b"r").unwrap();
    set(&dir.join("readable"), OTHER_USER, OTHER_USER, 0o644);
    refused(USER, "", &dir, "cat secret", "Permission denied");
    allowed(USER, "", &dir, "cat readable");
    refused(USER, "", &dir, "echo x >> readable", "Permission denied");
    refused(USER, "", &dir, "mkdir new", "Permission denied");
    refused(USER, "", &dir, "rm -f readable", "Permission denied");
    set(&dir, USER, USER, 0o700);
    allowed(USER, "", &dir, "mkdir new && echo mine > new/file && mv new/file new/moved && rm -f readable");
    assert_eq!(fs::metadata(dir.join("new/moved")).unwrap().uid(), USER);
    refused(OTHER_USER, "", mounts.mount.path(), "ls permission-mode", "Permission denied");
}

fn supplementary_groups_count(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("permission-groups");
    set(&dir, 0, TEAM, 0o770);
    refused(USER, "", mounts.mount.path(), "ls permission-groups", "Permission denied");
    let in_mount = mounts.mount.path();
    allowed(USER, &TEAM.to_string(), in_mount, "echo x > permission-groups/file && cat permission-groups/file");
}

fn sticky_directories_protect_entries(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("permission-sticky");
    set(&dir, 0, 0, 0o1777);
    allowed(USER, "", &dir, "echo x > mine");
    refused(OTHER_USER, "", &dir, "rm -f mine", "Operation not permitted");
    refused(OTHER_USER, "", &dir, "mv mine theirs", "Operation not permitted");
    allowed(USER, "", &dir, "mv mine still-mine && rm still-mine");
}

fn only_the_owner_changes_attributes(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("permission-owner");
    set(&dir, 0, 0, 0o777);
    allowed(USER, "", &dir, "echo x > file && chmod 666 file && touch -d @5 file");
    refused(OTHER_USER, "", &dir, "chmod 600 file", "Operation not permitted");
    refused(OTHER_USER, "", &dir, "touch -d @7 file", "Operation not permitted");
    refused(OTHER_USER, "", &dir, "touch -m file", "Operation not permitted");
    allowed(OTHER_USER, "", &dir, "touch file && echo y >> file");
    refused(USER, "", &dir, &format!("chown {OTHER_USER} file"), "Operation not permitted");
    refused(USER, "", &dir, &format!("chgrp {TEAM} file"), "Operation not permitted");
    allowed(USER, &TEAM.to_string(), &dir, &format!("chgrp {TEAM} file"));
}

fn writing_by_others_clears_setuid(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("permission-setuid");
    fs::write(dir.join("program"), b"x").unwrap();
    set(&dir.join("program"), 0, 0, 0o6777);
    allowed(USER, "", &dir, "echo more >> program");
    assert_eq!(fs::metadata(dir.join("program")).unwrap().mode() & 0o7777, 0o777);
}

const CAPABILITIES: &str = "security.capability";

/// A program may have CAP_NET_RAW (`struct vfs_cap_data`, revision 2).
const NET_RAW: [u8; 20] = [0, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn has_capabilities(path: &Path) -> bool {
    match getxattr(path, CAPABILITIES, &mut [0; 64][..]) {
        Err(Errno::NODATA) => false,
        found => found.unwrap() > 0,
    }
}

/// A user and his groups.
type Who = (u32, &'static str);

const ROOT: Who = (0, "");
const STRANGER: Who = (USER, "");
/// Of [`TEAM`].
const MEMBER: Who = (USER, "23456");

/// What somebody does to a program, and what is left of it.
struct Change {
    owner: u32,
    mode: u32,
    who: Who,
    script: &'static str,
    mode_left: u32,
    keeps_capabilities: bool,
}

/// The program is `p`, has 3 bytes, capabilities, and the group [`TEAM`].
const CHANGES: [Change; 20] = {
    const fn change(
        owner: u32,
        mode: u32,
        who: Who,
        script: &'static str,
        mode_left: u32,
        keeps_capabilities: bool,
    ) -> Change {
        Change { owner, mode, who, script, mode_left, keeps_capabilities }
    }
    [
        change(0, 0o6777, STRANGER, "echo x >> p", 0o777, false),
        change(0, 0o6777, STRANGER, ": > p", 0o777, false),
        change(0, 0o6777, STRANGER, "truncate -s 1 p", 0o777, false),
        change(0, 0o6777, STRANGER, "truncate -s 3 p", 0o777, false),
        change(0, 0o6777, STRANGER, "exec 3>> p; truncate -s 0 p; : > p", 0o777, false),
        change(0, 0o6777, STRANGER, "exec 3>> p", 0o6777, true),
        change(0, 0o2666, STRANGER, "echo x >> p", 0o666, false),
        change(0, 0o2666, MEMBER, "exec 3>> p; echo x >&3; echo y >&3", 0o2666, false),
        change(0, 0o2676, MEMBER, "echo x >> p", 0o676, false),
        change(0, 0o6777, ROOT, "echo x >> p", 0o6777, false),
        change(0, 0o6777, ROOT, "truncate -s 1 p", 0o6777, false),
        change(0, 0o6777, ROOT, ": > p", 0o6777, false),
        change(0, 0o6777, ROOT, "chown 0 p", 0o777, false),
        change(0, 0o2666, ROOT, "chgrp 77 p", 0o2666, false),
        change(USER, 0o6755, MEMBER, "chgrp 23456 p", 0o755, false),
        change(USER, 0o644, STRANGER, "chmod 2755 p", 0o755, true),
        change(USER, 0o644, MEMBER, "chmod 2755 p", 0o2755, true),
        // A write before the bits came, and one after.
        change(USER, 0o644, MEMBER, "exec 3>> p; echo x >&3; chmod 6755 p; exec 3>&-", 0o6755, false),
        change(USER, 0o644, MEMBER, "exec 3>> p; echo x >&3; chmod 6755 p; echo y >&3", 0o755, false),
        change(USER, 0o4755, STRANGER, "exec 3>> p; echo x >&3; chmod 4755 p; echo y >&3; chmod 4711 p", 0o4711, false),
    ]
};

fn make_program(program: &Path, owner: u32, mode: u32) {
    fs::write(program, b"abc").unwrap();
    set(program, owner, TEAM, mode);
    setxattr(program, CAPABILITIES, &NET_RAW, XattrFlags::empty()).unwrap();
}

impl Change {
    fn check(&self, program: &Path) {
        make_program(program, self.owner, self.mode);
        allowed(self.who.0, self.who.1, program.parent().unwrap(), self.script);
        self.check_left(program);
    }

    fn check_left(&self, program: &Path) {
        let left = (fs::metadata(program).unwrap().mode() & 0o7777, has_capabilities(program));
        let Self { who, script, mode, .. } = self;
        let about = format!("{script} by {who:?} on {mode:o} at {}", program.display());
        assert_eq!(left, (self.mode_left, self.keeps_capabilities), "{:o} is left of {about}", left.0);
    }
}

/// The table is Linux's, since 6.2. Where the temporary directory is on a file system that has all this, it shows that.
fn changes_take_privileges_as_on_a_local_file_system(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("permission-privileges");
    let local = tempfile::tempdir().unwrap();
    let is_real = follows_the_table(local.path());
    for directory in [dir.as_path(), local.path()] {
        set(directory, 0, 0, 0o755);
    }
    for (number, change) in CHANGES.iter().enumerate() {
        let name = format!("{number}/p");
        fs::create_dir(dir.join(number.to_string())).unwrap();
        change.check(&dir.join(&name));
        change.check_left(&mounts.other.join("permission-privileges").join(&name));
        if is_real {
            fs::create_dir(local.path().join(number.to_string())).unwrap();
            change.check(&local.path().join(&name));
        }
    }
}

/// Whether this kernel and the file system at `path` follow the rules of today.
fn follows_the_table(path: &Path) -> bool {
    /// ext4, XFS, Btrfs, tmpfs.
    const REAL: [u64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994];
    let kind = statfs(path).unwrap().f_type as u64;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let is_real = REAL.contains(&kind) && version >= (6, 2);
    if !is_real {
        eprintln!("not compared with {}: file system {kind:x}, Linux {release}", path.display());
    }
    is_real
}

fn refused_write_leaves_a_program_its_privileges(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("permission-refused");
    let program = dir.join("p");
    make_program(&program, 0, 0o6777);
    let in_the_middle = "printf x | dd of=p conv=notrunc bs=1 seek=1 status=none";
    refused(USER, "", &dir, in_the_middle, "not supported");
    assert_eq!((fs::metadata(&program).unwrap().mode() & 0o7777, has_capabilities(&program)), (0o6777, true));
}

fn chown_to_what_it_is_takes_privileges_and_sets_the_time_of_change(mounts: &Mounts) {
    let program = mounts.mount.new_dir("permission-chown").join("p");
    make_program(&program, 0, 0o6755);
    let changed = |meta: &fs::Metadata| (meta.ctime(), meta.ctime_nsec());
    let before = fs::metadata(&program).unwrap();
    chown(&program, None, None).unwrap();
    let after = fs::metadata(&program).unwrap();
    assert_eq!((after.mode() & 0o7777, has_capabilities(&program)), (0o755, false));
    assert!(changed(&after) > changed(&before) && after.modified().unwrap() == before.modified().unwrap());
}

/// Else whoever has it open there could write what others execute here with the rights of its owner.
fn nobody_makes_a_program_of_a_file_that_another_mount_writes(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("permission-written");
    let there = mounts.other.join("permission-written/file");
    let mut file = fs::File::create(dir.join("file")).unwrap();
    file.write_all(b"x").unwrap();
    assert_errno(fs::set_permissions(&there, Permissions::from_mode(0o4755)), Errno::BUSY);
    let given = setxattr(&there, CAPABILITIES, &NET_RAW, XattrFlags::empty());
    assert_fails(given, Errno::BUSY);
    fs::set_permissions(&there, Permissions::from_mode(0o2664)).unwrap();
    close(file).unwrap();
    fs::set_permissions(&there, Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(fs::metadata(&there).unwrap().mode() & 0o7777, 0o4755);
}

/// More blocks than are asked for at once.
fn open_descriptor_reads_on_after_chmod(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("permission-open");
    set(&dir, USER, USER, 0o755);
    allowed(USER, "", &dir, "head -c 60000000 /dev/zero > large");
    allowed(USER, "", &dir, "exec 3< large; chmod 000 large; test $(cat <&3 | wc -c) = 60000000");
    refused(USER, "", &dir, "cat large", "Permission denied");
}
