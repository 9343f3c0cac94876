//! What `--json` prints: names of fields are stable, sizes are bytes, times are milliseconds since the epoch.
//!
//! Names are bytes and JSON is text: what is no UTF-8 is shown with replacement characters, and a field of the same name with
//! `_base64` behind it has the bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dfs_common::attr::FileAttr;
use serde::Serialize;

use crate::format;
use crate::owner::Owners;
use crate::path::DfsPath;

/// A path, and its bytes where text cannot hold them.
#[derive(Debug, Serialize)]
pub(crate) struct PathJson {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
}

impl PathJson {
    /// Any path of either side.
    pub(crate) fn of_bytes(path: &[u8]) -> Self {
        let (path, path_base64) = text_of(path);
        Self { path, path_base64 }
    }
}

/// Bytes as text, with replacement characters for what is none, and in base64 if there is such.
pub(crate) fn text_of(bytes: &[u8]) -> (String, Option<String>) {
    let base64 = std::str::from_utf8(bytes).is_err().then(|| STANDARD.encode(bytes));
    (String::from_utf8_lossy(bytes).into_owned(), base64)
}

impl From<&DfsPath> for PathJson {
    fn from(path: &DfsPath) -> Self {
        Self::of_bytes(path.as_bytes())
    }
}

/// A path with its attributes: an entry of `ls`, the answer of `stat`.
#[derive(Debug, Serialize)]
pub(crate) struct StatusJson {
    #[serde(flatten)]
    path: PathJson,
    kind: &'static str,
    /// Octal, four digits.
    permissions: String,
    owner: String,
    group: String,
    uid: u32,
    gid: u32,
    length: u64,
    replication: u32,
    block_size: u64,
    block_count: u32,
    inode: u64,
    nlink: u32,
    access_time_ms: i64,
    modification_time_ms: i64,
    change_time_ms: i64,
    under_construction: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_target_base64: Option<String>,
}

impl StatusJson {
    /// All there is to say about an inode.
    pub(crate) fn new(path: &DfsPath, attr: &FileAttr, owners: &Owners) -> Self {
        Self {
            path: path.into(),
            kind: format::kind_name(attr.kind),
            permissions: format!("{:04o}", attr.permissions),
            owner: owners.user(attr.uid),
            group: owners.group(attr.gid),
            uid: attr.uid,
            gid: attr.gid,
            length: attr.length,
            replication: attr.replication,
            block_size: attr.block_size,
            block_count: attr.block_count,
            inode: attr.inode.0,
            nlink: attr.nlink,
            access_time_ms: format::milliseconds(attr.atime_ns),
            modification_time_ms: format::milliseconds(attr.mtime_ns),
            change_time_ms: format::milliseconds(attr.ctime_ns),
            under_construction: attr.under_construction,
            link_target: None,
            link_target_base64: None,
        }
    }

    /// Adds where a symbolic link points.
    #[must_use]
    pub(crate) fn with_link_target(mut self, target: Option<&[u8]>) -> Self {
        if let Some((text, base64)) = target.map(text_of) {
            (self.link_target, self.link_target_base64) = (Some(text), base64);
        }
        self
    }
}

/// Bytes of a file as a field: text where they are, base64 where not.
#[derive(Debug, Serialize)]
pub(crate) struct ContentJson {
    encoding: &'static str,
    content: String,
}

impl From<Vec<u8>> for ContentJson {
    fn from(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(content) => Self { encoding: "utf-8", content },
            Err(error) => Self { encoding: "base64", content: STANDARD.encode(error.as_bytes()) },
        }
    }
}

#[cfg(test)]
mod tests {
    use dfs_common::attr::FileKind;
    use dfs_common::ids::InodeId;
    use serde_json::json;

    use super::*;

    fn attr() -> FileAttr {
        FileAttr {
            permissions: 0o644,
            length: 5,
            atime_ns: -1,
            mtime_ns: 1_700_000_000_123_456_789,
            replication: 3,
            block_size: 1 << 27,
            block_count: 1,
            ..FileAttr::bare(InodeId(16_385), FileKind::File)
        }
    }

    #[test]
    fn status_has_its_stable_shape() {
        let path = DfsPath::parse(b"/a").unwrap();
        let value = serde_json::to_value(StatusJson::new(&path, &attr(), &Owners::default())).unwrap();
        assert_eq!(
            value,
            json!({
                "path": "/a", "kind": "file", "permissions": "0644", "owner": "root", "group": "root", "uid": 0, "gid": 0,
                "length": 5, "replication": 3, "block_size": 134_217_728, "block_count": 1, "inode": 16_385, "nlink": 1,
                "access_time_ms": -1, "modification_time_ms": 1_700_000_000_123i64, "change_time_ms": 0,
                "under_construction": false
            })
        );
    }

    #[test]
    fn names_that_are_no_text_keep_their_bytes() {
        let path = DfsPath::parse(b"/a\xff").unwrap();
        let value = serde_json::to_value(PathJson::from(&path)).unwrap();
        assert_eq!(value, json!({ "path": "/a\u{fffd}", "path_base64": "L2H/" }));
        let status = StatusJson::new(&path, &attr(), &Owners::default());
        let value = serde_json::to_value(status.with_link_target(Some(b"a\xff"))).unwrap();
        assert_eq!((&value["link_target"], &value["link_target_base64"]), (&json!("a\u{fffd}"), &json!("Yf8=")));
    }

    #[test]
    fn content_is_text_or_base64() {
        let value = |bytes: &[u8]| serde_json::to_value(ContentJson::from(bytes.to_vec())).unwrap();
        assert_eq!(value(b"hi\n"), json!({ "encoding": "utf-8", "content": "hi\n" }));
        assert_eq!(value(b"\xff"), json!({ "encoding": "base64", "content": "/w==" }));
    }
}
