//! [`NamePattern`]: one component of a path with wildcards in it, as HDFS reads them.
//!
//! ```text
//! *       any bytes but a slash        [a-c]   a byte of the class; `]` and `-` may stand first, `-` also last
//! ?       one byte but a slash         [^a-c]  a byte that is not in it, also written [!a-c]
//! {a,b}   one of the choices, which may be empty and may hold choices
//! \       takes the next character as it is
//! ```
//!
//! A pattern becomes a list of steps. A name is read once, byte by byte, with all steps at hand where its matching could
//! stand: the time is bounded by the product of both lengths, whatever the pattern.

use std::str::Bytes;

/// Bytes, of which a name has one at some place.
#[derive(Clone, Copy, Debug, Default)]
struct ByteSet([u64; 4]);

impl ByteSet {
    fn any() -> Self {
        let mut set = Self([u64::MAX; 4]);
        set.remove(b'/');
        set
    }

    fn has(self, byte: u8) -> bool {
        self.0[usize::from(byte / 64)] & (1 << (byte % 64)) != 0
    }

    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte / 64)] |= 1 << (byte % 64);
    }

    fn remove(&mut self, byte: u8) {
        self.0[usize::from(byte / 64)] &= !(1 << (byte % 64));
    }

    fn add_other_case(&mut self) {
        let before = *self;
        for letter in (b'a'..=b'z').filter(|&letter| before.has(letter) || before.has(letter.to_ascii_uppercase())) {
            self.add(letter);
            self.add(letter.to_ascii_uppercase());
        }
    }
}

/// What matching does at one place of the pattern. Places are indices into the list of steps.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Takes a byte of the name and goes on behind.
    Take(ByteSet),
    /// Goes on at both places.
    Fork(usize, usize),
    Jump(usize),
    /// The name must end here.
    End,
}

/// A pattern that a name must match as a whole.
#[derive(Clone, Debug)]
pub(crate) struct NamePattern(Vec<Step>);

impl NamePattern {
    /// Without wildcards it matches itself.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub(crate) fn new(text: &str, any_case: bool) -> Result<Self, String> {
        let mut parser = Parser { rest: text.bytes(), any_case, steps: Vec::new(), open: Vec::new() };
        parser.parse()?;
        Ok(Self(parser.steps))
    }

    /// Whether a name, as a listing gives it, matches.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        let mut places = self.places_from([0]);
        for &byte in name {
            let taken = places.iter().filter(|&&at| matches!(self.0[at], Step::Take(set) if set.has(byte)));
            places = self.places_from(taken.map(|at| at + 1));
        }
        places.iter().any(|&at| matches!(self.0[at], Step::End))
    }

    /// Where matching can stand, from these places on, without taking a byte.
    fn places_from(&self, starts: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let (mut seen, mut places) = (vec![false; self.0.len()], Vec::new());
        let mut todo: Vec<usize> = starts.into_iter().collect();
        while let Some(at) = todo.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            match self.0[at] {
                Step::Take(_) | Step::End => places.push(at),
                Step::Fork(one, other) => todo.extend([one, other]),
                Step::Jump(to) => todo.push(to),
            }
        }
        places
    }
}

/// Braces that are open.
struct Choices {
    /// The fork before the choice under way; its other way leads to the next one.
    fork: usize,
    /// The jumps behind the choices before, to the end of all.
    jumps: Vec<usize>,
}

struct Parser<'a> {
    rest: Bytes<'a>,
    any_case: bool,
    steps: Vec<Step>,
    open: Vec<Choices>,
}

