//! What the shell says to those who ask for what they may not have, or for what is not there.

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use dfs_tests::cases;
use dfs_tests::cluster::Cluster;
use dfs_tests::suite::{Case, Nothing};
use serde_json::Value;

pub(super) const CASES: [Case<Nothing>; 3] = cases![
    commands_of_the_superuser_are_refused_to_others,
    fsck_of_a_path_that_is_not_there_is_never_healthy,
    recover_lease_says_what_there_is_to_recover,
];

/// A user who owns nothing.
const NOBODY: u32 = 65_534;

/// Standard output and error of a command that must fail with exit status 1.
#[track_caller]
fn words_of_failure(output: &Output) -> (String, String) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn refused(cluster: &Cluster, arguments: &[&str]) -> (String, String) {
    words_of_failure(&cluster.dfs_command(arguments).output().expect("run dfs"))
}

fn commands_of_the_superuser_are_refused_to_others(_: &Nothing) {
    let cluster = Cluster::builder().datanodes(1).replication(1).start();
    // Where the programs lie, others may not look. Copied by a child: no other child has it open for writing then.
    let program = cluster.dir().join("dfs");
    let copied = Command::new("cp").arg(cluster.dfs_command(&[]).get_program()).arg(&program).status().expect("run cp");
    assert!(copied.success());
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.env("DFS_NAMENODES", cluster.namenodes()).args(arguments).current_dir("/");
        command.uid(NOBODY).gid(NOBODY).output().expect("run dfs as nobody")
    };
    for arguments in [
        &["balancer"][..],
        &["admin", "safemode", "enter"],
        &["admin", "safemode", "leave"],
        &["admin", "save-namespace"],
        &["admin", "refresh-nodes"],
    ] {
        let (stdout, stderr) = words_of_failure(&as_nobody(arguments));
        assert!(stdout.is_empty() && stderr.contains("run it as the superuser"), "{arguments:?}: {stdout} {stderr}");
    }
    // To look is everybody's.
    for arguments in [&["admin", "report"][..], &["admin", "safemode", "get"], &["fsck", "/"]] {
        let output = as_nobody(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    cluster.dfs(&["touchz", "/file"]);
    let (stdout, stderr) = words_of_failure(&as_nobody(&["admin", "recover-lease", "/file"]));
    assert!(stdout.is_empty() && stderr.contains("only the owner or root"), "{stdout} {stderr}");
}

fn fsck_of_a_path_that_is_not_there_is_never_healthy(_: &Nothing) {
    let cluster = Cluster::builder().datanodes(1).replication(1).start();
    cluster.dfs(&["mkdir", "/there"]);
    // A relative path starts in the home directory.
    for (path, absolute) in [("/nowhere", "/nowhere"), ("nowhere", "/user/root/nowhere")] {
        let (stdout, stderr) = refused(&cluster, &["fsck", path]);
        let words = format!("dfs: fsck: {absolute}: no such file or directory");
        assert!(stdout.is_empty() && stderr.contains(&words), "{stdout} {stderr}");
    }
    let (stdout, stderr) = refused(&cluster, &["fsck", "/nowhere", "/there"]);
    assert!(stdout.contains("The filesystem under path '/there' is INCOMPLETE"), "{stdout}");
    assert!(stderr.contains("/nowhere"), "{stderr}");
    let (stdout, _) = refused(&cluster, &["--json", "fsck", "/nowhere"]);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["healthy"], &report["complete"]), (&false.into(), &false.into()), "{report}");
    assert!(cluster.dfs(&["fsck", "/there"]).contains("The filesystem under path '/there' is HEALTHY"));
    cluster.dfs(&["mkdir", "-p", "/user/root/there"]);
    assert!(cluster.dfs(&["fsck", "there"]).contains("The filesystem under path '/user/root/there' is HEALTHY"));
}

fn recover_lease_says_what_there_is_to_recover(_: &Nothing) {
    let cluster = Cluster::builder().datanodes(1).replication(1).start();
    cluster.dfs(&["touchz", "/file"]);
    let said = cluster.dfs(&["admin", "recover-lease", "/file"]);
    assert!(said.contains("/file is closed already: there is nothing to recover"), "{said}");
    let (_, stderr) = refused(&cluster, &["admin", "recover-lease", "/"]);
    assert!(stderr.contains("/: is a directory; only files are open for writing"), "{stderr}");
    let (_, stderr) = refused(&cluster, &["admin", "recover-lease", "/nowhere"]);
    assert!(stderr.contains("/nowhere: no such file or directory"), "{stderr}");
}
