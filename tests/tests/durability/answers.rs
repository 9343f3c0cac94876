//! Calls whose answers are lost: each is made once, and told in the end; nothing that one took stays with nobody.

use std::fs::OpenOptions;
use std::future::Future;
use std::io::Write;
use std::time::Duration;

use dfs_client::{Caller, ClientConfig, CreateOptions, CreatedFile, DfsClient, RenameFlag, SetAttr, XAttrSetFlag};
use dfs_common::ids::{ClientId, InodeId, ROOT_INODE};
use dfs_proto::v1;
use dfs_proto::v1::client_namenode_client::ClientNamenodeClient;
use dfs_tests::cases;
use dfs_tests::cluster::Cluster;
use dfs_tests::relay::Relay;
use dfs_tests::suite::{Case, Nothing};
use dfs_tests::wait::{STARTUP, Stopwatch, wait_until};

pub(super) const CASES: [Case<Nothing>; 3] = cases![
    calls_whose_answers_are_lost_are_made_once,
    writers_steps_whose_answers_are_lost_are_made_once,
    soft_mount_that_gives_calls_up_leaves_no_file_busy,
];

/// What happens between a call and its next try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Nothing,
    NameNodeKilled,
    SessionEnded,
}

const BLOCK: u64 = 1 << 20;

fn root() -> Caller {
    Caller::root()
}

/// A cluster, the wire to it and one client at its end.
struct Lossy {
    cluster: Cluster,
    relay: Relay,
    runtime: tokio::runtime::Runtime,
    /// Not over the relay.
    witness: DfsClient,
    between: Between,
    client: DfsClient,
    /// Of the client's session.
    incarnation: u64,
    dirs: u64,
}

impl Lossy {
    fn start() -> Self {
        let cluster = Cluster::builder().set(format!("dfs.namenode.fs-limits.min-block-size={BLOCK}")).start();
        let relay = Relay::start(cluster.namenodes());
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        let witness =
            runtime.block_on(DfsClient::connect(ClientConfig::new(vec![cluster.namenodes()]))).expect("connect");
        let client = witness.clone();
        let mut lossy =
            Self { cluster, relay, runtime, witness, between: Between::Nothing, client, incarnation: 0, dirs: 0 };
        lossy.renew_client();
        lossy
    }

    /// A client of its own for what comes next, with a session.
    fn renew_client(&mut self) {
        let config = ClientConfig::new(vec![self.relay.address()]);
        self.client = self.runtime.block_on(DfsClient::connect(config)).expect("connect");
        // A session's number is that of the transaction that opened it.
        self.incarnation = self.txid() + 1;
        self.dirs += 1;
        let name = format!("client-{}", self.dirs);
        self.runtime.block_on(self.client.mkdir(&root(), ROOT_INODE, name.as_bytes(), 0o755)).expect("mkdir");
    }

    fn txid(&self) -> u64 {
        self.cluster.status("last_txid").expect("the NameNode serves")
    }

    /// Makes a call, whose answer is lost once it is made; then something happens, and the wire is whole again.
    fn lose<T: Send + 'static>(
        &mut self,
        what: &str,
        call: impl Future<Output = dfs_common::Result<T>> + Send + 'static,
    ) -> T {
        let before = self.txid();
        self.relay.lose_answers();
        let call = self.runtime.spawn(call);
        wait_until(STARTUP, format!("{what} is made"), || self.txid() > before);
        match self.between {
            Between::Nothing => {}
            Between::NameNodeKilled => {
                self.cluster.namenode.daemon.kill();
                self.cluster.start_namenode();
                self.cluster.wait_datanodes_live(3);
            }
            Between::SessionEnded => self.end_session(),
        }
        self.relay.restore();
        let outcome = self.runtime.block_on(call).expect("no panic");
        let outcome = outcome.unwrap_or_else(|error| panic!("{what}, {:?}: {}", self.between, error.chain()));
        if self.between == Between::SessionEnded {
            self.renew_client();
        }
        outcome
    }

    fn end_session(&self) {
        let address = format!("http://{}", self.cluster.namenodes());
        let ClientId(id) = self.client.config().client_id;
        let retry = v1::RetryId { client_id: id.to_vec().into(), incarnation: self.incarnation, ..Default::default() };
        let client_id = retry.client_id.clone();
        let header = Some(v1::RequestHeader { caller: None, retry: Some(retry) });
        let renew = v1::RenewLeaseRequest { client_id, incarnation: self.incarnation };
        self.runtime.block_on(async {
            let mut namenode = ClientNamenodeClient::connect(address).await.expect("connect");
            namenode.renew_lease(renew).await.expect("the session lives");
            namenode.close_session(v1::CloseSessionRequest { header }).await.expect("close the session");
        });
    }

    fn find(&self, parent: InodeId, name: &str) -> Option<InodeId> {
        let found = self.runtime.block_on(self.witness.lookup(&root(), parent, name.as_bytes()));
        found.ok().map(|attr| attr.inode)
    }
}

