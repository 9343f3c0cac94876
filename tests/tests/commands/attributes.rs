//! Commands that change attributes and names.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use dfs_tests::cases;
use dfs_tests::suite::Case;
use serde_json::Value;

use super::Shell;

pub(super) const CASES: [Case<Shell>; 6] = cases![
    preserve_keeps_times_and_owners_of_symbolic_links,
    cp_keeps_what_its_letters_name,
    touch_sets_the_times_that_are_asked_for,
    rmdir_removes_empty_directories_only,
    chgrp_changes_the_group_alone,
    setfattr_and_getfattr_keep_every_form_of_value,
];

/// Attributes of a path itself.
fn status(shell: &Shell, path: &str) -> Value {
    let document: Value = serde_json::from_str(&shell.dfs(&format!("--json stat {path}"))).expect("stat prints JSON");
    document["files"][0].clone()
}

fn preserve_keeps_times_and_owners_of_symbolic_links(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let top = local.path().join("top");
    fs::create_dir(&top).unwrap();
    fs::write(top.join("file"), "text").unwrap();
    let made = Command::new("sh")
        .args(["-c", "ln -s file link && touch -h -d 2001-02-03T04:05:06Z link && chown -h 12:34 link"])
        .current_dir(&top)
        .status()
        .expect("run sh");
    assert!(made.success());
    let seconds = 981_173_106;
    shell.dfs("mkdir /links");
    shell.dfs(&format!("put -p {} /links", top.display()));
    shell.dfs("cp -p /links/top /links/copy");
    for path in ["/links/top/link", "/links/copy/link"] {
        let status = status(shell, path);
        assert_eq!(status["modification_time_ms"], seconds * 1_000, "{path}: {status}");
        assert_eq!((&status["uid"], &status["gid"]), (&12.into(), &34.into()), "{path}: {status}");
    }
    shell.dfs(&format!("get -p /links/copy {}/back", local.path().display()));
    let back = fs::symlink_metadata(local.path().join("back/link")).unwrap();
    assert!(back.is_symlink());
    assert_eq!((back.mtime(), back.uid(), back.gid()), (seconds, 12, 34));
    let file = fs::metadata(local.path().join("back/file")).unwrap();
    assert!(file.mtime() > seconds && file.uid() == 0, "what it points to has its own");
}

fn cp_keeps_what_its_letters_name(shell: &Shell) {
    shell.dfs("mkdir /letters");
    shell.dfs("mkdir /letters/tree");
    shell.write("/letters/tree/file", "text");
    for path in ["/letters/tree/file", "/letters/tree"] {
        shell.dfs(&format!("setfattr -n user.origin -v here {path}"));
        shell.dfs(&format!("chown 12:34 {path}"));
        shell.dfs(&format!("chmod 2740 {path}"));
    }
    shell.dfs("touch -m -t 20010203:040506 /letters/tree/file");
    let fields = |path: &str| {
        let status = status(shell, path);
        ["permissions", "uid", "gid", "modification_time_ms"].map(|field| status[field].clone())
    };
    let source = fields("/letters/tree/file");
    for (option, keeps_times, keeps_owner, keeps_mode, keeps_xattrs) in [
        ("-p", true, true, true, false),
        ("-ptopax", true, true, true, true),
        ("-pt", true, false, false, false),
        ("-po", false, true, false, false),
        ("-px", false, false, false, true),
        ("-f", false, false, false, false),
    ] {
        shell.dfs(&format!("dfs -cp {option} /letters/tree /letters/copy"));
        let copy = fields("/letters/copy/file");
        assert_eq!(copy[3] == source[3], keeps_times, "{option}: {copy:?}");
        assert_eq!(copy[1..3] == source[1..3], keeps_owner, "{option}: {copy:?}");
        assert_eq!(copy[0] == source[0], keeps_mode, "{option}: {copy:?}");
        for path in ["/letters/copy", "/letters/copy/file"] {
            let xattrs = shell.dfs(&format!("getfattr -d {path}"));
            assert_eq!(xattrs.contains("user.origin=\"here\""), keeps_xattrs, "{option} {path}: {xattrs}");
        }
        shell.dfs("rm -r /letters/copy");
    }
    // A set-group-id bit without the group that it was given for.
    shell.dfs("cp -pp /letters/tree/file /letters/copy");
    assert_eq!(status(shell, "/letters/copy")["permissions"], "0740");
    assert_eq!(shell.run("cp --preserve=z /letters/tree /letters/z", "").status.code(), Some(2));
}

