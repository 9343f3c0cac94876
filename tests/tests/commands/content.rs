//! Commands that move bytes.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::time::Duration;

use dfs_tests::cases;
use dfs_tests::relay::Relay;
use dfs_tests::suite::Case;
use dfs_tests::wait::{poll, wait_until};

use super::Shell;

const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a file whose copy takes so long that something can be done meanwhile.
const LARGE: u64 = 256 << 20;

pub(super) const CASES: [Case<Shell>; 17] = cases![
    append_to_file_makes_a_file_and_adds_to_it,
    append_to_file_tells_of_bytes_that_are_lost_while_it_waits,
    a_file_of_a_mount_is_not_appended_to_itself,
    getmerge_puts_files_in_order_of_name,
    getmerge_writes_to_what_a_link_leads_to,
    get_writes_to_no_device_that_lies_in_the_destination,
    move_from_local_removes_what_it_copied,
    move_from_local_leaves_what_changed_meanwhile,
    move_from_local_of_a_stream_is_refused,
    get_into_a_directory_writes_through_nothing_that_is_there,
    a_second_source_of_a_name_replaces_nothing,
    the_source_that_is_left_of_several_replaces_nothing,
    directories_of_a_source_are_not_mixed_by_a_link,
    mv_takes_a_place_only_with_what_it_has_moved,
    complaints_that_nobody_reads_stop_nothing,
    head_and_text_show_what_is_in_a_file,
    checksum_of_an_empty_file_is_hadoop_s,
];

fn append_to_file_makes_a_file_and_adds_to_it(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let dir = local.path().display();
    fs::write(local.path().join("a"), "one ").unwrap();
    fs::write(local.path().join("b"), "two ").unwrap();
    shell.dfs("mkdir /append");
    shell.dfs(&format!("appendToFile {dir}/a {dir}/b /append/file"));
    assert!(shell.run("appendToFile - /append/file", "three").status.success());
    assert_eq!(shell.dfs("cat /append/file"), "one two three");
    let said = shell.refused(&format!("appendToFile {dir}/a {dir}/missing /append/file"));
    assert!(said.contains("missing: no such file or directory"), "{said}");
    let said = shell.refused(&format!("appendToFile {dir}/a /append"));
    assert!(said.contains("/append: is a directory"), "{said}");
    let said = shell.refused(&format!("appendToFile - {dir}/a /append/file"));
    assert!(said.contains("standard input must be the only source"), "{said}");
    assert_eq!(shell.dfs("cat /append/file"), "one two three", "a refusal appends nothing");
}

fn append_to_file_tells_of_bytes_that_are_lost_while_it_waits(shell: &Shell) {
    let arrived = |bytes: &str| {
        wait_until(PATIENCE, "the bytes to arrive", || shell.dfs("cat /append-lost/file") == bytes);
    };
    shell.dfs("mkdir /append-lost");
    let mut command = shell.cluster.dfs_command(&["appendToFile", "-", "/append-lost/file"]);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("start dfs");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(b"one").unwrap();
    // Short pieces, too, leave by themselves.
    wait_until(PATIENCE, "the file", || shell.answers("test -e /append-lost/file"));
    arrived("one");
    shell.dfs("admin recover-lease /append-lost/file");
    input.write_all(b"two").unwrap();
    let mut said = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut line = String::new();
    while !line.contains("writer failed in the background") {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "the writer fails before the input ends");
    }
    drop(input);
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{rest}");
    assert!(rest.contains("dfs: appendToFile: /append-lost/file: "), "{rest}");
    arrived("one");
}

