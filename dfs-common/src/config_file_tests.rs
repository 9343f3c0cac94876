use super::*;

#[test]
fn every_default_passes_its_own_check() {
    for key in KEYS {
        if !key.default.is_empty() {
            check(key, &toml::Value::String(key.default.to_owned())).unwrap();
        }
    }
}

#[test]
fn keys_are_sorted() {
    assert!(KEYS.is_sorted_by(|one, two| one.name < two.name));
}

#[test]
fn set_names_the_nearest_key() {
    let error = Config::default().set("dfs.blocksise=1MiB").unwrap_err();
    assert!(error.message().contains("\"dfs.blocksize\""), "{error}");
}

#[test]
fn load_reads_texts_numbers_and_lists() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dfs.toml");
    std::fs::write(
        &path,
        "\"dfs.blocksize\" = \"64MiB\"\n\"dfs.replication\" = 2\n\"dfs.namenode.name.dir\" = [\"/a\", \"/b\"]\n",
    )
    .unwrap();
    let config = Config::load(Some(&path)).unwrap();
    assert_eq!(config.bytes("dfs.blocksize"), 64 << 20);
    assert_eq!(config.count("dfs.replication"), 2);
    assert_eq!(config.list("dfs.namenode.name.dir"), ["/a", "/b"]);
}

#[test]
fn load_refuses_values_out_of_range_and_unquoted_keys() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dfs.toml");
    for (text, expected) in [
        ("\"dfs.replication\" = 0", "not within"),
        ("dfs.replication = 3", "quote"),
        ("\"dfs.replication\" = 0", "dfs.replication: \"0\" is not within the limits; allowed: number, 1 to 512"),
        ("\"dfs.replication\" = \"three\"", "whole number"),
        ("\"dfs.client-write-packet-size\" = \"1GiB\"", "allowed: size, 4KiB to 16MiB"),
        ("\"dfs.client.socket-timeout\" = 60000", "allowed: duration, 5s to 300s"),
        (
            "\"dfs.datanode.drop.cache.behind.writes\" = \"some\"",
            "\"some\" is none of its words; allowed: false, mirrors, true",
        ),
        ("\"dfs.blocksize\" = 1000", "\"1000\" is no multiple of 512"),
        ("\"dfs.replication\" = [3]", "dfs.replication: a list, where one value is wanted"),
        ("\"dfs.namenode.rpc-address\" = [\"a:1\", \"b:2\"]", "a list, where one value is wanted"),
        ("\"dfs.namenode.name.dir\" = [\"\"]", "an item of the list is empty"),
        ("\"dfs.namenode.name.dir\" = [\"/a\", \" \"]", "an item of the list is empty"),
        ("\"dfs.namenode.name.dir\" = [[\"/a\"]]", "or no text"),
        ("= 3", "TOML"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Config::load(Some(&path)).unwrap_err();
        assert!(error.message().contains(expected), "{text}: {error}");
        assert!(error.message().contains(path.to_str().unwrap()), "{text}: {error}");
    }
    // A flag over a file that is as it should be.
    std::fs::write(&path, "\"dfs.replication\" = 2").unwrap();
    let error = Config::load(Some(&path)).unwrap().set("dfs.replication=0").unwrap_err();
    assert!(error.message().contains("command line") && !error.message().contains("dfs.toml"), "{error}");
}
