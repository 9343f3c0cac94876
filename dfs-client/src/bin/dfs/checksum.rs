//! `dfs checksum`: one checksum for a whole file, the same that Hadoop gives.
//!
//! Hadoop's default takes the CRC32C of every 512 bytes of a block, the MD5 of a block's CRCs, and the MD5 of all blocks'
//! MD5s, so two files agree only when their block sizes do:
//!
//! ```text
//! block     MD5(crc, crc, ...)                              CRCs big-endian; the last chunk of a block may be short
//! file      MD5(md5, md5, ..., zeros)                       padded to 32 bytes times a power of two: Hadoop digests
//!                                                           its whole buffer, and everybody has kept to that since
//! checksum  bytes per CRC (4), CRCs per block (8), MD5 (16)  CRCs per block is 0 for a file of one block
//! ```
//!
//! A file without blocks has no CRCs to tell of: Hadoop gives it the oldest algorithm with zeros for both counts, and does so
//! for COMPOSITE_CRC too.
//!
//! `--composite` is Hadoop's COMPOSITE_CRC: the CRC32C of the content, whatever the blocks. Both are computed here, from
//! content that was read and verified.
//!
//! Source: Apache Hadoop 3.4.1, `FileChecksumHelper`, `MD5MD5CRC32FileChecksum`, `CompositeCrcFileChecksum`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::Arc;

use clap::Args;
use dfs_client::FileReader;
use dfs_common::ErrorKind;
use dfs_common::checksum::{crc32c, crc32c_append};
use futures::TryStreamExt;
use md5::{Digest, Md5};
use serde::Serialize;

use crate::content;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::json::PathJson;
use crate::remote_file;
use crate::tree::{self, Links, Node};

/// Size that Hadoop's buffer of MD5s starts with; it doubles when full.
const MD5_BUFFER_FIRST: usize = 32;

/// Shows checksums of files, the same that Hadoop gives.
///
/// By default MD5-of-MD5-of-CRC32C, which depends on the file's blocks.
#[derive(Debug, Args)]
pub(crate) struct ChecksumArgs {
    /// CRC32C of the content, whatever the blocks
    #[arg(long)]
    composite: bool,
    /// Also the size of the file's blocks
    #[arg(short = 'v')]
    verbose: bool,
    /// Files, which may be patterns
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Serialize)]
struct ChecksumsJson {
    checksums: Vec<ChecksumJson>,
}

#[derive(Serialize)]
struct ChecksumJson {
    #[serde(flatten)]
    path: PathJson,
    algorithm: String,
    checksum: String,
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: ChecksumArgs) -> Outcome {
    let mut checksums = Vec::new();
    for node in tree::operands(ctx, &args.paths, Links::Follow).await? {
        let Some((algorithm, checksum)) = ctx.tolerate(checksum_of(ctx, &node, args.composite).await)? else {
            continue;
        };
        if ctx.json() {
            checksums.push(ChecksumJson { path: (&node.path).into(), algorithm, checksum });
        } else {
            let mut line = format!("\t{algorithm}\t{checksum}");
            if args.verbose {
                line.push_str(&format!("\tBlockSize={}", node.attr.block_size));
            }
            ctx.output.line([node.path.as_bytes(), line.as_bytes()].concat())?;
        }
    }
    ctx.progress.finish();
    if ctx.json() { ctx.output.json(&ChecksumsJson { checksums }) } else { Ok(()) }
}

async fn checksum_of(ctx: &Context, node: &Node, composite: bool) -> Outcome<(String, String)> {
    if let Some(failure) = remote_file::not_a_file(node, "name the files, perhaps by a pattern") {
        return Err(failure);
    }
    if node.attr.under_construction {
        return Err(Failure::kind(&node.path, ErrorKind::Busy));
    }
    let reader = remote_file::open(ctx, node).await?;
    let length = reader.length();
    if length == 0 {
        return Ok(sum_of_nothing());
    }
    ctx.progress.expect(length);
    let broken = |error: io::Error| Failure::refused(&node.path, error.to_string());
    let content = content::of_remote(&node.path, &reader, 0..length);
    let content = content.inspect_ok(|piece| ctx.progress.moved(piece.len() as u64));
    if composite {
        let (sum, _) = content::into_local(content, CompositeSum(0), broken).await?;
        return Ok(("COMPOSITE-CRC32C".to_owned(), format!("{:08x}", sum.0)));
    }
    let chunk = ctx.client.defaults().bytes_per_checksum as usize;
    let blocks = block_lengths(ctx, node, &reader).await?;
    let (sum, _) = content::into_local(content, BlockSums::new(chunk.max(1), blocks), broken).await?;
    sum.finish().map_err(broken)
}

/// Lengths of the file's blocks, which must hold all of it.
async fn block_lengths(ctx: &Context, node: &Node, reader: &FileReader) -> Outcome<Vec<u64>> {
    let mut lengths = Vec::new();
    let mut end = 0;
    while end < reader.length() {
        let left = reader.length() - end;
        let blocks = ctx.client.get_block_locations(&ctx.caller, node.attr.inode, end, left).await;
        let before = end;
        for location in blocks.map_err(|error| Failure::dfs(&node.path, error))? {
            if location.offset == end {
                lengths.push(location.block.block.length);
                end += location.block.block.length;
            }
        }
        if end == before {
            return Err(Failure::refused(&node.path, "the file changed meanwhile").with_hint("run the command again"));
        }
    }
    Ok(lengths)
}

