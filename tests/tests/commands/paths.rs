//! How paths and command lines may be written.

use std::fs;
use std::os::unix::fs::chown;
use std::process::{Command, Stdio};

use dfs_tests::cases;
use dfs_tests::relay::Relay;
use dfs_tests::suite::Case;

use super::Shell;

pub(super) const CASES: [Case<Shell>; 9] = cases![
    uris_of_this_cluster_are_paths_and_others_are_refused,
    another_name_of_the_namenode_is_the_same_cluster,
    a_pattern_as_destination_is_what_it_matches,
    a_lone_source_goes_where_the_user_is,
    links_stand_for_their_targets_where_files_are_made,
    a_bad_link_keeps_nobody_from_the_other_matches,
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

fn another_name_of_the_namenode_is_the_same_cluster(shell: &Shell) {
    let namenode = shell.cluster.namenodes();
    let (host, port) = namenode.rsplit_once(':').expect("an address");
    assert_eq!(host, "127.0.0.1", "the case needs another name for it");
    // By name, and where no name has anything in common with what the command was given.
    let relay = Relay::start(namenode.clone());
    for authority in [format!("localhost:{port}"), "localhost".to_owned(), relay.address()] {
        shell.dfs(&format!("mkdir hdfs://{authority}/alias"));
        shell.dfs(&format!("touchz hdfs://{authority}/alias/file"));
        assert_eq!(shell.dfs(&format!("ls -C hdfs://{authority}/alias")), "/alias/file\n");
        let said = shell.refused(&format!("mv hdfs://{authority}/alias hdfs://{namenode}/alias/below"));
        assert!(said.contains("cannot be put into itself"), "{said}");
        let said = shell.refused(&format!("cp -f hdfs://{authority}/alias/file /alias/file"));
        assert!(said.contains("/alias/file is the same file"), "{said}");
        shell.dfs("rm -r /alias");
    }
    let said = shell.refused("ls hdfs://127.0.0.1:1/");
    assert!(said.contains("127.0.0.1:1 is not the cluster that is addressed"), "{said}");
}

fn a_pattern_as_destination_is_what_it_matches(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let dir = local.path().display();
    fs::write(local.path().join("local"), "text").unwrap();
    shell.dfs("mkdir -p /glob/x1");
    for name in ["a", "b", "c"] {
        shell.write(&format!("/glob/{name}"), name);
    }
    shell.dfs("cp /glob/a /glob/x*");
    shell.dfs("mv /glob/b /glob/{x1,nothing}");
    shell.dfs(&format!("put {dir}/local /glob/x?"));
    shell.dfs(&format!("appendToFile {dir}/local /glob/[c-d]"));
    assert_eq!(shell.dfs("ls -C /glob/x1"), "/glob/x1/a\n/glob/x1/b\n/glob/x1/local\n");
    assert_eq!(shell.dfs("cat /glob/c"), "ctext");
    shell.dfs("mkdir /glob/x2");
    let before = shell.dfs("find /glob");
    for command in ["cp /glob/a".to_owned(), "mv /glob/a".to_owned(), format!("put {dir}/local")] {
        let said = shell.refused(&format!("{command} /glob/x*"));
        assert!(said.contains("/glob/x*: too many matches: 2 paths"), "{command}: {said}");
        let said = shell.refused(&format!("{command} /glob/y*"));
        assert!(said.contains("/glob/y*: no such file or directory; nothing matches"), "{command}: {said}");
    }
    for command in ["mkdir", "mkdir -p", "touchz", "touch", &format!("appendToFile {dir}/local")] {
        let said = shell.refused(&format!("{command} /glob/y*"));
        assert!(said.contains("/glob/y*: no such file or directory; nothing matches"), "{command}: {said}");
    }
    assert_eq!(shell.dfs("find /glob"), before);
    // A name with such characters in it can be had all the same, and is then found as it is.
    shell.dfs("touchz /glob/y\\*");
    assert_eq!(shell.dfs("ls -C /glob/y*"), "/glob/y*\n");
    assert!(shell.run("put -f - /glob/y*", "text").status.success());
    assert_eq!(shell.dfs("cat /glob/y*"), "text");
}

fn a_lone_source_goes_where_the_user_is(shell: &Shell) {
    // Somebody whose home directory no other case uses, and who may read what he needs.
    const USER: &str = "54321";
    let local = tempfile::tempdir().unwrap();
    fs::write(local.path().join("lone"), "text").unwrap();
    fs::copy(shell.cluster.dfs_command(&[]).get_program(), local.path().join("dfs")).unwrap();
    chown(local.path(), Some(USER.parse().unwrap()), None).unwrap();
    let here = |words: &[&str]| {
        Command::new("setpriv")
            .args(["--reuid", USER, "--regid", USER, "--clear-groups", "--", "./dfs"])
            .args(words)
            .env("DFS_NAMENODES", shell.cluster.namenodes())
            .stdin(Stdio::null())
            .current_dir(local.path())
            .output()
            .expect("run setpriv")
    };
    let home = format!("/user/{USER}");
    // A file in the place of the home directory would be worse than none.
    shell.dfs("mkdir -p /user");
    let output = here(&["put", "lone"]);
    assert!(output.status.code() == Some(1) && !shell.answers(&format!("test -e {home}")), "{output:?}");
    shell.dfs(&format!("mkdir {home}"));
    shell.dfs(&format!("chown {USER} {home}"));
    for words in [&["put", "-l", "-d", "-q", "8", "lone"][..], &["mv", "lone", "there"], &["get", "-crc", "there"]] {
        let output = here(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
    }
    assert_eq!(fs::read_to_string(local.path().join("there")).unwrap(), "text");
    fs::rename(local.path().join("there"), local.path().join("moved")).unwrap();
    let output = here(&["moveFromLocal", "moved"]);
    assert!(output.status.success() && !local.path().join("moved").exists(), "{output:?}");
    assert_eq!(shell.dfs(&format!("cat {home}/moved")), "text");
    shell.dfs(&format!("rm -r {home}"));
}

fn links_stand_for_their_targets_where_files_are_made(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let tree = local.path().join("links");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("empty"), "").unwrap();
    fs::write(tree.join("full"), "text").unwrap();
    for target in ["empty", "full", "new-1", "new-2", "new-3"] {
        std::os::unix::fs::symlink(target, tree.join(format!("to-{target}"))).unwrap();
    }
    fs::write(local.path().join("more"), " more").unwrap();
    let kind = |name: &str| shell.dfs(&format!("stat -c %F /links-made/{name}"));
    shell.dfs(&format!("put {} /links-made", tree.display()));
    let link = kind("to-empty");
    shell.dfs("touchz /links-made/to-empty /links-made/to-new-1");
    let said = shell.refused("touchz /links-made/to-full");
    assert!(said.contains("not a file of zero length"), "{said}");
    shell.dfs("touch -m -t 20010203:040506 /links-made/to-full /links-made/to-new-2");
    let more = local.path().join("more");
    for name in ["to-full", "to-new-3"] {
        shell.dfs(&format!("appendToFile {} /links-made/{name}", more.display()));
    }
    for target in ["empty", "full", "new-1", "new-2", "new-3"] {
        assert_eq!((kind(&format!("to-{target}")), kind(target) == link), (link.clone(), false), "{target}");
    }
    assert_eq!(shell.dfs("cat /links-made/full /links-made/new-3"), "text more more");
    let changed = |name: &str| shell.dfs(&format!("stat -c %Y /links-made/{name}"));
    // 2001-02-03, in whatever zone.
    assert!(changed("new-2").starts_with("9811"), "{}", changed("new-2"));
    assert!(!changed("to-new-2").starts_with("9811"), "the link has its own time");
    shell.dfs("rm -r /links-made");
}

fn a_bad_link_keeps_nobody_from_the_other_matches(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let tree = local.path().join("links-bad");
    fs::create_dir_all(tree.join("d")).unwrap();
    fs::write(tree.join("file"), "text").unwrap();
    fs::write(tree.join("d/below"), "below").unwrap();
    for (link, target) in [("circle", "circle"), ("lost", "nothing")] {
        std::os::unix::fs::symlink(target, tree.join(link)).unwrap();
    }
    shell.dfs(&format!("put {} /links-bad", tree.display()));
    // On the way to something else, a link that leads nowhere is no directory.
    assert_eq!(shell.dfs("cat /links-bad/*/below"), "below");
    let output = shell.run("cat /links-bad/[cfl]*", "");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && output.stdout == b"text", "{output:?}");
    assert!(said.contains("/links-bad/lost: no such file or directory"), "{said}");
    assert!(said.contains("/links-bad/circle: too many levels of symbolic links"), "{said}");
    // The same of matches that are spelled out, because the choices hold slashes.
    for (pattern, printed, words) in [
        ("/links-bad/{d/../lost,d/below}", "below", "/links-bad/lost: no such file or directory"),
        ("/{links-bad/lost,links-bad/file}", "text", "/links-bad/lost: no such file or directory"),
        ("/links-bad/{circle/x,d/below}", "below", "/links-bad/circle/x: too many levels of symbolic links"),
        ("/links-bad/{circle/*,d/*}", "below", "/links-bad/circle: too many levels of symbolic links"),
    ] {
        let output = shell.run(&format!("cat {pattern}"), "");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && output.stdout == printed.as_bytes(), "{pattern}: {output:?}");
        assert!(said.contains(words) && said.lines().count() == 1, "{pattern}: {said}");
    }
    assert_eq!(shell.dfs("cat /links-bad/{lost/x,file/x,nothing/x,d/below}"), "below");
    for command in ["chmod 600", "setrep 1", "ls"] {
        let said = shell.refused(&format!("{command} /links-bad/lo*"));
        assert!(said.matches("no such file").count() == 1, "{command}: {said}");
    }
    shell.dfs("rm /links-bad/[cfl]*");
    assert_eq!(shell.dfs("ls -C /links-bad"), "/links-bad/d\n");
    shell.dfs("rm -r /links-bad");
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
    let said = shell.refused(&format!("copyToLocal /local-uris/a file://server{dir}/c"));
    assert!(said.contains("names another machine"), "{said}");
}