fn touch_sets_the_times_that_are_asked_for(shell: &Shell) {
    shell.dfs("mkdir /touch");
    shell.dfs("touch -c /touch/file");
    assert!(!shell.answers("test -e /touch/file"));
    shell.dfs("touch -t 20200101:120000 /touch/file");
    let (first, times) = (status(shell, "/touch/file"), ["access_time_ms", "modification_time_ms"]);
    assert_eq!(first[times[0]], first[times[1]]);
    shell.dfs("touch -m -t 20210101:120000 /touch/file");
    let second = status(shell, "/touch/file");
    assert_eq!(second[times[0]], first[times[0]]);
    assert!(second[times[1]].as_i64() > first[times[1]].as_i64());
    shell.dfs("touch /touch/file");
    assert!(status(shell, "/touch/file")[times[0]].as_i64() > second[times[1]].as_i64());
    assert!(shell.refused("touch /touch").contains("/touch: is a directory"));
    assert!(shell.refused("touch /nowhere/file").contains("/nowhere: no such file or directory"));
}

fn rmdir_removes_empty_directories_only(shell: &Shell) {
    shell.dfs("mkdir -p /rmdir/empty /rmdir/full");
    shell.dfs("touchz /rmdir/full/file");
    assert_eq!(shell.dfs("rmdir /rmdir/empty"), "");
    assert!(shell.refused("rmdir /rmdir/full").contains("directory not empty"));
    shell.dfs("rmdir --ignore-fail-on-non-empty /rmdir/full");
    assert!(shell.refused("rmdir /rmdir/full/file").contains("not a directory"));
    assert_eq!(shell.dfs("ls -C /rmdir"), "/rmdir/full\n");
}

fn chgrp_changes_the_group_alone(shell: &Shell) {
    shell.dfs("mkdir -p /chgrp/d");
    shell.dfs("chown 12:34 /chgrp");
    shell.dfs("chgrp -R 56 /chgrp");
    for (path, uid) in [("/chgrp", 12), ("/chgrp/d", 0)] {
        let status = status(shell, path);
        assert_eq!((&status["uid"], &status["gid"]), (&uid.into(), &56.into()), "{path}: {status}");
    }
}

fn setfattr_and_getfattr_keep_every_form_of_value(shell: &Shell) {
    shell.dfs("mkdir /fattr");
    shell.dfs("touchz /fattr/file");
    for value in ["hi", "\"hi\"", "0x6869", "0saGk="] {
        shell.dfs(&format!("setfattr -n user.a -v {value} /fattr/file"));
        assert_eq!(shell.dfs("getfattr -n user.a /fattr/file"), "# file: /fattr/file\nuser.a=\"hi\"\n", "{value}");
    }
    shell.dfs("setfattr -n user.b /fattr/file");
    assert_eq!(
        shell.dfs("getfattr -R -d -e hex /fattr"),
        "# file: /fattr\n# file: /fattr/file\nuser.a=0x6869\nuser.b\n"
    );
    shell.dfs("setfattr -x user.a /fattr/file");
    assert!(shell.refused("getfattr -n user.a /fattr/file").contains("no such attribute"));
    assert_eq!(shell.dfs("getfattr -d /fattr/file"), "# file: /fattr/file\nuser.b\n");
}
