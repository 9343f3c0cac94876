//! Deterministic work: bytes that follow from a seed and an offset, and trees of files made of them.
//!
//! Nothing that was written need be remembered to check it later: seed and length say it all.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::violation::{Violation, about};

/// Bytes that depend on seed and offset only, and do not compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// What tells one file's bytes from another's.
    pub seed: u64,
}

/// Bytes generated or compared at once.
const PIECE: usize = 256 * 1024;

impl Pattern {
    /// The pattern of a seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    fn word(self, index: u64) -> [u8; 8] {
        // splitmix64: every bit of seed and index reaches every bit of the word.
        let mut x = self.seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)).to_le_bytes()
    }

    /// Fills `buffer` with the bytes from `offset` on.
    pub fn fill(self, offset: u64, buffer: &mut [u8]) {
        let skip = (offset % 8) as usize;
        let mut index = offset / 8;
        let (head, rest) = buffer.split_at_mut(buffer.len().min((8 - skip) % 8));
        if skip != 0 {
            head.copy_from_slice(&self.word(index)[skip..skip + head.len()]);
            index += 1;
        }
        for chunk in rest.chunks_mut(8) {
            chunk.copy_from_slice(&self.word(index)[..chunk.len()]);
            index += 1;
        }
    }

    /// The first `length` bytes.
    pub fn bytes(self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(0, &mut bytes);
        bytes
    }

    /// Compares everything `input` has with the pattern from `offset` on; how many bytes there were.
    ///
    /// # Errors
    /// Of reading, or a [`Violation`] naming the offset of the first byte that differs.
    pub fn check(self, offset: u64, mut input: impl Read) -> io::Result<u64> {
        let (mut actual, mut expected) = (vec![0; PIECE], vec![0; PIECE]);
        let mut at = offset;
        loop {
            let length = input.read(&mut actual)?;
            if length == 0 {
                return Ok(at - offset);
            }
            self.fill(at, &mut expected[..length]);
            if actual[..length] != expected[..length] {
                let differs = actual.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(0);
                return Err(Violation::error(format!("wrong byte at offset {}", at + differs as u64)));
            }
            at += length as u64;
        }
    }

    /// Writes the bytes `[offset, offset + length)`.
    ///
    /// # Errors
    /// Of writing.
    pub fn write(self, mut output: impl Write, offset: u64, length: u64) -> io::Result<()> {
        let mut buffer = vec![0; PIECE];
        let mut at = offset;
        while at < offset + length {
            let piece = usize::try_from(offset + length - at).map_or(PIECE, |left| left.min(PIECE));
            self.fill(at, &mut buffer[..piece]);
            output.write_all(&buffer[..piece])?;
            at += piece as u64;
        }
        Ok(())
    }

    /// Makes a file of `length` bytes.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn make_file(self, path: &Path, length: u64) {
        let file = File::create(path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
        self.write(&file, 0, length).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }

    /// Checks that a file has exactly the first `length` bytes.
    ///
    /// # Panics
    /// When it has not.
    #[track_caller]
    pub fn check_file(self, path: &Path, length: u64) {
        let file = File::open(path).unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
        let read = self.check(0, file).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        assert_eq!(read, length, "length of {}", path.display());
    }
}

/// A file of a generated tree, relative to its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeFile {
    /// Path below the root.
    pub path: PathBuf,
    /// Bytes.
    pub length: u64,
    /// Content.
    pub pattern: Pattern,
}

/// The files of a tree like a source tree's: nested directories, mostly files of a few KiB, some empty, some larger.
pub fn source_tree(seed: u64, files: usize) -> Vec<TreeFile> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut directory = PathBuf::from("src");
    let mut tree = Vec::with_capacity(files);
    for number in 0..files {
        if number % 12 == 11 {
            directory = (0..rng.random_range(1..5)).map(|_| format!("module{}", rng.random_range(0..9))).collect();
        }
        let length = match rng.random_range(0..20) {
            0 => 0,
            1 => rng.random_range(40_000..160_000),
            _ => 1 << rng.random_range(6..14),
        };
        let path = directory.join(format!("file{number}.rs"));
        tree.push(TreeFile { path, length, pattern: Pattern::new(rng.random()) });
    }
    tree
}

/// Writes a tree below `root`.
///
/// # Errors
/// Of writing.
pub fn make_tree(root: &Path, tree: &[TreeFile]) -> io::Result<()> {
    for file in tree {
        let path = root.join(&file.path);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        file.pattern.write(File::create(path)?, 0, file.length)?;
    }
    Ok(())
}

/// Compares a tree below `root` with what was written.
///
/// # Errors
/// Of reading, or a [`Violation`] naming the first file that differs.
pub fn check_tree(root: &Path, tree: &[TreeFile]) -> io::Result<()> {
    for file in tree {
        let input = File::open(root.join(&file.path));
        let read = input.and_then(|input| file.pattern.check(0, input)).map_err(about(file.path.display()))?;
        if read != file.length {
            let what = format!("{}: {read} bytes instead of {}", file.path.display(), file.length);
            return Err(Violation::error(what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_gives_the_same_bytes_whatever_the_cut() {
        let pattern = Pattern::new(3);
        let whole = pattern.bytes(100);
        for start in 0..40 {
            for length in 0..30 {
                let mut part = vec![0; length];
                pattern.fill(start as u64, &mut part);
                assert_eq!(part, whole[start..start + length], "{start}+{length}");
            }
        }
    }

    #[test]
    fn check_finds_the_first_wrong_byte() {
        let pattern = Pattern::new(4);
        let mut bytes = pattern.bytes(1000);
        assert_eq!(pattern.check(0, &bytes[..]).unwrap(), 1000);
        bytes[777] ^= 1;
        let error = pattern.check(0, &bytes[..]).unwrap_err();
        assert!(Violation::is(&error) && error.to_string().contains("777"), "{error}");
    }

    #[test]
    fn make_tree_and_check_tree_agree() {
        let dir = tempfile::tempdir().unwrap();
        let tree = source_tree(1, 50);
        make_tree(dir.path(), &tree).unwrap();
        check_tree(dir.path(), &tree).unwrap();
        let victim = tree.iter().find(|file| file.length > 0).unwrap();
        fs::write(dir.path().join(&victim.path), b"x").unwrap();
        assert!(Violation::is(&check_tree(dir.path(), &tree).unwrap_err()));
        fs::remove_file(dir.path().join(&victim.path)).unwrap();
        assert!(!Violation::is(&check_tree(dir.path(), &tree).unwrap_err()), "an error of the file system");
    }
}
