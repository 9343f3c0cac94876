//! What an argument of the command line names: `/a`, `a` in the home directory, `hdfs://host:port/a`.
//!
//! A scheme counts only with a slash behind its colon, so that names with colons in them stay names. The cluster that a URI
//! names must be the one that the command speaks to: a path in another would be looked for, or worse, made, in this one.
//! NameNodes under names that were not given to the command are asked which cluster is theirs (`same_cluster`), once.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use tokio::sync::Mutex;

use crate::failure::{Failure, Outcome};
use crate::path::DfsPath;
use crate::same_cluster::Answer;

/// Schemes of paths in the cluster: HDFS's, and the one that `dfs df` shows.
const CLUSTER_SCHEMES: [&str; 2] = ["hdfs", "dfs"];

/// Against what arguments are read.
pub(crate) struct Locations {
    /// Where relative paths start.
    home: DfsPath,
    /// The NameNodes that were addressed, `host:port`.
    namenodes: Vec<String>,
    cluster_id: String,
    /// What those have answered that were asked, by the address.
    answers: Mutex<HashMap<String, Answer>>,
}

impl Locations {
    /// Of this user and cluster.
    pub(crate) fn new(user: &str, namenodes: &[String], cluster_id: &str) -> Self {
        let home = DfsPath::root().join(b"user").join(user.as_bytes());
        let answers = Mutex::default();
        Self { home, namenodes: namenodes.to_vec(), cluster_id: cluster_id.to_owned(), answers }
    }

    /// The absolute path that an argument spells, patterns left as they are. An empty argument stays empty. `ask` asks the
    /// NameNode at an address which cluster it is of.
    ///
    /// # Errors
    /// A sentence, when it names another file system or cluster.
    pub(crate) async fn absolute(&self, arg: &[u8], ask: impl AsyncFn(&str) -> Answer) -> Result<Vec<u8>, String> {
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
        let why_not = match self.addressed(&authority, ask).await {
            Answer::Same => None,
            Answer::Other => Some(String::new()),
            Answer::None => Some(", as far as can be told: nothing answers there".to_owned()),
            Answer::Untold(words) => Some(format!(", as far as can be told: asked which it is, it failed: {words}")),
        };
        if let Some(why_not) = why_not {
            let namenodes = self.namenodes.join(", ");
            return Err(format!(
                "{authority} is not the cluster that is addressed ({namenodes}){why_not}; name its NameNode with --namenode"
            ));
        }
        Ok(if path.is_empty() { b"/".to_vec() } else { path.to_vec() })
    }

    /// Whether an authority stands for our cluster: nothing, its id, or its NameNodes under any name, with or without port.
    async fn addressed(&self, authority: &str, ask: impl AsyncFn(&str) -> Answer) -> Answer {
        if authority.is_empty() || authority == self.cluster_id {
            return Answer::Same;
        }
        for named in authority.split(',').filter(|named| !self.is_named(named)) {
            let address = self.with_port(named);
            // Held while it is asked: of many paths there, one asks.
            let mut answers = self.answers.lock().await;
            let answer = match answers.get(&address) {
                Some(answer) => answer.clone(),
                None => {
                    let answer = ask(&address).await;
                    answers.insert(address, answer.clone());
                    answer
                }
            };
            if answer != Answer::Same {
                return answer;
            }
        }
        Answer::Same
    }

    /// Whether it is a NameNode that the command was given.
    fn is_named(&self, named: &str) -> bool {
        self.namenodes.iter().any(|ours| {
            let host = ours.rsplit_once(':').map_or(ours.as_str(), |(host, _)| host);
            named.eq_ignore_ascii_case(ours) || named.eq_ignore_ascii_case(host)
        })
    }

    /// The address that a name stands for: one without a port has ours.
    fn with_port(&self, named: &str) -> String {
        let has_port = named.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        match self.namenodes.first().and_then(|ours| ours.rsplit_once(':')) {
            Some((_, port)) if !has_port => format!("{named}:{port}"),
            _ => named.to_owned(),
        }
    }
}

