//! How paths and command lines may be written.

use std::fs;

use dfs_tests::cases;
use dfs_tests::suite::Case;

use super::Shell;

pub(super) const CASES: [Case<Shell>; 4] = cases![
    uris_of_this_cluster_are_paths_and_others_are_refused,
    relative_paths_start_in_the_home_directory,
    hadoop_s_spelling_of_commands_and_options_works,
    local_files_may_be_uris,
];

fn uris_of_this_cluster_are_paths_and_others_are_refused(shell: &Shell) {
    let namenode = shell.cluster.namenodes();
    shell.dfs(&format!("mkdir -p hdfs://{namenode}/uris/a"));
    shell.dfs("touchz hdfs:///uris/a/file");
    assert_eq!(shell.dfs(&format!("ls -C hdfs://{namenode}/uris/*")), "/uris/a/file\n");
    shell.dfs(&format!("mv hdfs:/uris/a/file hdfs://{namenode}/uris/moved"));
    for command in ["mkdir -p", "touchz", "ls", "rm -f", "touch", "put /dev/null", "cp /uris/moved"] {
        let said = shell.refused(&format!("{command} hdfs://elsewhere:1/uris/x"));
        assert!(said.contains("elsewhere:1 is not the cluster that is addressed"), "{command}: {said}");
        let said = shell.refused(&format!("{command} s3a://bucket/x"));
        assert!(said.contains("s3a: is no file system of this cluster"), "{command}: {said}");
    }
    assert_eq!(shell.dfs("find /uris"), "/uris\n/uris/a\n/uris/moved\n");
    assert!(!shell.answers("test -e /hdfs:") && !shell.answers("test -e /user/root/hdfs:"));
}

fn relative_paths_start_in_the_home_directory(shell: &Shell) {
    let said = shell.refused("ls no-such-home");
    assert!(said.contains("/user/root/no-such-home: no such file or directory"), "{said}");
    shell.dfs("mkdir -p relative/a");
    assert!(shell.answers("test -d /user/root/relative/a"));
    assert_eq!(shell.dfs("ls -C -d rel*"), "/user/root/relative\n");
    shell.dfs("touchz relative/../relative/b");
    assert_eq!(shell.dfs("ls -C relative"), "/user/root/relative/a\n/user/root/relative/b\n");
    assert!(shell.dfs("ls -C").contains("/user/root/relative\n"));
    assert!(shell.dfs("du").contains("/user/root/relative\n"));
    shell.dfs("rm -r relative");
}

fn hadoop_s_spelling_of_commands_and_options_works(shell: &Shell) {
    shell.dfs("dfs -mkdir -p /spelling/d");
    shell.dfs("dfs -D dfs.replication=1 -touchz /spelling/file");
    assert_eq!(shell.dfs("-find /spelling -name f* -print"), "/spelling/file\n");
    assert_eq!(shell.dfs("dfs -rm -r -skipTrash /spelling/d"), "Deleted /spelling/d\n");
    assert!(shell.dfs("fsck /spelling -files -blocks -locations").contains("is HEALTHY"));
    assert!(shell.dfs("dfsadmin -safemode get").contains("Safe mode is OFF"));
    assert!(shell.dfs("dfsadmin -report -live").contains("(live)"));
}

fn local_files_may_be_uris(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let dir = local.path().display();
    fs::write(local.path().join("a"), "text").unwrap();
    shell.dfs("mkdir /local-uris");
    shell.dfs(&format!("copyFromLocal file://{dir}/a /local-uris/a"));
    shell.dfs(&format!("copyToLocal /local-uris/a file://{dir}/b"));
    assert_eq!(fs::read_to_string(local.path().join("b")).unwrap(), "text");
}