fn a_file_of_a_mount_is_not_appended_to_itself(shell: &Shell) {
    let mount = shell.cluster.mount("append-itself");
    shell.dfs("mkdir /append-itself");
    shell.write("/append-itself/file", "text");
    let file = mount.path().join("append-itself/file");
    // Also where the command knows the NameNode by an address that the mount does not know.
    let relay = Relay::start(shell.cluster.namenodes());
    for namenodes in [shell.cluster.namenodes(), relay.address()] {
        for source in [file.to_str().unwrap(), "-"] {
            let mut command = shell.cluster.dfs_command(&["appendToFile", source, "/append-itself/file"]);
            command.env("DFS_NAMENODES", &namenodes).stdin(fs::File::open(&file).unwrap()).stderr(Stdio::piped());
            let mut child = command.spawn().expect("start dfs");
            if poll(PATIENCE, || child.try_wait().unwrap()).is_none() {
                child.kill().unwrap();
            }
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(1) && said.contains("/append-itself/file is the same file"), "{said}");
        }
    }
    assert_eq!(shell.dfs("cat /append-itself/file"), "text");
    // What is only called the same is another file.
    shell.write("/append-itself/other", "more");
    shell.dfs(&format!("appendToFile {} /append-itself/file", mount.path().join("append-itself/other").display()));
    assert_eq!(shell.dfs("cat /append-itself/file"), "textmore");
}

fn getmerge_puts_files_in_order_of_name(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let out = local.path().join("out");
    shell.dfs("mkdir -p /merge/parts/sub");
    shell.write("/merge/parts/2", "two");
    shell.write("/merge/parts/1", "one");
    shell.dfs("touchz /merge/parts/0");
    shell.write("/merge/parts/sub/ignored", "never");
    fs::write(&out, "what was there").unwrap();
    let merged = |options: &str| {
        shell.dfs(&format!("getmerge {options} /merge/parts {}", out.display()));
        fs::read_to_string(&out).unwrap()
    };
    assert_eq!(merged(""), "onetwo");
    assert_eq!(merged("-nl"), "\none\ntwo\n");
    assert_eq!(merged("-nl -skip-empty-file"), "one\ntwo\n");
    let said = shell.refused(&format!("getmerge /merge/parts /merge/missing {}", out.display()));
    assert!(said.contains("/merge/missing: no such file or directory"), "{said}");
    assert_eq!(fs::read_to_string(&out).unwrap(), "one\ntwo\n");
}

fn getmerge_writes_to_what_a_link_leads_to(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let at = |name: &str| local.path().join(name);
    let merge_to = |place: &str| format!("getmerge /merge-to {place}");
    shell.dfs("mkdir /merge-to");
    shell.write("/merge-to/1", "one");
    shell.write("/merge-to/2", "two");
    for (link, target) in [("to-old", "old"), ("to-new", "new"), ("stdout", "/dev/stdout")] {
        std::os::unix::fs::symlink(target, at(link)).unwrap();
    }
    fs::write(at("old"), "what was there").unwrap();
    for (link, target) in [("to-old", "old"), ("to-new", "new")] {
        shell.dfs(&merge_to(at(link).to_str().unwrap()));
        assert_eq!(fs::read_to_string(at(target)).unwrap(), "onetwo", "{link}");
        assert!(at(link).is_symlink(), "{link}");
    }
    assert_eq!(shell.dfs(&merge_to("-")), "onetwo");
    // Its own name, were it replaced, would be that of the whole machine's.
    assert_eq!(shell.dfs(&merge_to(at("stdout").to_str().unwrap())), "onetwo");
    assert!(at("stdout").is_symlink() && fs::symlink_metadata("/dev/stdout").unwrap().is_symlink());
    let said = shell.refused(&merge_to(local.path().to_str().unwrap()));
    assert!(said.contains(": is a directory"), "{said}");
}

fn move_from_local_removes_what_it_copied(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let top = local.path().join("top");
    fs::create_dir_all(top.join("deep")).unwrap();
    fs::write(top.join("deep/file"), "text").unwrap();
    std::os::unix::fs::symlink("deep", top.join("link")).unwrap();
    shell.dfs("mkdir /move");
    shell.dfs(&format!("moveFromLocal {} /move", top.display()));
    assert_eq!(shell.dfs("cat /move/top/deep/file"), "text");
    assert!(!top.exists());
    fs::write(&top, "another").unwrap();
    let said = shell.refused(&format!("moveFromLocal {} /move/top/deep/file", top.display()));
    assert!(said.contains("file exists") && said.contains("nothing is removed here"), "{said}");
    assert_eq!(fs::read_to_string(&top).unwrap(), "another");
}

