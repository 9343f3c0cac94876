//! Sizes and durations as people write them: `128MiB`, `64k`, `30s`, `500ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes; prints and parses with binary units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteCount(pub u64);

const UNITS: [(&str, u64); 6] =
    [("EiB", 1 << 60), ("PiB", 1 << 50), ("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in UNITS {
            if self.0 >= size {
                return if self.0.is_multiple_of(size) {
                    write!(f, "{}{unit}", self.0 / size)
                } else {
                    #[allow(clippy::cast_precision_loss, reason = "for people, one decimal")]
                    let value = self.0 as f64 / size as f64;
                    write!(f, "{value:.1}{unit}")
                };
            }
        }
        write!(f, "{}", self.0)
    }
}

impl FromStr for ByteCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (digits, unit) = split_number(text);
        let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a size; write it like 128MiB"))?;
        let factor = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "p" | "pib" => 1 << 50,
            _ => return Err(format!("unit {unit:?} in {text:?} is unknown; use KiB, MiB, GiB or TiB")),
        };
        number.checked_mul(factor).map(Self).ok_or_else(|| format!("{text:?} is above 2^64 bytes"))
    }
}

/// Parses `30s`, `500ms`, `5m`, `1h`; a bare number is seconds.
///
/// # Errors
/// A sentence that says how to write it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = split_number(text);
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a duration; write it like 30s"))?;
    let millis = match unit.to_ascii_lowercase().as_str() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("unit {unit:?} in {text:?} is unknown; use ms, s, m, h or d")),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(|| format!("{text:?} is too long"))
}

fn split_number(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_count_parses_units() {
        for (text, bytes) in [("0", 0), ("512", 512), ("64k", 65_536), ("128MiB", 128 << 20), ("2 GiB", 2 << 30)] {
            assert_eq!(text.parse::<ByteCount>().unwrap().0, bytes, "{text}");
        }
        for bad in ["", "x", "12zb", "99999999999999TiB", "-1"] {
            assert!(bad.parse::<ByteCount>().is_err(), "{bad}");
        }
        assert_eq!(ByteCount(128 << 20).to_string(), "128MiB");
        assert_eq!(ByteCount(1536).to_string(), "1.5KiB");
    }

    #[test]
    fn parse_duration_knows_its_units() {
        assert_eq!(parse_duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse_duration("30").unwrap(), Duration::from_secs(30));
        assert_eq!(parse_duration("2m").unwrap(), Duration::from_secs(120));
        assert!(parse_duration("2y").is_err());
    }
}
