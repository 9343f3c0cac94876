//! Patterns in paths, matched by us as HDFS does: the shell sees only the local file system, so patterns are quoted.
//!
//! `*` any bytes but a slash, `?` one byte, `[a-c]` and `[^a-c]` classes, `{a,b}` choices (which may hold slashes), `\`
//! takes the next character as it is. Names that begin with a dot match like any other, as in HDFS.
//!
//! A pattern that matches nothing stands for the path spelled like it, if that exists: so `rm 'a[1]'` removes the file
//! of that name. A pattern that is no text in UTF-8, or is malformed, is always a plain name.

use globset::{GlobBuilder, GlobMatcher};

use dfs_common::{DfsError, ErrorKind, Result};

use crate::path::DfsPath;

/// Most paths that the choices of one argument may spell out: `{a,b}` repeated doubles them each time.
const SPELLINGS_MAX: usize = 1024;

/// Whether anything in `text` asks for matching.
pub(crate) fn is_pattern(text: &[u8]) -> bool {
    text.iter().any(|byte| b"*?[{\\".contains(byte))
}

/// A pattern for one component of a path.
#[derive(Clone, Debug)]
pub(crate) struct NamePattern(GlobMatcher);

impl NamePattern {
    /// The pattern in `component`; `None` when it is a plain name.
    pub(crate) fn new(component: &[u8]) -> Option<Self> {
        if !is_pattern(component) {
            return None;
        }
        let text = std::str::from_utf8(component).ok()?;
        let glob = GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build().ok()?;
        Some(Self(glob.compile_matcher()))
    }

    /// A pattern that a name must match as a whole; a plain one matches itself.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub(crate) fn of_name(text: &str, any_case: bool) -> std::result::Result<Self, String> {
        let mut builder = GlobBuilder::new(text);
        builder.literal_separator(true).backslash_escape(true).case_insensitive(any_case);
        builder.build().map(|glob| Self(glob.compile_matcher())).map_err(|error| error.to_string())
    }

    /// Whether a name, as a listing gives it, matches.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt;
        self.0.is_match(std::ffi::OsStr::from_bytes(name))
    }
}

/// Spells out the choices that hold slashes, which no pattern of a single component can: `/{a/b,c}/d` becomes `/a/b/d`
/// and `/c/d`. Anything else stays as it is.
///
/// # Errors
/// `InvalidArgument` when it stands for more than [`SPELLINGS_MAX`] paths.
pub(crate) fn spell_out(text: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut done = Vec::new();
    let mut pending = vec![text.to_vec()];
    while let Some(next) = pending.pop() {
        match choices_with_slash(&next) {
            None => done.push(next),
            // Pushed in reverse, so that they come out in the order written.
            Some((range, choices)) => pending
                .extend(choices.iter().rev().map(|choice| [&next[..range.start], choice, &next[range.end..]].concat())),
        }
        if done.len() + pending.len() > SPELLINGS_MAX {
            let what = format!("the pattern stands for more than {SPELLINGS_MAX} paths; split it up");
            return Err(DfsError::new(ErrorKind::InvalidArgument, what));
        }
    }
    Ok(done)
}

/// The first outermost group of choices with a slash in it: where it is, braces included, and its choices.
fn choices_with_slash(text: &[u8]) -> Option<(std::ops::Range<usize>, Vec<&[u8]>)> {
    let mut depth = 0usize;
    let (mut start, mut choice_start, mut has_slash) = (0, 0, false);
    let mut choices = Vec::new();
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'\\' => at += 1,
            b'{' => {
                if depth == 0 {
                    (start, choice_start, has_slash) = (at, at + 1, false);
                    choices.clear();
                }
                depth += 1;
            }
            b',' if depth == 1 => {
                choices.push(&text[choice_start..at]);
                choice_start = at + 1;
            }
            b'}' if depth > 0 => {
                depth -= 1;
                if depth == 0 && has_slash {
                    choices.push(&text[choice_start..at]);
                    return Some((start..at + 1, choices));
                }
            }
            b'/' if depth > 0 => has_slash = true,
            _ => {}
        }
        at += 1;
    }
    None
}

/// What a path stands for as the name of something new: its text without the backslashes that take the next character as it
/// is. None when there is something to be matched in it.
pub(crate) fn literal(text: &[u8]) -> Option<Vec<u8>> {
    // Choices with slashes are spread over several components.
    if choices_with_slash(text).is_some() {
        return None;
    }
    let components = text.split(|byte| *byte == b'/').map(literal_component).collect::<Option<Vec<_>>>()?;
    Some(components.join(&b'/'))
}

