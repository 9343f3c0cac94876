//! A place in the tree as an address of this daemon: `/browse/a/b/` for a directory, `/browse/a/b` for anything else.
//!
//! Names are bytes, so each is percent-encoded on its own. Every place has one address; the others are redirected to it,
//! because links within a page go from there.

use dfs_common::name::Name;

use crate::pages::text::{decoded, encoded, shown};

/// Where the tree is.
pub(super) const BROWSE: &str = "/browse/";
/// Links to directories above that a page shows: with more, their addresses would make a page of a deep directory long.
const CRUMBS_MAX: usize = 16;

/// Names from the root down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TreePath(Vec<Vec<u8>>);

/// A link to a directory above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Crumb {
    pub(super) name: String,
    pub(super) href: String,
}

impl TreePath {
    /// The path of an address, which begins with `/browse`.
    pub(super) fn of_address(address: &str) -> Self {
        let rest = address.strip_prefix("/browse").unwrap_or(address);
        Self(rest.split('/').filter(|part| !part.is_empty()).map(decoded).collect())
    }

    /// The path that a form's field holds: `+` is a space there.
    pub(super) fn of_field(field: &str) -> Self {
        let path = decoded(&field.replace('+', " "));
        Self(path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
    }

    /// Its names; those that no directory can have, `..` among them, are found in none.
    pub(super) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// Whether each part is a name.
    pub(super) fn is_valid(&self) -> bool {
        self.names().all(|name| Name::new(name).is_ok())
    }

    /// Its one address.
    pub(super) fn address(&self, is_directory: bool) -> String {
        let mut address = format!("{BROWSE}{}", self.0.iter().map(|name| encoded(name)).collect::<Vec<_>>().join("/"));
        if is_directory && !self.0.is_empty() {
            address.push('/');
        }
        address
    }

    /// The whole path, for people.
    pub(super) fn shown(&self) -> String {
        format!("/{}", self.names().map(shown).collect::<Vec<_>>().join("/"))
    }

    /// The last name, for people.
    pub(super) fn last(&self) -> String {
        self.0.last().map(|name| shown(name)).unwrap_or_default()
    }

    /// The directories above, from the root; of a deep one, only those next to it.
    pub(super) fn crumbs(&self, is_directory: bool) -> Vec<Crumb> {
        let Some((_, above)) = self.0.split_last() else { return Vec::new() };
        let mut crumbs = vec![Crumb { name: "root".to_owned(), href: BROWSE.to_owned() }];
        let skipped = above.len().saturating_sub(CRUMBS_MAX);
        for (at, name) in above.iter().enumerate().skip(skipped) {
            let steps = above.len() - 1 - at + usize::from(is_directory);
            let href = if steps == 0 { "./".to_owned() } else { "../".repeat(steps) };
            let name = if at == skipped && skipped > 0 { format!("… {}", shown(name)) } else { shown(name) };
            crumbs.push(Crumb { name, href });
        }
        crumbs
    }

    /// A shell command that fetches it; none where the path cannot be written in a line of text.
    pub(super) fn fetch_command(&self) -> Option<String> {
        let names: Option<Vec<&str>> = self.names().map(|name| std::str::from_utf8(name).ok()).collect();
        let path = format!("/{}", names?.join("/"));
        // The shell would take these for a pattern.
        let is_plain = shown(path.as_bytes()) == path && !path.contains(['*', '?', '[', ']', '{', '}', '\\']);
        is_plain.then(|| format!("dfs get '{}' .", path.replace('\'', r"'\''")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_comes_back_for_any_name() {
        for name in [
            &b"plain"[..],
            b"<script>alert(1)</script>",
            b"a'b\"c",
            b"two\nlines",
            b"\xff\xfe",
            b"%41",
            b"a b+c",
            b"...",
        ] {
            let path = TreePath(vec![b"dir".to_vec(), name.to_vec()]);
            for is_directory in [true, false] {
                let address = path.address(is_directory);
                assert_eq!(TreePath::of_address(&address), path, "{address}");
                assert_eq!(TreePath::of_address(&address).address(is_directory), address);
            }
        }
        assert_eq!(TreePath::of_address("/browse"), TreePath::of_address("/browse//"));
        assert_eq!(TreePath::of_address("/browse").address(true), "/browse/");
        assert_eq!(TreePath::of_address("/browse//a///b").address(true), "/browse/a/b/");
    }

    #[test]
    fn names_that_no_directory_has_are_not_valid() {
        assert!(TreePath::of_address("/browse/a/b").is_valid());
        for address in ["/browse/a/..", "/browse/%2e%2e/a", "/browse/a%2Fb", "/browse/a%00"] {
            assert!(!TreePath::of_address(address).is_valid(), "{address}");
        }
    }

    #[test]
    fn of_field_takes_what_a_form_sends() {
        assert_eq!(TreePath::of_field("%2Fa+b%2Fc%2B").address(false), "/browse/a%20b/c%2B");
        assert_eq!(TreePath::of_field("").address(true), "/browse/");
    }

    #[test]
    fn crumbs_lead_up() {
        let hrefs = |address: &str, is_directory| {
            let crumbs = TreePath::of_address(address).crumbs(is_directory);
            crumbs.into_iter().map(|crumb| crumb.href).collect::<Vec<_>>()
        };
        assert!(hrefs("/browse/", true).is_empty());
        assert_eq!(hrefs("/browse/a/", true), ["/browse/"]);
        assert_eq!(hrefs("/browse/a/b/c/", true), ["/browse/", "../../", "../"]);
        assert_eq!(hrefs("/browse/a/b/file", false), ["/browse/", "../", "./"]);
        let deep = TreePath(vec![b"d".to_vec(); 2_048]).crumbs(true);
        assert_eq!(deep.len(), 1 + CRUMBS_MAX);
        assert_eq!(deep[1].name, "… d");
    }

    #[test]
    fn fetch_command_is_quoted() {
        let command = |name: &[u8]| TreePath(vec![name.to_vec()]).fetch_command();
        assert_eq!(command(b"it's; rm -rf").unwrap(), r"dfs get '/it'\''s; rm -rf' .");
        for odd in [&b"a\nb"[..], b"\xff", b"a*"] {
            assert_eq!(command(odd), None, "{odd:?}");
        }
    }
}