/// A local path, which may be written as `file:///a`.
///
/// # Errors
/// When it names another machine.
pub(crate) fn local(arg: OsString) -> Outcome<OsString> {
    let Some((scheme, rest)) = split_scheme(arg.as_bytes()) else { return Ok(arg) };
    if !scheme.eq_ignore_ascii_case("file") {
        return Ok(arg);
    }
    let path = match rest.strip_prefix(b"//") {
        Some(named) => named.strip_prefix(b"localhost").unwrap_or(named),
        None => rest,
    };
    if path.starts_with(b"/") {
        return Ok(OsString::from_vec(path.to_vec()));
    }
    Err(Failure::refused(arg.display(), "names another machine; a local path is written as file:///a"))
}

/// As [`local`], of many.
///
/// # Errors
/// The same.
pub(crate) fn locals(args: Vec<OsString>) -> Outcome<Vec<OsString>> {
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

    /// Where `alias` is another name of the first NameNode, and `away` does not answer.
    async fn answer(address: &str) -> Answer {
        match address {
            "alias:9820" => Answer::Same,
            address if address.starts_with("away:") => Answer::None,
            address if address.starts_with("odd:") => Answer::Untold("no answer in time".to_owned()),
            _ => Answer::Other,
        }
    }

    fn locations() -> Locations {
        Locations::new("ann", &["Nn1:9820".to_owned(), "nn2:9821".to_owned()], "CID-1")
    }

    async fn absolute(arg: &str) -> Result<String, String> {
        let path = locations().absolute(arg.as_bytes(), answer).await;
        path.map(|path| String::from_utf8(path).unwrap())
    }

    #[tokio::test]
    async fn absolute_takes_every_spelling_of_a_path_in_this_cluster() {
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
            ("hdfs://alias:9820/a", "/a"),
            ("hdfs://alias,nn2:9821/a", "/a"),
            ("/a:/b", "/a:/b"),
            ("a:b", "/user/ann/a:b"),
            ("./a:/b", "/user/ann/./a:/b"),
            ("12:/b", "/user/ann/12:/b"),
        ] {
            assert_eq!(absolute(arg).await.as_deref(), Ok(expected), "{arg}");
        }
    }

    #[tokio::test]
    async fn absolute_refuses_other_clusters_and_file_systems() {
        for arg in ["hdfs://other/a", "hdfs://nn1:9821/a", "hdfs://nn1,other/a", "hdfs://cid-1/a", "hdfs://alias:1/a"] {
            let refused = absolute(arg).await.unwrap_err();
            assert!(
                refused.contains("not the cluster that is addressed (Nn1:9820, nn2:9821); name"),
                "{arg}: {refused}"
            );
        }
        let refused = absolute("hdfs://away/a").await.unwrap_err();
        assert!(refused.contains("nothing answers there"), "{refused}");
        let refused = absolute("hdfs://odd/a").await.unwrap_err();
        assert!(refused.contains("it failed: no answer in time; name its NameNode"), "{refused}");
        for arg in ["file:///a", "s3a://bucket/a", "webhdfs://nn1/a"] {
            assert!(absolute(arg).await.unwrap_err().contains("no file system of this cluster"), "{arg}");
        }
    }

    #[tokio::test]
    async fn absolute_asks_once() {
        let locations = locations();
        let asked = std::cell::RefCell::new(Vec::new());
        let ask = async |address: &str| {
            asked.borrow_mut().push(address.to_owned());
            answer(address).await
        };
        for arg in ["hdfs://alias/a", "hdfs://nn1/a", "hdfs://alias:9820/b", "hdfs://away/a", "hdfs://away/b"] {
            let _ = locations.absolute(arg.as_bytes(), ask).await;
        }
        assert_eq!(*asked.borrow(), ["alias:9820", "away:9820"]);
    }

    #[test]
    fn local_takes_the_scheme_off() {
        for (arg, expected) in [
            ("file:///a b", "/a b"),
            ("file:/a", "/a"),
            ("file://localhost/a", "/a"),
            ("a", "a"),
            ("-", "-"),
            ("a:b", "a:b"),
            ("hdfs:///a", "hdfs:///a"),
        ] {
            assert_eq!(local(arg.into()).unwrap(), expected, "{arg}");
        }
        for arg in ["file://server/x", "file://localhosts/x", "FILE://server"] {
            assert!(local(arg.into()).unwrap_err().to_string().contains("another machine"), "{arg}");
        }
    }
}