fn literal_component(component: &[u8]) -> Option<Vec<u8>> {
    if NamePattern::new(component).is_none() {
        return Some(component.to_vec());
    }
    let mut name = Vec::with_capacity(component.len());
    let mut bytes = component.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => name.extend(bytes.next()),
            b'*' | b'?' | b'[' | b'{' => return None,
            byte => name.push(*byte),
        }
    }
    Some(name)
}

/// Splits a path at its first pattern: the directory above it, and the components from there on.
pub(crate) fn split_at_pattern(path: &DfsPath) -> Option<(DfsPath, Vec<Vec<u8>>)> {
    let components: Vec<&[u8]> = path.components().collect();
    let first = components.iter().position(|component| NamePattern::new(component).is_some())?;
    let above = components[..first].iter().fold(DfsPath::root(), |path, name| path.join(name));
    Some((above, components[first..].iter().map(|component| component.to_vec()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_follows_the_table() {
        for (pattern, yes, no) in [
            ("*", &["a", ".hidden", "a b"][..], &[][..]),
            ("*.txt", &["a.txt", ".txt"], &["a.txt.gz", "txt"]),
            ("a?c", &["abc", "a.c"], &["ac", "abbc"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "x"]),
            ("[^a]x", &["bx"], &["ax"]),
            ("[!a]x", &["bx"], &["ax"]),
            ("{one,two}.log", &["one.log", "two.log"], &["three.log"]),
            ("part-{0,1}*", &["part-00", "part-1"], &["part-2"]),
            ("\\*", &["*"], &["a"]),
            ("**", &["abc"], &[]),
        ] {
            let glob = NamePattern::new(pattern.as_bytes()).unwrap();
            for name in yes {
                assert!(glob.matches(name.as_bytes()), "{pattern} {name}");
            }
            for name in no {
                assert!(!glob.matches(name.as_bytes()), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn matches_takes_names_that_are_no_text() {
        assert!(NamePattern::new(b"a*").unwrap().matches(b"a\xff\xfe"));
        assert!(NamePattern::new(b"?").unwrap().matches(b"\xff"));
    }

    #[test]
    fn new_leaves_plain_and_malformed_names_alone() {
        for plain in [&b"abc"[..], b"a.b-c", b"a[", b"{a", b"\xff*"] {
            assert!(NamePattern::new(plain).is_none(), "{plain:?}");
        }
    }

    #[test]
    fn spell_out_expands_choices_with_slashes_only() {
        let spell = |text: &str| -> Vec<String> {
            let spelled = spell_out(text.as_bytes()).unwrap();
            spelled.into_iter().map(|bytes| String::from_utf8(bytes).unwrap()).collect()
        };
        assert_eq!(spell("/a/{b,c}"), ["/a/{b,c}"]);
        assert_eq!(spell("/{a/b,c}/d"), ["/a/b/d", "/c/d"]);
        assert_eq!(spell("{/a,/b}/{c/d,e}"), ["/a/c/d", "/a/e", "/b/c/d", "/b/e"]);
        assert_eq!(spell("/{x,{a/b,c}}"), ["/x", "/a/b", "/c"]);
        assert_eq!(spell("/\\{a/b,c}"), ["/\\{a/b,c}"]);
        assert_eq!(spell("/{a/b"), ["/{a/b"]);
        assert_eq!(spell("/a}{b/c}"), ["/a}b/c"]);
    }

    #[test]
    fn literal_takes_backslashes_off_and_no_pattern() {
        for (text, expected) in [
            ("/a/b", Some("/a/b")),
            ("/a\\*/b\\[1\\]", Some("/a*/b[1]")),
            ("/a[", Some("/a[")),
            ("/a\\\\b", Some("/a\\b")),
            ("/a*", None),
            ("/a/b?/c", None),
            ("/{a,b}", None),
            ("/{a/b,c}", None),
            ("/[ab]", None),
        ] {
            assert_eq!(literal(text.as_bytes()).as_deref(), expected.map(str::as_bytes), "{text}");
        }
    }

    #[test]
    fn spell_out_is_bounded() {
        let error = spell_out("{/a,/b}".repeat(40).as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn split_at_pattern_finds_the_literal_directory() {
        let split = |text: &str| split_at_pattern(&DfsPath::parse(text.as_bytes()).unwrap());
        let (above, rest) = split("/a/b/c*/d").unwrap();
        assert_eq!((above.to_string(), rest), ("/a/b".to_owned(), vec![b"c*".to_vec(), b"d".to_vec()]));
        assert!(split("/a/b").is_none());
    }

    proptest::proptest! {
        #[test]
        fn any_pattern_and_name_never_panic(pattern: Vec<u8>, name: Vec<u8>) {
            if let Some(pattern) = NamePattern::new(&pattern) {
                let _ = pattern.matches(&name);
            }
            let _ = spell_out(&pattern);
        }
    }
}
