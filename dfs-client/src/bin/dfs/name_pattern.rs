//! [`NamePattern`]: one component of a path with wildcards in it, as HDFS reads them.
//!
//! ```text
//! *       any characters but a slash        [a-c]   one of the class; `]` and `-` may stand first, `-` also last
//! ?       one character but a slash         [^a-c]  one that is not in it, also written [!a-c]
//! {a,b}   one of the choices, which may be empty and may hold choices; a } without its { is a character like others
//! \       takes the next character as it is, also in a class
//! ```
//!
//! A character is one of UTF-8. Names need not be UTF-8: a byte that belongs to no character counts as one of its own, which
//! `?`, `*` and `[^...]` match and nothing else does.
//!
//! A pattern becomes a list of steps. A name is read once, character by character, with all steps at hand where its matching
//! could stand: the time is bounded by the product of both lengths, whatever the pattern.

use std::str::Chars;

/// What a name consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Char(char),
    /// A byte that belongs to no character.
    Byte,
}

/// The units of a name.
fn units(name: &[u8]) -> impl Iterator<Item = Unit> {
    name.utf8_chunks()
        .flat_map(|chunk| chunk.valid().chars().map(Unit::Char).chain(chunk.invalid().iter().map(|_| Unit::Byte)))
}

/// Characters, of which a name has one at some place.
#[derive(Clone, Debug, Default)]
struct CharSet {
    /// The first and last of each range.
    ranges: Vec<(char, char)>,
    /// It is all the others.
    is_negated: bool,
    any_case: bool,
}

impl CharSet {
    /// Anything but a slash.
    fn any() -> Self {
        Self { ranges: vec![('/', '/')], is_negated: true, any_case: false }
    }

    fn has(&self, unit: Unit) -> bool {
        let Unit::Char(letter) = unit else { return self.is_negated };
        let has = |letter: char| self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&letter));
        let is_listed = has(letter) || (self.any_case && other_cases(letter).any(has));
        is_listed != self.is_negated
    }
}

/// A letter in lower and in upper case, as far as these are one character.
fn other_cases(letter: char) -> impl Iterator<Item = char> {
    let lower = Some(letter.to_lowercase()).filter(|letters| letters.len() == 1);
    let upper = Some(letter.to_uppercase()).filter(|letters| letters.len() == 1);
    lower.into_iter().flatten().chain(upper.into_iter().flatten())
}

/// What matching does at one place of the pattern. Places are indices into the list of steps.
#[derive(Clone, Debug)]
enum Step {
    /// Takes a character of the name and goes on behind.
    Take(CharSet),
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
        let mut parser = Parser { rest: text.chars(), any_case, steps: Vec::new(), open: Vec::new() };
        parser.parse()?;
        Ok(Self(parser.steps))
    }

    /// Whether a name, as a listing gives it, matches.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        let mut places = self.places_from([0]);
        for unit in units(name) {
            let taken = places.iter().filter(|&&at| matches!(&self.0[at], Step::Take(set) if set.has(unit)));
            places = self.places_from(taken.map(|at| at + 1));
        }
        places.iter().any(|&at| matches!(self.0[at], Step::End))
    }

    /// Where matching can stand, from these places on, without taking a character.
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

/// A character of a class. Behind a backslash it stands for itself.
struct InClass {
    letter: char,
    is_escaped: bool,
}

impl InClass {
    fn is(&self, letter: char) -> bool {
        self.letter == letter && !self.is_escaped
    }
}

struct Parser<'a> {
    rest: Chars<'a>,
    any_case: bool,
    steps: Vec<Step>,
    open: Vec<Choices>,
}

impl Parser<'_> {
    fn parse(&mut self) -> Result<(), String> {
        while let Some(letter) = self.rest.next() {
            match letter {
                '\\' => {
                    let next = self.rest.next().ok_or("nothing follows the \\ at its end")?;
                    self.take(vec![(next, next)], false);
                }
                '?' => self.steps.push(Step::Take(CharSet::any())),
                '*' => {
                    let at = self.steps.len();
                    self.steps.extend([Step::Fork(at + 1, at + 3), Step::Take(CharSet::any()), Step::Jump(at)]);
                }
                '[' => self.take_class()?,
                '{' => {
                    let fork = self.begin_choice();
                    self.open.push(Choices { fork, jumps: Vec::new() });
                }
                ',' if !self.open.is_empty() => self.next_choice(),
                '}' if !self.open.is_empty() => self.end_choices(),
                literal => self.take(vec![(literal, literal)], false),
            }
        }
        self.steps.push(Step::End);
        if self.open.is_empty() { Ok(()) } else { Err("a { has no }".to_owned()) }
    }

    fn take(&mut self, ranges: Vec<(char, char)>, is_negated: bool) {
        self.steps.push(Step::Take(CharSet { ranges, is_negated, any_case: self.any_case }));
    }

    /// What follows a `[`.
    fn take_class(&mut self) -> Result<(), String> {
        let is_negated = self.rest.as_str().starts_with(['^', '!']);
        if is_negated {
            self.rest.next();
        }
        let mut ranges = Vec::new();
        // First, a `]` or `-` stands for itself.
        let mut first = self.in_class()?.letter;
        loop {
            let next = self.in_class()?;
            if next.is(']') {
                ranges.push((first, first));
                break;
            }
            if !next.is('-') {
                ranges.push((first, first));
                first = next.letter;
                continue;
            }
            let last = self.in_class()?;
            if last.is(']') {
                ranges.extend([(first, first), ('-', '-')]);
                break;
            }
            if last.letter < first {
                return Err("a range in [] goes backwards".to_owned());
            }
            ranges.push((first, last.letter));
            let next = self.in_class()?;
            if next.is(']') {
                break;
            }
            first = next.letter;
        }
        self.take(ranges, is_negated);
        Ok(())
    }

    /// The next character of a class.
    fn in_class(&mut self) -> Result<InClass, String> {
        let mut next = || self.rest.next().ok_or("a [ has no ]");
        match next()? {
            '\\' => Ok(InClass { letter: next()?, is_escaped: true }),
            letter => Ok(InClass { letter, is_escaped: false }),
        }
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

    fn end_choices(&mut self) {
        let end = self.steps.len();
        for jump in self.open.pop().into_iter().flat_map(|choices| choices.jumps) {
            self.steps[jump] = Step::Jump(end);
        }
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
            ("a}", &["a}"], &["a"]),
            ("}{a,b}}", &["}a}", "}b}"], &["a"]),
            ("[\\]]y", &["]y"], &["\\y", "]]y"]),
            ("[a\\-c]", &["a", "-", "c"], &["b", "\\"]),
            ("[\\^a]", &["^", "a"], &["b"]),
            ("[A-\\]]", &["A", "Z", "]"], &["a"]),
            ("[ä]x", &["äx"], &["ax", "x"]),
            ("[^b]x", &["äx", "ax"], &["bx"]),
            ("?x", &["äx", "ax"], &["aäx"]),
            ("[à-ü]", &["é"], &["e"]),
            ("日*", &["日本"], &["本"]),
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
            ("Ä?", "äx", true),
            ("[ä-ö]", "Ö", true),
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
        assert!(matches("?", "ä".as_bytes()), "one character");
        assert!(matches("[^a]", b"\xff") && !matches("[a-\u{10ffff}]", b"\xff"));
        assert!(matches("a?b", b"a\xffb") && !matches("a?b", b"a\xff\xfeb"));
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
            ("[\\]", "a [ has no ]"),
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