/// Algorithm and checksum of a file of 0 bytes.
fn sum_of_nothing() -> (String, String) {
    ("MD5-of-0MD5-of-0CRC32".to_owned(), format!("{:024}{}", 0, hex_md5(&[0; MD5_BUFFER_FIRST])))
}

fn hex_md5(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// CRC32C of everything.
struct CompositeSum(u32);

impl Write for CompositeSum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = crc32c_append(self.0, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// MD5s of the blocks' CRCs.
struct BlockSums {
    bytes_per_crc: usize,
    blocks: Vec<u64>,
    /// Which block comes next or is under way, and how many of its bytes are missing.
    at: usize,
    left: u64,
    /// Of a chunk that is not whole yet.
    chunk: Vec<u8>,
    crcs: Md5,
    md5s: Vec<u8>,
}

impl BlockSums {
    fn new(bytes_per_crc: usize, blocks: Vec<u64>) -> Self {
        let left = blocks.first().copied().unwrap_or(0);
        let chunk = Vec::with_capacity(bytes_per_crc);
        Self { bytes_per_crc, blocks, at: 0, left, chunk, crcs: Md5::new(), md5s: Vec::new() }
    }

    /// Takes bytes of one block.
    fn add(&mut self, mut bytes: &[u8]) {
        self.left -= bytes.len() as u64;
        if !self.chunk.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(self.bytes_per_crc - self.chunk.len()));
            self.chunk.extend_from_slice(head);
            bytes = rest;
            if self.chunk.len() == self.bytes_per_crc {
                self.end_chunk();
            }
        }
        let mut chunks = bytes.chunks_exact(self.bytes_per_crc);
        for chunk in &mut chunks {
            self.crcs.update(crc32c(chunk).to_be_bytes());
        }
        self.chunk.extend_from_slice(chunks.remainder());
        if self.left == 0 {
            self.end_chunk();
            self.md5s.extend_from_slice(&self.crcs.finalize_reset());
            self.at += 1;
            self.left = self.blocks.get(self.at).copied().unwrap_or(0);
        }
    }

    fn end_chunk(&mut self) {
        if !self.chunk.is_empty() {
            self.crcs.update(crc32c(&self.chunk).to_be_bytes());
            self.chunk.clear();
        }
    }

    /// Algorithm and checksum.
    fn finish(mut self) -> io::Result<(String, String)> {
        if self.at != self.blocks.len() {
            return Err(io::Error::other("the content ended within a block"));
        }
        let crcs_per_block = match self.blocks.as_slice() {
            [first, _, ..] => first.div_ceil(self.bytes_per_crc as u64),
            _ => 0,
        };
        self.md5s.resize(self.md5s.len().next_power_of_two().max(MD5_BUFFER_FIRST), 0);
        let hex = hex_md5(&self.md5s);
        let algorithm = format!("MD5-of-{crcs_per_block}MD5-of-{}CRC32C", self.bytes_per_crc);
        Ok((algorithm, format!("{:08x}{crcs_per_block:016x}{hex}", self.bytes_per_crc)))
    }
}

impl Write for BlockSums {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 && !bytes.is_empty() {
            return Err(io::Error::other("the content goes on behind the last block"));
        }
        let taken = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.add(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(content: &[u8], blocks: &[u64], piece: usize) -> (String, String) {
        let mut sums = BlockSums::new(512, blocks.to_vec());
        content.chunks(piece).for_each(|piece| sums.write_all(piece).unwrap());
        sums.finish().unwrap()
    }

    #[test]
    fn an_empty_file_has_hadoop_s_well_known_sum() {
        let (algorithm, checksum) = sum_of_nothing();
        assert_eq!(algorithm, "MD5-of-0MD5-of-0CRC32");
        assert_eq!(checksum, "00000000000000000000000070bc8f4b72a86921468bf8e8441dce51");
    }

    #[test]
    fn one_block_is_spelled_out() {
        let content: Vec<u8> = (0..1300u32).map(|index| index as u8).collect();
        let crcs: Vec<u8> = content.chunks(512).flat_map(|chunk| crc32c(chunk).to_be_bytes()).collect();
        let mut padded = Md5::digest(&crcs).to_vec();
        padded.resize(32, 0);
        let expected: String = Md5::digest(&padded).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(sum(&content, &[1300], 1300).1, format!("000002000000000000000000{expected}"));
    }

    #[test]
    fn pieces_do_not_matter_and_blocks_do() {
        let content: Vec<u8> = (0..10_000u32).map(|index| (index * 7) as u8).collect();
        let whole = sum(&content, &[4096, 4096, 1808], content.len());
        for piece in [1, 3, 511, 512, 513, 5000] {
            assert_eq!(sum(&content, &[4096, 4096, 1808], piece), whole, "{piece}");
        }
        assert_eq!(whole.0, "MD5-of-8MD5-of-512CRC32C");
        assert_ne!(sum(&content, &[10_000], 512).1, whole.1);
    }

    #[test]
    fn blocks_and_content_must_agree() {
        let mut sums = BlockSums::new(512, vec![10]);
        assert!(sums.write_all(&[0; 11]).is_err());
        let mut sums = BlockSums::new(512, vec![10]);
        sums.write_all(&[0; 9]).unwrap();
        assert!(sums.finish().is_err());
    }

    #[test]
    fn composite_is_the_crc_of_the_content() {
        let mut sum = CompositeSum(0);
        sum.write_all(b"1234").unwrap();
        sum.write_all(b"56789").unwrap();
        assert_eq!(sum.0, 0xe306_9283);
    }
}
