//! More connections than a daemon may have descriptors: idle ones, ones that asked before, ones that never end a request.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use dfs_common::sys;
use dfs_tests::cases;
use dfs_tests::cluster::{Cluster, http_get};
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::workload::Pattern;

use super::streams::{RESIDENT_MAX_KIB, http2_call, resident_kib};

pub(super) const CASES: [Case<Nothing>; 2] =
    cases![more_connections_than_descriptors_leave_every_daemon_serving, too_few_descriptors_are_refused_at_start];

/// What a daemon may have open.
const OPEN_FILES: u64 = 1024;
/// More than that.
const CONNECTIONS: usize = 1200;

fn more_connections_than_descriptors_leave_every_daemon_serving(_: &Nothing) {
    // This process has the other ends.
    sys::raise_descriptor_limit().expect("raise the limit of open files");
    let mut cluster = Cluster::builder().datanodes(1).open_files(OPEN_FILES).start();
    let mount = cluster.mount("mount");
    Pattern::new(1).make_file(&mount.join("before"), 1_000_000);
    let (namenode, datanode) = (&cluster.namenode, &cluster.datanodes[0]);
    let ports = [namenode.rpc_port, namenode.http_port, datanode.data_port, datanode.grpc_port, datanode.http_port];
    let call = http2_call("ClientNamenode/GetFsStats", &[]);
    let mut held = Vec::new();
    for (round, said) in [&[][..], &call, b"GET /health HTTP/1.1\r\n"].into_iter().enumerate() {
        for port in ports {
            for _ in 0..CONNECTIONS {
                held.push(connect(port, said));
            }
            let path = mount.join(format!("file-{round}-{port}"));
            Pattern::new(port.into()).make_file(&path, 100_000);
            Pattern::new(port.into()).check_file(&path, 100_000);
        }
        for (host, port) in [(&cluster.namenode.host, namenode.http_port), (&datanode.host, datanode.http_port)] {
            assert_eq!(http_get(host, port, "/health").expect("the page is served").0, 200);
        }
        held.clear();
    }
    cluster.check_all_serving().unwrap();
    Pattern::new(1).check_file(&cluster.mount("fresh").join("before"), 1_000_000);
    for daemon in [&cluster.namenode.daemon, &cluster.datanodes[0].daemon] {
        let log = daemon.log_text();
        assert!(!log.contains("panicked") && !log.contains("Too many open files"), "{}", daemon.log_tail());
        assert!(resident_kib(daemon.pid().expect("it runs").as_raw_pid()) < RESIDENT_MAX_KIB);
    }
}

/// A connection that says something, hears a moment what is said to that, and then nothing more.
fn connect(port: u16, said: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    // A daemon that has hung up already is in its right.
    let _ = socket.write_all(said);
    if !said.is_empty() {
        let _ = socket.set_read_timeout(Some(Duration::from_millis(1)));
        let _ = socket.read(&mut [0; 1024]);
    }
    socket
}

fn too_few_descriptors_are_refused_at_start(_: &Nothing) {
    let mut cluster = Cluster::builder().datanodes(1).open_files(300).prepare();
    cluster.format();
    cluster.namenode.daemon.start();
    assert!(!cluster.namenode.daemon.wait_exit(Duration::from_secs(30)).success());
    let log = cluster.namenode.daemon.log_text();
    assert!(log.contains("ulimit -n"), "{log}");
}
