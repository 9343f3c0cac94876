//! Which writes drop what they wrote from the page cache (pure).

use dfs_proto::hadoop::OpWriteBlockProto;

use super::stage::Stage;

/// Which writes drop what they wrote from the page cache as it reaches the disk. Readers near the writer find it at the
/// first node; the other copies would only take memory from what is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropBehind {
    Never,
    /// Those that come from another DataNode.
    Mirrors,
    Always,
}

impl DropBehind {
    /// By the word in the configuration.
    pub(crate) fn of(word: &str) -> Self {
        match word {
            "true" => Self::Always,
            "false" => Self::Never,
            _ => Self::Mirrors,
        }
    }

    pub(super) fn applies(self, stage: Stage, request: &OpWriteBlockProto) -> bool {
        let is_first = !stage.is_copy() && request.targets.len() + 1 >= request.pipeline_size as usize;
        self == Self::Always || self == Self::Mirrors && !is_first
    }
}
