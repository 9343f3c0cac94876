//! Directories made and removed over gRPC by threads that each wait for their answers, as mounts do. The namespace is empty before
//! and after: what memory is left then is held by something else.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Instant;

use dfs_common::config_file::Config;
use dfs_common::error::{DfsError, ErrorKind, Result};
use dfs_common::ids::{ClientId, ROOT_INODE};
use dfs_proto::v1::client_namenode_client::ClientNamenodeClient;
use dfs_proto::v1::{Caller, DentryMutation, MkdirRequest, OpenSessionRequest, RequestHeader};

use super::call::{connect, refused, retry};
use super::memory::resident_bytes;
use crate::namenode::daemon::serve_grpc;
use crate::namenode::namesystem::Namesystem;
use crate::namenode::node_files::NodeFiles;

const THREADS: u64 = 8;
/// Operations that come alone.
const LONE: u64 = 1_000;
/// Made and removed before anything is counted: threads, connections, buffers and sessions are there then.
const WARM_UP: u64 = 2_000;

/// Measures and prints.
///
/// # Errors
/// Of the listener, or of a call that was refused.
pub(super) async fn measure(namesystem: &Arc<Namesystem>, config: &Config, directories: u64) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| DfsError::io("listen", error))?;
    let address = listener.local_addr().map_err(|error| DfsError::io("ask the port", error))?;
    let connections = 2 * THREADS as usize;
    let _server = serve_grpc(listener, connections, namesystem, Arc::new(NodeFiles::new(config)))?;
    run(address, 1, WARM_UP, 100).await?;
    run(address, THREADS, WARM_UP, 101).await?;
    let (log, begin) = (namesystem.journal().log_bytes(), Instant::now());
    run(address, 1, LONE, 120).await?;
    print("alone", 2 * LONE, namesystem.journal().log_bytes() - log, begin);
    let (resident, log, begin) = (resident_bytes()?, namesystem.journal().log_bytes(), Instant::now());
    run(address, THREADS, directories, 140).await?;
    print("by 8 threads", 2 * directories, namesystem.journal().log_bytes() - log, begin);
    let grown = resident_bytes()? as i64 - resident as i64;
    println!("resident before {} MiB, grown by {} KiB", resident >> 20, grown / 1024);
    Ok(())
}

fn print(how: &str, operations: u64, log_bytes: u64, begin: Instant) {
    println!(
        "mkdir and rmdir {how:12} {:.0} per s, {} bytes of log an operation",
        operations as f64 / begin.elapsed().as_secs_f64(),
        log_bytes / operations
    );
}

/// Has each of `threads` make and remove its share of `directories`.
async fn run(address: SocketAddr, threads: u64, directories: u64, first_client: u8) -> Result<()> {
    let mut ended = Vec::new();
    for thread in 0..threads {
        let (done, outcome) = tokio::sync::oneshot::channel();
        let client = ClientId([first_client + thread as u8; 16]);
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let result = runtime
                .map_err(|error| DfsError::io("start a runtime", error))
                .and_then(|runtime| runtime.block_on(make_and_remove(address, client, directories / threads)));
            // Nobody waits when the measurement was given up.
            let _ = done.send(result);
        };
        std::thread::Builder::new()
            .name("bench-client".into())
            .spawn(work)
            .map_err(|error| DfsError::io("start a thread", error))?;
        ended.push(outcome);
    }
    for outcome in ended {
        outcome.await.map_err(|_| DfsError::new(ErrorKind::Internal, "a client's thread panicked"))??;
    }
    Ok(())
}

async fn make_and_remove(address: SocketAddr, client: ClientId, directories: u64) -> Result<()> {
    let mut namenode = ClientNamenodeClient::new(connect(address).await?);
    let caller = Some(Caller::default());
    let id = client.0.to_vec();
    let open = OpenSessionRequest {
        header: Some(RequestHeader { caller: caller.clone(), retry: None }),
        client_id: id.into(),
        name: "bench".into(),
        ..OpenSessionRequest::default()
    };
    let incarnation = namenode.open_session(open).await.map_err(refused)?.into_inner().incarnation;
    let header = |call| Some(RequestHeader { caller: caller.clone(), retry: Some(retry(client, incarnation, call)) });
    for number in 0..directories {
        let name = bytes::Bytes::from(format!("{}-{number}", client.0[0]));
        let (parent, call) = (ROOT_INODE.0, 2 * number + 1);
        let mkdir = MkdirRequest { header: header(call), parent, name: name.clone(), mode: 0o755 };
        namenode.mkdir(mkdir).await.map_err(refused)?;
        let rmdir = DentryMutation { header: header(call + 1), parent, name };
        namenode.rmdir(rmdir).await.map_err(refused)?;
    }
    Ok(())
}
