//! What an argument of the command line names: `/a`, `a` in the home directory, `hdfs://host:port/a`.
//!
//! A scheme counts only with a slash behind its colon, so that names with colons in them stay names. The cluster that a URI
//! names must be the one that the command speaks to: a path in another would be looked for, or worse, made, in this one.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::path::DfsPath;

/// Schemes of paths in the cluster: HDFS's, and the one that `dfs df` shows.
const CLUSTER_SCHEMES: [&str; 2] = ["hdfs", "dfs"];

/// Against what arguments are read.
pub(crate) struct Locations {
    /// Where relative paths start.
    home: DfsPath,
    /// The NameNodes that were addressed, `host:port`.
    namenodes: Vec<String>,
    cluster_id: String,
}

impl Locations {
    /// Of this user and cluster.
    pub(crate) fn new(user: &str, namenodes: &[String], cluster_id: &str) -> Self {
        let home = DfsPath::root().join(b"user").join(user.as_bytes());
        Self { home, namenodes: namenodes.to_vec(), cluster_id: cluster_id.to_owned() }
    }

    /// The absolute path that an argument spells, patterns left as they are. An empty argument stays empty.
    ///
    /// # Errors
    /// A sentence, when it names another file system or cluster.
    pub(crate) fn absolute(&self, arg: &[u8]) -> Result<Vec<u8>, String> {
        let Some((scheme, rest)) = split_scheme(arg) else {
            let is_absolute = arg.is_empty() || arg.starts_with(b"/");
            return Ok(if is_absolute { arg.to_vec() } else { [self.home.as_bytes(), b"/", arg].concat() });
        };
        if !CLUSTER_SCHEMES.iter().any(|ours| scheme.eq_ignore_ascii_case(ours)) {
            return Err(format!(
                "{scheme}: is no file system of this cluster; paths here begin with / or hdfs://, and a name like that is \
                 written with ./ before it"
            ));
        }
        // `hdfs:/a` has no authority.
        let Some(rest) = rest.strip_prefix(b"//") else { return Ok(rest.to_vec()) };
        let slash = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(slash);
        let authority = String::from_utf8_lossy(authority);
        if !self.is_addressed(&authority) {
            let namenodes = self.namenodes.join(", ");
            return Err(format!(
                "{authority} is not the cluster that is addressed ({namenodes}); name its NameNode with --namenode"
            ));
        }
        Ok(if path.is_empty() { b"/".to_vec() } else { path.to_vec() })
    }

    /// Whether an authority stands for our cluster: nothing, its NameNodes with or without port, or its id.
    fn is_addressed(&self, authority: &str) -> bool {
        let is_ours = |named: &str| {
            self.namenodes.iter().any(|ours| {
                let host = ours.rsplit_once(':').map_or(ours.as_str(), |(host, _)| host);
                named.eq_ignore_ascii_case(ours) || named.eq_ignore_ascii_case(host)
            })
        };
        authority.is_empty() || authority == self.cluster_id || authority.split(',').all(is_ours)
    }
}

/// A local path, which may be written as `file:///a`.
pub(crate) fn local(arg: OsString) -> OsString {
    match split_scheme(arg.as_bytes()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("file") => {
            let path = rest.strip_prefix(b"//").filter(|path| path.starts_with(b"/"));
            OsString::from_vec(path.unwrap_or(rest).to_vec())
        }
        _ => arg,
    }
}

/// As [`local`], of many.
pub(crate) fn locals(args: Vec<OsString>) -> Vec<OsString> {
    args.into_iter().map(local).collect()
}

/// A scheme and what is behind its colon.
fn split_scheme(arg: &[u8]) -> Option<(&str, &[u8])> {
    let colon = arg.iter().position(|byte| *byte == b':')?;
    let scheme = std::str::from_utf8(&arg[..colon]).ok()?;
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter));
    let rest = &arg[colon + 1..];
    (is_scheme && rest.starts_with(b"/")).then_some((scheme, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn absolute(arg: &str) -> Result<String, String> {
        let locations = Locations::new("ann", &["Nn1:9820".to_owned(), "nn2:9821".to_owned()], "CID-1");
        locations.absolute(arg.as_bytes()).map(|path| String::from_utf8(path).unwrap())
    }

    #[test]
    fn absolute_takes_every_spelling_of_a_path_in_this_cluster() {
        for (arg, expected) in [
            ("/a", "/a"),
            ("", ""),
            ("a/b", "/user/ann/a/b"),
            (".", "/user/ann/."),
            ("../x", "/user/ann/../x"),
            ("*.txt", "/user/ann/*.txt"),
            ("hdfs:///a", "/a"),
            ("hdfs:/a", "/a"),
            ("HDFS://nn1:9820/a b", "/a b"),
            ("hdfs://nn2/{a,b}", "/{a,b}"),
            ("hdfs://NN1:9820", "/"),
            ("dfs://nn1:9820,nn2:9821/a", "/a"),
            ("hdfs://CID-1/a", "/a"),
            ("/a:/b", "/a:/b"),
            ("a:b", "/user/ann/a:b"),
            ("./a:/b", "/user/ann/./a:/b"),
            ("12:/b", "/user/ann/12:/b"),
        ] {
            assert_eq!(absolute(arg).as_deref(), Ok(expected), "{arg}");
        }
    }

    #[test]
    fn absolute_refuses_other_clusters_and_file_systems() {
        for arg in ["hdfs://other/a", "hdfs://nn1:9821/a", "hdfs://nn1,other/a", "hdfs://cid-1/a"] {
            assert!(
                absolute(arg).unwrap_err().contains("not the cluster that is addressed (Nn1:9820, nn2:9821)"),
                "{arg}"
            );
        }
        for arg in ["file:///a", "s3a://bucket/a", "webhdfs://nn1/a"] {
            assert!(absolute(arg).unwrap_err().contains("no file system of this cluster"), "{arg}");
        }
    }

    #[test]
    fn local_takes_the_scheme_off() {
        for (arg, expected) in [
            ("file:///a b", "/a b"),
            ("file:/a", "/a"),
            ("a", "a"),
            ("-", "-"),
            ("a:b", "a:b"),
            ("hdfs:///a", "hdfs:///a"),
        ] {
            assert_eq!(local(arg.into()), expected, "{arg}");
        }
    }
}
