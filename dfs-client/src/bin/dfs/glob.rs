//! Patterns in paths, matched by us as HDFS does: the shell sees only the local file system, so patterns are quoted.
//!
//! What stands in a component is [`NamePattern`]'s; choices (`{a,b}`) may also hold slashes. Names that begin with a dot match
//! like any other, as in HDFS.
//!
//! A pattern that matches nothing stands for the path spelled like it, if that exists: so `rm 'a[1]'` removes the file
//! of that name. A pattern that is no text in UTF-8, or is malformed, is always a plain name.

use dfs_common::{DfsError, ErrorKind, Result};

use crate::name_pattern::NamePattern;
use crate::path::DfsPath;

/// Most paths that the choices of one argument may spell out: `{a,b}` repeated doubles them each time.
const SPELLINGS_MAX: usize = 1024;

/// Whether anything in `text` asks for matching.
pub(crate) fn is_pattern(text: &[u8]) -> bool {
    text.iter().any(|byte| b"*?[{\\".contains(byte))
}

/// The pattern in a component of a path; `None` when it is a plain name.
pub(crate) fn pattern_in(component: &[u8]) -> Option<NamePattern> {
    let text = std::str::from_utf8(component).ok().filter(|_| is_pattern(component))?;
    NamePattern::new(text, false).ok()
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
    if pattern_in(component).is_none() {
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
    let first = components.iter().position(|component| pattern_in(component).is_some())?;
    let above = components[..first].iter().fold(DfsPath::root(), |path, name| path.join(name));
    Some((above, components[first..].iter().map(|component| component.to_vec()).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_in_leaves_plain_and_malformed_names_alone() {
        for plain in [&b"abc"[..], b"a.b-c", b"a[", b"{a", b"\xff*"] {
            assert!(pattern_in(plain).is_none(), "{plain:?}");
        }
        assert!(pattern_in(b"a\\*").unwrap().matches(b"a*"));
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
            if let Some(pattern) = pattern_in(&pattern) {
                let _ = pattern.matches(&name);
            }
            let _ = spell_out(&pattern);
        }
    }
}
