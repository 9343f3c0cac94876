//! `dfs text`: files to standard output as text, those compressed by gzip or zlib unpacked.

use std::ffi::OsString;
use std::io;
use std::sync::Arc;

use clap::Args;
use flate2::write::{MultiGzDecoder, ZlibDecoder};

use crate::content;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::remote_file;
use crate::tree::{self, Links, Node};

/// First bytes of a gzip file (RFC 1952), and of Hadoop's SequenceFile.
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const SEQUENCE_FILE_MAGIC: &[u8] = b"SEQ";
/// Suffixes for which Hadoop has programs of compression that we have not.
const FOREIGN_SUFFIXES: [&[u8]; 5] = [b".bz2", b".lz4", b".lzo", b".snappy", b".zst"];

/// Writes files to standard output; those compressed by gzip, or by zlib with the suffix .deflate, are unpacked.
#[derive(Debug, Args)]
pub(crate) struct TextArgs {
    /// Accepted as in HDFS; every byte is checked all the same
    #[arg(long = "ignoreCrc")]
    _ignore_crc: bool,
    /// Files, which may be patterns
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

/// How a file's bytes become text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    /// They are.
    Plain,
    Gzip,
    Zlib,
    /// They do not, in these words.
    Foreign(&'static str),
}

/// Runs the command.
pub(crate) async fn run(ctx: &Arc<Context>, args: TextArgs) -> Outcome {
    if ctx.json() {
        return Err(Failure::refused("--json", "text is no JSON document").with_hint("use `dfs cat --json`"));
    }
    for node in tree::operands(ctx, &args.paths, Links::Follow).await? {
        ctx.tolerate(print(ctx, &node).await)?;
    }
    Ok(())
}

async fn print(ctx: &Context, node: &Node) -> Outcome {
    let reader = remote_file::open(ctx, node).await?;
    let magic = reader.read_at(0, SEQUENCE_FILE_MAGIC.len()).await.map_err(|error| Failure::dfs(&node.path, error))?;
    let content = content::of_remote(&node.path, &reader, 0..reader.length());
    let stdout = content::Stdout;
    let complain = |error| unpacking_failure(node, error);
    match packing_of(node.path.file_name().unwrap_or_default(), &magic) {
        Packing::Plain => content::into_local(content, stdout, Failure::stdout).await.map(|_| ()),
        Packing::Gzip => {
            let (mut unpacker, _) = content::into_local(content, MultiGzDecoder::new(stdout), complain).await?;
            unpacker.try_finish().map_err(complain)
        }
        Packing::Zlib => {
            let (mut unpacker, _) = content::into_local(content, ZlibDecoder::new(stdout), complain).await?;
            unpacker.try_finish().map_err(complain)
        }
        Packing::Foreign(words) => {
            Err(Failure::refused(&node.path, words).with_hint("use `dfs cat` and a program for it"))
        }
    }
}

fn packing_of(name: &[u8], magic: &[u8]) -> Packing {
    if magic.starts_with(GZIP_MAGIC) {
        Packing::Gzip
    } else if magic.starts_with(SEQUENCE_FILE_MAGIC) {
        Packing::Foreign("a SequenceFile, which only Hadoop's classes can read")
    } else if name.ends_with(b".deflate") {
        Packing::Zlib
    } else if FOREIGN_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
        Packing::Foreign("compressed in a way that is not known here")
    } else {
        Packing::Plain
    }
}

/// The unpacker stands between the file and standard output: which of them an error is about shows in its kind.
fn unpacking_failure(node: &Node, error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            Failure::refused(&node.path, format!("not whole, or not compressed as its beginning says: {error}"))
        }
        _ => Failure::stdout(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn packing_of_looks_at_the_bytes_before_the_name() {
        for (name, magic, expected) in [
            ("a", &b"hel"[..], Packing::Plain),
            ("a.gz", b"hel", Packing::Plain),
            ("a", &[0x1f, 0x8b, 8], Packing::Gzip),
            ("a.deflate", &[0x78, 0x9c, 0], Packing::Zlib),
            ("a", b"", Packing::Plain),
        ] {
            assert_eq!(packing_of(name.as_bytes(), magic), expected, "{name}");
        }
        assert!(matches!(packing_of(b"part-0", b"SEQ"), Packing::Foreign(_)));
        assert!(matches!(packing_of(b"a.bz2", b"BZh"), Packing::Foreign(_)));
    }

    #[test]
    fn gzip_of_several_members_is_unpacked_and_a_torn_one_is_noticed() {
        let member = |text: &[u8]| {
            let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
            packer.write_all(text).unwrap();
            packer.finish().unwrap()
        };
        let packed = [member(b"one "), member(b"two")].concat();
        let mut unpacker = MultiGzDecoder::new(Vec::new());
        packed.chunks(3).for_each(|piece| unpacker.write_all(piece).unwrap());
        assert_eq!(unpacker.finish().unwrap(), b"one two");
        let mut unpacker = MultiGzDecoder::new(Vec::new());
        let torn = unpacker.write_all(&packed[..packed.len() - 5]).and_then(|()| unpacker.try_finish());
        assert!(torn.is_err());
    }
}