fn move_from_local_leaves_what_changed_meanwhile(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let dir = local.path().canonicalize().unwrap();
    let (first, second) = (dir.join("first"), dir.join("second"));
    fs::write(&first, "copied").unwrap();
    fs::File::create(&second).unwrap().set_len(LARGE).unwrap();
    shell.dfs("mkdir /move-changed");
    let words = ["moveFromLocal", first.to_str().unwrap(), second.to_str().unwrap(), "/move-changed"];
    let child = shell.cluster.dfs_command(&words).stderr(Stdio::piped()).spawn().expect("start dfs");
    // Sources are copied one after the other: once the second is open, the first has been copied.
    let descriptors = format!("/proc/{}/fd", child.id());
    let opened = || {
        let links = fs::read_dir(&descriptors).expect("the command runs").filter_map(Result::ok);
        links.filter_map(|link| fs::read_link(link.path()).ok()).any(|path| path == second)
    };
    wait_until(PATIENCE, "the second source to be opened", opened);
    OpenOptions::new().append(true).open(&first).unwrap().write_all(b" and more").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && said.contains("first: changed since it was copied; not removed"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(&first).unwrap(), "copied and more");
    assert!(!second.exists());
    shell.dfs("rm -r /move-changed");
}

fn get_writes_to_no_device_that_lies_in_the_destination(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let (dir, link) = (local.path().display(), local.path().join("a"));
    shell.dfs("mkdir /get-device");
    shell.write("/get-device/a", "text");
    std::os::unix::fs::symlink("/dev/null", &link).unwrap();
    let said = shell.refused(&format!("get /get-device/a {dir}"));
    assert!(said.contains("file exists; use -f to replace it") && link.is_symlink(), "{said}");
    // Named, it is what is meant.
    shell.dfs(&format!("get /get-device/a {dir}/a"));
    assert!(link.is_symlink());
    shell.dfs(&format!("get -f /get-device/a {dir}"));
    assert!(!link.is_symlink() && fs::read_to_string(&link).unwrap() == "text");
}

fn move_from_local_of_a_stream_is_refused(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let dir = local.path().display();
    std::os::unix::fs::symlink("/dev/null", local.path().join("link")).unwrap();
    fs::write(local.path().join("file"), "text").unwrap();
    shell.dfs("mkdir /move-stream");
    let said = shell.refused(&format!("moveFromLocal {dir}/file {dir}/link /move-stream"));
    assert!(said.contains("link: only files and directories can be moved; use `dfs put`"), "{said}");
    assert_eq!(shell.dfs("ls -C /move-stream"), "");
    assert!(local.path().join("link").is_symlink() && local.path().join("file").exists());
}

fn get_into_a_directory_writes_through_nothing_that_is_there(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let (source, link, fifo) = (local.path().join("source"), local.path().join("link"), local.path().join("fifo"));
    let dir = local.path().display();
    fs::write(&source, "text").unwrap();
    shell.dfs(&format!("put {dir}/source /through"));
    shell.dfs("mkdir /through-names");
    shell.dfs("cp /through /through-names/link");
    shell.dfs("cp /through /through-names/fifo");
    std::os::unix::fs::symlink("/dev/null", &link).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for name in ["link", "fifo"] {
        shell.refused(&format!("get /through-names/{name} {dir}"));
    }
    shell.refused(&format!("get -f /through-names/fifo {dir}"));
    // A link is replaced by the file, not what it leads to.
    shell.dfs(&format!("get -f /through-names/link {dir}"));
    assert!(!link.is_symlink());
    assert_eq!(fs::read_to_string(&link).unwrap(), "text");
    // Named by the user, it is written to.
    shell.dfs(&format!("get -f /through {dir}/link"));
    shell.dfs("get -f /through /dev/null");
    shell.dfs("rm -r /through /through-names");
}

