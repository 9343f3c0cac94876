//! Bytes, numbers and times as a page shows them.

use std::fmt::Write;
use std::time::Duration;

use chrono::DateTime;
use dfs_common::units::ByteCount;

/// Bytes as text. What is no UTF-8 becomes U+FFFD; control characters become the pictures that Unicode has of them, and what
/// would turn the direction of the text around it becomes U+FFFD too, so that one name cannot look like another.
pub(crate) fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(visible).collect()
}

fn visible(character: char) -> char {
    match character {
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(character)).unwrap_or(char::REPLACEMENT_CHARACTER),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}' | '\u{61c}' | '\u{200e}' | '\u{200f}' => char::REPLACEMENT_CHARACTER,
        '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
        other => other,
    }
}

/// Bytes as a part of an address: all but letters, digits and `-._~` become `%XX`.
pub(crate) fn encoded(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// The bytes of a part of an address; a `%` without two hexadecimal digits stands for itself.
pub(crate) fn decoded(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'%').then(|| hexadecimal(after)).flatten();
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    bytes
}

fn hexadecimal(digits: &[u8]) -> Option<u8> {
    let [high, low, ..] = digits else { return None };
    let value = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(value(*high)? * 16 + value(*low)?).ok()
}

/// A number of bytes, with a binary unit.
pub(crate) fn size(bytes: u64) -> String {
    let text = ByteCount(bytes).to_string();
    match text.find(|character: char| character.is_ascii_alphabetic()) {
        Some(unit) => format!("{} {}", &text[..unit], &text[unit..]),
        None => format!("{text} B"),
    }
}

/// Percent, rounded down; none of nothing.
pub(crate) fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return 0;
    }
    u64::try_from(u128::from(part) * 100 / u128::from(whole)).unwrap_or(u64::MAX).min(100)
}

/// `1 block`, `2 blocks`.
pub(crate) fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// A time in nanoseconds since the epoch, in UTC.
pub(crate) fn date(time_ns: i64) -> String {
    DateTime::from_timestamp_nanos(time_ns).format("%Y-%m-%d %H:%M").to_string()
}

/// How long something took or is ago, in its largest unit.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_makes_visible_what_is_no_text() {
        assert_eq!(shown(b"plain <b>"), "plain <b>", "the templates escape");
        assert_eq!(shown(b"a\nb\tc\x7f"), "a\u{240a}b\u{2409}c\u{2421}");
        assert_eq!(shown(b"\xff\xfe!"), "\u{fffd}\u{fffd}!");
        assert_eq!(shown("exe\u{202e}gpj.".as_bytes()), "exe\u{fffd}gpj.");
    }

    #[test]
    fn encoded_comes_back_for_every_byte() {
        let all: Vec<u8> = (0..=255).collect();
        let text = encoded(&all);
        assert_eq!(decoded(&text), all);
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)), "{text}");
        assert_eq!(encoded(b"a b/\"'<\xff"), "a%20b%2F%22%27%3C%FF");
    }

    #[test]
    fn decoded_takes_anything() {
        for (text, bytes) in [("%", &b"%"[..]), ("%4", b"%4"), ("%zz", b"%zz"), ("%41%4a", b"AJ"), ("%%41", b"%A")] {
            assert_eq!(decoded(text), bytes, "{text}");
        }
    }

    #[test]
    fn numbers_and_times_are_readable() {
        assert_eq!([0, 900, 1536, 128 << 20].map(size), ["0 B", "900 B", "1.5 KiB", "128 MiB"]);
        assert_eq!((percent(1, 3), percent(5, 0), percent(u64::MAX, u64::MAX)), (33, 0, 100));
        assert_eq!((counted(1, "block"), counted(0, "block")), ("1 block".to_owned(), "0 blocks".to_owned()));
        assert_eq!(date(1_700_000_000_000_000_000), "2023-11-14 22:13");
        assert_eq!(
            [5, 119, 600, 90_000, 259_200].map(|s| span(Duration::from_secs(s))),
            ["5 s", "119 s", "10 min", "25 h", "3 days"]
        );
    }
}
