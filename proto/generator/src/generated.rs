//! The code in `proto/src/generated` against the code that this crate's build script has just generated.

use std::path::Path;

const GENERATED: [(&str, &str); 2] = [
    ("dfs.v1.rs", include_str!(concat!(env!("OUT_DIR"), "/dfs.v1.rs"))),
    ("hadoop.hdfs.rs", include_str!(concat!(env!("OUT_DIR"), "/hadoop.hdfs.rs"))),
];

const HOW: &str = "DFS_UPDATE_PROTO=1 cargo test --release -p dfs-proto-generator writes it";

/// With `DFS_UPDATE_PROTO=1` it writes the code instead of comparing it.
#[test]
fn generated_code_is_what_the_protocols_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/generated");
    for (name, expected) in GENERATED {
        let path = dir.join(name);
        if std::env::var_os("DFS_UPDATE_PROTO").is_some() {
            std::fs::write(&path, expected).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
            continue;
        }
        let found = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        for (at, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
            assert_eq!(found, expected, "proto/src/generated/{name}, line {}; {HOW}", at + 1);
        }
        assert!(found == expected, "proto/src/generated/{name} ends elsewhere; {HOW}");
    }
}
