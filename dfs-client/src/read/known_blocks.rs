//! What is known of where one file's bytes are: its blocks as far as they were asked for, and its length. Pure: no call is made here.

use std::collections::BTreeMap;
use std::sync::Arc;

use dfs_common::attr::FileAttr;

use crate::datanode::Located;

/// Blocks remembered per file; beyond it the oldest in file order go. A hundred bytes each.
const BLOCKS_MAX: usize = 20_000;

/// What a reader was shown of a file that was being written then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Bytes.
    pub length: u64,
    /// The file's modification time when it had that length for sure, in nanoseconds. While no DataNode tells a newer
    /// length, it stays behind the file's own.
    pub mtime_ns: i64,
}

/// What the NameNode says of a range of a file.
pub(super) struct Page {
    pub(super) blocks: Vec<Located>,
    pub(super) file_length: u64,
    pub(super) is_under_construction: bool,
    /// Of the file.
    pub(super) attr: FileAttr,
}

/// See the module.
#[derive(Default)]
pub(super) struct Known {
    /// By offset in the file; blocks without bytes are left out.
    pub(super) blocks: BTreeMap<u64, Arc<Located>>,
    pub(super) length: u64,
    pub(super) block_size: u64,
    pub(super) replication: u32,
    /// It was being written when the length was asked for.
    pub(super) is_growing: bool,
    /// When the file had this length for sure. A truncation changes it.
    pub(super) mtime_ns: i64,
}

impl Known {
    pub(super) fn find(&self, offset: u64) -> Option<Arc<Located>> {
        let (_, located) = self.blocks.range(..=offset).next_back()?;
        (offset < located.end()).then(|| Arc::clone(located))
    }

    /// From where to ask for the end of the file: so that the last block that is known here comes with it.
    pub(super) fn end_to_ask_for(&self) -> u64 {
        let last = self.blocks.last_key_value().map_or(u64::MAX, |(&offset, _)| offset);
        self.length.saturating_sub(1).min(last)
    }

    /// Whether the file has another block now where one is known.
    pub(super) fn is_refuted_by(&self, located: &Located) -> bool {
        let Some((&offset, known)) = self.blocks.range(..=located.offset).next_back() else { return false };
        let overlaps = offset == located.offset || known.end() > located.offset;
        overlaps && (offset, known.block.block.id) != (located.offset, located.block.block.id)
    }

    /// Whether a page that was asked for from [`end_to_ask_for`](Self::end_to_ask_for) on is of the content that is known here.
    pub(super) fn has_last_in_common(&self, page: &Page) -> bool {
        let Some((&offset, last)) = self.blocks.last_key_value() else { return true };
        let is_it = |located: &Located| (located.offset, located.block.block.id) == (offset, last.block.block.id);
        page.blocks.iter().any(is_it)
    }

    /// Whether bytes that were shown may have gone, for all that the NameNode says. A truncation sets the modification time;
    /// but others set it, too.
    pub(super) fn may_have_been_cut(&self, page: &Page) -> bool {
        self.is_growing && self.mtime_ns != page.attr.mtime_ns
    }

    /// Bytes to be had of the last block of `page`, when it is being written: what a replica shows, at least what is on
    /// record, and no less than before, unless the file may have been cut. Replicas may differ for a moment, when one
    /// hangs or a pipeline is rebuilt.
    pub(super) fn last_length(&self, page: &Page, visible: Option<u64>) -> Option<u64> {
        let last = page.blocks.last().filter(|last| last.is_under_construction)?;
        // What the NameNode has logged is on the replicas, whichever is asked.
        let shown = last.block.block.length.max(visible.unwrap_or(0));
        let is_same = self.is_growing && (visible.is_none() || !self.may_have_been_cut(page));
        Some(if is_same { shown.max(self.length.saturating_sub(last.offset)) } else { shown })
    }

    /// Takes in a page that reaches the end of the file, and the bytes that a replica shows of its last block.
    pub(super) fn learn(&mut self, page: Page, visible: Option<u64>) {
        let last_length = self.last_length(&page, visible);
        let is_taken_over = last_length.is_some() && visible.is_none() && self.may_have_been_cut(&page);
        // A length that nobody has confirmed stays that of the content before, so that it is asked for again.
        if !is_taken_over {
            self.mtime_ns = page.attr.mtime_ns;
        }
        self.length = match (page.blocks.last(), last_length) {
            (Some(last), Some(length)) => last.offset + length,
            _ => page.file_length,
        };
        self.is_growing = page.is_under_construction;
        self.block_size = page.attr.block_size.max(1);
        self.insert(page, last_length);
    }

