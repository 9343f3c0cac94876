//! The pages as they are served.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use dfs_tests::cases;
use dfs_tests::cluster::Cluster;
use dfs_tests::secondary::Secondary;
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::wait::{REPAIR, wait_for, wait_until};

use super::{Answer, ask, ask_as, page};

pub(super) const CASES: [Case<Nothing>; 5] = cases![
    every_daemon_answers_with_a_page,
    no_browser_asks_for_what_its_user_does_not_want,
    the_tree_is_browsed_as_others_see_it,
    a_large_directory_is_shown_in_pages,
    a_dead_datanode_is_seen_at_one_glance,
];

/// Names that a page must neither obey nor lose.
pub(super) const ODD_NAMES: [&[u8]; 6] = [
    b"<script>alert(1)<!--",
    b"it's \"quoted\" & <b>bold",
    b"two\nlines",
    b"\xff\xfe not UTF-8",
    b"%2e%2e?after=1#top",
    b"a name that goes on and on without a single place to break it at: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
];

pub(super) fn namenode_page(cluster: &Cluster, path: &str) -> Answer {
    page(&cluster.namenode.host, cluster.namenode.http_port, path)
}

/// Addresses that the page leads to.
fn links(body: &str) -> Vec<&str> {
    body.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

/// What a page says is the matter, but for the room on the disks of this machine.
pub(super) fn findings(body: &str) -> Vec<&str> {
    let (health, _) = body.split_once("</section>").expect("health comes first");
    let findings = health.split("<li class=\"").skip(1);
    findings.filter(|words| !words.contains("The cluster is full") && !words.contains("The cluster fills up")).collect()
}

pub(super) fn wait_well(what: &str, host: &str, port: u16) -> Answer {
    wait_for(REPAIR, format!("{what} to say that all is well"), || {
        // One that begins only now does not listen yet.
        std::net::TcpStream::connect((host, port)).ok()?;
        // And one that listens starts yet, perhaps: it says so with another status.
        Some(ask("GET", host, port, "/")).filter(|page| page.status == 200 && findings(&page.body).is_empty())
    })
}

/// What every answer has, whatever it is.
#[track_caller]
fn check_seal(answer: &Answer) {
    let policy = answer.header("content-security-policy").unwrap_or_default();
    assert!(policy.starts_with("default-src 'none'; style-src 'unsafe-inline'"), "{}", answer.head);
    for (header, value) in
        [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("cache-control", "no-store")]
    {
        assert_eq!(answer.header(header), Some(value), "{}", answer.head);
    }
}

#[track_caller]
fn check_headers(answer: &Answer) {
    check_seal(answer);
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(!answer.body.contains("<script"), "{}", answer.body);
}

fn every_daemon_answers_with_a_page(_: &Nothing) {
    let cluster = Cluster::builder().datanodes(2).volumes(2).start();
    let mut secondary = Secondary::new(&cluster);
    secondary.daemon.start();
    cluster.dfs(&["mkdir", "/directory"]);
    secondary.wait_checkpoint(cluster.status("last_txid").expect("the NameNode serves"));

    let overview = wait_well("the NameNode", &cluster.namenode.host, cluster.namenode.http_port);
    check_headers(&overview);
    assert!(overview.body.contains("2 live"), "{}", overview.body);
    for node in &cluster.datanodes {
        let link = format!("http://{}:{}/", node.host, node.http_port);
        assert!(links(&overview.body).contains(&link.as_str()), "{link} is missing in {}", overview.body);
        for directory in &node.data_dirs {
            assert!(overview.body.contains(&directory.display().to_string()), "{}", overview.body);
        }
        let own = wait_well("a DataNode", &node.host, node.http_port);
        check_headers(&own);
        assert!(own.body.contains("All is well") && own.body.contains(&cluster.namenodes()), "{}", own.body);
    }
    let own = wait_well("the SecondaryNameNode", &cluster.namenode.host, secondary.http_port);
    check_headers(&own);
    assert!(own.body.contains("transaction "), "{}", own.body);
    // Nothing is changed by looking, and nothing else is asked for here.
    let (host, port) = (&cluster.namenode.host, cluster.namenode.http_port);
    for path in ["/", "/browse/", "/browse/directory/"] {
        assert_eq!(ask("POST", host, port, path).status, 405, "{path}");
    }
    for (path, leads_to) in [
        ("/dfshealth.html", "/"),
        ("/explorer?path=%2Fdirectory", "/browse/directory/"),
        ("/browse/directory", "/browse/directory/"),
    ] {
        let answer = ask("GET", host, port, path);
        assert_eq!((answer.status, answer.header("location")), (303, Some(leads_to)), "{path}");
    }
    // What programs read is as it was.
    assert!(serde_json::from_str::<serde_json::Value>(&namenode_page(&cluster, "/status").body).is_ok());
    assert_eq!(namenode_page(&cluster, "/health").body, "ok\n");
}

fn no_browser_asks_for_what_its_user_does_not_want(_: &Nothing) {
    let cluster = Cluster::builder().datanodes(1).replication(1).set("dfs.http.server-names=proxy.example").start();
    let mut secondary = Secondary::new(&cluster);
    secondary.daemon.start();
    let (host, node) = (&cluster.namenode.host, &cluster.datanodes[0]);
    wait_well("the SecondaryNameNode", host, secondary.http_port);
    let own = fs::read_to_string("/proc/sys/kernel/hostname").expect("the machine has a name");
    for port in [cluster.namenode.http_port, node.http_port, secondary.http_port] {
        for (name, status) in
            [("evil.example", 421), ("localhost", 200), ("127.0.0.1:1", 200), (own.trim(), 200), ("proxy.example", 200)]
        {
            let answer = ask_as("GET", host, port, "/", &[("Host", name)]);
            assert_eq!(answer.status, status, "{name}: {}", answer.body);
            check_seal(&answer);
        }
        let refused = ask_as("GET", host, port, "/", &[("Host", "evil.example")]).body;
        assert!(refused.contains("\"evil.example\"") && refused.contains("dfs.http.server-names"), "{refused}");
        for (method, path) in [("GET", "/nothing"), ("DELETE", "/"), ("GET", "/health"), ("GET", "/metrics")] {
            check_seal(&ask(method, host, port, path));
        }
    }
    let name = format!("{host}:{}", node.http_port);
    let own = format!("http://{name}");
    for (said, status) in [
        (&[][..], 202),
        (&[("Origin", own.as_str())], 202),
        (&[("Sec-Fetch-Site", "same-origin")], 202),
        (&[("Origin", "http://evil.example")], 403),
        (&[("Origin", "null")], 403),
        (&[("Sec-Fetch-Site", "cross-site")], 403),
    ] {
        let headers = [&[("Host", name.as_str())], said].concat();
        let answer = ask_as("POST", host, node.http_port, "/scan", &headers);
        assert_eq!(answer.status, status, "{said:?}: {}", answer.body);
        check_seal(&answer);
    }
}

fn the_tree_is_browsed_as_others_see_it(_: &Nothing) {
    let cluster = Cluster::builder().datanodes(1).replication(1).start();
    let mount = cluster.mount("mount");
    for name in ODD_NAMES {
        fs::write(mount.join(OsStr::from_bytes(name)), "bytes of a file").expect("write");
    }
    let private = mount.new_dir("private");
    fs::write(private.join("inside"), "a secret").expect("write");
    fs::set_permissions(&private, Permissions::from_mode(0o700)).expect("chmod");
    fs::write(mount.join("unreadable"), "a secret").expect("write");
    fs::set_permissions(mount.join("unreadable"), Permissions::from_mode(0o600)).expect("chmod");

    let root = namenode_page(&cluster, "/browse/");
    check_headers(&root);
    let entries: Vec<&str> = links(&root.body).into_iter().filter(|link| !link.starts_with('/')).collect();
    assert_eq!(entries.len(), ODD_NAMES.len() + 2, "{entries:?}");
    let replica = cluster.datanodes[0].data_port.to_string();
    for entry in entries.iter().filter(|entry| !["private/", "unreadable"].contains(entry)) {
        let file = namenode_page(&cluster, &format!("/browse/{entry}"));
        check_headers(&file);
        assert!(file.body.contains("15 B (15 bytes)") && file.body.contains("blk_"), "{entry}: {}", file.body);
        assert!(file.body.contains(&replica), "{entry}: where its block is: {}", file.body);
    }
    let unreadable = namenode_page(&cluster, "/browse/unreadable");
    assert!(!unreadable.body.contains("blk_"), "{}", unreadable.body);
    for path in ["/browse/private/", "/browse/private/inside"] {
        let answer = ask("GET", &cluster.namenode.host, cluster.namenode.http_port, path);
        assert_eq!(answer.status, 403, "{path}: {}", answer.body);
        check_headers(&answer);
    }
}

fn a_large_directory_is_shown_in_pages(_: &Nothing) {
    const FILES: usize = 2_500;
    let cluster = Cluster::builder().datanodes(1).replication(1).start();
    let mount = cluster.mount("mount");
    let large = mount.new_dir("large");
    for at in 0..FILES {
        File::create(large.join(format!("file-{at}"))).expect("make a file");
    }
    let (mut seen, mut pages, mut next) = (BTreeSet::new(), 0, Some(String::new()));
    while let Some(query) = next {
        let page = namenode_page(&cluster, &format!("/browse/large/{query}"));
        let links = links(&page.body);
        let entries: Vec<String> =
            links.iter().filter(|link| link.starts_with("file-")).map(|&link| link.to_owned()).collect();
        assert!(entries.len() <= 1_000, "{}", entries.len());
        assert!(entries.into_iter().all(|entry| seen.insert(entry)), "something is shown twice");
        next = links.iter().find(|link| link.starts_with("?after=")).map(|&link| link.to_owned());
        pages += 1;
    }
    assert_eq!((seen.len(), pages), (FILES, 3));
}

fn a_dead_datanode_is_seen_at_one_glance(_: &Nothing) {
    let mut cluster = Cluster::builder().datanodes(3).replication(2).start();
    let mount = cluster.mount("mount");
    fs::write(mount.join("file"), vec![7; 1 << 20]).expect("write");
    cluster.datanodes[0].daemon.kill();
    let name = format!("{}:{}", cluster.datanodes[0].host, cluster.datanodes[0].data_port);
    wait_until(REPAIR, "the page to tell of the dead DataNode", || {
        let body = namenode_page(&cluster, "/").body;
        body.contains(&format!("1 DataNode dead: {name}"))
    });
    let body = namenode_page(&cluster, "/").body;
    assert!(body.contains("2 live, 1 dead") && !body.contains("All is well"), "{body}");
    let (_, table) = body.split_once("<tbody>").expect("there is a table of DataNodes");
    let of_dead = table.find(&name).expect("it is in the table");
    for node in &cluster.datanodes[1..] {
        let of_live = table.find(&format!("{}:{}", node.host, node.data_port)).expect("it is in the table");
        assert!(of_dead < of_live, "what needs a look comes first");
    }
    cluster.start_datanode(0);
    wait_well("the NameNode", &cluster.namenode.host, cluster.namenode.http_port);
}