impl Parser<'_> {
    fn parse(&mut self) -> Result<(), String> {
        while let Some(byte) = self.rest.next() {
            match byte {
                b'\\' => {
                    let next = self.rest.next().ok_or("nothing follows the \\ at its end")?;
                    self.take_literal(next);
                }
                b'?' => self.steps.push(Step::Take(ByteSet::any())),
                b'*' => {
                    let at = self.steps.len();
                    self.steps.extend([Step::Fork(at + 1, at + 3), Step::Take(ByteSet::any()), Step::Jump(at)]);
                }
                b'[' => self.take_class()?,
                b'{' => {
                    let fork = self.begin_choice();
                    self.open.push(Choices { fork, jumps: Vec::new() });
                }
                b',' if !self.open.is_empty() => self.next_choice(),
                b'}' => self.end_choices()?,
                literal => self.take_literal(literal),
            }
        }
        self.steps.push(Step::End);
        if self.open.is_empty() { Ok(()) } else { Err("a { has no }".to_owned()) }
    }

    fn take(&mut self, mut set: ByteSet) {
        if self.any_case {
            set.add_other_case();
        }
        self.steps.push(Step::Take(set));
    }

    fn take_literal(&mut self, byte: u8) {
        let mut set = ByteSet::default();
        set.add(byte);
        self.take(set);
    }

    /// What follows a `[`.
    fn take_class(&mut self) -> Result<(), String> {
        let mut next = || self.rest.next().ok_or("a [ has no ]");
        let mut byte = next()?;
        let is_negated = matches!(byte, b'^' | b'!');
        if is_negated {
            byte = next()?;
        }
        let mut set = ByteSet::default();
        loop {
            // First, a `]` or `-` stands for itself.
            let low = byte;
            set.add(low);
            byte = next()?;
            if byte == b'-' {
                byte = next()?;
                if byte == b']' {
                    set.add(b'-');
                } else {
                    if byte < low {
                        return Err("a range in [] goes backwards".to_owned());
                    }
                    (low..=byte).for_each(|byte| set.add(byte));
                    byte = next()?;
                }
            }
            if byte == b']' {
                break;
            }
        }
        if self.any_case {
            set.add_other_case();
        }
        if is_negated {
            set = ByteSet(set.0.map(|bits| !bits));
        }
        self.steps.push(Step::Take(set));
        Ok(())
    }

    /// Makes room for the fork before a choice.
    fn begin_choice(&mut self) -> usize {
        let at = self.steps.len();
        self.steps.push(Step::Jump(at + 1));
        at
    }

    fn next_choice(&mut self) {
        let jump = self.begin_choice();
        let fork = self.begin_choice();
        if let Some(choices) = self.open.last_mut() {
            choices.jumps.push(jump);
            self.steps[choices.fork] = Step::Fork(choices.fork + 1, fork);
            choices.fork = fork;
        }
    }

    fn end_choices(&mut self) -> Result<(), String> {
        let choices = self.open.pop().ok_or("a } has no {")?;
        let end = self.steps.len();
        for jump in choices.jumps {
            self.steps[jump] = Step::Jump(end);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_follows_the_table() {
        for (pattern, yes, no) in [
            ("abc", &["abc"][..], &["ab", "abcd", "ABC", ""][..]),
            ("*", &["a", ".hidden", "a b", ""], &["a/b"]),
            ("*.txt", &["a.txt", ".txt"], &["a.txt.gz", "txt"]),
            ("a*b*c", &["abc", "axxbxbxc"], &["acb", "ab"]),
            ("a?c", &["abc", "a.c"], &["ac", "abbc", "a/c"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "x"]),
            ("[a-cx-z]", &["b", "y"], &["d", "-"]),
            ("[^a]x", &["bx"], &["ax"]),
            ("[!a-c]x", &["dx"], &["ax", "bx"]),
            ("[]a]", &["]", "a"], &["b"]),
            ("[^]a]", &["b"], &["]", "a"]),
            ("[-a]", &["-", "a"], &["b"]),
            ("[a-]", &["-", "a"], &["b"]),
            ("[--0]", &["-", ".", "0"], &["1"]),
            ("[*?{]", &["*", "?", "{"], &["a"]),
            ("{one,two}.log", &["one.log", "two.log"], &["three.log"]),
            ("part-{0,1}*", &["part-00", "part-1"], &["part-2"]),
            ("a{,.bak}", &["a", "a.bak"], &["a."]),
            ("a{}b", &["ab"], &["a{}b"]),
            ("{a{b,c},d}e", &["abe", "ace", "de"], &["ae", "bde"]),
            ("{a*,[bc]}x", &["ax", "aqx", "bx", "cx"], &["bqx"]),
            ("a,b", &["a,b"], &["a"]),
            ("{a\\,b,c}", &["a,b", "c"], &["a"]),
            ("\\*", &["*"], &["a"]),
            ("**", &["abc"], &[]),
        ] {
            let matcher = NamePattern::new(pattern, false).unwrap();
            for name in yes {
                assert!(matcher.matches(name.as_bytes()), "{pattern} {name}");
            }
            for name in no {
                assert!(!matcher.matches(name.as_bytes()), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn matches_in_any_case_when_asked_for() {
        for (pattern, name, is_match) in [
            ("Read*.MD", "readme.md", true),
            ("[A-C]1", "b1", true),
            ("[^a]", "A", false),
            ("[^a]", "b", true),
            ("a{B,c}", "Ab", true),
        ] {
            let matches = NamePattern::new(pattern, true).unwrap().matches(name.as_bytes());
            assert_eq!(matches, is_match, "{pattern} {name}");
        }
    }

    #[test]
    fn matches_takes_names_that_are_no_text() {
        let matches = |pattern: &str, name: &[u8]| NamePattern::new(pattern, false).unwrap().matches(name);
        assert!(matches("a*", b"a\xff\xfe"));
        assert!(matches("?", b"\xff"));
        assert!(!matches("?", "ä".as_bytes()), "two bytes");
    }

    #[test]
    fn new_says_what_is_wrong() {
        for (pattern, why) in [
            ("a[", "a [ has no ]"),
            ("[]", "a [ has no ]"),
            ("[a-", "a [ has no ]"),
            ("[c-a]", "a range in [] goes backwards"),
            ("{a", "a { has no }"),
            ("{a{b}", "a { has no }"),
            ("a}", "a } has no {"),
            ("a\\", "nothing follows the \\ at its end"),
        ] {
            assert_eq!(NamePattern::new(pattern, false).unwrap_err(), why, "{pattern}");
        }
    }

    /// Tried one way after the other, this would take longer than anybody waits.
    #[test]
    fn matches_has_an_end_whatever_the_pattern() {
        let pattern = NamePattern::new(&("*a".repeat(40) + &"{a,*}".repeat(40) + "b"), false).unwrap();
        assert!(!pattern.matches(&[b'a'; 255]));
    }

    proptest::proptest! {
        /// Against a model that tries all ways, on letters that meet.
        #[test]
        fn matches_is_what_trying_all_ways_finds(pattern in "[ab*?]{0,6}", name in "[ab]{0,6}") {
            fn tried(pattern: &[u8], name: &[u8]) -> bool {
                match (pattern, name) {
                    ([b'*', rest @ ..], _) => (0..=name.len()).any(|taken| tried(rest, &name[taken..])),
                    ([b'?', rest @ ..], [_, name @ ..]) => tried(rest, name),
                    ([byte, rest @ ..], [first, name @ ..]) => byte == first && tried(rest, name),
                    ([], name) => name.is_empty(),
                    _ => false,
                }
            }
            let found = NamePattern::new(&pattern, false).unwrap().matches(name.as_bytes());
            proptest::prop_assert_eq!(found, tried(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