fn a_second_source_of_a_name_replaces_nothing(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let dir = local.path().display();
    for name in ["a", "b"] {
        fs::create_dir_all(local.path().join(name).join("tree")).unwrap();
        fs::write(local.path().join(name).join("tree/x"), name).unwrap();
    }
    shell.dfs("mkdir -p /twice/put /twice/cp");
    shell.dfs(&format!("put {dir}/a {dir}/b /twice"));
    fs::create_dir(local.path().join("got")).unwrap();
    for (command, from, to) in [
        ("put", local.path().to_str().unwrap(), "/twice/put"),
        ("cp", "/twice", "/twice/cp"),
        ("get", "/twice", local.path().join("got").to_str().unwrap()),
    ] {
        for (name, place) in [("tree/x", format!("{to}/x")), ("tree", format!("{to}/tree/x"))] {
            let said = shell.refused(&format!("{command} -f {from}/a/{name} {from}/b/{name} {to}"));
            assert!(said.contains(&format!("b/tree/x: left out: another source goes to {place}")), "{command}: {said}");
            let kept =
                if command == "get" { fs::read_to_string(&place).unwrap() } else { shell.dfs(&format!("cat {place}")) };
            assert_eq!(kept, "a", "{command}");
        }
    }
    let said = shell.refused(&format!("moveFromLocal -f {dir}/a/tree {dir}/b/tree /twice/put"));
    assert!(said.contains("another source goes to") && said.contains("nothing is removed here"), "{said}");
    assert!(local.path().join("a/tree/x").exists() && local.path().join("b/tree/x").exists());
    let said = shell.refused("mv -f /twice/a/tree/x /twice/b/tree/x /twice");
    assert!(said.contains("/twice/b/tree/x: left out: another source goes to /twice/x"), "{said}");
    assert_eq!(shell.dfs("cat /twice/x /twice/b/tree/x"), "ab");
}

fn the_source_that_is_left_of_several_replaces_nothing(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let (tree, dir) = (local.path().join("d"), local.path().display());
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("a"), "new").unwrap();
    std::os::unix::fs::symlink("nothing", tree.join("lost")).unwrap();
    fs::write(local.path().join("b"), "kept").unwrap();
    shell.dfs("mkdir /only-one");
    shell.dfs(&format!("put {dir}/d {dir}/b /only-one"));
    for (command, to) in [("cp -f", "/only-one"), ("mv -f", "/only-one"), ("get -f", local.path().to_str().unwrap())] {
        let mut several = vec!["/only-one/d/a /only-one/missing", "/only-one/missing /only-one/d/a"];
        if command != "mv -f" {
            // A move takes the link itself.
            several.push("/only-one/d/*");
        }
        for sources in several {
            let said = shell.refused(&format!("{command} {sources} {to}/b"));
            assert!(said.contains(&format!("{to}/b: not a directory")), "{command} {sources}: {said}");
            let said = shell.refused(&format!("{command} {sources} {to}/new"));
            assert!(
                said.contains(&format!("{to}/new: no such file or directory; make")),
                "{command} {sources}: {said}"
            );
        }
    }
    assert_eq!(fs::read_to_string(local.path().join("b")).unwrap(), "kept");
    assert!(!local.path().join("new").exists());
    assert_eq!(shell.dfs("cat /only-one/d/a /only-one/b"), "newkept");
    assert_eq!(shell.dfs("ls -C /only-one"), "/only-one/b\n/only-one/d\n");
}