fn options(parent: InodeId, name: &'static [u8]) -> CreateOptions<'static> {
    CreateOptions {
        parent,
        name,
        mode: 0o644,
        replication: 3,
        block_size: BLOCK,
        open_for_write: true,
        exclusive: true,
    }
}

/// Runs a call of the client as it is now.
macro_rules! lose {
    ($lossy:expr, $client:ident => $call:expr) => {{
        let $client = $lossy.client.clone();
        $lossy.lose(stringify!($call), async move { $call })
    }};
}

/// Each of these would be refused if it were made a second time, or would show.
fn calls_whose_answers_are_lost_are_made_once(_: &Nothing) {
    let mut lossy = Lossy::start();
    for between in [Between::Nothing, Between::SessionEnded, Between::NameNodeKilled] {
        lossy.between = between;
        let name: &'static [u8] = format!("{between:?}").into_bytes().leak();
        let dir = lose!(lossy, client => client.mkdir(&root(), ROOT_INODE, name, 0o755).await).inode;
        lose!(lossy, client => client.mknod(&root(), dir, b"fifo", 0o010_644, 0).await);
        lose!(lossy, client => client.create_symlink(&root(), dir, b"symlink", b"fifo").await);
        let not_opened = CreateOptions { open_for_write: false, ..options(dir, b"file") };
        let file = lose!(lossy, client => client.create(&root(), not_opened.clone()).await).attr.inode;
        assert_eq!(lose!(lossy, client => client.link(&root(), file, dir, b"linked").await).nlink, 2);
        let (from, to) = ((dir, &b"linked"[..]), (dir, &b"moved"[..]));
        lose!(lossy, client => client.rename(&root(), from, to, RenameFlag::NoReplace).await);
        let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        assert_eq!(lose!(lossy, client => client.set_attr(&root(), file, mode).await).permissions, 0o600);
        let flag = XAttrSetFlag::Create;
        lose!(lossy, client => client.set_xattr(&root(), file, b"user.a", b"value", flag).await);
        lose!(lossy, client => client.remove_xattr(&root(), file, b"user.a").await);
        assert_eq!(lose!(lossy, client => client.set_replication(&root(), file, 2).await).replication, 2);
        let held = lose!(lossy, client => client.hold(&root(), file).await);
        for name in [&b"moved"[..], b"file", b"symlink"] {
            lose!(lossy, client => client.unlink(&root(), dir, name).await);
        }
        let full = lose!(lossy, client => client.mkdir(&root(), dir, b"full", 0o755).await).inode;
        lose!(lossy, client => client.mkdir(&root(), full, b"empty", 0o755).await);
        lose!(lossy, client => client.rmdir(&root(), full, b"empty").await);
        lose!(lossy, client => client.delete(&root(), dir, b"full").await);
        let left = lossy.runtime.block_on(lossy.witness.get_listing(&root(), dir, 0, 100, false)).expect("list");
        assert_eq!(left.entries.iter().map(|entry| &entry.name[..]).collect::<Vec<_>>(), [b"fifo"], "{between:?}");
        assert_eq!(lossy.find(ROOT_INODE, &format!("{between:?}")), Some(dir));
        // Not before: its end is an operation of the log too, and would be taken for the next call.
        drop(held);
        wait_until(STARTUP, "the file that was held goes", || {
            lossy.runtime.block_on(lossy.witness.get_file_info(&root(), file)).is_err()
        });
    }
    // The opening of a session is a call like any other.
    let config = ClientConfig::new(vec![lossy.relay.address()]);
    lossy.client = lossy.runtime.block_on(DfsClient::connect(config)).expect("connect");
    lossy.between = Between::Nothing;
    let before = lossy.txid();
    lose!(lossy, client => client.mkdir(&root(), ROOT_INODE, b"last", 0o755).await);
    assert!(lossy.find(ROOT_INODE, "last").is_some());
    assert!(lossy.txid() >= before + 2);
}

fn writers_steps_whose_answers_are_lost_are_made_once(_: &Nothing) {
    let mut lossy = Lossy::start();
    let data: Vec<u8> = (0..2 * BLOCK + 777).map(|at| ((at * 31) >> 7) as u8).collect();
    let data: &'static [u8] = data.leak();
    for between in [Between::Nothing, Between::NameNodeKilled] {
        lossy.between = between;
        let name: &'static [u8] = format!("{between:?}").into_bytes().leak();
        let CreatedFile { attr, writer, .. } =
            lose!(lossy, client => client.create(&root(), options(ROOT_INODE, name)).await);
        let writer = writer.expect("opened");
        // The first block is the creation's; the next two are asked for one by one.
        for part in data.chunks(BLOCK as usize) {
            let this = writer.clone();
            if part.len() < BLOCK as usize {
                lossy.lose("add_block", async move { this.write(part).await.and(this.hflush().await) });
            } else {
                lossy.runtime.block_on(async move { this.write(part).await.and(this.hflush().await) }).expect("write");
            }
        }
        let this = writer.clone();
        lossy.lose("fsync", async move { this.hsync_open_block().await.and(this.sync_finished_blocks().await) });
        let this = writer.clone();
        assert_eq!(lossy.lose("complete", async move { this.complete().await }).length, data.len() as u64);
        let writer = lose!(lossy, client => client.append(&root(), attr.inode, false).await);
        let this = writer.clone();
        lossy.lose("update_block_for_pipeline", async move { this.write(b"more").await.and(this.hflush().await) });
        // Given up with bytes: the lease goes back and the block is recovered.
        lossy.lose("recover_lease", async move {
            writer.abort().await;
            Ok(())
        });
        let length = data.len() as u64 + 4;
        wait_until(STARTUP, "the file is closed with all its bytes", || {
            let attr = lossy.runtime.block_on(lossy.witness.get_file_info(&root(), attr.inode)).expect("attributes");
            !attr.under_construction && attr.length == length
        });
        let cut = lose!(lossy, client => client.truncate(&root(), attr.inode, BLOCK + 5).await);
        assert_eq!(cut.length, BLOCK + 5);
        let reader = lossy.runtime.block_on(lossy.witness.open_reader(&root(), attr.inode)).expect("open");
        let read = lossy.runtime.block_on(reader.read_at(0, data.len())).expect("read").to_vec();
        assert!(read[..] == data[..BLOCK as usize + 5], "{between:?}");
        // Given up before its first byte: the block goes, and so does the lease.
        let file = lossy.runtime.block_on(lossy.client.create(&root(), options(ROOT_INODE, b"given-up")));
        let CreatedFile { attr, writer, .. } = file.expect("create");
        lossy.lose("abandon_block", async move {
            writer.expect("opened").abort().await;
            Ok(())
        });
        wait_until(STARTUP, "the file that was given up is closed", || {
            let attr = lossy.runtime.block_on(lossy.witness.get_file_info(&root(), attr.inode)).expect("attributes");
            !attr.under_construction && attr.block_count == 0
        });
        lossy.runtime.block_on(lossy.witness.unlink(&root(), ROOT_INODE, b"given-up")).expect("unlink");
    }
}

/// A program opens a file while the NameNode does not answer, and is told so in time. When the NameNode goes on it takes the
/// lease for a program that is not there any more.
fn soft_mount_that_gives_calls_up_leaves_no_file_busy(_: &Nothing) {
    let cluster = Cluster::builder().start();
    // The kernel knows the names for long: what is asked of the NameNode is the opening alone.
    let options = ["soft", "entry_timeout=60", "attr_timeout=60"];
    let (soft, other) = (cluster.mount_with("soft", &options), cluster.mount("other"));
    for name in ["mine", "theirs"] {
        std::fs::write(soft.path().join(name), b"first\n").expect("write");
        std::fs::metadata(soft.path().join(name)).expect("stat");
    }
    cluster.namenode.daemon.pause();
    let opens = ["mine", "theirs"].map(|name| {
        let path = soft.path().join(name);
        std::thread::spawn(move || OpenOptions::new().append(true).open(path).map(drop))
    });
    for open in opens {
        let error = open.join().expect("no panic").expect_err("nobody answers");
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error}");
    }
    cluster.namenode.daemon.resume();
    let begun = Stopwatch::start();
    let append = |path: std::path::PathBuf| {
        wait_until(Duration::from_secs(10), format!("{} can be written", path.display()), || {
            OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(b"second\n")).is_ok()
        });
        assert_eq!(std::fs::read(&path).expect("read"), b"first\nsecond\n");
    };
    append(soft.path().join("mine"));
    append(other.path().join("theirs"));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