    /// Takes in blocks; the last one with the length that readers may see, when it is being written.
    pub(super) fn insert(&mut self, page: Page, visible: Option<u64>) {
        let count = page.blocks.len();
        self.replication = page.attr.replication;
        for (index, mut located) in page.blocks.into_iter().enumerate() {
            if let (true, Some(visible)) = (index + 1 == count, visible) {
                located.block.block.length = visible;
            }
            if located.block.block.length > 0 {
                self.blocks.insert(located.offset, Arc::new(located));
            }
        }
        while self.blocks.len() > BLOCKS_MAX {
            self.blocks.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use dfs_common::attr::FileKind;
    use dfs_common::block::{Block, ExtendedBlock};
    use dfs_common::ids::{BlockId, GenerationStamp};
    use dfs_proto::v1;

    use super::*;

    fn located(offset: u64, length: u64, is_under_construction: bool) -> Located {
        let block = Block { id: BlockId(offset + 1), generation_stamp: GenerationStamp(1), length };
        let block = ExtendedBlock { pool: "BP-1".into(), block };
        Located { block, offset, replicas: Vec::new(), is_corrupt: false, is_under_construction, awaits_reports: false }
    }

    fn page(blocks: Vec<Located>) -> Page {
        let attr = v1::FileAttr {
            mode: FileKind::File as u32,
            block_size: 10,
            replication: 1,
            mtime_ns: 7,
            ..v1::FileAttr::default()
        };
        let attr = FileAttr::try_from(&attr).unwrap();
        Page { blocks, file_length: 0, is_under_construction: false, attr }
    }

    #[test]
    fn find_knows_blocks_of_any_length() {
        let mut known = Known { block_size: 10, ..Known::default() };
        known.insert(page(vec![located(0, 10, false), located(10, 3, false), located(13, 10, false)]), None);
        let offset = |at| known.find(at).map(|found| found.offset);
        assert_eq!([0, 9, 10, 12, 13, 22].map(offset), [Some(0), Some(0), Some(10), Some(10), Some(13), Some(13)]);
        assert_eq!(offset(23), None);
    }

    #[test]
    fn content_that_was_replaced_is_told_by_its_blocks() {
        let mut known = Known { block_size: 10, length: 15, ..Known::default() };
        assert!(known.has_last_in_common(&page(vec![])), "nothing is known yet");
        known.insert(page(vec![located(0, 10, false), located(10, 5, false)]), None);
        assert_eq!(known.end_to_ask_for(), 10);
        assert!(known.has_last_in_common(&page(vec![located(10, 10, false), located(20, 3, true)])), "it has grown");
        assert!(!known.has_last_in_common(&page(vec![])), "it was cut");
        let another = |offset, length| {
            let mut another = located(offset, length, false);
            another.block.block.id = BlockId(77);
            another
        };
        assert!(!known.has_last_in_common(&page(vec![another(10, 5)])));
        // (the block that the file has now, expected)
        for (now, expected) in [
            (located(10, 10, false), false),
            (located(15, 10, false), false),
            (another(10, 5), true),
            (another(12, 5), true),
            (another(0, 20), true),
            (another(15, 5), false),
        ] {
            assert_eq!(known.is_refuted_by(&now), expected, "{now:?}");
        }
    }

    #[test]
    fn insert_gives_the_last_block_its_visible_length() {
        let mut known = Known { block_size: 10, ..Known::default() };
        known.insert(page(vec![located(0, 10, false), located(10, 0, true)]), Some(0));
        assert!(known.find(10).is_none(), "no byte is visible yet");
        known.insert(page(vec![located(10, 0, true)]), Some(7));
        assert_eq!(known.find(16).unwrap().end(), 17);
        assert!(known.find(17).is_none());
    }

    #[test]
    fn learn_asks_again_for_a_length_that_nobody_confirmed() {
        let mut known = Known { block_size: 10, length: 17, is_growing: true, mtime_ns: 6, ..Known::default() };
        let open = || Page { is_under_construction: true, ..page(vec![located(10, 2, true)]) };
        known.learn(open(), None);
        assert_eq!((known.length, known.mtime_ns), (17, 6), "nobody says that it was cut");
        assert!(known.may_have_been_cut(&open()), "nor that it was not");
        known.learn(open(), Some(5));
        assert_eq!((known.length, known.mtime_ns), (15, 7));
        known.learn(open(), None);
        assert_eq!((known.length, known.mtime_ns), (15, 7));
        known.learn(Page { file_length: 12, ..page(vec![located(10, 2, false)]) }, None);
        assert_eq!((known.length, known.mtime_ns), (12, 7), "what the NameNode says of a closed file");
    }

    #[test]
    fn last_length_never_shrinks_while_the_content_is_the_same() {
        let mut known = Known { block_size: 10, length: 17, is_growing: true, mtime_ns: 7, ..Known::default() };
        let open = |recorded| page(vec![located(10, recorded, true)]);
        assert_eq!(known.last_length(&open(2), Some(9)), Some(9));
        assert_eq!(known.last_length(&open(2), Some(5)), Some(7), "a replica that lags");
        assert_eq!(known.last_length(&open(2), None), Some(7), "no replica answers");
        known.mtime_ns = 6;
        assert_eq!(known.last_length(&open(2), Some(5)), Some(5), "it may have been cut");
        assert_eq!(known.last_length(&open(2), None), Some(7), "nobody says that it was");
        known.is_growing = false;
        assert_eq!(known.last_length(&open(2), None), Some(2));
        assert_eq!(known.last_length(&page(vec![located(10, 2, false)]), None), None);
    }
}
