//! Modes as `chmod` takes them: octal (`0755`) or symbolic (`u+x,g-w,o=r`), and the letters of each.

use dfs_common::attr::PERMISSION_MASK;

const ALL_PERMISSIONS: u32 = 0o777;

/// A parsed mode argument; what it makes of a mode depends on that mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModeChange {
    /// The mode itself.
    Absolute(u32),
    /// Clauses, applied in order.
    Symbolic(Vec<Clause>),
}

/// One clause: who, what is done, which permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clause {
    /// Bits of those it speaks of: 0o700, 0o070, 0o007.
    who: u32,
    operator: char,
    permissions: Vec<char>,
}

impl ModeChange {
    /// Parses the argument.
    ///
    /// # Errors
    /// A sentence that says how to write it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= PERMISSION_MASK => Ok(Self::Absolute(mode)),
                _ => Err(format!("{text:?} is not an octal mode; write it like 0644 or u+x")),
            };
        }
        text.split(',')
            .map(Clause::parse)
            .collect::<Option<Vec<_>>>()
            .map(Self::Symbolic)
            .ok_or_else(|| format!("{text:?} is not a mode; write it like 0644, u+x or go-w,a=r"))
    }

    /// The mode after the change. `X` gives execute where someone has it, and to directories.
    pub(crate) fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Absolute(mode) => *mode,
            Self::Symbolic(clauses) => clauses.iter().fold(mode, |mode, clause| clause.apply(mode, is_directory)),
        }
    }
}

impl Clause {
    fn parse(text: &str) -> Option<Self> {
        let operator_at = text.find(['+', '-', '='])?;
        let (who, rest) = text.split_at(operator_at);
        let mut bits = 0;
        for letter in who.chars() {
            bits |= match letter {
                'u' => 0o700,
                'g' => 0o070,
                'o' => 0o007,
                'a' => ALL_PERMISSIONS,
                _ => return None,
            };
        }
        let mut letters = rest.chars();
        let operator = letters.next()?;
        let permissions: Vec<char> = letters.collect();
        if permissions.iter().any(|letter| !"rwxXst".contains(*letter)) {
            return None;
        }
        Some(Self { who: if bits == 0 { ALL_PERMISSIONS } else { bits }, operator, permissions })
    }

    fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let mut bits = 0;
        for letter in &self.permissions {
            bits |= match letter {
                'r' => 0o444 & self.who,
                'w' => 0o222 & self.who,
                'x' => 0o111 & self.who,
                'X' if is_directory || mode & 0o111 != 0 => 0o111 & self.who,
                's' => {
                    (if self.who & 0o700 != 0 { 0o4000 } else { 0 }) | (if self.who & 0o070 != 0 { 0o2000 } else { 0 })
                }
                't' => 0o1000,
                _ => 0,
            };
        }
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => (mode & !self.replaced_bits()) | bits,
        }
    }

    /// What `=` clears: the permissions of those named, and the special bits that belong to them.
    fn replaced_bits(&self) -> u32 {
        let special = [(0o700, 0o4000), (0o070, 0o2000), (0o007, 0o1000)];
        special.iter().filter(|(who, _)| self.who & who != 0).fold(self.who, |bits, (_, special)| bits | special)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apply_does_what_chmod_does() {
        for (text, mode, is_directory, expected) in [
            ("644", 0o777, false, 0o644),
            ("01777", 0, true, 0o1777),
            ("u+x", 0o644, false, 0o744),
            ("+x", 0o644, false, 0o755),
            ("go-w", 0o666, false, 0o644),
            ("a=r", 0o777, false, 0o444),
            ("u=rw,go=", 0o755, false, 0o600),
            ("a+X", 0o644, false, 0o644),
            ("a+X", 0o744, false, 0o755),
            ("a+X", 0o644, true, 0o755),
            ("u+s", 0o755, false, 0o4755),
            ("g+s", 0o755, true, 0o2755),
            ("+t", 0o777, true, 0o1777),
            ("u=rwx", 0o4755, false, 0o755),
            ("o=", 0o1777, true, 0o770),
        ] {
            assert_eq!(ModeChange::parse(text).unwrap().apply(mode, is_directory), expected, "{text} on {mode:o}");
        }
    }

    #[test]
    fn parse_refuses_anything_else() {
        for text in ["", "8", "777777", "u", "z+x", "u+q", "u+x,", "-1x"] {
            assert!(ModeChange::parse(text).is_err(), "{text}");
        }
    }
}
