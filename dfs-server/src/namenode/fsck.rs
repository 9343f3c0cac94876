//! The NameNode's side of fsck: how the blocks of some files stand, a bounded page at a time.

use dfs_common::block::Block;
use dfs_common::error::ErrorKind;
use dfs_common::ids::InodeId;
use dfs_proto::v1;

use super::namespace::Namespace;
use super::namespace::permission::{Identity, READ};
use super::namesystem::Namesystem;

/// Files looked at per call, and blocks: together less than a millisecond under the namespace's lock.
const FILES_MAX: usize = 1_000;
const BLOCKS_MAX: usize = 4_096;

/// One file and those of its blocks that fit the page.
struct Page {
    health: v1::FileHealth,
    blocks: Vec<Block>,
}

/// The next page of what `request` asks for.
pub fn check_files(namesystem: &Namesystem, who: &Identity, request: &v1::CheckFilesRequest) -> v1::CheckFilesResponse {
    let mut pages = Vec::new();
    let mut next_block = 0;
    let txid = {
        let namespace = namesystem.namespace().read();
        let mut room = BLOCKS_MAX;
        for (at, &inode) in request.inodes.iter().take(FILES_MAX).enumerate() {
            let first = if at == 0 { request.first_block as usize } else { 0 };
            let (page, rest) = page_of(&namespace, who, InodeId(inode), first, room);
            room -= page.blocks.len();
            next_block = rest;
            pages.push(page);
            if rest > 0 || room == 0 {
                break;
            }
        }
        namespace.counters().last_txid.0
    };
    let blocks: Vec<Block> = pages.iter().flat_map(|page| &page.blocks).copied().collect();
    let mut healths = namesystem.blocks().block_health(&blocks, request.with_locations).into_iter();
    let files = pages.into_iter().map(|page| {
        let blocks = healths.by_ref().take(page.blocks.len()).collect();
        v1::FileHealth { blocks, ..page.health }
    });
    v1::CheckFilesResponse { files: files.collect(), next_block, txid }
}

/// A file from block `first` on; the number of the block to go on with, or 0.
fn page_of(namespace: &Namespace, who: &Identity, id: InodeId, first: usize, room: usize) -> (Page, u32) {
    let mut health = v1::FileHealth { inode: id.0, ..v1::FileHealth::default() };
    let mut taken = Vec::new();
    let mut next = 0;
    match (namespace.inode(id), namespace.attr(id)) {
        (Ok(inode), Ok(attr)) => {
            health.length = attr.length;
            health.replication = attr.replication;
            health.is_open = attr.under_construction;
            match who.check(inode, READ) {
                Ok(()) => {
                    let blocks = inode.blocks().map_or(&[][..], |blocks| blocks.as_slice());
                    taken.extend(blocks.iter().skip(first).take(room).map(|block| Block::from(*block)));
                    let end = first + taken.len();
                    if end < blocks.len() {
                        next = u32::try_from(end).unwrap_or(u32::MAX);
                    }
                }
                Err(error) => health.is_denied = error.kind() == ErrorKind::PermissionDenied,
            }
        }
        _ => health.is_gone = true,
    }
    (Page { health, blocks: taken }, next)
}
