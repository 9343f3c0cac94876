//! The whole client against a cluster in this process: what is written is read, and faults are met as promised.

mod failing_pipelines;
mod reading;
mod sessions;
mod syncing;
mod writing;

use std::sync::Arc;

use dfs_common::attr::FileAttr;
use dfs_common::error::Result;
use dfs_common::ids::{InodeId, ROOT_INODE};

use crate::fake_cluster::new_file;
use crate::{Caller, DfsClient, FileWriter, SyncLevel};

const BLOCK: usize = 16_384;

fn caller() -> Caller {
    Caller::root()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

async fn create(client: &DfsClient) -> (FileAttr, Arc<FileWriter>) {
    let created = client.create(&caller(), new_file(b"file")).await.unwrap();
    assert!(created.is_new);
    (created.attr, created.writer.unwrap())
}

/// As an fsync of the mount.
async fn hsync(writer: &FileWriter) -> Result<()> {
    writer.hsync_open_block().await?;
    writer.sync_finished_blocks().await
}

async fn write_file(client: &DfsClient, data: &[u8]) -> InodeId {
    let (attr, writer) = create(client).await;
    writer.write(data).await.unwrap();
    assert_eq!(writer.complete().await.unwrap().length, data.len() as u64);
    attr.inode
}

async fn read_all(client: &DfsClient, inode: InodeId) -> Vec<u8> {
    let reader = client.open_reader(&caller(), inode).await.unwrap();
    reader.read_at(0, usize::MAX >> 1).await.unwrap().to_vec()
}

/// Calls run in tasks: their futures must be `Send`.
#[allow(dead_code)]
fn futures_are_send(client: &DfsClient, writer: &Arc<FileWriter>, reader: &crate::FileReader) {
    fn check(_: impl Send) {}
    let who = caller();
    check(DfsClient::connect(client.config().clone()));
    check(client.lookup(&who, ROOT_INODE, b"x"));
    check(client.mkdir(&who, ROOT_INODE, b"x", 0));
    check(client.resolve(&who, b"/", true));
    check(client.append(&who, ROOT_INODE, false));
    check(client.truncate(&who, ROOT_INODE, 0));
    check(client.hold(&who, ROOT_INODE));
    check(client.open_reader(&who, ROOT_INODE));
    check(writer.write(b""));
    check(writer.write_through(b"", SyncLevel::Hsync));
    check(writer.hsync_open_block());
    check(writer.sync_finished_blocks());
    check(writer.complete());
    check(writer.abort());
    check(reader.read_at(0, 0));
    check(reader.refresh_length());
    check(client.clone().close());
}
