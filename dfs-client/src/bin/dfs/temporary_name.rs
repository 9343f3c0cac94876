//! What a copy is called until it is whole: `NAME.<random>._COPYING_`, as in HDFS but for the random part.

use dfs_common::name::NAME_MAX;

/// What is behind the name of a file that is not whole yet; HDFS's.
const COPYING_SUFFIX: &[u8] = b"._COPYING_";
/// Hexadecimal digits of the random part.
const RANDOM_DIGITS: usize = 16;
/// Names tried before giving up. A second one is needed about never: that so many are taken means something else.
pub(crate) const TRIES: u32 = 8;

/// A new name for a file that is not whole yet. What is too long for the rest is cut off.
pub(crate) fn temporary_name(name: &[u8]) -> Vec<u8> {
    name_with(name, rand::random())
}

fn name_with(name: &[u8], random: u64) -> Vec<u8> {
    let tail = [format!(".{random:0RANDOM_DIGITS$x}").as_bytes(), COPYING_SUFFIX].concat();
    let mut kept = name.len();
    if kept + tail.len() > NAME_MAX {
        kept = NAME_MAX - tail.len();
        // Some file systems take only UTF-8: a character is not cut in its middle.
        while kept > 0 && name[kept] & 0b1100_0000 == 0b1000_0000 {
            kept -= 1;
        }
    }
    [&name[..kept], &tail].concat()
}

/// Whether a name is one of ours.
pub(crate) fn is_temporary_name(name: &[u8]) -> bool {
    let random = name.strip_suffix(COPYING_SUFFIX).and_then(|rest| rest.rsplit(|byte| *byte == b'.').next());
    // Nothing but the random part would be all of the name: there is a dot before it.
    let is_behind_a_dot = |random: &[u8]| name.len() > random.len() + COPYING_SUFFIX.len();
    random.is_some_and(|random| {
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        random.len() == RANDOM_DIGITS && random.iter().all(is_digit) && is_behind_a_dot(random)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_with_keeps_the_name_in_sight() {
        assert_eq!(name_with(b"a.txt", 0xabc), b"a.txt.0000000000000abc._COPYING_");
        assert_ne!(temporary_name(b"a"), temporary_name(b"a"));
    }

    #[test]
    fn is_temporary_name_knows_our_own_only() {
        for name in [&b"a"[..], b"a.txt", b"", &[b'x'; NAME_MAX]] {
            assert!(is_temporary_name(&temporary_name(name)), "{name:?}");
        }
        for other in
            ["a._COPYING_", "._COPYING_", "a.0123._COPYING_", "a.0123456789abcdef", "0123456789abcdef._COPYING_"]
        {
            assert!(!is_temporary_name(other.as_bytes()), "{other}");
        }
        assert!(
            !is_temporary_name(b"a.0123456789ABCDEF._COPYING_") && !is_temporary_name(b"a_0123456789abcdef._COPYING_")
        );
    }

    #[test]
    fn name_with_of_any_name_is_a_name() {
        for length in 220..=NAME_MAX {
            assert!(name_with(&vec![b'x'; length], u64::MAX).len() <= NAME_MAX, "{length}");
            assert!(name_with(&vec![0xbf; length], 0).len() <= NAME_MAX, "{length}");
            let umlauts: String = std::iter::repeat_n('ü', length / 2).collect();
            let name = name_with(umlauts.as_bytes(), 0);
            assert!(name.len() <= NAME_MAX && String::from_utf8(name).is_ok(), "{length}");
        }
    }
}
