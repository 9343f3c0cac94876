//! What others may do: processes of other users on the same mount.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use super::{Case, Mounts, cases};

pub(super) const CASES: [Case<Mounts>; 6] = cases![
    others_are_refused_what_the_mode_forbids,
    supplementary_groups_count,
    sticky_directories_protect_entries,
    only_the_owner_changes_attributes,
    writing_by_others_clears_setuid,
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

/// More blocks than are asked for at once.
fn open_descriptor_reads_on_after_chmod(mounts: &Mounts) {
    let dir = mounts.mount.new_dir("permission-open");
    set(&dir, USER, USER, 0o755);
    allowed(USER, "", &dir, "head -c 60000000 /dev/zero > large");
    allowed(USER, "", &dir, "exec 3< large; chmod 000 large; test $(cat <&3 | wc -c) = 60000000");
    refused(USER, "", &dir, "cat large", "Permission denied");
}
