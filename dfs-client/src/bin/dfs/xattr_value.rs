//! Values of extended attributes as HDFS's commands write them: `"text"`, `0x6869`, `0saGk=`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;

/// How values are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Encoding {
    /// As they are, in double quotes
    #[default]
    Text,
    /// Hexadecimal digits behind 0x
    Hex,
    /// Base64 behind 0s
    Base64,
}

/// A line with an attribute; without a value, the name alone.
pub(crate) fn line(name: &[u8], value: &[u8], encoding: Encoding) -> Vec<u8> {
    if value.is_empty() {
        return name.to_vec();
    }
    let value = match encoding {
        Encoding::Text => [b"\"", value, b"\""].concat(),
        Encoding::Hex => value.iter().fold(b"0x".to_vec(), |mut digits, byte| {
            digits.extend_from_slice(format!("{byte:02x}").as_bytes());
            digits
        }),
        Encoding::Base64 => [b"0s", STANDARD.encode(value).as_bytes()].concat(),
    };
    [name, b"=", &value].concat()
}

/// A value from the command line: in quotes, hexadecimal, base64, or text as it stands.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Vec<u8>, String> {
    if let Some(quoted) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        return Ok(quoted.as_bytes().to_vec());
    }
    match text.split_at_checked(2) {
        Some(("0x" | "0X", digits)) => {
            parse_hex(digits).ok_or_else(|| format!("{text:?} has no even number of hexadecimal digits behind 0x"))
        }
        Some(("0s" | "0S", encoded)) => {
            STANDARD.decode(encoded).map_err(|error| format!("{text:?} has no base64 behind 0s: {error}"))
        }
        _ => Ok(text.as_bytes().to_vec()),
    }
}

fn parse_hex(digits: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = digits.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(high * 16 + low).ok(),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_has_hdfs_forms() {
        for (value, encoding, expected) in [
            (&b"hi"[..], Encoding::Text, "user.a=\"hi\""),
            (b"hi", Encoding::Hex, "user.a=0x6869"),
            (b"hi", Encoding::Base64, "user.a=0saGk="),
            (b"", Encoding::Text, "user.a"),
        ] {
            assert_eq!(line(b"user.a", value, encoding), expected.as_bytes());
        }
    }

    #[test]
    fn parse_undoes_every_form() {
        for text in ["\"hi\"", "0x6869", "0X6869", "0saGk=", "hi"] {
            assert_eq!(parse(text).unwrap(), b"hi", "{text}");
        }
        for (text, value) in [("", ""), ("\"", "\""), ("\"\"", ""), ("0", "0"), ("\u{e9}", "\u{e9}")] {
            assert_eq!(parse(text).unwrap(), value.as_bytes(), "{text}");
        }
        for bad in ["0x1", "0xzz", "0s!"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
