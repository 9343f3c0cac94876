//! What the edit log and images are made of belongs to the NameNode's layout version: an older program must refuse what it would
//! understand only in part.

use std::collections::BTreeSet;

use dfs_common::storage_info::NAMENODE_LAYOUT;

const STORED: &str = include_str!(concat!(env!("OUT_DIR"), "/stored_fields.txt"));
/// Layouts that were released, and the checksum of their lists: what was written to disks does not change any more.
const RELEASED: [(u32, u32); 1] = [(1, 0x5c54_e0b8)];
/// Fields and choices of each layout, as `build.rs` writes them.
const LAYOUTS: [(u32, &str); 2] = [(1, include_str!("../../layouts/1.txt")), (2, include_str!("../../layouts/2.txt"))];

fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().filter(|line| !line.is_empty()).collect()
}

#[test]
fn every_field_that_is_stored_belongs_to_the_layout_version() {
    let (newest, listed) = LAYOUTS[LAYOUTS.len() - 1];
    assert_eq!(newest, NAMENODE_LAYOUT, "each layout has a list in proto/layouts");
    let (stored, listed) = (lines(STORED), lines(listed));
    let added: Vec<_> = stored.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&stored).collect();
    assert!(
        added.is_empty() && gone.is_empty(),
        "the log or images have other fields than layout {newest}: added {added:#?}, gone {gone:#?}. If that layout has been \
         released, raise NAMENODE_LAYOUT (dfs-common/src/storage_info.rs) and add a list; if not, correct \
         proto/layouts/{newest}.txt"
    );
}

#[test]
fn lists_of_released_layouts_stay_as_they_are() {
    for (layout, checksum) in RELEASED {
        let (_, listed) = LAYOUTS.iter().find(|(listed, _)| *listed == layout).unwrap();
        let found = dfs_common::checksum::crc32c(listed.as_bytes());
        assert_eq!(found, checksum, "proto/layouts/{layout}.txt was changed, and that layout is on disks");
    }
}

#[test]
fn no_layout_takes_back_what_an_older_one_stored() {
    for pair in LAYOUTS.windows(2) {
        let gone: Vec<_> = lines(pair[0].1).difference(&lines(pair[1].1)).copied().collect();
        assert!(gone.is_empty(), "layout {} has no {gone:?} of layout {}: old logs are replayed", pair[1].0, pair[0].0);
    }
}