fn directories_of_a_source_are_not_mixed_by_a_link(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let (source, to) = (local.path().join("s"), local.path().join("to"));
    for name in ["a", "b"] {
        fs::create_dir_all(source.join(name)).unwrap();
        fs::write(source.join(name).join("x"), name).unwrap();
    }
    shell.dfs("mkdir /mixed");
    shell.dfs(&format!("put {} /mixed", source.display()));
    let (here, from) = (to.display(), source.display());
    for command in [
        format!("get -f /mixed/s {here}"),
        format!("put -f {from} /mixed/to"),
        "cp -f /mixed/s /mixed/to".to_owned(),
        format!("moveFromLocal -f {from} /mixed/to"),
    ] {
        // The link leads to what is there, or to what is made just before the link is met.
        for is_there in [true, false] {
            let _ = fs::remove_dir_all(&to);
            fs::create_dir_all(to.join("s")).unwrap();
            std::os::unix::fs::symlink("a", to.join("s/b")).unwrap();
            if is_there {
                fs::create_dir(to.join("s/a")).unwrap();
            }
            shell.dfs("rm -r -f /mixed/to");
            shell.dfs(&format!("put {here} /mixed/to"));
            let said = shell.refused(&command);
            assert!(said.contains("s/b: left out: ") && said.contains("another directory"), "{command}: {said}");
            let kept = if command.starts_with("get") {
                fs::read_to_string(to.join("s/a/x")).unwrap()
            } else {
                shell.dfs("cat /mixed/to/s/a/x")
            };
            assert_eq!(kept, "a", "{command}");
        }
    }
    assert!(source.join("a/x").exists() && source.join("b/x").exists(), "nothing is removed");
}

fn mv_takes_a_place_only_with_what_it_has_moved(shell: &Shell) {
    shell.dfs("mkdir -p /places/1/x /places/2/x /places/to/x/full");
    let said = shell.refused("mv -f /places/1/x /places/2/x /places/to");
    assert_eq!(said.matches("/places/to/x: directory not empty").count(), 2, "{said}");
}

fn complaints_that_nobody_reads_stop_nothing(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    fs::write(local.path().join("file"), "text").unwrap();
    shell.dfs("mkdir /unread");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let (missing, file) = (local.path().join("missing"), local.path().join("file"));
    let words = ["put", missing.to_str().unwrap(), file.to_str().unwrap(), "/unread"];
    let status = shell.cluster.dfs_command(&words).stderr(writer).status().expect("run dfs");
    assert_eq!(status.code(), Some(1));
    assert_eq!(shell.dfs("ls -C /unread"), "/unread/file\n");
}

fn head_and_text_show_what_is_in_a_file(shell: &Shell) {
    let local = tempfile::tempdir().unwrap();
    let long = "0123456789".repeat(200);
    shell.dfs("mkdir /text");
    shell.write("/text/long", &long);
    assert_eq!(shell.dfs("head /text/long"), long[..1024]);
    assert_eq!(shell.dfs("text /text/long"), long);
    let packed = local.path().join("packed.gz");
    fs::write(local.path().join("packed"), &long).unwrap();
    let gzip = std::process::Command::new("gzip").arg(local.path().join("packed")).status().expect("run gzip");
    assert!(gzip.success());
    shell.dfs(&format!("put {} /text/packed", packed.display()));
    assert_eq!(shell.dfs("text /text/packed /text/long"), [long.as_str(), &long].concat());
    shell.dfs("truncate 20 /text/packed");
    assert!(shell.refused("text /text/packed").contains("/text/packed: not whole"));
    shell.write("/text/sequence", "SEQ\u{6}...");
    assert!(shell.refused("text /text/sequence").contains("a SequenceFile"));
}

fn checksum_of_an_empty_file_is_hadoop_s(shell: &Shell) {
    shell.dfs("mkdir /sum");
    shell.dfs("touchz /sum/empty");
    let expected = "/sum/empty\tMD5-of-0MD5-of-0CRC32\t00000000000000000000000070bc8f4b72a86921468bf8e8441dce51\n";
    assert_eq!(shell.dfs("checksum /sum/empty"), expected);
    assert_eq!(shell.dfs("checksum --composite /sum/empty"), expected);
}
