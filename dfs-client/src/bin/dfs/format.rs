//! How values look to people, and to HDFS's users: `drwxr-xr-x`, `1.5 K`, `2026-01-31 12:00`.

use chrono::{DateTime, Local, Utc};
use dfs_common::attr::FileKind;

/// Binary units from 1,024 bytes on, in HDFS's letters.
const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];

/// A size for people, in HDFS's words: below 1,024 as it is, else with a binary unit and one decimal where needed.
pub(crate) fn human_size(bytes: u64) -> String {
    if bytes < 1024 {
        return bytes.to_string();
    }
    let exponent = (bytes.ilog2() / 10).min(6);
    let unit = 1u128 << (10 * exponent);
    // Tenths, rounded to the nearest; 1023.95 K and above is 1 M.
    let tenths = (u128::from(bytes) * 10 + unit / 2) / unit;
    let (tenths, exponent) = if tenths >= 10_240 && exponent < 6 { (10, exponent + 1) } else { (tenths, exponent) };
    let unit = UNITS[exponent as usize - 1];
    if tenths % 10 == 0 { format!("{} {unit}", tenths / 10) } else { format!("{}.{} {unit}", tenths / 10, tenths % 10) }
}

/// A size as asked for: exact, or for people.
pub(crate) fn size(bytes: u64, human: bool) -> String {
    if human { human_size(bytes) } else { bytes.to_string() }
}

/// A time as HDFS's programs take it: milliseconds since 1970.
pub(crate) fn milliseconds(ns: i64) -> i64 {
    ns.div_euclid(1_000_000)
}

/// The letter of a kind in a long listing.
pub(crate) fn kind_letter(kind: FileKind) -> char {
    match kind {
        FileKind::Directory => 'd',
        FileKind::File => '-',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
    }
}

/// A kind in words; the same words in text and JSON.
pub(crate) fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Directory => "directory",
        FileKind::File => "file",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "character device",
        FileKind::BlockDevice => "block device",
    }
}

/// Nine letters of permission, with set-id and sticky bits as `ls` shows them.
pub(crate) fn permission_letters(permissions: u32) -> String {
    let mut letters: Vec<u8> =
        (0..9).map(|bit| if permissions & (0o400 >> bit) != 0 { b"rwx"[bit % 3] } else { b'-' }).collect();
    for (mask, position, set) in [(0o4000, 2, b's'), (0o2000, 5, b's'), (0o1000, 8, b't')] {
        if permissions & mask != 0 {
            letters[position] = if letters[position] == b'x' { set } else { set.to_ascii_uppercase() };
        }
    }
    letters.into_iter().map(char::from).collect()
}

/// `drwxr-xr-x`
pub(crate) fn mode_letters(kind: FileKind, permissions: u32) -> String {
    format!("{}{}", kind_letter(kind), permission_letters(permissions))
}

/// `2026-01-31 12:00`, local time.
pub(crate) fn minute(ns: i64) -> String {
    DateTime::from_timestamp_nanos(ns).with_timezone(&Local).format("%Y-%m-%d %H:%M").to_string()
}

/// `2026-01-31 12:00:00`, UTC: HDFS's `stat` shows this.
pub(crate) fn second_utc(ns: i64) -> String {
    DateTime::<Utc>::from_timestamp_nanos(ns).format("%Y-%m-%d %H:%M:%S").to_string()
}

/// Everything down to the nanosecond and the zone, local time.
pub(crate) fn exact(ns: i64) -> String {
    DateTime::from_timestamp_nanos(ns).with_timezone(&Local).format("%Y-%m-%d %H:%M:%S.%9f %z").to_string()
}

/// Share in percent, rounded; 0 of 0 is 0.
pub(crate) fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 {
        0
    } else {
        u64::try_from((u128::from(part) * 100 + u128::from(whole) / 2) / u128::from(whole)).unwrap_or(u64::MAX)
    }
}

/// `1 item`, `2 items`
pub(crate) fn counted(count: u64, singular: &str) -> String {
    if count == 1 { format!("1 {singular}") } else { format!("{count} {singular}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn human_size_follows_hdfs() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1 K"),
            (1536, "1.5 K"),
            (128 << 20, "128 M"),
            ((1 << 20) - 1, "1 M"),
            (1_300_000, "1.2 M"),
            (1 << 40, "1 T"),
            (u64::MAX, "16 E"),
        ] {
            assert_eq!(human_size(bytes), text, "{bytes}");
        }
        assert_eq!(size(2048, false), "2048");
    }

    #[test]
    fn mode_letters_show_every_bit() {
        for (kind, mode, text) in [
            (FileKind::Directory, 0o755, "drwxr-xr-x"),
            (FileKind::File, 0o640, "-rw-r-----"),
            (FileKind::File, 0o4755, "-rwsr-xr-x"),
            (FileKind::File, 0o4644, "-rwSr--r--"),
            (FileKind::File, 0o2755, "-rwxr-sr-x"),
            (FileKind::Directory, 0o1777, "drwxrwxrwt"),
            (FileKind::Directory, 0o1776, "drwxrwxrwT"),
            (FileKind::Symlink, 0o777, "lrwxrwxrwx"),
            (FileKind::Fifo, 0, "p---------"),
        ] {
            assert_eq!(mode_letters(kind, mode), text);
        }
    }

    #[test]
    fn times_are_shown_in_utc_and_do_not_fail_at_the_ends() {
        assert_eq!(second_utc(1_700_000_000_000_000_000), "2023-11-14 22:13:20");
        for ns in [i64::MIN, -1, 0, i64::MAX] {
            assert!(!minute(ns).is_empty() && !exact(ns).is_empty() && !second_utc(ns).is_empty());
        }
    }

    #[test]
    fn percent_rounds_and_never_divides_by_zero() {
        assert_eq!(percent(1, 3), 33);
        assert_eq!(percent(2, 3), 67);
        assert_eq!(percent(0, 0), 0);
        assert_eq!(percent(u64::MAX, u64::MAX), 100);
        assert_eq!(counted(1, "item"), "1 item");
        assert_eq!(counted(0, "item"), "0 items");
    }
}
